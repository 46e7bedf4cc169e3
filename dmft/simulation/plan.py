"""Runs of one-pass SGD over seeds: what they share, and each from its start to its end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.initial_conditions import TIME
from dmft.model import Model, Overlaps, random_overlaps
from dmft.names import BLOCK, KEPT, Status
from dmft.simulation import jobs
from dmft.simulation.clock import Clock, Schedule
from dmft.simulation.declaration import Experiment
from dmft.simulation.ensemble import FirstPassage, SeedRun, watch_nothing
from dmft.simulation.risks.arguments import laws_at
from dmft.simulation.risks.measures import measured, measures_at, quadrature_risk
from dmft.simulation.risks.risk import Rule
from dmft.simulation.steps.chain import chain_runner
from dmft.simulation.steps.optimiser import kept_rows
from dmft.simulation.watched import Watch, Watching, levels, risen
from dmft.simulation.weights import (
    random_weights,
    weights_by_block,
    weights_runner,
    weights_with_overlaps,
)
from dmft.solvers.jobs import Job
from dmft.special.streams import random_stream

# Streams of one seed: the start, then the steps of either method.
START_STREAM, WEIGHTS_STREAM, CHAIN_STREAM = range(3)

Method = Literal["weights", "overlaps"]


def timed(
    experiment: Experiment, t_max: float, save_at: int | ArrayLike | None
) -> tuple[Experiment, Clock | None, NDArray[Any], Any]:
    """Steps that are saved and their number; times where each run has a clock of its own."""
    jobs.check_time(t_max, experiment.begin, getattr(experiment.schedule, "unit", TIME))
    if experiment.follows_risk:
        return experiment, None, jobs.times_to_save(t_max, save_at, experiment.begin), float(t_max)
    clock = experiment.clock(t_max)
    experiment = replace(experiment, step_rates=clock.rates)
    return experiment, clock, jobs.save_steps(t_max, clock, save_at), int(clock.nearest(t_max))


@dataclass(frozen=True)
class Plan:
    """Everything that the runs share."""

    model: Model
    experiment: Experiment
    start: Overlaps | None
    method: Method
    # Of all runs; None where each has its own, then of times in place of steps.
    clock: Clock | None
    grid: NDArray[Any]
    total: Any
    first_passage: FirstPassage | None
    rule: Rule
    event: Watch | None = None

    @cached_property
    def measured(self) -> dict[str, float]:
        """What is measured beside the risk, loss and error_rate, and how far nodes are off."""
        return measured(self.experiment)

    @property
    def stops(self) -> bool:
        """Whether a first passage ends a run."""
        watched = self.first_passage or self.event
        return watched is not None and watched.stop

    @cached_property
    def watching(self) -> Watching | None:
        """How runs are carried on; None where each has a clock of its own."""
        if self.clock is None:
            return None
        return Watching(self.event or self.first_passage, self.clock, int(self.total))

    def runner(self, seed: int, e: Experiment) -> jobs.Runner:
        """A run of this seed at its start."""
        chain = self.method == "overlaps"
        draw = random_stream(seed, START_STREAM)
        steps = random_stream(seed, CHAIN_STREAM if chain else WEIGHTS_STREAM)
        if chain:
            start = self.start
            if start is None:
                start = random_overlaps(self.model, e.dim, seed, normalised=e.sphere)
            e, watch = self.watched(e, start.Q, start.M, start.P)
            return chain_runner(e, start, self.rule, watch, steps)
        if e.spectrum is not None:
            start = self.start or random_overlaps(self.model, e.dim, seed)
            W, W_star = weights_by_block(start, e.spectrum.counts(e.dim), draw)
        elif self.start is None:
            W, W_star = random_weights(e.p, e.k, e.dim, e.sphere, draw)
        else:
            W, W_star = weights_with_overlaps(self.start, e.dim, draw)
        variances = 1.0 if e.spectrum is None else e.deviations[: e.dim] ** 2
        pairs = ((W, W), (W, W_star), (W_star, W_star))
        found = (variances * x @ y.T / e.dim for x, y in pairs)
        e, watch = self.watched(e, *found)
        return weights_runner(e, (W, W_star), self.rule, watch, steps)

    def march(self, seed: int, job: Job) -> tuple[jobs.March | jobs.FollowingMarch, jobs.Runner]:
        """Progress of a run from its start, and the run."""
        e = self.experiment
        if not isinstance(e.schedule, Schedule) or not e.follows_risk:
            runner = self.runner(seed, e)
            return jobs.March(runner, job, self.stops), runner
        rates = jobs.RatesAhead()
        runner = self.runner(seed, replace(e, step_rates=cast(Any, rates)))
        march = jobs.FollowingMarch(
            runner, job, self.stops, e.schedule, e.time_of_rate, rates,
            lambda: self.risk(runner), max(1, round(jobs.ANEW * e.dim)),
            jobs.UNITS / (self.total - e.begin), [e.begin],
        )  # fmt: skip
        return march, runner

    def risk(self, runner: jobs.Runner) -> float:
        """Population risk of a run where it is."""
        here, Q, M = self.here(runner)
        return quadrature_risk(here, Q, M, runner.P, self.rule)

    def measures(self, runner: jobs.Runner) -> dict[str, float]:
        """Loss and error rate of a run where it is, as far as they are asked for."""
        if not self.measured:
            return {}
        here, Q, M = self.here(runner)
        loss, wrong, _ = measures_at(here, Q, M, runner.P)
        return {n: y for n, y in (("loss", loss), ("error_rate", wrong)) if n in self.measured}

    def here(
        self, runner: jobs.Runner
    ) -> tuple[Experiment, NDArray[np.float64], NDArray[np.float64]]:
        """The experiment with the readout and the laws of clusters that a run has, and Q, M."""
        found = runner.overlaps()
        here = replace(self.experiment, readout=found["readout"])
        if here.inputs is not None and here.spectrum is not None:
            Q, M = (found[f"{BLOCK}{name}"] for name in "QM")
            laws = laws_at(here.inputs, Q, M, block_teacher(here, self.start))
            here = replace(here, laws=laws)
        return here, found["Q"], found["M"]

    def watched(
        self, e: Experiment, Q: NDArray[np.float64], M: NDArray[np.float64], P: NDArray[np.float64]
    ) -> tuple[Experiment, NDArray[np.float64]]:
        """The experiment as compiled code takes it, and what that watches in a run from here."""
        if self.first_passage is not None:
            relative = self.first_passage.relative
            risk = quadrature_risk(e, Q, M, P, self.rule) if relative else 0.0
            return e, self.first_passage.watch(risk)
        if self.event is None or self.event.value is None:
            return e, watch_nothing()
        value = self.event.value
        side = self.event.side(quadrature_risk(replace(e, watched=value), Q, M, P, self.rule))
        return replace(e, watched=value if side > 0 else risen(value)), levels(self.event, side)


def block_teacher(experiment: Experiment, start: Overlaps | None) -> NDArray[np.float64]:
    """Teacher overlaps by block."""
    assert experiment.spectrum is not None
    return experiment.spectrum.teacher_blocks(experiment.k) if start is None else start.P


def run_seed(plan: Plan, seed: int, job: Job) -> SeedRun:
    """Run one seed, saving where the plan asks for it."""
    e, points = plan.experiment, plan.grid.size
    shapes: dict[str, tuple[int, ...]] = {"Q": (e.p, e.p), "M": (e.p, e.k)}
    kept = kept_rows(e.numbers)
    names = [n for n in KEPT if all(part in (*kept, "Q", "M") for part in n.split("_"))]
    shapes |= {n: (e.p, e.k if n[-1] == "M" else e.p) for n in names}
    if e.spectrum is not None:
        shapes |= {f"{BLOCK}{n}": (e.spectrum.blocks, *shape) for n, shape in shapes.items()}
    shapes |= {"readout": e.readout.shape, "risk": (), **dict.fromkeys(plan.measured, ())}
    if e.scale is not None:
        shapes |= e.scale.shapes(e.p, None if e.spectrum is None else e.spectrum.blocks)
    values = {name: np.full((points, *shape), np.nan) for name, shape in shapes.items()}
    if job.cancelled():
        return SeedRun(values, Status.INTERRUPTED, 0, None, np.zeros(points))
    march, runner = plan.march(seed, job)
    steps = np.zeros(points)
    for i, target in enumerate(plan.grid):
        carry_on(march, plan, target)
        if march.status is not Status.OK:
            break
        for name, value in runner.overlaps().items():
            values[name][i] = value
        values["risk"][i], steps[i] = plan.risk(runner), march.step
        for name, measure in plan.measures(runner).items():
            values[name][i] = measure
    if isinstance(march, jobs.March) and plan.watching is not None:
        plan.watching.finish(march)
    elif plan.first_passage or plan.event:
        march.to(plan.total)
    clock = getattr(march, "clock", None)
    end = {n: np.array(y) for n, y in runner.overlaps().items() if n in values}
    return SeedRun(values, march.status, march.step, march.passage, steps, clock, end)


def carry_on(march: jobs.March | jobs.FollowingMarch, plan: Plan, target: Any) -> None:
    """Carry a run on to this step, or to this time where it has a clock of its own."""
    if isinstance(march, jobs.March) and plan.watching is not None:
        plan.watching.carry_on(march, int(target))
    else:
        march.to(target)

"""Runs of one-pass SGD over seeds: what they share, and each from its start to its end.

Those on the weights themselves, vectors in R^d, are the plain definition; optimisers may scale
their steps by what they have seen of gradients.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter, ShapeMismatch
from dmft.initial_conditions import TIME
from dmft.model import SGD, Model, Overlaps, random_overlaps
from dmft.model.adaptive import LONG
from dmft.names import BLOCK, KEPT, Status
from dmft.simulation import jobs
from dmft.simulation.clock import Clock, Schedule
from dmft.simulation.declaration import Experiment, Filler, Scale
from dmft.simulation.ensemble import FirstPassage, SeedRun, watch_nothing
from dmft.simulation.jobs import Constants, Observe, Runner
from dmft.simulation.risk import Rule
from dmft.simulation.risk_arguments import laws_at
from dmft.simulation.risk_measures import measured, measures_at, quadrature_risk
from dmft.simulation.steps.chain import chain_runner
from dmft.simulation.steps.common import factor
from dmft.simulation.steps.optimiser import kept_rows
from dmft.simulation.steps.weights import (
    MOMENTS,
    NORM,
    SIGNS,
    SUMS,
    UNSCALED,
    advance_weights,
    gradient,
    measure,
)
from dmft.simulation.watched import Watch, Watching, levels, risen
from dmft.solvers.jobs import Job
from dmft.special.sampling import random_stream

KINDS = {"sign": SIGNS, "moment": MOMENTS, "sum": SUMS, "norm": NORM}


def with_scaled_steps(
    experiment: Experiment, algorithm: SGD, start: Overlaps | None, filler: Filler
) -> Experiment:
    """The experiment with the numbers of an optimiser's steps."""
    spectrum, name = experiment.spectrum, type(algorithm).__name__
    if spectrum is not None and spectrum.scaled:
        raise BadParameter(
            f"{spectrum} contains the scaling of steps in unspecified coordinates: {name} is "
            "simulated for a Spectrum of independent coordinates; use dmft.solve"
        )
    chosen: Any = algorithm
    beta = filler.scalar(getattr(chosen, "momentum", sp.S.Zero), "momentum")
    if not 0.0 <= beta < 1.0:
        raise BadParameter(f"momentum = {beta:g} must lie in [0, 1)")
    fixed = getattr(chosen, "beta2", None)
    rate = experiment.numbers.get("second_moment_rate", 0.0)
    # A long memory that is short in t, where neither is given.
    long = 1.0 / (LONG * math.sqrt(experiment.dim))
    forgotten = long if fixed is None else 1.0 - float(fixed)
    memory = (start.memory or {}).get(chosen.kept) if start is not None and chosen.kept else None
    initial = experiment.numbers.get("initial", 0.0)
    scale = Scale(
        kind="sum" if chosen.scale == "moment" and not hasattr(chosen, "eps") else chosen.scale,
        beta=beta,
        forgotten=0.0 if rate else forgotten,
        rate=rate,
        eps=experiment.numbers.get("eps", 0.0),
        kept=chosen.kept,
        initial=initial if memory is None else memory,
    )
    return replace(experiment, scale=scale)


def scaled_memory(
    e: Experiment, W: NDArray[np.float64]
) -> tuple[tuple[NDArray[np.float64], ...], Callable[[], dict[str, NDArray[np.float64]]]]:
    """V, average, total and `how` of `advance_weights`, and a function of what is accumulated."""
    scale = e.scale
    assert scale is not None
    V, average, total = np.zeros_like(W), np.zeros_like(W), np.zeros(1)
    counts = np.array([e.dim]) if e.spectrum is None else e.spectrum.counts(e.dim)
    if scale.kept == "accumulator":
        total[:] = scale.initial
    elif scale.kept:
        V[:] = _spread(scale, counts, e.spectrum is not None, e.p)
    # torch.optim corrects second moments that began at zero.
    corrected = scale.kind == "moment" and not scale.rate
    how = np.array(
        [KINDS[scale.kind], scale.beta, scale.forgotten, scale.rate, scale.eps, corrected]
    )

    def accumulated() -> dict[str, NDArray[np.float64]]:
        if scale.kept == "accumulator":
            return {scale.kept: np.array(total[0])}
        if not scale.kept:
            return {}
        edges = np.concatenate([[0], np.cumsum(counts)])
        means = np.array([V[:, a:b].mean(axis=1) for a, b in itertools.pairwise(edges)])
        return {scale.kept: means[0]} if e.spectrum is None else {f"{BLOCK}{scale.kept}": means}

    return (V, average, total, how), accumulated


def _spread(scale: Scale, counts: NDArray[np.int64], by_block: bool, p: int) -> NDArray[np.float64]:
    """Second moments of all coordinates at the start, (p, d) or a number."""
    given = np.asarray(scale.initial, dtype=np.float64)
    if given.ndim == 0:
        return given
    shape = (counts.size, p) if by_block else (p,)
    if given.shape != shape:
        raise ShapeMismatch(f"{scale.kept} has shape {given.shape}, expected {shape}")
    rows: NDArray[np.float64] = np.repeat(given.reshape(-1, p), counts, axis=0).T
    return rows


def random_weights(
    p: int, k: int, dim: int, sphere: bool, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Student rows iid N(0, I_d), on the sphere if asked; teacher rows orthogonal."""
    W = generator.standard_normal((p, dim))
    if sphere:
        W *= np.sqrt(dim) / np.linalg.norm(W, axis=1, keepdims=True)
    return W, np.sqrt(dim) * _orthonormal(k, dim, generator)


def weights_with_overlaps(
    start: Overlaps, dim: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights W (p, d), W* (k, d) with exactly these overlaps, in random directions."""
    A, _ = factor(start.Omega)
    rows = np.sqrt(dim) * (A @ _orthonormal(A.shape[1], dim, generator))
    return np.ascontiguousarray(rows[: start.p]), np.ascontiguousarray(rows[start.p :])


def weights_by_block(
    start: Overlaps, counts: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights W (p, d), W* (k, d) with these overlaps within each block of coordinates."""
    parts = []
    for e, (gram, size) in enumerate(zip(start.Omega, counts, strict=True)):
        A, _ = factor(gram)
        if A.shape[1] > size:
            raise BadParameter(
                f"block {e} of the spectrum holds {size} of the dim = {counts.sum()} coordinates, "
                f"but its overlaps have rank {A.shape[1]}: use a larger dim"
            )
        parts.append(A @ _orthonormal(A.shape[1], size, generator))
    rows = np.sqrt(counts.sum()) * np.concatenate(parts, axis=1)
    return np.ascontiguousarray(rows[: start.p]), np.ascontiguousarray(rows[start.p :])


def within_blocks(
    rows: NDArray[np.float64], others: NDArray[np.float64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Overlaps of rows in R^d within each block of coordinates, (B, p, k)."""
    edges = np.concatenate([[0], np.cumsum(counts)])
    parts = [rows[:, a:b] @ others[:, a:b].T for a, b in itertools.pairwise(edges)]
    return np.array(parts) / counts.sum()


def grams(
    experiment: Experiment, rows: Mapping[str, NDArray[np.float64]], W_star: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Gram matrices of rows that an optimiser keeps, and all by block of a spectrum."""
    pairs = {f"{row}_M": (y, W_star) for row, y in rows.items() if row}
    for row, y in rows.items():
        pairs |= {f"{row}_{name or 'Q'}": (y, other) for name, other in rows.items() if row}
        pairs[row] = (y, y)
    whole = {name: pair for name, pair in pairs.items() if name in KEPT}
    spectrum = experiment.spectrum
    if spectrum is None:
        return {name: one @ two.T / experiment.dim for name, (one, two) in whole.items()}
    whole |= {"Q": (rows[""], rows[""]), "M": (rows[""], W_star)}
    counts, c = spectrum.counts(experiment.dim), spectrum.eigenvalues
    blocks = {name: within_blocks(one, two, counts) for name, (one, two) in whole.items()}
    seen = {n: np.einsum("e,eij->ij", c, y) for n, y in blocks.items() if n in KEPT}
    return seen | {f"{BLOCK}{name}": value for name, value in blocks.items()}


def _orthonormal(rows: int, dim: int, generator: np.random.Generator) -> NDArray[np.float64]:
    basis, _ = np.linalg.qr(generator.standard_normal((dim, rows)))
    return np.ascontiguousarray(basis.T)


def weights_runner(
    experiment: Experiment,
    weights: tuple[NDArray[np.float64], NDArray[np.float64]],
    rule: Rule,
    watch: NDArray[np.float64],
    generator: np.random.Generator,
) -> Runner:
    """A run of SGD from these weights (W, W*)."""
    W, W_star = weights
    deviations = experiment.deviations
    Q, M = np.empty((experiment.p, experiment.p)), np.empty((experiment.p, experiment.k))
    # The last step, and what the optimiser keeps of those before.
    kept = kept_rows(experiment.numbers)
    G = np.zeros(((1 + len(kept)) * experiment.p, experiment.dim))
    if "average" in kept:
        G[-experiment.p :] = W
    push = np.zeros(experiment.readout.size)
    P = np.empty((experiment.k, experiment.k))
    measure(W_star, W_star, deviations, P, P)
    constants = Constants(P, experiment, rule, watch, generator)

    memory: tuple[NDArray[np.float64], ...] = UNSCALED
    accumulated = cast(Observe, dict)
    if experiment.scale is not None:
        memory, accumulated = scaled_memory(experiment, W)
    state = (W, W_star, deviations, Q, M, G, push, *memory)
    advance = constants.advance(advance_weights, state, experiment.update or gradient)

    def overlaps() -> dict[str, NDArray[np.float64]]:
        measure(W, W_star, deviations, Q, M)
        found = {"Q": Q.copy(), "M": M.copy(), "readout": constants.readout.copy()}
        rows = {row: G[n * experiment.p :][: experiment.p] for n, row in enumerate(kept, start=1)}
        if "velocity" in rows:  # per unit of t
            rows["velocity"] = rows["velocity"] * (experiment.dim / experiment.batch_size)
        return found | grams(experiment, {"": W, **rows}, W_star) | accumulated()

    return Runner(advance, overlaps, P, watch)


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
        for name, number in plan.measures(runner).items():
            values[name][i] = number
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

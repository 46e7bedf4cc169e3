"""`simulate` for sequence models: SGD on the sphere over seeds, weights or the exact chain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.initial_conditions import TIME, Alignment, steps_before
from dmft.model.sequence import SequenceModel
from dmft.names import VERSION, Status
from dmft.progress import ProgressOption
from dmft.simulation.ensemble import (
    Ensemble,
    FirstPassage,
    SeedRun,
    averaged,
    ends_of,
    passages,
    watch_nothing,
)
from dmft.simulation.jobs import March, Runner, check_time, run_seeds, save_steps
from dmft.simulation.sequence_experiment import (
    SequenceExperiment,
    chain_steps,
    declare_sequence,
    quantity_at,
    risk_nodes,
    risk_of,
    watch_of_alignments,
    weight_steps,
)
from dmft.simulation.watched import Watching
from dmft.solvers.events import Event
from dmft.solvers.jobs import Job
from dmft.special.sampling import as_seeds, random_stream

START_STREAM, WEIGHTS_STREAM, CHAIN_STREAM = range(3)


@dataclass(frozen=True, eq=False, repr=False)
class SequenceEnsemble(Ensemble):
    """Finite-dimensional runs of a sequence model over seeds.

    An `Ensemble` of e (T,) or (T, r), m (T,) or (T, L) untied, and risk (T,); `provenance` has
    `risk_error`, the largest difference between two scrambled point sets.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.symbols("z1:3", real=True)
    >>> target = dmft.SequenceTarget(z[0] * z[1], z)
    >>> student = dmft.SequenceNetwork(sp.Symbol("z", real=True) ** 2, 2)
    >>> model, start = dmft.Model(student, target), dmft.Alignment(m=0.5)
    >>> runs = dmft.simulate(model, dmft.SGD(0.1), 100, 1.0, 4, start, "overlaps")
    >>> runs.mean.m.shape, runs.runs.m.shape, str(runs.status)
    ((101,), (4, 101), 'ok')
    """

    KIND = "dmft sequence ensemble"
    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "e": ("t", "direction"), "m": ("t", "token"), "risk": ("t",),
    }  # fmt: skip
    STATE: ClassVar[tuple[str, ...]] = ("e", "m")


def simulate_sequence(
    model: SequenceModel,
    algorithm: Any,
    dim: int,
    t_max: float,
    seeds: int | Sequence[int],
    start: Any = None,
    method: str = "weights",
    *,
    save_at: int | ArrayLike | None = None,
    first_passage: FirstPassage | None = None,
    events: Event | Sequence[Event] = (),
    threads: int | None = None,
    progress: ProgressOption = None,
    t_start: float | None = None,
    **parameters: Any,
) -> SequenceEnsemble:
    r"""Run one-pass SGD of a sequence model for several seeds and average the alignments.

    Equation    w <- sqrt(d) (w - gamma G) / |w - gamma G|, G the gradient of the loss (mean over
                the batch); the loss is 1/2 |f - y|^2, or |f - y| ("frobenius")
    Shapes      see `SequenceEnsemble`
    Scaling     t = steps * gamma / d; gamma / (L d) untied
    Valid for   any L; both methods are exact in law (the chain by theory/sequence C.5)
    """
    numbers = as_seeds(seeds)
    if start is not None and not isinstance(start, Alignment):
        raise BadParameter(f"sequence models start from dmft.Alignment, got {start!r}")
    e = declare_sequence(model, algorithm, dim, parameters, start, t_start)
    begin = None if start is None else e.coordinates(start)
    check_time(t_max, e.begin, getattr(e.schedule, "unit", TIME))
    clock = e.clock(t_max)
    grid, total = save_steps(t_max, clock, save_at), int(clock.nearest(t_max))
    watch, reads_risk = watch_of_alignments(e, first_passage, events)
    watching, r = Watching(watch, clock, total), e.shift.shape[1]

    def run(seed: int, job: Job) -> SeedRun:
        values = {"risk": np.full(grid.size, np.nan), "v": np.full((grid.size, r), np.nan)}
        if job.cancelled():
            return SeedRun(values, Status.INTERRUPTED, 0, None, grid)
        runner = _runner(e, watching, reads_risk, begin, method, seed)
        march = March(runner, job, watching.stops)
        for i, target in enumerate(grid):
            watching.carry_on(march, int(target))
            if march.status is not Status.OK:
                break
            values["v"][i] = runner.overlaps()["v"]
            values["risk"][i] = risk_of(e, values["v"][i]).mean()
        watching.finish(march)
        end = _alignments(e, runner.overlaps()["v"])
        return SeedRun(values, march.status, march.step, march.passage, grid, end=end)

    runs = run_seeds(run, numbers, total, threads, progress)
    before = steps_before(start, e.begin)
    return _assemble(e, watching, numbers, runs, grid, first_passage, method, before)


def _runner(
    e: SequenceExperiment,
    watching: Watching,
    reads_risk: bool,
    begin: Array | None,
    method: str,
    seed: int,
) -> Runner:
    draw = random_stream(seed, START_STREAM)
    chain = method == "overlaps"
    rng = random_stream(seed, CHAIN_STREAM if chain else WEIGHTS_STREAM)
    D, r = e.weight_dim, e.shift.shape[1]
    if begin is None:
        v: Array = np.asarray(draw.standard_normal(r))
        v /= math.sqrt(float(v @ v) + float(draw.chisquare(D - r)))
    else:
        v = begin.copy()
    rates = watching.clock.rates
    each = np.array([e.learning_rate]) if rates is None else rates
    state: tuple[Array, ...] = (v,) if chain else _weights(e, v, draw)[::-1]
    watch, watched = _watched(e, watching.watch, reads_risk, v)
    move = chain_steps if chain else weight_steps

    def advance(first: int, steps: int) -> tuple[int, int]:
        now = each[first : first + steps] if each.size > 1 else each
        counts = e.counts(steps, first)
        done: tuple[int, int] = move(
            *state, e.shift, now, e.noise, counts, e.update, e.parameters, watch, *watched, rng
        )
        return done

    if chain:
        return Runner(advance, lambda: {"v": v.copy()}, e.shift, watch)
    w, basis = state
    return Runner(advance, lambda: {"v": basis @ w / math.sqrt(D)}, e.shift, watch)


def _watched(
    e: SequenceExperiment, watch: Any, reads_risk: bool, v: Array
) -> tuple[Array, tuple[Any, ...]]:
    """[side, level, every] for a run from v, and the quantity as compiled steps read it."""
    if watch is None or watch.value is None:
        return watch_nothing(), (e.value, e.directions, np.empty((0, 0, 0)), e.value)
    nodes = risk_nodes(e) if reads_risk else np.empty((0, 0, 0))
    watched = (watch.value, e.directions, nodes, e.value)
    at_start = quantity_at(v, e.shift, e.counts(0), e.parameters, *watched)
    level, every = watch.event.threshold, float(watch.every)
    return np.array([watch.side(at_start), level, every]), watched


def _weights(e: SequenceExperiment, v: Array, draw: np.random.Generator) -> tuple[Array, Array]:
    """Random orthonormal directions (r, D), and weights of length sqrt(D) with coordinates v."""
    D, r = e.weight_dim, v.size
    if e.model.tied:
        basis = np.linalg.qr(draw.standard_normal((D, r)))[0].T
    else:  # the same direction w* in every block
        star = draw.standard_normal(e.dim)
        basis = np.kron(np.eye(r), star / np.linalg.norm(star))
    other = draw.standard_normal(D)
    other -= basis.T @ (basis @ other)
    rho = math.sqrt(max(0.0, 1.0 - float(v @ v)))
    w = math.sqrt(D) * (v @ basis + rho * other / np.linalg.norm(other))
    return np.ascontiguousarray(basis), np.ascontiguousarray(w)


def _alignments(e: SequenceExperiment, v: Array) -> dict[str, Array]:
    positional, semantic = e.alignment(v)
    if e.model.encoding.rank == 0:
        return {"m": semantic}
    return {"e": positional[..., 0] if e.model.encoding.rank == 1 else positional, "m": semantic}


def _assemble(
    e: SequenceExperiment,
    watching: Watching,
    seeds: tuple[int, ...],
    runs: list[SeedRun],
    grid: NDArray[np.int64],
    first_passage: FirstPassage | None,
    method: str,
    before: float,
) -> SequenceEnsemble:
    v, risk = (np.stack([r.values[name] for r in runs]) for name in ("v", "risk"))
    arrays = {**_alignments(e, v), "risk": risk}
    last = next((y for y in v[:, -1] if np.all(np.isfinite(y))), None)
    pair = np.full(2, np.nan) if last is None else risk_of(e, last)
    scheduled: dict[str, Any] = {}
    if e.schedule is not None:  # no constant unit
        scheduled = {
            "time_step_times_dim": None,
            "steps_at_saved_times": (grid + e.dim * before).tolist(),
            "learning_rate_schedule": str(e.schedule.expr),
        }
    return SequenceEnsemble(
        t=watching.clock.at(grid),
        **averaged(arrays, seeds, tuple(r.status for r in runs)),
        dim=e.dim,
        first_passage=passages(runs, watching.clock) if watching.watch else None,
        ends=ends_of(runs, watching.stops),
        provenance={
            "method": method,
            "time_step_times_dim": e.learning_rate / (1 if e.model.tied else e.model.length),
            "samples_per_step": e.batch_size,
            "time_unit": "t = steps * learning_rate / d" + ("" if e.model.tied else " / L"),
            "approximation": "exact in law; risk by scrambled Sobol points",
            "risk_error": float(abs(pair[0] - pair[1])),
            "watched": None if first_passage is None else asdict(first_passage),
            "event": None if first_passage else watching.event_name,
            "version": VERSION,
            **scheduled,
        },
    )

"""`simulate` for sequence models: SGD on the sphere over seeds, weights or the exact chain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter
from dmft.model.sequence import SequenceModel
from dmft.names import VERSION, Status
from dmft.progress import ProgressOption
from dmft.simulation.clock import Clock
from dmft.simulation.ensemble import Ensemble, averaged, passages
from dmft.simulation.jobs import March, check_time, run_seeds, save_steps
from dmft.simulation.passage import FirstPassage
from dmft.simulation.sequences.experiment import SequenceExperiment, declare_sequence, risk_of
from dmft.simulation.sequences.kernels import chain_steps, weight_steps
from dmft.solvers.jobs import Job
from dmft.special.streams import as_seeds, random_stream
from dmft.starts import Alignment

Array = NDArray[np.float64]
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
    threads: int | None = None,
    progress: ProgressOption = None,
    **parameters: Any,
) -> SequenceEnsemble:
    r"""Run one-pass SGD of a sequence model for several seeds and average the alignments.

    Equation    w <- sqrt(d) (w - gamma G) / |w - gamma G|, G the gradient of the loss (mean over
                the batch); the loss is 1/2 |f - y|^2, or |f - y| ("frobenius")
    Shapes      see `SequenceEnsemble`
    Scaling     t = steps * gamma / d; gamma / (L d) untied
    Valid for   any L; both methods are exact in law (the chain by sequence.md C.5)

    Raises
    ------
    BadParameter, InvalidCovariance
    """
    if method not in ("weights", "overlaps"):
        raise BadParameter(f'method must be "weights" or "overlaps", got {method!r}')
    numbers = as_seeds(seeds)
    e = declare_sequence(model, algorithm, dim, parameters)
    if first_passage is not None and first_passage.observable != "overlap":
        raise BadParameter('sequence models are watched for an "overlap": the largest |m|')
    if start is not None and not isinstance(start, Alignment):
        raise BadParameter(f"sequence models start from dmft.Alignment, got {start!r}")
    begin = None if start is None else e.coordinates(start)
    check_time(t_max)
    clock = e.clock(t_max)
    grid, total = save_steps(t_max, clock, save_at), int(clock.nearest(t_max))

    def run(seed: int, job: Job) -> _SeedRun:
        return _run_seed(e, clock, begin, method, first_passage, grid, total, seed, job)

    runs = run_seeds(run, numbers, total, threads, progress)
    return _assemble(e, clock, numbers, runs, grid, first_passage, method)


@dataclass(frozen=True)
class _SeedRun:
    v: Array
    risk: Array
    status: Status
    steps: int
    passage: int | None


@dataclass(frozen=True)
class _Runner:
    """One run that can be carried on in pieces."""

    advance: Any
    watch: Array
    coordinates: Any


def _runner(
    e: SequenceExperiment, clock: Clock, begin: Array | None, method: str, level: float, seed: int
) -> _Runner:
    draw = random_stream(seed, START_STREAM)
    chain = method == "overlaps"
    rng = random_stream(seed, CHAIN_STREAM if chain else WEIGHTS_STREAM)
    D, r = e.weight_dim, e.shift.shape[1]
    if begin is None:
        v: Array = np.asarray(draw.standard_normal(r))
        v /= math.sqrt(float(v @ v) + float(draw.chisquare(D - r)))
    else:
        v = begin.copy()
    rates = np.array([e.noise, level])
    each = np.array([e.learning_rate]) if clock.rates is None else clock.rates
    tokens, tied = e.shift.shape[0], int(e.model.tied)
    scale = np.zeros(r)
    scale[: 1 if tied else r] = 1.0 if tied else math.sqrt(e.model.length)

    def counts(steps: int) -> NDArray[np.int64]:
        return np.array([steps, e.batch_size, D, tokens, e.model.length, e.outputs, tied])

    def chain_advance(first: int, steps: int) -> tuple[int, int]:
        now = each[first : first + steps] if each.size > 1 else each
        own = (e.update, e.parameters, scale, rng)
        return chain_steps(v, e.shift, now, rates, counts(steps), *own)

    if chain:
        return _Runner(chain_advance, rates[1:], lambda: v.copy())
    basis, w = _weights(e, v, draw)

    def advance(first: int, steps: int) -> tuple[int, int]:
        now = each[first : first + steps] if each.size > 1 else each
        return weight_steps(
            w, basis, e.shift, now, rates, counts(steps), e.update, e.parameters, scale, rng
        )

    return _Runner(advance, rates[1:], lambda: basis @ w / math.sqrt(D))


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


def _run_seed(
    e: SequenceExperiment,
    clock: Clock,
    begin: Array | None,
    method: str,
    passage: FirstPassage | None,
    grid: NDArray[np.int64],
    total: int,
    seed: int,
    job: Job,
) -> _SeedRun:
    v = np.full((grid.size, e.shift.shape[1]), np.nan)
    risk = np.full(grid.size, np.nan)
    if job.cancelled():
        return _SeedRun(v, risk, Status.INTERRUPTED, 0, None)
    runner = _runner(e, clock, begin, method, 0.0 if passage is None else passage.level, seed)
    march = March(runner, job, passage is not None and passage.stop)
    for i, target in enumerate(grid):
        march.to(int(target))
        if march.status is not Status.OK:
            break
        v[i] = runner.coordinates()
        risk[i] = risk_of(e, v[i]).mean()
    if march.status is Status.OK and passage is not None:
        march.to(total)
    return _SeedRun(v, risk, march.status, march.step, march.passage)


def _assemble(
    e: SequenceExperiment,
    clock: Clock,
    seeds: tuple[int, ...],
    runs: list[_SeedRun],
    grid: NDArray[np.int64],
    first_passage: FirstPassage | None,
    method: str,
) -> SequenceEnsemble:
    positional, semantic = e.alignment(np.stack([r.v for r in runs]))
    if e.model.encoding.rank == 1:
        positional = positional[..., 0]
    arrays = {"e": positional, "m": semantic, "risk": np.stack([r.risk for r in runs])}
    if e.model.encoding.rank == 0:
        del arrays["e"]
    last = next((r.v[-1] for r in runs if np.all(np.isfinite(r.v[-1]))), None)
    pair = np.full(2, np.nan) if last is None else risk_of(e, last)
    scheduled: dict[str, Any] = {}
    if e.schedule is not None:  # no constant unit
        scheduled = {
            "time_step_times_dim": None,
            "steps_at_saved_times": grid.tolist(),
            "learning_rate_schedule": str(e.schedule.expr),
        }
    return SequenceEnsemble(
        t=clock.at(grid),
        **averaged(arrays, seeds, tuple(r.status for r in runs)),
        dim=e.dim,
        first_passage=None if first_passage is None else passages(runs, clock),
        provenance={
            "method": method,
            "time_step_times_dim": e.learning_rate / (1 if e.model.tied else e.model.length),
            "samples_per_step": e.batch_size,
            "time_unit": "t = steps * learning_rate / d" + ("" if e.model.tied else " / L"),
            "approximation": "exact in law; risk by scrambled Sobol points",
            "risk_error": float(abs(pair[0] - pair[1])),
            "watched": None if first_passage is None else asdict(first_passage),
            "version": VERSION,
            **scheduled,
        },
    )

"""`solve_paths`: many paths of a stochastic differential equation, and checks of the request."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch
from dmft.names import Status
from dmft.progress import ProgressOption
from dmft.solvers.events import Event, encode_events
from dmft.solvers.jobs import Job, thread_count
from dmft.solvers.problem import Problem, covariance_at, describe_problem, sizes_of
from dmft.solvers.run import (
    check_blocks,
    check_events,
    check_span,
    filled,
    read_save_at,
    save_times,
)
from dmft.solvers.solution import Values, ending
from dmft.solvers.solve import LARGEST_NORM
from dmft.solvers.stochastic import loop as codes
from dmft.solvers.stochastic.ensemble import PassageTimes, PathEnsemble
from dmft.solvers.stochastic.loop import COVARIANCE_BAND, DOMAIN_ROUNDING, Plan, path_key
from dmft.solvers.stochastic.march import (
    STATUS,
    Chunk,
    PathSetup,
    gather,
    march_paths,
    merge_moments,
)
from dmft.validation import as_count, as_positive


def solve_paths(
    problem: Problem,
    start: Mapping[str, ArrayLike],
    t_max: float,
    *,
    paths: int,
    dt: float,
    method: str = "euler",
    widths: Mapping[str, int],
    constants: Mapping[str, ArrayLike] | None = None,
    parameters: Mapping[str, float] | None = None,
    noise_scale: float = 1.0,
    seed: int = 0,
    save_at: int | ArrayLike | None = None,
    events: Event | Sequence[Event] = (),
    thresholds: Mapping[str, ArrayLike] | None = None,
    bridge: bool = False,
    increments: str | None = None,
    substeps: int = 1,
    keep_paths: bool = False,
    threads: int | None = None,
    progress: ProgressOption = None,
    timeout: float | None = None,
    t_start: float = 0.0,
    norm_bound: float = LARGEST_NORM,
    provenance: Mapping[str, Any] | None = None,
) -> PathEnsemble:
    r"""Draw paths of an Ito stochastic differential equation at a fixed step.

    Equation    dy = F(t, y) dt + sqrt(noise_scale) Sigma(t, y)^(1/2) dB, in the sense of Ito, with
                F = `problem.rhs` and Sigma = `problem.diffusion` (covariance per unit time)
    Shapes      mean.M (T, p, k) and so on; with `keep_paths`, paths.M (paths, T, p, k)
    Valid for   Sigma positive semidefinite wherever a path comes; a path for which it is not ends
                as "left_domain", is left out of the means, and the message says where and by which
                eigenvalue. Nothing is clipped but pivots below zero by less than 1e-12 of the
                largest variance, which are rounding; they are counted in `statistics`
    Source      Kloeden and Platen, Numerical Solution of SDE, 10.2 and 15.1; Philox for the noise

    The factor of Sigma is its lower triangular (Cholesky) root. It is a smooth function of y where
    Sigma is positive definite or loses rank identically (equal entries of a symmetric block, fixed
    entries), as weak order 2 requires; where Sigma degenerates at single points only, both methods
    converge more slowly near them. No law depends on the choice of the root.

    Parameters
    ----------
    problem : Problem
        Of kind "sde".
    start : mapping
        Every state block in its shape, or with a leading axis of `paths` for starts of their own.
    t_max : float
    paths : int
    dt : float
        Longest step; shortened so that a whole number of them makes t_max.
    method : {"euler", "weak2"}
        Euler-Maruyama (strong order 1/2, weak order 1), or Platen's derivative-free scheme of weak
        order 2 for general noise, with 4 n + 1 covariances a step (n = 1: three).
    widths, constants, parameters : mapping
        As for `check_request`.
    noise_scale : float
        Scale of the covariance: gamma/(p d n_b) for one-pass SGD; 0 leaves the drift alone.
    seed : int
        Path number i of a seed sees the same noise whatever the parameters, the number of paths
        and the number of threads, so that two runs can be compared path by path.
    save_at : None, int or (T,) array
        Number of equidistant times (101 by default) or times, rounded to whole steps.
    events : Event or sequence of Event
        `first_passage` holds the time at which each first happens; a terminal one ends its path.
        Within a step the crossing is interpolated linearly, which misses the excursions between
        two steps (exit times are late by order sqrt(dt)), unless `bridge` is set.
    thresholds : mapping, optional
        Thresholds (paths,) of the events of these names in place of their own: one for each path.
    bridge : bool
        Draw the crossing within a step from a Brownian bridge between its two ends; exact where
        the event function is a Brownian motion with drift, of order dt elsewhere.
    increments : {"normal", "three_point"} or None
        Of the Brownian motion. By default normal, but three-point variables for "weak2" without
        events: cheaper and as good for moments, but the paths are no Brownian paths.
    substeps : int
        Each normal increment is the sum of this many: runs at (dt, substeps=4) and (dt/4,
        substeps=1) follow the same Brownian paths, so that the error of the step shows without
        the statistical one.
    keep_paths : bool
        Keep every path's values in `.paths`.
    threads : int, optional
        All cores by default; the number never changes a result.
    progress, timeout, t_start, norm_bound, provenance
        As for `check_request`.

    Raises
    ------
    BadParameter, ShapeMismatch, InvalidCovariance
        For what is wrong before the first step.
    """
    check_request(problem, method, t_start, t_max)
    # No noise is a scale, too.
    scale = noise_scale or None
    paths, seed, substeps = checked_counts(
        paths, seed, substeps, dt=dt, timeout=timeout, norm_bound=norm_bound, noise_scale=scale
    )
    names, scalars, arrays = filled(problem, widths, parameters, constants)
    par = problem.pack_parameters(scalars, arrays)
    watched = _watched(events)
    steps = max(1, math.ceil((t_max - t_start) / dt * (1.0 - 1e-12)))
    h = (float(t_max) - t_start) / steps
    law = choose_increments(method, increments, bool(watched), substeps)
    setup = PathSetup(
        problem=problem, method=method, paths=paths,
        start=start_rows(problem, start, names, paths),
        plan=Plan(
            widths=sizes_of(problem, names), par=par,
            save=save_steps(save_at, t_start, t_max, steps, h), key=path_key(seed), h=h,
            t_start=float(t_start), steps=steps, noise_scale=float(noise_scale), variance=0.0,
            bound=float(norm_bound), trace=0.0, has_domain=int(problem.domain is not None),
            normal=int(law == "normal"), substeps=substeps, bridge=int(bridge),
        ),
        events=watched, table=encode_events(watched, problem, names, par),
        keep_paths=keep_paths, threads=thread_count(threads),
        timeout=math.inf if timeout is None else float(timeout), progress=progress,
        shift=shift_rows(watched, thresholds or {}, paths),
    )  # fmt: skip
    setup = check_starts(setup)
    chunks, job = march_paths(setup)
    record = {
        "increments": law, "seed": seed, "t_max": float(t_max), **problem.provenance,
        **(provenance or {}),
    }  # fmt: skip
    return _assemble(setup, chunks, job, (names, scalars, arrays), record)


def _watched(events: Event | Sequence[Event]) -> tuple[Event, ...]:
    found = check_events(events)
    if len({event.name for event in found}) < len(found):
        raise BadParameter("two events have the same name: names must differ")
    return found


def _provenance(setup: PathSetup) -> dict[str, Any]:
    plan = setup.plan
    return {
        **describe_problem(setup.problem),
        "method": setup.method,
        "dt": plan.h,
        "noise_scale": plan.noise_scale,
        "substeps": plan.substeps,
        "bridge": bool(plan.bridge),
        "t_start": plan.t_start,
    }


def _assemble(
    setup: PathSetup,
    chunks: list[Chunk],
    job: Job,
    given: tuple[dict[str, int], dict[str, float], dict[str, Array]],
    record: dict[str, Any],
) -> PathEnsemble:
    widths, scalars, arrays = given
    plan, problem = setup.plan, setup.problem
    code, ended = gather(chunks, "code"), gather(chunks, "t")
    count, mean, square = merge_moments(chunks)
    unknown = np.full_like(mean, np.nan)
    std = np.sqrt(square / (count - 1)) if count > 1 else unknown
    passed = gather(chunks, "when")
    cut = Status.TIMEOUT if job.late else Status.INTERRUPTED
    statuses = tuple(
        cut if c == codes.WALKING else STATUS[c] for c in (int(number) for number in code)
    )
    kept = np.concatenate([c.values for c in chunks]) if setup.keep_paths else None
    status, message = ending(statuses, "paths")
    return PathEnsemble(
        t=np.where(plan.save == plan.steps, record["t_max"], plan.t_start + plan.save * plan.h),
        mean=_named(problem, widths, mean if count else unknown),
        std=_named(problem, widths, std),
        stderr=_named(problem, widths, std / math.sqrt(max(count, 1))),
        path_status=statuses,
        status=status,
        message="; ".join([message, *_causes(setup, chunks, code)]),
        first_passage={
            event.name: PassageTimes(passed[:, e].copy(), ended)
            for e, event in enumerate(setup.events)
        },
        paths=None if kept is None else _named(problem, widths, kept),
        layout=problem.state,
        statistics={
            "steps": sum(chunk.steps for chunk in chunks),
            "band_steps": sum(chunk.band for chunk in chunks),
            "seconds": job.seconds(),
        },
        parameters=scalars,
        constants=arrays,
        widths=widths,
        provenance={**_provenance(setup), **record},
        problem=problem,
        starts=setup.start,
    )


def _named(problem: Problem, widths: Mapping[str, int], values: Array) -> Values:
    """Blocks and observables from rows (..., n + m)."""
    arrays = {k: np.ascontiguousarray(v) for k, v in problem.unpack(values, widths).items()}
    first = values.shape[-1] - len(problem.observables)
    for i, name in enumerate(problem.observables):
        arrays[name] = values[..., first + i].copy()
    return Values(arrays)


def _causes(setup: PathSetup, chunks: list[Chunk], code: NDArray[np.int64]) -> Iterator[str]:
    """Where the first path that failed of each cause did."""
    for cause in (codes.INDEFINITE, codes.OUTSIDE, codes.NONFINITE, codes.BEYOND):
        found = np.flatnonzero(code == cause)
        if found.size:
            yield _cause(setup, chunks, cause, int(found[0]), found.size)


def _cause(setup: PathSetup, chunks: list[Chunk], cause: int, path: int, number: int) -> str:
    """Where one path failed, and on what."""
    chunk = next(c for c in reversed(chunks) if c.first <= path)
    t, y = float(chunk.t[path - chunk.first]), chunk.trial[path - chunk.first]
    state = f"state {np.array2string(y, precision=6, separator=', ', threshold=20)}"
    where = f"first path {path}, after t = {t:.6g}, {state}"
    if cause == codes.INDEFINITE:
        matrix = noise_covariance(setup, t, y)
        lowest = float(np.linalg.eigvalsh(matrix)[0])
        return (
            f"{number} where the covariance of the noise is not positive: {where}, "
            f"smallest eigenvalue {lowest:.6g} (largest variance {np.max(np.diag(matrix)):.3g})"
        )
    what = {
        codes.OUTSIDE: "outside the domain (no vectors have these overlaps)",
        codes.NONFINITE: "where a function of the problem is not finite",
        codes.BEYOND: f"beyond the bound {setup.plan.bound:.3g}",
    }[cause]
    return f"{number} {what}: {where}"


SCHEMES = ("euler", "weak2")
INCREMENTS = ("normal", "three_point")
# Saved times when nothing is asked for.
DEFAULT_POINTS = 101
# At most this many starts are tested before the first step; the paths themselves test the others.
TESTED_STARTS = 256
LARGEST_SEED = 2**128
# A covariance may be asymmetric by its rounding.
ASYMMETRY = 1e-9


def check_request(problem: Problem, method: str, t_start: float, t_max: float) -> None:
    """Kind, method and times."""
    if problem.kind != "sde" or problem.diffusion is None:
        raise BadParameter(
            f"paths need a problem of kind 'sde' with a diffusion; this one is of kind "
            f"{problem.kind!r}" + (" without a diffusion" if problem.diffusion is None else "")
        )
    if method not in SCHEMES:
        raise BadParameter(f"unknown method {method!r}; choose one of {', '.join(SCHEMES)}")
    check_span(t_start, t_max)


def checked_counts(
    paths: int, seed: int = 0, substeps: int = 1, **sizes: float | None
) -> tuple[int, int, int]:
    """Counts of at least 1 and a seed of at least 0, as integers; sizes are positive, if given."""
    for name, size in sizes.items():
        if size is not None:
            as_positive(size, name)
    return (
        as_count(paths, "paths"), as_count(seed, "seed", 0, LARGEST_SEED),
        as_count(substeps, "substeps"),
    )  # fmt: skip


def choose_increments(method: str, asked: str | None, events: bool, substeps: int) -> str:
    """Law of the increments of the Brownian motion."""
    if asked not in (None, *INCREMENTS):
        raise BadParameter(f"increments = {asked!r}: choose one of {', '.join(INCREMENTS)}")
    if asked is not None:
        chosen = asked
    else:
        chosen = "three_point" if method == "weak2" and not events else "normal"
    if chosen == "three_point" and substeps > 1:
        raise BadParameter(
            f"substeps = {substeps} requires normal increments, because three-point variables "
            'have no finer path; pass increments="normal"'
        )
    return chosen


def start_rows(
    problem: Problem, start: Mapping[str, ArrayLike], widths: Mapping[str, int], paths: int
) -> Array:
    """Packed starts: one row for all paths, or one for each if a block has a leading axis."""
    arrays = {name: np.array(values, dtype=np.float64) for name, values in start.items()}
    layout = {block.name: block for block in problem.state}
    many = [n for n, a in arrays.items() if n in layout and a.ndim == len(layout[n].axes) + 1]
    for name in many:
        if arrays[name].shape[0] != paths:
            raise ShapeMismatch(
                f"{name} has {arrays[name].shape[0]} starts along its first axis, for {paths} paths"
            )
    first = {n: a[0] if n in many else a for n, a in arrays.items()}
    checked = check_blocks(problem.state, first, widths, "state")
    if not many:
        return problem.pack(checked)[None, :]
    rows = []
    for block in problem.state:
        values = arrays[block.name] if block.name in many else checked[block.name][None]
        if not np.all(np.isfinite(values)):
            raise BadParameter(f"{block.name} contains a start that is not finite")
        rows.append(np.broadcast_to(values.reshape(len(values), -1), (paths, block.size(widths))))
    return np.ascontiguousarray(np.concatenate(rows, axis=1))


def shift_rows(events: Sequence[Event], thresholds: Mapping[str, ArrayLike], paths: int) -> Array:
    """What the threshold of each path exceeds that of the event by; one row where all are equal."""
    names = [event.name for event in events]
    unknown = sorted(set(thresholds) - set(names))
    if unknown:
        raise BadParameter(f"thresholds of {unknown[0]!r}: the events are called {names}")
    shift = np.zeros((paths if thresholds else 1, len(events)))
    for name, values in thresholds.items():
        own = np.array(values, dtype=np.float64)
        if own.shape != (paths,):
            raise ShapeMismatch(f"thresholds of {name!r} have shape {own.shape}, not ({paths},)")
        if not np.all(np.isfinite(own)):
            raise BadParameter(f"thresholds of {name!r} must be finite")
        shift[:, names.index(name)] = own - events[names.index(name)].threshold
    return shift


def save_steps(
    save_at: int | ArrayLike | None, t_start: float, t_max: float, steps: int, h: float
) -> NDArray[np.int64]:
    """Numbers of the steps nearest to the times that are to be saved, each once."""
    if save_at is None:
        save_at = min(DEFAULT_POINTS, steps + 1)
    times = read_save_at(save_at)
    if isinstance(times, int):
        return np.unique(np.rint(np.linspace(0, steps, times)).astype(np.int64))
    times = save_times(times, t_start, t_max)
    return np.unique(np.rint((times - t_start) / h).astype(np.int64))


def noise_covariance(setup: PathSetup, t: float, y: Array) -> Array:
    """noise_scale Sigma at one state, from its lower half."""
    plan, n = setup.plan, y.size
    sigma = np.zeros((n, n))
    setup.problem.diffusion(t, np.ascontiguousarray(y), plan.widths, plan.par, sigma)
    upper = np.triu_indices(n, 1)
    sigma[upper] = sigma.T[upper]
    covariance: Array = plan.noise_scale * sigma
    return covariance


def check_starts(setup: PathSetup) -> PathSetup:
    """Refuse starts outside the domain or without a covariance; note the scales of both."""
    problem, plan = setup.problem, setup.plan
    matrix = covariance_at(problem, setup.start[0], plan.widths, plan.par)
    plan = plan._replace(trace=float(np.trace(matrix)))
    if problem.domain is not None:
        for i, y in enumerate(setup.start[:TESTED_STARTS]):
            scale = max(plan.trace, float(np.max(np.abs(y), initial=0.0)))
            if not problem.domain(y, plan.widths, plan.par, DOMAIN_ROUNDING * scale) >= 0.0:
                raise InvalidCovariance(
                    f"the start of path {i} is outside the domain: no vectors have these overlaps"
                )
    _check_symmetry(setup)
    stack = np.stack(
        [noise_covariance(setup, plan.t_start, y) for y in setup.start[:TESTED_STARTS]]
    )
    plan = plan._replace(variance=float(np.max(np.trace(stack, axis1=1, axis2=2), initial=0.0)))
    if not np.all(np.isfinite(stack)):
        raise InvalidCovariance("the covariance of the noise is not finite at the start")
    lowest = np.linalg.eigvalsh(stack)[:, 0]
    largest = np.max(np.abs(stack), axis=(1, 2))
    bad = np.flatnonzero(lowest < -stack.shape[1] * COVARIANCE_BAND * largest)
    if bad.size:
        raise InvalidCovariance(
            f"the covariance of the noise is not positive at the start of path {bad[0]}: "
            f"smallest eigenvalue {lowest[bad[0]]:.6g}"
        )
    return replace(setup, plan=plan)


def _check_symmetry(setup: PathSetup) -> None:
    plan, y = setup.plan, setup.start[0]
    sigma: Any = np.zeros((y.size, y.size))
    setup.problem.diffusion(plan.t_start, y, plan.widths, plan.par, sigma)
    gap = float(np.max(np.abs(sigma - sigma.T), initial=0.0))
    if gap > ASYMMETRY * float(np.max(np.abs(sigma), initial=0.0)):
        raise InvalidCovariance(
            f"the diffusion writes a matrix that is not symmetric (by {gap:.3g} at the start): it "
            "must write the covariance of the noise, not a factor of it"
        )

"""Checks of a request for paths, before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch
from dmft.solvers.events import Event
from dmft.solvers.problem import Problem, covariance_at
from dmft.solvers.run import check_blocks, check_span, read_save_at, save_times
from dmft.solvers.stochastic.layout import COVARIANCE_BAND, DOMAIN_ROUNDING
from dmft.solvers.stochastic.march import PathSetup
from dmft.validation import as_count, as_positive

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

"""Checks of what a caller hands to a solver, before anything is computed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter, ShapeMismatch
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.validation import is_array, is_whole, shown

# Entries that Python looks at faster than NumPy does.
FEW = 32


def check_names(names: Sequence[str], given: Mapping[str, Any], what: str) -> Sequence[str]:
    """Names that a problem has, when all of them are given, finite, and no other."""
    if given.keys() != set(names):
        missing = [name for name in names if name not in given]
        unknown = [name for name in given if name not in names]
        raise BadParameter(
            f"{what}s of this problem: {list(names)}; missing {missing}, unknown {unknown}"
        )
    for name in names:
        if not math.isfinite(float(given[name])):
            raise BadParameter(f"{what} {name} = {given[name]!r} is not a finite number")
    return names


def filled(
    problem: Problem,
    widths: Mapping[str, int],
    parameters: Mapping[str, float] | None,
    constants: Mapping[str, ArrayLike] | None,
) -> tuple[dict[str, int], dict[str, float], dict[str, NDArray[np.float64]]]:
    """Widths, scalars and constant arrays of a problem, checked."""
    names = {name: int(widths[name]) for name in check_names(problem.widths, widths, "width")}
    given = parameters or {}
    scalars = {n: float(given[n]) for n in check_names(problem.parameters, given, "parameter")}
    return names, scalars, check_blocks(problem.constants, constants or {}, names, "constant")


def check_blocks(
    layout: tuple[Block, ...], given: Mapping[str, ArrayLike], widths: Mapping[str, int], what: str
) -> dict[str, NDArray[np.float64]]:
    """Own copies of the blocks of a layout, when shapes and values are right and none is left."""
    expected = [block.name for block in layout]
    if given.keys() != set(expected):
        missing = [name for name in expected if name not in given]
        unknown = [name for name in given if name not in expected]
        found = f"missing {missing}" if missing else f"unknown {unknown}"
        raise BadParameter(f"{what} blocks of this problem: {expected}; {found}")
    arrays = {}
    for block in layout:
        array = np.array(given[block.name], dtype=np.float64)
        shape = block.shape(widths)
        if array.shape != shape:
            raise ShapeMismatch(f"{block.name} has shape {array.shape}, expected {shape}")
        if not all_finite(array):
            raise BadParameter(
                f"{block.name} contains a value that is not finite: {array.tolist()}"
            )
        arrays[block.name] = array
    return arrays


def all_finite(array: NDArray[np.float64]) -> bool:
    """Whether no entry is nan or infinite; of few entries, without NumPy's 5 us for a reduction."""
    if array.size > FEW:
        return bool(np.isfinite(array).all())
    return all(map(math.isfinite, array.ravel().tolist()))


def check_events(events: Event | Sequence[Event]) -> tuple[Event, ...]:
    """One event or several; anything else is refused with an example."""
    found = (events,) if isinstance(events, Event) else tuple(events)
    for event in found:
        if not isinstance(event, Event):
            raise BadParameter(
                f'events are dmft.Event records, as dmft.Event("risk", 0.1); got {event!r}'
            )
    return found


# Numbers of points that an array of times holds: 0.8 GB.
MOST_POINTS = 10**8


def read_save_at(save_at: int | ArrayLike) -> int | NDArray[np.float64]:
    """A number of points from 2 on, or times that increase strictly."""
    if is_whole(save_at) and np.ndim(save_at) == 0:
        count = int(save_at)  # type: ignore[arg-type]
        if not 2 <= count <= MOST_POINTS:
            raise BadParameter(
                f"save_at = {shown(save_at)} points: it must be at least 2 (the start and the "
                f"end) and at most {MOST_POINTS:.0e} (memory)"
            )
        return count
    if is_array(save_at) and not np.iscomplexobj(save_at):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            times = np.array(save_at, dtype=np.float64)
            fits = times.ndim == 1 and times.size > 0 and bool(np.all(np.isfinite(times)))
            if fits and np.all(np.diff(times) > 0):
                return times
    raise BadParameter(
        "save_at must be a number of points or strictly increasing times, finite real ones, got "
        f"{shown(save_at)}"
    )


def saved_steps(save_at: int | ArrayLike, t_max: float, dt: float) -> NDArray[np.int64]:
    """Numbers of the steps nearest to the times that are saved, from 0 to the last step."""
    times, last = save_times(save_at, 0.0, t_max), max(1, round(t_max / dt))
    return np.unique(np.minimum(np.rint(times / dt), last).astype(np.int64))


def check_span(t_start: float, t_max: float) -> None:
    """Refuse ends of a run that are not finite or not in order."""
    if not (math.isfinite(t_start) and math.isfinite(t_max) and t_max > t_start):
        raise BadParameter(
            f"t_max = {t_max!r} must be finite and greater than t_start = {t_start!r}"
        )


def save_times(save_at: int | ArrayLike, t_start: float, t_max: float) -> NDArray[np.float64]:
    """Increasing times that are to be saved, between the ends of a run."""
    check_span(t_start, t_max)
    times = read_save_at(save_at)
    if isinstance(times, int):
        return np.linspace(t_start, t_max, times)
    # Geometric grids end within rounding of t_max; such an end is meant to be t_max.
    if abs(times[-1] - t_max) <= 1e-12 * abs(t_max):
        times[-1] = t_max
    if not (times[0] >= t_start and times[-1] <= t_max):
        first, last = float(times[0]), float(times[-1])
        raise BadParameter(
            f"save_at runs from {first!r} to {last!r}, outside [{t_start!r}, {t_max!r}]"
            + (f": pass t_max = {last!r}" if last > t_max else "")
        )
    return times

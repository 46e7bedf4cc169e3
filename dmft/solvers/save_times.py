"""Times at which a run is saved: a number of points, or the times themselves."""

from __future__ import annotations

import contextlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.checks import is_array, is_whole, shown
from dmft.errors import BadParameter

# Numbers of points that an array of times holds: 0.8 GB.
MOST_POINTS = 10**8


def read_save_at(save_at: int | ArrayLike) -> int | NDArray[np.float64]:
    """A number of points from 2 on, or times that increase strictly.

    Raises
    ------
    BadParameter
    """
    if is_whole(save_at) and np.ndim(save_at) == 0:
        count = int(save_at)  # type: ignore[arg-type]
        if not 2 <= count <= MOST_POINTS:
            raise BadParameter(
                f"save_at = {shown(save_at)} points: at least 2, the start and the end, and at "
                f"most {MOST_POINTS:.0e}, which is what memory holds"
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


def save_times(
    save_at: int | ArrayLike | None, t_start: float, t_max: float
) -> NDArray[np.float64] | None:
    """Increasing times that are to be saved; None where nothing is asked for."""
    if save_at is None:
        return None
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

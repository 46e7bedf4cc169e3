"""Times at which a run is saved: a number of points, or the times themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter


def save_times(
    save_at: int | ArrayLike | None, t_start: float, t_max: float
) -> NDArray[np.float64] | None:
    """Increasing times that are to be saved; None where nothing is asked for.

    Examples
    --------
    >>> save_times(3, 0.0, 1.0).tolist()
    [0.0, 0.5, 1.0]
    """
    if save_at is None:
        return None
    if isinstance(save_at, (int, np.integer)):
        if save_at < 2:
            raise BadParameter(f"save_at = {save_at} points: at least 2, the start and the end")
        return np.linspace(t_start, t_max, int(save_at))
    times = np.array(save_at, dtype=np.float64)
    if times.ndim != 1 or times.size == 0 or not np.all(np.diff(times) > 0):
        raise BadParameter("save_at must be a number of points or strictly increasing times")
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

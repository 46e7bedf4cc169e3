"""Angle and root of the covariance of two fields in compiled code, safe where they are parallel."""

from __future__ import annotations

import math

from numba import njit

# Overlaps that rounding or an integration step puts this far beyond Cauchy-Schwarz (relative) count
# as parallel; beyond it the result is NaN and the step is rejected.
BAND = 1e-9


@njit(cache=True, nogil=True, error_model="numpy")
def correlation_root(first: float, second: float, cross: float) -> float:
    """Evaluate sqrt(first * second - cross^2); 0 within the band of parallel fields, else NaN.

    Examples
    --------
    >>> correlation_root(2.0, 0.5, 0.0), correlation_root(0.1, 0.1, 0.1)
    (1.0, 0.0)
    """
    size = math.sqrt(first * second)
    gap = (size - cross) * (size + cross)
    if gap >= 0.0:
        return math.sqrt(gap)
    return 0.0 if gap >= -BAND * size * size else math.nan


@njit(cache=True, nogil=True, error_model="numpy")
def correlation_angle(first: float, second: float, cross: float) -> float:
    """Evaluate asin(cross / sqrt(first * second)), accurate near +-1; 0 for vanishing variance.

    Examples
    --------
    >>> correlation_angle(0.1, 0.1, -0.1) == -math.pi / 2
    True
    """
    root = correlation_root(first, second, cross)
    return math.atan2(cross, root)

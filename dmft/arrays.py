"""Types of arrays, cosines of rows from their overlaps, errors of means, extrapolation."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cosines(M: Array, Q: Array, P: Array) -> Array:
    """|M_jr| / sqrt(Q_jj P_rr), (..., p, k); 0 for rows without length."""
    own, other = (np.diagonal(y, axis1=-2, axis2=-1) for y in (Q, P))
    norm = np.sqrt(own[..., :, None] * other[..., None, :])
    return np.divide(np.abs(M), norm, out=np.zeros_like(norm), where=norm > 0.0)


def half_width(values: Array, covered: float) -> Array:
    """Half-width of an interval that holds the mean of independent rows (n, ...); nan for one row.

    `covered` is the probability that it does. Of few rows the standard error alone is too small by
    chance: it is widened by Student's t.
    """
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return np.full(values.shape[1:], np.nan)
    t = float(stdtrit(n - 1, (1.0 + covered) / 2.0))
    return np.asarray(t * values.std(axis=0, ddof=1) / np.sqrt(n))


def extrapolation(levels: int, used: int | None = None) -> Array:
    """Weights of the values at h, h/2, h/4, ... that cancel as many powers of h as they can.

    `used` leaves out the coarsest: the finest `used` of them.
    """
    count = levels if used is None else used
    steps = 0.5 ** np.arange(levels - count, levels)
    weights = [np.prod([m / (m - h) for m in steps if m != h]) for h in steps]
    return np.concatenate([np.zeros(levels - count), weights])

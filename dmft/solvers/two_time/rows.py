"""Rows X(t, .) on non-uniform grids: interpolation and integrals of the order of the solver."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Points of the local polynomials, as in the thinning.
STENCIL = 6


def interpolate(s: Array, values: Array, at: Array) -> Array:
    """Values of a row at other times within it, by polynomials through six neighbours."""
    count = min(STENCIL, s.size)
    first = np.clip(np.searchsorted(s, at) - count // 2, 0, s.size - count)
    nodes = s[first[:, None] + np.arange(count)]
    result = np.zeros(at.size)
    for k in range(count):
        weight = np.ones(at.size)
        for m in range(count):
            if m != k:
                weight *= (at - nodes[:, m]) / (nodes[:, k] - nodes[:, m])
        result += weight * values[first + k]
    return result


def integrals(s: Array, values: Array) -> Array:
    """Integral of a row from each of its times to its end."""
    x, w = np.polynomial.legendre.leggauss(3)
    half, middle = np.diff(s) / 2.0, (s[1:] + s[:-1]) / 2.0
    points = middle[:, None] + half[:, None] * x
    inner = interpolate(s, values, points.ravel()).reshape(points.shape)
    panels = half * (inner @ w)
    return np.concatenate([np.cumsum(panels[::-1])[::-1], [0.0]])

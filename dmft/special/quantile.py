"""Standard normal variables from uniform ones: the inverse distribution function, for many points.

Rational functions fitted in high precision (weighted least squares on Chebyshev points of
q = u - 1/2 up to 0.475, and of r = sqrt(-2 log u) beyond): relative errors 5e-13 and 2e-14. The
centre is one loop without branches; only five points in a hundred pay for a logarithm.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types

VECTOR, MATRIX = types.float64[::1], types.float64[:, ::1]
BLOCK = 512
# Half of the resolution of the Sobol points, 2^-30.
HALF_STEP = 2.0**-31
# Where the centre ends, and the smallest distance from 0 and 1 that the tail was fitted for.
CENTRE, SMALLEST = 0.475, 1.8e-10
MIDDLE, HALF = 4.7, 2.0  # of r in the tail
OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


@njit(types.float64(types.float64), **OPTIONS)
def _tail(u):  # type: ignore[no-untyped-def]
    """Minus the quantile of u in [SMALLEST, 1/2 - CENTRE]."""
    t = (math.sqrt(-2.0 * math.log(u)) - MIDDLE) / HALF
    top = 0.160921395216922401 + t * 0.00814380488114304231
    top = 4.1592203833843542 + t * (
        6.72047788272926159 + t * (4.1095238236232045 + t * (1.1862495189573692 + t * top))
    )
    low = 0.00407044054640505567 + t * 4.31648492907637249e-8
    low = 1.0 + t * (
        1.09953072169595511 + t * (0.431605070664829755 + t * (0.0709409368690335748 + t * low))
    )
    return top / low


@njit(types.void(VECTOR, VECTOR), **OPTIONS)
def _quantiles(u, x):  # type: ignore[no-untyped-def]
    """Quantiles x of a block of points u, all in the cache."""
    far = 0
    for i in range(u.size):
        far += abs(u[i] - 0.5) > CENTRE
    for i in range(u.size):
        q = u[i] - 0.5
        t = q * q * (2.0 / (CENTRE * CENTRE)) - 1.0
        top = 0.0256677058876610123 - t * 0.000307861455430719652
        top = 2.39969224835508351 + t * (-0.394413343179123676 + t * top)
        top = 11.4007903617587225 + t * (-7.20639354830631865 + t * top)
        top = 2.9107426276300766 + t * (-9.12077787649854998 + t * top)
        den = 0.0207341584534921446 - t * 0.000543102019701593468
        den = 1.17607496130789573 + t * (-0.232646727841116472 + t * den)
        den = 4.47907066174043268 + t * (-3.11117480008051248 + t * den)
        den = 1.0 + t * (-3.32787980453500267 + t * den)
        x[i] = q * top / den
    if far:
        for i in range(u.size):
            if abs(u[i] - 0.5) > CENTRE:
                x[i] = -_tail(u[i]) if u[i] < 0.5 else _tail(1.0 - u[i])


@njit(types.void(MATRIX, MATRIX), **OPTIONS)
def normal_rows(points, normal):  # type: ignore[no-untyped-def]
    """Write into row r of `normal` the x with P(X <= x) = u for the points u of column r.

    points (n, at least dim) in the unit cube; a zero counts as half a step of the Sobol grid.
    normal (dim, n) is filled.
    """
    dim, size = normal.shape
    u = np.empty(BLOCK)
    for low in range(0, size, BLOCK):
        n = min(BLOCK, size - low)
        for r in range(dim):
            for i in range(n):
                u[i] = max(points[low + i, r], HALF_STEP)
            _quantiles(u[:n], normal[r, low : low + n])

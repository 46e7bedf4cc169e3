"""Averages of slopes that integrate to zero, compiled: of functions that vanish at both infinities.

By parts, an average E F(u) G'(v) of fields that spread over more than G lives on is a difference of
numbers that are larger than it by the variance.
"""

from __future__ import annotations

import math

from numba import types

from dmft.compiled import njit
from dmft.special.branches import (
    CALL,
    HEADER,
    KINKS,
    ROOT_TWO_PI,
    VECTOR,
    WIDTH,
    branch_given,
    branch_pair,
    covariance_given,
    one_side,
)

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.special.branches": "b75372b613f2",
}


@njit(types.float64(*(VECTOR,) * 5, *(types.float64,) * 3), **CALL)
def branch_slope(F, zF, slope, G, zG, first, cross, second):  # type: ignore[no-untyped-def]
    """E F(u) G'(v) of a G that vanishes at both infinities, its jumps included.

    Where v spreads over more than G lives on, G' and its jumps cancel each other: by Stein's
    identity for v given u it is E F(u) (v - E[v | u]) G(v) / Var(v | u).

    Shapes      vectors of F, z F(z), G' between the jumps, G and z G(z); variances and covariance
    Valid for   as `branch_pair`
    """
    ratio = cross / first if first > 0.0 else 0.0
    rest = covariance_given(second, cross, first, cross)
    if rest > G[WIDTH] * G[WIDTH]:
        tilted = branch_pair(F, zG, first, cross, second)
        return (tilted - ratio * branch_pair(zF, G, first, cross, second)) / rest
    total = branch_pair(F, slope, first, cross, second)
    for k in range(int(G[KINKS])):
        t = G[HEADER + k]
        jump = one_side(G, t, 1) - one_side(G, t, -1)
        if jump != 0.0:
            density = math.exp(-0.5 * t * t / second) / (ROOT_TWO_PI * math.sqrt(second))
            total += jump * density * branch_given(F, second, cross, first, t)
    return total


@njit(types.float64(*(VECTOR,) * 9, *(types.float64,) * 3), **CALL)
def branch_slopes(F, zF, slope, G, zG, f, zf, zzf, zzG, first, cross, second):  # type: ignore[no-untyped-def]
    """E f'(u) G'(v) of two that vanish at both infinities, F = f' without jumps.

    Where both fields spread, it is E f G times d^2 p / du dv over the density p.

    Shapes      vectors as in `branch_slope`, then of f, z f, z^2 f and z^2 G
    Valid for   as `branch_pair`
    """
    gap = first * covariance_given(second, cross, first, cross)
    if gap > f[WIDTH] * G[WIDTH] * math.sqrt(first * second):
        total = (first * second + cross * cross) * branch_pair(zf, zG, first, cross, second)
        total -= cross * second * branch_pair(zzf, G, first, cross, second)
        total -= cross * first * branch_pair(f, zzG, first, cross, second)
        return (total / gap + cross * branch_pair(f, G, first, cross, second)) / gap
    return branch_slope(F, zF, slope, G, zG, first, cross, second)

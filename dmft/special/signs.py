"""Moments of products of signs in compiled code: E[x y^2 ... sign(u) sign(v) ...].

Stein's identity at run time. Its closed form is 0/0 where two of the signs' fields coincide, as
they do wherever two loop indices are equal; here such signs cancel in pairs before it is used.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from dmft.compiled import njit
from dmft.special.orthant import four_signs_of

# Squared sine of the angle between two fields below which their signs cancel. Conditional
# covariances carry the rounding of the covariances that they come from.
PARALLEL = 1e-13
# Overlaps beyond Cauchy-Schwarz by more than this are no covariance: the result is NaN. Of
# conditional variances much smaller than the variances that they come from, rounding is as much.
BAND = 1e-9

MATRIX, VECTOR, INTEGERS = types.float64[:, ::1], types.float64[::1], types.int64[::1]
# Products of four signs that an average is a sum of: weights, covariances, how many.
LEAVES = types.Tuple((VECTOR, types.float64[:, :, ::1], INTEGERS))
CALL = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**CALL)
def _squared_sine(C: NDArray[np.float64], a: int, b: int) -> float:
    """1 - rho^2 of two fields."""
    size = math.sqrt(C[a, a] * C[b, b])
    return (size - C[a, b]) * (size + C[a, b]) / (size * size)


@njit(**CALL)
def _cancel(C: NDArray[np.float64], live: NDArray[np.int64], whole: NDArray[np.float64]) -> float:
    """Take out pairs of signs of parallel fields; returns the product of what they are.

    C is a covariance given some fields, `whole` (n,) the variances without that.
    """
    side = 1.0
    for a in range(live.size):
        for b in range(a):
            if live[a] and live[b]:
                sine = _squared_sine(C, a, b)
                if sine <= PARALLEL:
                    live[a], live[b] = 0, 0
                    band = BAND * max(whole[a] / C[a, a], whole[b] / C[b, b])
                    side *= math.copysign(1.0, C[a, b]) if sine >= -band else math.nan
    return side


@njit(**CALL)
def _given(C: NDArray[np.float64], a: int) -> NDArray[np.float64]:
    """Covariance given that field a vanishes."""
    n = C.shape[0]
    D = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            D[i, j] = C[i, j] - C[i, a] * C[a, j] / C[a, a]
    return D


@njit(types.float64(MATRIX, INTEGERS, types.float64, LEAVES), **CALL)
def _signs(C, live, weight, leaves):  # type: ignore[no-untyped-def]
    """Value of weight E[prod sign] of at most three live fields; four of them become a leaf."""
    left = np.flatnonzero(live)
    if left.size == 0:
        return weight
    if left.size == 2:
        a, b = left[0], left[1]
        sine = math.sqrt(max(_squared_sine(C, a, b), 0.0) * C[a, a] * C[b, b])
        return weight * 2.0 / math.pi * math.atan2(C[a, b], sine)
    if left.size == 4:
        weights, covariances, count = leaves
        weights[count[0]] = weight
        for i in range(4):
            for j in range(4):
                covariances[count[0], i, j] = C[left[i], left[j]]
        count[0] += 1
    return 0.0 if left.size <= 4 else math.nan


@njit(types.float64(MATRIX, INTEGERS, INTEGERS, types.float64, VECTOR, LEAVES), **CALL)
def _moment(C, live, powers, weight, whole, leaves):  # type: ignore[no-untyped-def]
    """Value of weight E[prod x^power prod sign]; the signs' fields are the first rows of C."""
    live = live.copy()
    weight = weight * _cancel(C, live, whole)
    if (powers.sum() + live.sum()) % 2 == 1:
        return 0.0
    x = 0
    while x < powers.size and powers[x] == 0:
        x += 1
    if x == powers.size:
        return _signs(C, live, weight, leaves)
    left = powers.copy()
    left[x] -= 1
    signs, row = live.size, live.size + x
    total = 0.0
    for m in range(powers.size):
        if left[m] > 0:
            lower = left.copy()
            lower[m] -= 1
            total += _moment(C, live, lower, weight * left[m] * C[row, signs + m], whole, leaves)
    for a in range(signs):
        if live[a]:
            rest = live.copy()
            rest[a] = 0
            slope = math.sqrt(2.0 / math.pi) * C[row, a] / math.sqrt(C[a, a])
            total += _moment(_given(C, a), rest, left, weight * slope, whole, leaves)
    return total


@njit(
    types.Tuple((types.float64, VECTOR, types.float64[:, :, ::1]))(types.int64, INTEGERS, VECTOR),
    **CALL,
)
def split_moment_of_signs(signs, powers, entries):  # type: ignore[no-untyped-def]
    """E[prod_m x_m^{powers_m} prod_a sign(u_a)] of centred fields (u, x), as value and leaves.

    The moment is the value plus the sum of weights (L,) times the averages of four signs with the
    covariances (L, 4, 4), which `dmft.special.orthant.four_signs_of` gives: a compiled function of
    one file calls none of another. There are `signs` fields u, and `entries` is the upper triangle
    of the covariance of (u, x), row by row.
    """
    n = signs + powers.size
    C = np.empty((n, n))
    at = 0
    for i in range(n):
        for j in range(i, n):
            C[i, j] = entries[at]
            C[j, i] = entries[at]
            at += 1
    # Every leaf pairs the powers, but for one that is lost to a fifth sign.
    room = signs if signs >= 4 else 0
    for order in range(powers.sum(), 1, -2):
        room *= order
    leaves = np.empty(room), np.empty((room, 4, 4)), np.zeros(1, np.int64)
    value = _moment(C, np.ones(signs, np.int64), powers, 1.0, np.diag(C).copy(), leaves)
    return value, leaves[0][: leaves[2][0]], leaves[1][: leaves[2][0]]


def moment_of_signs(signs: int, powers: NDArray[np.int64], entries: NDArray[np.float64]) -> float:
    """E[prod_m x_m^{powers_m} prod_a sign(u_a)], whole (see `split_moment_of_signs`)."""
    value, weights, covariances = split_moment_of_signs(signs, powers, entries)
    return float(
        value + sum(w * four_signs_of(C) for w, C in zip(weights, covariances, strict=True))
    )


def moment_of_signs_on_arrays(signs: Any, count: Any, *rest: Any) -> NDArray[np.float64]:
    """`moment_of_signs` with `count` powers, then the entries, which are arrays that broadcast."""
    powers = np.array([int(n) for n in rest[: int(count)]], dtype=np.int64)
    entries = np.broadcast_arrays(*(np.asarray(c, dtype=np.float64) for c in rest[int(count) :]))
    stacked = np.ascontiguousarray(np.stack(entries, axis=-1))
    result = np.empty(stacked.shape[:-1])
    for at in np.ndindex(result.shape):
        result[at] = moment_of_signs(int(signs), powers, stacked[at])
    return result

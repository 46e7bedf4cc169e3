"""Moments of products of signs in compiled code: E[x y^2 ... sign(u) sign(v) ...].

Stein's identity at run time. Its closed form is 0/0 where two of the signs' fields coincide, as
they do wherever two loop indices are equal; here such signs cancel in pairs before it is used.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from dmft.special.orthant import four_signs_of

# Squared sine of the angle between two fields below which their signs cancel. Conditional
# covariances carry the rounding of the covariances that they come from.
PARALLEL = 1e-13

MATRIX, VECTOR, INTEGERS = types.float64[:, ::1], types.float64[::1], types.int64[::1]
FOUR = types.FunctionType(types.float64(MATRIX))


@njit(cache=True, nogil=True, error_model="numpy")
def _squared_sine(C: NDArray[np.float64], a: int, b: int) -> float:
    """1 - rho^2 of two fields."""
    size = math.sqrt(C[a, a] * C[b, b])
    return (size - C[a, b]) * (size + C[a, b]) / (size * size)


@njit(cache=True, nogil=True, error_model="numpy")
def _cancel(C: NDArray[np.float64], live: NDArray[np.int64]) -> float:
    """Take out pairs of signs of parallel fields; returns the product of what they are."""
    side = 1.0
    for a in range(live.size):
        for b in range(a):
            if live[a] and live[b] and not _squared_sine(C, a, b) > PARALLEL:
                live[a], live[b] = 0, 0
                side *= math.copysign(1.0, C[a, b])
    return side


@njit(cache=True, nogil=True, error_model="numpy")
def _given(C: NDArray[np.float64], a: int) -> NDArray[np.float64]:
    """Covariance given that field a vanishes."""
    n = C.shape[0]
    D = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            D[i, j] = C[i, j] - C[i, a] * C[a, j] / C[a, a]
    return D


@njit(types.float64(MATRIX, INTEGERS, FOUR), cache=True, nogil=True, error_model="numpy")
def _signs(C, live, four):  # type: ignore[no-untyped-def]
    """E[prod sign] of the live fields: none, two or four of them."""
    left = np.flatnonzero(live)
    if left.size == 0:
        return 1.0
    if left.size == 2:
        a, b = left[0], left[1]
        sine = math.sqrt(max(_squared_sine(C, a, b), 0.0) * C[a, a] * C[b, b])
        return 2.0 / math.pi * math.atan2(C[a, b], sine)
    if left.size == 4:
        D = np.empty((4, 4))
        for i in range(4):
            for j in range(4):
                D[i, j] = C[left[i], left[j]]
        return four(D)
    return 0.0 if left.size % 2 else math.nan


@njit(types.float64(MATRIX, INTEGERS, INTEGERS, FOUR), cache=True, nogil=True, error_model="numpy")
def _moment(C, live, powers, four):  # type: ignore[no-untyped-def]
    """E[prod x^power prod sign]; the signs' fields are the first rows of C."""
    live = live.copy()
    side = _cancel(C, live)
    signs = live.size
    x = -1
    for m in range(powers.size):
        if powers[m] > 0:
            x = m
            break
    if x < 0:
        return side * _signs(C, live, four)
    if (powers.sum() + live.sum()) % 2 == 1:
        return 0.0
    left = powers.copy()
    left[x] -= 1
    row = signs + x
    total = 0.0
    for m in range(powers.size):
        if left[m] > 0:
            lower = left.copy()
            lower[m] -= 1
            total += left[m] * C[row, signs + m] * _moment(C, live, lower, four)
    for a in range(signs):
        if live[a]:
            rest = live.copy()
            rest[a] = 0
            weight = math.sqrt(2.0 / math.pi) * C[row, a] / math.sqrt(C[a, a])
            total += weight * _moment(_given(C, a), rest, left, four)
    return side * total


@njit(
    types.float64(types.int64, INTEGERS, VECTOR, FOUR), cache=True, nogil=True, error_model="numpy"
)
def moment_of_signs(signs, powers, entries, four):  # type: ignore[no-untyped-def]
    """E[prod_m x_m^{powers_m} prod_a sign(u_a)] of centred fields (u, x).

    Parameters
    ----------
    signs : int
        Number of fields u, which come first.
    powers : (m,) int64
        At least one of them positive.
    entries : (n (n + 1) / 2,) float64
        Upper triangle of the covariance of (u, x), row by row, n = signs + m.
    four : compiled function
        `dmft.special.orthant.four_signs_of`.

    Examples
    --------
    >>> from dmft.special.orthant import four_signs_of
    >>> one = np.ones(6)  # E[x^2 sign(x) sign(x)]
    >>> moment_of_signs(2, np.array([2]), one, four_signs_of)
    1.0
    """
    n = signs + powers.size
    C = np.empty((n, n))
    at = 0
    for i in range(n):
        for j in range(i, n):
            C[i, j] = entries[at]
            C[j, i] = entries[at]
            at += 1
    return _moment(C, np.ones(signs, np.int64), powers, four)


def moment_of_signs_on_arrays(signs: Any, count: Any, *rest: Any) -> NDArray[np.float64]:
    """`moment_of_signs` with `count` powers and then the entries, which are arrays that broadcast.

    Examples
    --------
    >>> moment_of_signs_on_arrays(1, 1, 1, np.array([1.0, 4.0]), 1.0, 2.0).round(6).tolist()
    [0.797885, 0.398942]
    """
    powers = np.array([int(n) for n in rest[: int(count)]], dtype=np.int64)
    entries = np.broadcast_arrays(*(np.asarray(c, dtype=np.float64) for c in rest[int(count) :]))
    stacked = np.ascontiguousarray(np.stack(entries, axis=-1))
    result = np.empty(stacked.shape[:-1])
    for at in np.ndindex(result.shape):
        result[at] = moment_of_signs(int(signs), powers, stacked[at], four_signs_of)
    return result

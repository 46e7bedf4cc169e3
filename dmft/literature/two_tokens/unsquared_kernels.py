"""Sums over four Gaussian fields of the unsquared distance of two attention matrices."""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from dmft.arrays import Array
from dmft.compiled import njit

# Pairs of points of this relative weight are left out: beyond radius 7.5 in R^4 (below 1e-7), and
# for single values beyond 6 (below 1e-5).
LEAST, LEAST_OF_VALUES = 7e-13, 1.5e-8
FAST = {"reassoc", "contract"}


@njit(cache=True, parallel=True, error_model="numpy", fastmath=FAST)
def weighted_distances(outer: Array, inner: Array, keep: float, fixed: float) -> Array:
    """Means of d = |s(h) - keep s(h*) - fixed| over independent h and h*, with weights.

    `outer` (5, n) has z_1, z_2, s_1(h), s_2(h) and the Gaussian weight of each point z, heaviest
    first; `inner` (5, k) the same of h*. Returns E d, E d ((z.h*)^2 - |z|^2 - |h*|^2 + 2), E d (z_1
    - z_2) and E d ((z_1 - z_2)^2 - 2).
    """
    n, k = outer.shape[1], inner.shape[1]
    rows = np.zeros((n, 4))
    for p in prange(n):
        z1, z2, weight = outer[0, p], outer[1, p], outer[4, p]
        first, second = outer[2, p] - fixed, outer[3, p] - fixed
        last = np.searchsorted(-inner[4, :k], -LEAST * outer[4, 0] * inner[4, 0] / weight)
        plain, curved = 0.0, 0.0
        for q in range(last):
            x, y = inner[0, q], inner[1, q]
            d1, d2 = first - keep * inner[2, q], second - keep * inner[3, q]
            d = inner[4, q] * math.sqrt(d1 * d1 + d2 * d2)
            along = z1 * x + z2 * y
            plain += d
            curved += d * (along * along - x * x - y * y)
        square = z1 * z1 + z2 * z2
        v = z1 - z2
        rows[p, 0] = weight * plain
        rows[p, 1] = weight * (curved + (2.0 - square) * plain)
        rows[p, 2] = weight * v * plain
        rows[p, 3] = weight * (v * v - 2.0) * plain
    total = np.zeros(4)
    for p in range(n):
        for j in range(4):
            total[j] += rows[p, j]
    return total


@njit(cache=True, parallel=True, error_model="numpy", fastmath=FAST)
def correlated_distance(
    points: Array, inner: Array, e: float, m: float, keep: float, fixed: float
) -> float:
    """Mean of |s(h) - keep s(h*) - fixed| for h = m h* + sqrt(1 - m^2) z + (e, -e).

    `points` (5, n) and `inner` (5, k) are those of z and of h*, as in `weighted_distances`.
    """
    n, k = points.shape[1], inner.shape[1]
    rows = np.zeros(k)
    spread = math.sqrt(max(0.0, 1.0 - m * m))
    for q in prange(k):
        weight = inner[4, q]
        mean1, mean2 = m * inner[0, q] + e, m * inner[1, q] - e
        t1, t2 = keep * inner[2, q] + fixed, keep * inner[3, q] + fixed
        least = LEAST_OF_VALUES * points[4, 0] * inner[4, 0]
        last = np.searchsorted(-points[4, :n], -least / weight)
        total = 0.0
        for p in range(last):
            h1, h2 = mean1 + spread * points[0, p], mean2 + spread * points[1, p]
            # s_2 shares the product of the fields with s_1.
            product = h1 * h2
            d1 = 1.0 / (1.0 + math.exp(product - h1 * h1)) - t1
            d2 = 1.0 / (1.0 + math.exp(product - h2 * h2)) - t2
            total += points[4, p] * math.sqrt(d1 * d1 + d2 * d2)
        rows[q] = weight * total
    return rows.sum()

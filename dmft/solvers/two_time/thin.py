"""Thinning of the grid: times far from both ends of a row are dropped, their weights are not.

A dropped time b gives its weight to its neighbours: K(t, b) is replaced by the polynomial through
six kept times, so that integrals keep their accuracy while rows get shorter. Kim and Latz merge
panels in the same way; here the order is five and the criterion is what the row itself shows.
"""

from __future__ import annotations

import numpy as np
from numba import types

from dmft.compiled import njit
from dmft.solvers.signatures import INTEGERS, MATRIX
from dmft.solvers.two_time.step import INLINE, WORK, lagrange

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.solvers.two_time.step": "9170edaea23f",
}

# Kept times on each side of a dropped one.
SIDE = 3
# Times at the end of the grid that are never dropped: rows and panels there are still open.
PROTECTED = 10


@njit(inner=True, **INLINE)
def _stencil(b, before, after, nodes):  # type: ignore[no-untyped-def]
    """Six kept times around b, fewer before it where the grid begins; returns their number."""
    left, k = 0, before[b]
    while left < SIDE and k >= 0:
        left += 1
        k = before[k]
    k = b
    for _ in range(left):
        k = before[k]
    count = 0
    while count < 2 * SIDE:
        if k != b:
            nodes[count] = k
            count += 1
        k = after[k]
    return count


@njit(inner=True, **INLINE)
def _weights(x, nodes, count, at, w):  # type: ignore[no-untyped-def]
    points = np.empty(count)
    for k in range(count):
        points[k] = x[nodes[k]]
    lagrange(points, 0, count, at, w)


@njit(inner=True, **INLINE)
def _smooth(row, b, nodes, w, tol, floor):  # type: ignore[no-untyped-def]
    """Whether the polynomial meets the row at b."""
    value, size = 0.0, floor
    for k in range(nodes.size):
        value += w[k] * row[nodes[k]]
        size = max(size, abs(row[nodes[k]]))
    return abs(value - row[b]) <= tol * size


THIN_SIGNATURE = types.int64(
    WORK, types.int64, types.float64, types.float64, INTEGERS, MATRIX
)  # fmt: skip


@njit(THIN_SIGNATURE, cache=True, nogil=True, error_model="numpy")
def thin(work, n, ratio, tol, kept, rows):  # type: ignore[no-untyped-def]
    """Move the weights of times that can go; `kept` gets the times that stay.

    A time goes when the gap that it leaves is below `ratio` times the distance to both ends, and
    all `rows` (first factors and functions of the last row) are met to `tol` there.
    """
    x, q, G = work.x, work.q, work.G
    t, last = x[n - 1], n - PROTECTED
    before, after = np.arange(-1, n - 1), np.arange(1, n + 1)
    nodes, w = np.empty(2 * SIDE, np.int64), np.empty(2 * SIDE)
    floors = np.empty(rows.shape[0])
    for a in range(rows.shape[0]):
        floors[a] = np.max(np.abs(rows[a, :n])) * (t - x[n - 2]) / t
    b = after[0]
    while b < last - SIDE:
        following = after[b]
        gap = x[following] - x[before[b]]
        if gap <= ratio * min(t - x[following], x[following]):
            count = _stencil(b, before, after, nodes)
            _weights(x, nodes, count, x[b], w)
            good = True
            for a in range(rows.shape[0]):
                good = good and _smooth(rows[a], b, nodes, w, tol, floors[a])
            if good:
                for k in range(count):
                    q[nodes[k]] += w[k] * q[b]
                for g in range(G.shape[0]):
                    for j in range(n):
                        weight = G[g, j, b]
                        if weight != 0.0:
                            for k in range(count):
                                G[g, j, nodes[k]] += w[k] * weight
                after[before[b]], before[following] = following, before[b]
                kept[b] = 0
        b = following
    count = 0
    for k in range(n):
        if kept[k]:
            kept[count] = k
            count += 1
    return count

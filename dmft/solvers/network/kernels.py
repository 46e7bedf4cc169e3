"""Compiled sums over the history of sampled paths.

Arrays are (time, path). Paths go through in blocks that stay in the cache, and each sum has a fixed
order, so that results do not depend on threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.compiled import njit

Short = NDArray[np.float32]
OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
# Paths in a block, and partial sums of a sum over paths.
BLOCK, LANES = 512, 8
# Smallest squared pivot of a factor, relative to the variance: below it the field has white noise.
FLOOR = 1e-8


@njit(**OPTIONS)
def product(x: Array, y: Array) -> float:
    """Sum of x_i y_i in a fixed order."""
    part = np.zeros(LANES)
    whole = x.size - x.size % LANES
    for i in range(0, whole, LANES):
        for j in range(LANES):
            part[j] += x[i + j] * y[i + j]
    total = 0.0
    for j in range(LANES):
        total += part[j]
    for i in range(whole, x.size):
        total += x[i] * y[i]
    return total


@njit(**OPTIONS)
def correlate(rows: Array, k: int, out: Array) -> None:
    """Write means of rows[k] rows[l] over paths, l = 0..k."""
    for l in range(k + 1):  # noqa: E741
        out[l] = product(rows[k], rows[l]) / rows.shape[1]


@njit(**OPTIONS)
def add_weighted(
    rows: Array, places: NDArray[np.int64], weight: Array, first: int, low: int, out: Array
) -> None:
    """Add sums over e >= first of weight[e] rows[places[e], low:] to `out`; four at once."""
    e, high = first, low + out.size
    while e + 4 <= places.size:
        a, b, c, d = weight[e], weight[e + 1], weight[e + 2], weight[e + 3]
        p, q = rows[places[e], low:high], rows[places[e + 1], low:high]
        r, t = rows[places[e + 2], low:high], rows[places[e + 3], low:high]
        for s in range(out.size):
            out[s] += (a * p[s] + b * q[s]) + (c * r[s] + d * t[s])
        e += 4
    for i in range(e, places.size):
        w, p = weight[i], rows[places[i], low:high]
        for s in range(out.size):
            out[s] += w * p[s]


@njit(**OPTIONS)
def add_rows(rows: Array, weight: Array, count: int, out: Array) -> None:
    """Add the sum of weight[l] rows[l], l < count, to `out`, (paths,)."""
    places = np.arange(count)
    for low in range(0, out.size, BLOCK):
        add_weighted(rows, places, weight, 0, low, out[low : low + BLOCK])


@njit(**OPTIONS)
def factor_row(root: Array, covariance: Array, k: int) -> None:
    """Write row k of a lower triangular factor; `covariance` has the entries (k, 0..k)."""
    rest = covariance[k]
    for l in range(k):  # noqa: E741
        value = covariance[l] - product(root[l, :l], root[k, :l])
        value = value / root[l, l] if root[l, l] > 0.0 else 0.0
        root[k, l] = value
        rest -= value * value
    root[k, k] = np.sqrt(max(rest, FLOOR * covariance[k], 0.0))


@njit(**OPTIONS)
def orthonormalise(rows: Array) -> None:
    """Make rows orthonormal in the sample, mean of squares 1; what depends on others becomes 0.

    Rows are random and far from dependent, but for the first few, so one pass is exact.
    """
    count, size = rows.shape
    gram = np.zeros((count, count))
    for i in range(count):
        for j in range(i + 1):
            gram[i, j] = product(rows[i], rows[j]) / size
    for i in range(count):
        own = gram[i, i]
        for j in range(i):
            for l in range(j):  # noqa: E741
                gram[i, j] -= gram[i, l] * gram[j, l]
            gram[i, j] = gram[i, j] / gram[j, j] if gram[j, j] > 0.0 else 0.0
            gram[i, i] -= gram[i, j] * gram[i, j]
        gram[i, i] = np.sqrt(gram[i, i]) if gram[i, i] > 1e-12 * own else 0.0
    for low in range(0, size, BLOCK):
        high = min(low + BLOCK, size)
        for i in range(count):
            for j in range(i):
                w = gram[i, j]
                for s in range(low, high):
                    rows[i, s] -= w * rows[j, s]
            scale = 1.0 / gram[i, i] if gram[i, i] > 0.0 else 0.0
            for s in range(low, high):
                rows[i, s] *= scale


@njit(**OPTIONS)
def respond(
    kicks: Short, past: Short, slots: NDArray[np.int64], first: NDArray[np.int64],
    places: NDArray[np.int64], weight: Array, by_state: Array, by_field: Array, slope: Array,
    here: int, new: int, out: Array,
) -> None:  # fmt: skip
    """Move the derivatives of all paths by the fields at earlier steps through step k.

    `kicks` (blocks, slots, BLOCK) are d x_k / d h_m of the columns in use, moved to k + 1; `past`
    (blocks, slots, places, BLOCK) are phi'(x_l) d x_l / d h_m or sums of these. Those at `places`
    have the weights `weight` in the field, which is empty without memory; of each column in
    `slots` (columns,) the `first` are zero. At the place `here` that of l = k + 1 is written.
    `new` is the slot of the column of step k. `by_state`, `by_field` (paths,) are derivatives of
    the step, `slope` is phi' at k + 1. `out` (columns + 1,) becomes the means of phi'(x_{k+1})
    d x_{k+1} / d h_m, m = k last.
    """
    total = by_state.size
    out[:] = 0.0
    back, small = np.zeros(BLOCK, np.float32), weight.astype(np.float32)
    for block in range(kicks.shape[0]):
        low = block * BLOCK
        size = min(BLOCK, total - low)
        for c in range(slots.size + 1):
            slot = slots[c] if c < slots.size else new
            kick = kicks[block, slot]
            if c == slots.size:
                for s in range(size):
                    kick[s] = by_field[low + s]
            else:
                back[:] = 0.0
                if weight.size > 0:
                    add_weighted(past[block, slot], places, small, first[c], 0, back)
                for s in range(size):
                    kick[s] = by_state[low + s] * kick[s] + by_field[low + s] * back[s]
            mean = 0.0
            if weight.size > 0:
                row = past[block, slot, here]
                for s in range(size):
                    row[s] = slope[low + s] * kick[s]
            part = np.zeros(LANES)
            for s in range(size):
                part[s % LANES] += slope[low + s] * kick[s]
            for j in range(LANES):
                mean += part[j]
            out[c] += mean / total

"""Compiled sums over the history of sampled paths.

Arrays are (time, path). Paths go through in blocks that stay in the cache, and each sum has a fixed
order, so that results do not depend on threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.compiled import njit
from dmft.special.matrices import inner

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.special.matrices": "198ea38a82ed",
}

Short = NDArray[np.float32]
OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
# Paths in a block.
BLOCK = 512
# Smallest squared pivot of a factor, relative to the variance, and what is added to all of them:
# small pivots that follow each other amplify rounding.
FLOOR, RIDGE = 1e-8, 1e-12


@njit(**OPTIONS)
def correlate(rows: Array, places: NDArray[np.int64], k: int, out: Array) -> None:
    """Write means of rows[k] rows[place] over paths."""
    for e in range(places.size):
        out[e] = inner(rows[k], rows[places[e]]) / rows.shape[1]


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
def add_rows(rows: Array, places: NDArray[np.int64], weight: Array, out: Array) -> None:
    """Add the sum of weight[e] rows[places[e]] to `out`, (paths,)."""
    for low in range(0, out.size, BLOCK):
        add_weighted(rows, places, weight, 0, low, out[low : low + BLOCK])


@njit(**OPTIONS)
def factor_row(root: Array, covariance: Array, k: int) -> bool:
    """Write row k of a lower triangular factor; `covariance` has the entries (k, 0..k).

    Returns whether the pivot is above the floor: else the earlier columns give the row.
    """
    rest, floor = covariance[k], FLOOR * covariance[k]
    for l in range(k):  # noqa: E741
        value = covariance[l] - inner(root[l, :l], root[k, :l])
        value = value / root[l, l] if root[l, l] > 0.0 else 0.0
        root[k, l] = value
        rest -= value * value
    root[k, k] = np.sqrt(max(rest, floor) + RIDGE * covariance[k])
    return bool(rest > floor)


@njit(**OPTIONS)
def orthonormalise(rows: Array, n: int) -> None:
    """Make row n orthogonal to those before, mean of squares 1; what depends on them becomes 0.

    Those before are orthonormal or 0. Rows are random and far from dependent, but for the first
    few, so one pass is exact.
    """
    places, means = np.arange(n + 1), np.empty(n + 1)
    correlate(rows, places, n, means)
    add_rows(rows, places[:n], -means[:n], rows[n])
    square = inner(rows[n], rows[n]) / rows.shape[1]
    rows[n] *= 1.0 / np.sqrt(square) if square > 1e-12 * means[n] else 0.0


@njit(**OPTIONS)
def respond(
    kicks: Short, past: Short, slots: NDArray[np.int64], first: NDArray[np.int64],
    places: NDArray[np.int64], weight: Array, by_state: Array, by_field: Array, slope: Array,
    here: int, new: int, out: Array,
) -> None:  # fmt: skip
    """Move the derivatives of all paths by the fields at earlier steps through step k.

    `kicks` (blocks, slots, BLOCK) are d x_k / d h_m of the columns in use, moved to k + 1; `past`
    (blocks, slots, places, BLOCK) are phi'(x_l) d x_l / d h_m or sums of these. Those at `places`
    have the weights `weight` in the field; of each column in `slots` (columns,) the `first` are
    zero. At the place `here` that of l = k + 1 is written. `new` is the slot of the column of step
    k. `by_state`, `by_field` (paths,) are derivatives of the step, `slope` is phi' at k + 1. `out`
    (columns + 1,) becomes the means of phi'(x_{k+1}) d x_{k+1} / d h_m, m = k last.
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
                add_weighted(past[block, slot], places, small, first[c], 0, back)
                for s in range(size):
                    kick[s] = by_state[low + s] * kick[s] + by_field[low + s] * back[s]
            row = past[block, slot, here]
            for s in range(size):
                row[s] = slope[low + s] * kick[s]
            out[c] += inner(slope[low : low + size], kick[:size]) / total

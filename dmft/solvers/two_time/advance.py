"""Several steps of a two-time march in compiled code, and the thinning of its grid.

Times far from both ends of a row are dropped, their weights are not: a dropped time b gives its
weight to its neighbours, K(t, b) is replaced by the polynomial through six kept times, so that
integrals keep their accuracy while rows get shorter. Kim and Latz merge panels in the same way;
here the order is five and the criterion is what the row itself shows.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from dmft.compiled import njit
from dmft.compiled.vectors import copy_into
from dmft.solvers.signatures import INTEGERS, MATRIX, VECTOR
from dmft.solvers.two_time.step import (
    FLAGS,
    INLINE,
    LOCAL,
    PAIR,
    SIGNALS,
    WORK,
    lagrange,
    settle,
    step,
)

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.compiled.vectors": "ad8a71f6d01c",
    "dmft.solvers.two_time.step": "ba0b51f5b1a9",
}

# A step is redone when its error exceeds the tolerance by this.
REJECT = 2.0
# Largest growth of a step (the error of columns is known two steps late), and changes too small to
# be worth an irregular grid.
GROWTH, LEAST, STEADY = 1.12, 0.9, 1.2
SAFETY = 0.85
# Iterations of a step, and the change, relative to the tolerance, at which they stop; halving steps
# does not show it, so that it is part of every claimed error.
PASSES, ITERATE = 12, 0.1
# Steps towards the next saved time are made equal when so few are left.
PLAN = 8
# A signal beyond this has diverged.
LARGEST = 1e12
SMALLEST_STEP = 1e-12
# Entries of the control: step, tolerance, largest step, next time to be met; then what is counted.
DT, TOL, MAX_STEP, STOP, TAKEN, REJECTED, ITERATIONS = range(7)
# How the steps ended.
GOING, STUCK, NOT_FINITE, DIVERGED = range(4)


@njit(inner=True, **INLINE)
def _target(t, control):  # type: ignore[no-untyped-def]
    """Time of the next step: saved times are met after an even number of steps."""
    dt, stop = control[DT], control[STOP]
    if not t * (1.0 + 1e-14) < stop <= t + PLAN * dt:
        return t + dt
    count = max(1, math.ceil((stop - t) / dt * (1.0 - 1e-9)))
    count += (int(control[TAKEN]) + count) % 2
    return stop if count == 1 else t + (stop - t) / count


@njit(inner=True, **INLINE)
def _adapt(control, h, factor):  # type: ignore[no-untyped-def]
    """The next step: equal ones where nothing is gained."""
    proposed = h * min(GROWTH, factor)
    if h < 0.999 * control[DT]:
        # A step that was shortened to meet a saved time says nothing of longer ones.
        if factor > 1.0:
            proposed = max(proposed, control[DT])
    elif LEAST < factor < STEADY:
        proposed = control[DT]
    control[DT] = min(proposed, control[MAX_STEP])


ADVANCE_SIGNATURE = types.int64(
    PAIR, PAIR, PAIR, LOCAL, SIGNALS, VECTOR, FLAGS, WORK, types.int64, types.int64, VECTOR, VECTOR,
    types.Array(types.int64, 1, "C"),
)  # fmt: skip


@njit(ADVANCE_SIGNATURE, cache=True, nogil=True, error_model="numpy")
def advance(  # type: ignore[no-untyped-def]
    first, late, early, local, signals, par, flags, work, n, count, control, times, ending
):
    """Take up to `count` steps from n complete nodes; returns the number of nodes.

    Stops at the time `control[STOP]`. `times`, where not empty, prescribes the time after each
    number of steps. ending[0] says how the steps ended.
    """
    x, Z, X, FX, FZ = work.x, work.Z, work.X, work.FX, work.FZ
    report = np.zeros(5)
    tol = control[TOL]
    for _ in range(count):
        for rolling in (work.X, work.FX, work.BL, work.BE):
            for r in range(rolling.shape[0] - 1):
                copy_into(rolling[r, :, : n + 1], rolling[r + 1, :, : n + 1])
        copy_into(FZ, FZ[1:])
        # What a trial changes besides the new row: first steps of the youngest columns.
        low = max(0, n - 4)
        young_X, young_FX = X[:-1, :, low:n].copy(), FX[:-1, :, low:n].copy()
        young_Z, young_FZ = Z[:, low:n].copy(), FZ[:-1].copy()
        while True:
            t_new = times[int(control[TAKEN]) + 1] if times.size else _target(x[n - 1], control)
            h = t_new - x[n - 1]
            step(
                first, late, early, local, signals, par, flags, work, n, t_new, ITERATE * tol,
                PASSES, report,
            )  # fmt: skip
            control[ITERATIONS] += report[2]
            finite = math.isfinite(report[0]) and math.isfinite(report[1])
            if times.size and finite:
                break
            factor = SAFETY * (tol / max(report[0], 1e-300)) ** 0.25
            if finite and report[0] <= REJECT * tol and report[1] <= tol:
                # Columns began two steps ago: their error says how to go on, not that this step
                # is bad.
                young = SAFETY * (tol / max(report[3], 1e-300)) ** 0.25
                # Values by integrals are no smoother than their rows: they only stop the growth.
                given = max(1.0, SAFETY * (tol / max(report[4], 1e-300)) ** 0.25)
                _adapt(control, h, min(factor, young, given))
                break
            copy_into(X[:-1, :, low:n], young_X)
            copy_into(FX[:-1, :, low:n], young_FX)
            copy_into(Z[:, low:n], young_Z)
            copy_into(FZ, young_FZ)
            control[REJECTED] += 1.0
            control[DT] = h * min(0.7, max(0.2, factor)) if finite else 0.3 * h
            if times.size or not control[DT] > SMALLEST_STEP * max(1.0, x[n - 1]):
                ending[0] = STUCK if finite else NOT_FINITE
                return n
        for z in range(Z.shape[0]):
            if not abs(Z[z, n]) < LARGEST:
                ending[0] = DIVERGED
                return n
        settle(flags, work, n)
        control[TAKEN] += 1.0
        n += 1
        if x[n - 1] >= control[STOP] * (1.0 - 1e-14):
            break
    ending[0] = GOING
    return n


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


THIN_SIGNATURE = types.int64(WORK, types.int64, types.float64, types.float64, INTEGERS, MATRIX)


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

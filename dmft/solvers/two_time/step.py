r"""One step of causal two-time equations on a non-uniform grid, compiled.

Equation    dX(t, s)/dt = F[..., \int A(t, u) B(u, s) du], t >= s: row t_M from rows before
Scaling     the grid is the set of times x[0..n-1] that are kept; X is known at the rows near its
            end only, older ones enter through weights G[k, j, i]: the integral number k at s = x_j
            is sum_i G[k, j, i] A_k(t, x_i), exact for A_k(t, .) polynomial between kept times
Valid for   smooth kernels on u < s and on u > s; the fourth order in the step: cubic panels
            that never cross u = s, Adams-Moulton over four rows, and columns younger than three
            steps solved together with the steps that follow their first
Source      Kim and Latz (2001) for moments of panels that are merged; here of cubic order
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types

from dmft.arrays import Array
from dmft.compiled import njit
from dmft.compiled.vectors import copy_into
from dmft.solvers.signatures import MATRIX, VECTOR

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.compiled.vectors": "ad8a71f6d01c",
}

CUBE = types.float64[:, :, ::1]
# first, late, early: (t, times, par, now (z,), past (z, n), X (x, n), low, high, out (k, n))
PAIR_SIGNATURE = types.void(
    types.float64, VECTOR, VECTOR, VECTOR, MATRIX, MATRIX, types.int64, types.int64, MATRIX
)
# signals: (t, par, now (z,), J (m,), out (z,))
SIGNALS_SIGNATURE = types.void(types.float64, VECTOR, VECTOR, VECTOR, VECTOR)
# local: (t, times, par, now, past, X, S (k, n), J, low, high, out (x, n))
LOCAL_SIGNATURE = types.void(
    types.float64, VECTOR, VECTOR, VECTOR, MATRIX, MATRIX, MATRIX, VECTOR, types.int64,
    types.int64, MATRIX,
)  # fmt: skip
PAIR = types.FunctionType(PAIR_SIGNATURE)
SIGNALS = types.FunctionType(SIGNALS_SIGNATURE)
LOCAL = types.FunctionType(LOCAL_SIGNATURE)
FLAGS = types.int64[:, ::1]


class Work(NamedTuple):
    """Arrays of a march; shapes in `dmft.solvers.two_time.thinned.March`."""

    x: Array
    q: Array
    Z: Array
    FZ: Array
    X: Array
    FX: Array
    G: Array
    A: Array
    BL: Array
    BE: Array
    S: Array
    J: Array
    out: Array


WORK = types.NamedTuple(
    (VECTOR, VECTOR, MATRIX, MATRIX, CUBE, CUBE, CUBE, MATRIX, CUBE, CUBE, MATRIX, VECTOR, MATRIX),
    Work,
)
# Rows that are kept: the new one and four before.
ROWS = 5
# Nodes of a panel: cubic.
POINTS = 4
# Error of what is given by integrals, as a part of what cubic extrapolation over a step misses.
EXTRAPOLATED = 0.1
# Steps that differ by less than this part count as equal.
EQUAL = 1e-6
# Rows of the flags: X is differential, Z is differential, integral over u >= s, over u <= s,
# number of the signal that is the diagonal of X.
X_RATE, Z_RATE, LATE, EARLY, DIAGONAL = range(5)
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}
INLINE = {"nogil": True, "error_model": "numpy"}
GAUSS = 0.5773502691896257  # two Gauss points are exact for cubics


@njit(inner=True, **INLINE)
def lagrange(x, first, count, at, w):  # type: ignore[no-untyped-def]
    """Values at `at` of the Lagrange polynomials of count nodes from the first on."""
    for k in range(count):
        product = 1.0
        for m in range(count):
            if m != k:
                product *= (at - x[first + m]) / (x[first + k] - x[first + m])
        w[k] = product


@njit(inner=True, **INLINE)
def panel(x, p, first, count, w):  # type: ignore[no-untyped-def]
    """Weights over [x_p, x_{p+1}] of the polynomial through count <= 4 nodes from first on."""
    half = 0.5 * (x[p + 1] - x[p])
    middle = 0.5 * (x[p + 1] + x[p])
    other = np.empty(POINTS)
    lagrange(x, first, count, middle - GAUSS * half, w)
    lagrange(x, first, count, middle + GAUSS * half, other)
    for k in range(count):
        w[k] = half * (w[k] + other[k])


@njit(inner=True, **INLINE)
def stencil(p, low, high):  # type: ignore[no-untyped-def]
    """First node and number of nodes of panel p, within low..high."""
    first = max(low, min(p - 1, high - POINTS + 1))
    return first, min(POINTS, high - first + 1)


@njit(inner=True, **INLINE)
def settled(last):  # type: ignore[no-untyped-def]
    """Node up to which panels have their final weights when `last` is the last complete node."""
    return 0 if last < 4 else last - 2


@njit(inner=True, **INLINE)
def single_weights(x, q, f, i, out):  # type: ignore[no-untyped-def]
    """Weights of an integral over [0, x_i]: settled ones, then panels that stay below x_i."""
    w = np.empty(POINTS)
    copy_into(out, q[: i + 1])
    for p in range(min(f, i), i):
        first, count = stencil(p, 0, i)
        panel(x, p, first, count, w)
        for k in range(count):
            out[first + k] += w[k]


@njit(inner=True, **INLINE)
def end_weights(x, start, j, i, base, out):  # type: ignore[no-untyped-def]
    """Weights over [x_start, x_i] from panels that stay above x_j; out[0] is that of node base."""
    w = np.empty(POINTS)
    out[:] = 0.0
    for p in range(start, i):
        first, count = stencil(p, j, i)
        panel(x, p, first, count, w)
        for k in range(count):
            out[first + k - base] += w[k]


@njit(inner=True, **OPTIONS)
def _integrals(flags, work, N, i, low):  # type: ignore[no-untyped-def]
    """S[k, j] at row i for columns low..i."""
    x, q, G, A, BL, BE, S = work.x, work.q, work.G, work.A, work.BL, work.BE, work.S
    M, f = N + 1, settled(N)
    base = M - ROWS + 1
    shared, own, early = np.empty(ROWS), np.empty(ROWS), np.empty(i + 1)
    if f > 0:
        end_weights(x, f, np.int64(0), i, base, shared)
    for j in range(low, i + 1):
        if j >= N - 1:
            single_weights(x, q, f, j, early)
        if j >= f:
            end_weights(x, j, j, i, base, own)
        for k in range(G.shape[0]):
            total = 0.0
            if j < N - 1:
                for m in range(min(N, i) + 1):  # thinning spreads weights across u = s
                    total += G[k, j, m] * A[k, m]
            elif flags[EARLY, k]:
                for m in range(j + 1):
                    total += early[m] * A[k, m] * BE[j - base, k, m]
            if flags[LATE, k]:
                for r in range(max(0, -base), i - base + 1):
                    weight = shared[r] if j < f else own[r]
                    if weight != 0.0:
                        total += weight * A[k, base + r] * BL[r, k, j]
            S[k, j] = total


@njit(inner=True, **OPTIONS)
def _evaluate(  # type: ignore[no-untyped-def]
    first, late, early, local, signals, par, flags, work, N, i, low
):
    """Rates and values at row i, columns low..i; returns the change of what is algebraic."""
    x, Z, FZ, X, FX, A = work.x, work.Z, work.FZ, work.X, work.FX, work.A
    BL, BE, S, J, out = work.BL, work.BE, work.S, work.J, work.out
    r = i - (N + 1) + ROWS - 1
    t, change = x[i], 0.0
    now = np.ascontiguousarray(Z[:, i])
    first(t, x, par, now, Z, X[r], 0, i + 1, A)
    weights = np.empty(i + 1)
    single_weights(x, work.q, settled(N), i, weights)
    terms = S.shape[0]
    for m in range(J.size):
        total = 0.0
        for k in range(i + 1):
            total += weights[k] * A[terms + m, k]
        J[m] = total
    value = np.empty(now.size)
    signals(t, par, now, J, value)
    for z in range(now.size):
        if flags[Z_RATE, z]:
            FZ[r, z] = value[z]
        else:
            change = max(change, abs(value[z] - now[z]))
            now[z] = value[z]
            Z[z, i] = value[z]
    for a in range(X.shape[1]):
        X[r, a, i] = now[flags[DIAGONAL, a]]
    late(t, x, par, now, Z, X[r], 0, i + 1, BL[r])
    early(t, x, par, now, Z, X[r], 0, i + 1, BE[r])
    _integrals(flags, work, N, i, low)
    local(t, x, par, now, Z, X[r], S, J, low, i + 1, out)
    for a in range(X.shape[1]):
        if flags[X_RATE, a]:
            copy_into(FX[r, a, low : i + 1], out[a, low : i + 1])
        else:
            for j in range(low, i):
                change = max(change, abs(out[a, j] - X[r, a, j]))
                X[r, a, j] = out[a, j]
    return change


@njit(inner=True, **OPTIONS)
def _predict(flags, work, N):  # type: ignore[no-untyped-def]
    """Row N + 1 by extrapolation: rates of what is differential, values of what is not."""
    x, Z, FZ, X, FX = work.x, work.Z, work.FZ, work.X, work.FX
    M, base = N + 1, N + 2 - ROWS
    w, v = np.empty(POINTS), np.empty(POINTS)
    for low in range(max(0, N - 3), N + 1):
        count = N - low + 1
        panel(x, N, low, count, w)
        lagrange(x, low, count, x[M], v)
        begin = 0 if low == max(0, N - 3) else low
        for a in range(X.shape[1]):
            for j in range(begin, low + 1):
                total = X[ROWS - 2, a, j] if flags[X_RATE, a] else 0.0
                for k in range(count):
                    r = low + k - base
                    total += w[k] * FX[r, a, j] if flags[X_RATE, a] else v[k] * X[r, a, j]
                X[ROWS - 1, a, j] = total
        if low == max(0, N - 3):
            for z in range(Z.shape[0]):
                total = Z[z, N] if flags[Z_RATE, z] else 0.0
                for k in range(count):
                    if flags[Z_RATE, z]:
                        total += w[k] * FZ[low + k - base, z]
                    else:
                        total += v[k] * Z[z, low + k]
                Z[z, M] = total
    last, step = x[M] - x[N], x[N] - x[max(0, N - 1)]
    if N > ROWS and abs(last - step) + abs(step - (x[N - 1] - x[N - 2])) < EQUAL * step:
        # Beginnings of columns change slowly from one column to the next.
        for a in range(X.shape[1]):
            for d in range(1, POINTS):
                X[ROWS - 1, a, M - d] = 2.0 * X[ROWS - 2, a, N - d] - X[ROWS - 3, a, N - 1 - d]
    for a in range(X.shape[1]):
        X[ROWS - 1, a, M] = Z[flags[DIAGONAL, a], M]


@njit(inner=True, **OPTIONS)
def _correct(flags, work, N, errors):  # type: ignore[no-untyped-def]
    """Row N + 1, and the first steps of young columns; returns the change, fills the errors."""
    x, Z, FZ, X, FX = work.x, work.Z, work.FZ, work.X, work.FX
    M, base = N + 1, N + 2 - ROWS
    w, v = np.empty(POINTS), np.empty(POINTS)
    change = 0.0
    first, count = stencil(N, 0, M)
    panel(x, N, first, count, w)
    if count > 2:
        panel(x, N, first + 1, count - 1, v)
    for a in range(X.shape[1]):
        if flags[X_RATE, a]:
            for j in range(max(0, N - 1)):
                total, lower = 0.0, 0.0
                for k in range(count):
                    total += w[k] * FX[first + k - base, a, j]
                    if k > 0:
                        lower += v[k - 1] * FX[first + k - base, a, j]
                change = max(change, abs(X[ROWS - 2, a, j] + total - X[ROWS - 1, a, j]))
                X[ROWS - 1, a, j] = X[ROWS - 2, a, j] + total
                if count > 3:
                    size = max(1.0, abs(X[ROWS - 1, a, j]))
                    errors[0] = max(errors[0], abs(total - lower) / size)
    for j in range(max(0, N - 2), N + 1):
        for i in range(max(j + 1, N - 1), M + 1):
            if i == M and j < N - 1:
                continue
            first, count = stencil(i - 1, j, M)
            panel(x, i - 1, first, count, w)
            r = i - base
            for a in range(X.shape[1]):
                if flags[X_RATE, a]:
                    total = X[r - 1, a, j]
                    for k in range(count):
                        total += w[k] * FX[first + k - base, a, j]
                    change = max(change, abs(total - X[r, a, j]))
                    X[r, a, j] = total
    # Signals are columns that began at zero.
    for i in range(1 if N < 3 else M, M + 1):
        first, count = stencil(i - 1, 0, M)
        panel(x, i - 1, first, count, w)
        if count > 3 and i == M:
            panel(x, i - 1, first + 1, count - 1, v)
        for z in range(Z.shape[0]):
            if flags[Z_RATE, z]:
                total, lower = 0.0, 0.0
                for k in range(count):
                    total += w[k] * FZ[first + k - base, z]
                    if k > 0:
                        lower += v[k - 1] * FZ[first + k - base, z]
                change = max(change, abs(Z[z, i - 1] + total - Z[z, i]))
                Z[z, i] = Z[z, i - 1] + total
                if count > 3 and i == M:
                    errors[0] = max(errors[0], abs(total - lower) / max(1.0, abs(Z[z, i])))
    for a in range(X.shape[1]):
        X[ROWS - 1, a, M] = Z[flags[DIAGONAL, a], M]
    return change


@njit(inner=True, **OPTIONS)
def step(  # type: ignore[no-untyped-def]
    first, late, early, local, signals, par, flags, work, n, t_new, tol, passes, report
):
    """Compute row n at t_new from n complete nodes; rows are shifted already.

    report = (error of the step, relative where values exceed one; last change of the iteration;
    passes taken; error of the beginning of columns: what a third step changes in their first one;
    estimate for what is given by integrals).
    """
    x, X = work.x, work.X
    N, M = n - 1, n
    x[M] = t_new
    _predict(flags, work, N)
    base = M - ROWS + 1
    before = np.zeros(X.shape[1])
    if N >= 3:
        copy_into(before, X[N - 1 - base, :, N - 2])
    guess = X[ROWS - 1].copy()
    errors = np.zeros(1)
    for taken in range(passes):
        change = 0.0
        for i in range(max(1, N - 1), M + 1):
            low = 0 if i == M else max(0, N - 2)
            change = max(
                change, _evaluate(first, late, early, local, signals, par, flags, work, N, i, low)
            )
        errors[0] = 0.0
        change = max(change, _correct(flags, work, N, errors))
        report[1], report[2] = change, taken + 1
        if not change > tol:
            break
    report[0], report[3], report[4] = errors[0], 0.0, 0.0
    for a in range(X.shape[1]):
        if not flags[X_RATE, a]:
            for j in range(max(0, N - 2)):
                gap = abs(guess[a, j] - X[ROWS - 1, a, j]) / max(1.0, abs(guess[a, j]))
                report[4] = max(report[4], EXTRAPOLATED * gap)
    if N >= 3:
        for a in range(X.shape[1]):
            value = X[N - 1 - base, a, N - 2]
            report[3] = max(report[3], abs(value - before[a]) / max(1.0, abs(value)))


START_SIGNATURE = types.void(PAIR, PAIR, PAIR, LOCAL, SIGNALS, VECTOR, FLAGS, WORK)


@njit(START_SIGNATURE, cache=True, **OPTIONS)
def begin(first, late, early, local, signals, par, flags, work):  # type: ignore[no-untyped-def]
    """Rates of row 0, which stands where the last complete row stands (ROWS - 2)."""
    for _ in range(3):  # signals may be defined by others
        # As the new row of an empty grid: N = -1. For integers written out, Numba would compile
        # all of it once more.
        zero = np.int64(0)
        _evaluate(first, late, early, local, signals, par, flags, work, zero - 1, zero, zero)


@njit(inner=True, **OPTIONS)
def settle(flags, work, last):  # type: ignore[no-untyped-def]
    """Give final weights to what the step to node `last` completed."""
    x, q, G, BL, BE = work.x, work.q, work.G, work.BL, work.BE
    base = last - ROWS + 1
    old, new, j = settled(last - 1), settled(last), last - 2
    w, weights = np.empty(POINTS), np.empty(last + 1)
    if j >= 0:
        single_weights(x, q, old, j, weights)
        for k in range(G.shape[0]):
            if flags[EARLY, k]:
                for m in range(j + 1):
                    G[k, j, m] += weights[m] * BE[j - base, k, m]
    for p in range(old, new):
        first, count = stencil(p, 0, last - 1)
        panel(x, p, first, count, w)
        for k in range(count):
            q[first + k] += w[k]
        for j in range(p + 1):
            if j >= p - 1:
                first, count = stencil(p, j, last)
                panel(x, p, first, count, w)
            else:
                first, count = stencil(p, 0, last)
                panel(x, p, first, count, w)
            for k in range(G.shape[0]):
                if flags[LATE, k]:
                    for m in range(count):
                        G[k, j, first + m] += w[m] * BL[first + m - base, k, j]

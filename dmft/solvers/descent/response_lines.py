"""Response of a finished descent where gradients are piecewise linear in the fields (ReLU, |z|).

At a kink the gradient of a sample jumps, and its path with it: the derivative of the path alone
misses that, and Stein's identity divides by what is new in the driving process at each step. So
samples are taken as lines: the normals z of the driving process run along a direction e in which
all fields move, z = z' + e x, with x standard normal. Along the line everything is linear between
the places x* where some field meets a knot, and the average over x is exact:

Equation    E_x g^t = sum_I int_I phi(x) g_I^t(x) dx,
            d/dr^s E_x g^t = sum_I P(I) dg_I^t/dr^s
            + sum_* phi(x*) dx*/dr^s (g^t(x* - 0) - g^t(x* + 0)), dx*/dr^s = -(dh/dr^s) / (dh/dx)
Source      theory/batch_reuse A.1 (the definition); the rest is Leibniz' rule
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from dmft.compiled import njit
from dmft.solvers.descent.sampled import SAMPLE, SUMS
from dmft.solvers.signatures import MATRIX, VECTOR

OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}
# Lines end here: 6e-14 of a normal law lies beyond.
END = 7.5
LINES_SIGNATURE = types.boolean(
    SAMPLE, SAMPLE, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64,
    MATRIX, MATRIX, VECTOR, MATRIX, MATRIX, VECTOR, VECTOR, MATRIX, MATRIX, MATRIX, SUMS,
)  # fmt: skip


@njit(inner=True, **OPTIONS)
def _fields(rows, now, p, start, slope, g0, gx, G, h0, hx, D):  # type: ignore[no-untyped-def]
    """Fields h0 + hx x of one piece at the time whose rows of R_theta are given, and D = dh/dr."""
    seen = now + p
    for j in range(p):
        row, answer = rows[j], D[j]
        value, tilt = start[now + j], slope[now + j]
        for u in range(now):
            value += row[u] * g0[u]
            tilt += row[u] * gx[u]
        h0[j], hx[j] = value, tilt
        for c in range(seen):
            answer[c] = 0.0
        for u in range(now):
            weight, before = row[u], G[u]
            for c in range((u // p + 1) * p):
                answer[c] += weight * before[c]
        answer[now + j] = 1.0


@njit(inner=True, **OPTIONS)
def _next_root(knots, h0, hx, low, high):  # type: ignore[no-untyped-def]
    """Least x in (low, high) where a field h0 + hx x meets a knot, and which field; (high, -1)."""
    best, which = high, -1
    for j in range(h0.size):
        if hx[j] != 0.0:
            for knot in knots:
                x = (knot - h0[j]) / hx[j]
                if low < x < best:
                    best, which = x, j
    return best, which


@njit(inner=True, **OPTIONS)
def _split(now, p, g0, gx, G, h0, hx, D, old, new, which, move):  # type: ignore[no-untyped-def]
    """Copy a piece; the place between the two moves with the field `which`, a knot there."""
    seen = now + p
    for u in range(now):
        g0[new, u], gx[new, u] = g0[old, u], gx[old, u]
        source, target = G[old, u], G[new, u]
        for c in range((u // p + 1) * p):
            target[c] = source[c]
    for j in range(p):
        h0[new, j], hx[new, j] = h0[old, j], hx[old, j]
        answer, same = D[old, j], D[new, j]
        for c in range(seen):
            same[c] = answer[c]
    inverse, answer = -1.0 / hx[old, which], D[old, which]
    for c in range(move.size):
        move[c] = inverse * answer[c] if c < seen else 0.0


@njit(inner=True, **OPTIONS)
def _close(g, H, middle, share, now, p, g0, gx, G, hx, D, total):  # type: ignore[no-untyped-def]  # fmt: skip
    """Gradients of one piece from those in its middle, and what it adds to the response."""
    seen = now + p
    for j in range(p):
        row, sums = G[now + j], total[now + j]
        tilt = 0.0
        for c in range(seen):
            row[c] = 0.0
        for l in range(p):  # noqa: E741
            curve, answer = H[j * p + l], D[l]
            tilt += curve * hx[l]
            for c in range(seen):
                row[c] += curve * answer[c]
        gx[now + j], g0[now + j] = tilt, g[j] - tilt * middle
        for c in range(seen):
            sums[c] += share * row[c]


@njit(inner=True, **OPTIONS)
def _one_line(sample, bend, steps, trained, star, label, mask, pars, knots, start, slope, R_theta, work, total):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Add dE_x[g]/dr (T p, T p) of the line of fields start + slope x to `total`.

    star (k, 1), mask (T,) or (0,). False where `work` has no room for the pieces of the line.
    """
    p = start.size // steps
    # Of each piece: gradients g0 + gx x, their derivatives G, the same of the fields now; where it
    # begins, the share before that place, the density and the derivative there; pieces in order.
    g0, gx, G, h0, hx, D, low, below, density, move, order = work
    order[0], low[0], below[0] = 0, -END, 0.0
    count = 1
    for t in range(steps):
        now = t * p
        seen = now + p
        for m in range(count):
            _fields(R_theta[now:seen], now, p, start, slope, g0[m], gx[m], G[m], h0[m], hx[m], D[m])
        place = 0
        while place < count:
            m = order[place]
            high = low[order[place + 1]] if place + 1 < count else END
            x, which = _next_root(knots, h0[m], hx[m], low[m], high)
            if which >= 0:
                if count == low.size:
                    return False
                for later in range(count, place + 1, -1):
                    order[later] = order[later - 1]
                order[place + 1] = count
                low[count], below[count] = x, 0.5 * math.erfc(-x * math.sqrt(0.5))
                density[count] = math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
                _split(now, p, g0, gx, G, h0, hx, D, m, count, which, move[count])
                count += 1
            place += 1
        h, g, H = np.empty((p, count)), np.empty((p, count)), np.empty((p * p, count))
        out, marks, middle = np.empty((1 + trained * p, count)), np.empty(count), np.empty(count)
        for place in range(count):
            m = order[place]
            high = low[order[place + 1]] if place + 1 < count else END
            middle[m], marks[m] = 0.5 * (low[m] + high), label
            for j in range(p):
                h[j, m] = h0[m, j] + hx[m, j] * middle[m]
        times = np.full(count if mask.size > 0 else 0, mask[t] if mask.size > 0 else 1.0)
        sample(h, star, marks, times, pars[t], g, out)
        bend(h, star, marks, times, pars[t], H, out)
        for place in range(count):
            m = order[place]
            share = (below[order[place + 1]] if place + 1 < count else 1.0) - below[m]
            _close(g[:, m], H[:, m], middle[m], share, now, p, g0[m], gx[m], G[m], hx[m], D[m], total)  # fmt: skip  # noqa: E501
            if place > 0:
                left, x, moved = order[place - 1], low[m], move[m]
                for j in range(now, seen):
                    jump = g0[left, j] - g0[m, j] + (gx[left, j] - gx[m, j]) * x
                    if jump != 0.0:
                        jump *= density[m]
                        sums = total[j]
                        for c in range(seen):
                            sums[c] += jump * moved[c]
    return True


@njit(LINES_SIGNATURE, cache=True, **OPTIONS)
def along_lines(sample, bend, steps, first, last, each, room, trained, normal, star, label, mask, pars, knots, direction, to_star, root, R_theta, sums):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Add dE_x[g]/dr over the lines of the parts first..last-1 to sums[part] (T p, T p).

    A part holds `each` samples; arrays as for `dmft.solvers.response_paths.along_paths`, `bend`
    without what kinks add to the slopes, `direction` (T p,) of length one. False where some line
    has more than `room` pieces.
    """
    big = root.shape[0]
    slope = np.zeros(big)
    for r in range(big):
        for c in range(r + 1):
            slope[r] += root[r, c] * direction[c]
    start, own = np.empty(big), np.empty(big)
    p = big // steps
    work = (
        np.empty((room, big)), np.empty((room, big)), np.empty((room, big, big)),
        np.empty((room, p)), np.empty((room, p)), np.empty((room, p, big)),
        np.empty(room), np.empty(room), np.empty(room), np.empty((room, big)),
        np.empty(room, dtype=np.int64),
    )  # fmt: skip
    fields = np.empty((star.shape[0], 1))
    marks = np.empty(mask.shape[0])
    for part in range(first, last):
        for i in range(part * each, (part + 1) * each):
            along = 0.0
            for c in range(big):
                along += direction[c] * normal[c, i]
            for c in range(big):
                own[c] = normal[c, i] - along * direction[c]
            for r in range(star.shape[0]):
                fields[r, 0] = star[r, i]
            for t in range(marks.size):
                marks[t] = mask[t, i]
            for r in range(big):
                value = 0.0
                for c in range(to_star.shape[1]):
                    value += to_star[r, c] * star[c, i]
                for c in range(r + 1):
                    value += root[r, c] * own[c]
                start[r] = value
            if not _one_line(sample, bend, steps, trained, fields, label[i], marks, pars, knots, start, slope, R_theta, work, sums[part]):  # fmt: skip  # noqa: E501
                return False
    return True

"""Response of a finished descent where gradients are piecewise linear in the fields (ReLU, |z|).

At a kink the gradient of a sample jumps, and its path with it: the derivative of the path alone
misses that, and Stein's identity divides by what is new in the driving process at each step. So
samples are taken as lines: the normals z of the driving process run along a direction e in which
all fields move, z = z' + e x, with x standard normal. Along the line everything is linear between
the places x* where some field meets a knot, and the average over x is exact:

Equation    E_x g^t = sum_I int_I phi(x) g_I^t(x) dx,
            d/dr^s E_x g^t = sum_I P(I) dg_I^t/dr^s
            + sum_* phi(x*) dx*/dr^s (g^t(x* - 0) - g^t(x* + 0)), dx*/dr^s = -(dh/dr^s) / (dh/dx)
Source      batch_reuse.md A.1 (the definition); the rest is Leibniz' rule
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types

from dmft.solvers.sampled import SAMPLE, SUMS
from dmft.solvers.signatures import MATRIX, VECTOR

OPTIONS = {"nogil": True, "error_model": "numpy"}
# Lines end here: 6e-14 of a normal law lies beyond.
END = 7.5
LINES_SIGNATURE = types.boolean(
    SAMPLE, SAMPLE, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64,
    MATRIX, MATRIX, VECTOR, MATRIX, MATRIX, VECTOR, VECTOR, MATRIX, MATRIX, MATRIX, SUMS,
)  # fmt: skip


@njit(**OPTIONS)
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


@njit(**OPTIONS)
def _one_line(sample, bend, steps, trained, star, label, mask, pars, knots, start, slope, R_theta, work, total):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Add dE_x[g]/dr (T p, T p) of the line of fields start + slope x to `total`.

    star (k, 1), mask (T,) or (0,). False where `work` has no room for the pieces of the line.
    """
    big = start.size
    p = big // steps
    # Of each piece: gradients g0 + gx x, their derivatives G, the same of the fields now; where it
    # begins, the share before that place and the derivative of the place; pieces from the left.
    g0, gx, G, h0, hx, D, low, below, move, order = work
    room = low.size
    order[0], low[0], below[0] = 0, -END, 0.0
    count = 1
    for t in range(steps):
        now = t * p
        seen = now + p
        for m in range(count):
            for j in range(p):
                row = R_theta[now + j]
                value, moved = start[now + j], slope[now + j]
                for u in range(now):
                    value += row[u] * g0[m, u]
                    moved += row[u] * gx[m, u]
                h0[m, j], hx[m, j] = value, moved
                D[m, j, :seen] = 0.0
                for u in range(now):
                    weight, before = row[u], G[m, u]
                    for c in range((u // p + 1) * p):
                        D[m, j, c] += weight * before[c]
                D[m, j, now + j] += 1.0
        place = 0
        while place < count:
            m = order[place]
            high = low[order[place + 1]] if place + 1 < count else END
            x, which = _next_root(knots, h0[m], hx[m], low[m], high)
            if which >= 0:
                if count == room:
                    return False
                new = count
                for later in range(count, place + 1, -1):
                    order[later] = order[later - 1]
                order[place + 1] = new
                g0[new, :now], gx[new, :now], G[new, :now, :now] = g0[m, :now], gx[m, :now], G[m, :now, :now]  # fmt: skip  # noqa: E501
                h0[new], hx[new], D[new, :, :seen] = h0[m], hx[m], D[m, :, :seen]
                low[new], below[new] = x, 0.5 * math.erfc(-x * math.sqrt(0.5))
                move[new, seen:] = 0.0
                move[new, :seen] = -D[m, which, :seen] / hx[m, which]
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
        sample(h, star, marks, pars[t], g, out)
        bend(h, star, marks, pars[t], H, out)
        weight = mask[t] if mask.size > 0 else 1.0
        for place in range(count):
            m = order[place]
            share = (below[order[place + 1]] if place + 1 < count else 1.0) - below[m]
            for j in range(p):
                tilt = 0.0
                for c in range(seen):
                    G[m, now + j, c] = 0.0
                for l in range(p):  # noqa: E741
                    curve = weight * H[j * p + l, m]
                    tilt += curve * hx[m, l]
                    for c in range(seen):
                        G[m, now + j, c] += curve * D[m, l, c]
                gx[m, now + j], g0[m, now + j] = tilt, weight * g[j, m] - tilt * middle[m]
                for c in range(seen):
                    total[now + j, c] += share * G[m, now + j, c]
                if place > 0:
                    left, x = order[place - 1], low[m]
                    jump = g0[left, now + j] - g0[m, now + j]
                    jump += (gx[left, now + j] - gx[m, now + j]) * x
                    jump *= math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
                    for c in range(seen):
                        total[now + j, c] += jump * move[m, c]
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
        np.empty(room), np.empty(room), np.empty((room, big)), np.empty(room, dtype=np.int64),
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

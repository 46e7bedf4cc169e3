r"""Response of the gradients of a finished descent, measured on some of its samples.

Where gradients are smooth it is that of the paths. Where they are piecewise linear (ReLU, |z|), at
a kink the gradient of a sample jumps, and its path with it: the derivative of the path alone
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numba import types

from dmft.arrays import Array
from dmft.compiled import njit
from dmft.solvers.signatures import MATRIX, VECTOR
from dmft.solvers.two_time.descent_process import Arrays, DescentTask, Nodes
from dmft.solvers.two_time.descent_sampled import SAMPLE, SUMS
from dmft.solvers.two_time.descent_sweep import Samples, Sweep, by_time, overlaps

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
def _close(g, H, middle, share, now, p, g0, gx, G, hx, D, total):  # type: ignore[no-untyped-def]
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

    A part holds `each` samples; arrays as for `along_paths`, `bend`
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


# Samples are summed in this many parts, whatever the number of threads.
PARTS = 16
# Passes over the lines end when the response changes by less, relative to its largest entry.
SETTLED = 1e-3
# Of paths and of lines: their number times (T p)^2, at most; and the least number of either: with
# 32 lines to a scramble, 7 entries of 100 lay beyond three of the errors claimed.
PATHS, LINES, FEWEST = 2**21, 2**16, 64
# Pieces of a line for each field: more than this is a descent that jumps to and fro.
PIECES = 3
# Least slope of a field along the lines in units of its length: below, lines meet too few kinks.
LEAST_SLOPE = 0.01


def measured(sweep: Sweep, nodes: Nodes, past: Array, threads: int = 1) -> Array | None:
    """R_l (n, n, p, p) of the n steps that were done, by the derivative of paths or of lines.

    `past` holds the gradients of the samples as `descent_sweep.march_on` left them;
    the number of threads never changes a result. None without slopes (`DescentTask.slopes`), and
    where lines do not resolve the kinks.
    """
    task = sweep.task
    if task.slopes is None or sweep.done == 0:
        return None
    count = sample_count(task, nodes.normal.shape[1], nodes.scrambled)
    few = Nodes(
        np.ascontiguousarray(nodes.normal[:, :count]), np.ascontiguousarray(nodes.mask[:, :count]),
        nodes.cluster[:count], nodes.scrambled,
    )  # fmt: skip
    with ThreadPoolExecutor(threads) as pool, np.errstate(all="ignore"):
        # What is not finite is told by the status.
        samples = Samples.of(task, few, past[:, :count], pool, threads)
        if task.knots.size == 0:
            return _by_paths(sweep, samples)
        direction = line_direction(sweep)
        return None if direction is None else _by_lines(sweep, samples, direction)


def _beside(sweep: Sweep) -> Arrays:
    """Arrays in which the response is built beside that of the sweep.

    Not R_theta of the sweep: that holds the noise of Stein's identity, which fields do not feel (it
    is orthogonal to what gradients make of their paths), but products of slopes do.
    """
    own = ("R_l", "R_theta", "R_free", "slopes", "to_star", "to_driving", "to_past")
    return sweep.arrays._replace(**{n: np.zeros_like(getattr(sweep.arrays, n)) for n in own})


def _by_paths(sweep: Sweep, samples: Samples) -> Array:
    """Response along the paths; what weights answer to it is built beside."""
    task, p = sweep.task, sweep.task.p
    big = sweep.done * p
    gradients = samples.past[:big]
    history = np.empty((big * (1 + p), gradients.shape[1]))
    history[:big] = gradients
    along, beside = replace(samples, past=history), _beside(sweep)
    for t in range(sweep.done):
        task.process.fields(t, task.par[t], beside)
        row = along.slopes(t, task.slopes, big, sweep.readout[t], sweep.field_weights(t), beside)
        beside.slopes[:, : t + 1] = row.reshape(p, t + 1, p)
        sweep.answer(t, beside)
    return by_time(beside.R_l, sweep.done)


def _by_lines(sweep: Sweep, samples: Samples, direction: Array) -> Array | None:
    """Response along lines of samples.

    A pass over the lines takes R_theta from the pass before, which makes one more step exact and
    the others better by a factor of the learning rate; horizons double, so that none begins from
    nothing.
    """
    p = sweep.task.p
    big = sweep.done * p
    slopes = np.zeros((big, big))
    horizon = known = 0
    while horizon < sweep.done:
        horizon = min(max(1, 2 * horizon), sweep.done)
        for t in range(known, horizon):  # a guess: as one step before
            now, one = slice(t * p, (t + 1) * p), slice((t - 1) * p, t * p)
            if t > 0:
                slopes[now, p : (t + 1) * p] = slopes[one, : t * p]
                slopes[now, :p] = slopes[one, :p] if t > 1 else 0.0
        for _ in range(horizon):
            found = _pass_of_lines(sweep, samples, direction, horizon, slopes)
            if found is None:
                return None
            size = horizon * p
            change = float(np.max(np.abs(found - slopes[:size, :size])))
            slopes[:size, :size] = found
            if not change > SETTLED * float(np.max(np.abs(found))):
                break
        known = horizon
    return by_time(_answers(sweep, slopes, sweep.done).R_l, sweep.done)


def _answers(sweep: Sweep, slopes: Array, steps: int) -> Arrays:
    """Kernels and fields of the first `steps` times at these slopes, over (time, neuron)."""
    task, p = sweep.task, sweep.task.p
    beside = _beside(sweep)
    for t in range(steps):
        task.process.fields(t, task.par[t], beside)
        row = slopes[t * p : (t + 1) * p, : (t + 1) * p]
        beside.slopes[:, : t + 1] = row.reshape(p, t + 1, p)
        sweep.answer(t, beside)
    return beside


def _pass_of_lines(
    sweep: Sweep, samples: Samples, direction: Array, steps: int, slopes: Array
) -> Array | None:
    """E[dg/dr] of the first `steps` times from what fields take of the past at other slopes.

    None where lines break up.
    """
    task, p = sweep.task, sweep.task.p
    big, count = steps * p, samples.label.size
    beside = _answers(sweep, slopes, steps)
    fixed = np.concatenate([task.teacher_readout, task.scalars])
    parts = min(PARTS, count)
    sums = np.zeros((parts, big, big))
    direction = direction[:big] / np.linalg.norm(direction[:big])
    to_past = beside.to_past[:steps, :, :steps]
    head = task.sample, task.slopes, steps
    rest = (
        count // parts, pieces(task), int(task.trained),
        samples.normal, samples.star, samples.label, samples.mask,
        np.hstack([sweep.readout[:steps], np.tile(fixed, (steps, 1))]), task.knots, direction,
        beside.to_star[:steps].reshape(big, task.k), _driven(sweep, steps),
        np.ascontiguousarray(to_past).reshape(big, big), sums,
    )  # fmt: skip

    def work(first: int, last: int) -> bool:
        return bool(along_lines(*head, first, last, *rest))

    cuts = np.linspace(0, parts, min(samples.threads, parts) + 1).astype(int)
    if not all(samples.pool.map(work, cuts[:-1], cuts[1:])):
        return None
    by_fields = sums.sum(axis=0) / (parts * (count // parts))
    by_driving = np.einsum(
        "asm,sml->asl", by_fields.reshape(big, steps, p), beside.to_driving[:steps]
    )
    return np.asarray(by_driving.reshape(big, big))


def _driven(sweep: Sweep, steps: int) -> Array:
    """What the fields of the first `steps` times take of z, over (time, neuron)."""
    p = sweep.task.p
    big = steps * p
    root = sweep.root[:big, :big].reshape(steps, p, big)
    return np.matmul(sweep.arrays.to_driving[:steps], root).reshape(big, big)


def pieces(task: DescentTask) -> int:
    """Pieces that a line may have: one more than fields times knots where none turns back."""
    return PIECES * task.steps * task.p * task.knots.size + FEWEST


def sample_count(task: DescentTask, samples: int, scrambled: bool) -> int:
    """Samples on which the response is measured: as many as cost a small part of the descent.

    A path takes (T p)^3 / 6 operations, a line (T p)^4 / 6 and more; a power of two.
    """
    if not scrambled:
        return 1  # gradients are linear: all samples have one response
    big = task.steps * task.p
    wanted = min(samples // 4, PATHS // big**2)
    if task.knots.size:
        wanted = min(samples // 64, LINES // big**2)
    return min(samples, max(FEWEST, 1 << max(0, wanted.bit_length() - 1)))


def line_direction(sweep: Sweep) -> Array | None:
    """Direction (n p,) in which all fields move, or None where some hardly do.

    It is where the sum over fields of 1/slope^2 is least: what lines contribute at a kink goes with
    the inverse of the slope there.
    """
    n, p = sweep.done, sweep.task.p
    big = n * p
    Q, _ = overlaps(sweep)
    length = np.sqrt(np.einsum("tjj->tj", Q[:n]).reshape(big))
    rows = _driven(sweep, n) / length[:, None]
    best, least = None, LEAST_SLOPE
    for first in range(p):
        # Fields that move against each other count with their signs.
        e = rows[first] / np.linalg.norm(rows[first])
        for _ in range(50):
            slope = rows @ e
            slope = np.where(slope < 0, -1.0, 1.0) * np.maximum(np.abs(slope), LEAST_SLOPE / 2)
            step = rows.T @ slope**-3.0
            e = e + step / np.linalg.norm(step)
            e /= np.linalg.norm(e)
        lowest = float(np.abs(rows @ e).min())
        if lowest > least:
            best, least = e, lowest
    return best

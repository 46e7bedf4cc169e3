r"""Samples of the effective process of a descent: one step in time, compiled, block by block.

The gradient of a sample enters as a first-class function, so that this loop is compiled once for
all models. Blocks are summed in their order whatever thread took them.

The response of smooth gradients is taken along the path of each sample:

Equation    R_l(t, s) = alpha E[H^t D(t, s)], D(t, s) = sum_{s<=u<t} R_theta(t, u) H^u D(u, s),
            D(s, s) = 1; H^t D(t, s) = Y_s of the backward recursion
            Y_t = H^t, Y_s = (sum_{s<v<=t} Y_v R_theta(v, s)) H^s
Source      theory/batch_reuse A.1; the recursion backwards keeps p^2 numbers a step and sample
"""

from __future__ import annotations

import numpy as np
from numba import types

from dmft.compiled import njit
from dmft.compiled.vectors import copy_into
from dmft.solvers.signatures import MATRIX, VECTOR

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.compiled.vectors": "ad8a71f6d01c",
}

# sample: (h (p, n), h_star (k, any), label (n,), times (n,), par, g (p, n), out (1 or 1 + p, n));
# times, how often the batch holds each sample, may be empty where batches are whole.
SAMPLE_SIGNATURE = types.void(MATRIX, MATRIX, VECTOR, VECTOR, VECTOR, MATRIX, MATRIX)
SAMPLE = types.FunctionType(SAMPLE_SIGNATURE)
# Samples that are taken together: their rows stay in the second-level cache.
BLOCK = 512
# Latest innovations that each history meets in averages of the gradient: its own, and those of the
# samples in the other parts of its block, which are neighbours in the Sobol sequence (`sobol_rows`
# puts them a part apart, so that partners are met by whole vectors). Coordinates are scrambled
# independently of each other, so that any such pairing has the right law, and neighbours of a Sobol
# sequence lie evenly in the innovation's space.
PARTNERS = 4
# The partner that gives z^t where another one, by its place here, gives z^{t-1}.
ORDER = (0, 2, 3, 1)
SUMS = types.float64[:, :, ::1]
ADVANCE_SIGNATURE = types.void(
    SAMPLE, types.int64, types.int64, types.int64, types.int64, types.int64, MATRIX, MATRIX, VECTOR,
    VECTOR, VECTOR, MATRIX, MATRIX, MATRIX, MATRIX, SUMS,
)  # fmt: skip
LOSS_SIGNATURE = types.float64[::1](SAMPLE, types.int64, SUMS, MATRIX, MATRIX, VECTOR, MATRIX)
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}


# Rows go four at a time, as vectors of their own: the compiler then keeps sums in registers, and
# the loops take a fifth of the time.
@njit(inner=True, **OPTIONS)
def pull(weights, count, rows, low, h):  # type: ignore[no-untyped-def]
    """Add weights times the first `count` rows to h, for the samples from `low` on."""
    p, n = h.shape
    for j in range(p):
        field = h[j]
        m = 0
        while m + 4 <= count:
            w0, w1, w2, w3 = weights[j, m], weights[j, m + 1], weights[j, m + 2], weights[j, m + 3]
            r0, r1 = rows[m, low : low + n], rows[m + 1, low : low + n]
            r2, r3 = rows[m + 2, low : low + n], rows[m + 3, low : low + n]
            for i in range(n):
                field[i] += w0 * r0[i] + w1 * r1[i] + w2 * r2[i] + w3 * r3[i]
            m += 4
        while m + 2 <= count:
            w0, w1 = weights[j, m], weights[j, m + 1]
            r0, r1 = rows[m, low : low + n], rows[m + 1, low : low + n]
            for i in range(n):
                field[i] += w0 * r0[i] + w1 * r1[i]
            m += 2
        while m < count:
            weight, row = weights[j, m], rows[m, low : low + n]
            for i in range(n):
                field[i] += weight * row[i]
            m += 1


@njit(inner=True, **OPTIONS)
def _moments(g, rows, count, low, share, sums, first):  # type: ignore[no-untyped-def]
    """Add sums over the block of g_j times each of the first `count` rows, from column `first`."""
    p, n = g.shape
    for j in range(p):
        slope = g[j]
        m = 0
        while m + 4 <= count:
            r0, r1 = rows[m, low : low + n], rows[m + 1, low : low + n]
            r2, r3 = rows[m + 2, low : low + n], rows[m + 3, low : low + n]
            s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
            for i in range(n):
                s0 += slope[i] * r0[i]
                s1 += slope[i] * r1[i]
                s2 += slope[i] * r2[i]
                s3 += slope[i] * r3[i]
            for e, total in enumerate((s0, s1, s2, s3)):
                sums[j, first + m + e] += share * total
            m += 4
        while m + 2 <= count:
            r0, r1, s0, s1 = rows[m, low : low + n], rows[m + 1, low : low + n], 0.0, 0.0
            for i in range(n):
                s0 += slope[i] * r0[i]
                s1 += slope[i] * r1[i]
            sums[j, first + m] += share * s0
            sums[j, first + m + 1] += share * s1
            m += 2
        while m < count:
            row, total = rows[m, low : low + n], 0.0
            for i in range(n):
                total += slope[i] * row[i]
            sums[j, first + m] += share * total
            m += 1


@njit(inner=True, **OPTIONS)
def _meet(rows, first, low, partners, other, fresh):  # type: ignore[no-untyped-def]
    """Rows from `first` on of the partners of the samples from `low` on: parts change places."""
    p, n = fresh.shape
    part = n // partners
    for j in range(p):
        for place in range(partners):
            begin = low + (place ^ other) * part
            source = rows[first + j, begin : begin + part]
            target = fresh[j, place * part : (place + 1) * part]
            for i in range(part):
                target[i] = source[i]


@njit(inner=True, **OPTIONS)
def _copy(source, target):  # type: ignore[no-untyped-def]
    """Rows as they are; slices take four times as long, `copy_into` longer too."""
    for j in range(source.shape[0]):
        r, to = source[j], target[j]
        for i in range(r.size):
            to[i] = r[i]


@njit(inner=True, **OPTIONS)
def _pull_pair(one_before, fresh, memory, near, low, latest, met, h):  # type: ignore[no-untyped-def]
    """Add three terms weights (p, p) times rows to h; `near` holds samples from `low` on."""
    p, n = h.shape
    for j in range(p):
        field = h[j]
        for m in range(p):
            w0, w1, w2 = one_before[j, m], memory[j, m], latest[j, m]
            r0, r1, r2 = fresh[m], near[m, low : low + n], met[m]
            for i in range(n):
                field[i] += w0 * r0[i] + w1 * r1[i] + w2 * r2[i]


@njit(inner=True, **OPTIONS)
def _keep(g, rows, first, low):  # type: ignore[no-untyped-def]
    """Write g into rows from `first` on, for the samples from `low` on."""
    p, n = g.shape
    for j in range(p):
        slope, target = g[j], rows[first + j, low : low + n]
        for i in range(n):
            target[i] = slope[i]


@njit(inner=True, **OPTIONS)
def _collect(g, out, share, together, sums):  # type: ignore[no-untyped-def]
    """Add a share of gradients to `together`, and of the sums of `out` to the last rows of sums."""
    p = g.shape[0]
    for j in range(p):
        slope, mean = g[j], together[j]
        for i in range(slope.size):
            mean[i] += share * slope[i]
    for e in range(out.shape[0]):
        row, total = out[e], 0.0
        for i in range(row.size):
            total += row[i]
        sums[p + e, 0] += share * total


@njit(ADVANCE_SIGNATURE, cache=True, **OPTIONS)
def advance(sample, t, first, last, partners, near, normal, star, label, mask, par, past, to_star, to_normal, to_past, sums):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Fields, gradients and their moments at time t, for the blocks first..last-1.

    normal (T p, S) holds the standard normals z^0, z^1, ... of the driving process, star (k, S) the
    teacher's fields, label (S,) the labels, past (more than T p, S) the gradients so far (rows
    t p + j are written), mask (S,) or (0,) how often the batch of this step holds each. Field j is
    to_star[j] star + to_normal[j] z^{0..t} + to_past[j] g^{0..t-1}. sums[b, j], zero before, holds
    over the samples of block b: g_j z^{0..t}, then g_j g^{0..t}, then g_j h*; rows behind p hold
    loss and readout gradients in their first entry.

    g_j z^t is averaged over `partners` (a power of two) innovations z^t of each history; g_j h* and
    the losses over as many pairs of z^{t-1} and z^t. Gradients of the partners at t-1 and t stand
    in rows of `past` from `near` on, two halves that take turns.
    """
    p, k = to_star.shape
    size, rows = star.shape[1], (t + 1) * p
    now, share, half = rows - p, 1.0 / partners, (partners - 1) * p
    before = max(0, now - p)
    latest, one_before = to_normal[:, now:].copy(), to_normal[:, before:now].copy()
    memory = to_past[:, before:now].copy()
    old, new = near + ((t + 1) % 2) * half, near + (t % 2) * half
    pairs = t > 0 and partners > 1
    start = np.int64(0)  # for a zero written out, Numba would compile what it is given to again
    width = min(size, BLOCK)
    base, h, g = np.empty((p, width)), np.empty((p, width)), np.empty((p, width))
    fresh, together = np.empty((p, width)), np.empty((p, width))
    met, out = np.empty((partners, p, width)), np.empty((sums.shape[1] - p, width))
    for b in range(first, last):
        low = b * BLOCK
        n = min(size, low + BLOCK) - low
        if n < width:  # the last block of nodes without scrambles
            base, h, g = np.empty((p, n)), np.empty((p, n)), np.empty((p, n))
            fresh, together = np.empty((p, n)), np.empty((p, n))
            met, out = np.empty((partners, p, n)), np.empty((sums.shape[1] - p, n))
        base[:] = 0.0
        together[:] = 0.0
        for other in range(partners):
            _meet(normal, now, low, partners, other, met[other])
        marks, times = label[low : low + n], mask[low : low + n]
        pull(to_star, k, star, low, base)
        pull(to_normal, before, normal, low, base)
        pull(to_past, before, past, low, base)
        for other in range(1, partners if pairs else 0):
            _meet(normal, before, low, partners, other, fresh)
            row = old + (other - 1) * p
            latest_met = met[ORDER[other] if partners == PARTNERS else other]
            _copy(base, h)
            _pull_pair(one_before, fresh, memory, past[row : row + p], low, latest, latest_met, h)
            sample(h, star, marks, times, par, g, out)
            _collect(g, out, share, together, sums[b])
        pull(one_before, now - before, normal[before:now], low, base)
        pull(memory, now - before, past[before:now], low, base)
        for other in range(partners):
            _copy(base, h)
            pull(latest, p, met[other], start, h)
            sample(h, star, marks, times, par, g, out)
            if other == 0:
                _keep(g, past, now, low)
                _moments(g, normal, now, low, 1.0, sums[b], start)
                _moments(g, past, rows, low, 1.0, sums[b], rows)
            else:
                _keep(g, past, new + (other - 1) * p, low)
            if other == 0 or not pairs:
                _collect(g, out, share, together, sums[b])
            _moments(g, met[other], p, start, share, sums[b], now)
        _moments(together, star, k, low, 1.0, sums[b], 2 * rows)


@njit(LOSS_SIGNATURE, cache=True, **OPTIONS)
def mean_losses(sample, trained, weights, rows, star, label, pars):  # type: ignore[no-untyped-def]
    """Mean losses (n,) of samples with the fields weights[m] (p, r) rows (r, S), for each state m.

    weights (n, p, r), pars (n, any): `par` of each state.
    """
    states, p, size = weights.shape[0], weights.shape[1], label.size
    totals, once = np.zeros(states), np.ones(size)
    width = min(size, BLOCK)
    h, g, out = np.empty((p, width)), np.empty((p, width)), np.empty((1 + trained * p, width))
    for low in range(0, size, BLOCK):
        n = min(size, low + BLOCK) - low
        if n < width:
            h, g, out = np.empty((p, n)), np.empty((p, n)), np.empty((1 + trained * p, n))
        for m in range(states):
            h[:] = 0.0
            pull(weights[m], weights.shape[2], rows, low, h)
            sample(h, star, label[low : low + n], once[low : low + n], pars[m], g, out)
            losses, total = out[0], 0.0
            for i in range(n):
                total += losses[i]
            totals[m] += total
    return totals / size


RESPOND_SIGNATURE = types.void(
    SAMPLE, types.int64, types.int64, types.int64, types.int64, MATRIX, MATRIX, VECTOR, VECTOR,
    VECTOR, MATRIX, MATRIX, MATRIX, MATRIX, MATRIX, SUMS,
)  # fmt: skip


@njit(inner=True, **OPTIONS)
def _backwards(R_theta, slopes, low, t, p, Y):  # type: ignore[no-untyped-def]
    """Fill Y (times, p^2, n) from its last time."""
    n = Y.shape[2]
    pulled = np.empty((p * p, n))
    for s in range(t - 1, -1, -1):
        pulled[:] = 0.0
        for v in range(s + 1, t + 1):
            for m in range(p):
                for c in range(p):
                    weight = R_theta[v * p + m, s * p + c]
                    if weight != 0.0:
                        for j in range(p):
                            for i in range(n):
                                pulled[j * p + c, i] += weight * Y[v, j * p + m, i]
        for j in range(p):
            for c in range(p):
                for i in range(n):
                    Y[s, j * p + c, i] = 0.0
                for m in range(p):
                    row = (s * p + m) * p + c
                    for i in range(n):
                        Y[s, j * p + c, i] += pulled[j * p + m, i] * slopes[row, low + i]


@njit(RESPOND_SIGNATURE, cache=True, **OPTIONS)
def respond(bend, t, first, last, kept, normal, star, label, mask, par, past, to_star, to_normal, to_past, R_theta, sums):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Sums of H^t D(t, s) over the samples of blocks first..last-1: sums[b, j, s p + l].

    Arguments and blocks as for `advance`; rows of `past` from `kept`
    on hold the slopes H^s so far, row p j + l of each time, and those of t are written.
    """
    p, k = to_star.shape
    size, rows = star.shape[1], (t + 1) * p
    for b in range(first, last):
        low = b * BLOCK
        n = min(size, low + BLOCK) - low
        h, H = np.zeros((p, n)), np.empty((p * p, n))
        out = np.empty((1 + p, n))
        pull(to_star, k, star, low, h)
        pull(to_normal, rows, normal, low, h)
        pull(to_past, rows - p, past, low, h)
        bend(h, star, label[low : low + n], mask[low : low + n], par, H, out)
        slopes = past[kept:]
        copy_into(slopes[t * p * p : rows * p, low : low + n], H)
        Y = np.empty((t + 1, p * p, n))
        Y[t] = H
        _backwards(R_theta, slopes, low, t, p, Y)
        for s in range(t + 1):
            for j in range(p):
                for c in range(p):
                    sums[b, j, s * p + c] = Y[s, j * p + c].sum()

"""Samples of the effective process of a descent: one step in time, compiled, block by block.

The gradient of a sample enters as a first-class function, so that this loop is compiled once for
all models. Blocks are summed in their order whatever thread took them.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from dmft.solvers.signatures import MATRIX, VECTOR

# labels: (p, h_star (k, n), zeta (n,), par, label (n,))
LABEL_SIGNATURE = types.void(types.int64, MATRIX, VECTOR, VECTOR, VECTOR)
# sample: (h (p, n), h_star (k, any), label (n,), par, g (p, n), out (1 or 1 + p, n))
SAMPLE_SIGNATURE = types.void(MATRIX, MATRIX, VECTOR, VECTOR, MATRIX, MATRIX)
SAMPLE = types.FunctionType(SAMPLE_SIGNATURE)
# Samples that are taken together: their rows stay in the first-level cache.
BLOCK = 256
# Latest innovations that each history meets in averages of the gradient: its own, and those of the
# samples beside it. Coordinates are scrambled independently of each other, so that any such pairing
# has the right law, and neighbours of a Sobol sequence lie evenly in the innovation's space.
PARTNERS = 4
SUMS = types.float64[:, :, ::1]
ADVANCE_SIGNATURE = types.void(
    SAMPLE, types.int64, types.int64, types.int64, types.int64, MATRIX, MATRIX, VECTOR, VECTOR,
    VECTOR, MATRIX, MATRIX, MATRIX, MATRIX, SUMS,
)  # fmt: skip
LOSS_SIGNATURE = types.float64(SAMPLE, types.boolean, MATRIX, MATRIX, MATRIX, VECTOR, VECTOR)
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}


# Rows go four at a time, as vectors of their own: the compiler then keeps sums in registers, and
# the loops take a fifth of the time.
@njit(**OPTIONS)
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
        while m < count:
            weight, row = weights[j, m], rows[m, low : low + n]
            for i in range(n):
                field[i] += weight * row[i]
            m += 1


@njit(**OPTIONS)
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
        while m < count:
            row, total = rows[m, low : low + n], 0.0
            for i in range(n):
                total += slope[i] * row[i]
            sums[j, first + m] += share * total
            m += 1


@njit(ADVANCE_SIGNATURE, cache=True, **OPTIONS)
def advance(sample, t, first, last, partners, normal, star, label, mask, par, past, to_star, to_normal, to_past, sums):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Fields, gradients and their moments at time t, for the blocks first..last-1.

    normal (T p, S) holds the standard normals z^0, z^1, ... of the driving process, star (k, S) the
    teacher's fields, label (S,) the labels, past (T p, S) the gradients so far (rows t p + j are
    written), mask (S,) or (0,) the weights of the samples in this step. Field j is
    to_star[j] star + to_normal[j] z^{0..t} + to_past[j] g^{0..t-1}. sums[b, j], zero before, holds
    over the samples of block b: g_j z^{0..t}, then g_j g^{0..t}, then g_j h*; rows behind p hold
    loss and readout gradients in their first entry. What holds z^t alone (g_j z^t, g_j h*, losses)
    is averaged over `partners` (a power of two) innovations z^t of each history.
    """
    p, k = to_star.shape
    size, rows = star.shape[1], (t + 1) * p
    now, share = rows - p, 1.0 / partners
    latest = to_normal[:, now:].copy()
    for b in range(first, last):
        low = b * BLOCK
        n = min(size, low + BLOCK) - low
        base, h, g = np.zeros((p, n)), np.empty((p, n)), np.empty((p, n))
        fresh, together = np.empty((p, n)), np.zeros((p, n))
        out, marks = np.empty((sums.shape[1] - p, n)), label[low : low + n]
        pull(to_star, k, star, low, base)
        pull(to_normal, now, normal, low, base)
        pull(to_past, now, past, low, base)
        for other in range(partners):
            for j in range(p):
                source, target = normal[now + j, low : low + n], fresh[j]
                for i in range(n):
                    target[i] = source[i ^ other]
            h[:] = base
            pull(latest, p, fresh, 0, h)
            sample(h, star, marks, par, g, out)
            for j in range(p):
                slope, mean = g[j], together[j]
                if mask.size > 0:
                    weight = mask[low : low + n]
                    for i in range(n):
                        slope[i] *= weight[i]
                for i in range(n):
                    mean[i] += share * slope[i]
            if other == 0:
                past[now:rows, low : low + n] = g
                _moments(g, normal, now, low, 1.0, sums[b], 0)
                _moments(g, past, rows, low, 1.0, sums[b], rows)
            _moments(g, fresh, p, 0, share, sums[b], now)
            for e in range(out.shape[0]):
                row, total = out[e], 0.0
                for i in range(n):
                    total += row[i]
                sums[b, p + e, 0] += share * total
        _moments(together, star, k, low, 1.0, sums[b], 2 * rows)


@njit(LOSS_SIGNATURE, cache=True, **OPTIONS)
def mean_loss(sample, trained, weights, rows, star, label, par):  # type: ignore[no-untyped-def]
    """Mean loss of samples with the fields weights (p, r) rows (r, S)."""
    p, size = weights.shape[0], label.size
    g = np.empty((p, BLOCK))
    total = 0.0
    for low in range(0, size, BLOCK):
        n = min(size, low + BLOCK) - low
        h, out = np.zeros((p, n)), np.empty((1 + (p if trained else 0), n))
        pull(weights, weights.shape[1], rows, low, h)
        if n < BLOCK:
            g = np.empty((p, n))
        sample(h, star, label[low : low + n], par, g, out)
        total += out[0].sum()
    return total / size

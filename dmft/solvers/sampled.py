"""Samples of the effective process of a descent: one step in time, compiled, block by block.

The gradient of a sample enters as a first-class function, so that this loop is compiled once for
all models. Blocks are summed in their order whatever thread took them.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from dmft.solvers.signatures import MATRIX, VECTOR

# sample: (h (p, n), h_star (k, n), zeta (n,), par, g (p, n), out (1 or 1 + p, n))
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
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}


@njit(**OPTIONS)
def pull(weights, count, rows, low, h):  # type: ignore[no-untyped-def]
    """Add weights times the first `count` rows to h, for the samples from `low` on."""
    p, n = h.shape
    for m in range(count):
        for j in range(p):
            weight = weights[j, m]
            if weight != 0.0:
                for i in range(n):
                    h[j, i] += weight * rows[m, low + i]


@njit(**OPTIONS)
def _moments(g, rows, count, low, share, sums, first):  # type: ignore[no-untyped-def]
    """Add sums over the block of g_j times each of the first `count` rows, from column `first`."""
    p, n = g.shape
    for j in range(p):
        for m in range(count):
            total = 0.0
            for i in range(n):
                total += g[j, i] * rows[m, low + i]
            sums[j, first + m] += share * total


@njit(ADVANCE_SIGNATURE, cache=True, **OPTIONS)
def advance(sample, t, first, last, partners, normal, star, zeta, mask, par, past, to_star, to_normal, to_past, sums):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Fields, gradients and their moments at time t, for the blocks first..last-1.

    normal (T p, S) holds the standard normals z^0, z^1, ... of the driving process, star (k, S) the
    teacher's fields, past (T p, S) the gradients so far (rows t p + j are written), mask (S,) or
    (0,) the weights of the samples in this step. Field j is
    to_star[j] star + to_normal[j] z^{0..t} + to_past[j] g^{0..t-1}. sums[b, j], zero before, holds
    over the samples of block b: g_j z^{0..t}, then g_j g^{0..t}, then g_j h*; rows behind p hold
    loss and readout gradients in their first entry. What holds z^t alone (g_j z^t, g_j h*, losses)
    is averaged over `partners` (a power of two) innovations z^t of each history.
    """
    p, k = to_star.shape
    size, rows = star.shape[1], (t + 1) * p
    now, share = rows - p, 1.0 / partners
    for b in range(first, last):
        low = b * BLOCK
        n = min(size, low + BLOCK) - low
        base, h, g = np.zeros((p, n)), np.empty((p, n)), np.empty((p, n))
        fresh, out = np.empty((p, n)), np.empty((sums.shape[1] - p, n))
        h_star = star[:, low : low + n].copy()
        pull(to_star, k, star, low, base)
        pull(to_normal, now, normal, low, base)
        pull(to_past, now, past, low, base)
        for other in range(partners):
            for j in range(p):
                for i in range(n):
                    fresh[j, i] = normal[now + j, low + (i ^ other)]
                    h[j, i] = base[j, i]
            pull(to_normal[:, now:], p, fresh, 0, h)
            sample(h, h_star, zeta[low : low + n], par, g, out)
            if mask.size > 0:
                for j in range(p):
                    for i in range(n):
                        g[j, i] *= mask[low + i]
            if other == 0:
                past[now:rows, low : low + n] = g
                _moments(g, normal, now, low, 1.0, sums[b], 0)
                _moments(g, past, rows, low, 1.0, sums[b], rows)
            _moments(g, fresh, p, 0, share, sums[b], now)
            _moments(g, star, k, low, share, sums[b], 2 * rows)
            for e in range(out.shape[0]):
                total = 0.0
                for i in range(n):
                    total += out[e, i]
                sums[b, p + e, 0] += share * total

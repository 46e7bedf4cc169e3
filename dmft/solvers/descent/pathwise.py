"""Response of a descent along the path of each sample: smooth activations only.

Equation    R_l(t, s) = alpha E[H^t D(t, s)], D(t, s) = sum_{s<=u<t} R_theta(t, u) H^u D(u, s),
            D(s, s) = 1; H^t D(t, s) = Y_s of the backward recursion
            Y_t = H^t, Y_s = (sum_{s<v<=t} Y_v R_theta(v, s)) H^s
Source      theory/batch_reuse A.1; the recursion backwards keeps p^2 numbers a step and sample
"""

from __future__ import annotations

import numpy as np
from numba import types

from dmft.compiled import njit
from dmft.compiled.copying import copy_into
from dmft.solvers.descent.sampled import BLOCK, OPTIONS, SAMPLE, SUMS, pull
from dmft.solvers.signatures import MATRIX, VECTOR

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.compiled.copying": "c5364e4a5c02",
    "dmft.solvers.descent.sampled": "692d10a1e799",
}

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

    Arguments and blocks as for `dmft.solvers.descent.sampled.advance`; rows of `past` from `kept`
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

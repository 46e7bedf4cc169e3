r"""Compiled steps of sequence models: weights in R^d, and the chain of the alignments.

Student and target read their tokens along a few orthonormal directions u_1 = w*/sqrt(D), u_2, ...
(encodings, or the copies of w* in the blocks of an untied network), where D is the dimension of the
weights. With w = sqrt(D) (sum_b v_b u_b + rho u), |v|^2 + rho^2 = 1, a sample moves

    w <- sqrt(D) (w - gamma G) / |w - gamma G|,   G = sum_t g_t (x_t + p_t) / sqrt(D),

and what x_t has outside the span of the u_b and u enters through its squared norm only, which is
chi-square (sequence.md C.5): the chain of v is exact in law at a cost independent of D.

One file on purpose: Numba's cache does not see changes of compiled functions in other files.
"""

from __future__ import annotations

import math

import numpy as np
from numba import typeof, types

from dmft.compiled import njit

GENERATOR = typeof(np.random.default_rng(0))
VECTOR = types.float64[::1]
MATRIX = types.float64[:, ::1]
INTEGERS = types.int64[::1]
UPDATE = types.FunctionType(types.void(VECTOR, VECTOR, VECTOR))

# How a call ended.
REACHED, PASSED, NONFINITE = 0, 1, 3  # as in `kernels`

# counts = [steps, batch, D, tokens of the student, tokens of the target, outputs, tied];
# gammas = the learning rate of each step, or one for all;
# rates = [noise standard deviation, watched overlap or 0].
CHAIN = types.UniTuple(types.int64, 2)(
    VECTOR, MATRIX, VECTOR, VECTOR, INTEGERS, UPDATE, VECTOR, VECTOR, GENERATOR
)
WEIGHTS = types.UniTuple(types.int64, 2)(
    VECTOR, MATRIX, MATRIX, VECTOR, VECTOR, INTEGERS, UPDATE, VECTOR, VECTOR, GENERATOR
)


@njit(CHAIN, nogil=True, cache=True, error_model="numpy")
def chain_steps(v, shift, gammas, rates, counts, update, par, scale, rng):  # type: ignore[no-untyped-def]
    """Move v (r,) by steps of the chain; shift (T, r) holds the encodings, scale (r,) the watch."""
    steps, batch, dim, tokens, targets, outputs, tied = counts
    r = v.size
    root = math.sqrt(dim)
    x, g = np.empty(tokens + targets + outputs), np.empty(tokens)
    a, c, W = np.empty((tokens, r)), np.empty(tokens), np.empty(r)
    for n in range(steps):
        size = gammas[min(n, gammas.size - 1)] / (batch * root)
        rho = math.sqrt(max(0.0, 1.0 - np.sum(v * v)))
        for b in range(r):
            W[b] = root * v[b]
        along, spread = root * rho, 0.0
        for _ in range(batch):
            for t in range(tokens):
                c[t] = rng.standard_normal()
                field = rho * c[t]
                for b in range(r):
                    a[t, b] = rng.standard_normal()
                    field += v[b] * (a[t, b] + shift[t, b])
                x[t] = field
            for t in range(targets):
                x[tokens + t] = a[t, 0] if tied else a[0, t]
            for o in range(outputs):
                x[tokens + targets + o] = rates[0] * rng.standard_normal()
            update(x, par, g)
            for t in range(tokens):
                for b in range(r):
                    W[b] -= size * g[t] * (a[t, b] + shift[t, b])
                along -= size * g[t] * c[t]
                spread += g[t] * g[t]
        if dim > r + 1:
            spread *= size * size * rng.chisquare(dim - r - 1)
        else:
            spread = 0.0
        length = math.sqrt(np.sum(W * W) + along * along + spread)
        if not length < math.inf:
            return NONFINITE, n
        passed = False
        for b in range(r):
            v[b] = W[b] / length
            passed |= abs(v[b]) * scale[b] >= rates[1] > 0.0
        if passed:
            return PASSED, n + 1
    return REACHED, steps


@njit(WEIGHTS, nogil=True, cache=True, error_model="numpy")
def weight_steps(w, basis, shift, gammas, rates, counts, update, par, scale, rng):  # type: ignore[no-untyped-def]
    """Move w (D,) by steps of SGD; basis (r, D) is orthonormal."""
    steps, batch, dim, tokens, targets, outputs, tied = counts
    r = basis.shape[0]
    root = math.sqrt(dim)
    x, g = np.empty(tokens + targets + outputs), np.empty(tokens)
    inputs, change = np.empty((tokens, dim)), np.empty(dim)
    for n in range(steps):
        size = gammas[min(n, gammas.size - 1)] / (batch * root)
        change[:] = 0.0
        for _ in range(batch):
            for t in range(tokens):
                for i in range(dim):
                    inputs[t, i] = rng.standard_normal()
            for t in range(targets):
                row, column = (t, 0) if tied else (0, t)
                x[tokens + t] = np.dot(inputs[row], basis[column])
            for t in range(tokens):
                for b in range(r):
                    if shift[t, b] != 0.0:
                        inputs[t] += shift[t, b] * basis[b]
                x[t] = np.dot(w, inputs[t]) / root
            for o in range(outputs):
                x[tokens + targets + o] = rates[0] * rng.standard_normal()
            update(x, par, g)
            for t in range(tokens):
                change += size * g[t] * inputs[t]
        w -= change
        length = math.sqrt(np.dot(w, w))
        if not length < math.inf:
            return NONFINITE, n
        w *= root / length
        if rates[1] > 0.0:
            for b in range(r):
                if abs(np.dot(w, basis[b])) / root * scale[b] >= rates[1]:
                    return PASSED, n + 1
    return REACHED, steps


@njit(types.float64(MATRIX, UPDATE, VECTOR), nogil=True, cache=True, error_model="numpy")
def mean_value(rows, function, par):  # type: ignore[no-untyped-def]
    """Mean of a function of the rows."""
    out, total = np.empty(1), 0.0
    for i in range(rows.shape[0]):
        function(rows[i], par, out)
        total += out[0]
    return total / rows.shape[0]

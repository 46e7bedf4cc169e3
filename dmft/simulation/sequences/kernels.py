r"""Compiled steps of sequence models: weights in R^d, and the chain of the alignments.

Student and target read their tokens along a few orthonormal directions u_1 = w*/sqrt(D), u_2, ...
(encodings, or the copies of w* in the blocks of an untied network), where D is the dimension of the
weights. With w = sqrt(D) (sum_b v_b u_b + rho u), |v|^2 + rho^2 = 1, a sample moves

    w <- sqrt(D) (w - gamma G) / |w - gamma G|,   G = sum_t g_t (x_t + p_t) / sqrt(D),

and what x_t has outside the span of the u_b and u enters through its squared norm only, which is
chi-square (theory/sequence C.5): the chain of v is exact in law at a cost independent of D.

One file on purpose: Numba's cache does not see changes of compiled functions in other files.
"""

from __future__ import annotations

import math

import numpy as np
from numba import typeof, types

from dmft.compiled import njit
from dmft.compiled.vectors import copy_into

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.compiled.vectors": "72694cd5112f",
}

GENERATOR = typeof(np.random.default_rng(0))
VECTOR = types.float64[::1]
MATRIX = types.float64[:, ::1]
CUBE = types.float64[:, :, ::1]
INTEGERS = types.int64[::1]
UPDATE = types.FunctionType(types.void(VECTOR, VECTOR, VECTOR))
PLAIN = {"nogil": True, "cache": True, "error_model": "numpy"}

# How a call ended.
REACHED, PASSED, NONFINITE = 0, 1, 3  # as in `kernels`
# Columns of `watch`.
SIDE, LEVEL, EVERY = range(3)

# counts = [steps, batch, D, tokens of the student, of the target, outputs, tied, first step];
# gammas = the learning rate of each step, or one for all; noise is a standard deviation.
# After every `every`-th step side * quantity is compared with side * level from above, where `side`
# is not zero, quantity(alignments of v, risk): alignments = `directions` v, and the mean of `loss`
# over `nodes`, where there are any, is the risk.
WATCHED = (VECTOR, UPDATE, MATRIX, CUBE, UPDATE)
COMMON = (MATRIX, VECTOR, types.float64, INTEGERS, UPDATE, VECTOR, *WATCHED, GENERATOR)
CHAIN = types.UniTuple(types.int64, 2)(VECTOR, *COMMON)
WEIGHTS = types.UniTuple(types.int64, 2)(VECTOR, MATRIX, *COMMON)


@njit(VECTOR(VECTOR, MATRIX, INTEGERS, CUBE, UPDATE, VECTOR), **PLAIN)
def mean_loss(v, shift, counts, nodes, loss, par):  # type: ignore[no-untyped-def]
    """Mean of the loss without noise at coordinates v, over each set of normal points."""
    tokens, targets, outputs, tied = counts[3:7]
    x, out = np.zeros(tokens + targets + outputs), np.empty(1)
    found = np.zeros(nodes.shape[0])
    rho = math.sqrt(max(0.0, 1.0 - np.dot(v, v)))
    spread = math.sqrt(max(0.0, 1.0 - v[0] * v[0]))
    positions = np.dot(shift, v)
    for n in range(nodes.shape[0]):
        for i in range(nodes.shape[1]):
            z = nodes[n, i]
            for t in range(targets):
                x[tokens + t] = z[t]
            if tied:
                for t in range(tokens):
                    x[t] = v[0] * z[t] + spread * z[targets + t] + positions[t]
            else:
                x[0] = np.dot(z[:targets], v) + rho * z[targets]
            loss(x, par, out)
            found[n] += out[0] / nodes.shape[1]
    return found


@njit(types.float64(VECTOR, MATRIX, INTEGERS, VECTOR, UPDATE, MATRIX, CUBE, UPDATE), **PLAIN)
def quantity_at(v, shift, counts, par, quantity, directions, nodes, loss):  # type: ignore[no-untyped-def]
    """What is watched, at coordinates v."""
    n = directions.shape[0]
    x, out = np.zeros(n + 1), np.empty(1)
    copy_into(x, np.dot(directions, v))
    if nodes.shape[0] > 0:
        x[n] = mean_loss(v, shift, counts, nodes, loss, par).mean()
    quantity(x, par, out)
    return out[0]


@njit(CHAIN, **PLAIN)
def chain_steps(  # type: ignore[no-untyped-def]
    v, shift, gammas, noise, counts, update, par, watch, quantity, directions, nodes, loss, rng
):
    """Move v (r,) by steps of the chain; shift (T, r) holds the encodings."""
    steps, batch, dim, tokens, targets, outputs, tied, first = counts
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
                x[tokens + targets + o] = noise * rng.standard_normal()
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
        copy_into(v, W / length)
        if watch[SIDE] != 0.0 and (first + n + 1) % watch[EVERY] == 0.0:
            found = quantity_at(v, shift, counts, par, quantity, directions, nodes, loss)
            if watch[SIDE] * found <= watch[SIDE] * watch[LEVEL]:
                return PASSED, n + 1
    return REACHED, steps


@njit(WEIGHTS, **PLAIN)
def weight_steps(  # type: ignore[no-untyped-def]
    w,
    basis,
    shift,
    gammas,
    noise,
    counts,
    update,
    par,
    watch,
    quantity,
    directions,
    nodes,
    loss,
    rng,
):
    """Move w (D,) by steps of SGD; basis (r, D) is orthonormal."""
    steps, batch, dim, tokens, targets, outputs, tied, first = counts
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
                x[tokens + targets + o] = noise * rng.standard_normal()
            update(x, par, g)
            for t in range(tokens):
                change += size * g[t] * inputs[t]
        w -= change
        length = math.sqrt(np.dot(w, w))
        if not length < math.inf:
            return NONFINITE, n
        w *= root / length
        if watch[SIDE] != 0.0 and (first + n + 1) % watch[EVERY] == 0.0:
            v = np.dot(basis, w) / root
            found = quantity_at(v, shift, counts, par, quantity, directions, nodes, loss)
            if watch[SIDE] * found <= watch[SIDE] * watch[LEVEL]:
                return PASSED, n + 1
    return REACHED, steps

"""Compiled steps of the weights themselves: vectors in R^d, the plain definition.

Numba's cache does not notice changes of the functions that come from `kernels`: their stamp stands
here, and tests/emit/restamp.py renews it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numpy.typing import NDArray

from dmft.compiled import njit
from dmft.simulation.kernels import (
    COMMON,
    FREE,
    PASSED,
    REACHED,
    SPHERE_GRADIENT,
    has_passed,
    length_status,
    move_readout,
    sample_updates,
)
from dmft.simulation.passage import WATCH_NOTHING
from dmft.simulation.risk import MATRIX

# Lets sums over the d inputs vectorise; NaN and infinity keep their meaning.
REORDER = {"reassoc", "contract"}

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.simulation.kernels": "2ee500a2444b",
}


@njit(nogil=True, cache=True, error_model="numpy")
def shorten(W, share):  # type: ignore[no-untyped-def]
    """Take a share of all weights away."""
    for j in range(W.shape[0]):
        for i in range(W.shape[1]):
            W[j, i] *= 1.0 - share


@njit(nogil=True, cache=True, error_model="numpy", fastmath=REORDER)
def dot(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Sum of x_i y_i."""
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=REORDER)
def add_multiple(x: NDArray[np.float64], factor: float, y: NDArray[np.float64]) -> None:
    """Add factor y to x, in place."""
    for i in range(x.size):
        x[i] += factor * y[i]


@njit(nogil=True, cache=True, error_model="numpy")
def measure(W, W_star, Q, M):  # type: ignore[no-untyped-def]
    """Write Q = W W^T / d and M = W W*^T / d."""
    p, d = W.shape
    for j in range(p):
        for i in range(j + 1):
            Q[j, i] = dot(W[j], W[i]) / d
            Q[i, j] = Q[j, i]
        for r in range(W_star.shape[0]):
            M[j, r] = dot(W[j], W_star[r]) / d


@njit(nogil=True, cache=True, error_model="numpy")
def move_rows(W, G, Q, constraint):  # type: ignore[no-untyped-def]
    """Add the step G to W under the constraint; the status of the lengths, squared in Q_jj."""
    p, d = W.shape
    if constraint == SPHERE_GRADIENT:
        for j in range(p):
            add_multiple(G[j], -dot(G[j], W[j]) / d, W[j])
    for j in range(p):
        add_multiple(W[j], 1.0, G[j])
        Q[j, j] = dot(W[j], W[j]) / d
    code = length_status(Q)
    if code == REACHED and constraint != FREE:
        for j in range(p):
            inverse = 1.0 / math.sqrt(Q[j, j])
            for i in range(d):
                W[j, i] *= inverse
    return code


@njit(
    types.UniTuple(types.int64, 2)(MATRIX, MATRIX, MATRIX, MATRIX, *COMMON),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def advance_weights(  # type: ignore[no-untyped-def]
    W, W_star, Q, M, P, a, a_star, rates, counts, watch, risk,
    sigma, slope, sigma_star, pull, par, par_star, label, rule, generator,
):  # fmt: skip
    """Carry W (p, d) on in place; returns the status code and the steps done.

    Q and M are work space for the constraint and for what is watched.
    """
    p, d = W.shape
    k, batch, root_d = W_star.shape[0], counts[2], math.sqrt(d)
    X, G, psi, h, h_star = np.empty(d), np.empty((p, d)), np.empty(p), np.empty(p), np.empty(k)
    push = np.zeros(p)
    for step in range(counts[0]):
        G[:, :] = 0.0
        for _ in range(batch):
            for i in range(d):
                X[i] = generator.standard_normal()
            for j in range(p):
                h[j] = dot(W[j], X) / root_d
            for r in range(k):
                h_star[r] = dot(W_star[r], X) / root_d
            noise = rates[1] * generator.standard_normal() if rates[1] > 0.0 else 0.0
            for r in range(1, counts[5]):
                par_star[r - 1] = h_star[r]
            sample_updates(
                h, h_star, a, a_star, noise, sigma, slope, sigma_star, pull,
                par, par_star, label, psi, push,
            )  # fmt: skip
            for j in range(p):
                add_multiple(G[j], rates[0] * psi[j] / root_d, X)
        move_readout(a, rates[0] * rates[2] / d, push)
        if rates[3] > 0.0:
            shorten(W, rates[3])
        code = move_rows(W, G, Q, counts[3])
        if code != REACHED:
            return code, step + 1
        if watch[0] != WATCH_NOTHING and (counts[1] + step + 1) % int(watch[2]) == 0:
            measure(W, W_star, Q, M)
            if has_passed(Q, M, P, a, a_star, risk, sigma, sigma_star, par, par_star, rule, watch):
                return PASSED, step + 1
    return REACHED, counts[0]

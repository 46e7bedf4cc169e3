"""Compiled operations on weights and inputs, vectors in R^d."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dmft.compiled import njit
from dmft.simulation.steps.common import FREE, SPHERE_GRADIENT

# Lets sums over the d inputs vectorise; NaN and infinity keep their meaning.
REORDER = {"reassoc", "contract"}


@njit(nogil=True, cache=True, error_model="numpy", fastmath=REORDER, inner=True)
def dot(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Sum of x_i y_i."""
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath=REORDER, inner=True)
def add_multiple(x: NDArray[np.float64], factor: float, y: NDArray[np.float64]) -> None:
    """Add factor y to x, in place."""
    for i in range(x.size):
        x[i] += factor * y[i]


@njit(nogil=True, cache=True, error_model="numpy", fastmath=REORDER, inner=True)
def weighted_dot(x, y, deviations):  # type: ignore[no-untyped-def]
    """Sum of x_i y_i over inputs of these standard deviations, one where there are none."""
    if deviations.size == 0:
        return dot(x, y)
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i] * deviations[i] * deviations[i]
    return total


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def draw_input(generator, W_star, clusters, cluster, deviations, X):  # type: ignore[no-untyped-def]
    """Draw one input x (d,), of a cluster where that is not negative.

    Deviations are those of the d coordinates, and then those in each cluster where they differ.
    """
    for i in range(X.size):
        X[i] = generator.standard_normal()
    if deviations.size > 0:
        first = (1 + cluster) * X.size if deviations.size > X.size else 0
        for i in range(X.size):
            X[i] *= deviations[first + i]
    if cluster >= 0:
        for i in range(X.size):
            X[i] *= clusters[cluster, 1]
        for r in range(W_star.shape[0]):
            add_multiple(X, clusters[cluster, 2 + r] / math.sqrt(X.size), W_star[r])


@njit(nogil=True, cache=True, error_model="numpy")
def measure(W, W_star, deviations, Q, M):  # type: ignore[no-untyped-def]
    """Write Q = W Sigma W^T / d and M = W Sigma W*^T / d."""
    p, d = W.shape
    for j in range(p):
        for i in range(j + 1):
            Q[j, i] = weighted_dot(W[j], W[i], deviations) / d
            Q[i, j] = Q[j, i]
        for r in range(W_star.shape[0]):
            M[j, r] = weighted_dot(W[j], W_star[r], deviations) / d


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def move_rows(W, G, Q, constraint):  # type: ignore[no-untyped-def]
    """Add the step G to W, radial parts left out where asked for; squared lengths go to Q_jj."""
    p, d = W.shape
    if constraint == SPHERE_GRADIENT:
        for j in range(p):
            add_multiple(G[j], -dot(G[j], W[j]) / d, W[j])
    for j in range(p):
        add_multiple(W[j], 1.0, G[j])
        Q[j, j] = dot(W[j], W[j]) / d


@njit(nogil=True, cache=True, error_model="numpy", inner=True)
def normalise_rows(W, Q, constraint):  # type: ignore[no-untyped-def]
    """Divide every row by its length, the root of Q_jj, where it is kept."""
    if constraint != FREE:
        for j in range(W.shape[0]):
            inverse = 1.0 / math.sqrt(Q[j, j])
            for i in range(W.shape[1]):
                W[j, i] *= inverse

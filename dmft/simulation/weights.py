"""One-pass SGD on the weights themselves: vectors in R^d, the plain definition."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from dmft.model import Overlaps
from dmft.simulation.declaration import Experiment
from dmft.simulation.factor import factor
from dmft.simulation.passage import WATCH_NOTHING, has_passed
from dmft.simulation.risk import MATRIX, Rule
from dmft.simulation.steps import (
    COMMON,
    PASSED,
    REACHED,
    Constants,
    Runner,
    length_status,
    sample_updates,
)

# Lets sums over the d inputs vectorise; NaN and infinity keep their meaning.
REORDER = {"reassoc", "contract"}


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
def divide_by_length(W, Q):  # type: ignore[no-untyped-def]
    """Put every row on the sphere |w|^2 = d; Q holds |w_j|^2 / d on its diagonal."""
    for j in range(W.shape[0]):
        inverse = 1.0 / math.sqrt(Q[j, j])
        for i in range(W.shape[1]):
            W[j, i] *= inverse


@njit(
    types.UniTuple(types.int64, 2)(MATRIX, MATRIX, MATRIX, MATRIX, *COMMON),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def advance_weights(  # type: ignore[no-untyped-def]
    W, W_star, Q, M, P, a, a_star, rates, counts, watch,
    sigma, slope, sigma_star, par, par_star, rule, generator,
):  # fmt: skip
    """Carry W (p, d) on in place; returns the status code and the steps done.

    Q and M are work space for the constraint and for what is watched.
    """
    p, d = W.shape
    k, batch = W_star.shape[0], counts[2]
    root_d = math.sqrt(d)
    X, psi, h, h_star = np.empty((batch, d)), np.empty((batch, p)), np.empty(p), np.empty(k)
    for step in range(counts[0]):
        for mu in range(batch):
            for i in range(d):
                X[mu, i] = generator.standard_normal()
            for j in range(p):
                h[j] = dot(W[j], X[mu]) / root_d
            for r in range(k):
                h_star[r] = dot(W_star[r], X[mu]) / root_d
            noise = rates[1] * generator.standard_normal() if rates[1] > 0.0 else 0.0
            sample_updates(
                h, h_star, a, a_star, noise, sigma, slope, sigma_star, par, par_star, psi[mu]
            )
        for mu in range(batch):
            for j in range(p):
                add_multiple(W[j], rates[0] * psi[mu, j] / root_d, X[mu])
        for j in range(p):
            Q[j, j] = dot(W[j], W[j]) / d
        code = length_status(Q)
        if code != REACHED:
            return code, step + 1
        if counts[3]:
            divide_by_length(W, Q)
        if watch[0] != WATCH_NOTHING and (counts[1] + step + 1) % int(watch[2]) == 0:
            measure(W, W_star, Q, M)
            if has_passed(Q, M, P, a, a_star, sigma, sigma_star, par, par_star, rule, watch):
                return PASSED, step + 1
    return REACHED, counts[0]


def random_weights(
    p: int, k: int, dim: int, sphere: bool, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Student rows iid N(0, I_d), on the sphere if asked; teacher rows orthogonal."""
    W = generator.standard_normal((p, dim))
    if sphere:
        W *= np.sqrt(dim) / np.linalg.norm(W, axis=1, keepdims=True)
    return W, np.sqrt(dim) * _orthonormal(k, dim, generator)


def weights_with_overlaps(
    start: Overlaps, dim: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights W (p, d), W* (k, d) with exactly these overlaps, in random directions."""
    A, _ = factor(start.Omega)
    rows = np.sqrt(dim) * (A @ _orthonormal(A.shape[1], dim, generator))
    return np.ascontiguousarray(rows[: start.p]), np.ascontiguousarray(rows[start.p :])


def _orthonormal(rows: int, dim: int, generator: np.random.Generator) -> NDArray[np.float64]:
    basis, _ = np.linalg.qr(generator.standard_normal((dim, rows)))
    return np.ascontiguousarray(basis.T)


def weights_runner(
    experiment: Experiment,
    weights: tuple[NDArray[np.float64], NDArray[np.float64]],
    rule: Rule,
    watch: NDArray[np.float64],
    generator: np.random.Generator,
) -> Runner:
    """A run of SGD from these weights (W, W*)."""
    W, W_star = weights
    Q, M = np.empty((experiment.p, experiment.p)), np.empty((experiment.p, experiment.k))
    P = W_star @ W_star.T / experiment.dim
    constants = Constants(P, experiment, rule, watch, generator)

    def advance(first: int, steps: int) -> tuple[int, int]:
        return advance_weights(W, W_star, Q, M, *constants.arguments(first, steps))

    def overlaps() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        measure(W, W_star, Q, M)
        return Q.copy(), M.copy()

    return Runner(advance, overlaps, P, watch)

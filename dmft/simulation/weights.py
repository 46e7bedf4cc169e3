"""Runs of one-pass SGD on the weights themselves: vectors in R^d, the plain definition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmft.model import Overlaps
from dmft.simulation.declaration import Experiment
from dmft.simulation.risk import Rule
from dmft.simulation.runner import Constants, Runner
from dmft.simulation.steps.factor import factor
from dmft.simulation.steps.rows import measure
from dmft.simulation.steps.weights import advance_weights


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
    G, push = np.zeros_like(W), np.zeros(experiment.p)  # the last step
    P = W_star @ W_star.T / experiment.dim
    constants = Constants(P, experiment, rule, watch, generator)

    state = (W, W_star, Q, M, G, push)
    advance = constants.advance(advance_weights, "advance_general_weights", state)

    def overlaps() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        measure(W, W_star, Q, M)
        return Q.copy(), M.copy(), constants.readout.copy()

    return Runner(advance, overlaps, P, watch)

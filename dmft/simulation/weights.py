"""Runs of one-pass SGD on the weights themselves: vectors in R^d, the plain definition."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.model import Overlaps
from dmft.names import BLOCK, KEPT
from dmft.simulation.declaration import Experiment
from dmft.simulation.jobs import Constants, Observe, Runner
from dmft.simulation.risks.risk import Rule
from dmft.simulation.steps.common import factor
from dmft.simulation.steps.optimiser import kept_rows
from dmft.simulation.steps.sample import gradient
from dmft.simulation.steps.weights import UNSCALED, advance_weights, measure


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


def weights_by_block(
    start: Overlaps, counts: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights W (p, d), W* (k, d) with these overlaps within each block of coordinates."""
    parts = []
    for e, (gram, size) in enumerate(zip(start.Omega, counts, strict=True)):
        A, _ = factor(gram)
        if A.shape[1] > size:
            raise BadParameter(
                f"block {e} of the spectrum holds {size} of the dim = {counts.sum()} coordinates, "
                f"but its overlaps have rank {A.shape[1]}: use a larger dim"
            )
        parts.append(A @ _orthonormal(A.shape[1], size, generator))
    rows = np.sqrt(counts.sum()) * np.concatenate(parts, axis=1)
    return np.ascontiguousarray(rows[: start.p]), np.ascontiguousarray(rows[start.p :])


def within_blocks(
    rows: NDArray[np.float64], others: NDArray[np.float64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Overlaps of rows in R^d within each block of coordinates, (B, p, k)."""
    edges = np.concatenate([[0], np.cumsum(counts)])
    parts = [rows[:, a:b] @ others[:, a:b].T for a, b in itertools.pairwise(edges)]
    return np.array(parts) / counts.sum()


def grams(
    experiment: Experiment, rows: Mapping[str, NDArray[np.float64]], W_star: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Gram matrices of rows that an optimiser keeps, and all by block of a spectrum."""
    pairs = {f"{row}_M": (y, W_star) for row, y in rows.items() if row}
    for row, y in rows.items():
        pairs |= {f"{row}_{name or 'Q'}": (y, other) for name, other in rows.items() if row}
        pairs[row] = (y, y)
    whole = {name: pair for name, pair in pairs.items() if name in KEPT}
    spectrum = experiment.spectrum
    if spectrum is None:
        return {name: one @ two.T / experiment.dim for name, (one, two) in whole.items()}
    whole |= {"Q": (rows[""], rows[""]), "M": (rows[""], W_star)}
    counts, c = spectrum.counts(experiment.dim), spectrum.eigenvalues
    blocks = {name: within_blocks(one, two, counts) for name, (one, two) in whole.items()}
    seen = {n: np.einsum("e,eij->ij", c, y) for n, y in blocks.items() if n in KEPT}
    return seen | {f"{BLOCK}{name}": value for name, value in blocks.items()}


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
    deviations = experiment.deviations
    Q, M = np.empty((experiment.p, experiment.p)), np.empty((experiment.p, experiment.k))
    # The last step, and what the optimiser keeps of those before.
    kept = kept_rows(experiment.numbers)
    G = np.zeros(((1 + len(kept)) * experiment.p, experiment.dim))
    if "average" in kept:
        G[-experiment.p :] = W
    push = np.zeros(experiment.readout.size)
    P = np.empty((experiment.k, experiment.k))
    measure(W_star, W_star, deviations, P, P)
    constants = Constants(P, experiment, rule, watch, generator)

    memory: tuple[NDArray[np.float64], ...] = UNSCALED
    accumulated = cast(Observe, dict)
    if experiment.scale is not None:
        from dmft.simulation.scales import scaled_memory

        memory, accumulated = scaled_memory(experiment, W)
    state = (W, W_star, deviations, Q, M, G, push, *memory)
    advance = constants.advance(advance_weights, state, experiment.update or gradient)

    def overlaps() -> dict[str, NDArray[np.float64]]:
        measure(W, W_star, deviations, Q, M)
        found = {"Q": Q.copy(), "M": M.copy(), "readout": constants.readout.copy()}
        rows = {row: G[n * experiment.p :][: experiment.p] for n, row in enumerate(kept, start=1)}
        if "velocity" in rows:  # per unit of t
            rows["velocity"] = rows["velocity"] * (experiment.dim / experiment.batch_size)
        return found | grams(experiment, {"": W, **rows}, W_star) | accumulated()

    return Runner(advance, overlaps, P, watch)

"""Runs of one-pass SGD on the weights themselves: vectors in R^d, the plain definition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import BadParameter, ShapeMismatch
from dmft.model import SGD, Overlaps
from dmft.model.adaptive import LONG
from dmft.names import BLOCK, KEPT
from dmft.simulation.declaration import Experiment, Filler, Scale
from dmft.simulation.jobs import Constants, Observe, Runner
from dmft.simulation.risks.risk import Rule
from dmft.simulation.steps.common import factor
from dmft.simulation.steps.optimiser import kept_rows
from dmft.simulation.steps.sample import gradient
from dmft.simulation.steps.weights import (
    MOMENTS,
    NORM,
    SIGNS,
    SUMS,
    UNSCALED,
    advance_weights,
    measure,
)


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


KINDS = {"sign": SIGNS, "moment": MOMENTS, "sum": SUMS, "norm": NORM}


def with_scaled_steps(
    experiment: Experiment, algorithm: SGD, start: Overlaps | None, filler: Filler
) -> Experiment:
    """The experiment with the numbers of an optimiser's steps."""
    spectrum, name = experiment.spectrum, type(algorithm).__name__
    if spectrum is not None and spectrum.scaled:
        raise BadParameter(
            f"{spectrum} contains the scaling of steps in unspecified coordinates: {name} is "
            "simulated for a Spectrum of independent coordinates; use dmft.solve"
        )
    chosen: Any = algorithm
    beta = filler.scalar(getattr(chosen, "momentum", sp.S.Zero), "momentum")
    if not 0.0 <= beta < 1.0:
        raise BadParameter(f"momentum = {beta:g} must lie in [0, 1)")
    fixed = getattr(chosen, "beta2", None)
    rate = experiment.numbers.get("second_moment_rate", 0.0)
    # A long memory that is short in t, where neither is given.
    long = 1.0 / (LONG * math.sqrt(experiment.dim))
    forgotten = long if fixed is None else 1.0 - float(fixed)
    memory = (start.memory or {}).get(chosen.kept) if start is not None and chosen.kept else None
    initial = experiment.numbers.get("initial", 0.0)
    scale = Scale(
        kind="sum" if chosen.scale == "moment" and not hasattr(chosen, "eps") else chosen.scale,
        beta=beta,
        forgotten=0.0 if rate else forgotten,
        rate=rate,
        eps=experiment.numbers.get("eps", 0.0),
        kept=chosen.kept,
        initial=initial if memory is None else memory,
    )
    return replace(experiment, scale=scale)


def scaled_memory(
    e: Experiment, W: NDArray[np.float64]
) -> tuple[tuple[NDArray[np.float64], ...], Callable[[], dict[str, NDArray[np.float64]]]]:
    """V, average, total and `how` of `advance_weights`, and a function of what is accumulated."""
    scale = e.scale
    assert scale is not None
    V, average, total = np.zeros_like(W), np.zeros_like(W), np.zeros(1)
    counts = np.array([e.dim]) if e.spectrum is None else e.spectrum.counts(e.dim)
    if scale.kept == "accumulator":
        total[:] = scale.initial
    elif scale.kept:
        V[:] = _spread(scale, counts, e.spectrum is not None, e.p)
    # torch.optim corrects second moments that began at zero.
    corrected = scale.kind == "moment" and not scale.rate
    how = np.array(
        [KINDS[scale.kind], scale.beta, scale.forgotten, scale.rate, scale.eps, corrected]
    )

    def accumulated() -> dict[str, NDArray[np.float64]]:
        if scale.kept == "accumulator":
            return {scale.kept: np.array(total[0])}
        if not scale.kept:
            return {}
        edges = np.concatenate([[0], np.cumsum(counts)])
        means = np.array([V[:, a:b].mean(axis=1) for a, b in itertools.pairwise(edges)])
        return {scale.kept: means[0]} if e.spectrum is None else {f"{BLOCK}{scale.kept}": means}

    return (V, average, total, how), accumulated


def _spread(scale: Scale, counts: NDArray[np.int64], by_block: bool, p: int) -> NDArray[np.float64]:
    """Second moments of all coordinates at the start, (p, d) or a number."""
    given = np.asarray(scale.initial, dtype=np.float64)
    if given.ndim == 0:
        return given
    shape = (counts.size, p) if by_block else (p,)
    if given.shape != shape:
        raise ShapeMismatch(f"{scale.kept} has shape {given.shape}, expected {shape}")
    rows: NDArray[np.float64] = np.repeat(given.reshape(-1, p), counts, axis=0).T
    return rows

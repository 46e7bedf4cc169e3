"""Optimisers whose steps are scaled by what they have seen of gradients: numbers, memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import BadParameter, ShapeMismatch
from dmft.model import SGD, Overlaps
from dmft.model.adaptive import LONG
from dmft.names import BLOCK
from dmft.simulation.declaration import Experiment, Filler, Scale
from dmft.simulation.steps.weights import MOMENTS, NORM, SIGNS, SUMS

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

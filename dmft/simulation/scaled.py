"""Runs of optimisers whose steps are scaled by what they have seen of gradients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmft.errors import ShapeMismatch
from dmft.names import BLOCK
from dmft.simulation.steps.adaptive import (
    MOMENTS,
    NORM,
    SIGNS,
    SUMS,
    advance_scaled_weights,
)
from dmft.simulation.steps.sample import compiled_update, gradient

if TYPE_CHECKING:
    from dmft.simulation.declaration import Experiment
    from dmft.simulation.runner import Advance, Constants, Observe
    from dmft.simulation.scales import Scale


KINDS = {"sign": SIGNS, "moment": MOMENTS, "sum": SUMS, "norm": NORM}


def scaled_steps(
    experiment: Experiment, constants: Constants, state: Sequence[Any]
) -> tuple[Advance, Observe]:
    """Steps of the weights in `state`, and what the optimiser has accumulated."""
    e, (W, *_), scale = experiment, state, experiment.scale
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
    update = compiled_update(e.update or gradient)
    own = (*state, V, average, total, how, update, np.array(list(e.scalars.values())))

    def accumulated() -> dict[str, NDArray[np.float64]]:
        if scale.kept == "accumulator":
            return {scale.kept: np.array(total[0])}
        if not scale.kept:
            return {}
        edges = np.concatenate([[0], np.cumsum(counts)])
        means = np.array([V[:, a:b].mean(axis=1) for a, b in itertools.pairwise(edges)])
        return {scale.kept: means[0]} if e.spectrum is None else {f"{BLOCK}{scale.kept}": means}

    def advance(first: int, steps: int) -> tuple[int, int]:
        code: tuple[int, int] = advance_scaled_weights(*own, *constants.arguments(first, steps))
        return code

    return advance, accumulated


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

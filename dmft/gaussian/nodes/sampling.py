"""Quadrature beyond nested panels: a lattice for smooth functions, randomised Sobol points."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from dmft.arrays import Array
from dmft.gaussian.nodes.integrand import Integrand
from dmft.gaussian.nodes.rules import sobol_engine, to_normal

# Steps of the lattice, and its radius: beyond it the weights are below 1e-18.
STEPS = (0.62, 0.46, 0.34, 0.25, 0.18)
RADIUS = 9.3
# Points of one call.
CHUNK = 200_000
# Randomised copies of the Sobol points, and standard errors that make the claimed error.
COPIES = 16
DEVIATIONS = 4.0
LEAST_POINTS, MOST_DOUBLINGS = 512, 9


def lattice(
    function: Integrand, tolerance: Callable[[float], float], budget: int
) -> tuple[float, float, float]:
    """Value, error and mean size from rectangular sums, which converge exponentially.

    The error is the change between two steps: far above that of the finer one for functions that
    are analytic in a strip.
    """
    value, error, size = np.nan, np.inf, np.nan
    for step in STEPS:
        half = int(RADIUS / step)
        if np.pi * (RADIUS / step) ** function.dimension > budget:
            break
        last = value
        value, size = _lattice_sum(
            function, np.asarray(step * np.arange(-half, half + 1), dtype=np.float64), step
        )
        if np.isfinite(last):
            # Errors exp(-c / step): that of the finer step is a power 1.35 of the change.
            change = abs(value - last)
            error = min(change, 10 * size * (change / size) ** 1.25) if size else change
        if error <= tolerance(value):
            break
    return value, error, size


def _lattice_sum(function: Integrand, axis: Array, step: float) -> tuple[float, float]:
    r = function.dimension
    inner = np.array(list(product(axis, repeat=r - 1))).T.reshape(r - 1, -1)
    radii = (inner**2).sum(axis=0)
    total, size = 0.0, 0.0
    for first in axis:
        kept = radii + first**2 < RADIUS**2
        if not kept.any():
            continue
        points = np.concatenate([np.full((1, int(kept.sum())), first), inner[:, kept]])
        weights = np.exp(-(radii[kept] + first**2) / 2) * (step / np.sqrt(2 * np.pi)) ** r
        values = function(points)
        total += float(weights @ values)
        size += float(weights @ np.abs(values))
    return total, size


def sobol(
    function: Integrand, tolerance: Callable[[float], float], budget: int
) -> tuple[float, float, float]:
    """Value, error (DEVIATIONS standard errors) and mean size from scrambled Sobol points."""
    engines = [sobol_engine(function.dimension, seed) for seed in range(COPIES)]
    sums, sizes, count, new = np.zeros(COPIES), np.zeros(COPIES), 0, LEAST_POINTS
    value, error, size = 0.0, np.inf, 0.0
    for _ in range(MOST_DOUBLINGS):
        for i, engine in enumerate(engines):
            values = function(to_normal(engine.random(new).T))
            sums[i] += values.sum()
            sizes[i] += np.abs(values).sum()
        count += new
        new = count
        value, size = float(sums.mean() / count), float(sizes.mean() / count)
        error = DEVIATIONS * float(sums.std(ddof=1)) / count / np.sqrt(COPIES)
        if error <= tolerance(value) or 2 * count * COPIES > budget:
            break
    return value, error, size

"""Averages over inputs from their definition, by samples: the witness of local fields."""

from __future__ import annotations

import math

import numpy as np
import sympy as sp

from dmft.equations.explained.scene import NOISE, Scene
from dmft.explanation.average import Average
from dmft.explanation.judge import without_extremes

# Inputs in this dimension, this many of them (a power of 2) in each of so many replicas.
INPUTS, SAMPLES, REPLICAS = 12, 2**13, 12
# Standard errors that the samples may be off by.
DEVIATIONS = 7.0


def over_inputs(scene: Scene, integrand: sp.Expr) -> tuple[float, float]:
    """Average over inputs x ~ N(0, I) of weights with the overlaps of a scene, and its error."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    size = scene.p + scene.k
    # Rows of weights: a root of the overlaps in random directions.
    frame, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(INPUTS, size)))
    weights = np.linalg.cholesky(scene.omega) @ frame.T * math.sqrt(INPUTS)
    names = [*map(scene.field, range(size)), NOISE]
    f = sp.lambdify(names, without_extremes(integrand), modules=["scipy", "numpy"])
    means = []
    for seed in range(REPLICAS):
        normal = ndtri(qmc.Sobol(INPUTS + 1, seed=seed).random(SAMPLES)).T
        fields = weights @ normal[:-1] / math.sqrt(INPUTS)
        means.append(float(np.mean(f(*fields, normal[-1]))))
    return float(np.mean(means)), float(np.std(means, ddof=1) / math.sqrt(REPLICAS))


def average_over_inputs(integrand: sp.Expr) -> Average:
    """E_x of what is printed; it is judged by samples."""
    nothing = sp.ImmutableDenseMatrix(0, 0, [])
    return Average(integrand, sp.Tuple(), nothing, sp.Tuple(), sp.Symbol("x"))

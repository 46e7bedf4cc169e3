"""Averages over inputs from their definition, by samples: the witness of local fields."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import sympy as sp

from dmft.equations.explained.scene import INPUTS, NOISE, Array, Scene
from dmft.equations.update.law import Cluster
from dmft.explanation.average import Average
from dmft.explanation.judge import without_extremes

# This many inputs (a power of 2) in each of so many replicas.
SAMPLES, REPLICAS = 2**13, 12
# Standard errors that the samples may be off by.
DEVIATIONS = 7.0
PLAIN = Cluster()
# Reach of samples of updates that are computed in several passes.
FAR = 2.0
# A weight, a cluster, and a function of the fields of its inputs.
Weighted = tuple[float, Cluster, sp.Expr]


@dataclass(frozen=True)
class Inputs:
    """Inputs x = mean + sqrt(s) z of one cluster in a few dimensions, and rows of weights.

    Parameters
    ----------
    scene : Scene
    cluster : Cluster
    reach : float
        Samples are spread by this much in the span of the weights, and weighted in return: high
        powers of the fields live far out.
    """

    scene: Scene
    cluster: Cluster = PLAIN
    reach: float = 1.0

    def average(self, integrand: sp.Expr) -> tuple[float, float]:
        """Average of a function of the fields, and its standard error."""
        means = [float(np.mean(values)) for _, values in self._replicas(integrand, REPLICAS)]
        return float(np.mean(means)), float(np.std(means, ddof=1) / math.sqrt(REPLICAS))

    def directions(self, integrand: sp.Expr, first: int = 0) -> Array:
        """Averages of a function times the input, one row for each replica from `first` on."""
        found = self._replicas(integrand, REPLICAS, first)
        return np.array([values @ x / len(x) for x, values in found])

    def _replicas(
        self, integrand: sp.Expr, count: int, first: int = 0
    ) -> Iterator[tuple[Array, Array]]:
        """Inputs, and the function at them."""
        scene, root = self.scene, float(sp.sqrt(self.cluster.scale))
        frame, deviations, weights = scene.frame, scene.deviations, scene.rows
        mean = np.zeros(INPUTS)
        for number, share in enumerate(self.cluster.mean):
            mean += float(share) * weights[scene.p + number] / math.sqrt(INPUTS)
        names = [*map(scene.field, range(scene.p + scene.k)), NOISE]
        f = sp.lambdify(names, without_extremes(integrand), modules=["scipy", "numpy"], cse=True)
        for seed in range(first, first + count):
            normal = _normal(seed)
            z, noise = normal[:, :-1], normal[:, -1]
            inside = z @ frame
            density = self.reach ** frame.shape[1] * np.exp(
                -(self.reach**2 - 1) * np.sum(inside**2, axis=1) / 2
            )
            x = mean + root * (z + (self.reach - 1) * inside @ frame.T)
            x = x * deviations
            yield x, density * f(*(weights @ x.T / math.sqrt(INPUTS)), noise)


@lru_cache(maxsize=2 * REPLICAS)
def _normal(seed: int) -> Array:
    """Normal numbers of a replica, INPUTS and one in each row: the same for all steps, 1 MB."""
    from scipy.special import ndtri
    from scipy.stats import qmc

    found: Array = ndtri(qmc.Sobol(INPUTS + 1, seed=seed).random(SAMPLES))
    found.flags.writeable = False
    return found


def inner_product(
    scene: Scene, one: Sequence[Weighted], two: Sequence[Weighted]
) -> tuple[float, float]:
    """Inner product of the averages of two functions times the input, and its standard error.

    The two are averaged over inputs of their own, so that nothing is biased.
    """
    rows = [
        sum(weight * Inputs(scene, c).directions(f, first) for weight, c, f in parts)
        for parts, first in ((one, 0), (two, REPLICAS))
    ]
    products = np.einsum("nd,nd->n", *rows)
    return float(np.mean(products)), float(np.std(products, ddof=1) / math.sqrt(REPLICAS))


def beside_a_block(
    scene: Scene, parts: Sequence[Weighted], row: int, e: int
) -> tuple[float, float]:
    """Average of a function times the part of field `row` that comes from block e, and its error.

    Fields and blocks are counted from 0.
    """
    part = scene.of_block(scene.rows[row], e) / math.sqrt(INPUTS)
    found = sum(weight * Inputs(scene, c).directions(f) for weight, c, f in parts) @ part
    return float(np.mean(found)), float(np.std(found, ddof=1) / math.sqrt(REPLICAS))


def average_over_inputs(integrand: sp.Expr) -> Average:
    """E_x of what is printed; it is judged by samples."""
    nothing = sp.ImmutableDenseMatrix(0, 0, [])
    return Average(integrand, sp.Tuple(), nothing, sp.Tuple(), sp.Symbol("x"))

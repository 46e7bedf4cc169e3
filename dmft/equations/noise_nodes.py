"""Nodes for the moments of increments: exact for polynomials, adapted to a tolerance else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.gaussian.nodes import MOST_POINTS, NodeRule, normal_rule, tensor_rule

Array = NDArray[np.float64]
# A product of Gauss-Hermite rules that has more nodes than this costs more than Sobol nodes give.
MOST_EXACT = 20_000
# Smooth increments of at most this many fields take a product of Gauss-Hermite rules.
TENSOR_FIELDS = 3
# Points an axis, and points of a Sobol replica, where nothing is said.
POINTS = {1: 64, 2: 32, 3: 20}
SOBOL_NODES = 1024


@lru_cache(maxsize=16)
def exact_rule(size: int, degree: int) -> NodeRule | None:
    """Gauss-Hermite product that is exact for this degree in `size` fields; None if too large."""
    points = degree // 2 + 1
    if points**size > MOST_EXACT or points > MOST_POINTS:
        return None
    z, w = np.polynomial.hermite_e.hermegauss(points)
    w = w / w.sum()
    normal = np.array(list(product(z, repeat=size))).T.reshape(size, -1)
    weight = np.array(list(product(w, repeat=size))).prod(axis=1)
    label = f"{points} Gauss-Hermite nodes an axis in {size} dimensions, exact to degree {degree}"
    return NodeRule(np.ascontiguousarray(normal), weight, "gauss-hermite", label)


def noise_rule(size: int, smooth: bool, options: Mapping[str, Any]) -> NodeRule:
    """Nodes in `size` dimensions for increments that are no polynomials."""
    chosen = {name: options[name] for name in ("nodes", "replicas", "seed") if options.get(name)}
    if smooth and size <= TENSOR_FIELDS and not {"replicas", "seed"} & set(chosen):
        return tensor_rule(size, chosen.get("nodes", POINTS[size]))
    return normal_rule(size, chosen.pop("nodes", SOBOL_NODES), **chosen)

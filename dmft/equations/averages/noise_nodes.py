"""Nodes for the moments of increments that are no polynomials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmft.equations.values import NODE_OPTIONS
from dmft.gaussian.nodes.rules import NodeRule, normal_rule, tensor_rule

# A product of Gauss-Hermite rules that has more nodes than this costs more than Sobol nodes give.
MOST_EXACT = 20_000
# Smooth increments of at most this many fields take a product of Gauss-Hermite rules.
TENSOR_FIELDS = 3
# Points an axis, and points of a Sobol replica, where nothing is said.
POINTS = {1: 64, 2: 32, 3: 20}
SOBOL_NODES = 1024


def noise_rule(size: int, smooth: bool, options: Mapping[str, Any]) -> NodeRule:
    """Nodes in `size` dimensions for increments that are no polynomials."""
    chosen = {name: options[name] for name in NODE_OPTIONS if options.get(name) is not None}
    if smooth and size <= TENSOR_FIELDS and not {"replicas", "seed"} & set(chosen):
        return tensor_rule(size, chosen.get("nodes", POINTS[size]))
    return normal_rule(size, chosen.pop("nodes", SOBOL_NODES), **chosen)

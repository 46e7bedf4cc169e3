"""Averages over (h*, h) that do not factorise over functions of h* and of h: sums over nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations.averages.expectation import AtNodes, Expectation, Law
from dmft.errors import BadParameter
from dmft.gaussian.nodes.grid import array_function
from dmft.gaussian.nodes.rules import NodeRule, normal_rule
from dmft.model import token_fields

# Points of a replica where nothing is said.
NODES = 4096


# Names that are no keywords of Python, so that no parameter of a model has them.
def star_fields(length: int) -> tuple[sp.Symbol, ...]:
    """Symbols of the target's fields h*_l in an integrand; those of the student are z1, ..., zL."""
    return tuple(sp.Symbol(f"h^*_{n}", real=True) for n in range(1, length + 1))


def free_fields(length: int) -> tuple[sp.Symbol, ...]:
    """Symbols of eta_l, with h_l = m h*_l + sqrt(1 - m^2) eta_l + e_l."""
    return tuple(sp.Symbol(rf"\eta_{n}", real=True) for n in range(1, length + 1))


class Tokens(Law):
    """Law of h_l = m h*_l + sqrt(1 - m^2) eta_l + e_l, h* and eta ~ N(0, I); arguments (e_l), m."""

    placed = True

    def number(
        self, average: Expectation, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Array]
    ) -> float:
        """Number at numbers for the symbols."""
        return value_at(average, at, nodes)

    def at_nodes(self, averages: Sequence[Expectation]) -> AtNodes:
        """Fields of the student from those of the target and what is orthogonal to it."""
        n, m, rest = self.length, self.overlap, sp.Symbol("rest", real=True)
        star, free = star_fields(n), free_fields(n)
        means = [sp.Symbol(f"mean_{k}", real=True) for k in range(n)]
        outside = [(rest, sp.sqrt(sp.Max(0, 1 - m**2))), *zip(means, self.means, strict=True)]
        inside = tuple(
            (h, m * s + rest * f + mean)
            for h, s, f, mean in zip(token_fields(n), star, free, means, strict=True)
        )
        return AtNodes((*star, *free), tuple(outside), inside, sp.S.One)

    @property
    def means(self) -> tuple[sp.Expr, ...]:
        """Means of the fields of the student."""
        return tuple(self.args[0])

    @property
    def overlap(self) -> sp.Expr:
        """The overlap m."""
        return self.args[1]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.means)

    @property
    def fields(self) -> tuple[sp.Symbol, ...]:
        """Symbols that are averaged over: h, h*, eta."""
        n = self.length
        return (*token_fields(n), *star_fields(n), *free_fields(n))

    @property
    def bound(self) -> frozenset[sp.Symbol]:
        """The same."""
        return frozenset(self.fields)

    def shown(self, integrand: sp.Expr) -> sp.Expr:
        """The integrand with h_1, h_2, ... for the fields of the student."""
        names = {z: sp.Symbol(f"h_{i}") for i, z in enumerate(token_fields(self.length), 1)}
        return integrand.xreplace(names)


def value_at(
    average: Expectation, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Array]
) -> float:
    """Number at numbers for the symbols, on nodes: the arrays of a rule (`joint_rule`)."""
    values = _at_nodes(average, at, nodes)
    # Where f = y the direction of the gradient is not defined and carries no weight.
    return float(nodes["weight"] @ np.where(np.isfinite(values), values, 0.0))


def check_finite(
    average: Expectation, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Array]
) -> None:
    """Refuse an integrand that is not finite at every node, where none is 0/0 by itself."""
    count = int(np.sum(~np.isfinite(_at_nodes(average, at, nodes))))
    if count:
        raise BadParameter(
            f"{average.integrand} is not finite at {count} of {nodes['weight'].size} nodes: "
            "student and target must be defined for all real fields"
        )


def _law(average: Expectation) -> Tokens:
    assert isinstance(average.law, Tokens), average
    return average.law


def _at_nodes(
    average: Expectation, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Array]
) -> Array:
    """Values of the integrand at the nodes."""
    law, integrand = _law(average), average.integrand
    stars, free = np.split(nodes["normal"][: 2 * law.length], 2)
    m = float(law.overlap.subs(at))
    means = np.array([[float(y.subs(at))] for y in law.means])
    h = m * stars + np.sqrt(max(0.0, 1.0 - m**2)) * free + means
    others = sorted(integrand.free_symbols - law.bound, key=str)
    call = _called((*law.fields, *others), integrand)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = call(*h, *stars, *free, *(float(at[s]) for s in others))
    return np.broadcast_to(np.asarray(values, dtype=np.float64), nodes["weight"].shape)


@lru_cache(maxsize=64)
def _called(fields: tuple[sp.Symbol, ...], integrand: sp.Expr) -> Callable[..., Any]:
    """The integrand for arrays, which other nodes and their errors ask for again."""
    return array_function(fields, integrand)


def joint_rule(length: int, nodes: int | None = None, replicas: int = 8, seed: int = 0) -> NodeRule:
    """Scrambled Sobol nodes of (h*, eta), whose replicas tell the error."""
    return normal_rule(2 * length, NODES if nodes is None else nodes, replicas, seed)

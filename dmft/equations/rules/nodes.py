"""Averages of a step on nodes: normal coordinates, each split where the integrand has a kink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations.array_functions import FUNCTIONS
from dmft.equations.averages.expectation import AtNodes, Expectation, Law
from dmft.equations.definitions import Definition
from dmft.gaussian.closed.pair import elementary
from dmft.gaussian.nodes.grid import array_function, legendre
from dmft.gaussian.nodes.rules import NodeRule, exact_points, normal_rule

Array = NDArray[np.float64]
# Coordinates z beyond which the normal density is below 3e-13; z = NARROW sinh(t), with nodes in t,
# which are closer to each other where the density is large.
FARTHEST, NARROW = 7.5, 2.0
END = float(np.arcsinh(FARTHEST / NARROW))
# Dimensions of products of rules; beyond, Sobol points, which know no kinks.
MOST_PRODUCT = 3
POINTS, SOBOL_POINTS = (40, 32, 24), 1024


class StepNodes(Law):
    """Law of normal coordinates; arguments (coordinates), (places of kinks, nan without one).

    A place may contain the coordinates before it.
    """

    placed = True

    def number(
        self, average: Expectation, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Array]
    ) -> float:
        """Number at numbers for the symbols."""
        return value_at(average, at, nodes)

    @property
    def coordinates(self) -> tuple[sp.Symbol, ...]:
        """Symbols of the coordinates."""
        return tuple(self.args[0])

    @property
    def kinks(self) -> tuple[sp.Expr, ...]:
        """Places of kinks."""
        return tuple(self.args[1])

    @property
    def has_kinks(self) -> bool:
        """Whether the integrand has a kink."""
        return any(place is not sp.nan for place in self.kinks)

    @property
    def bound(self) -> frozenset[sp.Symbol]:
        """The coordinates."""
        return frozenset(self.coordinates)

    def at_nodes(self, averages: Sequence[Expectation]) -> AtNodes:
        """Coordinates from nodes s, and their density.

        Where axes are split, the node s of an axis is its part (0 or 1) plus a place within it.
        """
        return self.in_parts(shape_of(averages)[1])

    def in_parts(self, split: bool) -> AtNodes:
        """The same for axes that are split or not."""
        axes = tuple(map(node_symbol, range(len(self.coordinates))))
        found: list[tuple[sp.Symbol, sp.Expr]] = []
        density = sp.S.One
        for n, (z, place) in enumerate(zip(self.coordinates, self.kinks, strict=True)):
            s = axes[n]
            if not split:
                found.append((z, s))
                continue
            cut, e = (sp.Symbol(f"{name}_{n}", real=True) for name in ("cut", "e"))
            u = sp.Max(-FARTHEST, sp.Min(FARTHEST, sp.S.Zero if place is sp.nan else place))
            found.append((cut, sp.log(u / NARROW + sp.sqrt(1 + u**2 / NARROW**2))))
            low, high = cut + END, END - cut
            upper = cut + high * (s - 1)
            found.append((e, sp.exp(sp.Piecewise((low * s - END, s < 1), (upper, True)))))
            found.append((z, NARROW * (e - 1 / e) / 2))
            width = sp.Piecewise((low, s < 1), (high, True)) * NARROW * (e + 1 / e) / 2
            density *= 2 * width * sp.exp(-(z**2) / 2) / sp.sqrt(2 * sp.pi)
        return AtNodes(axes, (), tuple(found), density)


def without_kinks(definition: Definition) -> Definition:
    """The same with averages on axes that are not split."""
    laws = {law for _, y in definition.terms for law in y.atoms(StepNodes)}
    swap = {law: StepNodes(law.args[0], sp.Tuple(*[sp.nan] * len(law.args[1]))) for law in laws}
    return replace(definition, terms=tuple((n, y.xreplace(swap)) for n, y in definition.terms))


def node_symbol(n: int) -> sp.Symbol:
    """Symbol of a node of axis n."""
    return sp.Symbol(f"s_{n}", real=True)


def value_at(
    average: Expectation, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Array]
) -> float:
    """Number at numbers for the symbols, on the nodes of `rule_of`."""
    law = average.law
    assert isinstance(law, StepNodes)
    program = law.in_parts(is_split(nodes["normal"]))
    known: dict[sp.Symbol, Any] = dict(at)
    known |= {node_symbol(n): nodes["normal"][n] for n in range(len(law.coordinates))}
    with np.errstate(all="ignore"):
        for symbol, value in program.inside:
            known[symbol] = _called(value)(*(known[s] for s in _names(value)))
        whole = average.integrand * program.density
        values = _called(whole)(*(known[s] for s in _names(whole)))
    return float(nodes["weight"] @ np.broadcast_to(values, nodes["weight"].shape))


@lru_cache(maxsize=256)
def _names(expr: sp.Expr) -> tuple[sp.Symbol, ...]:
    return tuple(sorted(expr.free_symbols, key=str))


@lru_cache(maxsize=256)
def _called(expr: sp.Expr) -> Any:
    return array_function(_names(expr), elementary(expr), FUNCTIONS)


def is_split(normal: Array) -> bool:
    """Whether nodes are places in halves, which lie between 0 and 2."""
    return bool(normal.size and normal.min() >= 0.0)


def rule_of(averages: Sequence[Expectation], options: Mapping[str, Any]) -> NodeRule:
    """Nodes of the averages of a rule: a product, split where there are kinks, or Sobol points."""
    dim, split = shape_of(averages)
    count = options.get("nodes")
    if dim > MOST_PRODUCT:
        chosen = {n: options[n] for n in ("replicas", "seed") if options.get(n) is not None}
        return normal_rule(dim, count or SOBOL_POINTS, **chosen)
    return product_rule(dim, count or POINTS[dim - 1], split)


def shape_of(averages: Sequence[Expectation]) -> tuple[int, bool]:
    """Number of axes, and whether they are split."""
    laws = [a.law for a in averages if isinstance(a.law, StepNodes)]
    dim = max(len(law.coordinates) for law in laws)
    return dim, dim <= MOST_PRODUCT and any(law.has_kinks for law in laws)


@lru_cache(maxsize=4)
def product_rule(dim: int, points: int, split: bool) -> NodeRule:
    """Product of Gauss-Legendre rules on both parts of each axis, and two coarser ones.

    One coarser rule agrees by chance: of two the larger distance tells the error.
    """
    fewer = points * 3 // 4
    fine, *coarse = (_legendre(dim, n, split) for n in (points, fewer, fewer - 2))
    return replace(fine, groups=tuple(coarse))


def _legendre(dim: int, points: int, split: bool) -> NodeRule:
    """Places within the parts of axes that are split, and coordinates of others."""
    x, w = legendre(max(2, points // 2))
    axis, weight = np.concatenate([0.5 * (x + 1.0), 0.5 * (x + 3.0)]), np.tile(0.25 * w, 2)
    if not split:
        t = END * (axis - 1.0)
        axis = NARROW * np.sinh(t)
        weight = weight * np.cosh(t) * np.exp(-(axis**2) / 2)
        weight /= weight.sum()
    normal, whole = _product([(axis, weight)] * dim)
    label = f"{axis.size} Gauss-Legendre nodes per axis in {dim} dimensions"
    label += ", split at kinks" if split else ""
    return NodeRule(np.ascontiguousarray(normal), whole, "gauss-hermite", label)


def exact_product(axes: Sequence[tuple[Array, Array] | None], degree: int) -> NodeRule:
    """Product of given rules and, for None, Gauss-Hermite rules exact for this total degree.

    Its error, told by the rule with a point more an axis, is that of rounding.
    """
    rules = []
    for n in (exact_points(degree), exact_points(degree) + 1):
        z, w = np.polynomial.hermite_e.hermegauss(n)
        normal, weight = _product([(z, w / w.sum()) if a is None else a for a in axes])
        rules.append(NodeRule(normal, weight, "gauss-hermite", f"product with {n} nodes per axis"))
    return replace(rules[0], groups=(rules[1],))


def _product(axes: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    points, weights = zip(*axes, strict=True)
    normal = np.array(np.meshgrid(*points, indexing="ij")).reshape(len(axes), -1)
    return normal, np.prod(np.meshgrid(*weights, indexing="ij"), axis=0).ravel()

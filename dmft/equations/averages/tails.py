"""Averages that do not exist: integrands that outgrow the normal density of the fields.

Nodes end some deviations from the origin, and have a number for exp(z^2) as for anything else. Here
an integrand is summed over directions at growing distances from the origin, times the normal
density there: where the sums grow from one distance to the next, the average is infinite.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, live
from dmft.equations.parameter_values import Values, with_nodes
from dmft.equations.reference import evaluate
from dmft.errors import BadParameter
from dmft.gaussian.nodes.rules import NodeRule

# Distances from the origin. What falls like the density is 1e-22 of itself at the last one, so
# that polynomials in use fall from the last but one on, and doubles hold most integrands.
RADII = (3.0, 4.5, 6.75, 10.0)
# Less than this part of the largest sum of all entries grows by rounding, where sums cancel, or by
# directions that were missed.
FELT = 1e-12
GROWING = (sp.exp, sp.cosh, sp.sinh)


@lru_cache(maxsize=64)
def may_outgrow(definitions: tuple[Definition, ...], wanted: str = "rate") -> bool:
    """Whether rates (or observables) read exponentials that are not bounded."""
    return any(_may_grow(d.expr) for d in _read(definitions, wanted))


def told_by_tails(rule: NodeRule, definitions: tuple[Definition, ...], wanted: str) -> NodeRule:
    """A rule with one more to tell its error by, which goes on where a tensor rule ends."""
    if rule.kind in ("sobol", "mixture") or not may_outgrow(definitions, wanted):
        return rule
    return replace(rule, groups=(*rule.groups, rule.with_tails()))


def _may_grow(expr: sp.Basic) -> bool:
    """Whether it holds an exponential that is neither a bell nor inside a fraction or a log."""
    if isinstance(expr, sp.log) or (isinstance(expr, sp.Pow) and expr.exp.is_negative):
        return False
    if isinstance(expr, GROWING) and not (expr.is_number or _is_bell(expr.args[0])):
        return True
    return any(_may_grow(a) for a in expr.args)


def _is_bell(exponent: sp.Expr) -> bool:
    """Whether an exponent is minus a square."""
    number, rest = exponent.as_coeff_Mul()
    return bool(number.is_negative and _is_square(rest))


def _is_square(expr: sp.Expr) -> bool:
    """Whether it is made of squares and positive numbers by sums, products and powers."""
    if expr == x.Delta or expr.is_nonnegative or (expr.is_Pow and expr.exp.is_even):
        return True
    inside = expr.args if expr.is_Add or expr.is_Mul else expr.args[:1] if expr.is_Pow else ()
    return bool(inside) and all(map(_is_square, inside))


def _read(definitions: tuple[Definition, ...], wanted: str) -> tuple[Definition, ...]:
    return live(d for d in definitions if d.role not in {"rate", "observable"} - {wanted})


@lru_cache(maxsize=64)
def _sums(on_nodes: tuple[Definition, ...], wanted: str) -> tuple[Definition, ...]:
    """Sums over nodes that rates (or observables) read, as observables."""
    read = [d for d in _read(on_nodes, wanted) if d.role != wanted]
    return live(replace(d, role="observable") if _is_sum(d.expr) else d for d in read)


def _is_sum(expr: sp.Expr) -> bool:
    return any(limit[0] == x.node for s in expr.atoms(sp.Sum) for limit in s.limits)


def check_tails(
    definitions: tuple[Definition, ...],
    on_nodes: tuple[Definition, ...],
    state: Mapping[str, Array],
    values: Values,
    rule: NodeRule,
    wanted: str = "rate",
) -> None:
    """Refuse a state at which an average that rates (or observables) read is infinite.

    `definitions` are those with averages, `on_nodes` with sums in their place.
    """
    grows = may_outgrow(definitions, wanted)
    if grows and outgrows(on_nodes, state, values, rule, wanted):
        raise BadParameter(
            "an average over samples is infinite at these overlaps, or next to it: the "
            "integrand grows faster than the normal density of the fields decays; use a loss "
            "and functions that grow more slowly, or shorter weights"
        )


def outgrows(
    on_nodes: tuple[Definition, ...],
    state: Mapping[str, Array],
    values: Values,
    rule: NodeRule,
    wanted: str = "rate",
) -> bool:
    """Whether an average that rates (or observables) read is infinite at a state."""
    if rule.kind == "mixture":  # sigmoids and their slopes are bounded
        return False
    sums = _sums(on_nodes, wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what overflows is what is looked for
        rings = [
            evaluate(sums, state, with_nodes(values, rule.ring(radius)), "observable")
            for radius in RADII
        ]
    return any(_grown(np.stack([np.abs(ring[name]) for ring in rings])) for name in rings[0])


def _grown(sizes: Array) -> bool:
    """Whether an entry of sums (radius, ...) grows between the last radii at which doubles hold it.

    What they do not hold at the first two is no finite number on nodes either.
    """
    flat = sizes.reshape(len(sizes), -1)
    held = np.isfinite(flat).cumprod(axis=0).sum(axis=0)
    places = np.arange(flat.shape[1])
    last, before = flat[np.maximum(held - 1, 0), places], flat[np.maximum(held - 2, 0), places]
    felt = last > FELT * np.max(flat, where=np.isfinite(flat), initial=0.0)
    return bool(np.any((held > 1) & (last > before) & felt))

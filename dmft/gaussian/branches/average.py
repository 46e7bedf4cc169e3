"""Averages of products with exponential branches, by parts that have all digits."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.branches.factors import has_branches
from dmft.gaussian.branches.family import (
    average_of_one,
    average_of_two,
    field_of_any,
    parts_of,
    split,
)
from dmft.gaussian.closed.switch import may_hold_branches
from dmft.gaussian.derivative import derivative
from dmft.gaussian.law import Cov, Law
from dmft.gaussian.refusal import refuse
from dmft.model import FIELD

Factors = dict[Hashable, sp.Expr]


def branch_expectation(
    factors: Sequence[sp.Expr], fields: Sequence[Hashable], cov: Cov
) -> sp.Expr | None:
    """E[prod_i factors_i(x_{fields_i})] of centred fields, one or two with exponential branches.

    Equation    E[F(u) G(v)] = E_u[F(u) H_G(C_uv u / C_uu, sigma)], H_G(m, sigma) = E G(m + sigma z)
                branch by branch through erfcx; a Dirac factor conditions the law
    Valid for   polynomials, exponentials of linear functions, kinks and jumps, of one field times
                error functions and Gaussian factors; polynomials alone of further fields; all
                variances, singular ones included; exact
    Source      theory/one_pass A.6
    """
    merged: Factors = {}
    for factor, label in zip(factors, fields, strict=True):
        merged[label] = merged.get(label, sp.S.One) * factor
    if not any(map(may_hold_branches, merged.values())):
        return None
    try:
        regular = [split(f)[0] for f in merged.values() if may_hold_branches(f)]
        parts = [f for terms in regular for _, f in terms]
        return _average(merged, cov) if any(map(has_branches, parts)) else None
    except NotClosed:
        return None


def _average(merged: Factors, cov: Cov) -> sp.Expr:
    """Average of at most two functions and polynomials of further fields, which go by Stein."""
    if len(merged) > 2:
        bell = _bell(merged)
        return _without_polynomial(merged, cov) if bell is None else _tilted(merged, cov, bell)
    parts = [parts_of(factor) for factor in merged.values()]
    labels = list(merged)
    if len(labels) == 1:
        return average_of_one(parts[0], cov(labels[0], labels[0]))
    x, y = labels
    return average_of_two(parts[0], parts[1], (cov(x, x), cov(x, y), cov(y, y)))


def _bell(merged: Factors) -> tuple[Hashable, sp.Expr, sp.Expr] | None:
    """A field whose factor is a exp(-b z^2 / 2) alone, with a and b; None if there is none."""
    for x, factor in merged.items():
        front, rest = factor.as_independent(FIELD)
        if isinstance(rest, sp.exp) and rest.exp.is_polynomial(FIELD):
            curvature = -2 * rest.exp.coeff(FIELD, 2)
            if sp.expand(rest.exp + curvature * FIELD**2 / 2) == 0:
                return x, front, curvature
    return None


def _tilted(merged: Factors, cov: Cov, bell: tuple[Hashable, sp.Expr, sp.Expr]) -> sp.Expr:
    """Average under the law that a Gaussian factor makes of this one (theory/one_pass A.2)."""
    x, front, curvature = bell
    prefactor, law = Law(cov, None, list(merged)).tilt(x, curvature, sp.S.Zero)
    return front * prefactor * _average({y: f for y, f in merged.items() if y != x}, law.C)


def _without_polynomial(merged: Factors, cov: Cov) -> sp.Expr:
    """E[x q(x) F] = sum_y C_xy E[d_y (q F)] for a polynomial p_0 + x q(x) of one of the fields."""
    x = next((x for x, f in merged.items() if f.is_polynomial(FIELD)), None)
    if x is None:
        raise refuse(sp.Mul(*merged.values()), "it holds more than two fields")
    others = {y: f for y, f in merged.items() if y != x}
    *rest, constant = sp.Poly(merged[x], FIELD).all_coeffs()
    quotient = sp.Poly.from_list(rest or [0], FIELD).as_expr()
    total = [constant * _average(others, cov)] if constant != 0 else []
    for y in merged:
        changed = {**others, x: quotient}
        changed[y] = derivative(changed[y])
        kept = {label: f for label, f in changed.items() if label != x or f.has_free(FIELD)}
        front = sp.S.One if x in kept else changed[x]
        if cov(x, y) != 0 and front != 0 and all(f != 0 for f in kept.values()):
            total.append(front * cov(x, y) * _average(kept, cov))
    return sp.Add(*total)


def branch_field_expectation(factor: sp.Expr, mean: sp.Expr, variance: sp.Expr) -> sp.Expr | None:
    """E F(x) of x ~ N(mean, variance), F with exponential branches; None for anything else."""
    if not may_hold_branches(factor):
        return None
    try:
        held = any(has_branches(f) for _, f in split(factor)[0])
    except NotClosed:
        return None
    return field_of_any(factor, mean, variance) if held else None

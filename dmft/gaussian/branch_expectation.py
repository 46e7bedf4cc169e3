"""Averages of products with exponential branches, and of their sums.

By parts that have all digits; in sums, terms of the same fields are gathered, so that every branch
is averaged whole: summand by summand, such an average is a difference of numbers like exp(q/2).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian import branch_family as family
from dmft.gaussian import refuse
from dmft.gaussian.branch_factors import has_branches
from dmft.gaussian.closed.factor import Label, Split, Term, parse_factor
from dmft.gaussian.closed.switch import may_hold_branches
from dmft.gaussian.derivative import derivative
from dmft.gaussian.law import Cov, Law, Mean
from dmft.model import FIELD

Factors = dict[Hashable, sp.Expr]


def branch_expectation(
    factors: Sequence[sp.Expr], fields: Sequence[Hashable], cov: Cov
) -> sp.Expr | None:
    """E[prod_i factors_i(x_{fields_i})] of centred fields, one or two with exponential branches.

    Equation    E[F(u) G(v)] = E_u[F(u) H_G(C_uv u / C_uu, sigma)], H_G(m, sigma) = E G(m + sigma z)
                branch by branch through erfcx; a Dirac factor conditions the law
    Valid for   polynomials, exponentials of linear functions, kinks and jumps, of one field times
                error functions and Gaussian factors; polynomials alone of further fields; exact
    Source      theory/one_pass A.6
    """
    merged: Factors = {}
    for factor, label in zip(factors, fields, strict=True):
        merged[label] = merged.get(label, sp.S.One) * factor
    if not any(map(may_hold_branches, merged.values())):
        return None
    try:
        regular = [family.split(f)[0] for f in merged.values() if may_hold_branches(f)]
        parts = [f for terms in regular for _, f in terms]
        return _average(merged, cov) if any(map(has_branches, parts)) else None
    except NotClosed:
        return None


def _average(merged: Factors, cov: Cov) -> sp.Expr:
    """Average of at most two functions and polynomials of further fields, which go by Stein."""
    if len(merged) > 2:
        bell = _bell(merged)
        return _without_polynomial(merged, cov) if bell is None else _tilted(merged, cov, bell)
    parts = [family.parts_of(factor) for factor in merged.values()]
    labels = list(merged)
    if len(labels) == 1:
        return family.average_of_one(parts[0], cov(labels[0], labels[0]))
    x, y = labels
    return family.average_of_two(parts[0], parts[1], (cov(x, x), cov(x, y), cov(y, y)))


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
        raise refuse(sp.Mul(*merged.values()), "it contains more than two fields")
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
        held = any(has_branches(f) for _, f in family.split(factor)[0])
    except NotClosed:
        return None
    return family.field_of_any(factor, mean, variance) if held else None


# A product by canonical labels, and the terms of one set of labels.
Product = dict[Label, sp.Expr]
Smooth = tuple[int, sp.Expr, sp.Expr, tuple[tuple[sp.Expr, sp.Expr], ...]]


def branch_sums(splits: Sequence[Split], cov: Cov, mean: Mean) -> tuple[sp.Expr, list[int]]:
    """Average of the summands that hold exponential branches, and the places of the others.

    Terms of the same one or two fields are averaged together, where one of them is an exponential
    beside a jump of its field.
    """
    groups: dict[frozenset[Label], list[tuple[int, sp.Expr, Product]]] = {}
    for place, (coefficient, factors, labels) in enumerate(splits):
        product: Product = {}
        for factor, label in zip(factors, labels, strict=True):
            scale = label[0][1]
            canonical = tuple((i, a / scale) for i, a in label)
            image = factor if scale == 1 else factor.xreplace({FIELD: scale * FIELD})
            product[canonical] = product.get(canonical, sp.S.One) * image
        groups.setdefault(frozenset(product), []).append((place, coefficient, product))
    total, rest = [], []
    for together, terms in groups.items():
        value = None
        if len(together) in (1, 2) and any(
            map(_is_branch, (f for *_, p in terms for f in p.values()))
        ):
            value = _gathered(sorted(together), terms, cov, mean)
        if value is None:
            rest += [place for place, *_ in terms]
        else:
            total.append(value)
    return sp.Add(*total), sorted(rest)


def _is_branch(factor: sp.Expr) -> bool:
    return bool(factor.has(sp.sign) and factor.has(sp.exp, sp.sinh, sp.cosh))


def _gathered(
    labels: Sequence[Label], terms: Sequence[tuple[int, sp.Expr, Product]], cov: Cov, mean: Mean
) -> sp.Expr | None:
    """Average of the terms of one or two fields; None where that has no whole form."""
    shifts = {x: mean(x) for x in labels}
    if any(s.free_symbols for s in shifts.values()):
        return None

    def moved(factor: sp.Expr, label: Label) -> sp.Expr:
        return factor.xreplace({FIELD: FIELD + shifts[label]}) if shifts[label] else factor

    x = labels[0]
    if len(labels) == 1:
        factor = sp.Add(*(c * p[x] for _, c, p in terms))
        value = branch_expectation([moved(factor, x)], [x], cov)
        if value is None or cov(x, x).has(sp.Float) or not cov(x, x).is_number:
            return value
        return value.replace(family.BranchField, _formula)
    y = labels[1]
    pairs = _pairs([(c * p[x], p[y]) for _, c, p in terms])
    if pairs is None:
        return None
    values = [branch_expectation([moved(f, x), moved(g, y)], [x, y], cov) for f, g in pairs]
    return None if any(v is None for v in values) else sp.Add(*values)


def _formula(*args: sp.Expr) -> sp.Expr:
    return family.BranchField(*args).written_out()


def _pairs(terms: Sequence[tuple[sp.Expr, sp.Expr]]) -> list[tuple[sp.Expr, sp.Expr]] | None:
    """Write sum_i f_i(x) g_i(y) with as few products as are proportional in x.

    In y, by intervals between all jumps: a branch of y is never split into exponentials that
    grow on the other side of its jump.
    """
    try:
        parsed = [(f, parse_factor(g)) for f, g in terms]
    except NotClosed:
        return None
    kinks = sorted({-c for _, g in parsed for t in g for a, c in t.erfs if a is sp.oo}, key=float)
    if not all(k.is_number for k in kinks):
        return None
    ends = [-sp.oo, *kinks, sp.oo]
    parts: dict[tuple[Smooth, int], sp.Expr] = {}
    for f, g in parsed:
        for term in g:
            smooth = tuple(pair for pair in term.erfs if pair[0] is not sp.oo)
            for n, (low, high) in enumerate(pairwise(ends)):
                side = _side(term, low, high)
                for power, c in term.powers:
                    key = (power, term.slope, term.curvature, smooth), n
                    parts[key] = parts.get(key, sp.S.Zero) + side * c * f
    grouped: dict[sp.Expr, list[sp.Expr]] = {}
    for (kind, n), f in parts.items():
        f = sp.expand(f)
        if f == 0:
            continue
        first = min(sp.Add.make_args(f), key=sp.default_sort_key)
        lead = first.as_coeff_Mul()[0]
        grouped.setdefault(sp.expand(f / lead), []).append(
            lead * _piece(kind, ends[n], ends[n + 1])
        )
    return [(f, sp.expand(sp.Add(*g))) for f, g in grouped.items()]


def _side(term: Term, low: sp.Expr, high: sp.Expr) -> sp.Expr:
    """Product of the signs of a term between two of its jumps."""
    at = high - 1 if low is -sp.oo else low + 1 if high is sp.oo else (low + high) / 2
    at = sp.S.Zero if at in (sp.oo, -sp.oo) else at
    return sp.Mul(*(sp.sign(at + c) for a, c in term.erfs if a is sp.oo))


def _piece(smooth: Smooth, low: sp.Expr, high: sp.Expr) -> sp.Expr:
    """Function that is smooth on one interval and zero elsewhere."""
    power, slope, curvature, erfs = smooth
    value = FIELD**power * sp.exp(slope * FIELD - curvature * FIELD**2 / 2)
    value *= sp.Mul(*(sp.erf(a * FIELD + c) for a, c in erfs))
    above = sp.S.One if low is -sp.oo else sp.sign(FIELD - low)
    below = -sp.S.One if high is sp.oo else sp.sign(FIELD - high)
    return value * (above - below) / 2

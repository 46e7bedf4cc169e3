"""Averages of products with exponential branches, by parts that have all digits.

What they are written with, `BranchField` and the like, is in `branch_nodes`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.branches.factors import branches, canonical, has_branches, primitive
from dmft.gaussian.branches.nodes import BranchField, BranchGiven, BranchPair
from dmft.gaussian.branches.slope import BranchSlope, BranchSlopes
from dmft.gaussian.closed.pair import CorrelationRoot
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.closed.switch import SWITCHES, to_signs
from dmft.gaussian.derivative import derivative
from dmft.gaussian.law import Cov, Law
from dmft.gaussian.refusal import refuse
from dmft.gaussian.tables.tabled import (
    PairTable,
    density,
    tabled_expectation,
    without_dirac,
)
from dmft.model import FIELD

# A factor of numbers with what stands in front of it, and a Dirac factor likewise.
Weighted = tuple[sp.Expr, sp.Expr]
Factors = dict[Hashable, sp.Expr]


def branch_expectation(
    factors: Sequence[sp.Expr], fields: Sequence[Hashable], cov: Cov
) -> sp.Expr | None:
    r"""E[prod_i factors_i(x_{fields_i})] of centred fields, one or two with exponential branches.

    Equation    E[F(u) G(v)] = E_u[F(u) H_G(C_uv u / C_uu, sigma)], H_G(m, sigma) = E G(m + sigma z)
                branch by branch through erfcx; a Dirac factor conditions the law
    Shapes      n factors in the symbol `FIELD`; n labels; None where a factor is none of these
    Valid for   polynomials, exponentials of linear functions, kinks and jumps, of one field times
                error functions and Gaussian factors; polynomials alone of further fields; all
                variances, singular ones included; exact
    Source      one_pass.md A.6

    Examples
    --------
    >>> import sympy as sp
    >>> from dmft.model import FIELD as z
    >>> C = lambda x, y: sp.Symbol("C" + "".join(sorted(x + y)))
    >>> branch_expectation([sp.exp(-z) * sp.Max(0, z), z], ["1", "2"], C).atoms(BranchField)
    {BranchField(Piecewise((0, z < 0), ((z - 1)*exp(-z), True)), 0, C11)}
    """
    merged: Factors = {}
    for factor, label in zip(factors, fields, strict=True):
        merged[label] = merged.get(label, sp.S.One) * factor
    if not any(map(may_hold_branches, merged.values())):
        return None
    try:
        split = [_split(f) for f in merged.values() if may_hold_branches(f)]
        parts = [f for s in split if s is not None for _, f in s[0]]
        return _average(merged, cov) if any(map(has_branches, parts)) else None
    except NotClosed:
        return None


def _average(merged: Factors, cov: Cov) -> sp.Expr:
    """Average of at most two functions and polynomials of further fields, which go by Stein."""
    if len(merged) > 2:
        bell = _bell(merged)
        return _without_polynomial(merged, cov) if bell is None else _tilted(merged, cov, bell)
    parts = []
    for factor in merged.values():
        split = _split(factor)
        if split is None or not all(f == 1 or branches(f) is not None for _, f in split[0]):
            raise refuse(factor, "it is no polynomial times exponentials and error functions")
        parts.append(split)
    labels = list(merged)
    if len(labels) == 1:
        return _one(parts[0], cov(labels[0], labels[0]))
    x, y = labels
    return _two(parts[0], parts[1], (cov(x, x), cov(x, y), cov(y, y)))


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
    """Average under the law that a Gaussian factor makes of this one (one_pass.md A.2)."""
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


def may_hold_branches(factor: sp.Expr) -> bool:
    """Whether exponentials and kinks or jumps stand in one factor."""
    return bool(factor.has(sp.exp, sp.sinh, sp.cosh) and factor.has(*SWITCHES))


def _split(factor: sp.Expr) -> tuple[list[Weighted], list[Weighted]] | None:
    """Parts (weight, function of numbers) and (weight, position) of Dirac factors."""
    if factor.free_symbols <= {FIELD} and not factor.has(sp.DiracDelta):
        return [(sp.S.One, factor)], []
    smooth, spikes = without_dirac(sp.expand(to_signs(factor, [FIELD])))
    grouped: dict[sp.Expr, list[sp.Expr]] = {}
    for term in sp.Add.make_args(smooth):
        symbols, rest = sp.S.One, sp.S.One
        for part in sp.Mul.make_args(term):
            if part.has_free(FIELD) or not part.free_symbols:
                rest *= part
            else:
                symbols *= part
        if rest.free_symbols - {FIELD}:
            return None
        grouped.setdefault(symbols, []).append(rest)
    parts = [(weight, sp.Add(*terms)) for weight, terms in grouped.items()]
    return [p for p in parts if p[1] != 0], [(w, t) for t, w in spikes]


Parts = tuple[list[Weighted], list[Weighted]]
Pair = tuple[sp.Expr, sp.Expr, sp.Expr]


def _one(parts: Parts, variance: sp.Expr) -> sp.Expr:
    whole = _before_derivative(parts) if parts[1] else None
    if whole is not None:
        return _field(FIELD * whole, sp.S.Zero, variance) / variance
    terms = [w * _field(f, sp.S.Zero, variance) for w, f in parts[0]]
    return sp.Add(*terms, *(w * density(variance, t) for w, t in parts[1]))


def _two(one: Parts, two: Parts, C: Pair) -> sp.Expr:
    """Average of two fields; a slope that integrates to zero stays in one piece."""
    uu, uv, vv = C
    for f, g, numbers in ((one, two, (uu, uv, vv)), (two, one, (vv, uv, uu))):
        whole = None if f[1] else _before_derivative(g)
        if whole is not None:
            return sp.Add(*(w * _slope(h, whole, numbers) for w, h in f[0]))
    return by_parts(one, two, C)


def _slope(f: sp.Expr, g: sp.Expr, C: Pair) -> sp.Expr:
    """E[F(u) G'(v)] of a G that decays."""
    if not f.has_free(FIELD):
        return f * _one(([(sp.S.One, FIELD * g)], []), C[2]) / C[2]
    if f.is_polynomial(FIELD) and sp.degree(f, FIELD) == 1:
        split = _split(derivative(g))
        assert split is not None
        return by_parts(([(sp.S.One, f)], []), split, C)
    (first, f), (second, g) = canonical(f), canonical(g)
    whole = _before_derivative(([(sp.S.One, f)], []))
    if whole is None:
        return first * second * BranchSlope(f, g, *C)
    third, whole = canonical(whole)
    return first * second * third * BranchSlopes(whole, g, *C)


def _before_derivative(parts: Parts) -> sp.Expr | None:
    """Function that decays and has this derivative, jumps included; None where there is none.

    At large variances its exponentials and its jumps cancel each other.
    """
    regular, spikes = parts
    if len(regular) != 1 or regular[0][0] != 1 or any(t.free_symbols for _, t in spikes):
        return None
    read = branches(regular[0][1]) if has_branches(regular[0][1]) else None
    jumps: dict[sp.Expr, sp.Expr] = {}
    for w, t in spikes:
        jumps[t] = jumps.get(t, sp.S.Zero) + w
    return None if read is None else primitive(read, jumps)


def by_parts(one: Parts, two: Parts, C: Pair) -> sp.Expr:
    """Average of two fields, part by part."""
    uu, uv, vv = C
    terms = [w * v * _pair(f, g, C) for w, f in one[0] for v, g in two[0]]
    rest = CorrelationRoot(uu, vv, uv) ** 2
    for w, t in one[1]:
        terms += [w * v * density(uu, t) * _given(g, uu, uv, vv, t) for v, g in two[0]]
        for v, s in two[1]:
            action = (t**2 * vv - 2 * t * s * uv + s**2 * uu) / (2 * rest)
            terms.append(w * v * sp.exp(-action) / (2 * sp.pi * sp.sqrt(rest)))
    for v, s in two[1]:
        terms += [w * v * density(vv, s) * _given(f, vv, uv, uu, s) for w, f in one[0]]
    return sp.Add(*terms)


def _field(factor: sp.Expr, mean: sp.Expr, variance: sp.Expr) -> sp.Expr:
    """Average of one field; what has no branches is closed."""
    if not factor.has_free(FIELD):
        return factor
    if has_branches(factor):
        lead, factor = canonical(factor)
        return lead * BranchField(factor, mean, variance)
    return product_expectation([factor], ["u"], lambda *_: variance, lambda _: mean)


def _given(factor: sp.Expr, uu: sp.Expr, uv: sp.Expr, vv: sp.Expr, t: sp.Expr) -> sp.Expr:
    """E[factor(v) | u = t]."""
    if not factor.has_free(FIELD):
        return factor
    lead, factor = canonical(factor)
    return lead * BranchGiven(factor, uu, uv, vv, t)


def _pair(f: sp.Expr, g: sp.Expr, C: Pair) -> sp.Expr:
    """Average of two functions; one that is linear goes by Stein's identity."""
    uu, uv, vv = C
    if not g.has_free(FIELD):
        return g * _field(f, sp.S.Zero, uu)
    if not f.has_free(FIELD):
        return f * _field(g, sp.S.Zero, vv)
    if not (has_branches(f) or has_branches(g)):
        cov = {("u", "u"): uu, ("u", "v"): uv, ("v", "u"): uv, ("v", "v"): vv}
        return product_expectation([f, g], ["u", "v"], lambda x, y: cov[x, y], whole=True)
    for one, two, variance in ((f, g, uu), (g, f, vv)):
        if two.is_polynomial(FIELD) and sp.degree(two, FIELD) == 1:
            slope, offset = sp.Poly(two, FIELD).all_coeffs()
            split = _split(derivative(one))
            assert split is not None
            plain = _field(one, sp.S.Zero, variance) if offset != 0 else sp.S.Zero
            return offset * plain + slope * uv * _one(split, variance)
    (first, f), (second, g) = canonical(f), canonical(g)
    inner = [branches(g), branches(f)]
    if inner[0] is not None and inner[0].closed:
        return first * second * BranchPair(f, g, uu, uv, vv)
    if inner[1] is not None and inner[1].closed:
        return first * second * BranchPair(g, f, vv, uv, uu)
    return first * second * PairTable(f, g, uu, uv, vv)


def average_of_any(factors: list[sp.Expr], labels: list[str], cov: Cov) -> sp.Expr:
    """The average, by tables where it holds no exponential branches."""
    value = branch_expectation(factors, labels, cov)
    return tabled_expectation(factors, labels, cov) if value is None else value


def branch_field_expectation(factor: sp.Expr, mean: sp.Expr, variance: sp.Expr) -> sp.Expr | None:
    """E F(x) of x ~ N(mean, variance), F with exponential branches; None for anything else."""
    split = _split(factor) if may_hold_branches(factor) else None
    if split is None or not any(has_branches(f) for _, f in split[0]):
        return None
    terms = [w * _field(f, mean, variance) for w, f in split[0]]
    return sp.Add(*terms, *(w * density(variance, t - mean) for w, t in split[1]))


def field_of_any(factor: sp.Expr, mean: sp.Expr, variance: sp.Expr) -> sp.Expr:
    """Average of a derivative, Dirac factors included."""
    split = _split(factor)
    assert split is not None
    terms = [w * _field(f, mean, variance) for w, f in split[0]]
    return sp.Add(*terms, *(w * density(variance, t - mean) for w, t in split[1]))

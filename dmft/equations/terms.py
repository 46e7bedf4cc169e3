"""A multi-index target as a sum of products of functions of single Gaussian fields.

A field is one teacher field or a linear combination of them; what is no function of one of these,
such as tanh(z1 + z2^3), stays whole and is called joint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import sympy as sp

from dmft.equations import symbols as x
from dmft.gaussian.hermite import hermite
from dmft.gaussian.switch import SWITCHES, to_signs
from dmft.gaussian.wick import power_in_hermite
from dmft.model import FIELD, MultiIndex

Factors = tuple[tuple[sp.Expr, sp.Expr], ...]


@dataclass(frozen=True)
class Term:
    """coefficient * prod factor(field) * joint.

    Attributes
    ----------
    coefficient : sympy.Expr
        Free of the fields.
    factors : ((field, factor), ...)
        Fields in h_star, each once and sorted; factors in `FIELD`.
    joint : sympy.Expr
        In h_star; 1 where everything is in the factors.
    """

    coefficient: sp.Expr
    factors: Factors = ()
    joint: sp.Expr = sp.S.One

    @property
    def expr(self) -> sp.Expr:
        """The term as an expression in h_star."""
        parts = (factor.xreplace({FIELD: field}) for field, factor in self.factors)
        return sp.Mul(self.coefficient, *parts, self.joint)

    def __mul__(self, other: Term) -> Term:
        """Product, equal fields merged."""
        merged = dict(self.factors)
        for field, factor in other.factors:
            merged[field] = merged.get(field, sp.S.One) * factor
        return _term(self.coefficient * other.coefficient, merged, self.joint * other.joint)


def target_terms(target: MultiIndex) -> tuple[Term, ...]:
    """Terms of g in the fields h_star[1], ..., h_star[k].

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> u, v = sp.symbols("u v", real=True)
    >>> [t.factors for t in target_terms(dmft.MultiIndex(u**2 - 3*u + sp.sign(u * v), [u, v]))]
    [((h_star[1], z**2 - 3*z),), ((h_star[1], sign(z)), (h_star[2], sign(z)))]
    """
    stars = {z: x.h_star[r] for r, z in enumerate(target.fields, start=1)}
    terms = [
        _term(
            t.coefficient,
            {field.xreplace(stars): f for field, f in t.factors},
            t.joint.xreplace(stars),
        )
        for t in _split(target.expr, target.fields)
    ]
    return in_hermite_basis(collected(terms))


def in_hermite_basis(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """Products of Hermite polynomials in place of products of powers, where they are fewer.

    Averages of powers cancel at small overlaps where the target is He_a(z1) He_b(z2), expanded.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> u, v = sp.symbols("u v", real=True)
    >>> expanded = dmft.MultiIndex(sp.expand((u**2 - 1) * (v**2 - 1)), [u, v])
    >>> [t.factors for t in target_terms(expanded)]
    [((h_star[1], z**2 - 1), (h_star[2], z**2 - 1))]
    """
    powers = [
        t for t in terms if t.joint == 1 and all(f.is_polynomial(FIELD) for _, f in t.factors)
    ]
    fields = list(dict.fromkeys(field for t in powers for field, _ in t.factors))
    if len(powers) < 2 or len(fields) < 2:
        return terms
    place = {field: sp.Dummy() for field in fields}
    total: dict[tuple[int, ...], sp.Expr] = {}
    for t in powers:
        parts = [t.coefficient, *(f.xreplace({FIELD: place[y]}) for y, f in t.factors)]
        for degrees, value in sp.Poly(sp.Mul(*parts), *place.values()).terms():
            for one in product(*(power_in_hermite(n, 0, 1) for n in degrees)):
                key = tuple(r for r, *_ in one)
                ways = math.prod(ways for *_, ways in one)
                total[key] = total.get(key, sp.S.Zero) + value * ways
    found = [
        _term(c, {y: hermite(n, FIELD) for y, n in zip(fields, key, strict=True)}, sp.S.One)
        for key, value in total.items()
        if (c := sp.expand(value)) != 0
    ]
    fewer = collected(found)
    return (*fewer, *(t for t in terms if t not in powers)) if len(fewer) < len(powers) else terms


def squared(terms: Sequence[Term]) -> tuple[Term, ...]:
    """Terms of the square of a sum."""
    return collected(a * b for a, b in product(terms, repeat=2))


def collected(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Add what differs by its coefficient only; functions of one field become one factor."""
    alone: dict[sp.Expr, sp.Expr] = {}
    rest: dict[tuple[Factors, sp.Expr], sp.Expr] = {}
    for t in terms:
        if len(t.factors) == 1 and t.joint == 1:
            (field, factor), *_ = t.factors
            alone[field] = alone.get(field, sp.S.Zero) + t.coefficient * factor
        else:
            key = (t.factors, t.joint)
            rest[key] = rest.get(key, sp.S.Zero) + t.coefficient
    single = [_term(sp.S.One, {field: sp.expand(f)}, sp.S.One) for field, f in alone.items()]
    many = [Term(c, *key) for key, c in rest.items()]
    return tuple(t for t in [*single, *many] if t.coefficient != 0)


def _term(coefficient: sp.Expr, factors: dict[sp.Expr, sp.Expr], joint: sp.Expr) -> Term:
    """Sort the fields; constants among the factors go to the coefficient."""
    kept = {}
    for field, factor in factors.items():
        tidy = _tidy(factor)
        if tidy.has_free(FIELD):
            number, kept[field] = tidy.as_coeff_Mul()
            coefficient *= number
        else:
            coefficient *= tidy
    ordered = sorted(kept.items(), key=lambda pair: sp.default_sort_key(pair[0]))
    return Term(coefficient, tuple(ordered), joint)


def _tidy(factor: sp.Expr) -> sp.Expr:
    """Expanded polynomials; the square of a sign is one almost everywhere."""

    def even_sign(e: sp.Expr) -> bool:
        return bool(e.is_Pow and isinstance(e.base, sp.sign) and e.exp.is_even)

    factor = factor.replace(even_sign, lambda _: sp.S.One)
    return sp.expand(factor) if factor.is_polynomial(FIELD) else factor


def _split(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> list[Term]:
    """Terms with fields in the symbols of the target."""
    present = [z for z in fields if expr.has_free(z)]
    if not present:
        return [Term(expr)]
    if len(present) == 1:
        return [_term(sp.S.One, {present[0]: expr.xreplace({present[0]: FIELD})}, sp.S.One)]
    if expr.is_Add:
        return [t for a in expr.args for t in _split(a, fields)]
    if expr.is_Mul:
        return _multiplied([_split(a, fields) for a in expr.args])
    along = _along_one(expr, present)
    if along is not None:
        return [along]
    opened = _opened(expr, present)
    if opened != expr:
        return _split(opened, fields)
    if expr.is_Pow and expr.exp.is_Integer and expr.exp > 0:
        return _multiplied([_split(expr.base, fields)] * int(expr.exp))
    return [Term(sp.S.One, (), expr)]


def _multiplied(sums: Sequence[Sequence[Term]]) -> list[Term]:
    """Expand a product of sums of terms."""
    result = [Term(sp.S.One)]
    for terms in sums:
        result = [a * b for a in result for b in terms]
    return result


def _along_one(expr: sp.Expr, present: Sequence[sp.Symbol]) -> Term | None:
    """Write f(c0 + c1 z1 + c2 z2 + ...) as a function of z1 + (c2/c1) z2 + ..., if it is one."""
    first = present[0]
    for part in sp.preorder_traversal(expr):
        if not (part.is_Add and part.has_free(first) and part.is_polynomial(*present)):
            continue
        linear = sp.Poly(part, *present)
        if linear.total_degree() != 1:
            continue
        scale = linear.coeff_monomial(first)
        slopes = {z: linear.coeff_monomial(z) / scale for z in present}
        if any(c.free_symbols for c in slopes.values()):
            continue
        field = sp.Add(*(c * z for z, c in slopes.items()))
        value = expr.xreplace({part: scale * FIELD + linear.coeff_monomial(1)})
        if value.has_free(*present):
            value = sp.expand(expr.subs(first, FIELD + first - field))
        if not value.has_free(*present):
            return _term(sp.S.One, {field: value}, sp.S.One)
    return None


def _opened(expr: sp.Expr, present: Sequence[sp.Symbol]) -> sp.Expr:
    """Products inside signs and sums inside exponentials come out."""
    if isinstance(expr, sp.exp):
        parts = sp.Add.make_args(sp.expand(expr.exp))
        apart: dict[frozenset[sp.Symbol], sp.Expr] = {}
        for part in parts:
            key = frozenset(part.free_symbols & set(present))
            apart[key] = apart.get(key, sp.S.Zero) + part
        if len(apart) == 1:
            return expr
        return sp.Mul(*(sp.exp(p) for p in apart.values()), evaluate=False)
    if isinstance(expr, SWITCHES):
        factored = expr.replace(sp.sign, lambda u: sp.sign(sp.factor(u)))
        opened = to_signs(factored, list(present))
        return expr if opened == expr else opened
    return expr

"""Parsing of one factor f(z) into polynomials times exponentials times signs and erfs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from dmft.gaussian import refuse
from dmft.gaussian.closed.switch import SWITCHES, to_signs
from dmft.model import FIELD

# Functions that are sums of two exponentials.
WAVES = (sp.sin, sp.cos, sp.sinh, sp.cosh)
Rest = tuple[sp.Expr, sp.Expr, tuple[tuple[sp.Expr, sp.Expr], ...], tuple[sp.Expr, ...]]


@dataclass(frozen=True)
class Term:
    """Polynomial(z) * exp(-curvature z^2 / 2 + slope z) * prod erf(a z + c) * prod delta(z - t).

    `powers` are (n, coefficient) by ascending degree; the exponent is complex for sin and cos; an
    erf (oo, c) denotes sign(z + c).
    """

    powers: tuple[tuple[int, sp.Expr], ...]
    curvature: sp.Expr = sp.S.Zero
    slope: sp.Expr = sp.S.Zero
    erfs: tuple[tuple[sp.Expr, sp.Expr], ...] = ()
    deltas: tuple[sp.Expr, ...] = ()

    @property
    def is_polynomial(self) -> bool:
        """Whether nothing but the polynomial is left."""
        return not (self.erfs or self.deltas) and self.curvature == 0 and self.slope == 0


@lru_cache(maxsize=1024)
def parse_factor(expr: sp.Expr) -> tuple[Term, ...]:
    """Write a factor in the symbol `FIELD` as a sum of terms, equal non-polynomial parts merged."""
    expr = _rewritten(sp.sympify(expr, strict=True))
    merged: dict[Rest, dict[int, sp.Expr]] = {}
    for summand in sp.Add.make_args(sp.expand(expr, func=False)):
        coefficient, degree, rest = _parse_product(summand)
        powers = merged.setdefault(rest, {})
        powers[degree] = powers.get(degree, sp.S.Zero) + coefficient
    terms = []
    for rest, powers in merged.items():
        kept = tuple((n, c) for n, c in sorted(powers.items()) if c != 0)
        if kept:
            terms.append(Term(kept, *rest))
    return tuple(terms)


def _rewritten(expr: sp.Expr) -> sp.Expr:
    """Express erfc by erf, kinks by signs, and sin, cos, sinh, cosh by exponentials."""
    if expr.has(sp.erfc):
        expr = expr.replace(sp.erfc, lambda a: 1 - sp.erf(a))
    if expr.has(*SWITCHES):
        expr = to_signs(expr, [FIELD])
    if expr.has(*WAVES):
        for wave in expr.atoms(*WAVES):
            if wave.has_free(FIELD):
                _quadratic(wave.args[0], wave, order=1)
                expr = expr.xreplace({wave: wave.rewrite(sp.exp)})
    return expr


class _Parts:
    """What the factors of one summand add up to."""

    def __init__(self) -> None:
        self.coefficients: list[sp.Expr] = []
        self.degree = 0
        self.curvature, self.slope = sp.S.Zero, sp.S.Zero
        self.erfs: list[tuple[sp.Expr, sp.Expr]] = []
        self.deltas: list[sp.Expr] = []

    def exponential(self, part: sp.exp) -> None:
        """Take in the exponential of a quadratic."""
        quadratic, linear, constant = _quadratic(part.exp, part, order=2)
        self.curvature, self.slope = self.curvature - 2 * quadratic, self.slope + linear
        if constant != 0:
            self.coefficients.append(sp.exp(constant))

    def power(self, part: sp.Expr) -> None:
        """Take in a positive integer power."""
        base, exponent = part.as_base_exp()
        if not (exponent.is_Integer and exponent > 0):
            raise refuse(part, "not a positive integer power of the field or of erf")
        if base == FIELD:
            self.degree += int(exponent)
        elif isinstance(base, sp.erf):
            _, a, c = _quadratic(base.args[0], base, order=1)
            self.erfs.extend([(a, c)] * int(exponent))
        elif isinstance(base, sp.sign):
            _, a, c = _quadratic(base.args[0], base, order=1)
            if exponent % 2:  # the square of a sign is one almost everywhere
                self.coefficients.append(sp.sign(a))
                self.erfs.append((sp.oo, c / a))
        elif isinstance(base, sp.DiracDelta) and len(base.args) == 1 and exponent == 1:
            _, a, c = _quadratic(base.args[0], base, order=1)
            self.coefficients.append(1 / sp.Abs(a))
            self.deltas.append(-c / a)
        else:
            raise refuse(base, "the function belongs to no closed family")


def _parse_product(summand: sp.Expr) -> tuple[sp.Expr, int, Rest]:
    """Split c * z^n * exp(...) * prod erf(...) * prod delta(...) into (c, n, the rest)."""
    parts = _Parts()
    for part in sp.Mul.make_args(summand):
        if not part.has_free(FIELD):
            parts.coefficients.append(part)
        elif isinstance(part, sp.exp):
            parts.exponential(part)
        else:
            parts.power(part)
    key = sp.default_sort_key
    erfs = tuple(sorted(parts.erfs, key=lambda pair: (key(pair[0]), key(pair[1]))))
    rest = (parts.curvature, parts.slope, erfs, tuple(sorted(parts.deltas, key=key)))
    return sp.Mul(*parts.coefficients), parts.degree, rest


def _quadratic(argument: sp.Expr, owner: sp.Expr, order: int) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """Coefficients (z^2, z, 1) of the argument of `owner`, of degree at most `order`."""
    if not argument.is_polynomial(FIELD):
        raise refuse(owner, f"its argument {argument} is not a polynomial in the field")
    coefficients = sp.Poly(argument, FIELD).all_coeffs()[::-1]
    if len(coefficients) > order + 1:
        wanted = "linear" if order == 1 else "quadratic"
        raise refuse(owner, f"its argument {argument} is not {wanted} in the field")
    padded = coefficients + [sp.S.Zero] * (3 - len(coefficients))
    return padded[2], padded[1], padded[0]

"""Integrands as products of functions of one field, and each as polynomial, exponential, signs.

A function of a linear combination of fields is a function of one derived field, whose label
lists the combination.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


# A derived field sum_i a_i x_i as ((i, a_i), ...).
Label = tuple[tuple[int, sp.Expr], ...]
# Functions that may stand on a linear combination of fields.
LINEAR = (sp.erf, sp.sign, sp.DiracDelta, sp.sin, sp.cos, sp.sinh, sp.cosh)
Split = tuple[sp.Expr, list[sp.Expr], list[Label]]


def sum_of_products(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> list[sp.Expr]:
    """Summands that are products of functions of one (derived) field, expanded only if needed."""
    summands: list[sp.Expr] = []
    for summand in sp.Add.make_args(expr):
        parts = sp.Mul.make_args(summand)
        if all(_is_simple(p, fields) for p in parts):
            summands.append(summand)
        else:
            summands.extend(_expanded(summand, fields))
    return summands


def _is_simple(part: sp.Expr, fields: Sequence[sp.Symbol]) -> bool:
    if len(part.free_symbols & set(fields)) < 2:
        return True
    base, exponent = (part, sp.S.One) if isinstance(part, sp.exp) else part.as_base_exp()
    return isinstance(base, (*LINEAR, sp.exp)) and exponent.is_Integer and exponent > 0


def _expanded(summand: sp.Expr, fields: Sequence[sp.Symbol]) -> list[sp.Expr]:
    """Expand products and powers, with error functions and exponentials kept whole."""

    def kept(expr: sp.Expr) -> sp.Expr:
        if isinstance(expr, sp.erfc):
            return 1 - sp.erf(expr.args[0])
        if not isinstance(expr, (*LINEAR, sp.exp)):
            raise refuse(expr, "the function belongs to no closed family")
        return expr

    return expanded_terms(summand, fields, kept)


def expanded_terms(
    expr: sp.Expr, fields: Sequence[sp.Symbol], kept: Callable[[sp.Expr], sp.Expr]
) -> list[sp.Expr]:
    """Terms of an expanded sum, functions of the fields whole; `kept` may rewrite or refuse one."""
    frozen: dict[sp.Expr, sp.Dummy] = {}

    def freeze(part: sp.Expr) -> sp.Expr:
        if not part.has_free(*fields) or part in fields:
            return part
        power = isinstance(part, sp.Pow) and part.exp.is_Integer and part.exp > 0
        if power or isinstance(part, sp.Add | sp.Mul):
            return part.func(*[freeze(a) for a in part.args])
        whole = kept(part)
        return frozen.setdefault(part, sp.Dummy()) if whole == part else freeze(whole)

    flat = sp.expand(freeze(expr))
    back = {dummy: value for value, dummy in frozen.items()}
    return [term.xreplace(back) for term in sp.Add.make_args(flat)]


def split_product(summand: sp.Expr, fields: Sequence[sp.Symbol]) -> Split:
    """Write a summand as coefficient * prod f_i(x_i): coefficient, factors in `FIELD`, labels."""
    coefficients: list[sp.Expr] = []
    factors: list[sp.Expr] = []
    labels: list[Label] = []
    for part in sp.Mul.make_args(summand):
        present = [x for x in fields if x in part.free_symbols]
        if not present:
            coefficients.append(part)
        elif len(present) == 1:
            factors.append(part.xreplace({present[0]: FIELD}))
            labels.append(((fields.index(present[0]), sp.S.One),))
        elif isinstance(part, sp.exp):
            constant, squares = _complete_squares(part, fields)
            coefficients.append(constant)
            factors += [f for f, _ in squares]
            labels += [x for _, x in squares]
        else:
            base, exponent = part.as_base_exp()
            label, offset = _linear_form(base.args[0], base, fields)
            factors.append(base.func(FIELD + offset) ** exponent)
            labels.append(label)
    return sp.Mul(*coefficients), factors, labels


def _linear_form(
    argument: sp.Expr, owner: sp.Expr, fields: Sequence[sp.Symbol]
) -> tuple[Label, sp.Expr]:
    """Coefficients and offset of an argument that is linear in the fields."""
    if not argument.is_polynomial(*fields) or sp.Poly(argument, *fields).total_degree() > 1:
        raise refuse(owner, f"its argument {argument} is not linear in the fields")
    polynomial = sp.Poly(argument, *fields)
    pairs = [(i, polynomial.coeff_monomial(x)) for i, x in enumerate(fields)]
    return tuple((i, a) for i, a in pairs if not a.is_zero), polynomial.coeff_monomial(1)


def _complete_squares(
    part: sp.exp, fields: Sequence[sp.Symbol]
) -> tuple[sp.Expr, list[tuple[sp.Expr, Label]]]:
    """Write exp of a quadratic form as a constant times Gaussian factors of derived fields."""
    rest = sp.expand(part.exp)
    if not rest.is_polynomial(*fields) or sp.Poly(rest, *fields).total_degree() > 2:
        raise refuse(part, f"its argument {part.exp} is not quadratic in the fields")
    factors: list[tuple[sp.Expr, Label]] = []
    for x in fields:
        curvature = rest.coeff(x, 2)
        if curvature.is_zero:
            continue
        form = sp.Poly(sp.expand(sp.diff(rest, x) / (2 * curvature)), *fields)
        label = tuple((i, form.coeff_monomial(y)) for i, y in enumerate(fields))
        direction = sp.Add(*[a * fields[i] for i, a in label])
        rest = sp.expand(rest - curvature * direction**2)
        factors.append((sp.exp(curvature * FIELD**2), tuple(p for p in label if not p[1].is_zero)))
    if sp.Poly(rest, *fields).total_degree() > 1:
        raise refuse(part, "its quadratic form couples fields without squares of them")
    label, offset = _linear_form(rest, part, fields)
    if label:
        factors.append((sp.exp(FIELD), label))
    return sp.exp(offset), factors


def along_one(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> tuple[sp.Expr, sp.Expr] | None:
    """Write f(c0 + c1 z1 + c2 z2 + ...) as a function of `FIELD` and z1 + (c2/c1) z2 + ....

    None where it is no function of one combination of all of the fields.
    """
    first = fields[0]
    for part in sp.preorder_traversal(expr):
        if not (part.is_Add and part.has_free(first) and part.is_polynomial(*fields)):
            continue
        linear = sp.Poly(part, *fields)
        if linear.total_degree() != 1:
            continue
        scale = linear.coeff_monomial(first)
        field = sp.Add(*(sp.cancel(linear.coeff_monomial(z) / scale) * z for z in fields))
        value = expr.xreplace({part: scale * FIELD + linear.coeff_monomial(1)})
        if value.has_free(*fields):
            value = expr.xreplace({first: FIELD + first - field})
            value = value.replace(lambda e: e.is_Add, sp.expand)
        if not value.has_free(*fields):
            return value, field
    return None

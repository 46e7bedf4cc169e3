"""Splitting an integrand of several fields into products of functions of one field each.

A function of a linear combination of fields is a function of one derived field, whose label
lists the combination.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sympy as sp

from dmft.gaussian import refuse
from dmft.model import FIELD

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

"""Expectations of polynomials in several Gaussian fields, expanded or not, in dictionaries.

A polynomial is a dictionary {(powers of the fields, symbolic coefficient): rational number}; each
power becomes Hermite polynomials of its own field, of which most cancel, and the diagrams of what
is left are summed. SymPy objects are made once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp

from dmft.gaussian import LISTENER
from dmft.gaussian.closed.wick import (
    Index,
    Monomials,
    Number,
    diagrams,
    monomial_sum,
    power_in_hermite,
    rational,
)

Polynomial = dict[tuple[Index, sp.Expr], Number]
Grouped = dict[sp.Expr, dict[Index, Number]]


def polynomial_expectation(
    expr: sp.Expr,
    fields: Sequence[sp.Symbol],
    cov: sp.ImmutableDenseMatrix,
    mean: Sequence[sp.Expr],
) -> sp.Expr | None:
    """E[expr] of a polynomial in the fields; None for anything else.

    Equation    x^n = sum_r c_nr He_r(x) field by field; E[prod_i He_{r_i}(x_i)] by `diagrams`
    Valid for   polynomials with any coefficients free of the fields; exact
    Source      theory/one_pass A.4
    """
    place = {x: i for i, x in enumerate(fields)}
    polynomial = _parsed(expr, place)
    if polynomial is None:
        return None
    grouped: Grouped = {}
    for (powers, coefficient), number in polynomial.items():
        grouped.setdefault(coefficient, {})[powers] = number
    size = len(fields)
    pairs = [(i, j) for i in range(size) for j in range(i + 1, size)]
    generators = [*mean, *(cov[i, i] for i in range(size)), *(cov[i, j] for i, j in pairs)]
    silent = [position for position, (i, j) in enumerate(pairs) if cov[i, j] == 0]
    total = []
    heard = LISTENER.get()
    if heard is not None:
        heard.polynomial(expr, fields, cov, mean)
    for coefficient, terms in grouped.items():
        value = monomial_sum(generators, _averaged(terms, generators, silent, size))
        total.append(value if coefficient == 1 else coefficient * value)
        if heard is not None:
            heard.linked_all(coefficient)
    whole = total[0] if len(total) == 1 else sp.Add(*total)
    if heard is not None:
        heard.averaged(whole)
    return whole


def _averaged(
    terms: dict[Index, Number], generators: Sequence[sp.Expr], silent: Sequence[int], size: int
) -> Monomials:
    """Powers of the fields to powers of means, variances and covariances."""
    # Keys: degrees of Hermite polynomials or powers not yet turned; powers of means; of variances.
    state: dict[tuple[Index, Index, Index], Number] = {}
    blank = (0,) * size
    for powers, number in terms.items():
        state[powers, blank, blank] = number
    for i in range(size):
        m, v = rational(generators[i]), rational(generators[size + i])
        turned: dict[tuple[Index, Index, Index], Number] = {}
        for (powers, means, variances), number in state.items():
            for r, (a, b), ways in power_in_hermite(powers[i], m, v):
                key = (_with(powers, i, r), _with(means, i, a), _with(variances, i, b))
                turned[key] = turned.get(key, 0) + number * ways
        state = {key: number for key, number in turned.items() if number}
    result: Monomials = {}
    heard = LISTENER.get()
    for (degrees, means, variances), number in state.items():
        found = diagrams(degrees)
        if heard is not None:
            pairs = zip(generators, (*means, *variances), strict=False)
            front = sp.Mul(sp.Rational(number), *(g**n for g, n in pairs))
            heard.linked(degrees, front, found)
        for links, weight in found:
            if any(links[position] for position in silent):
                continue
            exponents = (*means, *variances, *links)
            result[exponents] = result.get(exponents, 0) + number * weight
    return {key: number for key, number in result.items() if number}


def _with(key: Index, i: int, n: int) -> Index:
    return key if key[i] == n else (*key[:i], n, *key[i + 1 :])


def _parsed(expr: sp.Expr, place: dict[sp.Symbol, int]) -> Polynomial | None:
    """Dictionary of an expression; None when it is no polynomial in the fields."""
    if expr in place:
        i = place[expr]
        return {(tuple(int(j == i) for j in range(len(place))), sp.S.One): 1}
    if expr.is_Atom or not expr.has_free(*place):
        return _constant(expr, len(place))
    if isinstance(expr, sp.Add):
        total: Polynomial = {}
        for arg in expr.args:
            part = _parsed(arg, place)
            if part is None:
                return None
            for key, number in part.items():
                total[key] = total.get(key, 0) + number
        return {key: number for key, number in total.items() if number}
    if isinstance(expr, sp.Mul):
        product: Polynomial = {((0,) * len(place), sp.S.One): 1}
        for arg in expr.args:
            part = _parsed(arg, place)
            if part is None:
                return None
            product = _multiplied(product, part)
        return product
    if isinstance(expr, sp.Pow) and expr.exp.is_Integer and expr.exp > 0:
        return _power(expr, place)
    return None


def _constant(expr: sp.Expr, size: int) -> Polynomial:
    number, rest = expr.as_coeff_Mul()
    value = rational(number)
    if value is None:
        number, rest, value = sp.S.One, expr, 1
    return {((0,) * size, rest): value} if value and rest != 0 else {}


def _power(expr: sp.Pow, place: dict[sp.Symbol, int]) -> Polynomial | None:
    if expr.base in place:
        i, n = place[expr.base], int(expr.exp)
        return {(tuple(n * (j == i) for j in range(len(place))), sp.S.One): 1}
    base = _parsed(expr.base, place)
    if base is None:
        return None
    product = base
    for _ in range(int(expr.exp) - 1):
        product = _multiplied(product, base)
    return product


def _multiplied(p: Polynomial, q: Polynomial) -> Polynomial:
    result: Polynomial = {}
    for (m, a), number in p.items():
        for (n, b), other in q.items():
            weight: Number = number * other
            coefficient = b if a == 1 else a if b == 1 else a * b
            if coefficient != b and coefficient != a:
                factor, rest = coefficient.as_coeff_Mul()
                split = rational(factor)
                if split is not None:
                    weight, coefficient = weight * split, rest
            key = (tuple(i + j for i, j in zip(m, n, strict=True)), coefficient)
            result[key] = result.get(key, 0) + weight
    return {key: number for key, number in result.items() if number}

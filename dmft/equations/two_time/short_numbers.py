"""Numbers with their errors, in closed form where there is one."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.expectation import Gaussian
from dmft.gaussian.nodes.quadrature import AccuracyWarning, quadrature

# Digits of numbers that enter an integrand.
DIGITS = 20
# Denominators beyond this make integers that no double holds.
SHORT = 10**6


@dataclass(frozen=True)
class Number:
    """A value, exact where it is a rational SymPy number, and its error."""

    value: sp.Expr
    error: float

    def __float__(self) -> float:
        return float(self.value)


def rational(value: float) -> sp.Expr:
    """The decimal number that a float is written as, where that is short; else the float.

    Examples
    --------
    >>> rational(0.3)
    3/10
    """
    exact = sp.Rational(repr(float(value)))
    return exact if exact.q <= SHORT else sp.Float(float(value), DIGITS)


def average(law: Gaussian, integrand: sp.Expr, rtol: float) -> Number:
    """E[integrand] in closed form, else by quadrature."""
    try:
        value = law.expect(integrand)
    except NotClosed:
        # One integral of many terms is cheaper than many integrals.
        with warnings.catch_warnings():
            # What is known less well than asked for says so in its error.
            warnings.simplefilter("ignore", AccuracyWarning)
            number = quadrature(integrand, law.fields, law.cov, law.mean, {}, rtol, by_terms=False)
        return Number(sp.Float(float(number), DIGITS), number.error)
    # Closed forms are known to more digits than a float holds.
    return Number(value if value.is_Rational else sp.N(value, DIGITS), 0.0)


def combined(row: Iterable[tuple[Number, sp.Expr]]) -> Number:
    """Sum of numbers times exact coefficients."""
    terms = list(row)
    value = sp.Add(*(n.value * c for n, c in terms))
    return Number(value, float(sum(n.error * abs(float(c)) for n, c in terms)))

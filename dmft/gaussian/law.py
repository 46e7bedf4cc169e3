"""Covariance and mean as functions of labels, closed under tilting and conditioning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.closed.pair import CorrelationRoot
from dmft.gaussian.closed.wick import times

Cov = Callable[[Any, Any], sp.Expr]
Mean = Callable[[Any], sp.Expr]

HALF = sp.Rational(1, 2)
# A float variance this far below what it was computed from is rounding: the field is fixed.
ROUNDING = 4e-15


class Law:
    """Covariance and mean as memoised functions of labels."""

    def __init__(
        self, cov: Cov, mean: Mean | None, fields: Sequence[Any], deviation: Mean | None = None
    ) -> None:
        """Start from callables; `deviation` gives standard deviations in a shape of its own."""
        self._cov, self._mean, self._fields = cov, mean, fields
        self._deviation = deviation
        self._covs: dict[tuple[Any, Any], sp.Expr] = {}
        self._means: dict[Any, sp.Expr] = {}
        # Averages under this law that are known, and laws that follow from it.
        self.known: dict[Any, sp.Expr] = {}
        self._tilted: dict[Any, tuple[sp.Expr, Law]] = {}
        self._conditional: dict[Any, Law] = {}
        if mean is not None and all(self.m(x) == 0 for x in fields):
            self._mean = None

    @property
    def conditioned(self) -> bool:
        """Whether some field has a value."""
        return self._deviation is not None

    def C(self, x: Any, y: Any) -> sp.Expr:
        """Covariance of two fields."""
        value = self._covs.get((x, y))
        if value is None:
            value = sp.sympify(self._cov(x, y), strict=True)
            self._covs[x, y] = self._covs[y, x] = value
        return value

    def m(self, x: Any) -> sp.Expr:
        """Mean of a field."""
        if self._mean is None:
            return sp.S.Zero
        if x not in self._means:
            self._means[x] = sp.sympify(self._mean(x), strict=True)
        return self._means[x]

    def deviation(self, x: Any) -> sp.Expr:
        """Standard deviation of a field."""
        return self._deviation(x) if self._deviation else sp.Pow(self.C(x, x), HALF)

    def density(self, x: Any, value: sp.Expr) -> sp.Expr:
        """sqrt(C_xx) times the density of x at a value (finite for a vanishing variance)."""
        distance = value - self.m(x)
        weight = 1 / sp.sqrt(2 * sp.pi)
        if distance == 0:
            return weight
        # A conditional variance may round to below zero, its root does not.
        inverse = sp.Pow(self.deviation(x), -2) if self._deviation else sp.Pow(self.C(x, x), -1)
        return weight * sp.exp(times(-HALF, distance**2, inverse))

    def tilt(self, q: Any, b: sp.Expr, slope: sp.Expr) -> tuple[sp.Expr, Law]:
        """Prefactor and law under the weight exp(-b q^2 / 2 + slope q)."""
        if (q, b, slope) not in self._tilted:
            self._tilted[q, b, slope] = self._tilt(q, b, slope)
        return self._tilted[q, b, slope]

    def _tilt(self, q: Any, b: sp.Expr, slope: sp.Expr) -> tuple[sp.Expr, Law]:
        C, m = self.C, self.m
        spread = 1 + times(b, C(q, q))
        if spread.is_number and not spread.is_positive:
            raise NotClosed(
                f"the Gaussian factor grows faster than the law decays (1 + {b} C <= 0)"
            )
        inverse = sp.Pow(spread, -1)
        pull = slope - times(b, m(q))

        # Between shifted fields, what is left of a variance of nearly parallel fields must agree
        # with what conditioning leaves of the other.
        shifted = pull != 0 or self._mean is not None

        def cov(x: Any, y: Any) -> sp.Expr:
            # C - b C_qq C / (1 + b C_qq), without its cancellation at large variances.
            if q in (x, y):
                return times(C(x, y), inverse)
            if shifted and x == y and not b.is_negative:
                return (
                    C(x, x) + times(b, CorrelationRoot(C(q, q), C(x, x), C(q, x)) ** 2)
                ) * inverse
            return C(x, y) + times(-b, C(q, x), C(q, y), inverse)

        def mean(x: Any) -> sp.Expr:
            return m(x) + times(C(q, x), pull, inverse)

        prefactor = sp.Pow(spread, -HALF)
        if pull == 0 and self._mean is None:
            return prefactor, Law(cov, None, self._fields)
        action = slope * m(q) + HALF * slope**2 * C(q, q) - HALF * b * m(q) ** 2
        return times(prefactor, sp.exp(times(action, inverse))), Law(cov, mean, self._fields)

    def condition(self, q: Any, value: sp.Expr) -> Law:
        """Law given that the field q has a value; q itself and fields parallel to it are fixed."""
        if (q, value) not in self._conditional:
            self._conditional[q, value] = self._condition(q, value)
        return self._conditional[q, value]

    def _condition(self, q: Any, value: sp.Expr) -> Law:
        C, m = self.C, self.m
        inverse = sp.Pow(C(q, q), -1)
        pull = value - m(q)

        def cov(x: Any, y: Any) -> sp.Expr:
            if q in (x, y):
                return sp.S.Zero
            rest = C(x, y) + times(sp.S.NegativeOne, C(q, x), C(q, y), inverse)
            if x == y or not rest.has(sp.Float):
                return _rounded(rest, C(x, x) * C(y, y))
            return _bounded(rest, cov(x, x) * cov(y, y))

        def mean(x: Any) -> sp.Expr:
            return value if x == q else m(x) + times(C(q, x), pull, inverse)

        def deviation(x: Any) -> sp.Expr:
            if cov(x, x) == 0:
                return sp.S.Zero
            return CorrelationRoot(C(q, q), C(x, x), C(q, x)) / self.deviation(q)

        centred = value == 0 and self._mean is None
        return Law(cov, None if centred else mean, self._fields, deviation)


def _bounded(value: sp.Expr, squared_bound: sp.Expr) -> sp.Expr:
    """Conditional covariance of floats within Cauchy-Schwarz.

    The law itself is positive semi-definite; a small variance of the condition magnifies rounding.
    """
    bound = sp.sqrt(squared_bound)
    return sp.sign(value) * bound if value.is_number and abs(value) > bound else value


def _rounded(value: sp.Expr, squared_scale: sp.Expr) -> sp.Expr:
    """Exact zero for a number that is only the rounding of its parts."""
    if not value.is_number or value.is_Rational:
        return value
    if value.has(sp.Float):
        small = bool(abs(value) <= ROUNDING * sp.sqrt(squared_scale))
    else:
        small = bool(sp.simplify(value) == 0)
    return sp.S.Zero if small else value

"""One function of one Gaussian field: its Hermite coefficients and what they leave out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import factorial

import sympy as sp

from dmft.gaussian.closed.linear import Label
from dmft.gaussian.exponents.coefficients import Coefficient, Coefficients
from dmft.model import FIELD

# The bound takes this many terms beyond the order by value; the rest by Cauchy-Schwarz.
NEXT_TERMS = 8
# Digits of the arithmetic of remainders, and rounding of one coefficient.
DIGITS = 30
ROUNDING = 1e-17
# A remainder of exact numbers below this is rounding of their evaluation.
NOTHING = 1e-25
# One standard normal number for all functions: equal ones share their coefficients.
NORMAL = sp.Dummy("u", real=True)


@lru_cache(maxsize=512)
def remembered(f: sp.Expr) -> Coefficients:
    """Coefficients of a function of `NORMAL`, kept for the session."""
    return Coefficients(f, (NORMAL,))


class Side:
    """One function of one field: Hermite coefficients, and what they leave of E f^2."""

    def __init__(
        self,
        f: sp.Expr,
        label: Label,
        cov: sp.MatrixBase,
        mean: Sequence[sp.Expr],
        order: int,
    ) -> None:
        self.label, self.function = label, f
        self.variance = covariance(cov, label, label)
        u = NORMAL
        centre = sp.Add(*[a * mean[i] for i, a in label])
        self.field = centre + sp.sqrt(self.variance) * u
        scaled = f.xreplace({FIELD: self.field})
        self.scaled = scaled
        self.polynomial = scaled.is_polynomial(u)
        self.known, self.size = remembered(scaled), remembered(scaled**2)
        # The highest first: an order for which precision runs out is refused at once.
        highest = [self.known[(n,)] for n in range(order + NEXT_TERMS, -1, -1)]
        self.coefficients = highest[::-1]

    def remainder(self) -> sp.Expr:
        """Upper limit of tau = E f^2 - sum c_n^2 / n!, rounding included."""
        return self.beyond(self.size[(0,)], [sp.S.One] * len(self.coefficients))

    def beyond(self, total: Coefficient, weights: Sequence[sp.Expr]) -> sp.Expr:
        """Upper limit of a total less sum_n weights_n c_n^2 / n!, rounding included."""
        parts = [total, *self.coefficients]
        left = total.value - sp.Add(
            *[
                w * c.value**2 / factorial(n)
                for n, (w, c) in enumerate(zip(weights, self.coefficients, strict=True))
            ]
        )
        if not left.is_number:
            return sp.simplify(left) if self.polynomial else left
        value = sp.N(left, DIGITS)
        if all(c.exact for c in parts):
            return sp.S.Zero if abs(value) < NOTHING else value
        noise = total.error + sum(
            float(w) * _noise(c, n)
            for n, (w, c) in enumerate(zip(weights, self.coefficients, strict=True))
        )
        return sp.Max(0, value) + sp.Float(noise, DIGITS)


def _noise(c: Coefficient, n: int) -> float:
    """Uncertainty of c_n^2 / n!."""
    size = abs(float(c.value))
    return 2 * (size + c.error) * (c.error + ROUNDING * size) / factorial(n)


def correlation(one: Side, two: Side, cov: sp.MatrixBase) -> sp.Expr:
    """Correlation of two fields; numbers beyond one by rounding are one."""
    if one.variance == 0 or two.variance == 0:
        return sp.S.Zero
    rho = covariance(cov, one.label, two.label) / sp.sqrt(one.variance * two.variance)
    # `check_covariance` has passed: what lies beyond is the rounding of the entries.
    return sp.sign(rho) if rho.is_number and bool(sp.Abs(rho) > 1) else rho


def rounding(one: Side, two: Side) -> float:
    """Error of the partial sum at |rho| <= 1 from that of numerical coefficients."""
    total = 0.0
    for n, (a, b) in enumerate(zip(one.coefficients, two.coefficients, strict=True)):
        first, second = abs(float(a.value)), abs(float(b.value))
        error = first * b.error + second * a.error + a.error * b.error + ROUNDING * first * second
        total += error / factorial(n)
    return total


def covariance(cov: sp.MatrixBase, x: Label, y: Label) -> sp.Expr:
    """Covariance of two derived fields."""
    return sp.Add(*[a * b * cov[i, j] for i, a in x for j, b in y])

r"""Exact transformations of a rational Gaussian law: tilting, merging, regression."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import comb

import sympy as sp

from dmft.errors import InvalidCovariance, NotClosed
from dmft.gaussian.certified.balls import Ball, constant, exact_fraction, flint, real_ball
from dmft.gaussian.certified.signed import RationalLaw, Rows


def lowest_pivot(cov: Sequence[Sequence[Fraction]]) -> Fraction:
    """A negative number if the exact matrix is not positive semi-definite, else zero or more.

    Symmetric elimination: a zero pivot needs a zero row.
    """
    C = [list(row) for row in cov]
    lowest = Fraction(1)
    for k in range(len(C)):
        pivot = C[k][k]
        lowest = min(lowest, pivot)
        if pivot < 0:
            return pivot
        if pivot == 0:
            if any(C[k][k + 1 :]):
                return -max(abs(c) for c in C[k][k + 1 :])
            continue
        for i in range(k + 1, len(C)):
            ratio = C[i][k] / pivot
            for j in range(k + 1, len(C)):
                C[i][j] -= ratio * C[k][j]
    return lowest


def solve(matrix: Sequence[Sequence[Fraction]], right: Sequence[Fraction]) -> list[Fraction]:
    """A solution of a consistent linear system, the free unknowns zero."""
    size = len(matrix)
    rows = [[*row, b] for row, b in zip(matrix, right, strict=True)]
    pivots: list[int] = []
    for column in range(size):
        r = len(pivots)
        found = next((i for i in range(r, size) if rows[i][column] != 0), None)
        if found is None:
            continue
        rows[r], rows[found] = rows[found], rows[r]
        rows[r] = [v / rows[r][column] for v in rows[r]]
        for i in range(size):
            if i != r and rows[i][column] != 0:
                factor = rows[i][column]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[r], strict=True)]
        pivots.append(column)
    solution = [Fraction(0)] * size
    for r, column in enumerate(pivots):
        solution[column] = rows[r][size]
    return solution


def tilt(law: RationalLaw, square: Rows, slope: Sequence[Fraction]) -> tuple[Ball, RationalLaw]:
    """Prefactor and law under the weight exp(-x'Bx/2 + l'x), B = `square`, l = `slope`.

    The tilted covariance is (I + C B)^-1 C, the mean (I + C B)^-1 (m + C l), the prefactor
    det(I + C B)^(-1/2) exp(l'C~l/2 + l'(I + C B)^-1 m - m'B(I + C B)^-1 m/2).
    """
    size = range(len(law.mean))
    C = sp.Matrix([[_number(c) for c in row] for row in law.cov])
    B = sp.Matrix([[_number(b) for b in row] for row in square])
    m, l = (sp.Matrix([_number(a) for a in v]) for v in (law.mean, slope))  # noqa: E741
    spread = sp.eye(len(law.mean)) + C * B
    det = spread.det()
    if not det > 0:
        raise NotClosed("a Gaussian factor grows faster than the law decays")
    inverse = spread.inv()
    cov, mean = inverse * C, inverse * (m + C * l)
    action = (l.T * cov * l / 2 + l.T * inverse * m - m.T * B * inverse * m / 2)[0]
    rows = tuple(tuple(_fraction(cov[min(i, j), max(i, j)]) for j in size) for i in size)
    if lowest_pivot(rows) < 0:
        raise NotClosed("a Gaussian factor grows faster than the law decays")
    prefactor = real_ball(_fraction(action)).exp() / real_ball(_fraction(det)).sqrt()
    return prefactor, RationalLaw(tuple(_fraction(a) for a in mean), rows)


def quadratic_form(
    exponent: sp.Expr, symbols: Sequence[sp.Symbol]
) -> tuple[Rows, list[Fraction], Ball]:
    """B, l and exp(constant) of an exponent -x'Bx/2 + l'x + constant."""
    if not exponent.is_polynomial(*symbols):
        raise NotClosed(f"exp({exponent}) is not the exponential of a quadratic form")
    polynomial = sp.Poly(exponent, *symbols)
    if polynomial.total_degree() > 2:
        raise NotClosed(f"exp({exponent}) is not the exponential of a quadratic form")
    n = len(symbols)
    square = [[Fraction(0)] * n for _ in range(n)]
    slope, size = [Fraction(0)] * n, flint().arb(1)
    for powers, c in polynomial.terms():
        where = [i for i, p in enumerate(powers) for _ in range(p)]
        if not where:
            size = constant(c).exp().real
            continue
        value = exact_fraction(c)
        if value is None:
            raise NotClosed(f"exp({exponent}) has the coefficient {c}, which is not rational")
        if len(where) == 1:
            slope[where[0]] += value
        else:
            i, j = where
            square[i][j] -= value
            square[j][i] -= value
    return tuple(tuple(row) for row in square), slope, size


def without_field(
    law: RationalLaw, j: int
) -> tuple[RationalLaw, list[Fraction], Fraction, Fraction]:
    """Regression of field j on the others: their law, the slopes, the offset, the residual.

    u_j = offset + sum_i slopes_i u_i + r, r of this variance and independent of the others.
    """
    rest = [i for i in range(len(law.mean)) if i != j]
    cov = tuple(tuple(law.cov[a][b] for b in rest) for a in rest)
    cross = [law.cov[i][j] for i in rest]
    slopes = solve(cov, cross)
    offset = law.mean[j] - sum(
        (s * law.mean[i] for s, i in zip(slopes, rest, strict=True)), Fraction(0)
    )
    explained = sum((s * c for s, c in zip(slopes, cross, strict=True)), Fraction(0))
    others = RationalLaw(tuple(law.mean[i] for i in rest), cov)
    return others, slopes, offset, law.cov[j][j] - explained


def averaged_power(n: int, center: sp.Expr, variance: Fraction) -> sp.Expr:
    """E[(center + r)^n] over a centred Gaussian r of this variance."""
    total = sp.S.Zero
    for k in range(n // 2 + 1):
        pairings = sp.factorial2(2 * k - 1) if k else sp.S.One
        total += comb(n, 2 * k) * pairings * _number(variance) ** k * center ** (n - 2 * k)
    return sp.expand(total)


def checked_law(mean: Sequence[Fraction], cov: Sequence[Sequence[Fraction]]) -> RationalLaw:
    """Law of these exact numbers."""
    lowest = lowest_pivot(cov)
    if lowest < 0:
        pivot = sp.N(_number(lowest), 3)  # which a float may not hold
        raise InvalidCovariance(
            f"the exact covariance is not positive semi-definite: pivot {pivot}. A "
            "float is taken as the binary fraction that it holds; write singular covariances in "
            "sympy.Rational"
        )
    return RationalLaw(tuple(mean), tuple(tuple(row) for row in cov))


def _number(value: Fraction) -> sp.Rational:
    return sp.Rational(value.numerator, value.denominator)


def _fraction(value: sp.Expr) -> Fraction:
    result = exact_fraction(sp.sympify(value, strict=True))
    assert result is not None
    return result

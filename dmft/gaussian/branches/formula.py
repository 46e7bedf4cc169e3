"""Averages of one field with exponential branches, written with erfcx."""

from __future__ import annotations

from itertools import pairwise

import sympy as sp

from dmft.gaussian.branches.factors import Branches, Row, dense
from dmft.gaussian.closed.scaled import erfcx


def field_formula(read: Branches, mean: sp.Expr, variance: sp.Expr) -> sp.Expr:
    r"""E F(x) of x ~ N(mean, variance), a sum over half lines.

    Equation    E[e^{bx} 1(x > t)] = 1/2 e^{bt - (t-m)^2/(2v)} erfcx((t - m - b v)/sqrt(2 v)), and
                powers of x by Stein's identity

    Examples
    --------
    >>> import sympy as sp
    >>> from dmft.model import FIELD as z
    >>> from dmft.gaussian.branches.factors import branches
    >>> elu = branches(sp.Piecewise((sp.exp(z) - 1, z < 0), (z, True)))
    >>> field_formula(elu, sp.Integer(0), sp.Symbol("q", positive=True))
    sqrt(2)*sqrt(q)/(2*sqrt(pi)) + erfcx(sqrt(2)*sqrt(q)/2)/2 - 1/2
    """
    ends = [-sp.oo, *read.kinks, sp.oo]
    parts = zip(read.intervals, pairwise(ends), strict=True)
    return sp.Add(*(_row(r, *span, mean, variance) for rows, span in parts for r in rows))


def _row(row: Row, low: sp.Expr, high: sp.Expr, mean: sp.Expr, variance: sp.Expr) -> sp.Expr:
    """Average of one row over its interval, by half lines on which its exponential decays."""
    if low is -sp.oo and high is sp.oo:
        return _tail(row, sp.S.Zero, -1, mean, variance) + _tail(row, sp.S.Zero, 1, mean, variance)
    if high is sp.oo or (low is not -sp.oo and row.slope <= 0):
        far = _tail(row, high, 1, mean, variance) if high is not sp.oo else sp.S.Zero
        return _tail(row, low, 1, mean, variance) - far
    far = _tail(row, low, -1, mean, variance) if low is not -sp.oo else sp.S.Zero
    return _tail(row, high, -1, mean, variance) - far


def _tail(row: Row, t: sp.Expr, side: int, mean: sp.Expr, variance: sp.Expr) -> sp.Expr:
    """Average over x > t (side 1) or x < t (side -1)."""
    b, gap = row.slope, t - mean
    weight = sp.exp(b * t - gap**2 / (2 * variance))
    shifted = mean + b * variance
    argument = side * (gap - b * variance) / sp.sqrt(2 * variance)
    moments = [_zeroth(weight, argument, b)]
    edge = side * sp.sqrt(variance) * weight / sp.sqrt(2 * sp.pi)
    coefficients = dense(row)
    for n in range(1, len(coefficients)):
        before = (n - 1) * variance * moments[n - 2] if n > 1 else sp.S.Zero
        moments.append(shifted * moments[n - 1] + before + edge * t ** (n - 1))
    return sp.expand(
        sp.Add(*(c * m for c, m in zip(coefficients, moments, strict=True))), func=False
    )


def _zeroth(weight: sp.Expr, argument: sp.Expr, slope: sp.Expr) -> sp.Expr:
    """Weight of the half line, without an exponential where it has none."""
    if slope == 0:
        return (1 - sp.erf(argument)) / 2
    return weight * erfcx(argument) / 2

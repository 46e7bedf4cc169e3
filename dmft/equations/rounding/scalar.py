"""Rounding of expressions in scalar symbols: those of sequence models, with their tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import sympy as sp

from dmft.equations.averages.expectation import Expectation
from dmft.equations.reference import FUNCTIONS
from dmft.equations.rounding import rules
from dmft.equations.rounding.rules import OF_FUNCTION, Bounded
from dmft.gaussian.tables.tokens import TokenAverage


def exactly(value: float) -> Bounded:
    """A number that counts as exact."""
    return rules.number(value, True)


def bounded_number(expr: sp.Expr, known: Mapping[sp.Symbol, Bounded]) -> Bounded:
    """Value, bound of its rounding and size of the terms of an expression.

    Tables add what they claim; averages on nodes must be known symbols by now.

    Examples
    --------
    >>> from dmft.equations.rounding.rules import number
    >>> x = sp.Symbol("x")
    >>> found = bounded_number(1 + x - 1000 * x, {x: number(0.1, True)})
    >>> bool(0 < found.error < 1e-13)
    True
    """
    with np.errstate(all="ignore"):
        return _bounded(expr, known, {})


def _bounded(
    expr: sp.Expr, known: Mapping[sp.Symbol, Bounded], memo: dict[sp.Expr, Bounded]
) -> Bounded:
    if expr not in memo:
        memo[expr] = _step(expr, known, memo)
    return memo[expr]


def _step(
    expr: sp.Expr, known: Mapping[sp.Symbol, Bounded], memo: dict[sp.Expr, Bounded]
) -> Bounded:
    if expr.is_number and not expr.has(TokenAverage):
        value = float(expr)
        return rules.number(value, bool(expr == sp.Rational(value)))
    if isinstance(expr, sp.Symbol):
        return known[expr]
    if isinstance(expr, TokenAverage):
        value = float(expr.value({s: float(part.value) for s, part in known.items()}))
        return Bounded(value, expr.table.bound + expr.table.error, abs(value))
    assert not isinstance(expr, Expectation), "averages on nodes are definitions of their own"
    name = type(expr).__name__
    power = isinstance(expr, sp.Pow) and expr.exp.is_number
    if not (isinstance(expr, sp.Add | sp.Mul) or power or name in FUNCTIONS):
        value = float(expr.xreplace({s: sp.Float(part.value, 17) for s, part in known.items()}))
        return Bounded(value, OF_FUNCTION * abs(value), abs(value))
    parts = [_bounded(a, known, memo) for a in (expr.args[:1] if power else expr.args)]
    if isinstance(expr, sp.Add):
        return rules.added(parts)
    if isinstance(expr, sp.Mul):
        return rules.multiplied(parts)
    return rules.raised(parts[0], float(expr.exp)) if power else rules.applied(name, parts)

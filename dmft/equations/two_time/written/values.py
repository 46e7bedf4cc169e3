"""Right-hand sides of a two-time problem in numbers, from its symbols as they stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

if TYPE_CHECKING:
    from dmft.equations.two_time.written.problem import TwoTime


@dataclass(frozen=True)
class ValuesAtTimes:
    """Values of expressions at numeric times."""

    problem: TwoTime
    known: Mapping[str, Callable[..., float]]
    parameters: Mapping[sp.Symbol, sp.Expr]
    s: sp.Expr
    nodes: int

    def __call__(self, expr: sp.Expr, at: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
        """Value of an expression where the times are `at`."""
        table: dict[sp.Expr, sp.Expr] = {}
        for total in expr.atoms(sp.Integral):
            table[total] = self.integral(total, at)
        plain = expr.xreplace(table)
        functions = plain.atoms(sp.core.function.AppliedUndef)
        plain = plain.xreplace({f: self.function(f, at) for f in functions})
        return plain.xreplace({**self.parameters, **at})

    def integral(self, total: sp.Integral, at: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
        """Integral over one time; functions have kinks at s."""
        (symbol, low, high) = total.limits[0]
        ends = [y.xreplace(dict(at)) for y in (low, high)]
        ends[1:1] = [self.s] if ends[0] < self.s < ends[1] else []
        result = sp.Float(0)
        for begin, end in pairwise(ends):
            half = (end - begin) / 2
            for place, weight in _rule(self.nodes):
                here = {**at, symbol: begin + half * (1 + place)}
                result += half * weight * self(total.function, here)
        return result

    def function(self, applied: sp.Expr, at: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
        """Value of a function at its times: symmetric, or zero before its cause."""
        times = [float(y.xreplace(dict(at))) for y in applied.args]
        if len(times) == 2 and times[0] < times[1]:
            if applied.func in self.problem.causal:
                return sp.Float(0)
            times.reverse()
        return sp.Float(self.known[str(applied.func)](*times))


@lru_cache(maxsize=8)
def _rule(nodes: int) -> tuple[tuple[sp.Expr, sp.Expr], ...]:
    """Places in [-1, 1] and weights of Gauss and Legendre."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    return tuple(
        (sp.Float(x), sp.sympify(w, strict=True)) for x, w in zip(places, weights, strict=True)
    )

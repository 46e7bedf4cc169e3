"""Terms of the two-time process at given times and neurons: sums over them written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations.averages.expectation import At
from dmft.equations.definitions import Definition, base_name, define
from dmft.equations.two_time.descent import DescentEquations
from dmft.equations.two_time.descent_process import (
    C_theta,
    R_theta,
    eta,
    field_at,
    s,
    t,
    u,
)

if TYPE_CHECKING:
    pass

TIMES = (t, s, u)


def at_times(
    definition: Definition, times: Sequence[int], equations: DescentEquations
) -> Definition:
    """A definition of the process at these times: sums over time become their terms."""
    assert isinstance(definition.target, sp.Indexed)
    shifted, *others = definition.target.indices[: len(times)]
    here = {t: times[0] - int(shifted - t)}
    here |= dict(zip(others, times[1:], strict=True))
    fresh = equations.algorithm.batch == "fresh"
    terms = {
        name: _written(expr, here)
        for name, expr in definition.terms
        # Samples of a step that are never seen again have no gradient of their own.
        if not (fresh and definition.target.base == field_at and name == "memory")
    }
    indices = (*times, *definition.target.indices[len(times) :])
    return define(definition.target.base[indices], terms, definition.role)


def _written(expr: sp.Expr, at: Mapping[sp.Symbol, int]) -> sp.Expr:
    """An expression at numeric times."""
    if isinstance(expr, sp.Sum):
        over = [y for y in expr.limits if y[0] in TIMES]
        neurons = [y for y in expr.limits if y[0] not in TIMES]
        points: list[dict[sp.Symbol, int]] = [dict(at)]
        for symbol, low, high in over:
            ends = int(_written(low, at)), int(_written(high, at))
            points = [{**q, symbol: n} for q in points for n in range(ends[0], ends[1] + 1)]
        return sp.Add(*(_contracted(_written(expr.function, q), neurons) for q in points))
    if isinstance(expr, sp.Indexed):
        count = sum(bool(i.free_symbols & set(TIMES)) or i.is_Integer for i in expr.indices)
        # w^{-1} = w^0: the first step has no momentum.
        times = [max(int(_written(i, at)), 0) for i in expr.indices[:count]]
        if expr.base == R_theta:
            return _response(times, expr.indices[count:])
        if expr.base == C_theta and times[0] < times[1]:
            # C(s, t) = C(t, s)^T
            times, rest = times[::-1], expr.indices[count:][::-1]
            return expr.base[(*times, *rest)]
        return expr.base[(*times, *expr.indices[count:])]
    if not expr.args:
        return sp.Integer(at[expr]) if expr in at else expr
    return expr.func(*(_written(a, at) for a in expr.args))


def _response(times: Sequence[int], neurons: Sequence[sp.Expr]) -> sp.Expr:
    """R_theta, causal; that of the first step is known."""
    if times[1] >= times[0]:
        return sp.S.Zero
    if times[0] == times[1] + 1:
        return -eta * sp.KroneckerDelta(*neurons)
    return R_theta[(*times, *neurons)]


def _contracted(body: sp.Expr, limits: Sequence[sp.Tuple]) -> sp.Expr:
    """Sum over neurons, without those that a Kronecker delta fixes."""
    if body == 0:
        return sp.S.Zero
    for delta in body.atoms(sp.KroneckerDelta):
        for limit in limits:
            if limit[0] in delta.args:
                other = next(a for a in delta.args if a != limit[0])
                rest = [y for y in limits if y is not limit]
                return _contracted((body / delta).xreplace({limit[0]: other}), rest)
    return sp.Sum(body, *limits) if limits else body


def expanded(
    expr: sp.Expr,
    at: Mapping[sp.Symbol, int],
    widths: Mapping[sp.Symbol, int],
    entry: Callable[[str, tuple[int, ...]], sp.Expr],
) -> sp.Expr:
    """An expression with numbers for its neurons; `entry` gives the entries of arrays."""
    if isinstance(expr, sp.Sum):
        return sp.Add(
            *(expanded(expr.function, q, widths, entry) for q in _neurons(expr.limits, at, widths))
        )
    if isinstance(expr, sp.Indexed):
        places = tuple(int(i.xreplace(dict(at))) for i in expr.indices)
        return entry(base_name(expr), places)
    if isinstance(expr, At):
        field = expanded(expr.field, at, widths, entry)
        return At(expr.factor, field).expr
    if not expr.args:
        return sp.sympify(at.get(expr, widths.get(expr, expr)), strict=True)
    return expr.func(*(expanded(a, at, widths, entry) for a in expr.args))


def _neurons(
    limits: Sequence[sp.Tuple], at: Mapping[sp.Symbol, int], widths: Mapping[sp.Symbol, int]
) -> Iterator[dict[sp.Symbol, int]]:
    """All values of the indices of a sum."""
    ranges = (range(1, int(high.xreplace(dict(widths))) + 1) for _, _, high in limits)
    for values in product(*ranges):
        yield {**at, **dict(zip((y[0] for y in limits), values, strict=True))}

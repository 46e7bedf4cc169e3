"""Terms of the two-time process at given times: sums over times written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, define
from dmft.equations.two_time.descent_process import C_theta, Descent, R_theta, field_at, s, t, u

TIMES = (t, s, u)


def at_times(definition: Definition, times: Sequence[int], equations: Descent) -> Definition:
    """A definition of the process at these times: sums over time become their terms."""
    assert isinstance(definition.target, sp.Indexed)
    shifted, *others = definition.target.indices[: len(times)]
    here = {t: times[0] - int(shifted - t)}
    here |= dict(zip(others, times[1:], strict=True))
    answer = first_response(equations)
    fresh = equations.algorithm.batch == "fresh"
    terms = {
        name: _written(expr, here, answer)
        for name, expr in definition.terms
        # Samples of a step that are never seen again have no gradient of their own.
        if not (fresh and definition.target.base == field_at and name == "memory")
    }
    indices = (*times, *definition.target.indices[len(times) :])
    return define(definition.target.base[indices], terms, definition.role)


def first_response(equations: Descent) -> sp.Expr | None:
    """R_theta(t + 1, t) of neurons j and l, where it holds no other entry; else None."""
    found = next(d for d in equations.process if d.target.base == R_theta)
    expr = sp.Add(*(_written(e, {t: 0, s: 0}, None) for _, e in found.terms))
    return None if expr.has(sp.Indexed) else expr


def _written(expr: sp.Expr, at: Mapping[sp.Symbol, int], answer: sp.Expr | None) -> sp.Expr:
    """An expression at numeric times; `answer` is R_theta just after its force, where known."""
    if isinstance(expr, sp.Sum):
        over = [y for y in expr.limits if y[0] in TIMES]
        neurons = [y for y in expr.limits if y[0] not in TIMES]
        points: list[dict[sp.Symbol, int]] = [dict(at)]
        for symbol, low, high in over:
            ends = int(_written(low, at, answer)), int(_written(high, at, answer))
            points = [{**q, symbol: n} for q in points for n in range(ends[0], ends[1] + 1)]
        whole = (_written(expr.function, q, answer) for q in points)
        return sp.Add(*(_contracted(y, neurons) for y in whole))
    if isinstance(expr, sp.Indexed):
        count = sum(bool(i.free_symbols & set(TIMES)) or i.is_Integer for i in expr.indices)
        # w^{-1} = w^0: the first step has no momentum.
        times = [max(int(_written(i, at, answer)), 0) for i in expr.indices[:count]]
        if expr.base == R_theta:
            return _response(times, expr.indices[count:], answer)
        if expr.base == C_theta and times[0] < times[1]:
            # C(s, t) = C(t, s)^T
            times, rest = times[::-1], expr.indices[count:][::-1]
            return expr.base[(*times, *rest)]
        return expr.base[(*times, *expr.indices[count:])]
    if not expr.args:
        return sp.Integer(at[expr]) if expr in at else expr
    return expr.func(*(_written(a, at, answer) for a in expr.args))


def _response(times: Sequence[int], neurons: Sequence[sp.Expr], answer: sp.Expr | None) -> sp.Expr:
    """R_theta, causal; that of one step is inserted where it is known."""
    if times[1] >= times[0]:
        return sp.S.Zero
    if times[0] == times[1] + 1 and answer is not None:
        return answer.xreplace(dict(zip((x.j, x.l), neurons, strict=True)))
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

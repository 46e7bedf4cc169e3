"""Numbers of both sides of a step: symbols drawn at random, averages by quadrature."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import sympy as sp

from dmft.errors import BadParameter
from dmft.explanation.average import SHARE, Average, written_out
from dmft.explanation.judge import Value, gaussian_average

Numbers = Mapping[sp.Basic, float]
# Gauss-Legendre nodes of an integral in a step.
INTEGRAL_NODES = 16
# Smallest eigenvalue of a random covariance, relative to the largest; draws before giving up.
LEAST_EIGENVALUE, MOST_DRAWS = 0.12, 4000


def number(expr: sp.Expr, at: Numbers) -> Value:
    """Value of an expression in averages, integrals and sums at numbers for its symbols."""
    if isinstance(expr, Average | sp.Integral):
        return _by_quadrature(expr, tuple(at.items()))
    if isinstance(expr, sp.Add):
        parts = [number(a, at) for a in expr.args]
        return Value(sum(p.value for p in parts), sum(p.size for p in parts))
    if expr.has(Average, sp.Integral) and isinstance(expr, sp.Mul | sp.Pow | sp.Function):
        parts = [number(a, at) for a in expr.args]
        value = float(sp.N(expr.func(*(sp.Float(p.value, 17) for p in parts))))
        if not isinstance(expr, sp.Mul):
            return Value(value, abs(value))
        return Value(value, float(np.prod([p.size for p in parts])))
    value = float(sp.N(expr.xreplace(exact(at)), 17))
    return Value(value, abs(value))


@lru_cache(maxsize=2048)
def _by_quadrature(expr: sp.Expr, at: tuple[tuple[sp.Basic, float], ...]) -> Value:
    """What a step ends with, the next begins with: the same at the same numbers."""
    return (_average if isinstance(expr, Average) else _integral)(expr, dict(at))


def exact(at: Numbers) -> dict[sp.Basic, sp.Expr]:
    """Numbers as SymPy's."""
    return {s: sp.Float(v, 17) for s, v in at.items()}


def _average(expr: Average, at: Numbers) -> Value:
    known = exact(at)
    n = len(expr.fields)
    cov = np.array([[_real(expr.cov[i, j], known) for j in range(n)] for i in range(n)])
    mean = np.array([_real(m, known) for m in expr.mean])
    hidden = {x: sp.Dummy(real=True) for x in expr.fields}
    integrand = written_out(expr.integrand).xreplace(hidden).xreplace(known)
    return gaussian_average(integrand, list(hidden.values()), cov.reshape(n, n), mean)


def _real(entry: sp.Expr, known: Mapping[sp.Basic, sp.Expr]) -> float:
    return float(sp.N(entry.xreplace(known), 17))


def _integral(expr: sp.Integral, at: Numbers) -> Value:
    (t, low, high), *more = expr.limits
    inside = expr.func(expr.function, *more) if more else expr.function
    a, b = (number(e, at).value for e in (low, high))
    nodes, weights = np.polynomial.legendre.leggauss(INTEGRAL_NODES)
    # The density of two fields that become parallel is singular at the upper end, as 1 / sqrt.
    left = (1 - nodes) / 2
    parts = [number(inside, {**at, t: a + (b - a) * (1 - s**2)}) for s in left]
    w = weights * (b - a) * left
    return Value(float(w @ [p.value for p in parts]), float(np.abs(w) @ [p.size for p in parts]))


# Random numbers -------------------------------------------------------------------------------


def unknowns(*exprs: sp.Basic) -> list[sp.Basic]:
    """Symbols and entries of arrays that expressions depend on, by name."""
    found: set[sp.Basic] = set()
    for expr in exprs:
        if isinstance(expr, Average):
            own = set(expr.fields)
            inside = set(unknowns(expr.integrand)) - own
            found |= inside | set(unknowns(expr.cov, *expr.mean))
        elif isinstance(expr, sp.Integral):
            found |= set(unknowns(expr.function)) - {limit[0] for limit in expr.limits}
        elif isinstance(expr, sp.Symbol | sp.Indexed):
            found.add(expr)
        else:
            found |= set(unknowns(*expr.args))
    return sorted(found, key=str)


def draw(
    laws: Sequence[sp.ImmutableDenseMatrix], others: Iterable[sp.Basic], seed: int
) -> dict[sp.Basic, float]:
    """Random numbers for symbols at which these covariances are positive definite."""
    rng = np.random.default_rng(seed)
    symbols = unknowns(*laws)
    diagonal = {s for law in laws for s in unknowns(*(law[i, i] for i in range(law.rows)))}
    compiled = [sp.lambdify([symbols], law.tolist(), modules="numpy") for law in laws]
    for attempt in itertools.count():
        values = {s: _random(s, rng, s in diagonal) for s in symbols}
        # Late draws allow for laws that are singular at all numbers.
        least = LEAST_EIGENVALUE if attempt < MOST_DRAWS / 2 else -1e-12
        if all(_is_positive(f(list(values.values())), least) for f in compiled):
            break
        if attempt == MOST_DRAWS:
            raise BadParameter(
                f"no numbers for {', '.join(map(str, symbols))} were found at which the "
                "covariance is positive definite: an explanation is checked at two such "
                "covariances"
            )
    rest = [s for s in others if s not in values]
    return values | {s: _random(s, rng, False) for s in rest}


def _is_positive(law: Sequence[Sequence[float]], least: float) -> bool:
    eigenvalues = np.linalg.eigvalsh(np.array(law, dtype=np.float64))
    return bool(eigenvalues[0] >= least * eigenvalues[-1])


def _random(symbol: sp.Basic, rng: np.random.Generator, variance: bool) -> float:
    if symbol == SHARE:
        return float(rng.uniform(0.2, 0.8))
    if variance or symbol.is_positive:
        return float(rng.uniform(0.35, 1.4))
    if symbol.is_nonnegative:
        return float(rng.uniform(0.1, 0.9))
    return float(rng.uniform(0.15, 0.75) * rng.choice([-1, 1]))

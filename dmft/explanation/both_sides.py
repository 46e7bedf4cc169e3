r"""Numbers of both sides of a step: averages of Gaussian fields by plain quadrature, from their
definition, at random numbers for the symbols.

Steps of explanations are checked with it. Functions and covariances enter as numbers only; closed
forms are not used. Fields are written x = m + L z with z ~ N(0, I), switching fields first, so that
along each z the integrand has kinks at known points only: panels of Gauss-Legendre nodes end there,
and where there are none the trapezoidal rule converges faster than any power of its width.
Polynomials are averaged on Gauss-Hermite nodes, which are exact. A Dirac factor is the density of
its field times the law given that field.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp
from sympy.core.relational import Relational

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.explanation.average import SHARE, Average, statement_latex, written_out
from dmft.typeset.plain import plain

Numbers = Mapping[sp.Basic, float]
# Gauss-Legendre nodes of an integral in a step.
INTEGRAL_NODES = 16
# Smallest eigenvalue of a random covariance, relative to the largest; draws before giving up.
LEAST_EIGENVALUE, MOST_DRAWS = 0.12, 4000


@dataclass(frozen=True)
class Rule:
    """Beyond `reach` the density counts as zero; panels beside a kink, nodes in each; `width` of
    the trapezoidal rule; points of less than the `least` weight are left out.
    """

    reach: float
    panels: int
    nodes: int
    width: float
    least: float


# By dimension.
RULES = {
    1: Rule(10.0, 8, 16, 0.1, 0.0),
    2: Rule(8.5, 4, 14, 0.2, 1e-20),
    3: Rule(8.0, 3, 12, 0.33, 1e-18),
    4: Rule(7.5, 2, 10, 0.5, 1e-16),
}
MOST_FIELDS = max(RULES)
# Numbers below this guard divisions by zero.
GUARD = 1e-100
# Variance that is rounding, relative to that of the field.
FIXED = 1e-11


@dataclass(frozen=True)
class Value:
    """An average, and that of the absolute value: what rounding is measured with."""

    value: float
    size: float

    @classmethod
    def exact(cls, number: sp.Expr | float) -> Value:
        """A number."""
        value = number if isinstance(number, float) else float(sp.N(number, 17))
        return cls(value, abs(value))

    @classmethod
    def of(cls, expr: sp.Expr, parts: Sequence[Value]) -> Value:
        """What a sum, a product or a function is at the values of its arguments."""
        values, sizes = ([getattr(p, name) for p in parts] for name in ("value", "size"))
        if isinstance(expr, sp.Add):
            return cls(sum(values), sum(sizes))
        if isinstance(expr, sp.Mul):
            return cls(float(np.prod(values)), float(np.prod(sizes)))
        exact = (
            e if e.is_number else sp.Float(y, 17) for e, y in zip(expr.args, values, strict=True)
        )
        return cls.exact(expr.func(*exact))


def gaussian_average(
    integrand: sp.Expr, fields: Sequence[sp.Expr], cov: Array, mean: Array
) -> Value:
    """E[integrand] of fields with a covariance and a mean, all numbers."""
    names = [sp.Symbol(f"x{i}", real=True) for i in range(len(fields))]
    plain = integrand.xreplace(dict(zip(fields, names, strict=True)))
    if plain.has(sp.DiracDelta):
        return _with_deltas(plain, names, cov, mean)
    kept = [i for i, x in enumerate(names) if plain.has(x)]
    plain = without_extremes(plain)
    if not kept:
        return Value.exact(plain)
    return _integrate(plain, [names[i] for i in kept], cov[np.ix_(kept, kept)], mean[kept])


def without_extremes(expr: sp.Expr) -> sp.Expr:
    """Max and Min by absolute values, for NumPy."""

    def pair(sign: int, args: tuple[sp.Expr, ...]) -> sp.Expr:
        first, *rest = args
        for other in rest:
            first = (first + other + sign * sp.Abs(first - other)) / 2
        return first

    expr = expr.replace(sp.Max, lambda *args: pair(1, args))
    return expr.replace(sp.Min, lambda *args: pair(-1, args))


# Dirac factors --------------------------------------------------------------------------------


def _with_deltas(expr: sp.Expr, fields: Sequence[sp.Symbol], cov: Array, mean: Array) -> Value:
    """Sum over the terms of the densities of Dirac arguments at zero times conditional averages."""
    total = size = 0.0
    for term in sp.Add.make_args(sp.expand(expr)):
        deltas = [f for f in sp.Mul.make_args(term) if isinstance(f, sp.DiracDelta)]
        if not deltas:
            found = gaussian_average(term, fields, cov, mean)
            total, size = total + found.value, size + found.size
            continue
        rest = term / sp.Mul(*deltas)
        A, b = (
            np.array(a) for a in zip(*(_linear(d.args[0], fields) for d in deltas), strict=True)
        )
        S, centre = A @ cov @ A.T, A @ mean + b
        gap = np.linalg.solve(S, centre)
        density = math.exp(-0.5 * centre @ gap) / math.sqrt(np.linalg.det(2 * math.pi * S))
        gain = cov @ A.T
        inside = cov - gain @ np.linalg.solve(S, gain.T)
        found = gaussian_average(rest, fields, inside, mean - gain @ gap)
        total, size = total + density * found.value, size + density * found.size
    return Value(total, size)


def _linear(argument: sp.Expr, fields: Sequence[sp.Symbol]) -> tuple[Array, float]:
    """Coefficients and offset of a linear argument."""
    polynomial = sp.Poly(argument, *fields)
    row = np.array([float(polynomial.coeff_monomial(x)) for x in fields])
    return row, float(polynomial.coeff_monomial(1))


# Quadrature -----------------------------------------------------------------------------------


def _integrate(expr: sp.Expr, fields: Sequence[sp.Symbol], cov: Array, mean: Array) -> Value:
    """E[expr] on panels between kinks, one coordinate after the other."""
    forms = _kinks(expr, fields)
    rows = np.array([row for row, _ in forms] + list(np.eye(len(fields))))
    root = _pivoted_root(rows @ cov @ rows.T)
    count, rank = len(forms), root.shape[1]
    if rank > MOST_FIELDS:
        raise BadParameter(
            f"an average over {rank} independent fields is not covered by the numerical check; "
            f"explanations support up to {MOST_FIELDS}"
        )
    kinks, L = root[:count], root[count:]
    offsets = np.array([row @ mean + c for row, c in forms])
    levels = [int(np.max(np.nonzero(k)[0], initial=-1)) for k in kinks]
    z, w = np.zeros((1, 0)), np.ones(1)
    degree = _degree(expr, fields)
    for level in range(rank):
        mine = [n for n, top in enumerate(levels) if top == level]
        cuts = [-(offsets[n] + z @ kinks[n, :level]) / kinks[n, level] for n in mine]
        z, w = _extended(z, w, cuts, RULES[rank], degree)
    x = mean[:, None] + L @ z.T
    values = _compiled(expr, tuple(fields))(*x)
    values = np.broadcast_to(np.asarray(values, dtype=np.float64), w.shape)
    return Value(float(w @ values), float(w @ np.abs(values)))


def _extended(
    z: Array, w: Array, cuts: Sequence[Array], rule: Rule, degree: int | None
) -> tuple[Array, Array]:
    """Points with one coordinate more, on panels between the cuts; exact for a polynomial."""
    points, reach = len(w), rule.reach
    if degree is not None:
        # Half as many are exact, but may be the zeros of what is averaged: its size would be lost.
        nodes, weights = np.polynomial.hermite_e.hermegauss(degree + 1)
        grid = np.column_stack([np.repeat(z, len(nodes), axis=0), np.tile(nodes, points)])
        return grid, np.outer(w, weights / math.sqrt(2 * math.pi)).ravel()
    if cuts:
        ends = [np.full(points, -reach), *cuts, np.full(points, reach)]
        edges = np.sort(np.clip(np.array(ends), -reach, reach), axis=0)
        share, weight = _unit_rule(rule.panels, rule.nodes)
        low, width = edges[:-1], np.diff(edges, axis=0)
        new = (low[:, :, None] + width[:, :, None] * share).transpose(1, 0, 2).reshape(points, -1)
        mass = (width[:, :, None] * weight).transpose(1, 0, 2).reshape(points, -1)
    else:
        steps = int(reach / rule.width)
        new = np.broadcast_to(rule.width * np.arange(-steps, steps + 1), (points, 2 * steps + 1))
        mass = np.full(new.shape, rule.width)
    mass = w[:, None] * mass * np.exp(-0.5 * new**2) / math.sqrt(2 * math.pi)
    keep = mass > rule.least
    where = np.nonzero(keep)[0]
    return np.column_stack([z[where], new[keep]]), mass[keep]


@lru_cache(maxsize=16)
def _unit_rule(panels: int, nodes: int) -> tuple[Array, Array]:
    """Composite Gauss-Legendre rule of the unit interval."""
    at, weight = np.polynomial.legendre.leggauss(nodes)
    starts = np.arange(panels)[:, None]
    return ((starts + (at + 1) / 2) / panels).ravel(), np.tile(weight / (2 * panels), panels)


def _pivoted_root(cov: Array) -> Array:
    """Rows in independent coordinates, a new one for each row that earlier ones do not fix."""
    size = len(cov)
    columns: list[Array] = []
    rest = cov.copy()
    for n in range(size):
        if rest[n, n] > FIXED * max(cov[n, n], 1e-300):
            column = rest[:, n] / math.sqrt(rest[n, n])
            column[:n] = 0.0
            columns.append(column)
            rest = rest - np.outer(column, column)
    root = np.array(columns).T if columns else np.zeros((size, 0))
    # What is left of rows that are fixed is rounding.
    scale = np.sqrt(np.maximum(np.diag(cov), 0.0))[:, None]
    return np.where(np.abs(root) <= math.sqrt(FIXED) * scale * 1e-2, 0.0, root)


def _degree(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> int | None:
    """Bound of the total degree of a polynomial, not multiplied out; None of what is none."""
    if expr in fields:
        return 1
    if not expr.has(*fields):
        return 0
    if not (expr.is_Add or expr.is_Mul or (expr.is_Pow and expr.exp.is_Integer and expr.exp > 0)):
        return None
    found = [_degree(a, fields) for a in (expr.args[:1] if expr.is_Pow else expr.args)]
    degrees = [n for n in found if n is not None]
    if len(degrees) < len(found):
        return None
    if expr.is_Pow:
        return degrees[0] * int(expr.exp)
    return max(degrees) if expr.is_Add else sum(degrees)


def _kinks(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> list[tuple[Array, float]]:
    """Linear forms whose zeros are kinks or jumps, parallel ones kept."""
    found: dict[tuple[float, ...], tuple[Array, float]] = {}
    for atom in expr.atoms(sp.sign, sp.Abs, sp.Heaviside, Relational):
        argument = atom.lhs - atom.rhs if isinstance(atom, Relational) else atom.args[0]
        for factor in sp.Mul.make_args(sp.factor(argument)):
            base, _ = factor.as_base_exp()
            for row, c in _zeros(base, fields):
                scale = np.linalg.norm(row) * (1 if row[np.nonzero(row)[0][0]] > 0 else -1)
                key = tuple(np.round([*row / scale, c / scale], 12))
                found.setdefault(key, (row, c))
    return list(found.values())


def _zeros(base: sp.Expr, fields: Sequence[sp.Symbol]) -> list[tuple[Array, float]]:
    present = [i for i, x in enumerate(fields) if base.has(x)]
    if not present:
        return []
    polynomial = base.is_polynomial(*fields)
    if polynomial and sp.Poly(base, *fields).total_degree() == 1:
        return [_linear(base, fields)]
    if len(present) > 1 and not base.is_nonnegative:
        guards = {f: sp.S.Zero for f in base.atoms(sp.Float) if abs(f) < GUARD}
        surface = plain(statement_latex(base.xreplace(guards)))
        raise BadParameter(
            f"an average switches where {surface} = 0, which is not a plane in the fields; the "
            "numerical check does not support such a surface"
        )
    if len(present) > 1 or not polynomial:
        return []
    coefficients = [float(c) for c in sp.Poly(base, fields[present[0]]).all_coeffs()]
    roots = np.roots(coefficients)
    row = np.eye(len(fields))[present[0]]
    return [(row, -float(r.real)) for r in roots if abs(r.imag) < 1e-9]


@lru_cache(maxsize=512)
def _compiled(expr: sp.Expr, fields: tuple[sp.Symbol, ...]) -> Any:
    return sp.lambdify(fields, expr, modules=["scipy", "numpy"])


# Both sides -----------------------------------------------------------------------------------


def number(expr: sp.Expr, at: Numbers) -> Value:
    """Value of an expression in averages, integrals and sums at numbers for its symbols."""
    if isinstance(expr, Average | sp.Integral):
        return _by_quadrature(expr, tuple(at.items()))
    inside = expr.has(Average, sp.Integral) and isinstance(expr, sp.Mul | sp.Pow | sp.Function)
    if isinstance(expr, sp.Add) or inside:
        return Value.of(expr, [number(a, at) for a in expr.args])
    return Value.exact(expr.xreplace(exact(at)))


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

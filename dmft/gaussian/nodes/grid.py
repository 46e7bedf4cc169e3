"""Quadrature nodes of the standard normal law in one to four fields, split where f is not smooth.

Panels of Gauss nodes on each axis; a kink across axes (sign(x + y)) splits one of them at each node
of the others. Two levels give the error: nothing is trusted by its node count. The rules on a line
that they are made of (Gauss, Kronrod, Chebyshev, Hermite polynomials at nodes) come first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.nodes.kinks import projections, switches, zeros

# Where half-range rules end: polynomials of degree 2 * 48 reach far.
FARTHEST_HALF = 18.0


@lru_cache(maxsize=64)
def legendre(size: int) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights on [-1, 1]."""
    return np.polynomial.legendre.leggauss(size)


def panels(edges: Array, size: int) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights on all panels between edges."""
    x, w = legendre(size)
    centre, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    return (centre[:, None] + half[:, None] * x).ravel(), (half[:, None] * w).ravel()


def gauss_rule(t: Array, w: Array, size: int) -> tuple[Array, Array]:
    """Gauss rule of a measure that a fine rule (t, w) resolves, by the Stieltjes procedure."""
    diagonal, squares = np.zeros(size), np.zeros(size)
    last, this = np.zeros(len(t)), np.ones(len(t)) / np.sqrt(w.sum())
    for k in range(size):
        diagonal[k] = (w * this) @ (t * this)
        ahead = (t - diagonal[k]) * this - (squares[k] * last if k else 0.0)
        if k + 1 < size:
            squares[k + 1] = np.sqrt(w @ ahead**2)
            last, this = this, ahead / squares[k + 1]
    jacobi = np.diag(diagonal) + np.diag(squares[1:], 1) + np.diag(squares[1:], -1)
    nodes, vectors = np.linalg.eigh(jacobi)
    return nodes, w.sum() * vectors[0] ** 2


@lru_cache(maxsize=16)
def half_range(points: int) -> tuple[Array, Array]:
    """Gauss rule of |z|, z ~ N(0, 1): nodes and weights, which add up to one."""
    x, v = legendre(600)
    x = 0.5 * FARTHEST_HALF * (x + 1.0)
    v = v * np.exp(-0.5 * x**2)
    return gauss_rule(x, v / v.sum(), points)


@lru_cache(maxsize=16)
def chebyshev(size: int) -> tuple[Array, Array]:
    """Chebyshev nodes on [-1, 1], and the matrix from values there to coefficients."""
    angles = np.pi * (np.arange(size) + 0.5) / size
    matrix = 2.0 / size * np.cos(np.outer(np.arange(size), angles))
    matrix[0] /= 2.0
    return np.cos(angles), matrix


def hermite_rows(nodes: Array, first: Array, order: int) -> Array:
    """He_k(z) / sqrt(k!) times a first row, (order + 1, n)."""
    rows = np.empty((order + 1, nodes.size))
    rows[0] = first
    if order:
        rows[1] = nodes * first
    for k in range(1, order):
        rows[k + 1] = (nodes * rows[k] - np.sqrt(k) * rows[k - 1]) / np.sqrt(k + 1)
    return rows


@lru_cache(maxsize=1)
def kronrod() -> tuple[Array, Array, Array]:
    """Kronrod nodes (21,) on [-1, 1], their weights, and the Gauss weights (0 at new nodes)."""
    size = 10
    legendre = np.polynomial.legendre
    t, w = legendre.leggauss(4 * size)
    table = legendre.legvander(t, size + 1)
    # The Stieltjes polynomial is orthogonal to P_10 times everything of lower degree.
    odd = np.arange(1, size + 1, 2)
    weighted = (w * table[:, size])[:, None]
    matrix = np.array(
        [[np.sum(weighted[:, 0] * table[:, k] * table[:, j]) for j in odd] for k in odd]
    )
    right = -np.array([np.sum(weighted[:, 0] * table[:, k] * table[:, size + 1]) for k in odd])
    coefficients = np.zeros(size + 2)
    coefficients[odd], coefficients[size + 1] = np.linalg.solve(matrix, right), 1.0
    gauss, gauss_weights = legendre.leggauss(size)
    nodes = np.sort(np.concatenate([gauss, np.real(legendre.legroots(coefficients))]))
    nodes = (nodes - nodes[::-1]) / 2
    moments = np.zeros(len(nodes))
    moments[0] = 2.0
    weights = np.linalg.solve(legendre.legvander(nodes, len(nodes) - 1).T, moments)
    lower = np.zeros(len(nodes))
    lower[1::2] = gauss_weights
    return nodes, (weights + weights[::-1]) / 2, lower


# Positive panel edges and nodes per panel of each level, by the number of fields. The last edge
# cuts a tail of 1e-16 or less; levels grow as far as memory allows.
PANELS: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = {
    1: ((0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.5, 9.0, 12.0), (16, 32, 64, 128)),
    2: ((0.0, 1.0, 2.0, 3.5, 5.5, 9.0), (8, 12, 18, 26, 40)),
    3: ((0.0, 1.2, 2.8, 8.5), (8, 12, 16, 22)),
    4: ((0.0, 1.5, 8.5), (6, 8, 10, 12)),
}
# Nodes that are held at most: some hundred megabytes.
MAX_NODES = 4_000_000
# Points at which a function is evaluated at once.
BLOCK = 1 << 18
# Points of the fine rule from which the Gauss rules of a panel are made.
FINE = 200
# Beyond this size, Gauss-Legendre nodes are as good and need no eigenvalues.
LARGEST = 24
# f times the density on the rim of the box, relative to its maximum inside.
RIM = 1e-8
RIM_POINTS = 16


class TooManyNodes(BadParameter):
    """The kinks cut the space into more panels than memory should hold."""


@dataclass(frozen=True)
class Nodes:
    """Points (k, n) and weights (n,) that hold the normal density; values (n,) of f there."""

    points: Array
    weights: Array
    values: Array


def gaussian_nodes(expr: sp.Expr, fields: Sequence[sp.Symbol], level: int) -> Nodes:
    """Nodes for expectations of smooth functions of `expr` and of the fields."""
    symbols = tuple(fields)
    if len(symbols) not in PANELS:
        raise BadParameter(
            f"numerical quadrature takes 1 to {max(PANELS)} fields, {expr} has {len(symbols)}: "
            "polynomials with rational coefficients are exact in any number"
        )
    edges, sizes = PANELS[len(symbols)]
    kinks = switches(expr, symbols)
    # The fields that meet most kinks across axes come last: their panels follow the others.
    crossing = [s for s in kinks if len(s.free_symbols) > 1]
    order = sorted(range(len(symbols)), key=lambda i: sum(s.has_free(symbols[i]) for s in crossing))
    splits = projections(kinks, [symbols[i] for i in order])
    points, weights = np.zeros((0, 1)), np.ones(1)
    for position, i in enumerate(order):
        done = [symbols[j] for j in order[:position]]
        own = [s for s in splits[position] if s.free_symbols == {symbols[i]}]
        here = [s for s in splits[position] if len(s.free_symbols) > 1]
        axis = _axis_edges(own, symbols[i], edges)
        panels = len(axis) - 1
        panels += sum(sp.degree(s, symbols[i]) for s in here if s.is_polynomial(symbols[i]))
        if len(weights) * panels * sizes[level] > MAX_NODES:
            raise TooManyNodes(
                f"the kinks of {expr} need more than {MAX_NODES} quadrature nodes: fewer fields, "
                "or kinks along the axes, can be integrated"
            )
        if here:
            bounds = _moving_bounds(here, symbols[i], axis, done, points)
            line, line_weights = _moving_rule(bounds, sizes[level])
        else:
            fixed, fixed_weights = _fixed_rule(axis, sizes[level])
            line = np.broadcast_to(fixed, (len(weights), len(fixed)))
            line_weights = np.broadcast_to(fixed_weights, line.shape)
        total = (weights[:, None] * line_weights).ravel()
        # Millions of points are copied no more often than needed.
        full = np.empty((position + 1, total.size))
        for row, values in enumerate(points):
            full[row].reshape(line.shape)[:] = values[:, None]
        full[position] = line.ravel()
        kept = total > 0
        points, weights = (full, total) if kept.all() else (full[:, kept], total[kept])
    if order != sorted(order):
        points = points[np.argsort(order)]
    function = evaluator(expr, symbols)
    values = function(points)
    _check_rim(expr, function, points, values, edges[-1])
    return Nodes(points, weights, values)


def array_function(
    fields: Sequence[sp.Symbol],
    expr: sp.Expr,
    functions: Mapping[str, Callable[[Array], Array]] | None = None,
) -> Callable[..., Any]:
    """`sympy.lambdify` for arrays, with `functions` that only NumPy knows."""
    # SymPy 1.13 prints Max of a number and an array as one ragged array: functions of our own.
    # Steps stay functions: as `Piecewise` inside one another they are conditions NumPy refuses.
    plain = expr.replace(sp.Max, ARRAY_MAX).replace(sp.Min, ARRAY_MIN)
    modules = [{**EXTREMES, **(functions or {})}, "scipy", "numpy"]
    result: Callable[..., Any] = sp.lambdify(list(fields), plain, modules, cse=True)
    return result


ARRAY_MAX, ARRAY_MIN = sp.Function("largest"), sp.Function("smallest")
EXTREMES = {
    "largest": lambda *values: reduce(np.maximum, values),
    "smallest": lambda *values: reduce(np.minimum, values),
    "Heaviside": lambda x, at_zero=0.5: np.heaviside(x, at_zero),
}


def evaluator(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> Callable[[Array], Array]:
    """Values (n,) of an expression at points (k, n)."""
    function = array_function(list(fields), expr)

    def evaluate(points: Array) -> Array:
        if points.ndim == 2 and points.shape[1] > BLOCK:  # what is computed between takes memory
            parts = range(0, points.shape[1], BLOCK)
            return np.concatenate([evaluate(points[:, n : n + BLOCK]) for n in parts])
        with np.errstate(all="ignore"):
            values: Any = function(*points)
        return np.broadcast_to(np.asarray(values, dtype=np.float64), points.shape[1:])

    return evaluate


def _density(x: Array) -> Array:
    found = x**2
    found /= -2
    np.exp(found, out=found)
    found /= np.sqrt(2 * np.pi)
    return found


def _axis_edges(own: Sequence[sp.Expr], x: sp.Symbol, edges: Sequence[float]) -> Array:
    """Panel edges on one axis: the mirrored default ones and the zeros of functions of x alone."""
    kinks = [float(b) for b in zeros(own, x, edges[-1])]
    # Zeros that are one up to rounding make no panel.
    return np.unique(np.round([*[-e for e in edges], *edges, *kinks], 14))


def _fixed_rule(edges: Array, size: int) -> tuple[Array, Array]:
    """Gauss rules of the density itself on each panel: polynomials are integrated exactly."""
    if size > LARGEST:
        x, w = _moving_rule(edges[None], size)
        return x[0], w[0]
    rules = [_density_rule(float(a), float(b), size) for a, b in pairwise(edges)]
    return np.concatenate([r[0] for r in rules]), np.concatenate([r[1] for r in rules])


@lru_cache(maxsize=512)
def _density_rule(a: float, b: float, size: int) -> tuple[Array, Array]:
    """Gauss rule of the normal density on [a, b]."""
    t, w = legendre(FINE)
    t = (a + b) / 2 + (b - a) / 2 * t
    return gauss_rule(t, (b - a) / 2 * w * _density(t), size)


def _moving_rule(bounds: Array, size: int) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights, with the density, on panels that move with the point."""
    x, w = legendre(size)
    half = np.diff(bounds, axis=1) / 2
    line = (bounds[:, :-1, None] + half[:, :, None] * (1 + x)).reshape(len(bounds), -1)
    return line, (half[:, :, None] * w).reshape(line.shape) * _density(line)


def _moving_bounds(
    crossing: Sequence[sp.Expr],
    x: sp.Symbol,
    edges: Array,
    others: Sequence[sp.Symbol],
    points: Array,
) -> Array:
    """Panel bounds (n, panels + 1) on the axis of x at n points of the others."""
    columns = [np.broadcast_to(edges, (points.shape[1], len(edges)))]
    for switch in crossing:
        # A kink that is not polynomial in this field is left to the error estimate.
        if switch.is_polynomial(x):
            coefficients = sp.Poly(switch, x).all_coeffs()
            table = np.stack([evaluator(c, others)(points) for c in coefficients])
            columns.append(real_roots(table, edges[-1]))
    return np.sort(np.concatenate(columns, axis=1), axis=1)


def real_roots(table: Array, outside: float) -> Array:
    """Real roots (n, degree) of polynomials with coefficients (degree + 1, n), highest first."""
    degree, n = table.shape[0] - 1, table.shape[1]
    if degree == 0:
        return np.empty((n, 0))
    with np.errstate(all="ignore"):
        monic = table[1:] / table[0]
    valid = np.all(np.isfinite(monic) & (np.abs(monic) < 1e12), axis=0)
    companion = np.zeros((n, degree, degree))
    companion[:, np.arange(1, degree), np.arange(degree - 1)] = 1.0
    companion[valid, 0, :] = -monic.T[valid]
    roots = np.linalg.eigvals(companion)
    real = np.where(np.abs(roots.imag) < 1e-9, roots.real, outside)
    real[~valid] = outside
    return np.where(np.abs(real) < outside, real, outside)


def _largest(values: Array, points: Array) -> float:
    """Largest of |f| exp(-|x|^2/2)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float((np.abs(values) * np.exp(-(points**2).sum(axis=0) / 2)).max())


def _check_rim(
    expr: sp.Expr, function: Callable[[Array], Array], points: Array, values: Array, end: float
) -> None:
    """Refuse functions that are not integrable against the density, or not within the box."""
    width = len(points)
    rim = np.random.default_rng(0).standard_normal((width, 2 * width * RIM_POINTS))
    for i in range(width):
        rim[i, 2 * i * RIM_POINTS : 2 * (i + 1) * RIM_POINTS] = np.repeat([end, -end], RIM_POINTS)
    worst = _largest(function(rim), rim)
    finite = np.isfinite(worst) and np.isfinite(values).all()
    # Millions of points are looked at once more only where the answer depends on them.
    if not (finite and (worst <= RIM or worst <= RIM * _largest(values, points))):
        raise BadParameter(
            f"{expr} times the normal density is {worst:.3g} at distance {end} from the origin: "
            "it is not integrable, or grows too fast for the numerical quadrature"
        )

"""Quadrature nodes of the standard normal law in one to four fields, split where f is not smooth.

Panels of Gauss-Legendre nodes on each axis; kinks across axes (sign(x + y)) split the innermost
axis at each node of the others. Two levels give the error: nothing is trusted by its node count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.gaussian.kinks import break_points, switches

Array = NDArray[np.float64]

# Positive panel edges and nodes per panel of each level, by the number of fields. The last edge
# cuts a tail of 1e-16 or less; levels grow as far as memory allows.
PANELS: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = {
    1: ((0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.5, 9.0, 12.0), (16, 32, 64, 128)),
    2: ((0.0, 1.0, 2.0, 3.5, 5.5, 9.0), (8, 12, 18, 26, 40)),
    3: ((0.0, 1.2, 2.8, 8.5), (8, 12, 16, 22)),
    4: ((0.0, 1.5, 8.5), (6, 8, 11)),
}
# f times the density on the rim of the box, relative to its maximum inside.
RIM = 1e-8


@dataclass(frozen=True)
class Nodes:
    """Points (k, n) and weights (n,) that hold the normal density; values (n,) of f there."""

    points: Array
    weights: Array
    values: Array


def gaussian_nodes(expr: sp.Expr, fields: Sequence[sp.Symbol], level: int) -> Nodes:
    """Nodes for expectations of smooth functions of `expr` and of the fields.

    Raises
    ------
    BadParameter
        Too many fields, or f grows faster than the density decays.

    Examples
    --------
    >>> import sympy as sp
    >>> x, y = sp.symbols("x y", real=True)
    >>> nodes = gaussian_nodes(sp.Max(0, x + y), [x, y], level=0)
    >>> bool(abs(nodes.weights @ nodes.values - 0.5641895835477563) < 1e-12)
    True
    """
    symbols = tuple(fields)
    if len(symbols) not in PANELS:
        raise BadParameter(
            f"numerical quadrature takes 1 to {max(PANELS)} fields, {expr} has {len(symbols)}: "
            "polynomials with rational coefficients are exact in any number"
        )
    edges, sizes = PANELS[len(symbols)]
    mixed = [s for s in switches(expr, symbols) if len(s.free_symbols & set(symbols)) > 1]
    inner = max(range(len(symbols)), key=lambda i: sum(s.has_free(symbols[i]) for s in mixed))
    axes = [_axis_edges(expr, x, edges) for x in symbols]
    points, weights = _tensor([_rule(a, sizes[level]) for i, a in enumerate(axes) if i != inner])
    bounds = _inner_bounds(mixed, symbols, inner, axes[inner], points)
    x, w = np.polynomial.legendre.leggauss(sizes[level])
    half = np.diff(bounds, axis=1) / 2
    line = (bounds[:, :-1, None] + half[:, :, None] * (1 + x)).reshape(len(weights), -1)
    line_weights = (half[:, :, None] * w).reshape(line.shape) * _density(line)
    grid = np.repeat(points, line.shape[1], axis=1)
    full = np.insert(grid, inner, line.ravel(), axis=0)
    total = (weights[:, None] * line_weights).ravel()
    kept = total > 0
    full, total = full[:, kept], total[kept]
    values = evaluator(expr, symbols)(full)
    _check_rim(expr, full, values, edges[-1])
    return Nodes(full, total, values)


def evaluator(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> Callable[[Array], Array]:
    """Values (n,) of an expression at points (k, n)."""
    smooth = expr.rewrite(sp.Piecewise) if expr.has(sp.Heaviside) else expr
    function = sp.lambdify(list(fields), smooth, modules=["scipy", "numpy"], cse=True)

    def evaluate(points: Array) -> Array:
        with np.errstate(all="ignore"):
            values: Any = function(*points)
        return np.broadcast_to(np.asarray(values, dtype=np.float64), points.shape[1:])

    return evaluate


def _density(x: Array) -> Array:
    return np.asarray(np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))


def _axis_edges(expr: sp.Expr, x: sp.Symbol, edges: Sequence[float]) -> Array:
    """Panel edges on one axis: the mirrored default ones and the kinks of this field alone."""
    kinks = [float(b) for b in break_points(expr, x, edges[-1])]
    return np.unique([*[-e for e in edges], *edges, *kinks])


def _rule(edges: Array, size: int) -> tuple[Array, Array]:
    x, w = np.polynomial.legendre.leggauss(size)
    half = np.diff(edges)[:, None] / 2
    nodes = (edges[:-1, None] + half * (1 + x)).ravel()
    return nodes, (half * w).ravel() * _density(nodes)


def _tensor(rules: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Tensor product: points (len(rules), n), weights (n,); one empty point without rules."""
    if not rules:
        return np.zeros((0, 1)), np.ones(1)
    points = np.stack([m.ravel() for m in np.meshgrid(*[r[0] for r in rules], indexing="ij")])
    weights = np.ones(1)
    for _, w in rules:
        weights = np.outer(weights, w).ravel()
    return points, weights


def _inner_bounds(
    mixed: Sequence[sp.Expr],
    fields: Sequence[sp.Symbol],
    inner: int,
    edges: Array,
    outer: Array,
) -> Array:
    """Panel bounds (n, panels + 1) of the inner axis at n outer points, split at mixed kinks."""
    others = [x for i, x in enumerate(fields) if i != inner]
    columns = [np.broadcast_to(edges, (outer.shape[1], len(edges)))]
    for switch in mixed:
        # A kink that is not polynomial in the inner field is left to the error estimate.
        if switch.has_free(fields[inner]) and switch.is_polynomial(fields[inner]):
            coefficients = sp.Poly(switch, fields[inner]).all_coeffs()
            table = np.stack([evaluator(c, others)(outer) for c in coefficients])
            columns.append(_real_roots(table, edges[-1]))
    return np.sort(np.concatenate(columns, axis=1), axis=1)


def _real_roots(table: Array, outside: float) -> Array:
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


def _check_rim(expr: sp.Expr, points: Array, values: Array, end: float) -> None:
    """Refuse functions that are not integrable against the density, or not within the box."""
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.abs(values) * np.exp(-(points**2).sum(axis=0) / 2)
    rim = np.abs(points).max(axis=0) > 0.95 * end
    worst = size[rim].max(initial=0.0)
    if not (np.isfinite(size).all() and worst <= RIM * max(size.max(), 1.0)):
        raise BadParameter(
            f"{expr} times the normal density is {worst:.3g} at distance {end} from the origin: "
            "it is not integrable, or grows too fast for the numerical quadrature"
        )

"""Where the panels of an axis end: zeros of switching functions and the flanks of steep ones.

A curve is a function s(u_0, ..., u_j) whose zeros in u_j, at given earlier numbers, bound panels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import mpmath
import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.gaussian.closed.switch import SWITCHES
from dmft.gaussian.nodes.forms import DIGITS, Block
from dmft.gaussian.nodes.grid import evaluator, real_roots
from dmft.gaussian.nodes.kinks import projections, switches, zeros

# Curves that are no polynomials are scanned for sign changes on this many points, by dimension.
SCANNED = {1: 2001}
SCANNED_LINE = 129
BISECTIONS = 55
# A flank thinner than this gets panels of its own, GROWTH times longer at every step away.
THIN, GROWTH, MOST_STEPS = 0.4, 8.0, 14
# More curves than this are left to the error estimate.
MAX_CURVES = 24


@dataclass(frozen=True)
class Curve:
    """Zeros of `function` in its last symbol; `thickness` is the width of the flank there."""

    function: sp.Expr
    thickness: sp.Expr | None = None


def coordinates(block: Block) -> tuple[list[sp.Symbol], dict[sp.Basic, sp.Expr]]:
    """Symbols of the independent numbers, and the forms in them with exact rational numbers."""
    u = [sp.Dummy(f"u{k}", real=True) for k in range(block.dimension)]

    def rational(value: mpmath.mpf) -> sp.Rational:
        return sp.Rational(sp.Float(value, DIGITS))

    images = {
        form: rational(m) + sp.Add(*[rational(a) * x for a, x in zip(row, u, strict=True)])
        for form, row, m in zip(block.forms, block.rows, block.shift, strict=True)
    }
    return u, images


def axis_curves(
    block: Block, u: Sequence[sp.Symbol], images: dict[sp.Basic, sp.Expr]
) -> list[list[Curve]]:
    """Curves of each axis: switches and their projections, and steep flanks."""
    functions = [_in_coordinates(s, images) for s in switches(block.expr, block.forms)]
    result = [[Curve(f) for f in axis[:MAX_CURVES]] for axis in projections(functions, list(u))]
    steps = [f for f in functions if f.is_polynomial(*u) and sp.Poly(f, *u).total_degree() == 1]
    flanks = [c for f in steps for c in _linear_flanks(f, u, 0)]
    for curve in [*flanks, *_flanks(block, u, images)]:
        if curve.thickness is not None and curve.thickness.has(sp.zoo, sp.nan, sp.DiracDelta):
            continue  # of a function that jumps itself: its jump is among the switches
        last = max(k for k, x in enumerate(u) if curve.function.has(x))
        known = [c.function for c in result[last] if c.thickness is not None]
        if curve.function not in known and len(result[last]) < MAX_CURVES:
            result[last].append(curve)
    return result


def pole_curves(
    block: Block, u: Sequence[sp.Symbol], images: dict[sp.Basic, sp.Expr]
) -> list[list[sp.Expr]]:
    """Curves of each axis on which a denominator vanishes, projections included."""
    bases = {
        p.base
        for p in block.expr.atoms(sp.Pow)
        if p.exp.is_negative and p.base != sp.E and p.has_free(*block.forms)
    }
    functions = [_in_coordinates(b, images) for b in sorted(bases, key=sp.default_sort_key)]
    return projections(functions, list(u))


def _in_coordinates(expr: sp.Expr, images: dict[sp.Basic, sp.Expr]) -> sp.Expr:
    polynomial = expr.is_polynomial(*images)
    written = expr.xreplace(images)
    return sp.expand(written) if polynomial else written


def _flanks(block: Block, u: Sequence[sp.Symbol], images: dict[sp.Basic, sp.Expr]) -> list[Curve]:
    """Curves along which smooth functions turn, with the width of the turn."""
    found = []
    for atom in sp.ordered(block.expr.atoms(sp.Function, sp.Pow)):
        if isinstance(atom, SWITCHES) or not atom.has_free(*block.forms):
            continue
        power = isinstance(atom, sp.Pow) and not isinstance(atom, sp.exp)
        if power and atom.exp.is_Integer and atom.exp > 0:
            continue
        argument = _in_coordinates(atom.args[0], images)
        if argument.is_polynomial(*u) and sp.Poly(argument, *u).total_degree() == 1:
            found += [] if power else _linear_flanks(argument, u, 1)
        else:
            last = max((k for k, x in enumerate(u) if argument.has(x)), default=None)
            if last is not None:
                found += _curved_flanks(argument, u[last], isinstance(atom, sp.exp), power)
    return found


def _linear_flanks(argument: sp.Expr, u: Sequence[sp.Symbol], own: float) -> list[Curve]:
    """The plane of a linear argument, seen on every axis after averaging over the later ones.

    `own` is the width of the turn in units of the argument: zero for a jump or a kink.
    """
    slopes = [float(argument.coeff(x)) for x in u]
    curves = []
    for j, x in enumerate(u):
        if slopes[j] == 0.0:
            continue
        width = np.sqrt(own + sum(a**2 for a in slopes[j + 1 :])) / abs(slopes[j])
        if 0 < width < THIN:
            seen = argument.xreplace(dict.fromkeys(u[j + 1 :], sp.S.Zero))
            curves.append(Curve(seen, sp.Float(width) + 0 * x))
    return curves


def _curved_flanks(argument: sp.Expr, x: sp.Symbol, stationary: bool, power: bool) -> list[Curve]:
    """Zeros of an argument, or its stationary points, with the width of the turn there."""
    slope = _without_steps(sp.diff(argument, x))
    curvature = _without_steps(sp.diff(argument, x, 2))
    if slope.has(sp.Derivative) or curvature.has(sp.Derivative):
        return []  # stairs: their slope is no function
    curves = [] if power else [Curve(argument, 1 / sp.Abs(slope))]
    if curvature != 0 and slope.has(x):
        size = sp.Abs(argument) if power else sp.S.One
        if stationary or power:
            curves.append(Curve(slope, sp.sqrt(size / sp.Abs(curvature))))
    return curves


def _without_steps(derivative: sp.Expr) -> sp.Expr:
    """Between the kinks of an argument: no Dirac factors, and steps that SymPy does not fold."""
    smooth = derivative.replace(sp.DiracDelta, lambda *_: sp.S.Zero)
    return smooth.replace(sp.Heaviside, lambda t, *_: (1 + sp.sign(t)) / 2)


class AxisEdges:
    """Panel edges on one axis as a function of the earlier coordinates."""

    def __init__(
        self, curves: Sequence[Curve], u: Sequence[sp.Symbol], level: int, regular: Array
    ) -> None:
        self.regular, self.end = regular, float(regular[-1])
        self.u, self.level = list(u[: level + 1]), level
        fixed = [c for c in curves if c.function.free_symbols == {self.u[-1]}]
        self.moving = [_Zeros(c, self.u, self.end) for c in curves if c not in fixed]
        static = [_Zeros(c, self.u, self.end) for c in fixed]
        points = [float(b) for c in static for b in c.edges(np.zeros((level, 1)))[0]]
        self.base = np.unique([*regular, *[p for p in points if abs(p) < self.end]])

    def __call__(self, points: Array) -> Array:
        """Sorted edges (n, m) at the earlier coordinates (level, n)."""
        columns = [np.broadcast_to(self.base, (points.shape[1], len(self.base)))]
        columns += [c.edges(points) for c in self.moving]
        return np.sort(np.concatenate(columns, axis=1), axis=1)


class _Zeros:
    """Zeros of one curve on an axis, compiled; the end of the axis stands for none."""

    def __init__(self, curve: Curve, u: Sequence[sp.Symbol], end: float) -> None:
        self.curve, self.u, self.end = curve, u, end
        x, others = u[-1], u[:-1]
        self.static: list[float] | None = None
        self.coefficients: list[object] = []
        if curve.function.free_symbols == {x} and curve.function.is_polynomial(x):
            self.static = [float(b) for b in zeros([curve.function], x, end)]
        elif curve.function.is_polynomial(x):
            parts = sp.Poly(curve.function, x).all_coeffs()
            self.coefficients = [evaluator(c, others) for c in parts]
        else:
            self.function = evaluator(curve.function, u)
        if curve.thickness is not None:
            self.width = evaluator(curve.thickness, u)

    def edges(self, points: Array) -> Array:
        """Zeros, and the ends of the panels of a thin flank beside them: (n, m)."""
        n = points.shape[1]
        if self.static is not None:
            roots = np.broadcast_to(np.array(self.static), (n, len(self.static)))
        elif self.coefficients:
            table = np.stack([c(points) for c in self.coefficients])  # type: ignore[operator]
            roots = _line_roots(table, self.end)
        else:
            roots = self._scanned(points)
        return roots if self.curve.thickness is None else self._graded(points, roots)

    def _graded(self, points: Array, roots: Array) -> Array:
        n, m = roots.shape
        if m == 0:
            return roots
        full = np.concatenate([np.repeat(points, m, axis=1), roots.reshape(1, -1)])
        width = np.abs(self.width(full)).reshape(n, m)
        # Numbers of size u have no finer neighbours.
        width = np.maximum(width, 1e-13 * np.maximum(1.0, np.abs(roots)))
        thin = np.isfinite(width) & (width < THIN) & (np.abs(roots) < self.end)
        if not thin.any():
            return np.full((n, 1), self.end)
        steps = int(np.ceil(np.log(1.5 / width[thin].min()) / np.log(GROWTH)))
        columns = [np.where(thin, roots, self.end)]
        for k in range(min(steps, MOST_STEPS)):
            reach = width * GROWTH**k
            for side in (-1, 1):
                place = roots + side * reach
                inside = thin & (reach < 1.5) & (np.abs(place) < self.end)
                columns.append(np.where(inside, place, self.end))
        return np.concatenate(columns, axis=1)

    def _scanned(self, points: Array) -> Array:
        """Sign changes on a grid, bisected."""
        n = points.shape[1]
        count = SCANNED.get(len(self.u), SCANNED_LINE)
        grid = np.linspace(-self.end, self.end, count)
        full = np.concatenate([np.repeat(points, count, axis=1), np.tile(grid, n)[None]])
        values = self.function(full).reshape(n, count)
        row, place = np.nonzero(np.sign(values[:, :-1]) * np.sign(values[:, 1:]) < 0)
        low, high = grid[place], grid[place + 1]
        sign = np.sign(values[row, place])
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            here = np.sign(self.function(np.concatenate([points[:, row], middle[None]]))) == sign
            low, high = np.where(here, middle, low), np.where(here, high, middle)
        order = np.arange(len(row)) - np.searchsorted(row, row)
        roots = np.full((n, int(order.max(initial=-1)) + 1), self.end)
        roots[row, order] = (low + high) / 2
        return roots


def _line_roots(table: Array, end: float) -> Array:
    """Real roots (n, degree) of polynomials with coefficients (degree + 1, n), highest first."""
    if table.shape[0] != 2:
        return real_roots(table, end)
    with np.errstate(all="ignore"):
        root = -table[1] / table[0]
    return np.where(np.isfinite(root) & (np.abs(root) < end), root, end)[:, None]


def regular_edges(end: float, inner: Sequence[float], longest: float) -> Array:
    """Mirrored edges from zero to the end."""
    half = [0.0, *inner, end]
    counts = [int(np.ceil((b - a) / longest)) for a, b in pairwise(half)]
    steps = [np.linspace(a, b, n + 1) for (a, b), n in zip(pairwise(half), counts, strict=True)]
    edges = np.unique(np.concatenate(steps))
    return np.unique(np.concatenate([-edges, edges]))

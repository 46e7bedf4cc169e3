"""Nested adaptive quadrature of a function of independent normal numbers, with its error.

Gauss-Kronrod panels end where the function is not smooth and beside steep flanks; panels that are
not settled are halved. The error of an axis holds the errors of the axes integrated before.

Products have one dimension less where a factor of one form is averaged given the other forms: form
i is their linear combination plus independent noise, so that the average of its factor is a
function of one number, smooth by the noise, which a table of Chebyshev pieces holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mpmath
import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.nodes.curves import (
    AxisEdges,
    Curve,
    axis_curves,
    coordinates,
    pole_curves,
    regular_edges,
)
from dmft.gaussian.nodes.forms import Block, factor
from dmft.gaussian.nodes.grid import chebyshev, kronrod
from dmft.gaussian.nodes.integrand import Integrand

# Regular edges of each axis between 0 and its end, by dimension, and the longest panel.
INNER_EDGES: dict[int, tuple[tuple[float, ...], ...]] = {
    1: ((0.7, 1.5, 2.4, 3.5, 5.0, 6.8),),
    2: ((1.2, 2.6, 4.6), (1.2, 2.6, 4.6)),
    3: ((1.9, 4.2), (2.7,), (2.7,)),
}
LONGEST = {1: 4.0, 2: 5.0, 3: 7.0}
# Ends of the box, and what of the integrand may be left on its rim relative to the largest value.
ENDS = (9.0, 12.0, 16.0, 22.0, 30.0, 38.0)
RIM = 1e-18
UNDERFLOW = -690.0
# Logarithm of an integrand that lives in the tails: those are searched too.
NOTHING_INSIDE = -40.0
FAR = (20.0, 38.0, 100.0, 1000.0)
# Halvings of one panel, and points of one call of the function.
DEPTH = 48
CHUNK = 400_000
# What rounding leaves of a panel relative to its integral of |f|.
ROUNDING = 5e-16
# Rounding of a node relative to its distance from the origin.
PLACES = 1.1e-16
# Distances from the zero of a denominator at which poles are looked for.
POLE_DISTANCES = (1e-5, 1e-9)
POLE_POINTS = 3


@dataclass(frozen=True)
class Estimate:
    """Integral (n,), its error (n,) and the integral of the absolute value (n,)."""

    value: Array
    error: Array
    size: Array


class Nested:
    """Adaptive quadrature of one integrand."""

    def __init__(self, function: Integrand, budget: int) -> None:
        self.function, self.left = function, budget
        self.dimension = function.dimension
        self.exhausted = False
        u, images = coordinates(function.block)
        self.end = box(function)
        curves = axis_curves(function.block, u, images)
        longest = LONGEST[self.dimension]
        self.axes = [
            AxisEdges(c, u, k, regular_edges(self.end, inner, longest))
            for k, (c, inner) in enumerate(zip(curves, INNER_EDGES[self.dimension], strict=True))
        ]
        poles = pole_curves(function.block, u, images)
        if any(poles):
            self._check_poles(poles, u)

    def __call__(self, tolerance: float) -> Estimate:
        """Integral to an absolute tolerance, if the budget allows."""
        return self.line(0, np.zeros((0, 1)), np.full(1, tolerance))

    def line(self, level: int, points: Array, tolerance: Array) -> Estimate:
        """Integrals over the axes level, level + 1, ... at points (level, n)."""
        if level == self.dimension:
            values = self.function(points)
            return Estimate(values, np.zeros_like(values), np.abs(values))
        edges = self.axes[level](points)
        wide = np.diff(edges, axis=1) > 1e-15 * self.end
        row: NDArray[np.intp]
        row, place = np.nonzero(wide)
        low, high = edges[row, place], edges[row, place + 1]
        count = np.bincount(row, minlength=len(tolerance))
        share = (tolerance / (2 * count))[row]
        least = share / 25
        total = [np.zeros(len(tolerance)) for _ in range(4)]
        for depth in range(DEPTH + 1):
            value, error, size, place_error = self._panels(level, points, row, low, high, share)
            self.exhausted |= self.left <= 0
            last = depth == DEPTH or self.left <= 0
            done = (error <= np.maximum(share, ROUNDING * self.end**2 / 80 * size)) | last
            for sums, part in zip(total, (value, error, size, place_error), strict=True):
                sums += np.bincount(row[done], part[done], minlength=len(tolerance))
            if done.all():
                break
            row, (low, high, share, least) = (
                row[~done],
                (v[~done] for v in (low, high, share, least)),
            )
            middle = (low + high) / 2
            row, least = np.tile(row, 2), np.tile(least, 2)
            low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
            share = np.maximum(np.tile(share / 2, 2), least)
        value, error, size, place_error = total
        return Estimate(value, error + place_error, size)

    def _panels(self, level: int, points: Array, *panels: NDArray[Any]) -> tuple[Array, ...]:
        """Integral, error, size and error of the places of each panel, in pieces for memory."""
        inner = 1
        for axis in self.axes[level + 1 :]:
            inner *= 21 * (len(axis.base) + 2 * len(axis.moving))
        step = max(1, CHUNK // (21 * inner))
        parts = [
            self._piece(level, points, *(v[i : i + step] for v in panels))
            for i in range(0, len(panels[0]), step)
        ]
        return tuple(np.concatenate(p) for p in zip(*parts, strict=True))

    def _piece(
        self,
        level: int,
        points: Array,
        row: NDArray[np.intp],
        low: Array,
        high: Array,
        share: Array,
    ) -> tuple[Array, ...]:
        nodes, weights, gauss = kronrod()
        half = (high - low) / 2
        t = (low + half)[:, None] + half[:, None] * nodes
        density = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
        full = np.concatenate([np.repeat(points[:, row], len(nodes), axis=1), t.reshape(1, -1)])
        if level + 1 == self.dimension:
            self.left -= full.shape[1]
        # The inner error may grow where the density is small: its integral is what counts.
        with np.errstate(divide="ignore", over="ignore"):
            allowed = share[:, None] / (4 * half[:, None] * density)
        inner = self.line(level + 1, full, allowed.ravel())
        f, e, s = (v.reshape(t.shape) * density for v in (inner.value, inner.error, inner.size))
        value, lower = half * (f @ weights), half * (f @ gauss)
        size, error = half * (s @ weights), np.abs(value - lower)
        spread = half * (np.abs(f - (f @ weights / 2)[:, None]) @ weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            settled = spread * np.minimum(1.0, (200 * error / spread) ** 1.5)
        error = np.where((spread > 0) & (error > 0), settled, error)
        # The exponent of the density carries the rounding of its own size.
        blur = ROUNDING / 4 * half * ((s * (1 + t**2 / 2)) @ weights)
        # Nodes are where doubles are: what f moves by that no halving reduces.
        moved = np.abs(t).max(axis=1) * np.abs(np.diff(f, axis=1)).sum(axis=1)
        return value, error + half * (e @ weights) + blur, size, PLACES * moved

    def _check_poles(self, curves: list[list[sp.Expr]], u: list[sp.Symbol]) -> None:
        """Refuse poles: next to an integrable singularity, f times the distance goes to zero."""
        rng = np.random.default_rng(0)
        for level, functions in enumerate(curves):
            if not functions:
                continue
            edges = AxisEdges(
                [Curve(f) for f in functions], u, level, np.array([-self.end, self.end])
            )
            points = rng.standard_normal((level, POLE_POINTS))
            zeros = edges(points)
            for k, side in ((k, s) for k in range(zeros.shape[1]) for s in (-1, 1)):
                inside = np.abs(zeros[:, k]) < self.end - 1e-3
                if not inside.any():
                    continue
                near, nearer = (
                    self._sizes(level, points[:, inside], zeros[inside, k] + side * d) * d
                    for d in POLE_DISTANCES
                )
                if np.any(nearer > np.maximum(near / 2, 1e-300)):
                    raise BadParameter(
                        f"{self.function.block.shown()} is not integrable: it has a pole where a "
                        "denominator vanishes"
                    )

    def _sizes(self, level: int, points: Array, place: Array) -> Array:
        full = np.concatenate([points, place[None]])
        return self.line(level + 1, full, np.full(full.shape[1], np.inf)).size


def box(function: Integrand) -> float:
    """End of the axes: beyond it, nothing of the integrand is left."""
    r = function.dimension
    rng = np.random.default_rng(1)
    rays = np.concatenate([np.eye(r), -np.eye(r), rng.standard_normal((6 * r, r))])
    rays /= np.abs(rays).max(axis=1, keepdims=True)
    radii = np.linspace(0.05, 9.0, 60)
    largest = max(_logarithms(function, rays, t).max() for t in radii)
    peak = 0.0
    if largest < NOTHING_INSIDE:
        tails = [(_logarithms(function, rays, t).max(), t) for t in np.linspace(9.5, 38, 58)]
        largest, peak = max(tails) if max(tails)[0] > UNDERFLOW else (largest, 0.0)
    limit = max(largest + np.log(RIM), UNDERFLOW)
    far = [(t, _logarithms(function, rays, t).max()) for t in FAR]
    for end in (e for e in ENDS if e > peak):
        rim = [(t * end, _logarithms(function, rays, t * end).max()) for t in (1.0, 1.15, 1.3)]
        if all(height <= limit for t, height in (*rim, *far) if t >= end):
            return end
    raise BadParameter(
        f"{function.block.shown()} is not integrable against the normal density, or grows too fast "
        "for the numerical quadrature"
    )


def _logarithms(function: Integrand, rays: Array, radius: float) -> Array:
    """Log |f| + log of the density, up to a constant, on rays (m, r)."""
    points = radius * rays.T
    exponent = -(points**2).sum(axis=0) / 2
    try:
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(np.abs(function(points))) + exponent)
    except BadParameter:
        heights = np.full(len(rays), -np.inf)
        for i in range(len(rays)):
            value = abs(function.precise(points[:, i]))
            heights[i] = float(mpmath.log(value)) + exponent[i] if value else -np.inf
        return heights


# Lengths of the pieces that are tried, degree, and the error accepted relative to the largest.
PIECES = (0.5, 0.25, 0.125, 0.0625)
DEGREE = 15
ACCEPTED = 2e-13
# Noise thinner than this share of the other part would need a longer table.
LEAST_NOISE = 0.05
BUDGET = 4_000_000

Average = tuple[Block, Callable[[Array], Array], float]


class AveragedFactor(sp.Function):
    """Placeholder of the tabled average in an expression."""

    nargs = 1


def without_one_form(block: Block) -> Average | None:
    """Block of one dimension less, the function for `AveragedFactor`, and its absolute error.

    None if no factor is alone, or if its average is too steep for a table.
    """
    factors = sp.Mul.make_args(block.expr)
    best: tuple[mpmath.mpf, int, tuple[list[mpmath.mpf], ...]] | None = None
    for i, x in enumerate(block.forms):
        if [f.free_symbols & set(block.forms) for f in factors if f.has_free(x)] != [{x}]:
            continue
        rows = _last(block, i)
        if rows is None:
            continue
        share = rows[i][-1] ** 2 / mpmath.fdot(rows[i], rows[i])
        if best is None or share > best[0]:
            best = (share, i, rows)
    if best is None or best[0] < LEAST_NOISE**2:
        return None
    _, i, rows = best
    own = next(f for f in factors if f.has_free(block.forms[i]))
    spread = mpmath.sqrt(mpmath.fdot(rows[i][:-1], rows[i][:-1]))
    if spread == 0:
        return None
    single = Block(own, (block.forms[i],), ([spread, rows[i][-1]],), [block.shift[i]],
                   mpmath.mpf(1), (block.meaning[i],))  # fmt: skip
    table = _table(single)
    if table is None:
        return None
    others = [j for j in range(len(block.forms)) if j != i]
    centre = sp.Dummy("c", real=True)
    rest = sp.Mul(*[f for f in factors if f is not own], AveragedFactor(centre))
    reduced = replace(
        block.keep(others, rest),
        forms=(*[block.forms[j] for j in others], centre),
        rows=(*[rows[j][:-1] for j in others], [a / spread for a in rows[i][:-1]]),
        shift=[*[block.shift[j] for j in others], mpmath.mpf(0)],
        meaning=(*[block.meaning[j] for j in others], block.meaning[i]),
    )
    return reduced, *table


def _last(block: Block, i: int) -> tuple[list[mpmath.mpf], ...] | None:
    """Factor in which the last number belongs to form i alone."""
    n = len(block.forms)
    matrix = [[block.covariance(j, k) for k in range(n)] for j in range(n)]
    rows = factor(matrix, [[j for j in range(n) if j != i], [i]])
    alone = all(rows[j][-1] == 0 for j in range(n) if j != i)
    return rows if alone and len(rows[i]) == block.dimension and rows[i][-1] > 0 else None


def _table(single: Block) -> tuple[Callable[[Array], Array], float] | None:
    """Average over the second number as a function of the first, and its error."""
    scheme = Nested(Integrand(single), BUDGET)
    end = scheme.end

    def direct(c: Array) -> Array:
        tolerance = np.full(len(c), ACCEPTED / 4 * largest)
        return scheme.line(1, c[None], tolerance).value

    largest = 0.0
    largest = float(np.abs(direct(np.linspace(-6, 6, 49))).max())
    probes = np.random.default_rng(0).uniform(-end, end, 200)
    expected = direct(probes)
    # What counts is the error where the density is.
    weight = np.exp(-(probes**2) / 4)
    nodes, matrix = chebyshev(DEGREE + 1)
    for length in PIECES:
        count = int(np.ceil(2 * end / length))
        left = -end + 2 * end / count * np.arange(count)
        places = left[:, None] + end / count * (1 + nodes)
        values = direct(places.ravel()).reshape(count, -1)
        function = _Pieces(values @ matrix.T, end)
        error = float((np.abs(function(probes) - expected) * weight).max())
        if error <= ACCEPTED * largest:
            return function, max(3 * error, ACCEPTED * largest)
        if scheme.exhausted:
            return None
    return None


class _Pieces:
    """Chebyshev pieces of equal length on [-end, end]; constant beyond, where no weight is."""

    def __init__(self, coefficients: Array, end: float) -> None:
        self.coefficients, self.end = np.ascontiguousarray(coefficients.T), end
        self.count = coefficients.shape[0]

    def __call__(self, c: Array) -> Array:
        place = (np.minimum(np.maximum(c, -self.end), self.end) + self.end) / (2 * self.end)
        place = place * self.count
        piece = np.minimum(place.astype(np.intp), self.count - 1)
        t = 2 * (place - piece) - 1
        ahead = np.zeros_like(t)
        this = self.coefficients[DEGREE][piece]
        for k in range(DEGREE - 1, 0, -1):
            this, ahead = self.coefficients[k][piece] + 2 * t * this - ahead, this
        return np.asarray(self.coefficients[0][piece] + t * this - ahead)

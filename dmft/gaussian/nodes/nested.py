"""Nested adaptive quadrature of a function of independent normal numbers, with its error.

Gauss-Kronrod panels end where the function is not smooth and beside steep flanks; panels that are
not settled are halved. The error of an axis holds the errors of the axes integrated before.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from dmft.gaussian.nodes.integrand import Integrand
from dmft.gaussian.nodes.line import kronrod

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

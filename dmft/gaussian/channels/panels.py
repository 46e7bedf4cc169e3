"""Gauss rules on panels between edges that move with other variables; functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.gaussian.nodes.grid import array_function, legendre

LOG_TWO_PI = float(np.log(2 * np.pi))
# Edges of panels in standard deviations; the mass beyond the last is 2e-19.
SPREAD = np.array([-9.0, -5.5, -3.0, -1.5, 0.0, 1.5, 3.0, 5.5, 9.0])
LAYER = np.array([0.0, 1.0, 2.5, 4.0, 6.0, 9.0])
MIRRORED = np.concatenate([-LAYER[:0:-1], LAYER])
# Map of [0, 1] to itself that is t^4 at both ends.
SMOOTHED = np.array([-20.0, 70.0, -84.0, 35.0, 0.0, 0.0, 0.0, 0.0])
# Labels are drawn at fields of so many times their deviation: the tails dominate averages.
WIDENED = 1.3


def quiet(fields: Sequence[sp.Symbol], expr: sp.Expr) -> Callable[..., Array]:
    """An expression as a function of arrays, without warnings, of the shape of its arguments."""
    return _quiet(tuple(fields), expr)


@lru_cache(maxsize=256)
def _quiet(fields: tuple[sp.Symbol, ...], expr: sp.Expr) -> Callable[..., Array]:
    function = array_function(fields, expr)

    def evaluate(*at: Array) -> Array:
        with np.errstate(all="ignore"):
            found = np.asarray(function(*at), dtype=float)
        return np.broadcast_to(found, np.broadcast_shapes(*map(np.shape, at)))

    return evaluate


def between(edges: Array, order: int, smoothed: bool = False) -> tuple[Array, Array]:
    """Gauss rule on all panels between edges (E, ...): nodes and weights ((E - 1) order, ...).

    With `smoothed`, square roots at the ends of panels become analytic, and nodes are dense there:
    a root of little weight dominates next to the critical value where its density is singular.
    """
    x, w = legendre(order)
    t, w = 0.5 * (1 + x), 0.5 * w
    if smoothed:
        t, w = np.polyval(SMOOTHED, t), np.polyval(np.polyder(SMOOTHED), t) * w
    shape = (1, order) + (1,) * (edges.ndim - 1)
    low, width = edges[:-1, None], np.diff(edges, axis=0)[:, None]
    nodes = low + width * t.reshape(shape)
    weights = width * w.reshape(shape)
    return nodes.reshape(-1, *edges.shape[1:]), weights.reshape(-1, *edges.shape[1:])


def thinned(edges: Array, gap: float) -> Array:
    """Sorted edges of each column without those that are closer than a gap to the one before."""
    kept = edges.copy()
    for row in range(1, len(kept) - 1):
        kept[row] = np.where(edges[row] - kept[row - 1] < gap, kept[row - 1], edges[row])
    return kept


def towards_singular(edges: Array, singular: NDArray[np.bool_], order: int) -> tuple[Array, Array]:
    """The same where only some edges are singular: nodes are dense at these."""
    x, w = legendre(order)
    t, w = 0.5 * (1 + x), 0.5 * w
    near = t**4, 4 * t**3 * w
    smooth = np.polyval(SMOOTHED, t), np.polyval(np.polyder(SMOOTHED), t) * w
    maps = (t, w), near, (1 - near[0][::-1], near[1][::-1]), smooth
    kind = singular[:-1] + 2 * singular[1:]
    width = np.diff(edges, axis=0)
    found = [
        np.concatenate([np.moveaxis(table[k], -1, 0) for k in kind])
        for table in (np.array(each) for each in zip(*maps, strict=True))
    ]
    rows = np.repeat(np.arange(len(width)), order)
    return edges[:-1][rows] + width[rows] * found[0], width[rows] * found[1]


def window(
    points: Array, omega: Array, variance: Array, order: int, smoothed: bool = False
) -> tuple[Array, Array]:
    """Nodes z and weights of N(omega, V), leading axis first, split at points."""
    omega, scale = np.broadcast_arrays(omega, np.sqrt(variance))
    moving = omega + np.multiply.outer(SPREAD, scale)
    fixed = np.clip(points.reshape(-1, *(1,) * omega.ndim), moving[0], moving[-1])
    edges = np.sort(np.concatenate([moving, fixed]), axis=0)
    z, weight = between(edges, order, smoothed)
    density = np.exp(-0.5 * ((z - omega) / scale) ** 2 - 0.5 * LOG_TWO_PI) / scale
    return z, weight * density


def widened(draws: Array) -> tuple[Array, Array]:
    """Normal draws (k, n) at WIDENED times their distance, and their weights (n,)."""
    wide = WIDENED * draws
    share = np.exp(-0.5 * (1.0 - WIDENED**-2) * np.sum(wide**2, axis=0))
    return wide, share / share.sum()


def squares(g: Array) -> Array:
    """Outer products of rows (B, k) with themselves."""
    return np.asarray(g[:, :, None] * g[:, None, :])


def regression(weight: Array, x: Array, y: Array, metric: Array | None = None) -> float:
    """Slope of the weighted regression of y, or of tr(y metric), on x of mean zero."""
    y = y if metric is None else np.einsum("rbij,ij->rb", y, metric)
    total = weight.sum()
    gap = x - np.sum(weight * x) / total
    return float(np.sum(weight * gap * y) / max(np.sum(weight * gap**2), 1e-250))

"""Gauss rules on panels between edges that move with other variables."""

from __future__ import annotations

import numpy as np

from dmft.gaussian.nodes.line import Array, legendre

LOG_TWO_PI = float(np.log(2 * np.pi))
# Map of [0, 1] to itself that is t^4 at both ends.
SMOOTHED = np.array([-20.0, 70.0, -84.0, 35.0, 0.0, 0.0, 0.0, 0.0])


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


def towards_inner(edges: Array, order: int) -> tuple[Array, Array]:
    """The same for edges of which only the inner ones are singular: nodes are dense there."""
    if len(edges) == 2:
        return between(edges, order)
    x, w = legendre(order)
    t, w = 0.5 * (1 + x), 0.5 * w
    shape = (order,) + (1,) * (edges.ndim - 1)
    near, slope = (t**4).reshape(shape), (4 * t**3 * w).reshape(shape)
    left, right = edges[1] - edges[0], edges[-1] - edges[-2]
    z, weight = between(edges[1:-1], order, smoothed=True)
    nodes = [edges[1] - left * near, z, edges[-2] + right * near]
    return np.concatenate(nodes), np.concatenate([left * slope, weight, right * slope])

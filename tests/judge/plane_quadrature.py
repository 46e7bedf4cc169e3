"""Averages over a standard Gaussian plane, to rounding, of functions that break along lines.

Imports NumPy alone: what judges the library shares nothing with it. The plane is cut at every line
along which the integrand has a kink, a jump or a layer; between them Gauss-Legendre converges
exponentially, and panels shrink towards layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

HALF = 13.0  # exp(-HALF^2 / 2) is 2e-37: polynomials of high degree are cut off below rounding
BASE = np.linspace(-HALF, HALF, 15)
POINTS, WEIGHTS = np.polynomial.legendre.leggauss(22)
MOST_NODES = 60_000  # of one block of evaluations


class Line(NamedTuple):
    """The line a u + b v = t, and the width across it of what happens there (0: a sharp break)."""

    a: float
    b: float
    t: float
    width: float


def graded(width: float) -> np.ndarray:
    """Distances of breaks from a place whose features have this width: 0, +-w, +-2w, ... +-1."""
    if width >= 1.0:
        return np.zeros(1)
    steps = np.ldexp(1.0, -np.arange(0, int(np.ceil(-np.log2(max(width, 1e-9)))) + 1))
    return np.concatenate([-steps, [0.0], steps[::-1]])


def nodes_between(breaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights exp(-u^2/2)/sqrt(2 pi) du of each row of sorted breaks."""
    low, high = breaks[..., :-1, None], breaks[..., 1:, None]
    u = 0.5 * (low + high) + 0.5 * (high - low) * POINTS
    w = 0.5 * (high - low) * WEIGHTS * np.exp(-0.5 * u**2) / np.sqrt(2 * np.pi)
    return u.reshape(*breaks.shape[:-1], -1), w.reshape(*breaks.shape[:-1], -1)


def outer_breaks(lines: Sequence[Line]) -> np.ndarray:
    """Places of the first variable where the inner average stops being smooth."""
    found = [BASE]
    for i, one in enumerate(lines):
        if one.a != 0:  # a line close to a vertical one is crossed within |b/a|
            width = max(abs(one.b / one.a), one.width / abs(one.a))
            found.append(one.t / one.a + (graded(width) if one.b else graded(one.width)))
        for other in lines[:i]:
            scale = np.hypot(one.a, one.b) * np.hypot(other.a, other.b)
            det = one.a * other.b - other.a * one.b
            if abs(det) > 1e-14 * scale:
                place = (one.t * other.b - other.t * one.b) / det
                wide = max(abs(one.b) * other.width, abs(other.b) * one.width) / abs(det)
                found.append(place + (graded(wide) if wide else np.zeros(1)))
    return np.unique(np.clip(np.concatenate(found), -HALF, HALF))


def plane_average(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], lines: Sequence[Line]
) -> np.ndarray:
    """E function(u, v), u and v independent standard normal; function maps (N,) to (m, N)."""
    kept = []
    for line in lines:
        size = np.hypot(line.a, line.b)
        if size > 0 and abs(line.t) < 2 * HALF * size:
            kept.append(Line(line.a / size, line.b / size, line.t / size, line.width / size))
    lines = [line for line in dict.fromkeys(kept) if line.width < 1.0 or line.width == 0.0]
    outer, weight = nodes_between(outer_breaks(lines))
    crossed = [line for line in lines if line.b != 0]
    offsets = [graded(x.width / abs(x.b)) if x.width else np.zeros(1) for x in crossed]
    total = 0.0
    block = max(1, MOST_NODES // ((BASE.size + sum(o.size for o in offsets)) * POINTS.size))
    for first in range(0, outer.size, block):
        u, wu = outer[first : first + block], weight[first : first + block]
        rows = [np.broadcast_to(BASE, (u.size, BASE.size))]
        for line, offset in zip(crossed, offsets, strict=True):
            rows.append(((line.t - line.a * u) / line.b)[:, None] + offset)
        breaks = np.sort(np.clip(np.concatenate(rows, axis=1), -HALF, HALF), axis=1)
        v, wv = nodes_between(breaks)
        every = np.broadcast_to(u[:, None], v.shape).ravel()
        total = total + function(every, v.ravel()) @ (wu[:, None] * wv).ravel()
    return np.asarray(total)

"""Ground state of a potential on the half-line, by collocation."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev
from scipy.linalg import eigh_tridiagonal
from scipy.linalg.lapack import dgetrf, dgetrs

from dmft.arrays import Array

# Intervals of the grid, and how much denser its points are at zero.
STATES, DENSE = 112, 8.0
# Intervals of second differences that start the search.
ROUGH = (150, 300)
# Turns of the iteration for the slope at the end.
ROBIN = 60


def ground_state(potential: Callable[[Array], Array], reach: float, edge: float) -> float:
    """Lowest even eigenvalue of -d^2/dtau^2 + W, by Chebyshev collocation on the half-line.

    W may have a cusp at zero, where white noise bends the correlation, and is `edge` beyond
    `reach`, where a bound state falls off as exp(-sqrt(edge - E) tau); unbound ones begin at
    `edge`.
    """
    unit, first, second, rough = _collocation()
    tau, ends = reach * unit, [0, STATES]
    along = potential(tau)
    (low, _), (high, state) = (_by_differences(y @ along, reach) for y in rough)
    energy, vector = (4.0 * high - low) / 3.0, np.interp(unit[1:-1], _middles(ROUGH[1]), state)
    slope, last, last_gap = math.sqrt(max(edge - energy, 0.0)), math.nan, math.nan
    for _ in range(ROBIN):
        # No slope at zero, the slope of the decay at the end.
        at_ends = first[np.ix_(ends, ends)] / reach + np.diag([0.0, slope])
        held = np.linalg.solve(at_ends, first[ends, 1:-1] / reach)
        matrix = (second[1:-1][:, ends] @ held - second[1:-1, 1:-1]) / reach**2
        np.fill_diagonal(matrix, np.diagonal(matrix) + along[1:-1])
        energy, vector = _nearest(matrix, edge - slope**2, vector)
        if energy >= edge and slope == 0.0:
            return edge
        own = math.sqrt(max(edge - energy, 0.0))
        # The slope at the end moves the energy by the density there.
        density = float(held[1] @ vector) ** 2 / float(np.trapezoid(vector**2, tau[1:-1]))
        if abs(own - slope) * density < 1e-13:
            break
        # By secants: for weakly bound states the iteration gains a digit in two turns.
        gap, known = own - slope, not math.isnan(last)
        step = gap * (slope - last) / (last_gap - gap) if known and gap != last_gap else gap
        last, last_gap, slope = slope, gap, max(slope + step, 0.0)
        if known and abs(gap) < 1e-6:
            return edge - slope**2
    return energy


@cache
def _collocation() -> tuple[Array, Array, Array, list[Array]]:
    """Points of (0, 1), first and second derivatives, values on the two rough grids.

    Chebyshev points u of tau = (u + DENSE u^2) / (1 + DENSE), denser at zero where the potential
    has its well.
    """
    number = np.arange(STATES + 1)
    u = (1.0 - np.cos(np.pi * number / STATES)) / 2.0
    ends = np.where((number == 0) | (number == STATES), 2.0, 1.0) * (-1.0) ** number
    first = ends[:, None] / ends[None, :] / (u[:, None] - u[None, :] + np.eye(STATES + 1))
    first -= np.diag(first.sum(axis=1))
    first *= ((1.0 + DENSE) / (1.0 + 2.0 * DENSE * u))[:, None]
    inverse = np.linalg.inv(chebyshev.chebvander(2.0 * u - 1.0, STATES))
    rough = []
    for count in ROUGH:
        root = np.sqrt(1.0 + 4.0 * DENSE * (1.0 + DENSE) * _middles(count))
        rough.append(chebyshev.chebvander((root - 1.0) / DENSE - 1.0, STATES) @ inverse)
    return (u + DENSE * u**2) / (1.0 + DENSE), first, first @ first, rough


def _middles(count: int) -> Array:
    return (np.arange(count) + 0.5) / count


def _by_differences(along: Array, reach: float) -> tuple[float, Array]:
    """Ground state of -d^2/dtau^2 + W by second differences, W at the middles of intervals."""
    inverse = (along.size / reach) ** 2
    diagonal = 2.0 * inverse + along
    diagonal[0] -= inverse
    off = np.full(along.size - 1, -inverse)
    energy, state = eigh_tridiagonal(diagonal, off, select="i", select_range=(0, 0))
    return float(energy[0]), np.asarray(state[:, 0], dtype=np.float64)


def _nearest(matrix: Array, shift: float, vector: Array) -> tuple[float, Array]:
    """Eigenvalue nearest to a shift, by inverse iteration."""
    factors, pivots, _ = dgetrf(matrix - shift * np.eye(len(matrix)))
    value, before = shift, math.nan
    for _ in range(12):
        new = dgetrs(factors, pivots, vector)[0]
        value, before = shift + float(vector @ vector) / float(vector @ new), value
        vector = np.asarray(new / np.linalg.norm(new), dtype=np.float64)
        if abs(value - before) < 1e-15 * max(1.0, abs(value)):
            break
    return value, vector

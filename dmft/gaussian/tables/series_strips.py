"""Coefficients of a smooth factor in normalised Hermite polynomials, as functions of its deviation.

    a_n(s) = E F(s z) he_n(z) / sqrt(n!)

An average of two fields is a series in their correlation with products of such coefficients, which
`dmft.special.tables` sums where it converges.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from dmft.arrays import Array
from dmft.gaussian.nodes.grid import chebyshev, hermite_rows, panels
from dmft.special.tables import GROUP, LEFT_OUT, MOST, ORDER, TERMS

# Deviations up to which there are strips, with a quadrature for each; none from the first at which
# it does not resolve the factor.
LARGEST = (4.0, 16.0)
# Error of a strip beyond the first of them: those of waves, whose averages vanish there, have more.
ROUGH = 1e-12
# Strips a factor: edges grow by this; the lowest one where there is no Taylor polynomial.
RATIO, LOWEST = 2.0**0.25, 2.0**-7
# Nodes of a fit; the coefficients beyond `ORDER` are its error.
FIT = 16
# The weight of the quadrature is cut here: the square root of the normal density is 1e-22.
REACH = 14.2
POINTS = 16
# Panels of the quadrature are halved from the first width until two agree so well, or none.
WIDTHS, AGREEMENT = (0.4, 0.2, 0.1, 0.05), 3e-15
# Numbers beside those of the strips.
HEAD = 3
# Hermite coefficients that are computed: those beyond `MOST` of each parity are what is left out.
COMPUTED = 2 * MOST + 192
# A strip is longer than `TERMS` where the remainder is at most this: parallel fields leave out the
# product of two.
CONVERGES = 1e-4
# Parseval's identity does not show less than this.
HIDDEN = 1e-13
# Nodes, weighted Hermite functions (nodes, orders + 1), and which orders these are; the last column
# is the weight of E F^2.
Rule = tuple[Array, Array, slice]


def series_strips(
    values: Callable[[Array], Array], parity: int, small: float, largest: float, room: int
) -> tuple[Array, float]:
    """Strips of a factor as one vector, and their error relative to sqrt(E F^2); empty if none.

    `values` is F on the line up to `REACH` of `largest`; the Taylor polynomial holds below `small`;
    strips of large deviations are left out where there are more than `room` numbers, or where they
    are inaccurate.
    """
    ends = [min(most, largest) for most in LARGEST]
    edges = [small if small > 0.0 else LOWEST]
    while edges[-1] < ends[-1]:
        edges.append(min(edges[-1] * RATIO, ends[-1]))
    end, rule = 0.0, None
    orders = {0: (0, 1), 1: (0,), -1: (1,)}[parity]
    counts, remainders, behind, cells, worst = [], [], [], [], 0.0
    unit, matrix = chebyshev(FIT)
    for low, high in pairwise(edges):
        if high > end:
            end = next(most for most in ends if high <= most)
            rule = _rule(values, end, parity)
        if rule is None:
            break
        s = np.append(0.5 * (low + high) + 0.5 * (high - low) * unit, [low, high])
        a, square = _hermite(values, s, rule)
        fit = a[:FIT, : 2 * MOST].T @ matrix.T
        left = [_left(a, square, 2 * count) for count in range(GROUP, MOST + 1, GROUP)]
        place = _enough(left)
        count = GROUP * (place + 1)
        room -= 5 + ORDER * count * len(orders)
        error = _norm(np.abs(fit[:, ORDER:]).sum(axis=1)) / np.sqrt(square.min())
        if room < HEAD or (high > ends[0] and error > ROUGH):
            break
        counts.append(count)
        remainders.append(left[place])
        behind.append(left[TERMS // GROUP - 1])
        worst = max(worst, error)
        cells.append(np.concatenate([fit[odd::2, :ORDER][:count].T.ravel() for odd in orders]))
    strips = len(counts)
    if rule is None and len(edges) > 1 and strips == 0:  # its waves are not resolved
        return np.empty(0), 0.0
    sizes = np.array([0, *(len(cell) for cell in cells)])
    places = 3 + 5 * strips + np.cumsum(sizes)[:strips]
    head = [strips, len(orders), *edges[: strips + 1], *counts, *remainders, *behind, *places]
    return np.concatenate([head, *cells]), worst


def _enough(left: list[float]) -> int:
    """Which of longer and longer series a strip has, by what each leaves out."""
    last = len(left) if left[-1] <= CONVERGES else TERMS // GROUP
    return next((n for n, x in enumerate(left[:last]) if x <= LEFT_OUT), last - 1)


def _rule(values: Callable[[Array], Array], s: float, parity: int) -> Rule | None:
    """Nodes and weighted Hermite functions that resolve F(s z); None if none."""
    before: Array | None = None
    for width in WIDTHS:
        rule = _hermite_rule(width, parity)
        a, square = _hermite(values, np.array([s]), rule)
        if before is not None and _norm(a[0] - before) <= AGREEMENT * np.sqrt(square[0]):
            return rule
        before = a[0]
    return None


def _hermite_rule(width: float, parity: int) -> Rule:
    """Of a factor with a parity on the right half, and for the orders that it has."""
    count, orders = round(REACH / width), slice(int(parity < 0), None, 2 if parity else 1)
    edges = np.linspace(0.0 if parity else -REACH, REACH, (1 if parity else 2) * count + 1)
    z, weight = panels(edges, POINTS)
    weight *= 2.0 if parity else 1.0
    root = np.exp(-0.25 * z * z) * (2.0 * np.pi) ** -0.25
    rows = hermite_rows(z, root, COMPUTED - 1)[orders] * root * weight
    functions = np.concatenate([rows, [root * root * weight]]).T
    return z, np.ascontiguousarray(functions), orders


def _hermite(values: Callable[[Array], Array], s: Array, rule: Rule) -> tuple[Array, Array]:
    """Coefficients (S, COMPUTED) and E F^2 (S,) at deviations s (S,)."""
    z, functions, orders = rule
    f = values(np.outer(s, z).ravel()).reshape(s.size, z.size)
    a = np.zeros((s.size, COMPUTED))
    a[:, orders] = f @ functions[:, :-1]
    return a, f**2 @ functions[:, -1]


def _left(a: Array, square: Array, first: int) -> float:
    """Largest root mean square of the orders from `first` on, relative to that of F."""
    beyond = square - (a**2).sum(axis=1)
    beyond = np.where(beyond > HIDDEN * square, beyond, 0.0)
    return float(np.sqrt((((a[:, first:] ** 2).sum(axis=1) + beyond) / square).max()))


def _norm(x: Array) -> float:
    return float(np.sqrt((x**2).sum()))

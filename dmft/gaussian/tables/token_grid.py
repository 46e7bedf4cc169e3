"""Hermite coefficients of functions of a few token fields, by sums over equidistant nodes.

The trapezoidal rule converges exponentially for analytic functions that decay; here the decay is
that of the normal density times Hermite polynomials, whose product is below exp(-x^2/4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.closed.switch import SWITCHES
from dmft.gaussian.nodes.grid import array_function, hermite_rows, panels
from dmft.gaussian.nodes.kinks import break_points
from dmft.model import FIELD, token_fields

# By number of tokens: highest order of the coefficients, half width of the nodes, their distance.
# Two tokens: series error of attention 1e-12 at m = 1; the others within 2^23 nodes of memory.
RULES = {1: (140, 12.5, 0.05), 2: (200, 12.5, 0.08), 3: (60, 10.0, 0.2), 4: (24, 7.7, 0.35)}
MOST_TOKENS = max(RULES)
# Shifts of the axes, in units of the distance, of the grid that shows the error: sums and
# differences of the fields are shifted too.
SHIFTS = (0.5, 0.309, 0.191, 0.118)
MODULES = ["scipy", "numpy"]
# Nodes whose normal density is below this part of its peak are not read: functions may overflow
# there, and no coefficient would notice.
LEAST_WEIGHT = 1e-32
# Points a panel and width of panels, where a function of one field has kinks; how often panels are
# halved at most, and what coefficients may change by.
PANEL_POINTS, PANEL_WIDTH = 16, 0.5
HALVINGS, SETTLED = 8, 1e-13


@dataclass(frozen=True, eq=False)
class TokenGrid:
    """Nodes (L, n) for L fields and the matrices that take values to orthonormal coefficients.

    `transform` (L, order + 1, n) is He_k(z) / sqrt(k!) times the weight of the node.
    """

    length: int
    order: int
    nodes: Array
    transform: Array

    @property
    def axes(self) -> list[Array]:
        """Nodes of each field, shaped to broadcast against each other."""
        return [self._along(n, nodes) for n, nodes in enumerate(self.nodes)]

    @property
    def read(self) -> NDArray[np.bool_]:
        """Nodes that carry weight."""
        total = np.ones(())
        for n, rows in enumerate(self.transform):
            total = total * self._along(n, rows[0] / rows[0].max())
        kept: NDArray[np.bool_] = total > LEAST_WEIGHT
        return kept

    def _along(self, axis: int, line: Array) -> Array:
        shape = [1] * self.length
        shape[axis] = -1
        return line.reshape(shape)

    def mean(self, values: Array) -> float:
        """Normal average of values at the nodes."""
        for rows in self.transform:
            values = np.tensordot(values, rows[0], axes=([0], [0]))
        return float(values)

    def coefficients(self, values: Array, order: int | None = None) -> Array:
        """E[f He_n] / sqrt(n!) for all |n_l| <= order, an array with an axis for each field."""
        for rows in self.transform:
            # The transformed axis goes to the end, so that all have had their turn in order.
            kept = rows[: (self.order if order is None else order) + 1]
            values = np.tensordot(values, kept, axes=([0], [1]))
        return values


@lru_cache(maxsize=8)
def token_grid(length: int, shifted: bool = False) -> TokenGrid:
    """Grid of L fields; `shifted` gives another one, to see the error."""
    if length not in RULES:
        raise BadParameter(
            f"a function of {length} token fields that is not a polynomial is averaged for up to "
            f"{MOST_TOKENS} tokens: use a polynomial, a network of the mean field, or fewer tokens"
        )
    order, half, step = RULES[length]
    count = int(np.ceil(half / step))
    line = np.arange(-count, count + 1, dtype=np.float64)
    nodes: Array = np.array([(line + s * shifted) * step for s in SHIFTS[:length]])
    return TokenGrid(
        length, order, nodes, np.array([_weighted_rows(z, step, order) for z in nodes])
    )


def _weighted_rows(nodes: Array, weights: Array | float, order: int) -> Array:
    """He_k(z) / sqrt(k!) times normal density and weight, (order + 1, n)."""
    return hermite_rows(nodes, np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi) * weights, order)


class GridFunctions:
    """Functions of the token fields, evaluated at the nodes of a grid at shifted fields."""

    def __init__(self, functions: Sequence[sp.Expr], length: int) -> None:
        fields = token_fields(length)
        for f in functions:
            rest = f.free_symbols - set(fields)
            if rest:
                raise BadParameter(
                    f"{f} contains {sorted(map(str, rest))} inside a function without closed form; "
                    "parameters may multiply such functions, not enter them"
                )
            if f.has(*SWITCHES):
                raise BadParameter(
                    f"{f} has kinks: only smooth functions of several tokens can be averaged; a "
                    "network of the mean field (dmft.SequenceNetwork) may have kinks"
                )
        self.functions = tuple(functions)
        self._call: Any = sp.lambdify(fields, list(functions), MODULES, cse=True)

    def __call__(self, grid: TokenGrid, means: Sequence[float]) -> list[Array]:
        """Values (n, ..., n) of each function at z + mean."""
        arguments = [z + mean for z, mean in zip(grid.axes, means, strict=True)]
        read = grid.read
        with np.errstate(all="ignore"):
            values = self._call(*arguments)
        kept = [np.where(read, np.broadcast_to(v, read.shape), 0.0) for v in values]
        for f, v in zip(self.functions, kept, strict=True):
            if not np.all(np.isfinite(v)):
                raise BadParameter(f"{f} is not finite at a node of the normal average")
        return kept


@lru_cache(maxsize=256)
def grid_functions(functions: tuple[sp.Expr, ...], length: int) -> GridFunctions:
    """Compiled functions, which tables evaluate at many means."""
    return GridFunctions(functions, length)


def field_coefficients(function: sp.Expr, mean: float, order: int) -> Array:
    """E[phi(z + mean) He_k(z)] / sqrt(k!), k = 0..order, of a function of one field with kinks.

    Panels are halved until the coefficients stay.
    """
    last = _on_panels(function, mean, order, PANEL_WIDTH)
    for halving in range(1, HALVINGS + 1):
        found = _on_panels(function, mean, order, PANEL_WIDTH / 2**halving)
        if np.abs(found - last).max() <= SETTLED * max(1.0, float(np.abs(found).max())):
            return found
        last = found
    raise BadParameter(
        f"{function} varies too fast, or is singular, for its Hermite coefficients at mean {mean:g}"
    )


def _on_panels(function: sp.Expr, mean: float, order: int, width: float) -> Array:
    half = RULES[1][1]
    kinks = [float(x) - mean for x in break_points(function, FIELD, half + abs(mean))]
    edges = np.unique([*np.arange(-half, half + width / 2, width), *kinks])
    edges = edges[np.abs(edges) <= half]
    nodes, weights = panels(edges, PANEL_POINTS)
    call = array_function([FIELD], function)
    with np.errstate(all="ignore"):
        values = np.broadcast_to(call(nodes + mean), nodes.shape)
    result: Array = _weighted_rows(nodes, weights, order) @ values
    return result

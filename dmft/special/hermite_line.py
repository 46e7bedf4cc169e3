"""Hermite coefficients of functions of a normal variable, and power series in a correlation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from dmft.arrays import Array

# Points of the line, coefficients, and its end.
POINTS, ORDERS, END = 2001, 320, 14.0
# Panels about kinks, and nodes in each.
PANELS, IN_PANEL = 56, 20


class HermiteLine:
    """Hermite coefficients of a function of m + sqrt(v) z, z standard normal.

    By the trapezoidal rule, which is exact to rounding for smooth functions, and by Gauss rules
    between kinks of others.
    """

    def __init__(self) -> None:
        self.z = np.linspace(-END, END, POINTS)
        self.gauss = np.polynomial.legendre.leggauss(IN_PANEL)
        self.rows, self.weight = _rows(self.z, np.full(POINTS, self.z[1] - self.z[0]))

    def __call__(
        self, function: Callable[[Array], Array], m: float, v: float, kinks: Sequence[float] = ()
    ) -> Array:
        """Coefficients E f He_n / sqrt(n!), then what is left of E f^2; f may have kinks."""
        z, rows, weight = self.z, self.rows, self.weight
        if kinks and v > 0.0:
            at = (np.array(kinks) - m) / np.sqrt(v)
            edges = np.union1d(np.linspace(-END, END, PANELS + 1), at[np.abs(at) < END])
            half = np.diff(edges)[:, None] / 2.0
            z = (edges[:-1, None] + half * (1.0 + self.gauss[0])).ravel()
            rows, weight = _rows(z, (half * self.gauss[1]).ravel())
        values = np.broadcast_to(function(m + np.sqrt(max(v, 0.0)) * z), z.shape)
        found = rows @ values
        rest = float(weight @ values**2) - float(found @ found)
        return np.append(found, np.sqrt(max(rest, 0.0)))


def _rows(z: Array, steps: Array) -> tuple[Array, Array]:
    """He_n(z)/sqrt(n!) times the weights of a rule (ORDERS, N), and the weights."""
    weight = np.exp(-(z**2) / 2.0) / np.sqrt(2.0 * np.pi) * steps
    rows = np.empty((ORDERS, z.size))
    rows[0], rows[1] = 1.0, z
    for n in range(1, ORDERS - 1):
        rows[n + 1] = (z * rows[n] - np.sqrt(n) * rows[n - 1]) / np.sqrt(n + 1.0)
    return rows * weight, weight


@cache
def hermite_line() -> HermiteLine:
    """The one line of a process."""
    return HermiteLine()


def power_series(table: Any, rho: Any) -> Array:
    """Sum of table[n] rho^n over the first axis."""
    total = np.zeros(np.shape(rho)) + table[-1]
    for coefficient in table[-2::-1]:
        total = total * rho + coefficient
    return np.asarray(total)

"""Hermite coefficients of functions of a normal variable, and power series in a correlation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from dmft.arrays import Array

# Points of the line, coefficients, and its end.
POINTS, ORDERS, END = 2001, 320, 14.0


class HermiteLine:
    """Hermite coefficients of a function of m + sqrt(v) z, z standard normal.

    By the trapezoidal rule, which is exact to rounding for smooth functions.
    """

    def __init__(self) -> None:
        self.z = np.linspace(-END, END, POINTS)
        weight = np.exp(-(self.z**2) / 2.0) / np.sqrt(2.0 * np.pi) * (self.z[1] - self.z[0])
        rows = np.empty((ORDERS, POINTS))
        rows[0], rows[1] = 1.0, self.z
        for n in range(1, ORDERS - 1):
            rows[n + 1] = (self.z * rows[n] - np.sqrt(n) * rows[n - 1]) / np.sqrt(n + 1.0)
        self.rows, self.weight = rows * weight, weight

    def __call__(self, function: Callable[[Array], Array], m: float, v: float) -> Array:
        """Coefficients E f He_n / sqrt(n!), then what is left of E f^2."""
        values = np.broadcast_to(function(m + np.sqrt(max(v, 0.0)) * self.z), self.z.shape)
        found = self.rows @ values
        rest = float(self.weight @ values**2) - float(found @ found)
        return np.append(found, np.sqrt(max(rest, 0.0)))


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

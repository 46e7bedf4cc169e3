"""Averages of a function of two centred Gaussian fields of equal variance, by Hermite series."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.gaussian.nodes.grid import array_function
from dmft.special.hermite_line import ORDERS, hermite_line, power_series

Array = NDArray[np.float64]


class Output:
    """Averages of an output over Gaussian states of equal variance, at many covariances."""

    def __init__(self, output: sp.Expr, state: sp.Symbol) -> None:
        self.phi = array_function([state], output)
        self.slope = array_function([state], sp.diff(output, state))
        self.line = hermite_line()
        self.known: tuple[float, Array] | None = None
        self._ratios: dict[float, float] = {}

    @classmethod
    def of(cls, output: sp.Expr, state: sp.Symbol) -> Output:
        """The averages of an output, computed once in a process."""
        return _kept(output, state)

    def series(self, variance: float) -> Array:
        """Hermite coefficients at a variance, and what is left."""
        if self.known is None or self.known[0] != variance:
            self.known = variance, self.line(self.phi, 0.0, variance)
        return self.known[1]

    def pair(self, c: Any, variance: float) -> Array:
        """E phi(x) phi(y) at covariances c."""
        return power_series(self.series(variance) ** 2, np.asarray(c) / variance)

    def slopes(self, c: Any, variance: float) -> Array:
        """E phi'(x) phi'(y) at covariances c."""
        table = self.series(variance)[:-1] ** 2
        rows = np.arange(1, ORDERS) * table[1:]
        found = self.line(self.slope, 0.0, variance)
        if np.isfinite(found).all():
            rows, rho = found**2, np.asarray(c) / variance
            return power_series(rows, rho)
        return power_series(rows / variance, np.asarray(c) / variance)

    def integral_ratio(self, log: float) -> float:
        """Integral of E phi phi over covariances from 0 to v, over v^2, at v = exp(log)."""
        if log not in self._ratios:
            v = math.exp(log)
            table = self.line(self.phi, 0.0, v) ** 2 / np.arange(1, ORDERS + 2)
            self._ratios[log] = float(table.sum()) / v
        return self._ratios[log]


@lru_cache(maxsize=32)
def _kept(output: sp.Expr, state: sp.Symbol) -> Output:
    return Output(output, state)

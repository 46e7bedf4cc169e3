"""Averages of a function of two centred Gaussian fields of equal variance, by Hermite series."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp
from numpy.polynomial import chebyshev

from dmft.arrays import Array
from dmft.gaussian.nodes.grid import array_function
from dmft.gaussian.nodes.kinks import switches, zeros
from dmft.special.hermite_line import ORDERS, hermite_line

# Chebyshev points of a panel, and variances between which there are panels.
PANEL, SMALLEST, LARGEST = 22, 1e-10, 1e13
# States of outputs among which kinks are looked for.
REACH = 1e3


class Output:
    """Averages of an output over Gaussian states of equal variance, at many covariances."""

    def __init__(self, output: sp.Expr, state: sp.Symbol) -> None:
        self.phi = array_function([state], output)
        self.slope = array_function([state], sp.diff(output, state))
        self.kinks = kinks_of(output, state)
        self.line = hermite_line()
        self._panels: dict[tuple[str, int], tuple[Array, Array]] = {}
        self._ratios: dict[int, list[float]] = {}
        self._last: tuple[float, Array] = (math.nan, np.empty(0))

    @classmethod
    def of(cls, output: sp.Expr, state: sp.Symbol) -> Output:
        """The averages of an output, computed once in a process."""
        return _kept(output, state)

    def series(self, variance: float) -> Array:
        """Hermite coefficients at a variance, and what is left; the last ones are kept."""
        known, found = self._last
        if known != variance:
            found = self._interpolated("phi", variance)
            self._last = variance, found
        return found

    def pair(self, c: Any, variance: float) -> Array:
        """E phi(x) phi(y) at covariances c."""
        return _summed(self.series(variance) ** 2, np.asarray(c) / variance)

    def slopes(self, c: Any, variance: float) -> Array:
        """E phi'(x) phi'(y) at covariances c."""
        rows = self._interpolated("slope", variance) ** 2
        if not np.isfinite(rows).all():
            rows = np.arange(1, ORDERS) * self.series(variance)[1:-1] ** 2 / variance
        return _summed(rows, np.asarray(c) / variance)

    def integral_ratio(self, log: float) -> float:
        """Integral of E phi phi over covariances from 0 to v, over v^2, at v = exp(log)."""
        start = math.floor(log)
        if start not in self._ratios:
            table = self._panel("phi", start)[0] ** 2 @ (1.0 / np.arange(1, ORDERS + 2))
            values = table / np.exp(_logs(start))
            self._ratios[start] = (_FIT @ values).tolist()
        x, one, two = 2.0 * (log - start) - 1.0, 0.0, 0.0
        for coefficient in self._ratios[start][:0:-1]:
            one, two = coefficient + 2.0 * x * one - two, one
        return float(self._ratios[start][0] + x * one - two)

    def _interpolated(self, name: str, variance: float) -> Array:
        """Hermite coefficients of phi or its slope, interpolated in log v.

        On panels of length one; the coefficients are analytic beyond the panel.
        """
        if not SMALLEST < variance < LARGEST:
            return self.line(getattr(self, name), 0.0, variance, self.kinks)
        log = math.log(variance)
        start = math.floor(log)
        row = np.cos(math.acos(2.0 * (log - start) - 1.0) * np.arange(PANEL))
        return np.asarray(row @ self._panel(name, start)[1])

    def _panel(self, name: str, start: int) -> tuple[Array, Array]:
        """Hermite coefficients at the points of a panel, and their Chebyshev coefficients."""
        if (name, start) not in self._panels:
            function = getattr(self, name)
            values = np.stack(
                [self.line(function, 0.0, v, self.kinks) for v in np.exp(_logs(start))]
            )
            self._panels[name, start] = values, _FIT @ values
        return self._panels[name, start]


def kinks_of(output: sp.Expr, state: sp.Symbol) -> tuple[float, ...]:
    """States at which an output or its slope jumps."""
    return tuple(float(y) for y in zeros(switches(output, (state,)), state, REACH))


def _logs(start: int) -> Array:
    return np.asarray((chebyshev.chebpts1(PANEL) + 1.0) / 2.0 + start)


# From values at Chebyshev points to coefficients.
_FIT = np.linalg.inv(chebyshev.chebvander(chebyshev.chebpts1(PANEL), PANEL - 1))


def _summed(table: Array, rho: Array) -> Array:
    """A power series; terms below rounding, and every other one of odd functions, are left out."""
    kept = np.flatnonzero(np.abs(table) > 1e-20 * np.abs(table).max())
    if not kept.size:
        return np.zeros(rho.shape)
    start, step = int(kept[0]), 2 if np.all(kept % 2 == kept[0] % 2) else 1
    used = table[start : kept[-1] + 1 : step]
    powers = np.empty((used.size, *rho.shape))
    powers[0], powers[1:] = rho**start, rho**step
    return np.asarray(np.tensordot(used, np.multiply.accumulate(powers, axis=0), 1))


@lru_cache(maxsize=32)
def _kept(output: sp.Expr, state: sp.Symbol) -> Output:
    return Output(output, state)

"""Labels +1 and -1 that are drawn with a probability P(y | z)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.gaussian.channels.branches import Parts
from dmft.gaussian.channels.panels import LOG_TWO_PI, between, quiet, window

# A likelihood is resolved where halves of a panel agree to this; nodes of a panel.
RESOLVED, DEEPEST, ORDER = 1e-12, 12, 12


@dataclass(frozen=True, eq=False)
class Likelihood:
    """P(y | z) = (1 + y f(z))/2 with the mean label f: closed for probits, else Gauss rules."""

    mean: sp.Expr
    field: sp.Symbol
    reach: float
    breaks: tuple[float, ...]

    @cached_property
    def probit(self) -> tuple[float, float] | None:
        """Slope a and offset c of P(y = 1) = Phi(a z + c), where it has this form."""
        found = probit_of(self.mean, self.field)
        return found and (float(found[0]), float(found[1]))

    def part(self, y: Array, omega: Array, variance: Array) -> Parts:
        """Moments of u given y and omega, on a leading axis of nodes."""
        if self.probit:
            return self._probit_part(*self.probit, y, omega, variance)
        y, omega = np.broadcast_arrays(y, omega)
        z, weight = window(self.resolving, omega, variance, ORDER)
        u = (z - omega) / np.sqrt(variance)
        with np.errstate(divide="ignore"):
            log = np.log(weight) + np.log(self.chance(y, z))
        return Parts(log, u, u * u)

    @staticmethod
    def _probit_part(slope: float, offset: float, y: Array, omega: Array, variance: Array) -> Parts:
        from scipy.special import log_ndtr

        total = np.sqrt(1.0 + slope**2 * variance)
        t = y * (slope * omega + offset) / total
        log = log_ndtr(t)
        ratio = np.exp(-0.5 * (t * t + LOG_TWO_PI) - log)
        lean = y * slope * np.sqrt(variance) / total
        return Parts(log[None], (lean * ratio)[None], (1.0 - lean**2 * t * ratio)[None])

    @cached_property
    def _chances(self) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """P(y = -1 | z) and P(y = 1 | z), each without cancellation where SymPy can."""
        exact = [sp.factor_terms(sp.together((1 + s * self.mean) / 2)) for s in (-1, 1)]
        low, high = (quiet([self.field], e) for e in exact)
        return low, high

    def chance(self, y: Array, z: Array) -> Array:
        """P(y | z)."""
        low, high = (function(z) for function in self._chances)
        return np.where(y > 0, high, low)

    @cached_property
    def resolving(self) -> Array:
        """Edges between which a Gauss rule resolves the likelihood."""
        edges = np.unique([-self.reach, *self.breaks, 0.0, self.reach])
        todo = [(a, b, 0) for a, b in pairwise(edges.tolist())]
        found: list[float] = []
        while todo:
            a, b, depth = todo.pop()
            middle = 0.5 * (a + b)
            whole, halves = (
                float(np.sum(w * self.chance(np.array(1.0), z) * np.exp(-z * z / 4)))
                for z, w in (between(np.array(e), ORDER) for e in ([a, b], [a, middle, b]))
            )
            if abs(whole - halves) < RESOLVED or depth == DEEPEST:
                found += [a, b]
            else:
                todo += [(a, middle, depth + 1), (middle, b, depth + 1)]
        return np.unique(found)


def probit_of(mean: sp.Expr, field: sp.Symbol) -> tuple[sp.Expr, sp.Expr] | None:
    """Slope a and offset c of a mean label 2 Phi(a z + c) - 1; None for others."""
    argument = sp.expand(mean.args[0] * sp.sqrt(2)) if isinstance(mean, sp.erf) else field**2
    if not argument.is_polynomial(field) or sp.degree(argument, field) != 1:
        return None
    slope, offset = sp.Poly(argument, field).all_coeffs()
    return slope, offset

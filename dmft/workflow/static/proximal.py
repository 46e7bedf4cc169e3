"""Proximal operator of any declared loss: closed where it is piecewise quadratic, else Newton.

Equation    prox(y, omega) = argmin_p l(y, p) + (p - omega)^2/(2 V), f = (prox - omega)/V
Valid for   losses smooth between kinks in the prediction that are roots of polynomials; the
            minimum is unique where V l'' > -1 and slopes do not fall at kinks
Source      theory/static_limits 4.1
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.channels.panels import quiet
from dmft.gaussian.nodes.integrand import stable
from dmft.gaussian.nodes.kinks import switches
from dmft.model.loss import LABEL, PREDICTION, error_expr

Function = Callable[[Array, Array], Array]
# One-sided slopes are taken this far from a kink, relative to its size.
ASIDE = 1e-11
# Labels at which a kink must be one of slope or curvature, and the least jump that counts.
TRIED, JUMP = np.array([-1.3, -1.0, 0.7, 1.0]), 1e-7
# Iterations of Newton's method, doublings of its bracket, and when it has converged.
MOST_STEPS, DOUBLINGS, CONVERGED = 100, 60, 1e-11
MOST_ROOTS = 2


@dataclass(frozen=True, eq=False)
class Proximal:
    """A loss as functions of arrays of prediction and label, with the places of its kinks.

    `curvature` is without what kinks add, which are at functions of the label, infinite where a
    label has none. With `is_straight` the loss is quadratic between them, so that the operator is
    closed.
    """

    value: Function
    slope: Function
    curvature: Function
    kinks: tuple[Callable[[Array], Array], ...]
    is_straight: bool

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, loss: sp.Expr) -> Proximal:
        """The operator of a loss in `PREDICTION` and `LABEL`."""
        others = sorted(loss.free_symbols - {PREDICTION, LABEL}, key=str)
        if others:
            raise BadParameter(f"loss {loss} contains the symbol {others[0]}: substitute a value")
        slope = -error_expr(loss)
        curvature = _without_deltas(sp.diff(slope, PREDICTION))
        third = _without_deltas(sp.diff(curvature, PREDICTION))
        value, first, second = (
            quiet([PREDICTION, LABEL], stable(e)) for e in (loss, slope, curvature)
        )
        places = [quiet([LABEL], root) for root in _roots(loss)]
        kinks = tuple(k for k in places if _is_kink(k, first, second))
        return cls(value, first, second, kinks, bool(sp.simplify(third) == 0))

    def places(self, y: Array) -> Array:
        """Kinks of each label (kinks, ...), sorted."""
        found = np.array([kink(y) for kink in self.kinks]).reshape(len(self.kinks), *np.shape(y))
        return np.sort(np.where(np.isfinite(found), found, np.inf), axis=0)

    def breaks(self, y: Array, V: float) -> Array:
        """Places in omega where the operator has kinks, (2 kinks, ...); infinite where none."""
        return np.concatenate(self._ends(self.places(y), y, V))

    def _ends(self, places: Array, y: Array, V: float) -> tuple[Array, Array]:
        """Intervals of omega that the operator maps to a kink: lower and upper ends."""
        aside = ASIDE * (1.0 + np.abs(np.where(np.isfinite(places), places, 0.0)))
        with np.errstate(all="ignore"):
            low, high = (places + V * self.slope(places + e, y) for e in (-aside, aside))
        none = ~np.isfinite(places)
        return np.where(none, np.inf, low), np.where(none, np.inf, high)

    def __call__(self, omega: Array, y: Array, V: float) -> tuple[Array, Array, Array]:
        """The minimiser p, f = (p - omega)/V and its derivative df/domega, elementwise."""
        omega, y = np.broadcast_arrays(omega, y)
        if not self.kinks:
            return self._on_piece(omega, y, V, np.full(2, np.inf) * np.array([-1.0, 1.0]))
        places = self.places(y)
        low, high = self._ends(places, y, V)
        p, f, slope = (np.empty(omega.shape) for _ in range(3))
        below = np.full(omega.shape, -np.inf)
        for j in range(len(places) + 1):
            above = low[j] if j < len(places) else np.full(omega.shape, np.inf)
            here = (omega >= below) & (omega < above)
            ends = np.array([
                places[j - 1][here] if j else np.full(here.sum(), -np.inf),
                places[j][here] if j < len(places) else np.full(here.sum(), np.inf),
            ])  # fmt: skip
            p[here], f[here], slope[here] = self._on_piece(omega[here], y[here], V, ends)
            if j < len(places):
                held = (omega >= low[j]) & (omega < high[j])
                p[held] = places[j][held]
                f[held], slope[held] = (p[held] - omega[held]) / V, -1.0 / V
                below = high[j]
        return p, f, slope

    def _on_piece(
        self, omega: Array, y: Array, V: float, ends: Array
    ) -> tuple[Array, Array, Array]:
        """The same where the minimiser lies between two kinks."""
        if self.is_straight:
            low, high = (np.broadcast_to(e, omega.shape) for e in ends)
            # A point of the piece: between its ends, or one away from the only end.
            left = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - 2.0, -1.0))
            inside = 0.5 * (left + np.where(np.isfinite(high), high, left + 2.0))
            curvature = self.curvature(inside, y)
            first = self.slope(inside, y) - curvature * inside
            p = (omega - V * first) / (1.0 + V * curvature)
            return p, -(first + curvature * p), -curvature / (1.0 + V * curvature)
        p = self._newton(omega, y, V, ends)
        curvature = self.curvature(p, y)
        return p, -self.slope(p, y), -curvature / (1.0 + V * curvature)

    def _newton(self, omega: Array, y: Array, V: float, ends: Array) -> Array:
        """Root of p + V l'(p) - omega, which rises, by Newton's method within a bracket."""

        def value(p: Array) -> Array:
            return p + V * self.slope(p, y) - omega

        with np.errstate(all="ignore"):
            other = omega - V * self.slope(np.clip(omega, *ends), y)
            low, high = (np.clip(e(omega, other), *ends) for e in (np.minimum, np.maximum))
            width = 1.0 + high - low
            for _ in range(DOUBLINGS):  # a bracket already where the loss is convex
                short, wide = (
                    (value(low) > 0.0) & (low > ends[0]),
                    (value(high) < 0.0) & (high < ends[1]),
                )
                if not (short.any() or wide.any()):
                    break
                low = np.clip(np.where(short, low - width, low), *ends)
                high = np.clip(np.where(wide, high + width, high), *ends)
                width *= 2.0
            p = 0.5 * (low + high)
            last, settled = np.full(p.shape, np.inf), np.zeros(p.shape, dtype=bool)
            for _ in range(MOST_STEPS):
                rest = value(p)
                low, high = np.where(rest < 0.0, p, low), np.where(rest > 0.0, p, high)
                step = p - rest / (1.0 + V * self.curvature(p, y))
                # Newton's steps may run in circles: the bracket is halved where they gain little.
                near = np.abs(step - p) <= CONVERGED * (1.0 + np.abs(p))
                gains = (step > low) & (step < high) & (np.abs(rest) <= 0.5 * last)
                step = np.where(near | gains, step, 0.5 * (low + high))
                p, last = np.where(settled, p, step), np.abs(rest)
                settled |= near
                if settled.all():
                    break
        return p

    def deepest(self, y: Array, reach: float) -> float:
        """Largest -d2l/df2 of predictions up to `reach`: the operator jumps where V times it > 1.

        Infinite where a slope falls at a kink.
        """
        places = self.places(y)
        aside = ASIDE * (1.0 + np.abs(np.where(np.isfinite(places), places, 0.0)))
        with np.errstate(all="ignore"):
            jump = self.slope(places + aside, y) - self.slope(places - aside, y)
            if np.any(jump[np.isfinite(places)] < -JUMP):
                return np.inf
            grid = np.linspace(-reach, reach, 2001)
            return float(np.nanmax(-self.curvature(grid[:, None], y[None, :]), initial=0.0))


def _without_deltas(expr: sp.Expr) -> sp.Expr:
    return expr.replace(sp.DiracDelta, lambda *_: sp.S.Zero)


def _roots(loss: sp.Expr) -> list[sp.Expr]:
    """Predictions, expressions in the label, at which a branch of the loss may end."""
    found: list[sp.Expr] = []
    for switch in switches(loss, (PREDICTION,)):
        if switch.is_positive or switch.is_negative:
            continue
        polynomial = switch.as_poly(PREDICTION)
        if polynomial is None or not 1 <= polynomial.degree() <= MOST_ROOTS:
            raise BadParameter(
                f"loss {loss} has kinks where {switch} = 0, which is not a linear or quadratic "
                "polynomial of f: write the loss with such branches"
            )
        found += sp.roots(polynomial, multiple=True)
    return list(dict.fromkeys(found))


def _is_kink(kink: Callable[[Array], Array], slope: Function, curvature: Function) -> bool:
    """Whether slope or curvature jump there."""
    place = kink(TRIED)
    known = np.isfinite(place)
    place, y = place[known], TRIED[known]
    aside = ASIDE * (1.0 + np.abs(place))
    jumps = (np.abs(g(place + aside, y) - g(place - aside, y)) for g in (slope, curvature))
    return any(bool(np.any(jump > JUMP)) for jump in jumps)

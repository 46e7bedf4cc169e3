"""Pieces of a label as numbers: inverses, slopes, moments of a Gaussian field; drawn labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.gaussian.channels.panels import LOG_TWO_PI, between, quiet, window
from dmft.gaussian.channels.pieces import Piece

# Table of a monotone piece, and Newton steps from an entry of it.
TABLE, NEWTON = 256, 60
# Newton steps end at this relative change; slopes at critical points, where two roots meet.
CONVERGED, FLATTEST = 1e-14, 1e-100
# Labels at critical values exceed them by this relative rounding.
ROUNDING = 4e-15
# Labels equal an atom's value up to this relative difference.
ATOM = 1e-10


class Parts(NamedTuple):
    """Parts of the law of u = (z - omega)/sqrt(V) given y: log weight, E[u], E[u^2]."""

    log: Array
    first: Array
    second: Array


class Moments(NamedTuple):
    """log Z, E[u | y] and E[u^2 | y]."""

    log_z: Array
    first: Array
    second: Array


def combined(parts: list[Parts]) -> Moments:
    """Sum of parts, each with any leading axis, in the log domain."""
    if len(parts) == 1 and len(parts[0].log) == 1:
        return Moments(*np.broadcast_arrays(*(a[0] for a in parts[0])))
    log, first, second = parts[0]
    if len(parts) > 1:
        shape = np.broadcast_shapes(*(p.log.shape[1:] for p in parts))
        log, first, second = (
            np.concatenate([np.broadcast_to(a, (len(a), *shape)) for a in each])
            for each in zip(*parts, strict=True)
        )
    top = log.max(axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    weight = np.exp(log - top)
    total = weight.sum(axis=0)
    with np.errstate(divide="ignore"):
        log_z = top + np.log(total)
    total = np.where(total > 0, total, 1.0)
    return Moments(
        log_z,
        np.einsum("i...,i...->...", weight, first) / total,
        np.einsum("i...,i...->...", weight, second) / total,
    )


def at_roots(z: Array, log: Array, omega: Array, variance: Array) -> Parts:
    """Point masses at roots z, given the logarithms of their densities in y."""
    u = (z - omega) / np.sqrt(variance)
    second = u * u
    return Parts(log - 0.5 * (second + np.log(variance) + LOG_TWO_PI), u, second)


def interval(low: Array, high: Array) -> Parts:
    """Standard normal u on (low, high): log probability and truncated moments."""
    from scipy.special import log_ndtr

    mirrored = low > 0
    a, b = np.where(mirrored, -high, low), np.where(mirrored, -low, high)
    upper = log_ndtr(b)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log = upper + np.log(-np.expm1(log_ndtr(a) - upper))
        log = np.where(b > a, log, -np.inf)
        at_a, at_b = np.exp(_log_density(a) - log), np.exp(_log_density(b) - log)
        first = at_a - at_b
        second = (
            1.0 + np.where(np.isfinite(a), a, 0.0) * at_a - np.where(np.isfinite(b), b, 0.0) * at_b
        )
    inside = np.isfinite(log)
    first, second = np.where(inside, first, 0.0), np.where(inside, second, 0.0)
    return Parts(log[None], np.where(mirrored, -first, first)[None], second[None])


def _log_density(u: Array) -> Array:
    return np.asarray(-0.5 * (u * u + LOG_TWO_PI))


@dataclass(frozen=True, eq=False)
class Branch:
    """One piece with numbers: y = g(z) for low < z < high, with g flat or strictly monotone.

    `share` is the probability with which the label is this function.
    """

    piece: Piece
    field: sp.Symbol
    reach: float
    share: float = 1.0

    @cached_property
    def low(self) -> float:
        """Left end, -inf possible."""
        return float(self.piece.low)

    @cached_property
    def high(self) -> float:
        """Right end, inf possible."""
        return float(self.piece.high)

    @cached_property
    def ends(self) -> tuple[float, float]:
        """Ends within the reach of the field."""
        return max(self.low, -self.reach), min(self.high, self.reach)

    @property
    def is_flat(self) -> bool:
        """Whether the label is constant here."""
        return self.piece.is_flat

    @cached_property
    def coefficients(self) -> tuple[float, ...]:
        """Coefficients of a polynomial piece, highest power first."""
        return tuple(float(c) for c in sp.Poly(self.piece.expr, self.field).all_coeffs())

    @cached_property
    def value(self) -> Callable[[Array], Array]:
        """The label as a function of arrays."""
        return quiet([self.field], self.piece.expr)

    @cached_property
    def quick_value(self) -> Callable[[Array], Array]:
        """The same up to rounding; polynomials by Horner's rule, since powers are slow."""
        if not self.piece.expr.is_polynomial(self.field):
            return self.value
        return lambda z: np.asarray(np.polyval(self.coefficients, z), dtype=np.float64)

    @cached_property
    def derivative(self) -> Callable[[Array], Array]:
        """Its derivative as a function of arrays."""
        return quiet([self.field], sp.diff(self.piece.expr, self.field))

    @cached_property
    def limits(self) -> tuple[float, float]:
        """One-sided limits of g at both ends, infinite at infinite ends of polynomials."""
        found = []
        for end, sign in ((self.low, -1.0), (self.high, 1.0)):
            if np.isfinite(end):
                found.append(float(self.value(np.array(end))))
            elif self.piece.kind in ("affine", "quadratic"):
                found.append(sign * np.inf if self.piece.rising else -sign * np.inf)
            else:
                found.append(float(self.value(np.array(sign * self.reach))))
        return found[0], found[1]

    @cached_property
    def _table(self) -> tuple[Array, Array]:
        """Increasing values of g and their places, denser at the ends."""
        t = np.linspace(0.0, 1.0, TABLE)
        z = self.ends[0] + (self.ends[1] - self.ends[0]) * t * t * (3 - 2 * t)
        values = self.value(z)
        return (values, z) if self.piece.rising else (values[::-1], z[::-1])

    def contains(self, y: Array) -> Array:
        """Where y is a value of the piece, up to the rounding of g."""
        least, most = sorted(self.limits)
        return np.asarray((y > least - ROUNDING * abs(least)) & (y < most + ROUNDING * abs(most)))

    def inverse(self, y: Array) -> Array:
        """The z in the piece with g(z) = y; ends where y is out of range."""
        if self.piece.kind == "affine":
            slope, offset = self.coefficients
            return np.clip((y - offset) / slope, self.low, self.high)
        if self.piece.kind == "quadratic":
            c, b, a = self.coefficients
            centre = -b / (2 * c)
            away = np.sqrt(np.maximum((y - a + c * centre**2) / c, 0.0))
            z = centre + away if self.low >= centre - ATOM else centre - away
            return np.clip(z, self.low, self.high)
        return self._newton(np.asarray(y, dtype=float))

    def _newton(self, y: Array) -> Array:
        """Newton steps within brackets that shrink; bisection where a step leaves them."""
        values, places = self._table
        at = np.clip(np.searchsorted(values, y), 1, TABLE - 1).ravel()
        left, right, y, shape = places[at - 1], places[at], y.ravel(), y.shape
        with np.errstate(all="ignore"):
            part = np.clip((y - values[at - 1]) / (values[at] - values[at - 1]), 0.0, 1.0)
        z = left + (right - left) * np.where(np.isfinite(part), part, 0.5)
        result, todo = z.copy(), np.arange(z.size)
        for _ in range(NEWTON):
            gap = self.value(z) - y
            left, right = np.where(gap <= 0, z, left), np.where(gap >= 0, z, right)
            with np.errstate(all="ignore"):
                step = z - gap / self.derivative(z)
            low, high = np.minimum(left, right), np.maximum(left, right)
            moved = np.where((step >= low) & (step <= high), step, 0.5 * (left + right))
            result[todo] = moved
            moving = np.abs(moved - z) > CONVERGED * (1.0 + np.abs(z))
            moving &= np.abs(gap) > ROUNDING * np.abs(y)
            if not moving.any():
                break
            z, y, left, right = moved[moving], y[moving], left[moving], right[moving]
            todo = todo[moving]
        return result.reshape(shape)

    def root(self, y: Array) -> tuple[Array, Array]:
        """The z with g(z) = y, and the logarithm of its density in y; -inf where there is none."""
        inside = self.contains(y)
        z = self.inverse(np.where(inside, y, self._somewhere))
        slope = np.log(np.maximum(np.abs(self.derivative(z)), FLATTEST))
        return z, np.where(inside, np.log(self.share) - slope, -np.inf)

    @cached_property
    def _somewhere(self) -> float:
        """A value of the piece."""
        return float(self.value(np.array(0.5 * (self.ends[0] + self.ends[1]))))

    def atom(self, y: Array, omega: Array, variance: Array) -> Parts:
        """The part of a noiseless flat piece, where y is its value."""
        here = np.abs(y - self.limits[0]) <= ATOM * (1.0 + abs(self.limits[0]))
        found = self.mass(omega, variance)
        return found._replace(log=np.where(here, found.log[0], -np.inf)[None])

    def mass(self, omega: Array, variance: Array) -> Parts:
        """The whole piece: log probability and truncated moments."""
        scale = np.sqrt(variance)
        found = interval((self.low - omega) / scale, (self.high - omega) / scale)
        return found._replace(log=found.log + np.log(self.share))

    def noisy(self, y: Array, omega: Array, variance: Array, noise: float) -> Parts:
        """Flat or affine piece with additive Gaussian noise (static_limits (8))."""
        slope, offset = (0.0, self.limits[0]) if self.is_flat else self.coefficients
        total = noise + slope**2 * variance
        gap = y - offset - slope * omega
        mean = slope * variance * gap / total  # of z - omega
        spread = np.sqrt(variance * noise / total)
        part = interval((self.low - omega - mean) / spread, (self.high - omega - mean) / spread)
        log = part.log - 0.5 * (gap**2 / total + np.log(total) + LOG_TWO_PI) + np.log(self.share)
        shift, scale = mean / np.sqrt(variance), spread / np.sqrt(variance)
        first = shift + scale * part.first
        return Parts(log, first, shift**2 + 2 * shift * scale * part.first + scale**2 * part.second)


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

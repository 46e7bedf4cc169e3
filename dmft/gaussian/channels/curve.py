"""All fixed points of state evolution for one field: the explicit curve alpha(q).

Equation    alpha(q) = F^-1(q)/m(q): every fixed point at every alpha is on it; where alpha rises
            with q it is stable
Valid for   one field, any channel and centred prior; between fixed points q1 < q2 of one alpha
            Phi(q2) - Phi(q1) = (1/2) int m (alpha - alpha(q)) dq
Source      theory/static_limits (9), (12)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from dmft.arrays import Array
from dmft.gaussian.channels.channel import Channel
from dmft.gaussian.channels.priors import Prior
from dmft.gaussian.nodes.grid import chebyshev, panels

# Ends of the curve: precision times second moment, and share of the variance that remains.
LOWEST, LEAST = 1e-7, 1e-10
# Chebyshev nodes, of which each set holds the one before, and the accuracy of logarithms.
COUNTS, RESOLVED = (9, 27, 81, 243), 2e-8
# More nodes than the third set are of use only where fewer leave more than this.
ACCEPTED = 1e-6
# Overlaps, in units of the second moment, that tell the power of m for small ones.
PROBES = (1e-3, 2e-3)
# Remaining variances, in units of the second moment, at which m is compared with a finer rule.
TRIED, FINER = (0.9, 0.3, 0.01), 1.5
# Averages of conditional moments below this are zero.
ZERO = 1e-11
# Grid on which extremes are bracketed; changes of alpha below this are no extremes.
GRID, FLAT = 241, 1e-7
# Equal areas are sought up to this alpha.
LARGEST = 1e6
# Panels of an integral over the curve.
AREA_PANELS, AREA_ORDER = 12, 12


class Extreme(NamedTuple):
    """A stationary point of the curve."""

    alpha: float
    overlap: float
    log_precision: float
    is_maximum: bool


class Root(NamedTuple):
    """A fixed point: its overlap, remaining variance, precision, and stability."""

    overlap: float
    variance: float
    precision: float
    stable: bool


@dataclass(frozen=True, eq=False)
class Curve:
    """alpha as a function of the precision, for one channel and prior."""

    channel: Channel
    prior: Prior

    @cached_property
    def ends(self) -> tuple[float, float]:
        """Logarithms of the lowest and the highest precision."""
        rho = self.prior.second_moment
        high = np.log(1.0 / rho)
        while self.prior.estimate(np.exp(high)).variance > LEAST * rho:
            high += 0.5
        return float(np.log(LOWEST / rho)), float(high)

    def information(self, log_precision: float) -> float:
        """The average m at a precision."""
        found = self.prior.estimate(np.exp(log_precision))
        return self.channel.information(float(found.overlap), variance=float(found.variance))

    @cached_property
    def _powers(self) -> tuple[float, float]:
        """Powers a and b of m ~ q^a for small q and m ~ V^-b for small V."""
        rho = self.prior.second_moment
        low = [np.log(self.channel.information(q * rho)) for q in PROBES]
        start = round((low[1] - low[0]) / np.log(PROBES[1] / PROBES[0]))
        if self.channel.density_share > ZERO:
            return start, 1.0
        return start, 0.5 if self.channel.jumps else 0.0

    @cached_property
    def _fit(self) -> tuple[Array, float]:
        """Chebyshev coefficients in sqrt(V) of log(m V^b/q^a), and the size of the last ones."""
        rho, known = self.prior.second_moment, {}
        a, b = self._powers
        for count in COUNTS:
            angles = np.pi * (np.arange(count) + 0.5) / count
            for t in np.round(np.cos(angles), 15):
                if t not in known:
                    v = rho * (0.5 * (1.0 + t)) ** 2
                    m = self.channel.information(rho - v, variance=v)
                    known[t] = np.log(m) + b * np.log(v) - a * np.log(rho - v)
            values = np.array([known[t] for t in np.round(np.cos(angles), 15)])
            fitted = chebyshev(count)[1] @ values
            tail = float(np.abs(fitted[-(count // 5) :]).max())
            if tail < (RESOLVED if count < COUNTS[2] else ACCEPTED):
                break
        return fitted, tail

    @cached_property
    def error(self) -> float:
        """Relative error of alpha(q): of the series, and of the rules of m at three overlaps."""
        rho, rules = self.prior.second_moment, [1e-10]
        for v in TRIED:
            m, finer = (self.channel.information(rho - v * rho, v * rho, n) for n in (1.0, FINER))
            rules.append(abs(m / finer - 1.0))
        return max(10.0 * self._fit[1], *rules)

    def log_alpha(self, x: Array | float) -> Array:
        """Logarithm of alpha at logarithms of precisions."""
        rho, (a, b) = self.prior.second_moment, self._powers
        q, v = self.prior.estimate(np.exp(x))[:2]
        fitted = np.polynomial.chebyshev.chebval(2.0 * np.sqrt(v / rho) - 1.0, self._fit[0])
        return np.asarray(x - fitted + b * np.log(v) - a * np.log(q))

    @cached_property
    def start(self) -> float:
        """Limit alpha(0): the weak-recovery threshold."""
        first, second = self.channel.uninformed
        if first > ZERO:
            return 0.0
        return 1.0 / second if second > ZERO else np.inf

    @cached_property
    def limit(self) -> float:
        """Limit of alpha where the remaining variance tends to zero."""
        share, dimension = self.channel.density_share, self.prior.dimension
        if share > ZERO:
            return dimension / share
        if self.channel.jumps and dimension == 0:
            return 0.0
        return np.inf

    @cached_property
    def extremes(self) -> tuple[Extreme, ...]:
        """Stationary points of alpha(q), in order."""
        from scipy.optimize import minimize_scalar

        x = np.linspace(*self.ends, GRID)
        y = self.log_alpha(x)
        found: list[Extreme] = []
        turns = np.flatnonzero(np.diff(np.sign(np.diff(y)))) + 1
        for n in turns:
            sign = 1.0 if y[n] > y[n - 1] else -1.0
            at = minimize_scalar(
                lambda p, s=sign: -s * float(self.log_alpha(p)),
                bounds=(x[n - 1], x[n + 1]),
                method="bounded",
                options={"xatol": 1e-12},
            ).x
            overlap = float(self.prior.estimate(float(np.exp(at))).overlap)
            alpha = float(np.exp(self.log_alpha(at)))
            found.append(Extreme(alpha, overlap, float(at), sign > 0))
        return tuple(_without_ripples(found, self.error))

    @cached_property
    def highest(self) -> Extreme | None:
        """The largest local maximum: above it no start ends below the last branch.

        It is q = 0 where alpha(q) falls from there.
        """
        maxima = [e for e in self.extremes if e.is_maximum]
        if self.falls_from_zero:
            maxima.append(Extreme(self.start, 0.0, self.ends[0], True))
        return max(maxima, key=lambda e: e.alpha) if maxima else None

    @cached_property
    def falls_from_zero(self) -> bool:
        """Whether the first branch is unstable: a jump from q = 0."""
        if self.start in (0.0, np.inf):
            return self.start > 0
        if self.extremes:
            return not self.extremes[0].is_maximum
        return bool(self.log_alpha(self.ends[0]) > self.log_alpha(self.ends[1]) + FLAT)

    @property
    def supremum(self) -> float:
        """The sup of alpha(q): above it all starts lead to exact recovery."""
        return max(self.start, self.limit, self.highest.alpha if self.highest else 0.0)

    def roots(self, alpha: float) -> list[Root]:
        """Fixed points at alpha with q > 0 that are not limits, in order."""
        wanted = np.log(alpha)
        found = [self._polished(x, wanted, stable) for x, stable in self._crossings(wanted)]
        if self.prior.dimension == self._powers[1] == 0.0 and wanted >= self.log_alpha(
            self.ends[1]
        ):
            # m is constant where so little variance remains.
            precision = alpha * self.information(self.ends[1])
            q, variance = self.prior.estimate(precision)[:2]
            found.append(Root(float(q), float(variance), precision, True))
        return found

    def _crossings(self, wanted: float) -> list[tuple[float, bool]]:
        """Logarithms of precisions at which log alpha is `wanted`, and whether it rises there."""
        from scipy.optimize import brentq

        edges = [self.ends[0], *(e.log_precision for e in self.extremes), self.ends[1]]
        found = []
        for low, high in pairwise(edges):
            at_low, at_high = (float(self.log_alpha(x)) - wanted for x in (low, high))
            if at_low * at_high < 0:
                x = brentq(lambda p: float(self.log_alpha(p)) - wanted, low, high, xtol=1e-13)
                found.append((float(x), at_high > 0))
        return found

    def _polished(self, x: float, wanted: float, stable: bool) -> Root:
        """One Newton step with the channel in place of its fit."""
        step = 1e-5
        slope = float(self.log_alpha(x + step) - self.log_alpha(x - step)) / (2 * step)
        exact = x - np.log(self.information(x)) - wanted
        moved = exact / slope if abs(slope) > 1e-3 else 0.0
        x -= moved if abs(moved) < 1e-3 else 0.0
        estimate = self.prior.estimate(float(np.exp(x)))
        ends = float(estimate.overlap), float(estimate.variance)
        return Root(*ends, float(np.exp(x)), stable)

    def free_entropy(self, alpha: float, root: Root) -> float:
        """Phi at a fixed point."""
        out = self.channel.entropy(root.overlap, variance=root.variance)
        inner = float(self.prior.estimate(root.precision).entropy)
        return -0.5 * root.overlap * root.precision + inner + alpha * out

    def area(self, alpha: float, low: float, high: float) -> float:
        """Difference of free entropies between two logarithms of precisions."""
        edges = np.linspace(low, high, AREA_PANELS + 1)
        x, weight = panels(edges, AREA_ORDER)
        slope = self.prior.estimate(np.exp(x)).slope * np.exp(x)
        gain = alpha * np.exp(x - self.log_alpha(x)) - np.exp(x)
        total = 0.5 * float(weight @ (slope * gain))
        if high == self.ends[1]:  # m is close to V^(-1/2) beyond the end
            last = self.prior.estimate(float(np.exp(high)))
            total += alpha * float(np.exp(high - self.log_alpha(high))) * float(last.variance)
        return total

    @cached_property
    def equal_area(self) -> float:
        """The alpha at which the states on both sides of the largest jump have one free entropy.

        Where the upper state is exact recovery of continuous labels, its free entropy is infinite
        above `limit` and minus infinity below.
        """
        from scipy.optimize import brentq

        top = self.highest
        if top is None:
            return np.nan
        after = [e for e in self.extremes if e.overlap > top.overlap and not e.is_maximum]
        if not after and self.channel.density_share > ZERO:
            return self.limit
        before = [e.alpha for e in self.extremes if e.overlap < top.overlap and not e.is_maximum]
        lowest = max([after[0].alpha if after else self.limit, *before])

        def gain(alpha: float) -> float:
            states = [x for x, stable in self._crossings(np.log(alpha)) if stable]
            below = [x for x in states if x < top.log_precision]
            above = [x for x in states if x > top.log_precision]
            low, high = [self.ends[0], *below][-1], [*above, self.ends[1]][0]
            return self.area(alpha, low, high)

        ends = lowest * (1 + 1e-6) + 1e-6, min(top.alpha * (1 - 1e-6), LARGEST)
        return float(brentq(gain, *ends, xtol=1e-11)) if gain(ends[0]) < 0 else float(lowest)


def _without_ripples(found: list[Extreme], error: float) -> list[Extreme]:
    """Pairs of neighbours whose alpha differ by less than the error of the curve are none."""
    kept: list[Extreme] = []
    for extreme in found:
        if kept and abs(kept[-1].alpha / extreme.alpha - 1.0) < max(error, FLAT):
            kept.pop()
        else:
            kept.append(extreme)
    return kept

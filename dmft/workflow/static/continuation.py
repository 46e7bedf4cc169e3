"""Thresholds of labels of two and three fields: lines of fixed points, followed from both ends.

Equation    q = F(alpha m(q)) at a given tr q/k = t, with alpha unknown: alpha(t), as alpha(q) of
            one field; spinodals are its extremes
Valid for   the Gaussian prior; at equal free entropy -tr(q qhat)/2 + Psi_w + alpha Psi_out
Source      theory/static_limits (2), (4), (9), 3.5
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array, half_width
from dmft.gaussian.channels.several import Average, Several
from dmft.workflow.static.several_fields import (
    SURE,
    State,
    end_state,
    is_trivial,
    iterated,
    node_error,
    posterior_overlap,
    reached_from_ends,
    relative_error,
    with_finer_nodes,
)

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

# Points of a line in log t/(1 - t); Sobol points at each by the number of fields, and at extremes
# by whether the label is discrete.
LOGITS = np.concatenate([np.linspace(-4.5, -1.5, 7), np.linspace(-1.2, 5.1, 22)])
FEW, MANY = {2: 1024, 3: 512}, {2: {True: 8192, False: 16384}, 3: {True: 4096}}
# The same next to a turn of a line.
TURN = np.array([-0.12, -0.06, -0.03, 0.0, 0.03, 0.06, 0.12])
# A change of the overlap that is settled, and steps; overlaps of two lines that differ by less
# are one.
SETTLED, MOST_STEPS, SAME = 1e-4, 60, 2e-2
# Remaining variance, in units of the mean one, below which a direction is recovered exactly.
EXACT = 1e-4
# Depths of wells of log alpha(t) below this are ripples of the averages, as are those of labels
# that are not discrete in two fields.
RIPPLE, COARSE = 2e-3, 2e-2


class Fixed(NamedTuple):
    """A fixed point at a given trace: log alpha, overlap, averages."""

    log_alpha: float
    overlap: Array
    found: Average


class Extreme(NamedTuple):
    """A local extreme of alpha(t): alpha with its error, and t."""

    alpha: float
    error: float
    overlap: float
    is_maximum: bool


def _logit(t: float) -> float:
    return float(np.log(t / (1.0 - t)))


def _amount(m: Array, trace: float) -> float:
    """Log alpha at which tr F(alpha m) is a given trace; infinite where there is none."""
    from scipy.optimize import brentq

    values = np.maximum(np.linalg.eigvalsh(m), 0.0)
    if np.sum(values > 1e-12) <= trace:
        return np.inf

    def gap(x: float) -> float:
        return float(np.sum(1.0 - 1.0 / (1.0 + np.exp(x) * values))) - trace

    return float(brentq(gap, -40.0, 60.0, xtol=1e-13))


@dataclass(frozen=True, eq=False)
class Line:
    """Fixed points of one label by their trace, upwards from t = 0 or downwards from t = 1."""

    channel: Several
    upwards: bool
    turn: Extreme | None = None  # where other directions leave the line of the first ones

    @cached_property
    def logits(self) -> Array:
        """Places, denser where the line turns."""
        if self.turn is None:
            return LOGITS
        near = _logit(self.turn.overlap) + TURN
        # Splines through places that nearly coincide overshoot.
        apart = np.abs(LOGITS[:, None] - near).min(axis=1) > TURN[-1] / 4
        return np.sort([*LOGITS[apart], *near])

    def at(self, logit: float, start: Array, points: int) -> Fixed:
        """The fixed point of a given trace that the iteration reaches from a start."""
        k = self.channel.width
        trace, symmetric = k / (1.0 + np.exp(-logit)), np.eye(k)

        def image(m: Array) -> Array:
            x = _amount(m, trace)
            return posterior_overlap(np.exp(x) * m) if np.isfinite(x) else np.full((k, k), np.nan)

        def advance(q: Array) -> Array:
            return image(
                self.channel.symmetrised(self.channel.average(q, points).information, symmetric)
            )

        q = start * (trace / np.trace(start))
        if np.linalg.eigvalsh(q)[-1] >= 1.0:  # the way from the start to I
            part = (k - trace) / (k - np.trace(start))
            q = np.eye(k) - part * (np.eye(k) - start)
        if not self.is_scalar:
            q = iterated(advance, q, SETTLED, False, MOST_STEPS)
        found = self.channel.average(q, points)
        m = self.channel.symmetrised(found.information, symmetric)
        return Fixed(_amount(m, trace), q, found)

    @cached_property
    def is_scalar(self) -> bool:
        """Whether symmetries of the label leave multiples of I only."""
        tables = np.random.default_rng(0).normal(size=(8, *(self.channel.width,) * 2))
        k = np.eye(self.channel.width)
        found = (self.channel.symmetrised(t + t.T, k) for t in tables)
        return all(np.allclose(f, f[0, 0] * k) for f in found)

    @cached_property
    def fixed(self) -> tuple[Array, tuple[Fixed, ...]]:
        """Logits of t in ascending order, and the fixed points; as far as they are followed."""
        k = self.channel.width
        logits = self.logits if self.upwards else self.logits[::-1]
        at, found = [], []
        q = np.eye(k)
        for logit in logits:
            fixed = self.at(float(logit), q, FEW[k])
            rest = np.linalg.eigvalsh(np.eye(k) - fixed.overlap)
            if not (np.isfinite(fixed.log_alpha) and rest[0] > EXACT * rest.mean()):
                break
            at.append(float(logit))
            found.append(fixed)
            # A little of the identity: unstable solutions of less symmetry are left.
            # Below a turn the other directions are stable at zero overlap.
            part = 0.0 if self.turn and logit < _logit(self.turn.overlap) else 0.02
            q = (1 - part) * fixed.overlap + part * np.trace(fixed.overlap) / k * np.eye(k)
        order = slice(None, None, 1 if self.upwards else -1)
        return np.array(at)[order], tuple(found[order])

    @property
    def ripple(self) -> float:
        """Depth of wells in log alpha that its averages may make."""
        return RIPPLE if self.channel.is_discrete and self.channel.width == 2 else COARSE

    @property
    def many(self) -> int:
        """Sobol points at extremes."""
        return MANY[self.channel.width][self.channel.is_discrete]

    @property
    def is_complete(self) -> bool:
        """Whether the line was followed to its end."""
        return len(self.fixed[0]) == len(self.logits)

    @cached_property
    def spline(self) -> CubicSpline:
        """Log alpha by the logit."""
        from scipy.interpolate import CubicSpline

        x, fixed = self.fixed
        return CubicSpline(x, [f.log_alpha for f in fixed])

    def extremes(self, start: float) -> tuple[Extreme, ...]:
        """Local extremes with all points, those at ripples left out."""
        x, fixed = self.fixed
        places = np.sort(self.spline.derivative().roots(extrapolate=False))
        values = [np.log(start) if start > 0 else -np.inf, *self.spline(places)]
        channel = self.channel
        is_known = channel.identifies and not len(channel.atoms)  # the limit k of exact recovery
        values.append(np.log(channel.width) if is_known else float(self.spline(x[-1])))
        kept = list(range(len(places)))
        while kept:  # the shallowest pair of neighbours, while it is a ripple
            marks = [0, *(n + 1 for n in kept), len(values) - 1]
            up = 1 if self.spline(places[kept[0]], 2) < 0 else -1
            steps = up * np.diff([values[n] for n in marks]) * (-1.0) ** np.arange(len(marks) - 1)
            least = int(np.argmin(steps))
            if steps[least] > self.ripple:
                break
            kept = [n for i, n in enumerate(kept) if i + 1 not in (least, least + 1)]
        found = []
        for n in kept:
            is_maximum = bool(self.spline(places[n], 2) < 0)
            at = _logit(self.turn.overlap) if self.turn else np.inf
            if self.turn and is_maximum and abs(places[n] - at) < 2 * TURN[-1]:  # a kink
                found.append(self.turn)
                continue
            nearest = fixed[int(np.abs(x - places[n]).argmin())]
            finer = replace(self, channel=with_finer_nodes(self.channel))
            here = finer.at(float(places[n]), nearest.overlap, self.many)
            t = float(np.trace(here.overlap)) / self.channel.width
            alpha = float(np.exp(here.log_alpha))
            found.append(Extreme(alpha, alpha * self._relative(here), t, is_maximum))
        return resolved(found)

    def _relative(self, here: Fixed) -> float:
        """Relative error of alpha at a fixed point: that of tr(q (I - q) m) and of its nodes."""
        weight = here.overlap @ (np.eye(self.channel.width) - here.overlap)
        each = np.einsum("ij,rij->r", weight, here.found.tables)
        spread = float(half_width(each, SURE) / np.mean(each))
        return spread + node_error(self.channel, here.overlap)

    def crossings(self, log_alpha: float) -> tuple[Array, NDArray[np.bool_]]:
        """Logits at which alpha(t) has a value, and whether it rises there."""
        places = np.sort(self.spline.solve(log_alpha, extrapolate=False))
        return np.asarray(places), np.asarray(self.spline(places, 1) > 0)

    @cached_property
    def _entropies(self) -> CubicSpline:
        """Overlap and Psi_out by the logit."""
        from scipy.interpolate import CubicSpline

        x, fixed = self.fixed
        return CubicSpline(x, [[*f.overlap.ravel(), f.found.entropy] for f in fixed])

    def entropies(self, logit: float, points: int = 0) -> tuple[float, Array]:
        """Free entropy of a state of the line without alpha Psi_out, and Psi_out of scrambles.

        States are stationary, so that errors of the overlap count at second order.
        """
        k = self.channel.width
        *rows, outer = self._entropies(logit)
        q = np.reshape(rows, (k, k))
        inner = 0.5 * (np.trace(q) + np.linalg.slogdet(np.eye(k) - q)[1])
        logs = with_finer_nodes(self.channel).average(q, points).logs if points else outer
        return float(inner), np.asarray(logs)


def resolved(found: list[Extreme]) -> tuple[Extreme, ...]:
    """Extremes without wells that are not deeper than their errors, the shallowest first."""
    while len(found) > 1:
        depths = [
            (one.alpha - two.alpha) * (1 if one.is_maximum else -1) - one.error - two.error
            for one, two in pairwise(found)
        ]
        least = int(np.argmin(depths))
        if depths[least] > 0.0:
            break
        found = found[:least] + found[least + 2 :]
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Lines:
    """Both lines of a label, the thresholds on them, or why there are none."""

    channel: Several
    start: float  # limit of alpha(t) for t to 0: weak recovery
    turn: Extreme | None = None

    @cached_property
    def up(self) -> Line:
        """From t = 0."""
        found = line_of(self.channel)
        return found if found.is_scalar else replace(found, turn=self.turn)

    @cached_property
    def down(self) -> Line:
        """From t = 1: the same where both agree everywhere."""
        if self.up.is_scalar:
            return self.up
        found = replace(self.up, upwards=False)
        if not (self.up.is_complete and found.is_complete):
            return found
        pairs = zip(self.up.fixed[1], found.fixed[1], strict=True)
        same = all(np.abs(a.overlap - b.overlap).max() < SAME for a, b in pairs)
        return self.up if same else found

    @cached_property
    def missing(self) -> str:
        """Why there are no thresholds; empty if there are."""
        if self.channel.width > 2 and not self.channel.is_discrete:
            return (
                "thresholds beyond weak recovery are followed for discrete labels of three fields "
                "and for all of two: averages over labels with a density of three fields are too "
                "inaccurate"
            )
        exact = not (self.channel.is_discrete or self.channel.noise or self.channel.identifies)
        if exact or not (self.up.is_complete and self.down.is_complete):
            return (
                "some directions are recovered exactly before others, or never: thresholds beyond "
                "weak recovery are not followed past that; dmft.bayes_optimal computes overlaps"
            )
        return ""

    @cached_property
    def extremes(self) -> tuple[Extreme, ...]:
        """Of both lines, by overlap."""
        lines = [self.up] if self.down is self.up else [self.up, self.down]
        found = [e for line in lines for e in line.extremes(self.start)]
        return tuple(sorted(found, key=lambda e: e.overlap))

    @cached_property
    def highest(self) -> Extreme | None:
        """The largest local maximum on the way up: above it AMP reaches the last branch."""
        extremes = self.up.extremes(self.start)
        found = [e for e in extremes if e.is_maximum]
        if self.start == np.inf or (self.start > 0 and self._falls(extremes)):
            found.append(Extreme(self.start, 0.0, 0.0, True))
        return max(found, key=lambda e: e.alpha) if found else None

    def _falls(self, extremes: tuple[Extreme, ...]) -> bool:
        """Whether alpha(t) falls from t = 0."""
        if extremes:
            return not extremes[0].is_maximum
        top = self.up.fixed[1][-1].log_alpha
        return bool(np.log(self.start) > top + self.up.ripple)

    @cached_property
    def equal_entropy(self) -> Extreme | None:
        """Where the states on both sides of the largest jump have one free entropy."""
        from scipy.optimize import brentq

        top = self.highest
        if top is None:
            return None
        after = [e for e in self.extremes if e.overlap > top.overlap and not e.is_maximum]
        if not after:
            return None
        t = after[-1].overlap
        low = float(self.down.spline(np.log(t / (1.0 - t))))
        high = min(np.log(top.alpha), self.down.fixed[1][-1].log_alpha)

        def gains(x: float, points: int = 0) -> tuple[float, Array]:
            above, below = self._above(x, points), self._below(x, points)
            return above[0] - below[0], above[1] - below[1]

        def gain(x: float) -> float:
            inner, logs = gains(x)
            return inner + float(np.exp(x) * logs)

        ends = low + 1e-3 * (high - low), high - 1e-3 * (high - low)
        if gain(ends[0]) >= 0:
            return after[-1]
        if gain(ends[1]) <= 0:  # the loop is too flat for these entropies, and holds the crossing
            middle, half = 0.5 * (top.alpha + np.exp(low)), 0.5 * (top.alpha - np.exp(low))
            return Extreme(middle, half + top.error, np.nan, False)
        x = float(brentq(gain, *ends, xtol=1e-6, rtol=1e-12))
        for _ in range(2):  # d gain/d alpha = Psi_out above less below
            inner, logs = gains(x, self.up.many)
            alpha, last = -inner / float(logs.mean()), float(np.exp(x))
            x = float(np.clip(np.log(alpha), *ends))
        relative = float(half_width(logs, SURE) / logs.mean()) + abs(alpha / last - 1.0)
        return Extreme(alpha, alpha * relative + after[-1].error, np.nan, False)

    def _above(self, log_alpha: float, points: int) -> tuple[float, Array]:
        """Parts of the free entropy of the last stable state."""
        places, rising = self.down.crossings(log_alpha)
        return self.down.entropies(float(places[rising][-1]), points)

    def _below(self, log_alpha: float, points: int) -> tuple[float, Array]:
        """The same of the first stable state."""
        places, rising = self.up.crossings(log_alpha)
        if np.exp(log_alpha) < self.start or not rising.any():
            nothing = np.zeros((self.channel.width,) * 2)
            return 0.0, np.asarray(self.channel.average(nothing, 64).entropy)
        return self.up.entropies(float(places[rising][0]), points)


@lru_cache(maxsize=16)
def line_of(channel: Several) -> Line:
    """The line from t = 0 of a channel; kept, since it serves every alpha."""
    return Line(channel, upwards=True)


def states(channel: Several, alpha: float) -> list[State]:
    """Stable fixed points by overlap: from the line where symmetries leave q I, or from ends."""
    line, k = line_of(channel), channel.width
    if not line.is_scalar or (k > 2 and not channel.is_discrete):
        return reached_from_ends(channel, alpha)
    places, rising = line.crossings(float(np.log(alpha)))
    # Labels without atoms that identify all fields are recovered exactly above k.
    exact = alpha > k and not len(channel.atoms) and channel.identifies
    if not (rising.any() or exact) or (len(rising) and not rising[-1] and not exact):
        return reached_from_ends(channel, alpha)
    found = [_state(line, alpha, float(x)) for x in places[rising]]
    if not is_trivial(channel):
        zero = end_state(channel, alpha, np.zeros((k, k)))
        found = [zero, *found] if zero.stable else found
    return [*found, end_state(channel, alpha, np.eye(k))] if exact else found


def _state(line: Line, alpha: float, logit: float) -> State:
    """The state at a crossing, moved to where averages with all points cross."""
    channel, slope = line.channel, float(line.spline(logit, 1))
    for _ in range(2):
        t = 1.0 / (1.0 + np.exp(-logit))
        found = channel.average(t * np.eye(channel.width))
        m = float(np.trace(found.information)) / channel.width
        gap = logit - np.log(m * alpha)
        logit -= gap / slope
    relative = relative_error(channel, t * np.eye(channel.width), found)
    q = np.eye(channel.width) / (1.0 + np.exp(-logit))
    precision = np.eye(channel.width) * np.exp(logit)
    error = float(min(t * (1.0 - t) * (relative + abs(gap)) / slope, 1.0))
    return State(q, precision, error, found.entropy, True)

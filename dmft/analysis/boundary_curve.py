"""Following one boundary through the plane: predict along it, correct across it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from dmft.analysis.plane import Change, Label, Plane, find_change, in_square
from dmft.arrays import Array

# Points of which the next one is extrapolated, and by a polynomial of which order: brackets leave
# noise, which more points than needed average.
MEMORY, ORDER = 5, 3
# Part of a step by which a prediction may miss.
SHARP = 0.03
# The same for labels, in tolerances.
FINE = 60.0
# Points around the first one of a curve, and around one where no step leads further.
SPOKES = 8
# Radii of the latter, in smallest steps: a curve stops less than the first before what stops it.
RINGS = (4.0, 16.0)
# Corners that a walk passes before it is lost.
CORNERS = 16
# A curve that meets a wall at a smaller angle is followed along it.
GRAZING = 0.05
# The bracket around a prediction, in units of the error of the last one.
CAUTION = 3.0
# In tolerances.
SMALLEST_STEP = 30.0
MOST_POINTS = 4000
# End of a curve that was being followed at Ctrl-C.
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Trace:
    """Points of one curve in the unit square."""

    points: Array
    error: Array
    labels: tuple[Label, Label]
    closed: bool
    ends: tuple[str, str]


@dataclass
class _Walk:
    """One direction of a curve."""

    plane: Plane
    # Left and right of the direction of the walk.
    labels: tuple[Label, Label]
    points: list[Array]
    errors: list[float]
    tol: float
    step: float
    reason: str = ""
    # Of the last prediction: by how much the curve passed to its left, by how much that was not
    # foreseen, and the step.
    bias: float = 0.0
    miss: float = math.nan
    last: float = math.nan
    # Whether the last step that failed met another label, or a change of sign without a zero.
    near_third: bool = False
    broken: str = ""
    # Of the values across the curve at its last point.
    slope: float = math.nan
    # Where the last smooth piece began, and how many corners there were.
    begin: int = 0
    corners: int = 0

    def run(self, start: Array) -> None:
        """Walk until the curve ends, leaves the square or comes back to `start`."""
        size = self.step / 4
        while not self.reason and len(self.points) < MOST_POINTS:
            change = self.advance(size)
            if change is None:
                size, self.miss = size / 4, math.nan
                if size < smallest_step(self.tol, self.step) and not self.reason:
                    size = self.turn()
                    if not self.reason and self.came_back(start):
                        self.reason = "closed"
                continue
            self.take(change)
            # Where the curve bends more than foreseen the next step is shorter; halving a bracket
            # costs more than a secant, so that labels are followed with smaller steps.
            signed = math.isfinite(change.slope)
            bend = max(self.miss / (SHARP * size if signed else FINE * self.tol), 1e-3)
            size = min(self.step, size * float(np.clip(bend ** (-1 / ORDER), 0.3, 2.0)))
            if self.came_back(start):
                self.reason = "closed"
        self.reason = self.reason or "lost"

    def take(self, change: Change) -> None:
        """Add a point to the curve."""
        self.points.append(change.point)
        self.errors.append(change.half_width)
        if not math.isnan(change.slope):
            self.slope = change.slope

    def turn(self) -> float:
        """Pass a corner, the first step behind it is returned; or say why the curve ends here."""
        centre, smallest = self.points[-1], smallest_step(self.tol, self.step)
        if is_at_wall(centre, smallest):
            self.reason = "edge"
        elif self.broken or self.near_third:
            self.reason = self.broken or "triple point"
        for radius in (ring * smallest for ring in RINGS):
            if self.reason:
                break
            places, labels = self.around(centre, radius)
            ahead = self.ahead(labels)
            if not set(labels) <= set(self.labels):
                self.reason = "triple point"
            elif len(ahead) > 1:
                self.reason = "crossing"
            elif ahead and self.corners < CORNERS:
                change = find_change(self.plane, places[ahead[0]], places[ahead[0] + 1], self.tol)
                if change.kind or set(change.labels) != set(self.labels):
                    self.reason = change.kind or "triple point"
                    break
                self.begin, self.corners = len(self.points) - 1, self.corners + 1
                self.bias, self.miss, self.last = 0.0, math.nan, math.nan
                self.take(change)
                return radius
        self.reason = self.reason or "lost"
        return smallest

    def around(self, centre: Array, radius: float) -> tuple[list[Array], list[Label]]:
        """Places on a circle, as far as it lies in the square, and their labels; closed."""
        angles = math.pi * (np.arange(SPOKES) + 0.5) * 2 / SPOKES
        places = [in_square(centre + radius * np.array([math.cos(a), math.sin(a)])) for a in angles]
        labels = [seen.label for seen in self.plane.all_at(places)]
        return [*places, places[0]], [*labels, labels[0]]

    def ahead(self, labels: list[Label]) -> list[int]:
        """Where a circle goes from the right to the left of the walk: counterclockwise, ahead."""
        pairs = itertools.pairwise(labels)
        return [n for n, pair in enumerate(pairs) if pair == self.labels[::-1]]

    def came_back(self, start: Array) -> bool:
        """Whether the last step passed the start of the whole curve."""
        if len(self.points) < 6:
            return False
        p, q = self.points[-2], self.points[-1]
        along = q - p
        length = float(along @ along)
        part = float((start - p) @ along) / length
        if not 0.0 < part <= 1.0:
            return False
        return float(np.linalg.norm(p + part * along - start)) < 0.5 * math.sqrt(length)

    def advance(self, size: float) -> Change | None:
        """Next point about `size` further on; None where the bracket does not hold."""
        guess, tangent = self.predict(size)
        normal = np.array([-tangent[1], tangent[0]])  # to the left
        # Smooth curves turn away from their extrapolation as they did before.
        ratio = size / self.last
        foreseen = self.bias * ratio ** (ORDER + 1) if ratio < 1.3 else 0.0
        guess = guess + foreseen * normal
        outside = _exit_fraction(self.points[-1], guess)
        if outside is not None:
            part, wall = outside
            if abs(float(normal @ wall)) < GRAZING:  # along the wall itself
                guess, outside = in_square(guess), None
            else:
                guess = in_square(self.points[-1] + part * (guess - self.points[-1]))
                normal = wall * math.copysign(1.0, float(normal @ wall))
        self.near_third, self.broken = False, ""
        change = self.correct(guess, normal, self.radius(size), 1.01 * size)
        if change is None:
            return None
        beside = float((change.point - guess) @ normal)
        self.bias, self.miss, self.last = beside + foreseen, abs(beside), size
        if outside is not None:
            self.take(change)
            self.reason = "edge"
            return None
        return change

    def predict(self, size: float) -> tuple[Array, Array]:
        """Extrapolated point and tangent, by a polynomial in the length of the chords."""
        recent = np.array(self.points[max(self.begin, len(self.points) - MEMORY) :])
        chords = np.linalg.norm(np.diff(recent, axis=0), axis=1)
        where = np.concatenate([[0.0], np.cumsum(chords)]) - chords.sum()
        order = min(len(recent) - 1, ORDER)
        guess, tangent = np.empty(2), np.empty(2)
        for i in (0, 1):
            fit = np.polynomial.Polynomial.fit(where, recent[:, i], order)
            guess[i], tangent[i] = fit(size), fit.deriv()(size)
        return guess, tangent / np.linalg.norm(tangent)

    def radius(self, size: float) -> float:
        """Half-width of the first bracket across the prediction."""
        if math.isnan(self.miss):
            return size / 4
        count = len(self.points) - self.begin
        expected = self.miss * max(1.0, (size / self.last) ** min(count, ORDER + 1))
        return float(np.clip(CAUTION * expected, min(4 * self.tol, size / 4), size / 4))

    def correct(self, guess: Array, normal: Array, radius: float, limit: float) -> Change | None:
        """Bracket the curve across the prediction, and solve."""
        left, right = self.labels
        ends = [in_square(guess - radius * normal), in_square(guess + radius * normal)]
        while (here := tuple(self.plane.at(end).label for end in ends)) != (right, left):
            if any(label not in self.labels for label in here):
                self.near_third = True
                return None
            radius *= 4
            if radius > limit:
                return None
            # Both on one side: go on in the direction of the other label.
            if here == (right, right):
                ends = [ends[1], in_square(guess + radius * normal)]
            elif here == (left, left):
                ends = [in_square(guess - radius * normal), ends[0]]
            else:
                return None
        change = find_change(self.plane, ends[0], ends[1], self.tol, self.slope)
        if change.kind:
            self.broken = change.kind
            return None
        return change if set(change.labels) == {left, right} else None


def is_at_wall(point: Array, distance: float) -> bool:
    """Whether a wall of the square is nearer than this."""
    return float(np.min(np.minimum(point, 1.0 - point))) < distance


def smallest_step(tol: float, step: float) -> float:
    """Steps below this are not tried: the curve has a corner there, or ends."""
    return min(SMALLEST_STEP * tol, step / 32)


def trace_curve(plane: Plane, change: Change, tol: float, step: float) -> Trace:
    """Follow the curve through a change in both directions."""
    walks: list[_Walk] = []
    for sides in (change.labels, change.labels[::-1]):
        walk = _Walk(plane, sides, [], [], tol, step)
        walk.take(change)
        try:
            if _first_step(walk, step / 4):
                walk.run(change.point)
        except KeyboardInterrupt:
            walk.reason = INTERRUPTED
        walks.append(walk)
        if walk.reason in ("closed", INTERRUPTED):
            break
    forward = walks[0]
    points, errors = forward.points, forward.errors
    ends = (forward.reason, forward.reason)
    if len(walks) == 2:
        points = [*reversed(walks[1].points[1:]), *points]
        errors = [*reversed(walks[1].errors[1:]), *errors]
        ends = (walks[1].reason, forward.reason)
    elif forward.reason == "closed":
        points, errors = [*points[:-1], points[0]], [*errors[:-1], errors[0]]
    rows = np.array(points)
    return Trace(rows, np.array(errors), forward.labels, forward.reason == "closed", ends)


def _first_step(walk: _Walk, radius: float) -> bool:
    """Find the second point on a circle around the first one that no other curve crosses."""
    centre, smallest = walk.points[0], smallest_step(walk.tol, walk.step)
    beside: set[Label] = set()
    while radius > smallest:
        places, labels = walk.around(centre, radius)
        ahead = walk.ahead(labels)
        changes = sum(a != b for a, b in itertools.pairwise(labels))
        if ahead and (changes == 2 or radius < 4 * smallest):
            change = find_change(walk.plane, places[ahead[0]], places[ahead[0] + 1], walk.tol)
            walk.broken = change.kind
            if not change.kind and set(change.labels) == set(walk.labels):
                if np.linalg.norm(change.point - centre) < 4 * walk.tol:  # the curve leaves here
                    break
                walk.take(change)
                return True
        radius, beside = radius / 4, set(labels) - set(walk.labels)
    walk.reason = walk.broken or ("triple point" if beside else "lost")
    if is_at_wall(centre, smallest):
        walk.reason = "edge"
    return False


def _exit_fraction(begin: Array, end: Array) -> tuple[float, Array] | None:
    """Part of the way at which the unit square is left, and the direction of that wall."""
    best: tuple[float, Array] | None = None
    for i in (0, 1):
        for wall in (0.0, 1.0):
            if (end[i] - wall) * (0.5 - wall) < 0.0:  # behind the wall
                part = float((wall - begin[i]) / (end[i] - begin[i]))
                if best is None or part < best[0]:
                    best = part, np.eye(2)[1 - i]
    return best

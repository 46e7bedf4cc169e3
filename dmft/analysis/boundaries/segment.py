"""Where the label of a plane changes along a segment: secants where it has values, else halves.

A sign changes at a zero, but also where values jump or go through a pole. A zero is told by what
the values do in the last bracket: they shrink with it. Where they are steeper than the segment, or
the curve so far, lets expect, the bracket is halved until this is seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dmft.analysis.boundaries.plane import Label, Plane, Point, Seen

# Steeper by this factor than expected: looked at more closely.
STEEPER = 4.0
# Halvings of the bracket then, and the part of their change that values of a zero keep at most: a
# zero of x^(1/5) passes, and a step as wide as a thousandth of the bracket.
HALVINGS, KEPT = 10, 0.25
# What the values do where a sign changes without a zero.
JUMP, POLE = "jump", "pole"


@dataclass(frozen=True)
class Change:
    """Where the label changes along a segment: the middle of the last bracket.

    `half_width` is that of the bracket; `labels` are those before and after; `slope` is d value / d
    length, nan for labels. Where the sign changes without a zero, `kind` is "jump", with the
    `values` on both sides, or "pole".
    """

    point: Point
    half_width: float
    labels: tuple[Label, Label]
    slope: float
    kind: str = ""
    values: tuple[float, float] = (math.nan, math.nan)


class _UnsignedError(Exception):
    """A value inside a bracket is no number."""


def find_change(
    plane: Plane, begin: Point, end: Point, tol: float, expected: float = math.nan
) -> Change:
    """Shrink a segment whose ends have different labels until the bracket is below 2 tol.

    With several changes on the way it is one of them. Signed values are solved for by
    `scipy.optimize.toms748`, labels by halving, and so are values that vanish in whole regions.
    `expected` is the slope at a point of the same curve; by default that of the whole segment.
    """
    if math.isnan(expected):
        expected = (plane.at(end).value - plane.at(begin).value) / float(
            np.linalg.norm(end - begin)
        )
    if float(np.linalg.norm(end - begin)) <= 2.0 * tol:
        labels = (plane.at(begin).label, plane.at(end).label)
        found = Change(0.5 * (begin + end), tol, labels, math.nan)
    else:
        found = _shrink(plane, begin, end, tol)
    return _judged(plane, found, begin, end, tol, abs(expected))


def _judged(
    plane: Plane, found: Change, begin: Point, end: Point, tol: float, expected: float
) -> Change:
    """The same change, with its kind where it is a change of sign without a zero."""
    if set(found.labels) != {"-", "+"}:
        return found
    direction = (end - begin) / np.linalg.norm(end - begin)
    change = abs(found.slope) * 2.0 * found.half_width
    if math.isnan(found.slope):  # from labels alone
        before, behind = (
            plane.at(in_square(found.point + s * found.half_width * direction)) for s in (-1, 1)
        )
        change = abs(behind.value - before.value)
        if math.isnan(change):
            return found
    if change <= STEEPER * expected * 2.0 * tol < math.inf:
        return found
    low, high = (in_square(found.point + s * tol * direction) for s in (-1, 1))
    kind, values = _kind(plane, low, high)
    return replace(found, kind=kind, values=values) if kind else found


def _kind(plane: Plane, low: Point, high: Point) -> tuple[str, tuple[float, float]]:
    """What values do between two points with different signs, and what they are there."""
    ends = [plane.at(low), plane.at(high)]
    values = (ends[0].value, ends[1].value)
    if ends[0].label == ends[1].label or not {ends[0].label, ends[1].label} <= {"-", "+"}:
        return "", values
    if 0.0 in values:  # the border of a region in which all values vanish
        return "", values
    first = abs(values[1] - values[0])
    if not math.isfinite(first):
        return POLE, values
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if np.array_equal(middle, low) or np.array_equal(middle, high):
            break
        seen = plane.at(middle)
        if not math.isfinite(seen.value):  # 1/0
            return POLE, values
        if seen.label == ends[0].label:
            low, ends[0] = middle, seen
        else:
            high, ends[1] = middle, seen
    last = abs(ends[1].value - ends[0].value)
    if last <= KEPT * first:
        return "", values
    return POLE if last > first / KEPT else JUMP, values


def in_square(point: Point) -> Point:
    """The nearest point of the unit square: the measure is asked for nothing outside its ranges."""
    return np.clip(point, 0.0, 1.0)


def _shrink(plane: Plane, begin: Point, end: Point, tol: float) -> Change:
    length = float(np.linalg.norm(end - begin))
    direction = (end - begin) / length
    ends = (plane.at(begin), plane.at(end))

    def place(position: float) -> Point:
        if position in (0.0, length):
            return begin if position == 0.0 else end
        return np.asarray(begin + position * direction)

    low, high, slope = 0.0, length, math.nan
    if all(math.isfinite(seen.value) for seen in ends) and ends[0].label != ends[1].label:
        try:
            return _signed_change(plane, place, ends, length, tol)
        except _UnsignedError:
            pass
    labels = [ends[0].label, ends[1].label]
    while high - low > 2.0 * tol:
        middle = 0.5 * (low + high)
        label = plane.at(place(middle)).label
        if label == labels[0]:
            low = middle
        else:  # the first change, where a third label stands between
            high, labels[1] = middle, label
    return Change(place(0.5 * (low + high)), 0.5 * (high - low), (labels[0], labels[1]), slope)


def _signed_change(
    plane: Plane,
    place: Callable[[float], Point],
    ends: tuple[Seen, Seen],
    length: float,
    tol: float,
) -> Change:
    from scipy.optimize import toms748

    tried: dict[float, float] = {0.0: ends[0].value, length: ends[1].value}

    def value(position: float) -> float:
        if position not in tried:
            tried[position] = plane.at(place(position)).value
        if not math.isfinite(tried[position]):
            raise _UnsignedError
        return tried[position]

    zeros = [position for position, at_end in tried.items() if at_end == 0.0]
    root = zeros[0] if zeros else float(toms748(value, 0.0, length, xtol=tol, rtol=1e-15))
    if tried.get(root) == 0.0:  # the label of negative values; is the change here?
        beyond = root + math.copysign(0.5 * tol, ends[1].value - ends[0].value)
        if not 0.0 <= beyond <= length or value(beyond) <= 0.0:
            raise _UnsignedError
        labels, slope = (ends[0].label, ends[1].label), value(beyond) / (beyond - root)
        return Change(place(root), 0.5 * tol, labels, slope)
    behind = min((p for p in tried if p >= root and _same(tried[p], ends[1].value)), default=length)
    before = max((p for p in tried if p <= root and _same(tried[p], ends[0].value)), default=0.0)
    width = behind - before
    slope = (tried[behind] - tried[before]) / width if width > 0 else math.nan
    return Change(
        place(root), max(root - before, behind - root), (ends[0].label, ends[1].label), slope
    )


def _same(one: float, other: float) -> bool:
    return (one > 0.0) == (other > 0.0)

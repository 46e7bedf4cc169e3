"""Where the label of a plane changes along a segment: secants where it has values, else halves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dmft.analysis.plane import Label, Plane, Point, Seen


@dataclass(frozen=True)
class Change:
    """Where the label changes along a segment.

    Attributes
    ----------
    point : (2,) array
        Middle of the last bracket.
    half_width : float
        Of the last bracket, along the segment.
    labels : tuple
        Before and behind.
    slope : float
        d value / d length there; nan for labels.
    """

    point: Point
    half_width: float
    labels: tuple[Label, Label]
    slope: float


class _UnsignedError(Exception):
    """A value inside a bracket is no number."""


def find_change(plane: Plane, begin: Point, end: Point, tol: float) -> Change:
    """Shrink a segment whose ends have different labels until the bracket is below 2 tol.

    With several changes on the way it is one of them. Signed values are solved for by
    `scipy.optimize.toms748`, labels by halving, and so are values that vanish in whole regions.
    """
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

"""A measure of two parameters on the unit square, and where its label changes along a segment.

It is asked in threads, counted, never asked twice. On a segment: secants where there are values,
else halves. A sign changes at a zero, but also where values jump or go through a pole. A zero is
told by what the values do in the last bracket: they shrink with it. Where they are steeper than the
segment, or the curve so far, lets expect, the bracket is halved until this is seen.
"""

from __future__ import annotations

import contextvars
import json
import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.phase_diagram import STATUSES, is_point_failure
from dmft.analysis.sweeps.records import record_type
from dmft.analysis.sweeps.store import Store
from dmft.analysis.sweeps.sweep import as_points
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.progress import CANCELLED, is_cancelled
from dmft.solvers.jobs import thread_count

Point = NDArray[np.float64]
Label = str | int | bool
# Label of points at which the measure is no number.
FAILED = "failed"


@dataclass(frozen=True)
class Seen:
    """Label of a point, and the value of which it is the sign; nan for labels alone."""

    label: Label
    value: float = math.nan
    # Why it failed.
    message: str = ""


def read_label(result: Any) -> Seen:
    """Label of what a measure returned: the sign of a float, or the thing itself."""
    if isinstance(result, Seen):
        return result
    if isinstance(result, str):  # Status too
        return Seen(str(result))
    if isinstance(result, bool | np.bool_):
        return Seen(bool(result))
    if isinstance(result, int | np.integer):
        return Seen(int(result))
    if isinstance(result, tuple):  # (number, status)
        return read_label(float(result[0])) if str(result[1]) in ("ok", "event") else Seen(FAILED)
    try:
        value = float(result)
    except (TypeError, ValueError) as error:
        raise BadParameter(
            f"a boundary needs a signed number or a label (str, int, bool), got {result!r:.80}"
        ) from error
    if math.isnan(value):
        return Seen(FAILED)
    return Seen("+" if value > 0.0 else "-", value)


@dataclass
class PlaneStore:
    """Points of a plane on disk, by their parameters: what was asked once is not asked again.

    A label stands as text beside its record; that of a signed value is the sign.
    """

    store: Store
    names: tuple[str, str]
    known: dict[tuple[int, int], Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        contents = self.store.read()
        for record in contents.records:
            key, value = (int(record["high"]), int(record["low"])), float(record["values"][0])
            text = contents.messages.get(key)
            if text is not None:
                label, message = json.loads(text)
                self.known[key] = Seen(label, value, message)
            elif not math.isnan(value):
                self.known[key] = read_label(value)

    def key(self, x: float, y: float) -> NDArray[Any]:
        """Key of a point, (1,)."""
        return as_points([dict(zip(self.names, (x, y), strict=True))]).keys(np.zeros(1, np.int64))

    def get(self, x: float, y: float) -> Seen | None:
        """What is known of a point."""
        (key,) = self.key(x, y)
        return self.known.get((int(key["high"]), int(key["low"])))

    def put(self, x: float, y: float, seen: Seen) -> None:
        """Write a point; it is on the disk when this returns."""
        (key,) = self.key(x, y)
        record = np.zeros(1, dtype=record_type(("value",)))
        record["high"], record["low"] = key["high"], key["low"]
        record["values"], record["horizon"] = seen.value, math.nan
        record["status"] = STATUSES.index(Status.NONFINITE if seen.label == FAILED else Status.OK)
        signed = not math.isnan(seen.value)
        text = json.dumps([seen.label, seen.message])
        words = {} if signed else {(int(key["high"]), int(key["low"])): text}
        self.store.append(record, words)


class Plane:
    """A measure on the unit square; a context that owns the threads in which it is asked.

    All questions are asked in threads, so that Ctrl-C arrives here and not in a solver, which would
    return a run that is cut short. Arithmetic that fails at a point is the label "failed".
    """

    def __init__(
        self,
        measure: Callable[[float, float], Any],
        to_parameters: Callable[[Point], tuple[float, float]],
        *,
        threads: int | None = None,
        store: PlaneStore | None = None,
    ) -> None:
        self.measure, self.to_parameters, self.store = measure, to_parameters, store
        self.solves, self.stored = 0, 0
        # Called after each question to the measure at a single point.
        self.told: Callable[[], None] = lambda: None
        self.known: dict[tuple[float, float], Seen] = {}
        self.pool = ThreadPoolExecutor(thread_count(threads))
        self.cancel = threading.Event()
        self.context = contextvars.copy_context()
        self.context.run(CANCELLED.set, self.cancel)

    def __enter__(self) -> Plane:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.cancel.set()
        self.pool.shutdown(wait=True, cancel_futures=True)

    def at(self, point: Point) -> Seen:
        """Label at a point of the square."""
        before = self.solves
        (seen,) = self.all_at([point])
        if self.solves > before:
            self.told()
        return seen

    def all_at(
        self, points: Iterable[Point], told: Callable[[int], None] = lambda n: None
    ) -> list[Seen]:
        """Labels at many points, several at a time; `told` hears how many are there."""
        places = [(float(p[0]), float(p[1])) for p in points]
        try:
            flying = {
                p: self.pool.submit(self.context.copy().run, self._evaluate, p)
                for p in dict.fromkeys(places)
                if not self._knows(p)
            }
            for n, (place, future) in enumerate(flying.items()):
                self.known[place] = future.result()
                self.solves += 1
                told(n + 1)
        except KeyboardInterrupt:
            self.cancel.set()
            raise
        return [self.known[place] for place in places]

    @property
    def failures(self) -> str:
        """How many points failed, and what the first of them said."""
        failed = [(place, seen) for place, seen in self.known.items() if seen.label == FAILED]
        if not failed:
            return ""
        place, seen = next(((p, s) for p, s in failed if s.message), failed[0])
        x, y = self.to_parameters(np.array(place))
        return f'{len(failed)} points are not numbers (label "{FAILED}")' + (
            f", at ({x:g}, {y:g}): {seen.message}" if seen.message else ""
        )

    def _knows(self, place: tuple[float, float]) -> bool:
        if place not in self.known and self.store is not None:
            found = self.store.get(*self.to_parameters(np.array(place)))
            if found is not None:
                self.known[place] = found
                self.stored += 1
        return place in self.known

    def _evaluate(self, place: tuple[float, float]) -> Seen:
        """Runs in a thread; a stored point is on the disk when this returns."""
        x, y = self.to_parameters(np.array(place))
        if is_cancelled():
            raise KeyboardInterrupt
        try:
            seen = read_label(self.measure(x, y))
        except Exception as failure:
            if not is_point_failure(failure):
                failure.add_note(f"at the point ({x!r}, {y!r})")
                raise
            seen = Seen(FAILED, message=f"{type(failure).__name__}: {failure}")
        if is_cancelled():  # a run that was cut short may have been read as if it were whole
            raise KeyboardInterrupt
        if self.store is not None:
            self.store.put(x, y, seen)
        return seen


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

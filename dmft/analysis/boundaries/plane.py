"""A measure of two parameters on the unit square: asked in threads, counted, never asked twice."""

from __future__ import annotations

import contextvars
import json
import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.diagrams.phase_diagram import STATUSES, is_point_failure
from dmft.analysis.sweeps.points import as_points
from dmft.analysis.sweeps.records import record_type
from dmft.analysis.sweeps.store import Store
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

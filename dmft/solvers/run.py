"""What a caller hands to a solver, checked; what integrators take and give; saved points."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter, ShapeMismatch
from dmft.names import Status
from dmft.progress import ProgressOption
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.runge_kutta.layout import OBSERVABLE, STATE, Events
from dmft.validation import is_array, is_whole, shown

# Entries that Python looks at faster than NumPy does.
FEW = 32


def check_names(names: Sequence[str], given: Mapping[str, Any], what: str) -> Sequence[str]:
    """Names that a problem has, when all of them are given, finite, and no other."""
    if given.keys() != set(names):
        missing = [name for name in names if name not in given]
        unknown = [name for name in given if name not in names]
        raise BadParameter(
            f"{what}s of this problem: {list(names)}; missing {missing}, unknown {unknown}"
        )
    for name in names:
        if not math.isfinite(float(given[name])):
            raise BadParameter(f"{what} {name} = {given[name]!r} is not a finite number")
    return names


def filled(
    problem: Problem,
    widths: Mapping[str, int],
    parameters: Mapping[str, float] | None,
    constants: Mapping[str, ArrayLike] | None,
) -> tuple[dict[str, int], dict[str, float], dict[str, NDArray[np.float64]]]:
    """Widths, scalars and constant arrays of a problem, checked."""
    names = {name: int(widths[name]) for name in check_names(problem.widths, widths, "width")}
    given = parameters or {}
    scalars = {n: float(given[n]) for n in check_names(problem.parameters, given, "parameter")}
    return names, scalars, check_blocks(problem.constants, constants or {}, names, "constant")


def check_blocks(
    layout: tuple[Block, ...], given: Mapping[str, ArrayLike], widths: Mapping[str, int], what: str
) -> dict[str, NDArray[np.float64]]:
    """Own copies of the blocks of a layout, when shapes and values are right and none is left."""
    expected = [block.name for block in layout]
    if given.keys() != set(expected):
        missing = [name for name in expected if name not in given]
        unknown = [name for name in given if name not in expected]
        found = f"missing {missing}" if missing else f"unknown {unknown}"
        raise BadParameter(f"{what} blocks of this problem: {expected}; {found}")
    arrays = {}
    for block in layout:
        array = np.array(given[block.name], dtype=np.float64)
        shape = block.shape(widths)
        if array.shape != shape:
            raise ShapeMismatch(f"{block.name} has shape {array.shape}, expected {shape}")
        if not all_finite(array):
            raise BadParameter(
                f"{block.name} contains a value that is not finite: {array.tolist()}"
            )
        arrays[block.name] = array
    return arrays


def all_finite(array: NDArray[np.float64]) -> bool:
    """Whether no entry is nan or infinite; of few entries, without NumPy's 5 us for a reduction."""
    if array.size > FEW:
        return bool(np.isfinite(array).all())
    return all(map(math.isfinite, array.ravel().tolist()))


def check_events(events: Event | Sequence[Event]) -> tuple[Event, ...]:
    """One event or several; anything else is refused with an example."""
    found = (events,) if isinstance(events, Event) else tuple(events)
    for event in found:
        if not isinstance(event, Event):
            raise BadParameter(
                f'events are dmft.Event records, as dmft.Event("risk", 0.1); got {event!r}'
            )
    return found


# Numbers of points that an array of times holds: 0.8 GB.
MOST_POINTS = 10**8


def read_save_at(save_at: int | ArrayLike) -> int | NDArray[np.float64]:
    """A number of points from 2 on, or times that increase strictly."""
    if is_whole(save_at) and np.ndim(save_at) == 0:
        count = int(save_at)  # type: ignore[arg-type]
        if not 2 <= count <= MOST_POINTS:
            raise BadParameter(
                f"save_at = {shown(save_at)} points: it must be at least 2 (the start and the "
                f"end) and at most {MOST_POINTS:.0e} (memory)"
            )
        return count
    if is_array(save_at) and not np.iscomplexobj(save_at):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            times = np.array(save_at, dtype=np.float64)
            fits = times.ndim == 1 and times.size > 0 and bool(np.all(np.isfinite(times)))
            if fits and np.all(np.diff(times) > 0):
                return times
    raise BadParameter(
        "save_at must be a number of points or strictly increasing times, finite real ones, got "
        f"{shown(save_at)}"
    )


def saved_steps(save_at: int | ArrayLike, t_max: float, dt: float) -> NDArray[np.int64]:
    """Numbers of the steps nearest to the times that are saved, from 0 to the last step."""
    times, last = save_times(save_at, 0.0, t_max), max(1, round(t_max / dt))
    return np.unique(np.minimum(np.rint(times / dt), last).astype(np.int64))


def check_span(t_start: float, t_max: float) -> None:
    """Refuse ends of a run that are not finite or not in order."""
    if not (math.isfinite(t_start) and math.isfinite(t_max) and t_max > t_start):
        raise BadParameter(
            f"t_max = {t_max!r} must be finite and greater than t_start = {t_start!r}"
        )


def save_times(save_at: int | ArrayLike, t_start: float, t_max: float) -> NDArray[np.float64]:
    """Increasing times that are to be saved, between the ends of a run."""
    check_span(t_start, t_max)
    times = read_save_at(save_at)
    if isinstance(times, int):
        return np.linspace(t_start, t_max, times)
    # Geometric grids end within rounding of t_max; such an end is meant to be t_max.
    if abs(times[-1] - t_max) <= 1e-12 * abs(t_max):
        times[-1] = t_max
    if not (times[0] >= t_start and times[-1] <= t_max):
        first, last = float(times[0]), float(times[-1])
        raise BadParameter(
            f"save_at runs from {first!r} to {last!r}, outside [{t_start!r}, {t_max!r}]"
            + (f": pass t_max = {last!r}" if last > t_max else "")
        )
    return times


Vector = NDArray[np.float64]

# When every step is saved, points are thinned (each second, each fourth step, ...) beyond this.
SAVED_BYTES = 2**28


@dataclass(frozen=True)
class Setup:
    """A checked request: `save` is None when the integrator chooses the points."""

    problem: Problem
    method: str
    widths: NDArray[np.int64]
    par: Vector
    start: Vector
    t_start: float
    t_end: float
    rtol: float
    atol: float
    save: Vector | None
    events: tuple[Event, ...]
    table: Events
    max_steps: int
    timeout: float
    first_step: float | None
    max_step: float
    bound: float
    trace: float
    progress: ProgressOption
    # Steps that are left, from which on an implicit method takes over where it is faster.
    worth: float = math.inf

    def rhs(self, t: float, y: Vector) -> Vector:
        """Derivative at one state."""
        out = np.empty_like(self.start)
        self.problem.rhs(t, np.ascontiguousarray(y), self.widths, self.par, out)
        return out


@dataclass
class Raw:
    """What an integrator found: saved rows, the last good state and how it ended.

    `outcome` and `reason` are codes of `explicit`; `stopped` is set when the run was cut from
    outside (budget, timeout, interrupt). `trial` is the state that the last attempt failed on.
    """

    t: float
    y: Vector
    trial: Vector
    sink: Sink
    outcome: int = 0
    reason: int = 0
    component: int = 0
    stopped: Status | None = None
    statistics: dict[str, Any] = field(default_factory=dict)
    event_t: list[float] = field(default_factory=list)
    event_y: list[Vector] = field(default_factory=list)
    event_id: list[int] = field(default_factory=list)
    # When backward differentiation took over, and when it failed and the explicit method went on.
    stiff_from: float | None = None
    stiff_until: float | None = None


class Sink:
    """Saved rows, bounded in memory whatever the number of steps."""

    def __init__(self, setup: Setup) -> None:
        self.requested = setup.save is not None
        self._limit = max(1000, SAVED_BYTES // (8 * max(1, setup.start.size)))
        self._stride = 1
        self._t: list[Vector] = []
        self._y: list[NDArray[np.float64]] = []
        self._step: list[NDArray[np.int64]] = []
        self._count = 0
        first = setup.save is None or (setup.save.size > 0 and setup.save[0] == setup.t_start)
        if first:
            zero = np.zeros(1, dtype=np.int64)
            self.add(np.array([setup.t_start]), setup.start[None, :].copy(), zero)

    @property
    def stride(self) -> int:
        """How many steps lie between two rows, when not all could be kept."""
        return self._stride

    @property
    def last(self) -> tuple[float, Vector]:
        """Time and state of the last row."""
        return float(self._t[-1][-1]), self._y[-1][-1]

    def add(self, t: Vector, y: NDArray[np.float64], step: NDArray[np.int64]) -> None:
        """Append rows (own copies) that were saved in the accepted step number `step`."""
        if not self.requested and self._stride > 1:
            # Thinned on arrival: the final stride is then the smallest that fits, however the
            # rows were delivered.
            keep = step % self._stride == 0
            t, y, step = t[keep], y[keep], step[keep]
        self._t.append(t)
        self._y.append(y)
        self._step.append(step)
        self._count += t.size
        while not self.requested and self._count > self._limit:
            self._stride *= 2
            self._thin()

    def _thin(self) -> None:
        t, y, step = self._joined()
        keep = step % self._stride == 0
        self._t, self._y, self._step = [t[keep]], [y[keep]], [step[keep]]
        self._count = int(keep.sum())

    def _joined(self) -> tuple[Vector, NDArray[np.float64], NDArray[np.int64]]:
        return np.concatenate(self._t), np.concatenate(self._y), np.concatenate(self._step)

    def rows(self, t: float, y: Vector, add_last: bool) -> tuple[Vector, NDArray[np.float64]]:
        """All rows in order; with `add_last`, the state (t, y) closes them if it comes later."""
        if not self._t:
            times, states = np.empty(0), np.empty((0, y.size))
        else:
            times, states = np.concatenate(self._t), np.concatenate(self._y)
            # An interrupt may fall between a copy and the reset of its buffer: no row twice. Where
            # there was one copy, there are none.
            if len(self._t) > 2 and not (times[1:] > times[:-1]).all():
                fresh = np.concatenate([[True], times[1:] > np.maximum.accumulate(times)[:-1]])
                times, states = times[fresh], states[fresh]
        if add_last and (times.size == 0 or times[-1] < t):
            times = np.concatenate([times, [t]])
            states = np.concatenate([states, y[None, :]])
        return times, states


def event_gaps(setup: Setup, t: float, y: Vector) -> Vector:
    """Event functions (quantity minus threshold) at one state; the compiled loop has its own."""
    table, y = setup.table, np.ascontiguousarray(y)
    values = np.empty(len(setup.events))
    seen = np.empty(len(setup.problem.observables))
    if seen.size and setup.events:
        setup.problem.observe(t, y, setup.widths, setup.par, seen)
    for e, kind in enumerate(table.kind):
        if kind == STATE:
            values[e] = y[table.first[e]]
        elif kind == OBSERVABLE:
            values[e] = seen[table.first[e]]
        else:
            terms = slice(table.first[e], table.last[e])
            norm = np.sqrt(y[table.denominator[terms]] * table.weight[terms])
            values[e] = np.max(np.abs(y[table.numerator[terms]]) / norm)
    gaps: Vector = values - table.threshold
    return gaps

"""What every integrator takes and gives back, and the store of saved points."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.names import Status
from dmft.progress import ProgressOption
from dmft.solvers.events import Event
from dmft.solvers.problem import Problem
from dmft.solvers.runge_kutta.layout import OBSERVABLE, STATE, Events

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

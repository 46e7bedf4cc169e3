"""Runs of one problem that go through compiled code together; a single run is a group of one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.names import Status
from dmft.progress import Progress, is_cancelled
from dmft.solvers.pointers import called, entry, loop
from dmft.solvers.run import Raw, Setup, Sink, Vector
from dmft.solvers.runge_kutta import layout
from dmft.solvers.runge_kutta.tableau import PAIRS, Tableau, backward_tableau, pair_of

LARGEST_CHUNK = 1_000_000


def march(setup: Setup) -> Raw:
    """Integrate a flow with the explicit method that `setup.method` names, or iterate a map.

    The map is y <- y + rhs(t, y); one unit of t is one step.
    """
    group = Group.of(setup)
    raw = group.raw_of(0, setup)
    began = time.monotonic()
    try:
        with Progress(setup.progress, "solve") as bar:
            _follow(group, raw, setup, began, bar)
            if raw.outcome == layout.STIFF and raw.stopped is None:
                go_on(setup, raw, began, bar)
    except KeyboardInterrupt:
        raw.stopped = Status.INTERRUPTED
    raw.statistics["seconds"] = time.monotonic() - began
    return raw


def go_on(setup: Setup, raw: Raw, began: float, bar: Progress) -> None:
    """Go on with backward differentiation where a run became stiff; where it fails, without.

    The time that it is compiled in, once on a machine, does not count as time of the run.
    """
    raw.stiff_from = raw.t
    for method in ("BDF", setup.method):
        done = dict(raw.statistics)
        later = replace(
            setup, method=method, start=raw.y.copy(), t_start=raw.t, worth=math.inf,
            first_step=None, max_steps=setup.max_steps - done["steps"] - done["rejected"],
        )  # fmt: skip
        before = time.monotonic()
        group = Group.of(later)
        began += time.monotonic() - before
        raw.y, raw.trial, raw.outcome = group.batch.y[0], group.batch.trial[0], layout.RUNNING
        try:
            _follow(group, raw, setup, began, bar)
        finally:
            raw.statistics = {name: n + done.get(name, 0) for name, n in raw.statistics.items()}
        if raw.outcome != layout.COLLAPSED or raw.stopped is not None:
            return
        raw.stiff_until = raw.t


def _follow(group: Group, raw: Raw, asked: Setup, began: float, bar: Progress) -> None:
    """Take a run to its end; what an interrupt leaves in the buffers is kept."""
    try:
        _chunks(group, raw, asked, began, bar)
    except KeyboardInterrupt:
        group.drain(0, raw)
        raise


def _chunks(group: Group, raw: Raw, asked: Setup, began: float, bar: Progress) -> None:
    """Call the compiled loop until the run ends or is stopped."""
    setup, budget = group.setup, min(group.first_budget(), LARGEST_CHUNK)
    raw.stopped = stop_reason(setup, began, setup.max_steps)
    while raw.stopped is None:
        before = time.monotonic()
        share = (setup.timeout - (before - began)) / CHUNK_SECONDS
        budget = max(1, int(budget * min(share, 1.0)))
        ended = group.advance(budget)
        group.drain(0, raw)
        left = setup.max_steps - group.attempts(0)
        if raw.outcome == layout.RUNNING:  # else it only has rows to hand over
            raw.stopped = stop_reason(setup, began, left)
        if ended:
            return
        budget = next_budget(budget, time.monotonic() - before)
        done = (raw.t - asked.t_start) / (asked.t_end - asked.t_start)
        bar.update(done, f"t = {raw.t:.4g}, {raw.statistics['steps']} steps")


def next_budget(budget: int, seconds: float) -> int:
    """Attempts of the next call, when `budget` of them took so long."""
    fitting = int(budget * CHUNK_SECONDS / max(seconds, 1e-6))
    return min(8 * budget, LARGEST_CHUNK, max(1, fitting))


def stop_reason(setup: Setup, began: float, left: int) -> Status | None:
    """Reason to stop that lies outside the loop."""
    if left <= 0:
        return Status.MAX_STEPS
    if is_cancelled():
        return Status.INTERRUPTED
    return Status.TIMEOUT if time.monotonic() - began > setup.timeout else None


# Python is entered about this often, for progress, time limits and Ctrl-C.
CHUNK_SECONDS = 0.1
# Rows of the buffers between compiled loop and Python.
SAVE_ROWS, SAVE_NUMBERS, EVENT_ROWS = 4096, 2**18, 64

# Seconds of a right-hand side by its address and widths: to call it from Python takes as long as
# the steps of a short run.
_COST: dict[tuple[int, bytes], float] = {}
MOST_COSTS = 1000


class Saved(NamedTuple):
    """Rows that the compiled loop has handed over, of all runs of a group."""

    out_t: Vector
    out_y: Array
    out_step: NDArray[np.int64]
    event_t: Vector
    event_y: Array
    event_id: NDArray[np.int64]


class Group:
    """Compiled state of n runs.

    They share `setup`, of whose `par`, `start` and `trace` only the sizes count: these have a row
    for each run, as the thresholds (n, E) of the events.
    """

    def __init__(
        self, setup: Setup, par: Array, start: Array, trace: Vector, threshold: Array
    ) -> None:
        self.setup, self.size, self.start = setup, len(par), np.ascontiguousarray(start)
        is_map = setup.problem.kind == "map"
        # A map has one stage and no interpolant; its loop does not look at the tableau.
        tableau = pair_of("rk5") if is_map else _tableau(setup)
        self.stages = 1 if is_map else tableau.stages
        rows, degree = (1, 0) if is_map else (tableau.total, len(tableau.dense))
        self.work = _allocate(setup, rows, degree)
        self.batch = layout.Batch(
            par=np.ascontiguousarray(par),
            trace=trace,
            threshold=np.ascontiguousarray(threshold),
            y=self.start.copy(),
            trial=self.start.copy(),
            clock=np.zeros((self.size, layout.CLOCK_SIZE)),
            counts=np.zeros((self.size, layout.COUNTS_SIZE), dtype=np.int64),
            rows=np.zeros((self.size, 2), dtype=np.int64),
            found=np.zeros((self.size, 2), dtype=np.int64),
            place=np.zeros(2, dtype=np.int64),
            t_start=setup.t_start,
            first_step=setup.first_step or 0.0,
            max_steps=setup.max_steps,
            is_flow=int(not is_map),
        )
        self._fly = called("fly")
        self._arguments = (*_functions(setup, is_map), *self._shared(tableau), self.work)
        self._lanes: layout.Lanes | None = None

    def _shared(self, tableau: Tableau) -> tuple[Any, ...]:
        """What does not change in a run; the event table is our own, its thresholds move."""
        setup, table = self.setup, self.setup.table
        task = layout.Task(
            setup.widths, setup.par, np.empty(0) if setup.save is None else setup.save, setup.rtol,
            setup.atol, setup.t_end, setup.max_step, setup.bound, setup.trace,
            int(setup.problem.domain is not None), setup.worth,
        )  # fmt: skip
        return tableau, task, table._replace(threshold=table.threshold.copy())

    def first_budget(self) -> int:
        """Attempts that take half of `CHUNK_SECONDS`, by the time of one right-hand side."""
        key = self._arguments[1], self.setup.widths.tobytes()
        cost = _COST.get(key)
        if cost is None:
            called = time.perf_counter()
            self.setup.rhs(self.setup.t_start, self.batch.y[0])
            cost = max(time.perf_counter() - called, 1e-6)
            if len(_COST) > MOST_COSTS:
                _COST.clear()
            _COST[key] = cost
        return max(1, int(CHUNK_SECONDS / (2 * self.stages * cost)))

    @classmethod
    def of(cls, setup: Setup) -> Group:
        """The group of one run."""
        return cls(
            setup, setup.par[None], setup.start[None], np.array([setup.trace]),
            setup.table.threshold[None],
        )  # fmt: skip

    def advance(self, budget: int) -> int:
        """Take up to `budget` attempts in all; returns how many runs have ended."""
        return int(self._fly(*self._arguments, self.batch, budget))

    def open_lanes(self) -> None:
        """Take the runs side by side."""
        code = entry(self.setup.problem.lanes.function, "LANES_RHS")
        self._fly, self._lanes = called("fly_lanes"), lanes_for(self)
        self._arguments = (code, *self._arguments)

    def advance_lanes(self, budget: int) -> list[int]:
        """Take up to `budget` attempts in all; returns the runs that ended."""
        assert self._lanes is not None
        ended = int(self._fly(*self._arguments, self.batch, self._lanes, budget))
        return self._lanes.ended[:ended].tolist()

    @property
    def is_under_way(self) -> bool:
        """Whether the run behind those that ended has begun."""
        return bool(self.batch.place[1])

    def attempts(self, run: int) -> int:
        """Steps that a run has tried."""
        counts = self.batch.counts[run]
        return int(counts[layout.STEPS] + counts[layout.REJECTED])

    def saved(self) -> Saved:
        """What the last advance has saved, as own copies."""
        work, rows = self.work, int(self.batch.rows[:, 1].max())
        found = int(self.batch.found[:, 1].max())
        return Saved(
            work.out_t[:rows].copy(), work.out_y[:rows].copy(), work.out_step[:rows].copy(),
            work.event_t[:found].copy(), work.event_y[:found].copy(), work.event_id[:found].copy(),
        )  # fmt: skip

    def rows_by_run(self) -> Iterator[tuple[int, Vector, Array, NDArray[np.int64]]]:
        """Take the rows that the last advance in lanes has saved: those of each run together."""
        assert self._lanes is not None
        count = int(self.batch.rows[:, 1].max())
        self.batch.rows[:] = 0
        if not count:  # np.split would return one empty part
            return
        owner = self._lanes.owner[:count]
        order = np.argsort(owner, kind="stable")
        runs, first = np.unique(owner[order], return_index=True)
        for run, rows in zip(runs.tolist(), np.split(order, first[1:]), strict=True):
            yield run, self.work.out_t[rows], self.work.out_y[rows], self.work.out_step[rows]

    def drain(self, run: int, raw: Raw, saved: Saved | None = None) -> None:
        """Move what the last advance saved of a run into its record, and read its end.

        Of a run that has ended also later, from what was `saved` of it then.
        """
        batch, of = self.batch, saved or self.work
        first, last = batch.rows[run].tolist()
        if last > first:
            raw.sink.add(
                of.out_t[first:last].copy(),
                of.out_y[first:last].copy(),
                of.out_step[first:last].copy(),
            )
        first, last = batch.found[run].tolist()
        if last > first:
            raw.event_t += of.event_t[first:last].tolist()
            raw.event_y += list(of.event_y[first:last].copy())
            raw.event_id += of.event_id[first:last].tolist()
        batch.rows[run] = batch.found[run] = 0
        counts = batch.counts[run].tolist()
        raw.t, raw.outcome = float(batch.clock[run, layout.T]), counts[layout.OUTCOME]
        raw.reason, raw.component = counts[layout.REASON], counts[layout.COMPONENT]
        raw.statistics = {
            "steps": counts[layout.STEPS],
            "rejected": counts[layout.REJECTED],
            "evaluations": counts[layout.EVALS],
            "band_steps": counts[layout.BAND],
        }

    def raw_of(self, run: int, setup: Setup) -> Raw:
        """An empty record of one run and its request; its state is that of the compiled loop."""
        return Raw(setup.t_start, self.batch.y[run], self.batch.trial[run], Sink(setup))


def lanes_for(group: Group) -> layout.Lanes:
    """Empty lanes for the runs of a group."""
    from dmft.compiled.known_functions import LANES

    (count, size), events = group.batch.y.shape, group.batch.threshold.shape[1]
    state = [np.zeros((size, LANES)) for _ in range(4)]
    return layout.Lanes(
        run=np.full(LANES, -1),
        par=np.zeros((group.batch.par.shape[1], LANES)),
        y=state[0],
        trial=state[1],
        high=state[2],
        low=state[3],
        k=np.zeros((group.stages, size, LANES)),
        gap=np.zeros((LANES, events)),
        sign=np.zeros((LANES, events)),
        h=np.zeros((1, LANES)),
        failed=np.zeros((1, LANES)),
        end=np.zeros(LANES),
        is_last=np.zeros(LANES, dtype=np.int64),
        owner=np.zeros(group.work.out_t.size, dtype=np.int64),
        ended=np.zeros(count, dtype=np.int64),
        place=np.zeros(2, dtype=np.int64),
    )


def _tableau(setup: Setup) -> Tableau:
    if setup.method in PAIRS:
        return pair_of(setup.method)
    return backward_tableau(setup.start.size)


def _functions(setup: Setup, is_map: bool) -> tuple[Any, ...]:
    """Compiled functions that every loop takes, absent ones replaced."""
    problem, advance, watch = setup.problem, "advance", "unwatched"
    if is_map:
        advance = "iterate"
    elif setup.method == "BDF":
        advance = "advance_backward"
    if setup.events:  # compiled by the first run that has events
        watch = "sides" if is_map else "watch"
    return (
        entry(loop(advance), "ADVANCE"),
        entry(problem.rhs, "RHS"),
        entry(problem.observe or loop("nothing"), "RHS"),
        entry(problem.domain or loop("everywhere"), "DOMAIN"),
        entry(loop(watch), "WATCH"),
    )


def _allocate(setup: Setup, rows_of_stages: int, degree: int) -> layout.Work:
    n, events = setup.start.size, len(setup.events)
    hits = 2 * layout.SCAN * events
    rows = max(64, min(SAVE_ROWS, SAVE_NUMBERS // max(1, n)))
    event_rows = hits + EVENT_ROWS if events else 0
    return layout.Work(
        k=np.zeros((rows_of_stages, n)),
        dense=np.zeros((degree, n)),
        trial=setup.start.copy(),
        old=setup.start.copy(),
        point=setup.start.copy(),
        high=np.zeros(n),
        low=np.zeros(n),
        seen=np.zeros(len(setup.problem.observables) if events else 0),
        gap=np.zeros((events, layout.SCAN + 1)),
        sign=np.zeros(events),
        side=np.zeros(events),
        hit_theta=np.zeros(hits),
        hit_event=np.zeros(hits, dtype=np.int64),
        out_t=np.empty(rows),
        out_y=np.empty((rows, n)),
        out_step=np.empty(rows, dtype=np.int64),
        event_t=np.empty(event_rows),
        event_y=np.empty((event_rows, n)),
        event_id=np.empty(event_rows, dtype=np.int64),
    )

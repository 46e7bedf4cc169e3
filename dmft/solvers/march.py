"""Drives the compiled loops of flows and maps: buffers, chunks, time limits, interrupts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dmft.names import Status
from dmft.progress import Progress, is_cancelled
from dmft.solvers import explicit, layout
from dmft.solvers.run import Raw, Setup, Sink, Vector, event_gaps
from dmft.solvers.tableau import TABLEAUX

# Python is entered about this often, for progress, time limits and Ctrl-C.
CHUNK_SECONDS = 0.1
LARGEST_CHUNK = 1_000_000
# Rows of the buffers between compiled loop and Python.
SAVE_ROWS, SAVE_NUMBERS, EVENT_ROWS = 4096, 2**18, 64


def march(setup: Setup) -> Raw:
    """Integrate with the explicit method that `setup.method` names."""
    tableau = TABLEAUX[setup.method]
    work = _allocate(setup, tableau.total, tableau.dense.shape[0])
    y = setup.start.copy()
    clock, counts = np.zeros(layout.CLOCK_SIZE), np.zeros(layout.COUNTS_SIZE, dtype=np.int64)
    raw = Raw(setup.t_start, y, work.trial, Sink(setup))
    called = time.perf_counter()
    slope = setup.rhs(setup.t_start, y)
    cost = max(time.perf_counter() - called, 1e-6)
    counts[layout.EVALS] = 1
    began = time.monotonic()
    if np.all(np.isfinite(slope)):
        work.k[0] = slope
        clock[layout.T], clock[layout.ERR] = setup.t_start, explicit.SMALLEST_ERROR
        clock[layout.H] = setup.first_step or _first_step(setup, slope, tableau.order)
        _watch_start(setup, work)
        budget = max(1, int(CHUNK_SECONDS / (2 * tableau.total * cost)))
        functions, task = (*_functions(setup), _watch_function(setup)), _task(setup, counts)

        def advance(steps: int) -> int:
            return int(
                explicit.advance(
                    *functions, tableau, task, setup.table, work, y, clock, counts, steps
                )
            )

        _chunks(setup, advance, work, raw, clock, counts, budget)
        _close(raw, clock, counts)
    else:
        raw.outcome, raw.reason = layout.COLLAPSED, layout.BY_NONFINITE
        raw.component = int(np.flatnonzero(~np.isfinite(slope))[0])
        work.trial[:] = y
    raw.statistics = _statistics(counts, began)
    return raw


def march_map(setup: Setup) -> Raw:
    """Iterate the map y <- y + rhs(t, y); one unit of t is one step."""
    from dmft.solvers.discrete import iterate

    work = _allocate(setup, 1, 0)
    y = setup.start.copy()
    clock, counts = np.zeros(layout.CLOCK_SIZE), np.zeros(layout.COUNTS_SIZE, dtype=np.int64)
    raw = Raw(setup.t_start, y, work.trial, Sink(setup))
    began = time.monotonic()
    clock[layout.T] = setup.t_start
    _watch_start(setup, work)
    functions, task = _functions(setup), _task(setup, counts)

    def advance(steps: int) -> int:
        return int(iterate(*functions, task, setup.table, work, y, clock, counts, steps))

    _chunks(setup, advance, work, raw, clock, counts, 1)
    _close(raw, clock, counts)
    raw.statistics = _statistics(counts, began)
    return raw


def _functions(setup: Setup) -> tuple[Any, ...]:
    """Compiled functions that every loop takes, absent ones replaced."""
    problem = setup.problem
    return (
        problem.rhs,
        problem.observe or explicit.nothing,
        problem.domain or explicit.everywhere,
    )


def _task(setup: Setup, counts: np.typing.NDArray[np.int64]) -> layout.Task:
    """What does not change during a run; also finds the first time that is to be saved."""
    save = np.empty(0) if setup.save is None else setup.save
    counts[layout.NEXT_SAVE] = np.searchsorted(save, setup.t_start, side="right")
    return layout.Task(
        setup.widths, setup.par, save, setup.rtol, setup.atol, setup.t_end, setup.max_step,
        setup.bound, setup.trace, int(setup.problem.domain is not None),
    )  # fmt: skip


def _close(raw: Raw, clock: Vector, counts: np.typing.NDArray[np.int64]) -> None:
    raw.t = float(clock[layout.T])
    raw.outcome, raw.reason = int(counts[layout.OUTCOME]), int(counts[layout.REASON])
    raw.component = int(counts[layout.COMPONENT])


def _statistics(counts: np.typing.NDArray[np.int64], began: float) -> dict[str, Any]:
    return {
        "steps": int(counts[layout.STEPS]),
        "rejected": int(counts[layout.REJECTED]),
        "evaluations": int(counts[layout.EVALS]),
        "band_steps": int(counts[layout.BAND]),
        "seconds": time.monotonic() - began,
    }


def _chunks(
    setup: Setup,
    advance: Callable[[int], int],
    work: layout.Work,
    raw: Raw,
    clock: Vector,
    counts: np.typing.NDArray[np.int64],
    budget: int,
) -> None:
    """Call the compiled loop, first for `budget` steps, until it ends or is stopped."""
    began = time.monotonic()
    budget = min(budget, LARGEST_CHUNK)
    with Progress(setup.progress, "solve") as bar:
        try:
            while raw.stopped is None:
                before = time.monotonic()
                outcome = advance(max(1, min(budget, _left(setup, counts))))
                _drain(work, raw, counts)
                if outcome != layout.RUNNING:
                    return
                if counts[layout.OUTCOME] == layout.RUNNING:  # else it only has rows to hand over
                    raw.stopped = _stop(setup, began, _left(setup, counts))
                spent = max(time.monotonic() - before, 1e-6)
                budget = int(min(8 * budget, LARGEST_CHUNK, max(1, budget * CHUNK_SECONDS / spent)))
                done = (clock[layout.T] - setup.t_start) / (setup.t_end - setup.t_start)
                bar.update(float(done), f"t = {clock[layout.T]:.4g}, {counts[layout.STEPS]} steps")
        except KeyboardInterrupt:
            raw.stopped = Status.INTERRUPTED
    _drain(work, raw, counts)


def _left(setup: Setup, counts: np.typing.NDArray[np.int64]) -> int:
    return setup.max_steps - int(counts[layout.STEPS] + counts[layout.REJECTED])


def _stop(setup: Setup, began: float, left: int) -> Status | None:
    """Reason to stop that lies outside the loop."""
    if left <= 0:
        return Status.MAX_STEPS
    if is_cancelled():
        return Status.INTERRUPTED
    return Status.TIMEOUT if time.monotonic() - began > setup.timeout else None


def _allocate(setup: Setup, stages: int, degree: int) -> layout.Work:
    n, events = setup.start.size, len(setup.events)
    hits = 2 * layout.SCAN * events
    rows = max(64, min(SAVE_ROWS, SAVE_NUMBERS // max(1, n)))
    event_rows = hits + EVENT_ROWS if events else 0
    return layout.Work(
        k=np.zeros((stages, n)),
        dense=np.zeros((degree, n)),
        trial=setup.start.copy(),
        old=setup.start.copy(),
        point=setup.start.copy(),
        high=np.zeros(n),
        low=np.zeros(n),
        seen=np.zeros(len(setup.problem.observables) if events else 0),
        gap=np.zeros((events, layout.SCAN + 1)),
        sign=np.zeros(events),
        hit_theta=np.zeros(hits),
        hit_event=np.zeros(hits, dtype=np.int64),
        out_t=np.empty(rows),
        out_y=np.empty((rows, n)),
        out_step=np.empty(rows, dtype=np.int64),
        event_t=np.empty(event_rows),
        event_y=np.empty((event_rows, n)),
        event_id=np.empty(event_rows, dtype=np.int64),
    )


def _watch_start(setup: Setup, work: layout.Work) -> None:
    """Note on which side of its threshold each event function starts (0: exactly on it)."""
    work.gap[:, 0] = event_gaps(setup, setup.t_start, setup.start)
    work.sign[:] = np.sign(work.gap[:, 0])


def _watch_function(setup: Setup) -> Any:
    """Return the compiled search for events, loaded by the first run that has some."""
    if not setup.events:
        return explicit.unwatched
    from dmft.solvers.crossings import watch

    return watch


def _first_step(setup: Setup, slope: Vector, order: int) -> float:
    """Starting step from the size of y, y' and y'' (Hairer, Norsett and Wanner I, II.4)."""
    scale = setup.atol + setup.rtol * np.abs(setup.start)
    size, speed = _rms(setup.start / scale), _rms(slope / scale)
    h = 1e-6 if min(size, speed) < 1e-5 else 0.01 * size / speed
    h = min(h, setup.t_end - setup.t_start, setup.max_step)
    later = setup.rhs(setup.t_start + h, setup.start + h * slope)
    if not np.all(np.isfinite(later)):
        return h
    bend = max(speed, _rms((later - slope) / scale) / h)
    second = max(1e-6, h * 1e-3) if bend <= 1e-15 else float((0.01 / bend) ** (1.0 / order))
    return min(100 * h, second)


def _rms(x: Vector) -> float:
    return float(np.sqrt(np.mean(x * x))) if x.size else 0.0


def _drain(work: layout.Work, raw: Raw, counts: np.typing.NDArray[np.int64]) -> None:
    """Empty the buffers into Python."""
    rows, found = int(counts[layout.SAVED]), int(counts[layout.FOUND])
    if rows:
        raw.sink.add(
            work.out_t[:rows].copy(), work.out_y[:rows].copy(), work.out_step[:rows].copy()
        )
        counts[layout.SAVED] = 0
    if found:
        raw.event_t += work.event_t[:found].tolist()
        raw.event_y += list(work.event_y[:found].copy())
        raw.event_id += work.event_id[:found].tolist()
        counts[layout.FOUND] = 0

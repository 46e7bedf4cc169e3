"""Drives one run through compiled code: chunks, time limits, interrupts."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from dmft.names import Status
from dmft.progress import Progress, is_cancelled
from dmft.solvers.run import Raw, Setup
from dmft.solvers.runge_kutta import layout
from dmft.solvers.runge_kutta.group import CHUNK_SECONDS, Group

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

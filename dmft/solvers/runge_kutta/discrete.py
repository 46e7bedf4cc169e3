"""The loop of maps y <- y + rhs(t, y): compiled once, for every problem of kind "map".

Same records and same endings as the adaptive loop of `explicit.py`. Time is the number of steps;
nothing happens between two steps, so that an event belongs to the first step at which it holds.
"""

from __future__ import annotations

import math

from dmft.compiled import njit
from dmft.solvers.runge_kutta.layout import (
    BOUND,
    BY_DOMAIN,
    BY_NONFINITE,
    COLLAPSED,
    COMPONENT,
    EVALS,
    EVENT,
    FOUND,
    OPTIONS,
    OUTCOME,
    PENDING,
    REACHED,
    REASON,
    STEPS,
    T,
)
from dmft.solvers.runge_kutta.primitives import (
    attempts,
    copy,
    inlined,
    outside,
    read_gap,
    take_sides,
)
from dmft.solvers.signatures import ADVANCE_SIGNATURE, WATCH_SIGNATURE

BUILT_ON = "dcb060e303a28162"


@inlined
def _look(observe, task, events, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """Note the events that this step brought about; a terminal one ends the run."""
    if work.seen.size > 0:
        observe(clock[T], y, task.widths, task.par, work.seen)
    for e in range(events.kind.size):
        value, side = read_gap(events, y, work.seen, e), work.sign[e]
        if math.isnan(value):
            continue
        # On the threshold itself a run has no side: leaving it is no second crossing.
        work.sign[e] = math.copysign(1.0, value) if value != 0.0 else 0.0
        if side == 0.0 or value * side > 0.0 or events.direction[e] * side > 0.0:
            continue
        row = counts[FOUND]
        work.event_t[row] = clock[T]
        copy(work.event_y[row], y)
        work.event_id[row] = e
        counts[FOUND] += 1
        if events.terminal[e] != 0:
            counts[OUTCOME] = EVENT


@inlined
def _step(rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """One step of the map, or the reason why there is none."""
    rhs(clock[T], y, task.widths, task.par, work.k[0])
    counts[EVALS] += 1
    largest = 0.0
    for i in range(y.size):
        work.trial[i] = y[i] + work.k[0, i]
        if not math.isfinite(work.k[0, i]):
            counts[COMPONENT], counts[REASON], counts[OUTCOME] = i, BY_NONFINITE, COLLAPSED
            return
        largest = max(largest, abs(work.trial[i]))
    beyond = not largest <= task.bound
    if not beyond and task.has_domain != 0 and outside(domain, task, work.trial, counts):
        counts[REASON], counts[OUTCOME] = BY_DOMAIN, COLLAPSED
        return
    copy(y, work.trial)
    clock[T] += 1.0
    counts[STEPS] += 1
    counts[PENDING] = 1
    if beyond:
        counts[OUTCOME] = BOUND
        return
    if clock[T] >= task.t_end:
        counts[OUTCOME] = REACHED
    if events.kind.size > 0:
        _look(observe, task, events, work, y, clock, counts)


_attempts = attempts(_step, 1)


@njit(WATCH_SIGNATURE, cache=True, no_cpython_wrapper=True, **OPTIONS)
def sides(what, observe, task, events, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """All that is asked about the events of a map from outside its loop: the sides at the start."""
    take_sides(observe, task, events, work, y, clock)


@njit(ADVANCE_SIGNATURE, cache=True, no_cpython_wrapper=True, **OPTIONS)
def iterate(rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts, budget):  # type: ignore[no-untyped-def]
    """Take up to `budget` steps; returns RUNNING or how the run ended.

    It reads neither `watch` nor `tableau`: it has the arguments of the loop of flows.
    """
    return _attempts(
        rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts, budget
    )

"""The loop over runs: each begins, takes its steps and ends in compiled code, one after the other.

A single run is a batch of one. The loop of the steps arrives as an address, so that it is compiled
once, alone. Like that loop this one returns after a bounded number of steps, or when a
buffer is full, and goes on where it was when it is called again.
"""

from __future__ import annotations

import math

from numba import types

from dmft.compiled import njit
from dmft.solvers.runge_kutta.layout import (
    BY_NONFINITE,
    COLLAPSED,
    COMPONENT,
    ERR,
    EVALS,
    FOUND,
    NEXT_SAVE,
    OPTIONS,
    OUTCOME,
    REASON,
    REJECTED,
    RUNNING,
    SAVED,
    SIDES,
    SMALLEST_ERROR,
    STEPS,
    H,
    T,
    Task,
)
from dmft.solvers.runge_kutta.primitives import compiled, copy, in_tolerances, unfolded
from dmft.solvers.signatures import (
    BATCH_TYPE,
    EVENTS_TYPE,
    TABLEAU_TYPE,
    TASK_TYPE,
    WORK_TYPE,
    advance_at,
    domain_at,
    rhs_at,
    watch_at,
)

BUILT_ON = "518e5ae3513f66d7"


@compiled
def _first_step(rhs, tableau, task, work, y, t):  # type: ignore[no-untyped-def]
    """Starting step from the size of y, y' and y'' (Hairer, Norsett and Wanner I, II.4)."""
    size, speed = in_tolerances(y, y, task), in_tolerances(work.k[0], y, task)
    h = 1e-6 if min(size, speed) < 1e-5 else 0.01 * size / speed
    h = min(h, task.t_end - t, task.max_step)
    for i in range(y.size):
        work.high[i] = y[i] + h * work.k[0, i]
    rhs(t + h, work.high, task.widths, task.par, work.low)
    for i in range(y.size):
        if not math.isfinite(work.low[i]):
            return h
        work.low[i] -= work.k[0, i]
    bend = max(speed, in_tolerances(work.low, y, task) / h)
    power = 1.0 / max(tableau.order, 2)  # steps of order one err by h^2
    second = max(1e-6, h * 1e-3) if bend <= 1e-15 else (0.01 / bend) ** power
    return min(100.0 * h, second)


@unfolded
def begin(rhs, observe, watch, tableau, task, events, work, batch, y, clock, counts):  # type: ignore[no-untyped-def]
    """Bring a run to its first step: its slope, the length of its step, the sides of its events."""
    t = batch.t_start
    clock[T], clock[ERR] = t, SMALLEST_ERROR
    copy(work.trial, y)
    copy(work.old, y)
    copy(work.point, y)
    while counts[NEXT_SAVE] < task.save.size and task.save[counts[NEXT_SAVE]] <= t:
        counts[NEXT_SAVE] += 1
    if batch.is_flow != 0:
        rhs(t, y, task.widths, task.par, work.k[0])
        counts[EVALS] = 1
        for i in range(y.size):
            if not math.isfinite(work.k[0, i]):
                counts[COMPONENT], counts[REASON], counts[OUTCOME] = i, BY_NONFINITE, COLLAPSED
                return
        clock[H] = batch.first_step
        if batch.first_step == 0.0:
            clock[H] = _first_step(rhs, tableau, task, work, y, t)
    if events.kind.size > 0:
        watch(SIDES, observe, task, events, work, y, clock, counts)


FLY_SIGNATURE = types.int64(
    *[types.int64] * 5, TABLEAU_TYPE, TASK_TYPE, EVENTS_TYPE, WORK_TYPE, BATCH_TYPE, types.int64
)


@njit(FLY_SIGNATURE, cache=True, no_cfunc_wrapper=True, **OPTIONS)
def fly(  # type: ignore[no-untyped-def]
    advance_address, rhs_address, observe_address, domain_address, watch_address, tableau, task,
    events, work, batch, budget,
):  # fmt: skip
    """Take up to `budget` attempts in all; returns how many runs have ended.

    The buffers must be empty. `task.par`, `task.trace` and `events.threshold` are those of the run
    under way.
    """
    advance, rhs, observe = (
        advance_at(advance_address),
        rhs_at(rhs_address),
        rhs_at(observe_address),
    )
    domain, watch = domain_at(domain_address), watch_at(watch_address)
    saved, found = 0, 0
    while batch.place[0] < batch.trace.size and budget > 0:
        i = batch.place[0]
        y, clock, counts = batch.y[i], batch.clock[i], batch.counts[i]
        here = Task(
            task.widths, batch.par[i], task.save, task.rtol, task.atol, task.t_end, task.max_step,
            task.bound, batch.trace[i], task.has_domain,
            task.worth,
        )  # fmt: skip
        for e in range(events.kind.size):
            events.threshold[e] = batch.threshold[i, e]
        counts[SAVED], counts[FOUND] = saved, found
        batch.rows[i, 0], batch.found[i, 0] = saved, found
        ended = False
        if batch.place[1] == 0:
            begin(rhs, observe, watch, tableau, here, events, work, batch, y, clock, counts)
            batch.place[1] = 1
            ended = counts[OUTCOME] != RUNNING
        if not ended:
            before = counts[STEPS] + counts[REJECTED]
            most = max(1, min(budget, batch.max_steps - before))
            outcome = advance(
                rhs, observe, domain, watch, tableau, here, events, work, y, clock, counts, most
            )
            attempts = counts[STEPS] + counts[REJECTED]
            budget -= attempts - before
            spent = counts[OUTCOME] == RUNNING and attempts >= batch.max_steps
            ended = outcome != RUNNING or spent
        saved, found = counts[SAVED], counts[FOUND]
        batch.rows[i, 1], batch.found[i, 1] = saved, found
        if not ended:
            break
        copy(batch.trial[i], work.trial)
        batch.place[0], batch.place[1] = i + 1, 0
    return batch.place[0]

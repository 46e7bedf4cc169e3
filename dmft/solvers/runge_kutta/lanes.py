"""Runs of one problem side by side: their stages together, everything else one after the other.

Each lane holds one run, with its own time, step and parameters. The right-hand side of all lanes is
one call (`dmft.compiled.vectors`); what follows, from the domain to events and the next step, is
the code of a single run on the numbers of its lane. A lane whose run ends takes the next one. So
a run has the same bits in any lane, beside any others, and alone.
"""

from __future__ import annotations

import math

from numba import types

from dmft.compiled import njit
from dmft.compiled.vectors import by_lane
from dmft.solvers.runge_kutta.batch_loop import begin
from dmft.solvers.runge_kutta.explicit import settle
from dmft.solvers.runge_kutta.layout import (
    BY_ERROR,
    BY_NONFINITE,
    COMPONENT,
    EVALS,
    FOUND,
    OPTIONS,
    OUTCOME,
    REJECTED,
    RUNNING,
    SAVED,
    SCAN,
    STEPS,
    Task,
)
from dmft.solvers.runge_kutta.primitives import copy, flush, inlined, next_attempt, unfolded
from dmft.solvers.signatures import (
    BATCH_TYPE,
    EVENTS_TYPE,
    LANES_TYPE,
    TABLEAU_TYPE,
    TASK_TYPE,
    WORK_TYPE,
    advance_at,
    domain_at,
    lanes_rhs_at,
    rhs_at,
    watch_at,
)

BUILT_ON = "d0b7c04363c22dcf"

# With so few runs left they go on one by one: idle lanes cost as much as busy ones.
FEW = 2


@inlined
def _task(task, batch, i):  # type: ignore[no-untyped-def]
    """What does not change in run i."""
    return Task(
        task.widths, batch.par[i], task.save, task.rtol, task.atol, task.t_end, task.max_step,
        task.bound, batch.trace[i], task.has_domain, task.worth,
    )  # fmt: skip


@inlined
def _take_out(lanes, lane, first, last, events, work, y):  # type: ignore[no-untyped-def]
    """Copy a lane into the buffers of a single run, of its stages 0 and first <= s < last."""
    for i in range(y.size):
        y[i], work.k[0, i] = lanes.y[i, lane], lanes.k[0, i, lane]
        work.trial[i] = lanes.trial[i, lane]
    for s in range(first, last):
        for i in range(y.size):
            work.k[s, i] = lanes.k[s, i, lane]
    for e in range(events.kind.size):
        work.gap[e, 0], work.sign[e] = lanes.gap[lane, e], lanes.sign[lane, e]


@inlined
def _put_back(lanes, lane, events, work, y):  # type: ignore[no-untyped-def]
    """Copy what a run goes on from into its lane."""
    for i in range(y.size):
        lanes.y[i, lane], lanes.k[0, i, lane] = y[i], work.k[0, i]
    for e in range(events.kind.size):
        lanes.gap[lane, e], lanes.sign[lane, e] = work.gap[e, 0], work.sign[e]


@inlined
def _end(lanes, lane, batch, i):  # type: ignore[no-untyped-def]
    """Free a lane whose run has ended."""
    lanes.ended[lanes.place[1]] = i
    lanes.place[1] += 1
    lanes.run[lane] = -1


@inlined
def _stages(lanes_rhs, tableau, task, lanes):  # type: ignore[no-untyped-def]
    """Fill the stages of all lanes and the sums of both error estimates, in the order of one run.

    `lanes.failed` becomes NaN in lanes where a stage is not finite, and 0 in others.
    """
    y, trial, k = by_lane(lanes.y), by_lane(lanes.trial), by_lane(lanes.k)
    high, low = by_lane(lanes.high), by_lane(lanes.low)
    h, failed = by_lane(lanes.h), by_lane(lanes.failed)
    n = y.size
    failed[0] = 0.0
    for s in range(1, tableau.stages):
        for i in range(n):
            trial[i] = y[i]
        for j in range(s):
            if tableau.a[s, j] != 0.0:
                w = h[0] * tableau.a[s, j]
                for i in range(n):
                    trial[i] += w * k[j, i]
        lanes_rhs(0.0, lanes.trial, task.widths, lanes.par, lanes.k[s])
        for i in range(n):
            failed[0] += 0.0 * k[s, i]
    for i in range(n):
        high[i] = 0.0
        low[i] = 0.0
    for j in range(tableau.stages):
        first, second = tableau.error[j], tableau.error_low[j]
        if first != 0.0 or second != 0.0:
            for i in range(n):
                high[i] += first * k[j, i]
                low[i] += second * k[j, i]


@inlined
def _blame(lanes, lane, tableau, h, work, y, counts):  # type: ignore[no-untyped-def]
    """Say which stage of a lane was not finite, and leave the state that it was asked for."""
    for s in range(1, tableau.stages):
        counts[EVALS] += 1
        for i in range(y.size):
            if not math.isfinite(lanes.k[s, i, lane]):
                counts[COMPONENT] = i
                for m in range(y.size):
                    work.trial[m] = y[m]
                for j in range(s):
                    w = h * tableau.a[s, j]
                    if w != 0.0:
                        for m in range(y.size):
                            work.trial[m] += w * lanes.k[j, m, lane]
                return


@inlined
def _error(lanes, lane, task, h):  # type: ignore[no-untyped-def]
    """Error of one lane, as `explicit` has it."""
    n = lanes.y.shape[0]
    high, low = 0.0, 0.0
    for i in range(n):
        scale = task.atol + task.rtol * max(abs(lanes.y[i, lane]), abs(lanes.trial[i, lane]))
        high += (lanes.high[i, lane] / scale) ** 2
        low += (lanes.low[i, lane] / scale) ** 2
    total = high + 0.01 * low
    if total == 0.0:
        return 0.0
    return abs(h) * high / math.sqrt(total * n)


@unfolded
def _fill(rhs, observe, watch, tableau, task, events, work, batch, lanes):  # type: ignore[no-untyped-def]
    """Begin runs in the lanes that are free; returns how many lanes hold one."""
    busy = 0
    for lane in range(lanes.run.size):
        while lanes.run[lane] < 0 and lanes.place[0] < batch.trace.size:
            i = lanes.place[0]
            lanes.place[0], lanes.run[lane] = i + 1, i
            y, clock, counts = batch.y[i], batch.clock[i], batch.counts[i]
            for e in range(events.kind.size):
                events.threshold[e] = batch.threshold[i, e]
            here = _task(task, batch, i)
            begin(rhs, observe, watch, tableau, here, events, work, batch, y, clock, counts)
            copy(batch.trial[i], work.trial)
            for m in range(batch.par.shape[1]):
                lanes.par[m, lane] = batch.par[i, m]
            _put_back(lanes, lane, events, work, y)
            if counts[OUTCOME] != RUNNING:
                _end(lanes, lane, batch, i)
        busy += lanes.run[lane] >= 0
    return busy


@njit(
    types.int64(
        *[types.int64] * 6, TABLEAU_TYPE, TASK_TYPE, EVENTS_TYPE, WORK_TYPE, BATCH_TYPE,
        LANES_TYPE, types.int64,
    ),
    cache=True, no_cfunc_wrapper=True, **OPTIONS,
)  # fmt: skip
def fly_lanes(  # type: ignore[no-untyped-def]
    lanes_address, advance_address, rhs_address, observe_address, domain_address, watch_address,
    tableau, task, events, work, batch, lanes, budget,
):  # fmt: skip
    """Take up to `budget` attempts in all; returns how many runs ended, which `lanes.ended` names.

    The buffers must be empty. Runs are saved at their ends only, or at each step in rows that
    `lanes.owner` assigns to them; every event ends its run.
    """
    lanes_rhs, advance = lanes_rhs_at(lanes_address), advance_at(advance_address)
    rhs, observe = rhs_at(rhs_address), rhs_at(observe_address)
    domain, watch = domain_at(domain_address), watch_at(watch_address)
    saved, found = 0, 0
    lanes.place[1] = 0
    rows, room = work.out_t.size, work.event_t.size - 2 * SCAN * events.kind.size
    while budget > 0 and rows - saved >= lanes.run.size and found <= room:
        busy = _fill(rhs, observe, watch, tableau, task, events, work, batch, lanes)
        if busy == 0:
            break
        few = busy <= FEW and lanes.place[0] == batch.trace.size
        for lane in range(lanes.run.size):
            lanes.h[0, lane] = 0.0
            i = lanes.run[lane]
            if i >= 0 and not few:
                h, end, last = next_attempt(task, batch.clock[i], batch.counts[i])
                lanes.h[0, lane], lanes.end[lane], lanes.is_last[lane] = h, end, last
        if not few:
            _stages(lanes_rhs, tableau, task, lanes)
        for lane in range(lanes.run.size):
            i = lanes.run[lane]
            if i < 0:
                continue
            y, clock, counts = batch.y[i], batch.clock[i], batch.counts[i]
            counts[SAVED], counts[FOUND] = saved, found
            batch.rows[i, 0], batch.found[i, 0] = saved, found
            before = counts[STEPS] + counts[REJECTED]
            if counts[OUTCOME] == RUNNING:
                for e in range(events.kind.size):
                    events.threshold[e] = batch.threshold[i, e]
                here = _task(task, batch, i)
                if few:
                    _take_out(lanes, lane, 1, 1, events, work, y)
                    most = max(1, min(budget, batch.max_steps - before))
                    advance(
                        rhs, observe, domain, watch, tableau, here, events, work, y, clock, counts,
                        most,
                    )  # fmt: skip
                else:
                    h, reason, error = lanes.h[0, lane], BY_ERROR, math.inf
                    # All stages are read by events, and where stiffness is looked for.
                    whole = events.kind.size > 0 or (here.t_end - lanes.end[lane]) > here.worth * h
                    first = 1 if whole else tableau.stages - 1
                    _take_out(lanes, lane, first, tableau.stages, events, work, y)
                    if lanes.failed[0, lane] != 0.0:
                        reason = BY_NONFINITE
                        _blame(lanes, lane, tableau, h, work, y, counts)
                    else:
                        counts[EVALS] += tableau.stages - 1
                        error = _error(lanes, lane, here, h)
                    attempt = (h, lanes.end[lane], lanes.is_last[lane] != 0, reason, error)
                    settle(
                        rhs, observe, domain, watch, tableau, here, events, work, y, clock, counts,
                        attempt,
                    )  # fmt: skip
                flush(here, work, y, clock, counts)
                copy(batch.trial[i], work.trial)
                _put_back(lanes, lane, events, work, y)
            attempts = counts[STEPS] + counts[REJECTED]
            budget -= attempts - before
            for row in range(saved, counts[SAVED]):
                lanes.owner[row] = i
            saved, found = counts[SAVED], counts[FOUND]
            batch.rows[i, 1], batch.found[i, 1] = saved, found
            if counts[OUTCOME] != RUNNING or attempts >= batch.max_steps:
                _end(lanes, lane, batch, i)
    return lanes.place[1]

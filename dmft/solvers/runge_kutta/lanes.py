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
from dmft.solvers.runge_kutta.batch_loop import begin
from dmft.solvers.runge_kutta.explicit import flush, next_attempt, settle
from dmft.solvers.runge_kutta.interpolant import copy, inlined, unfolded
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
from dmft.solvers.signatures import (
    ADVANCE,
    BATCH_TYPE,
    DOMAIN,
    EVENTS_TYPE,
    LANES_RHS,
    LANES_TYPE,
    RHS,
    TABLEAU_TYPE,
    TASK_TYPE,
    WATCH,
    WORK_TYPE,
)

BUILT_ON = "872a88243e67c3da"

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
def _take_out(lanes, lane, stages, events, work, y):  # type: ignore[no-untyped-def]
    """Copy a lane into the buffers of a single run."""
    for i in range(y.size):
        y[i] = lanes.y[i, lane]
        work.trial[i] = lanes.trial[i, lane]
    for s in range(stages):
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
def _combine(lanes, tableau, s):  # type: ignore[no-untyped-def]
    """State of stage s, in the order of a single run."""
    width = lanes.run.size
    for i in range(lanes.y.shape[0]):
        for lane in range(width):
            lanes.trial[i, lane] = lanes.y[i, lane]
    for j in range(s):
        if tableau.a[s, j] != 0.0:
            for lane in range(width):
                lanes.weight[lane] = lanes.h[lane] * tableau.a[s, j]
            for i in range(lanes.y.shape[0]):
                for lane in range(width):
                    lanes.trial[i, lane] += lanes.weight[lane] * lanes.k[j, i, lane]


@inlined
def _estimates(lanes, tableau):  # type: ignore[no-untyped-def]
    """Sums over the stages of both error estimates."""
    n, width = lanes.y.shape[0], lanes.run.size
    for i in range(n):
        for lane in range(width):
            lanes.high[i, lane] = 0.0
            lanes.low[i, lane] = 0.0
    for j in range(tableau.stages):
        v, w = tableau.error[j], tableau.error_low[j]
        if v != 0.0 or w != 0.0:
            for i in range(n):
                for lane in range(width):
                    lanes.high[i, lane] += v * lanes.k[j, i, lane]
                    lanes.low[i, lane] += w * lanes.k[j, i, lane]


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


@inlined
def _stages(lanes_rhs, tableau, task, lanes):  # type: ignore[no-untyped-def]
    """Fill the stages of all lanes; `lanes.failed` tells in which one a lane met NaN, or 0."""
    n, width = lanes.y.shape[0], lanes.run.size
    for lane in range(width):
        lanes.failed[lane] = 0
    for s in range(1, tableau.stages):
        _combine(lanes, tableau, s)
        lanes_rhs(0.0, lanes.trial, task.widths, lanes.par, lanes.k[s])
        for i in range(n):
            for lane in range(width):
                if not math.isfinite(lanes.k[s, i, lane]) and lanes.failed[lane] == 0:
                    lanes.failed[lane], lanes.component[lane] = s, i
                    for m in range(n):
                        lanes.last[m, lane] = lanes.trial[m, lane]
    _estimates(lanes, tableau)


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
        LANES_RHS, ADVANCE, RHS, RHS, DOMAIN, WATCH, TABLEAU_TYPE, TASK_TYPE, EVENTS_TYPE,
        WORK_TYPE, BATCH_TYPE, LANES_TYPE, types.int64,
    ),
    cache=True, no_cfunc_wrapper=True, **OPTIONS,
)  # fmt: skip
def fly_lanes(  # type: ignore[no-untyped-def]
    lanes_rhs, advance, rhs, observe, domain, watch, tableau, task, events, work, batch, lanes,
    budget,
):  # fmt: skip
    """Take up to `budget` attempts in all; returns how many runs ended, which `lanes.ended` names.

    The buffers must be empty. Runs are saved at their ends only, and every event ends its run.
    """
    saved, found = 0, 0
    lanes.place[1] = 0
    rows, room = work.out_t.size, work.event_t.size - 2 * SCAN * events.kind.size
    while budget > 0 and rows - saved >= lanes.run.size and found <= room:
        busy = _fill(rhs, observe, watch, tableau, task, events, work, batch, lanes)
        if busy == 0:
            break
        few = busy <= FEW and lanes.place[0] == batch.trace.size
        for lane in range(lanes.run.size):
            lanes.h[lane] = 0.0
            i = lanes.run[lane]
            if i >= 0 and not few:
                h, end, last = next_attempt(task, batch.clock[i], batch.counts[i])
                lanes.h[lane], lanes.end[lane], lanes.is_last[lane] = h, end, last
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
                _take_out(lanes, lane, 1 if few else tableau.stages, events, work, y)
                if few:
                    most = max(1, min(budget, batch.max_steps - before))
                    advance(
                        rhs, observe, domain, watch, tableau, here, events, work, y, clock, counts,
                        most,
                    )  # fmt: skip
                else:
                    h, reason, error = lanes.h[lane], BY_ERROR, math.inf
                    counts[EVALS] += tableau.stages - 1
                    if lanes.failed[lane] > 0:
                        counts[EVALS] -= tableau.stages - 1 - lanes.failed[lane]
                        counts[COMPONENT], reason = lanes.component[lane], BY_NONFINITE
                        for m in range(y.size):
                            work.trial[m] = lanes.last[m, lane]
                    else:
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
            saved, found = counts[SAVED], counts[FOUND]
            batch.rows[i, 1], batch.found[i, 1] = saved, found
            if counts[OUTCOME] != RUNNING or attempts >= batch.max_steps:
                _end(lanes, lane, batch, i)
    return lanes.place[1]

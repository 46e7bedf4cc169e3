"""The adaptive explicit Runge-Kutta loop: compiled once, for every problem and both orders.

Everything that varies arrives as data (tableau, events, save times) or as a first-class compiled
function (right-hand side, observables, domain, search for events), so that the machine code is
cached on disk and is never built again.

The loop returns to Python after a bounded number of steps, or when a buffer is full; its whole
state lives in `y`, `clock`, `counts` and `Work`, so that it goes on as if it had never returned.
"""

from __future__ import annotations

import math

from numba import types

from dmft.compiled import njit
from dmft.solvers.runge_kutta.layout import (
    AFTER_REJECT,
    ASK,
    BOUND,
    BY_DOMAIN,
    BY_ERROR,
    BY_NONFINITE,
    COLLAPSED,
    COMPONENT,
    ERR,
    EVALS,
    H_DONE,
    HELD,
    HITS,
    KEEP,
    NEXT_SAVE,
    OPTIONS,
    OUTCOME,
    PENDING,
    REACHED,
    REASON,
    REJECTED,
    RUNNING,
    SCAN,
    SEARCH,
    SMALLEST_ERROR,
    STEPS,
    STIFF,
    T_OLD,
    H,
    T,
)
from dmft.solvers.runge_kutta.primitives import (
    attempts,
    compiled,
    copy,
    inlined,
    next_attempt,
    outside,
    unfolded,
)
from dmft.solvers.signatures import (
    ADVANCE_SIGNATURE,
    INTEGERS,
    MATRIX,
    VECTOR,
    WATCH_SIGNATURE,
    rhs_at,
)

BUILT_ON = "518e5ae3513f66d7"

SAFETY, SMALLEST_FACTOR, LARGEST_FACTOR = 0.9, 0.2, 10.0
# A step that met NaN or left the domain says nothing of the error: a plain cut.
FACTOR_NONFINITE, FACTOR_DOMAIN = 0.25, 0.5
# Orders 5 and 8 are stable up to h |lambda| = 3.3 and 6.1 on the negative axis; steps that
# stability holds wander below it, those that accuracy asks for are shorter than this part of the
# order. After so many more of the former than of the latter, the run is stiff.
STABLE, HELD_LONG = 0.4, 15


@inlined
def _combine(out, y, h, weights, k, count):  # type: ignore[no-untyped-def]
    """Write y + h * (sum of the first `count` weighted stages) into `out`."""
    for i in range(y.size):
        out[i] = y[i]
    for j in range(count):
        w = h * weights[j]
        if w != 0.0:
            for i in range(y.size):
                out[i] += w * k[j, i]


@inlined
def _evaluate(rhs, tableau, task, work, target, y, t, h, s, counts):  # type: ignore[no-untyped-def]
    """Fill stage s from the state `target`; False when a component is not finite."""
    _combine(target, y, h, tableau.a[s], work.k, s)
    rhs(t + tableau.c[s] * h, target, task.widths, task.par, work.k[s])
    counts[EVALS] += 1
    for i in range(y.size):
        if not math.isfinite(work.k[s, i]):
            counts[COMPONENT] = i
            return False
    return True


@inlined
def _error(tableau, task, work, y, h):  # type: ignore[no-untyped-def]
    """Weighted root mean square of the embedded error estimate; 1 is the tolerance."""
    n = y.size
    for i in range(n):
        work.high[i] = 0.0
        work.low[i] = 0.0
    for j in range(tableau.stages):
        v, w = tableau.error[j], tableau.error_low[j]
        if v != 0.0 or w != 0.0:
            for i in range(n):
                work.high[i] += v * work.k[j, i]
                work.low[i] += w * work.k[j, i]
    high, low = 0.0, 0.0
    for i in range(n):
        scale = task.atol + task.rtol * max(abs(y[i]), abs(work.trial[i]))
        high += (work.high[i] / scale) ** 2
        low += (work.low[i] / scale) ** 2
    total = high + 0.01 * low
    if total == 0.0:
        return 0.0
    return abs(h) * high / math.sqrt(total * n)


@compiled
def _prepare(rhs, tableau, task, work, y, t, h, counts):  # type: ignore[no-untyped-def]
    """Interpolant of the step just tried; False when an extra stage is not finite."""
    for s in range(tableau.stages, tableau.total - 1):
        if not _evaluate(rhs, tableau, task, work, work.point, y, t, h, s, counts):
            return False
    for d in range(tableau.dense.shape[0]):
        for i in range(y.size):
            work.dense[d, i] = 0.0
        for j in range(tableau.total - 1):
            w = tableau.dense[d, j]
            if w != 0.0:
                for i in range(y.size):
                    work.dense[d, i] += w * work.k[j, i]
    return True


@compiled
def _dense_error(rhs, tableau, task, work, y, t, h, counts):  # type: ignore[no-untyped-def]
    """Error estimate of the interpolant, 1 is what is taken; inf where its slope is not finite."""
    if not _evaluate(rhs, tableau, task, work, work.point, y, t, h, tableau.total - 1, counts):
        return math.inf
    total = 0.0
    for i in range(y.size):
        value = 0.0
        for j in range(tableau.total):
            value += tableau.defect[j] * work.k[j, i]
        scale = task.atol + task.rtol * max(abs(y[i]), abs(work.trial[i]))
        total += (value / scale) ** 2
    return abs(h) * math.sqrt(total / y.size) if y.size > 0 else 0.0


@inlined
def _try(rhs, tableau, task, work, y, t, h, counts):  # type: ignore[no-untyped-def]
    """Stages of one attempt; returns (reason, error)."""
    for s in range(1, tableau.stages):
        if not _evaluate(rhs, tableau, task, work, work.trial, y, t, h, s, counts):
            return BY_NONFINITE, math.inf
    return BY_ERROR, _error(tableau, task, work, y, h)


@inlined
def _look(rhs, domain, tableau, task, work, y, t, h, error, dense, counts):  # type: ignore[no-untyped-def]
    """Domain and interpolant of an attempt within tolerance; returns (reason, error) as `_try`."""
    if task.has_domain != 0 and outside(domain, task, work.trial, counts):
        return BY_DOMAIN, error
    if dense and not _prepare(rhs, tableau, task, work, y, t, h, counts):
        return BY_NONFINITE, math.inf
    return BY_ERROR, error


@compiled
def _reject(tableau, h, reason, error, clock, counts):  # type: ignore[no-untyped-def]
    """Shorten the step as the reason asks."""
    factor = FACTOR_NONFINITE if reason == BY_NONFINITE else FACTOR_DOMAIN
    if reason == BY_ERROR and math.isfinite(error):
        factor = max(SMALLEST_FACTOR, SAFETY * error ** (-1.0 / tableau.order))
    clock[H] = h * factor
    counts[REJECTED] += 1
    counts[REASON] = reason
    counts[AFTER_REJECT] = 1


@inlined
def _accept(tableau, task, work, y, t, h, error, clock, counts):  # type: ignore[no-untyped-def]
    """Move to the new state and choose the next step; returns the largest entry."""
    factor = LARGEST_FACTOR
    if error > 0.0:
        factor = SAFETY * error**-tableau.exponent * clock[ERR] ** tableau.memory
        factor = min(LARGEST_FACTOR, max(SMALLEST_FACTOR, factor))
    if counts[AFTER_REJECT] != 0:
        factor = min(1.0, factor)
    clock[ERR] = max(error, SMALLEST_ERROR)
    clock[T_OLD], clock[H_DONE], clock[H] = t, h, h * factor
    largest = 0.0
    for i in range(y.size):
        work.old[i] = y[i]
        y[i] = work.trial[i]
        work.k[0, i] = work.k[tableau.stages - 1, i]
        largest = max(largest, abs(y[i]))
    counts[AFTER_REJECT] = 0
    counts[PENDING] = 1
    counts[STEPS] += 1
    return largest


@compiled
def _is_held(tableau, work, n):  # type: ignore[no-untyped-def]
    """Whether the step is at the limit of stability, by two slopes at its end.

    Source      Hairer and Wanner, Solving Ordinary Differential Equations II (1996), IV.2
    """
    s, slopes, states = tableau.stages - 1, 0.0, 0.0
    for i in range(n):
        state = 0.0
        for j in range(s):
            state += (tableau.a[s, j] - tableau.a[s - 1, j]) * work.k[j, i]
        slopes += (work.k[s, i] - work.k[s - 1, i]) ** 2
        states += state * state
    return slopes > (STABLE * tableau.order) ** 2 * states


@inlined
def _is_near(observe, watch, tableau, task, events, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """Whether an event may happen in the step that was tried, by its ends and its middle.

    The middle is that of the cubic through values and slopes at both ends, without other stages.
    """
    last = tableau.stages - 1
    for i in range(y.size):
        bend = work.k[0, i] - work.k[last, i]
        work.point[i] = 0.5 * (y[i] + work.trial[i]) + 0.125 * clock[H_DONE] * bend
    watch(ASK, observe, task, events, work, y, clock, counts)
    return counts[HITS] > 0


@unfolded
def settle(rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts, attempt):  # type: ignore[no-untyped-def]
    """Accept or reject what was tried; when it is accepted, look for events and for the end."""
    h, end, last, reason, error = attempt
    t = clock[T]
    watched, i = events.kind.size > 0, counts[NEXT_SAVE]
    read = i < task.save.size and task.save[i] < end
    near = False
    if reason == BY_ERROR and error <= 1.0:
        if watched:
            copy(work.old, y)
            clock[T_OLD], clock[H_DONE] = t, h
            near = _is_near(observe, watch, tableau, task, events, work, y, clock, counts)
        dense = read or near
        reason, error = _look(rhs, domain, tableau, task, work, y, t, h, error, dense, counts)
    if reason == BY_ERROR and error <= 1.0:
        if near:
            watch(SEARCH, observe, task, events, work, y, clock, counts)
            read = read or counts[HITS] > 0
        if read:  # what is read from the interpolant is as accurate as the step
            error = max(error, _dense_error(rhs, tableau, task, work, y, t, h, counts))
            if not math.isfinite(error):
                reason = BY_NONFINITE
            if near and not (error <= 1.0):
                copy(work.sign, work.side)
    if reason != BY_ERROR or not (error <= 1.0):
        _reject(tableau, h, reason, error, clock, counts)
        return
    if (task.t_end - end) > task.worth * h:
        held = _is_held(tableau, work, y.size)
        counts[HELD] = counts[HELD] + 1 if held else max(0, counts[HELD] - 1)
    largest = _accept(tableau, task, work, y, t, h, error, clock, counts)
    clock[T] = end
    counts[OUTCOME] = REACHED if last else RUNNING
    if counts[HELD] >= HELD_LONG and not last:
        counts[OUTCOME] = STIFF
    if largest > task.bound:
        counts[OUTCOME] = BOUND
    if watched:
        watch(KEEP, observe, task, events, work, y, clock, counts)


@unfolded
def _step(rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """Try one step."""
    h, end, last = next_attempt(task, clock, counts)
    if counts[OUTCOME] == COLLAPSED:
        return
    reason, error = _try(rhs, tableau, task, work, y, clock[T], h, counts)
    attempt = (h, end, last, reason, error)
    settle(rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts, attempt)


_attempts = attempts(_step, 2 * SCAN)


@njit(WATCH_SIGNATURE, cache=True, no_cpython_wrapper=True, **OPTIONS)
def unwatched(what, observe, task, events, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """Stand in for what is done about events in a run without any."""


@njit(ADVANCE_SIGNATURE, cache=True, no_cpython_wrapper=True, **OPTIONS)
def advance(rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts, budget):  # type: ignore[no-untyped-def]
    """Take up to `budget` attempts; returns RUNNING or how the run ended.

    Before the first call: `work.k[0]` is the derivative at the start, `work.gap[:, 0]` and
    `work.sign` the event functions there, `clock[H]` the first step.
    """
    return _attempts(
        rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts, budget
    )


@njit(types.void(types.int64, VECTOR, MATRIX, INTEGERS, VECTOR, MATRIX), cache=True, **OPTIONS)
def evaluate_rows(address, t, y, widths, par, out):  # type: ignore[no-untyped-def]
    """Apply a function of signature RHS to each row of `y` (T, n) -> `out` (T, m)."""
    function = rhs_at(address)
    for i in range(t.size):
        function(t[i], y[i], widths, par, out[i])


@njit(types.void(types.int64, VECTOR, MATRIX, INTEGERS, MATRIX, MATRIX), cache=True, **OPTIONS)
def observe_ends(address, t, y, widths, par, out):  # type: ignore[no-untyped-def]
    """Apply a function of signature RHS to each row of `y` (n, size) with its row of `par`."""
    function = rhs_at(address)
    for i in range(t.size):
        function(t[i], y[i], widths, par[i], out[i])


@njit(types.void(types.float64, VECTOR, INTEGERS, VECTOR, VECTOR), cache=True, **OPTIONS)
def nothing(t, y, widths, par, out):  # type: ignore[no-untyped-def]
    """Stand in for absent observables."""


@njit(types.float64(VECTOR, INTEGERS, VECTOR, types.float64), cache=True, **OPTIONS)
def everywhere(y, widths, par, shift):  # type: ignore[no-untyped-def]
    """Stand in for an absent domain."""
    return 1.0

"""The adaptive explicit Runge-Kutta loop: compiled once, for every problem and both orders.

Everything that varies arrives as data (tableau, events, save times) or as a first-class compiled
function (right-hand side, observables, domain), so that the machine code is cached on disk and
is never built again. All of it stays in this one file on purpose: Numba's cache notices a change
of the file that holds the entry point, not of files that it imports.

The loop returns to Python after a bounded number of steps, or when a buffer is full; its whole
state lives in `y`, `clock`, `counts` and `Work`, so that it goes on as if it had never returned.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import Any, NamedTuple

from numba import njit, types

from dmft.solvers.signatures import DOMAIN, INTEGERS, MATRIX, RHS, VECTOR
from dmft.solvers.tableau import Tableau

# Why the loop came back.
RUNNING, REACHED, EVENT, BOUND, COLLAPSED = 0, 1, 2, 3, 4
# Why the last attempt was rejected.
BY_ERROR, BY_NONFINITE, BY_DOMAIN = 0, 1, 2
# Entries of `clock`: now, next step, previous error, start and length of the last step taken.
T, H, ERR, T_OLD, H_DONE, CLOCK_SIZE = 0, 1, 2, 3, 4, 5
# Entries of `counts`. PENDING: the last step still has points to save; BAND: steps that ended
# outside the domain but within its band; COMPONENT: first entry that was not finite.
STEPS, REJECTED, EVALS, NEXT_SAVE, SAVED, FOUND, BAND = 0, 1, 2, 3, 4, 5, 6
REASON, COMPONENT, PENDING, AFTER_REJECT, OUTCOME, HITS, COUNTS_SIZE = 7, 8, 9, 10, 11, 12, 13
# What an event watches.
STATE, OBSERVABLE, COSINE = 0, 1, 2

SAFETY, SMALLEST_FACTOR, LARGEST_FACTOR = 0.9, 0.2, 10.0
# A step that met NaN or left the domain says nothing of the error: a plain cut.
FACTOR_NONFINITE, FACTOR_DOMAIN = 0.25, 0.5
SMALLEST_ERROR = 1e-4
# Below ten units in the last place of t, stage times cease to be distinct.
STEP_ULPS = 10 * 2.220446049250313e-16
# Perfect recovery makes the covariance singular: it may dip below zero by this many tolerances
# (times its scale) before the step counts as outside. The deepest dip in 288 recoveries (erf,
# square, He2, He3; p = 1..3; free and on the sphere; rtol 1e-4..1e-10) was 1.9 tolerances.
DOMAIN_BAND = 30.0
# More than degree + 1 = 8 points a step see every pair of crossings of the interpolant but those
# within a fraction of a sub-interval, which the parabola test looks for.
SCAN = 8
ROOT_ITERATIONS = 100
ROOT_WIDTH = 1e-15


class Task(NamedTuple):
    """What does not change during a run; `save` is empty when each step is saved."""

    widths: Any
    par: Any
    save: Any
    rtol: float
    atol: float
    t_end: float
    max_step: float
    bound: float
    trace: float
    has_domain: int


class Events(NamedTuple):
    """Thresholds as data; a COSINE event is the largest of the terms first <= i < last."""

    kind: Any
    first: Any
    last: Any
    threshold: Any
    direction: Any
    terminal: Any
    numerator: Any
    denominator: Any
    weight: Any


class Work(NamedTuple):
    """Buffers, allocated by the caller for n entries, S stages, E events."""

    k: Any  # (total, n) stages
    dense: Any  # (degree, n) interpolant of the last step
    trial: Any  # (n,) stage, then the new state
    old: Any  # (n,) state at T_OLD
    point: Any  # (n,) a point on the interpolant
    high: Any  # (n,) error estimates
    low: Any  # (n,)
    seen: Any  # (m,) observables at `point`
    gap: Any  # (E, SCAN + 1) event functions
    sign: Any  # (E,) side on which each event function was last seen
    hit_theta: Any  # (2 SCAN E,)
    hit_event: Any  # (2 SCAN E,)
    out_t: Any  # (rows,)
    out_y: Any  # (rows, n)
    out_step: Any  # (rows,)
    event_t: Any  # (rows_e,)
    event_y: Any  # (rows_e, n)
    event_id: Any  # (rows_e,)


_F8, _I8 = types.float64, types.int64
TABLEAU_TYPE = types.NamedTuple(
    (_I8, _I8, _I8, MATRIX, VECTOR, VECTOR, VECTOR, MATRIX, _F8, _F8), Tableau
)
TASK_TYPE = types.NamedTuple((INTEGERS, VECTOR, VECTOR, _F8, _F8, _F8, _F8, _F8, _F8, _I8), Task)
EVENTS_TYPE = types.NamedTuple(
    (INTEGERS, INTEGERS, INTEGERS, VECTOR, INTEGERS, INTEGERS, INTEGERS, INTEGERS, VECTOR), Events
)
WORK_TYPE = types.NamedTuple(
    (
        *(MATRIX, MATRIX, VECTOR, VECTOR, VECTOR, VECTOR, VECTOR, VECTOR, MATRIX, VECTOR),
        *(VECTOR, INTEGERS, VECTOR, MATRIX, INTEGERS, VECTOR, MATRIX, INTEGERS),
    ),
    Work,
)

# Every array belongs to the caller, so no reference is counted here: with counting, passing the
# tuples around costs as much as a third of a run.
OPTIONS = {"error_model": "numpy", "nogil": True, "_nrt": False}
compiled = njit(**OPTIONS)


@compiled
def _copy(target, source):  # type: ignore[no-untyped-def]
    # An assignment of slices would compile a second of shape checks into the loop.
    for i in range(source.size):
        target[i] = source[i]


@compiled
def _combine(out, y, h, weights, k, count):  # type: ignore[no-untyped-def]
    """Write y + h * (sum of the first `count` weighted stages) into `out`."""
    for i in range(y.size):
        out[i] = y[i]
    for j in range(count):
        w = h * weights[j]
        if w != 0.0:
            for i in range(y.size):
                out[i] += w * k[j, i]


@compiled
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


@compiled
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
def _outside(domain, task, y, counts):  # type: ignore[no-untyped-def]
    """True when `y` is outside the domain by more than the band of rounding and tolerance."""
    if domain(y, task.widths, task.par, 0.0) >= 0.0:
        return False
    scale = task.trace
    for i in range(y.size):
        scale = max(scale, abs(y[i]))
    shift = DOMAIN_BAND * (task.atol + task.rtol * scale)
    if domain(y, task.widths, task.par, shift) >= 0.0:
        counts[BAND] += 1
        return False
    return True


@compiled
def _interpolate(work, h, theta):  # type: ignore[no-untyped-def]
    """Write the interpolant of the last step at T_OLD + theta h into `work.point`."""
    degree = work.dense.shape[0]
    for i in range(work.old.size):
        value = 0.0
        for d in range(degree - 1, -1, -1):
            value = (work.dense[d, i] + value) * (theta if d % 2 == 0 else 1.0 - theta)
        work.point[i] = work.old[i] + h * value


@compiled
def read_event(events, work, e):  # type: ignore[no-untyped-def]
    """Event function e at `work.point` (and `work.seen`, which must be up to date)."""
    kind = events.kind[e]
    if kind == STATE:
        return work.point[events.first[e]] - events.threshold[e]
    if kind == OBSERVABLE:
        return work.seen[events.first[e]] - events.threshold[e]
    largest = 0.0
    for i in range(events.first[e], events.last[e]):
        norm = work.point[events.denominator[i]] * events.weight[i]
        largest = max(largest, abs(work.point[events.numerator[i]]) / math.sqrt(norm))
    return largest - events.threshold[e]


@compiled
def _gap(observe, task, events, work, clock, e, theta):  # type: ignore[no-untyped-def]
    """Event function e on the interpolant."""
    h, t = clock[H_DONE], clock[T_OLD] + theta * clock[H_DONE]
    _interpolate(work, h, theta)
    if events.kind[e] == OBSERVABLE:
        observe(t, work.point, task.widths, task.par, work.seen)
    return read_event(events, work, e)


@compiled
def _root(observe, task, events, work, clock, e, lo, hi, g_lo, g_hi):  # type: ignore[no-untyped-def]
    """Root of event function e in a bracket: Illinois secants, halved now and then."""
    side = 0
    for iteration in range(ROOT_ITERATIONS):
        if g_lo == 0.0:
            return lo
        if g_hi == 0.0 or hi - lo <= ROOT_WIDTH:
            return hi
        middle = lo - g_lo * (hi - lo) / (g_hi - g_lo)
        if iteration % 8 == 7 or not (lo < middle < hi):
            middle = 0.5 * (lo + hi)
            if middle in (lo, hi):
                return hi
        g = _gap(observe, task, events, work, clock, e, middle)
        if g * g_hi > 0.0:
            hi, g_hi = middle, g
            g_lo *= 0.5 if side == -1 else 1.0
            side = -1
        else:
            lo, g_lo = middle, g
            g_hi *= 0.5 if side == 1 else 1.0
            side = 1
    return hi


@compiled
def _hit(observe, task, events, work, clock, counts, e, lo, hi, g_lo, g_hi):  # type: ignore[no-untyped-def]
    """Locate the crossing in a bracket and keep it when its direction is wanted."""
    if events.direction[e] * work.sign[e] > 0.0:
        return
    if g_lo * g_hi > 0.0:  # the point itself was seen at zero
        g_lo = 0.0
    i = counts[HITS]
    work.hit_theta[i] = _root(observe, task, events, work, clock, e, lo, hi, g_lo, g_hi)
    work.hit_event[i] = e
    counts[HITS] = i + 1


@compiled
def _vertex(work, e, i):  # type: ignore[no-untyped-def]
    """Where the parabola through three scan points turns, if inside interval i; else -1."""
    j = min(max(i - 1, 0), SCAN - 2)
    g0, g1, g2 = work.gap[e, j], work.gap[e, j + 1], work.gap[e, j + 2]
    bend = g0 - 2.0 * g1 + g2
    if bend * work.sign[e] <= 0.0:
        return -1.0
    x = j + 1 + 0.5 * (g0 - g2) / bend
    return x / SCAN if i < x < i + 1 else -1.0


@compiled
def _scan_one(observe, task, events, work, clock, counts, e):  # type: ignore[no-untyped-def]
    """Find the crossings of event function e in the last step."""
    for i in range(SCAN):
        left, right = work.gap[e, i], work.gap[e, i + 1]
        if math.isnan(right):
            continue
        sign = work.sign[e]
        if sign == 0.0 or math.isnan(left):
            work.sign[e] = math.copysign(1.0, right) if right != 0.0 else 0.0
            continue
        lo, hi = i / SCAN, (i + 1) / SCAN
        if right * sign > 0.0:
            theta = _vertex(work, e, i)
            if theta < 0.0:
                continue
            turn = _gap(observe, task, events, work, clock, e, theta)
            if turn * sign > 0.0 or math.isnan(turn):
                continue
            _hit(observe, task, events, work, clock, counts, e, lo, theta, left, turn)
            work.sign[e] = -sign
            lo, left = theta, turn
        _hit(observe, task, events, work, clock, counts, e, lo, hi, left, right)
        work.sign[e] = -work.sign[e]


@compiled
def _scan(observe, task, events, work, clock, counts):  # type: ignore[no-untyped-def]
    """Evaluate all event functions along the last step, find crossings, sort them by time."""
    count = events.kind.size
    for i in range(1, SCAN + 1):
        theta = i / SCAN
        t = clock[T_OLD] + theta * clock[H_DONE]
        _interpolate(work, clock[H_DONE], theta)
        if work.seen.size > 0:
            observe(t, work.point, task.widths, task.par, work.seen)
        for e in range(count):
            work.gap[e, i] = read_event(events, work, e)
    counts[HITS] = 0
    for e in range(count):
        _scan_one(observe, task, events, work, clock, counts, e)
        work.gap[e, 0] = work.gap[e, SCAN]
    for i in range(1, counts[HITS]):
        j = i
        while j > 0 and work.hit_theta[j - 1] > work.hit_theta[j]:
            a, b = work.hit_theta[j - 1], work.hit_event[j - 1]
            work.hit_theta[j - 1], work.hit_event[j - 1] = work.hit_theta[j], work.hit_event[j]
            work.hit_theta[j], work.hit_event[j] = a, b
            j -= 1


@compiled
def _watch(observe, task, events, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """Note the crossings of the last step; a terminal one ends the run at its time."""
    _scan(observe, task, events, work, clock, counts)
    for i in range(counts[HITS]):
        theta, e, row = work.hit_theta[i], work.hit_event[i], counts[FOUND]
        _interpolate(work, clock[H_DONE], theta)
        work.event_t[row] = clock[T_OLD] + theta * clock[H_DONE]
        _copy(work.event_y[row], work.point)
        work.event_id[row] = e
        counts[FOUND] += 1
        if events.terminal[e] != 0:
            clock[T] = work.event_t[row]
            _copy(y, work.point)
            counts[OUTCOME] = EVENT
            return


@compiled
def _flush(task, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """Save what the last step owes; False when the buffer is full and something is still owed."""
    if counts[PENDING] == 0:
        return True
    rows = work.out_t.size
    if task.save.size == 0:
        if counts[SAVED] == rows:
            return False
        work.out_t[counts[SAVED]] = clock[T]
        _copy(work.out_y[counts[SAVED]], y)
        work.out_step[counts[SAVED]] = counts[STEPS]
        counts[SAVED] += 1
    while counts[NEXT_SAVE] < task.save.size and task.save[counts[NEXT_SAVE]] <= clock[T]:
        row = counts[SAVED]
        if row == rows:
            return False
        when = task.save[counts[NEXT_SAVE]]
        _interpolate(work, clock[H_DONE], (when - clock[T_OLD]) / clock[H_DONE])
        work.out_t[row] = when
        _copy(work.out_y[row], work.point)
        work.out_step[row] = counts[STEPS]
        counts[SAVED] += 1
        counts[NEXT_SAVE] += 1
    counts[PENDING] = 0
    return True


@compiled
def _prepare(rhs, tableau, task, work, y, t, h, counts):  # type: ignore[no-untyped-def]
    """Interpolant of the step just tried; False when an extra stage is not finite."""
    for s in range(tableau.stages, tableau.total):
        if not _evaluate(rhs, tableau, task, work, work.point, y, t, h, s, counts):
            return False
    for d in range(tableau.dense.shape[0]):
        for i in range(y.size):
            work.dense[d, i] = 0.0
        for j in range(tableau.total):
            w = tableau.dense[d, j]
            if w != 0.0:
                for i in range(y.size):
                    work.dense[d, i] += w * work.k[j, i]
    return True


@compiled
def _try(rhs, domain, tableau, task, work, y, t, h, dense, counts):  # type: ignore[no-untyped-def]
    """One attempt; returns (reason, error), acceptable when BY_ERROR and error <= 1."""
    for s in range(1, tableau.stages):
        if not _evaluate(rhs, tableau, task, work, work.trial, y, t, h, s, counts):
            return BY_NONFINITE, math.inf
    error = _error(tableau, task, work, y, h)
    if not (error <= 1.0):
        return BY_ERROR, error
    if task.has_domain != 0 and _outside(domain, task, work.trial, counts):
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


@compiled
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
def _step(rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """Try one step and, when it is accepted, look for events and for the end."""
    t, h = clock[T], min(clock[H], task.max_step)
    smallest = STEP_ULPS * abs(t)
    last = t + h * (1.0 + 1e-10) >= task.t_end
    if last:
        h = task.t_end - t
    elif h <= smallest:
        counts[OUTCOME] = COLLAPSED
        return
    watched = events.kind.size > 0
    i = counts[NEXT_SAVE]
    dense = watched or (i < task.save.size and task.save[i] <= t + h)
    reason, error = _try(rhs, domain, tableau, task, work, y, t, h, dense, counts)
    if reason != BY_ERROR or not (error <= 1.0):
        _reject(tableau, h, reason, error, clock, counts)
        return
    largest = _accept(tableau, task, work, y, t, h, error, clock, counts)
    clock[T] = task.t_end if last else t + h
    counts[OUTCOME] = REACHED if last else RUNNING
    if largest > task.bound:
        counts[OUTCOME] = BOUND
    if watched:
        watch(observe, task, events, work, y, clock, counts)


# The search for events is handed over as a first-class function and compiled at the first run that
# has events: part of `advance`, it would double what every first run waits for.
WATCH_SIGNATURE = types.void(RHS, TASK_TYPE, EVENTS_TYPE, WORK_TYPE, VECTOR, VECTOR, INTEGERS)
WATCH = types.FunctionType(WATCH_SIGNATURE)
ADVANCE_SIGNATURE = types.int64(
    RHS, RHS, DOMAIN, WATCH, TABLEAU_TYPE, TASK_TYPE, EVENTS_TYPE, WORK_TYPE,
    VECTOR, VECTOR, INTEGERS, types.int64,
)  # fmt: skip


@njit(WATCH_SIGNATURE, cache=True, **OPTIONS)
def unwatched(observe, task, events, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """Stand in for the search for events in a run without any."""


_COMPILING = threading.Lock()


@lru_cache(maxsize=1)
def _compiled_watch() -> Any:
    return njit(WATCH_SIGNATURE, cache=True, **OPTIONS)(_watch.py_func)


def watch_function(events: int) -> Any:
    """Return the compiled search for so many events."""
    if events == 0:
        return unwatched
    with _COMPILING:
        return _compiled_watch()


@njit(ADVANCE_SIGNATURE, cache=True, **OPTIONS)
def advance(rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts, budget):  # type: ignore[no-untyped-def]
    """Take up to `budget` attempts; returns RUNNING or how the run ended.

    Before the first call: `work.k[0]` is the derivative at the start, `work.gap[:, 0]` and
    `work.sign` the event functions there, `clock[H]` the first step.
    """
    room = work.event_t.size - 2 * SCAN * events.kind.size
    for _ in range(budget):
        if not _flush(task, work, y, clock, counts):
            return RUNNING
        if counts[OUTCOME] != RUNNING:
            return counts[OUTCOME]
        if counts[FOUND] > room:
            return RUNNING
        _step(rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts)
    return RUNNING


@njit(types.void(RHS, VECTOR, MATRIX, INTEGERS, VECTOR, MATRIX), cache=True, **OPTIONS)
def evaluate_rows(function, t, y, widths, par, out):  # type: ignore[no-untyped-def]
    """Apply a function of signature RHS to each row of `y` (T, n) -> `out` (T, m)."""
    for i in range(t.size):
        function(t[i], y[i], widths, par, out[i])


@njit(types.void(types.float64, VECTOR, INTEGERS, VECTOR, VECTOR), cache=True, **OPTIONS)
def nothing(t, y, widths, par, out):  # type: ignore[no-untyped-def]
    """Stand in for absent observables."""


@njit(types.float64(VECTOR, INTEGERS, VECTOR, types.float64), cache=True, **OPTIONS)
def everywhere(y, widths, par, shift):  # type: ignore[no-untyped-def]
    """Stand in for an absent domain."""
    return 1.0

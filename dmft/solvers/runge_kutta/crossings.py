"""The search for events on the dense output of a step: compiled apart from the loop.

Each event function is read at both ends and in the middle of a step. Where one is not farther from
zero than its range there, all are read at `SCAN` points. Where two neighbours have the same sign,
the parabola through three of them is asked whether it turns back across zero in between. A crossing
is then located by bracketed secants. A value of exactly zero counts as having crossed, but the
start of a run does not.
"""

from __future__ import annotations

import math

from dmft.compiled import njit
from dmft.solvers.runge_kutta.layout import (
    ASK,
    EVENT,
    FOUND,
    H_DONE,
    HITS,
    KEEP,
    OBSERVABLE,
    OPTIONS,
    OUTCOME,
    SCAN,
    SEARCH,
    T_OLD,
    T,
)
from dmft.solvers.runge_kutta.primitives import compiled, copy, interpolate, read_gap, take_sides
from dmft.solvers.signatures import WATCH_SIGNATURE

BUILT_ON = "dcb060e303a28162"

ROOT_ITERATIONS = 100
ROOT_WIDTH = 1e-15


@compiled
def _gap(observe, task, events, work, clock, e, theta):  # type: ignore[no-untyped-def]
    """Event function e on the interpolant."""
    h, t = clock[H_DONE], clock[T_OLD] + theta * clock[H_DONE]
    interpolate(work, h, theta)
    if events.kind[e] == OBSERVABLE:
        observe(t, work.point, task.widths, task.par, work.seen)
    return read_gap(events, work.point, work.seen, e)


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
        interpolate(work, clock[H_DONE], theta)
        if work.seen.size > 0:
            observe(t, work.point, task.widths, task.par, work.seen)
        for e in range(count):
            work.gap[e, i] = read_gap(events, work.point, work.seen, e)
    counts[HITS] = 0
    for e in range(count):
        _scan_one(observe, task, events, work, clock, counts, e)
    for i in range(1, counts[HITS]):
        j = i
        while j > 0 and work.hit_theta[j - 1] > work.hit_theta[j]:
            a, b = work.hit_theta[j - 1], work.hit_event[j - 1]
            work.hit_theta[j - 1], work.hit_event[j - 1] = work.hit_theta[j], work.hit_event[j]
            work.hit_theta[j], work.hit_event[j] = a, b
            j -= 1


@compiled
def _ask(observe, task, events, work, clock, counts):  # type: ignore[no-untyped-def]
    """Set `counts[HITS]` to 1 where an event function may be zero in the step, by three points.

    `work.point` is the middle. A parabola leaves the range of three points by an eighth of it.
    """
    count, h = events.kind.size, clock[H_DONE]
    counts[HITS] = 0
    if work.seen.size > 0:
        observe(clock[T_OLD] + 0.5 * h, work.point, task.widths, task.par, work.seen)
    for e in range(count):
        work.gap[e, 1] = read_gap(events, work.point, work.seen, e)
    if work.seen.size > 0:
        observe(clock[T_OLD] + h, work.trial, task.widths, task.par, work.seen)
    for e in range(count):
        left, middle = work.gap[e, 0] * work.sign[e], work.gap[e, 1] * work.sign[e]
        right = read_gap(events, work.trial, work.seen, e)
        work.gap[e, SCAN], right = right, right * work.sign[e]
        least, most = min(left, middle, right), max(left, middle, right)
        # NaN compares as false.
        if not (least > most - least and left > 0.0 and middle > 0.0 and right > 0.0):
            counts[HITS] = 1


@compiled
def _keep(events, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """Keep the events of an accepted step; a terminal one ends the run at its time."""
    for e in range(events.kind.size):
        work.gap[e, 0] = work.gap[e, SCAN]
    for i in range(counts[HITS]):
        theta, e, row = work.hit_theta[i], work.hit_event[i], counts[FOUND]
        interpolate(work, clock[H_DONE], theta)
        work.event_t[row] = clock[T_OLD] + theta * clock[H_DONE]
        copy(work.event_y[row], work.point)
        work.event_id[row] = e
        counts[FOUND] += 1
        if events.terminal[e] != 0:
            clock[T] = work.event_t[row]
            copy(y, work.point)
            counts[OUTCOME] = EVENT
            return


@njit(WATCH_SIGNATURE, cache=True, no_cpython_wrapper=True, **OPTIONS)
def watch(what, observe, task, events, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """Look for crossings in the step that was tried: `counts[HITS]` of them, in order of time.

    That is SEARCH; ASK tells whether there can be any. SIDES comes before the first step, KEEP when
    the step is accepted.
    """
    if what == ASK:
        _ask(observe, task, events, work, clock, counts)
    elif what == SEARCH:
        copy(work.side, work.sign)
        _scan(observe, task, events, work, clock, counts)
    elif what == KEEP:
        _keep(events, work, y, clock, counts)
    else:
        take_sides(observe, task, events, work, y, clock)

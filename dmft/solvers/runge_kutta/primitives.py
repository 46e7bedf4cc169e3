"""What compiled loops are made of: options, the interpolant of a step, questions about a state."""

from __future__ import annotations

import math
from typing import Any

from dmft.compiled import njit
from dmft.solvers.runge_kutta.layout import (
    BAND,
    COLLAPSED,
    DOMAIN_BAND,
    FOUND,
    H_DONE,
    NEXT_SAVE,
    OBSERVABLE,
    OPTIONS,
    OUTCOME,
    PENDING,
    RUNNING,
    SAVED,
    STATE,
    STEP_ULPS,
    STEPS,
    T_OLD,
    H,
    T,
)

compiled = njit(inner=True, **OPTIONS)
# A call that is not inlined copies its records of arrays, hundreds of words: what is called in
# every step goes into its caller (a step of a small problem is then three to seven times faster).
inlined = njit(forceinline=True, inner=True, **OPTIONS)
# What is called once and calls much itself: LLVM need not see it twice.
unfolded = njit(inline="always", inner=True, **OPTIONS)


@compiled
def copy(target, source):  # type: ignore[no-untyped-def]
    """Copy entry by entry."""
    # An assignment of slices would compile a second of shape checks into the loop.
    for i in range(source.size):
        target[i] = source[i]


@compiled
def interpolate(work, h, theta):  # type: ignore[no-untyped-def]
    """Write the interpolant of the last step at T_OLD + theta h into `work.point`."""
    degree = work.dense.shape[0]
    for i in range(work.old.size):
        value = 0.0
        for d in range(degree - 1, -1, -1):
            value = (work.dense[d, i] + value) * (theta if d % 2 == 0 else 1.0 - theta)
        work.point[i] = work.old[i] + h * value


@inlined
def read_gap(events, point, seen, e):  # type: ignore[no-untyped-def]
    """Event function e (quantity minus threshold) at `point`, where `seen` holds observables."""
    kind = events.kind[e]
    if kind == STATE:
        return point[events.first[e]] - events.threshold[e]
    if kind == OBSERVABLE:
        return seen[events.first[e]] - events.threshold[e]
    largest = 0.0
    for i in range(events.first[e], events.last[e]):
        norm = point[events.denominator[i]] * events.weight[i]
        largest = max(largest, abs(point[events.numerator[i]]) / math.sqrt(norm))
    return largest - events.threshold[e]


@inlined
def in_tolerances(x, y, task):  # type: ignore[no-untyped-def]
    """Root mean square of x in units of the tolerance at y."""
    total = 0.0
    for i in range(y.size):
        total += (x[i] / (task.atol + task.rtol * abs(y[i]))) ** 2
    return math.sqrt(total / y.size) if y.size > 0 else 0.0


@inlined
def take_sides(observe, task, events, work, y, clock):  # type: ignore[no-untyped-def]
    """Event functions at the start of a run, and on which side of the thresholds they are."""
    if work.seen.size > 0:
        observe(clock[T], y, task.widths, task.par, work.seen)
    for e in range(events.kind.size):
        value = read_gap(events, y, work.seen, e)
        work.gap[e, 0] = value
        # On the threshold itself, or where it is not defined, a run has no side.
        work.sign[e] = 1.0 if value > 0.0 else (-1.0 if value < 0.0 else 0.0)


@inlined
def outside(domain, task, y, counts):  # type: ignore[no-untyped-def]
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


@inlined
def flush(task, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """Save what the last step owes; False when the buffer is full and something is still owed."""
    if counts[PENDING] == 0:
        return True
    rows = work.out_t.size
    if task.save.size == 0:
        if counts[SAVED] == rows:
            return False
        work.out_t[counts[SAVED]] = clock[T]
        copy(work.out_y[counts[SAVED]], y)
        work.out_step[counts[SAVED]] = counts[STEPS]
        counts[SAVED] += 1
    while counts[NEXT_SAVE] < task.save.size and task.save[counts[NEXT_SAVE]] <= clock[T]:
        row = counts[SAVED]
        if row == rows:
            return False
        when = task.save[counts[NEXT_SAVE]]
        work.out_t[row] = when
        if when == clock[T]:
            copy(work.out_y[row], y)
        else:
            interpolate(work, clock[H_DONE], (when - clock[T_OLD]) / clock[H_DONE])
            copy(work.out_y[row], work.point)
        work.out_step[row] = counts[STEPS]
        counts[SAVED] += 1
        counts[NEXT_SAVE] += 1
    counts[PENDING] = 0
    return True


@inlined
def next_attempt(task, clock, counts):  # type: ignore[no-untyped-def]
    """Length and end of the next step, and whether it is the last; COLLAPSED where it is none."""
    t, h = clock[T], min(clock[H], task.max_step)
    smallest = STEP_ULPS * abs(t)
    last = t + h * (1.0 + 1e-10) >= task.t_end
    if last:
        h = task.t_end - t
    elif h <= smallest:
        counts[OUTCOME] = COLLAPSED
    return h, task.t_end if last else t + h, last


def attempts(step: Any, hits: int) -> Any:
    """Loop over steps (rhs, ..., counts), of which each finds at most so many times an event."""

    @inlined
    def take(rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts, budget):  # type: ignore[no-untyped-def]
        """Take up to `budget` attempts; returns RUNNING or how the run ended."""
        room = work.event_t.size - hits * events.kind.size
        for _ in range(budget):
            if not flush(task, work, y, clock, counts):
                return RUNNING
            if counts[OUTCOME] != RUNNING:
                return counts[OUTCOME]
            if counts[FOUND] > room:
                return RUNNING
            step(rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts)
        return RUNNING

    return take

"""What every compiled loop asks of a state: which side of a threshold, inside the domain or not."""

from __future__ import annotations

import math

from dmft.solvers.runge_kutta.interpolant import inlined
from dmft.solvers.runge_kutta.layout import BAND, DOMAIN_BAND, OBSERVABLE, STATE, T


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

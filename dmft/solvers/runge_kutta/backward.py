"""Backward differentiation of orders 1 to 5, for stiff flows: compiled once, for every problem.

Source      the modified formulas (NDF) of Shampine and Reichelt, SIAM J. Sci. Comput. 18 (1997) 1,
            in backward differences at a constant step: where the step changes, they are those of
            the same polynomial at the new spacing.

Same records and endings as the explicit loop of `explicit.py`. The Jacobian is made of differences
of the right-hand side, and kept until Newton's method no longer converges with it. Rows of
`work.k`: backward differences, a copy of them, vectors of Newton's method, the factorised matrix
I - c J, the Jacobian J. Matrices are stored by columns, so that inner loops are over neighbours.
"""

from __future__ import annotations

import math

import numpy as np

from dmft.compiled import njit
from dmft.solvers.runge_kutta.layout import (
    AFTER_REJECT,
    BOUND,
    BY_DOMAIN,
    BY_ERROR,
    BY_NONFINITE,
    C_BUILT,
    COLLAPSED,
    COMPONENT,
    EQUAL,
    EVALS,
    H_BUILT,
    H_DONE,
    JACOBIAN,
    KEEP,
    NEXT_SAVE,
    OPTIONS,
    ORDER,
    OUTCOME,
    PENDING,
    REACHED,
    REASON,
    REJECTED,
    RUNNING,
    SCAN,
    SEARCH,
    STEPS,
    T_OLD,
    H,
    T,
)
from dmft.solvers.runge_kutta.primitives import (
    attempts,
    compiled,
    in_tolerances,
    inlined,
    next_attempt,
    outside,
    unfolded,
)
from dmft.solvers.runge_kutta.tableau import HIGHEST, MATRIX_ROWS
from dmft.solvers.signatures import ADVANCE_SIGNATURE

BUILT_ON = "6d9d604b10948863"

# Rows of `work.k`; the matrices come behind them.
COPY, KNOWN, CHANGE, MOVE, SLOPE, GUESS, PIVOT = 8, 14, 15, 16, 17, 18, 19
# Of the paper's table 1; entry q is that of order q.
KAPPA = np.array([0.0, -0.1850, -1.0 / 9.0, -0.0823, -0.0415, 0.0])
SUMS = np.array([sum(1.0 / j for j in range(1, q + 1)) for q in range(HIGHEST + 1)])
LEADING = (1.0 - KAPPA) * SUMS
# Errors of steps add up: at this part of the tolerance a run ends within ten tolerances of its
# truth at rtol 1e-5 .. 1e-10 (a test says so; logistic growth at 1e-7: 36 without it, 4 with it).
STRICT = 0.07
ERRORS = (KAPPA * SUMS + 1.0 / np.arange(1.0, HIGHEST + 2.0)) / STRICT
MOST_ITERATIONS = 4
# Newton's method converges to this part of the tolerance.
SMALLEST_NEWTON, LARGEST_NEWTON = 10 * 2.220446049250313e-16, 0.03
# A correction below this part of that needs no other.
NEGLIGIBLE = 0.01
SMALLEST_FACTOR, LARGEST_FACTOR = 0.2, 4.0
# Steps that Newton's method, or the domain, refuse say nothing of the error: a plain cut.
CUT, SAFETY = 0.5, 0.9
# Differences for the Jacobian: of this part of an entry, or of the largest one.
DIFFERENCE, SMALL_ENTRY = 1.5e-8, 1e-3
NONE, KEPT, FRESH = 0, 1, 2
FAILED = -1


@compiled
def _respace(k, order, ratio):  # type: ignore[no-untyped-def]
    """Differences of the same polynomial at `ratio` times their spacing."""
    for i in range(k.shape[1]):
        k[COPY, i] = 0.0
        for m in range(1, order + 1):
            value, factor = 0.0, 1.0
            for j in range(1, order + 1):
                factor *= (j - 1 - m * ratio) / j
                value += factor * k[j, i]
            k[COPY + m, i] = value
        for j in range(1, order + 1):
            for m in range(order, j - 1, -1):
                k[COPY + m, i] = k[COPY + m - 1, i] - k[COPY + m, i]
        for j in range(1, order + 1):
            k[j, i] = k[COPY + j, i]


@inlined
def _evaluate(rhs, task, t, y, out, counts):  # type: ignore[no-untyped-def]
    """Right-hand side; False when a component is not finite."""
    rhs(t, y, task.widths, task.par, out)
    counts[EVALS] += 1
    for i in range(y.size):
        if not math.isfinite(out[i]):
            counts[COMPONENT] = i
            return False
    return True


@compiled
def _differentiate(rhs, task, work, t, y, counts):  # type: ignore[no-untyped-def]
    """Jacobian at `y` by differences; False where the right-hand side is not finite."""
    k, n = work.k, y.size
    if not _evaluate(rhs, task, t, y, k[SLOPE], counts):
        return False
    largest = 0.0
    for i in range(n):
        largest = max(largest, abs(y[i]))
    for j in range(n):
        here = y[j]
        step = DIFFERENCE * max(abs(here), SMALL_ENTRY * largest, task.atol)
        y[j] = here + step
        fine = _evaluate(rhs, task, t, y, k[MOVE], counts)
        if not fine:
            y[j] = here - step
            fine = _evaluate(rhs, task, t, y, k[MOVE], counts)
        step = y[j] - here
        y[j] = here
        if not fine:
            return False
        for i in range(n):
            k[MATRIX_ROWS + n + j, i] = (k[MOVE, i] - k[SLOPE, i]) / step
    return True


@compiled
def _factorise(k, n, c):  # type: ignore[no-untyped-def]
    """I - c J in lower and upper triangles, rows exchanged; False when it is singular."""
    for j in range(n):
        for i in range(n):
            k[MATRIX_ROWS + j, i] = -c * k[MATRIX_ROWS + n + j, i]
        k[MATRIX_ROWS + j, j] += 1.0
    for j in range(n):
        column = k[MATRIX_ROWS + j]
        best = j
        for i in range(j + 1, n):
            if abs(column[i]) > abs(column[best]):
                best = i
        k[PIVOT, j] = best
        if not abs(column[best]) > 0.0:
            return False
        if best != j:
            for m in range(n):
                a, b = k[MATRIX_ROWS + m, j], k[MATRIX_ROWS + m, best]
                k[MATRIX_ROWS + m, j], k[MATRIX_ROWS + m, best] = b, a
        for i in range(j + 1, n):
            column[i] /= column[j]
        for m in range(j + 1, n):
            other = k[MATRIX_ROWS + m]
            for i in range(j + 1, n):
                other[i] -= other[j] * column[i]
    return True


@compiled
def _solve(k, n, x):  # type: ignore[no-untyped-def]
    """Solve with the factorised matrix, in place."""
    for j in range(n):
        other = int(k[PIVOT, j])
        if other != j:
            x[j], x[other] = x[other], x[j]
    for j in range(n):
        for i in range(j + 1, n):
            x[i] -= k[MATRIX_ROWS + j, i] * x[j]
    for j in range(n - 1, -1, -1):
        x[j] /= k[MATRIX_ROWS + j, j]
        for i in range(j):
            x[i] -= k[MATRIX_ROWS + j, i] * x[j]


@compiled
def _iterate(rhs, task, work, t, c, counts):  # type: ignore[no-untyped-def]
    """Newton's method for the new state `work.trial`; its iterations, or FAILED."""
    k, trial = work.k, work.trial
    n = trial.size
    tolerance = max(SMALLEST_NEWTON / task.rtol, min(LARGEST_NEWTON, math.sqrt(task.rtol)))
    before = 0.0
    for i in range(n):
        trial[i], k[CHANGE, i] = k[GUESS, i], 0.0
    for iteration in range(1, MOST_ITERATIONS + 1):
        if not _evaluate(rhs, task, t, trial, k[SLOPE], counts):
            return FAILED
        for i in range(n):
            k[MOVE, i] = c * k[SLOPE, i] - k[KNOWN, i] - k[CHANGE, i]
        _solve(k, n, k[MOVE])
        size = in_tolerances(k[MOVE], k[GUESS], task)
        rate = size / before if iteration > 1 and before > 0.0 else 0.0
        left = MOST_ITERATIONS - iteration
        # At rest corrections are rounding, which does not fall from one to the next.
        small = size <= NEGLIGIBLE * tolerance
        if not math.isfinite(size) or (rate >= 1.0 and not small):
            return FAILED
        if iteration > 1 and not small and rate**left / (1.0 - rate) * size > tolerance:
            return FAILED
        for i in range(n):
            trial[i] += k[MOVE, i]
            k[CHANGE, i] += k[MOVE, i]
        if small or (iteration > 1 and rate / (1.0 - rate) * size < tolerance):
            return iteration
        before = size
    return FAILED


@unfolded
def _try(rhs, domain, task, work, y, t, h, clock, counts):  # type: ignore[no-untyped-def]
    """One attempt; returns (reason, error, safety), acceptable when BY_ERROR and error <= 1."""
    k, n, order = work.k, y.size, counts[ORDER]
    for i in range(n):
        k[GUESS, i], k[KNOWN, i] = y[i], 0.0
    for j in range(1, order + 1):
        for i in range(n):
            k[GUESS, i] += k[j, i]
            k[KNOWN, i] += SUMS[j] / LEADING[order] * k[j, i]
    c = h / LEADING[order]
    counts[REASON] = BY_ERROR
    taken = FAILED
    while True:
        if counts[JACOBIAN] == NONE:
            if not _differentiate(rhs, task, work, t + h, k[GUESS], counts):
                return BY_NONFINITE, math.inf, SAFETY
            counts[JACOBIAN], clock[C_BUILT] = FRESH, 0.0
        solvable = True
        if c != clock[C_BUILT]:
            solvable = _factorise(k, n, c)
            clock[C_BUILT] = c if solvable else 0.0
        if solvable:
            taken = _iterate(rhs, task, work, t + h, c, counts)
        if taken != FAILED:
            break
        if counts[JACOBIAN] == FRESH:
            for i in range(n):
                if not math.isfinite(k[SLOPE, i]):
                    return BY_NONFINITE, math.inf, SAFETY
            return BY_ERROR, math.inf, SAFETY
        counts[JACOBIAN] = NONE
    error = ERRORS[order] * in_tolerances(k[CHANGE], work.trial, task)
    iterations = 2.0 * MOST_ITERATIONS
    safety = SAFETY * (iterations + 1.0) / (iterations + taken)
    if error <= 1.0 and task.has_domain != 0 and outside(domain, task, work.trial, counts):
        return BY_DOMAIN, error, safety
    return BY_ERROR, error, safety


@inlined
def _reject(h, reason, error, safety, clock, counts):  # type: ignore[no-untyped-def]
    """Shorten the step as the reason asks."""
    factor = CUT
    if reason == BY_ERROR and math.isfinite(error):
        factor = max(SMALLEST_FACTOR, safety * error ** (-1.0 / (counts[ORDER] + 1)))
    clock[H] = h * factor
    counts[REJECTED] += 1
    counts[REASON] = reason
    counts[AFTER_REJECT] = 1


@compiled
def _choose(task, work, error, safety, clock, counts):  # type: ignore[no-untyped-def]
    """Order and length of the next step, by the errors of this order and its neighbours."""
    k, order = work.k, counts[ORDER]
    best, chosen = 0.0, order
    for other in range(max(1, order - 1), min(HIGHEST, order + 1) + 1):
        size = error
        if other != order:
            size = ERRORS[other] * in_tolerances(k[other + 1], work.trial, task)
        factor = size ** (-1.0 / (other + 1)) if size > 0.0 else math.inf
        if factor > best:
            best, chosen = factor, other
    counts[ORDER], counts[EQUAL] = chosen, 0
    clock[H] *= min(LARGEST_FACTOR, safety * best)


@inlined
def _accept(tableau, task, work, y, t, h, read, clock, counts):  # type: ignore[no-untyped-def]
    """Move to the new state, its differences and, where it is read, the interpolant.

    Returns the largest entry.
    """
    k, order = work.k, counts[ORDER]
    largest = 0.0
    for i in range(y.size):
        k[order + 2, i] = k[CHANGE, i] - k[order + 1, i]
        k[order + 1, i] = k[CHANGE, i]
        work.old[i] = y[i]
        y[i] = work.trial[i]
        largest = max(largest, abs(y[i]))
    for j in range(order, 0, -1):
        for i in range(y.size):
            k[j, i] += k[j + 1, i]
    for d in range(HIGHEST if read else 0):
        for i in range(y.size):
            work.dense[d, i] = 0.0
        for j in range(1, order + 1):
            for i in range(y.size):
                work.dense[d, i] += tableau.dense[d, j - 1] / h * k[j, i]
    clock[T_OLD], clock[H_DONE] = t, h
    counts[AFTER_REJECT] = 0
    counts[PENDING] = 1
    counts[STEPS] += 1
    counts[EQUAL] += 1
    counts[JACOBIAN] = KEPT
    return largest


@unfolded
def _step(rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts):  # type: ignore[no-untyped-def]
    """Try one step and, when it is accepted, look for events and for the end."""
    t = clock[T]
    h, end, last = next_attempt(task, clock, counts)
    if counts[OUTCOME] == COLLAPSED:
        return
    if counts[ORDER] == 0:
        counts[ORDER], counts[EQUAL], counts[JACOBIAN] = 1, 0, NONE
        for i in range(y.size):
            work.k[1, i] = h * work.k[0, i]
            work.k[2, i] = 0.0
    elif h != clock[H_BUILT]:
        _respace(work.k, counts[ORDER], h / clock[H_BUILT])
        counts[EQUAL] = 0
    clock[H_BUILT] = h
    reason, error, safety = _try(rhs, domain, task, work, y, t, h, clock, counts)
    if reason != BY_ERROR or not (error <= 1.0):
        _reject(h, reason, error, safety, clock, counts)
        return
    i = counts[NEXT_SAVE]
    read = events.kind.size > 0 or (i < task.save.size and task.save[i] < end)
    largest = _accept(tableau, task, work, y, t, h, read, clock, counts)
    clock[T], clock[H] = end, h
    if counts[EQUAL] > counts[ORDER]:
        _choose(task, work, error, safety, clock, counts)
    counts[OUTCOME] = REACHED if last else RUNNING
    if largest > task.bound:
        counts[OUTCOME] = BOUND
    if events.kind.size > 0:
        watch(SEARCH, observe, task, events, work, y, clock, counts)
        watch(KEEP, observe, task, events, work, y, clock, counts)


_attempts = attempts(_step, 2 * SCAN)


@njit(ADVANCE_SIGNATURE, cache=True, no_cpython_wrapper=True, **OPTIONS)
def advance_backward(  # type: ignore[no-untyped-def]
    rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts, budget
):
    """Take up to `budget` attempts, as `explicit.advance` does."""
    return _attempts(
        rhs, observe, domain, watch, tableau, task, events, work, y, clock, counts, budget
    )

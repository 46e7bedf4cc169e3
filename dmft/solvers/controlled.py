"""Runs under a control that follows a table, and their adjoints: Runge-Kutta of order 4.

The control is linear between the knots of a table, with a value at both ends of each interval, so
that constant pieces are a table too. Each interval takes a number of equal steps of its own. The
adjoint is that of the steps themselves: gradients are exact for what is run.

    dy/dtau = s(g) rhs(y; g),  s(g) = scale g, or scale where the control is no rate
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from dmft.compiled import njit
from dmft.solvers.signatures import INTEGERS, MATRIX, RHS, RHS_SIGNATURE, VECTOR, rhs_at

OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
# Stages of the classical method: where they stand within a step, and their weights.
AT = (0.0, 0.5, 0.5, 1.0)
WEIGHTS = (1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0)

# Step of differences, relative to numbers above one: overlaps of nearly parallel vectors stay those
# of vectors.
STEP = 1e-6
# What differences read at the end of `par`: addresses of the rates and of the observables, how many
# observables there are, which one, and the position of the control.
READ = 5

# rhs, knots, left, right, counts, widths, par, position, scale, is_rate, states, work
_RUN = types.void(
    RHS, VECTOR, VECTOR, VECTOR, INTEGERS, INTEGERS, VECTOR, types.int64, types.float64,
    types.boolean, MATRIX, MATRIX,
)  # fmt: skip
# ... and before the knots the adjoint and the derivatives of the rates by the control; behind the
# work costates, gradients left, right and by lengths
_BACK = types.void(
    RHS, RHS, RHS, VECTOR, VECTOR, VECTOR, INTEGERS, INTEGERS, VECTOR, types.int64, types.float64,
    types.boolean, MATRIX, MATRIX, MATRIX, VECTOR, VECTOR, VECTOR,
)  # fmt: skip


@njit(_RUN, **OPTIONS)
def run(rhs, knots, left, right, counts, widths, par, position, scale, is_rate, states, work):  # type: ignore[no-untyped-def]
    """Fill `states`, one row for each step of all intervals, from its first row on."""
    n = states.shape[1]
    row = 0
    for i in range(counts.size):
        h = (knots[i + 1] - knots[i]) / counts[i]
        for step in range(counts[i]):
            for stage in range(4):
                x = (step + AT[stage]) / counts[i]
                g = left[i] + (right[i] - left[i]) * x
                par[position] = g
                for m in range(n):
                    work[4, m] = states[row, m]
                    if stage > 0:
                        work[4, m] += h * AT[stage] * work[stage - 1, m]
                rhs(0.0, work[4], widths, par, work[stage])
                factor = scale * g if is_rate else scale
                for m in range(n):
                    work[stage, m] *= factor
            for m in range(n):
                move = 0.0
                for stage in range(4):
                    move += WEIGHTS[stage] * work[stage, m]
                states[row + 1, m] = states[row, m] + h * move
            row += 1


@njit(_BACK, **OPTIONS)
def pull_back(  # type: ignore[no-untyped-def]
    rhs, adjoint, by_control, knots, left, right, counts, widths, par, position, scale, is_rate,
    states, work, costates, on_left, on_right, on_length,
):  # fmt: skip
    """Fill `costates` at the knots from its last row on, and the gradients of the intervals.

    Those by the values at both ends, and by the length at fixed values: the mean of H over the
    interval.

    Rows of `work`: rates and states of the stages, a state with a costate, what comes back, the
    costates of the stages, derivatives of rates by the control, the costate of the step.
    """
    n = states.shape[1]
    row = states.shape[0] - 1
    both, back = np.empty(2 * n), np.empty(2 * n)
    costate, before = costates[counts.size].copy(), 0.0
    for i in range(counts.size - 1, -1, -1):
        h = (knots[i + 1] - knots[i]) / counts[i]
        on_left[i], on_right[i], on_length[i] = 0.0, 0.0, 0.0
        for step in range(counts[i] - 1, -1, -1):
            row -= 1
            for stage in range(4):
                par[position] = left[i] + (right[i] - left[i]) * (step + AT[stage]) / counts[i]
                for m in range(n):
                    work[4 + stage, m] = states[row, m]
                    if stage > 0:
                        factor = scale * before if is_rate else scale
                        work[4 + stage, m] += h * AT[stage] * factor * work[stage - 1, m]
                rhs(0.0, work[4 + stage], widths, par, work[stage])
                before = par[position]
            for m in range(n):
                work[9, m] = costate[m]
                work[8, m] = 0.0
            for stage in range(3, -1, -1):
                x = (step + AT[stage]) / counts[i]
                g = left[i] + (right[i] - left[i]) * x
                factor = scale * g if is_rate else scale
                for m in range(n):
                    value = h * WEIGHTS[stage] * work[9, m]
                    if stage < 3:
                        value += h * AT[stage + 1] * work[8, m]
                    both[n + m] = value
                    both[m] = work[4 + stage, m]
                par[position] = g
                by_control(0.0, work[4 + stage], widths, par, work[10])
                slope = 0.0
                for m in range(n):
                    on_length[i] += both[n + m] * factor * work[stage, m] / (h * counts[i])
                    moved = factor * work[10, m]
                    if is_rate:
                        moved += scale * work[stage, m]
                    slope += both[n + m] * moved
                on_left[i] += slope * (1.0 - x)
                on_right[i] += slope * x
                adjoint(0.0, both, widths, par, back)
                for m in range(n):
                    work[8, m] = factor * back[n + m]
                    costate[m] += work[8, m]
        costates[i] = costate


@njit(cache=True, nogil=True, error_model="numpy")
def _pulled(address, both, weight, widths, par, out):  # type: ignore[no-untyped-def]
    """Write behind n entries the derivatives of weighted numbers by the n entries of a state."""
    n, function = both.size // 2, rhs_at(address)
    y = both[:n].copy()
    low, here, high = np.empty(weight.size), np.empty(weight.size), np.empty(weight.size)
    function(0.0, y, widths, par, here)
    for m in range(n):
        step = STEP * max(1.0, abs(both[m]))
        y[m] = both[m] - step
        function(0.0, y, widths, par, low)
        y[m] = both[m] + step
        function(0.0, y, widths, par, high)
        y[m] = both[m]
        below, middle, above = 0.0, 0.0, 0.0
        for i in range(weight.size):
            below += weight[i] * low[i]
            middle += weight[i] * here[i]
            above += weight[i] * high[i]
        slope = (above - below) / (2.0 * step)
        # Where one side is beyond what vectors can have.
        if math.isnan(below):
            slope = (above - middle) / step
        elif math.isnan(above):
            slope = (middle - below) / step
        out[n + m] = slope


@njit(RHS_SIGNATURE, **OPTIONS)
def adjoint_by_differences(t, both, widths, par, out):  # type: ignore[no-untyped-def]
    """Write the product of a costate, which stands behind the state, with the Jacobian."""
    n = both.size // 2
    _pulled(np.int64(par[par.size - READ]), both, both[n:], widths, par, out)


@njit(RHS_SIGNATURE, **OPTIONS)
def slopes_by_differences(t, both, widths, par, out):  # type: ignore[no-untyped-def]
    """Write the derivatives of an observable by the state, behind the state's entries."""
    one = np.zeros(np.int64(par[par.size - READ + 2]))
    one[np.int64(par[par.size - READ + 3])] = 1.0
    _pulled(np.int64(par[par.size - READ + 1]), both, one, widths, par, out)


@njit(RHS_SIGNATURE, **OPTIONS)
def control_by_differences(t, y, widths, par, out):  # type: ignore[no-untyped-def]
    """Write the derivatives of the rates by the control."""
    position, values = np.int64(par[par.size - 1]), par.copy()
    low, high = np.empty(y.size), np.empty(y.size)
    step = STEP * max(1.0, abs(par[position]))
    rates = rhs_at(np.int64(par[par.size - READ]))
    values[position] = par[position] - step
    rates(t, y, widths, values, low)
    values[position] = par[position] + step
    rates(t, y, widths, values, high)
    for m in range(y.size):
        out[m] = (high[m] - low[m]) / (2.0 * step)

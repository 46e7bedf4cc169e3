r"""Schemes over paths: Euler-Maruyama (strong order 1/2, weak order 1; both 1 for additive noise),
and a derivative-free scheme of weak order 2 for general noise (Platen; Kloeden and Platen 15.1).

With b_j the columns of the factor of the covariance, dB_j the increments and the supporting points

    Y = y + F h + sum_j b_j dB_j,   R_j(+-) = y + F h +- b_j sqrt(h),   U_j(+-) = y +- b_j sqrt(h),

a step is

    y + h/2 [F(y) + F(Y)]
      + 1/4 sum_j { [b_j(R_j+) + b_j(R_j-) + 2 b_j] dB_j
                    + [b_j(R_j+) - b_j(R_j-)] (dB_j^2 - h)/sqrt(h) }
      + 1/4 sum_(j != r) { [b_j(U_r+) + b_j(U_r-) - 2 b_j] dB_j
                           + [b_j(U_r+) - b_j(U_r-)] (dB_j dB_r + V_rj)/sqrt(h) },

V_rj = -V_jr = +-h with equal probability. F(Y) and b(R) belong to t + h, b(U) to t. A column that
is zero at y has R+ = R- and U+ = U- = y; all such columns share one evaluation.
"""

from __future__ import annotations

import math

from dmft.compiled import njit
from dmft.solvers.runge_kutta.layout import OPTIONS
from dmft.solvers.runge_kutta.primitives import inlined
from dmft.solvers.stochastic.loop import (
    PATHS_SIGNATURE,
    WALKING,
    draw_areas,
    drift_and_factor,
    evaluate,
    factor_noise,
    paths_loop,
)

BUILT_ON = "83a4edc29c8896b0"


@inlined
def euler_step(drift, diffusion, plan, scratch, path, step, t, y):  # type: ignore[no-untyped-def]
    """Write y + F h + Sigma^(1/2) dB into `scratch.new`."""
    code = drift_and_factor(drift, diffusion, plan, scratch, t, y)
    if code != WALKING:
        return code
    for i in range(y.size):
        value = y[i] + plan.h * scratch.slope[i]
        for j in range(i + 1):
            value += scratch.root[i, j] * scratch.increments[j]
        scratch.new[i] = value
    return WALKING


@inlined
def _pair(diffusion, plan, scratch, t, y, ahead, j):  # type: ignore[no-untyped-def]
    """Factors `up`, `down` at y + ahead F +- sqrt(h) b_j; WALKING or why not."""
    for side in (-1.0, 1.0):
        for i in range(y.size):
            value = y[i] + ahead * scratch.slope[i]
            scratch.point[i] = value + side * math.sqrt(plan.h) * scratch.root[i, j]
        root = scratch.up if side > 0.0 else scratch.down
        code = factor_noise(diffusion, plan, scratch, t, scratch.point, root)
        if code != WALKING:
            return code
    return WALKING


@inlined
def _own(diffusion, plan, scratch, t, y, j):  # type: ignore[no-untyped-def]
    """Add the terms of column j at R_j."""
    code = _pair(diffusion, plan, scratch, t + plan.h, y, plan.h, j)
    if code != WALKING:
        return code
    increment = scratch.increments[j]
    square = (increment * increment - plan.h) / math.sqrt(plan.h)
    for i in range(j, y.size):
        up, down = scratch.up[i, j], scratch.down[i, j]
        scratch.new[i] += 0.25 * ((up + down) * increment + (up - down) * square)
    return WALKING


@inlined
def _mixed(diffusion, plan, scratch, t, y, r):  # type: ignore[no-untyped-def]
    """Add the terms of all columns but r at U_r."""
    code = _pair(diffusion, plan, scratch, t, y, 0.0, r)
    if code != WALKING:
        return code
    for j in range(y.size):
        if j == r:
            continue
        increment = scratch.increments[j]
        product = increment * scratch.increments[r] + scratch.areas[r, j]
        for i in range(j, y.size):
            up, down = scratch.up[i, j], scratch.down[i, j]
            bend = up + down - 2.0 * scratch.root[i, j]
            scratch.new[i] += 0.25 * (bend * increment + (up - down) * product / math.sqrt(plan.h))
    return WALKING


@inlined
def _silent(diffusion, plan, scratch, t, y):  # type: ignore[no-untyped-def]
    """Add the terms of the columns that are zero at y: what they become along the drift."""
    for i in range(y.size):
        scratch.point[i] = y[i] + plan.h * scratch.slope[i]
    code = factor_noise(diffusion, plan, scratch, t + plan.h, scratch.point, scratch.up)
    if code != WALKING:
        return code
    for j in range(y.size):
        if scratch.root[j, j] == 0.0:
            for i in range(j, y.size):
                scratch.new[i] += 0.5 * scratch.up[i, j] * scratch.increments[j]
    return WALKING


@inlined
def _begin(drift, diffusion, plan, scratch, t, y):  # type: ignore[no-untyped-def]
    """Drift and factor at y, and the part of the step that they and F(Y) give."""
    code = drift_and_factor(drift, diffusion, plan, scratch, t, y)
    if code != WALKING:
        return code
    for i in range(y.size):
        noise = 0.0
        for j in range(i + 1):
            noise += scratch.root[i, j] * scratch.increments[j]
        scratch.point[i] = y[i] + plan.h * scratch.slope[i] + noise
        scratch.new[i] = y[i] + 0.5 * (plan.h * scratch.slope[i] + noise)
    code = evaluate(drift, plan, t + plan.h, scratch.point, scratch.ahead)
    for i in range(y.size):
        scratch.new[i] += 0.5 * plan.h * scratch.ahead[i]
    return code


@inlined
def weak_step(drift, diffusion, plan, scratch, path, step, t, y):  # type: ignore[no-untyped-def]
    """Write the new state into `scratch.new`; `scratch.areas` must hold the variables V."""
    code = _begin(drift, diffusion, plan, scratch, t, y)
    silent = False
    for j in range(y.size):
        if code != WALKING:
            return code
        if scratch.root[j, j] == 0.0:  # the rest of such a column is zero as well
            silent = True
            continue
        code = _own(diffusion, plan, scratch, t, y, j)
        if code == WALKING and y.size > 1:
            code = _mixed(diffusion, plan, scratch, t, y, j)
    if code == WALKING and silent:
        code = _silent(diffusion, plan, scratch, t, y)
    return code


@inlined
def _draw_and_step(drift, diffusion, plan, scratch, path, step, t, y):  # type: ignore[no-untyped-def]
    if y.size > 1:
        draw_areas(plan.key, path, step, plan.h, scratch.areas)
    return weak_step(drift, diffusion, plan, scratch, path, step, t, y)


_walk_by_euler, _walk_by_weak = paths_loop(euler_step), paths_loop(_draw_and_step)


@njit(PATHS_SIGNATURE, cache=True, **OPTIONS)
def advance_euler(drift, diffusion, observe, domain, plan, events, walk, scratch, first, until):  # type: ignore[no-untyped-def]
    """Carry the paths of a chunk on to step `until`."""
    _walk_by_euler(drift, diffusion, observe, domain, plan, events, walk, scratch, first, until)


@njit(PATHS_SIGNATURE, cache=True, **OPTIONS)
def advance_weak(drift, diffusion, observe, domain, plan, events, walk, scratch, first, until):  # type: ignore[no-untyped-def]
    """Carry the paths of a chunk on to step `until`."""
    _walk_by_weak(drift, diffusion, observe, domain, plan, events, walk, scratch, first, until)

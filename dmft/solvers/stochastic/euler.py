"""Euler-Maruyama over paths: strong order 1/2, weak order 1 (strong 1 for additive noise)."""

from __future__ import annotations

from dmft.compiled import njit
from dmft.solvers.runge_kutta.interpolant import inlined
from dmft.solvers.runge_kutta.layout import OPTIONS
from dmft.solvers.stochastic.layout import PATHS_SIGNATURE, WALKING
from dmft.solvers.stochastic.loop import drift_and_factor, paths_loop

BUILT_ON = "55bf72077c11c375"


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


_walk_paths = paths_loop(euler_step)


@njit(PATHS_SIGNATURE, cache=True, **OPTIONS)
def advance_euler(drift, diffusion, observe, domain, plan, events, walk, scratch, first, until):  # type: ignore[no-untyped-def]
    """Carry the paths of a chunk on to step `until`."""
    _walk_paths(drift, diffusion, observe, domain, plan, events, walk, scratch, first, until)

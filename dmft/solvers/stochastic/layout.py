"""What passes between Python and the compiled loops over paths (see `layout.py`)."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from dmft.solvers.signatures import (
    DOMAIN,
    EVENTS_TYPE,
    INTEGERS,
    JACOBIAN_SIGNATURE,
    MATRIX,
    RHS,
    VECTOR,
)

# How a path stands.
WALKING, ARRIVED, PASSED, BEYOND, OUTSIDE, NONFINITE, INDEFINITE = range(7)
# Negative pivots down to this fraction of the largest variance (at the start or here) are the
# rounding of a covariance whose terms cancel; the noise along them is left out and counted.
COVARIANCE_BAND = 1e-12
# A pivot below this fraction of its own variance is what a subtraction leaves of zero.
SMALLEST_PIVOT = 1e-13
# The domain may be left by rounding: this fraction of the largest overlap.
DOMAIN_ROUNDING = 1e-12


class Plan(NamedTuple):
    """What the paths share; `save` holds step numbers."""

    widths: Any
    par: Any
    save: Any
    key: Any
    h: float
    t_start: float
    steps: int
    noise_scale: float
    variance: float  # largest variance per unit time at the starts, noise_scale included
    bound: float
    trace: float
    has_domain: int
    normal: int
    substeps: int
    bridge: int


class Walk(NamedTuple):
    """State of C paths of one chunk; E events, T saved times."""

    y: Any  # (C, n)
    trial: Any  # (C, n) the state that a path failed on
    step: Any  # (C,)
    code: Any  # (C,)
    t: Any  # (C,) where the path ended
    when: Any  # (C, E) first passages, NaN before
    gap: Any  # (C, E) event functions at the last step
    sign: Any  # (C, E) side on which they were last seen
    shift: Any  # (C, E) what this path's threshold exceeds the event's by
    owed: Any  # (C,) next saved time
    out: Any  # (C, T, n)


class Scratch(NamedTuple):
    """Work space of one thread."""

    slope: Any  # (n,)
    ahead: Any  # (n,)
    point: Any  # (n,) where a function is evaluated
    new: Any  # (n,)
    increments: Any  # (n,)
    areas: Any  # (n, n)
    sigma: Any  # (n, n)
    root: Any  # (n, n) factor at the start of the step
    up: Any  # (n, n) factors at supporting points
    down: Any  # (n, n)
    seen: Any  # (m,)
    lanes: Any  # (4,)
    have: Any  # (1,)
    theta: Any  # (E,)
    band: Any  # (1,) steps with a pivot or a state within the bands of rounding


_F8, _I8 = types.float64, types.int64
PLAN_TYPE = types.NamedTuple(
    (INTEGERS, VECTOR, INTEGERS, types.uint64[::1], _F8, _F8, _I8, _F8, _F8, _F8, _F8, *(_I8,) * 4),
    Plan,
)
WALK_TYPE = types.NamedTuple(
    (
        *(MATRIX, MATRIX, INTEGERS, INTEGERS, VECTOR, *(MATRIX,) * 4, INTEGERS),
        types.float64[:, :, ::1],
    ),
    Walk,
)
SCRATCH_TYPE = types.NamedTuple(
    (*(VECTOR,) * 5, *(MATRIX,) * 5, VECTOR, VECTOR, INTEGERS, VECTOR, INTEGERS), Scratch
)
COVARIANCE = types.FunctionType(JACOBIAN_SIGNATURE)
# (drift, diffusion, observe, domain, plan, events, walk, scratch, first path, last step)
PATHS_SIGNATURE = types.void(
    RHS, COVARIANCE, RHS, DOMAIN, PLAN_TYPE, EVENTS_TYPE, WALK_TYPE, SCRATCH_TYPE, types.int64,
    types.int64,
)  # fmt: skip

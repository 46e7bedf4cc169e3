"""What passes between Python and the compiled loops over paths (see `layout.py`)."""

from __future__ import annotations

from typing import NamedTuple

from numba import types

from dmft.solvers.runge_kutta.layout import Cube, Integers, Matrix, Vector, Words
from dmft.solvers.signatures import DOMAIN, EVENTS_TYPE, JACOBIAN_SIGNATURE, RHS, record

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

    widths: Integers
    par: Vector
    save: Integers
    key: Words
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

    y: Matrix  # (C, n)
    trial: Matrix  # (C, n) the state that a path failed on
    step: Integers  # (C,)
    code: Integers  # (C,)
    t: Vector  # (C,) where the path ended
    when: Matrix  # (C, E) first passages, NaN before
    gap: Matrix  # (C, E) event functions at the last step
    sign: Matrix  # (C, E) side on which they were last seen
    shift: Matrix  # (C, E) what this path's threshold exceeds the event's by
    owed: Integers  # (C,) next saved time
    out: Cube  # (C, T, n)


class Scratch(NamedTuple):
    """Work space of one thread."""

    slope: Vector  # (n,)
    ahead: Vector  # (n,)
    point: Vector  # (n,) where a function is evaluated
    new: Vector  # (n,)
    increments: Vector  # (n,)
    areas: Matrix  # (n, n)
    sigma: Matrix  # (n, n)
    root: Matrix  # (n, n) factor at the start of the step
    up: Matrix  # (n, n) factors at supporting points
    down: Matrix  # (n, n)
    seen: Vector  # (m,)
    lanes: Vector  # (4,)
    have: Integers  # (1,)
    theta: Vector  # (E,)
    band: Integers  # (1,) steps with a pivot or a state within the bands of rounding


PLAN_TYPE, WALK_TYPE, SCRATCH_TYPE = record(Plan), record(Walk), record(Scratch)
COVARIANCE = types.FunctionType(JACOBIAN_SIGNATURE)
# (drift, diffusion, observe, domain, plan, events, walk, scratch, first path, last step)
PATHS_SIGNATURE = types.void(
    RHS, COVARIANCE, RHS, DOMAIN, PLAN_TYPE, EVENTS_TYPE, WALK_TYPE, SCRATCH_TYPE, types.int64,
    types.int64,
)  # fmt: skip

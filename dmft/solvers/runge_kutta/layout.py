"""What passes between Python and the compiled loops: codes, and records with their types.

Compiled code freezes these numbers, and Numba's cache looks only at the file that holds the entry
point. Files of entry points, as `explicit.py`, therefore carry a hash of the files that they build
on (`BUILT_ON`); a test says when to renew it, which also renews the cache.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

# Why the loop came back.
# STIFF: stability, not accuracy, has held the steps for a while, and most of the way is left.
RUNNING, REACHED, EVENT, BOUND, COLLAPSED, STIFF = 0, 1, 2, 3, 4, 5
# Why the last attempt was rejected.
BY_ERROR, BY_NONFINITE, BY_DOMAIN = 0, 1, 2
# Entries of `clock`: now, next step, previous error, start and length of the last step taken; of
# implicit methods the spacing of the differences and the factor in the factorised matrix.
T, H, ERR, T_OLD, H_DONE, H_BUILT, C_BUILT, CLOCK_SIZE = 0, 1, 2, 3, 4, 5, 6, 7
# Entries of `counts`. PENDING: the last step still has points to save; BAND: steps that ended
# outside the domain but within its band; COMPONENT: first entry that was not finite; ORDER, EQUAL,
# JACOBIAN: of implicit methods the order, steps of equal length, and how old the Jacobian is;
# HELD: steps at the limit of stability, less those that were not.
STEPS, REJECTED, EVALS, NEXT_SAVE, SAVED, FOUND, BAND = 0, 1, 2, 3, 4, 5, 6
REASON, COMPONENT, PENDING, AFTER_REJECT, OUTCOME, HITS = 7, 8, 9, 10, 11, 12
ORDER, EQUAL, JACOBIAN, HELD, COUNTS_SIZE = 13, 14, 15, 16, 17
# What the loop asks of the search for events: the sides at the start of a run, the crossings in a
# step that was tried, to keep those of a step that was accepted, whether there can be any in a step
# that was tried.
SIDES, SEARCH, KEEP, ASK = 0, 1, 2, 3
# What an event watches.
STATE, OBSERVABLE, COSINE = 0, 1, 2

# Below ten units in the last place of t, stage times cease to be distinct.
STEP_ULPS = 10 * 2.220446049250313e-16
# The controller takes no error estimate for smaller than this, and this for that before the first.
SMALLEST_ERROR = 1e-4
# Perfect recovery makes the covariance singular: it may dip below zero by this many tolerances
# (times its scale) before the step counts as outside. The deepest dip in 288 recoveries (erf,
# square, He2, He3; p = 1..3; free and on the sphere; rtol 1e-4..1e-10) was 1.9 tolerances.
DOMAIN_BAND = 30.0
# More than degree + 1 = 8 points a step see every pair of crossings of the interpolant but those
# within a fraction of a sub-interval, which the parabola test looks for.
SCAN = 8

# Arrays of records, by the names of their types in `dmft.solvers.signatures.ARRAYS`.
Vector = Annotated[Any, "vector"]
Matrix = Annotated[Any, "matrix"]
Cube = Annotated[Any, "cube"]
Integers = Annotated[Any, "integers"]
IntegerMatrix = Annotated[Any, "integer matrix"]
Words = Annotated[Any, "words"]


class Task(NamedTuple):
    """What does not change during a run; `save` is empty when each step is saved."""

    widths: Integers
    par: Vector
    save: Vector
    rtol: float
    atol: float
    t_end: float
    max_step: float
    bound: float
    trace: float
    has_domain: int
    worth: float  # steps that are left, from which on another method is worth it; inf: never


class Events(NamedTuple):
    """Thresholds as data; a COSINE event is the largest of the terms first <= i < last."""

    kind: Integers
    first: Integers
    last: Integers
    threshold: Vector
    direction: Integers
    terminal: Integers
    numerator: Integers
    denominator: Integers
    weight: Vector


class Work(NamedTuple):
    """Buffers, allocated by the caller for n entries, S stages, E events."""

    k: Matrix  # (total, n) stages
    dense: Matrix  # (degree, n) interpolant of the last step
    trial: Vector  # (n,) stage, then the new state
    old: Vector  # (n,) state at T_OLD
    point: Vector  # (n,) a point on the interpolant
    high: Vector  # (n,) error estimates
    low: Vector  # (n,)
    seen: Vector  # (m,) observables at `point`
    gap: Matrix  # (E, SCAN + 1) event functions
    sign: Vector  # (E,) side on which each event function was last seen
    side: Vector  # (E,) the same before the step, for one that is not accepted
    hit_theta: Vector  # (2 SCAN E,)
    hit_event: Integers  # (2 SCAN E,)
    out_t: Vector  # (rows,)
    out_y: Matrix  # (rows, n)
    out_step: Integers  # (rows,)
    event_t: Vector  # (rows_e,)
    event_y: Matrix  # (rows_e, n)
    event_id: Integers  # (rows_e,)


class Batch(NamedTuple):
    """Runs of one problem, one in each row: what differs between them, and where they stand."""

    par: Matrix  # (n, parameters)
    trace: Vector  # (n,)
    threshold: Matrix  # (n, E)
    y: Matrix  # (n, size)
    trial: Matrix  # (n, size) what the last attempt of a run that ended was made on
    clock: Matrix  # (n, CLOCK_SIZE)
    counts: IntegerMatrix  # (n, COUNTS_SIZE)
    rows: IntegerMatrix  # (n, 2) rows that a run saved: the first, and after the last
    found: IntegerMatrix  # (n, 2) likewise of its events
    place: Integers  # (2,) the run under way, and 1 when it has begun
    t_start: float
    first_step: float  # 0: chosen
    max_steps: int
    is_flow: int


class Lanes(NamedTuple):
    """Runs of a batch side by side: L lanes, one number of each in a row of its own."""

    run: Integers  # (L,) run in a lane, -1 for none
    par: Matrix  # (parameters, L)
    y: Matrix  # (n, L)
    trial: Matrix  # (n, L)
    high: Matrix  # (n, L) error estimates
    low: Matrix  # (n, L)
    k: Cube  # (stages, n, L)
    gap: Matrix  # (L, E) event functions at the start of a step
    sign: Matrix  # (L, E)
    h: Matrix  # (1, L) step under way, 0 for none
    failed: Matrix  # (1, L) NaN where a stage is not finite, else 0
    end: Vector  # (L,) where it ends
    is_last: Integers  # (L,) 1 for the last step of a run
    owner: Integers  # (rows,) run of each saved row
    ended: Integers  # (n,) runs that ended in the last call
    place: Integers  # (2,) the next run, and how many ended in the last call


# Every array belongs to the caller, so no reference is counted: with counting, passing the tuples
# around costs a third of a run.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "_nrt": False}

"""The march of a two-time problem: chunks of steps, saved rows, thinning, interruption."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dmft.names import Status
from dmft.solvers.two_time import advance as compiled
from dmft.solvers.two_time.problem import VolterraProblem
from dmft.solvers.two_time.state import State
from dmft.solvers.two_time.step import ROWS

Array = NDArray[np.float64]
# Times that the grid may gain before it is thinned again.
SWEEP = 24
# Steps after which values are final: the beginnings of columns are solved with what follows.
OPEN = 2


@dataclass(frozen=True)
class Control:
    """How to march.

    Attributes
    ----------
    t_max : float
    save_at : (K,) increasing times at which rows are kept, the last is t_max
    tol : float
        Error of a step.
    first_step, max_step : float
    times : (T,) or None
        Prescribed times of all steps: the control is off.
    ratio, grid_tol : float
        Of the thinning; ratio 0 keeps every time.
    max_steps : int
    """

    t_max: float
    save_at: Array
    tol: float
    first_step: float
    max_step: float
    times: Array | None = None
    ratio: float = 0.0
    grid_tol: float = 0.0
    max_steps: int = 10_000_000


@dataclass
class March:
    """A march under way: state, step, log and saved rows; all that a checkpoint keeps.

    `times` and `signals` hold every step; `rows` the time, grid and values of each saved row;
    `waiting` the nodes of rows that are reached but not final.
    """

    state: State
    dt: float
    taken: int = 0
    rejected: int = 0
    passes: int = 0
    swept: int = 1
    status: Status = Status.OK
    message: str = ""
    times: list[float] = field(default_factory=lambda: [0.0])
    signals: list[Array] = field(default_factory=list)
    rows: list[tuple[float, Array, Array]] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)


def start(problem: VolterraProblem, values: Mapping[str, float], control: Control) -> March:
    """March before its first step."""
    state = State.begin(problem, values)
    return March(state, control.first_step, signals=[state.arrays["Z"][:, 0].copy()])


def march(
    run: March, control: Control, after: Callable[[March], Status] = lambda run: Status.OK
) -> March:
    """Take steps to t_max and two beyond, after which the rows up to t_max are final.

    `after` is asked between chunks of steps; what it returns other than "ok" stops the march.
    """
    times = np.empty(0) if control.times is None else control.times
    room = math.inf if control.times is None else control.times.size - 1
    while len(run.rows) < control.save_at.size and run.status == Status.OK:
        count = int(min(_chunk(run), control.max_steps - run.taken, room - run.taken))
        if count <= 0:
            if run.taken >= control.max_steps:
                run.status = Status.MAX_STEPS
                run.message = f"{run.taken} steps taken at t = {run.state.t:.6g}"
            break
        _advance(run, control, count, times)
        if run.status != Status.OK:
            break
        state = run.state
        if control.ratio > 0.0 and state.n >= run.swept + SWEEP:
            state.thin(control.ratio, control.grid_tol)
            run.swept = state.n
        run.status = after(run)
    return run


def _chunk(run: March) -> int:
    """Steps to the next sweep, or until a row that waits is final."""
    count = max(1, run.swept + SWEEP - run.state.n)
    if run.waiting:
        reached = int(np.searchsorted(run.state.arrays["x"][: run.state.n], run.waiting[0]))
        count = min(count, max(1, reached + OPEN + 1 - run.state.n))
    return count


def _advance(run: March, control: Control, count: int, times: Array) -> None:
    """Take a chunk of steps, log it, keep the rows that it made final."""
    state = run.state
    ahead = len(run.rows) + len(run.waiting)
    stop = float(control.save_at[ahead]) if ahead < control.save_at.size else math.inf
    numbers = np.array(
        [run.dt, control.tol, control.max_step, stop, run.taken, run.rejected, run.passes],
        dtype=np.float64,
    )
    before, ending = state.n, np.zeros(1, dtype=np.int64)
    state.advance(count, numbers, times, ending)
    run.dt = float(numbers[compiled.DT])
    run.taken, run.rejected, run.passes = (int(y) for y in numbers[compiled.TAKEN :])
    _log(run, before)
    if state.n > before and state.t >= stop * (1.0 - 1e-14):
        run.waiting.append(state.t)
    while run.waiting:
        node = int(np.searchsorted(state.arrays["x"][: state.n], run.waiting[0]))
        behind = state.n - 1 - node
        if behind < OPEN:
            break
        _store_row(run, ROWS - 1 - behind, node)
    _judge(run, int(ending[0]))


def _log(run: March, before: int) -> None:
    """Times and signals of new nodes; those of the two nodes before them are final now."""
    Z, x, n = run.state.arrays["Z"], run.state.arrays["x"], run.state.n
    for back in range(1, min(OPEN, before - 1) + 1):
        run.signals[-back] = Z[:, before - back].copy()
    for node in range(before, n):
        run.times.append(float(x[node]))
        run.signals.append(Z[:, node].copy())


def _store_row(run: March, r: int, node: int) -> None:
    """Keep row `node` of the grid, which stands in place r of the last rows."""
    a = run.state.arrays
    row = a["X"][r, :, : node + 1].copy()
    run.rows.append((run.waiting.pop(0), a["x"][: node + 1].copy(), row))


def _judge(run: March, ending: int) -> None:
    """Status of a march whose steps failed."""
    t = run.state.t
    if ending == compiled.NOT_FINITE:
        run.status = Status.NONFINITE
        run.message = f"the equations give no finite number after t = {t:.6g}"
    elif ending == compiled.DIVERGED:
        run.status = Status.DIVERGED
        run.message = f"signals exceed {compiled.LARGEST:.0e} after t = {t:.6g}"
    elif ending == compiled.STUCK:
        run.status = Status.TOLERANCE_NOT_MET
        run.message = f"no step from t = {t:.6g} meets the tolerance"

"""The march of a two-time problem: step control, saved rows, thinning, interruption."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.names import Status
from dmft.solvers.volterra_state import State
from dmft.solvers.volterra_step import ROWS

Array = NDArray[np.float64]
# A step is redone when its error exceeds the tolerance by this.
REJECT = 2.0
# Largest growth of a step (the error of columns is known two steps late), and changes too small to
# be worth an irregular grid.
GROWTH, STEADY = 1.12, (0.9, 1.2)
SAFETY = 0.85
# Iterations of a step, and the change, relative to the tolerance, at which they stop: what is left
# is ten times less.
PASSES, ITERATE = 12, 0.3
# Steps towards the next saved time are made equal when so few are left.
PLAN = 8
# Times that the grid may gain before it is thinned again.
SWEEP = 24
# A signal beyond this has diverged.
LARGEST = 1e12
SMALLEST_STEP = 1e-12


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
    """

    t_max: float
    save_at: Array
    tol: float
    first_step: float
    max_step: float
    times: Array | None = None
    ratio: float = 0.0
    grid_tol: float = 0.0


@dataclass
class March:
    """A march under way: state, step, log and saved rows; all that a checkpoint keeps."""

    state: State
    dt: float
    taken: int = 0
    rejected: int = 0
    passes: int = 0
    saved: int = 0
    swept: int = 1
    status: Status = Status.OK
    message: str = ""
    times: list[float] = field(default_factory=lambda: [0.0])
    signals: list[Array] = field(default_factory=list)
    rows: list[tuple[float, Array, Array]] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)


def march(
    run: March, control: Control, after: Callable[[March], Status] = lambda run: Status.OK
) -> March:
    """Take steps to t_max and two beyond, after which the rows up to t_max are final.

    `after` is asked after each step; what it returns other than "ok" stops the march.
    """
    if not run.signals:
        run.signals.append(run.state.arrays["Z"][:, 0].copy())
    last = control.times.size - 1 if control.times is not None else None
    report = np.zeros(4)
    while run.saved < control.save_at.size and run.status == Status.OK:
        if last is not None and run.taken >= last:
            break
        if not _step(run, control, report):
            break
        _log(run, control)
        state = run.state
        if control.ratio > 0.0 and state.n >= run.swept + SWEEP:
            state.thin(control.ratio, control.grid_tol)
            run.swept = state.n
        run.status = after(run)
    return run


def _target(run: March, control: Control) -> float:
    """Time of the next step: saved times are met after an even number of steps."""
    if control.times is not None:
        return float(control.times[run.taken + 1])
    t, dt = run.state.t, run.dt
    ahead = control.save_at[control.save_at > t * (1.0 + 1e-14)]
    if not ahead.size:
        return t + dt
    left = float(ahead[0]) - t
    steps = max(1, math.ceil(left / dt * (1.0 - 1e-9)))
    if steps > PLAN:
        return t + dt
    steps += (run.taken + steps) % 2
    return float(ahead[0]) if steps == 1 else t + left / steps


def _step(run: March, control: Control, report: Array) -> bool:
    """One accepted step; False where none is possible."""
    state = run.state
    state.shift()
    young = state.keep_young()
    while True:
        t_new = _target(run, control)
        h = t_new - state.t
        state.trial(t_new, ITERATE * control.tol, PASSES, report)
        run.passes += int(report[2])
        error, change = float(report[0]), float(report[1])
        if control.times is not None and math.isfinite(error):
            break
        met = error <= REJECT * control.tol and change <= control.tol
        factor = SAFETY * (control.tol / max(error, 1e-300)) ** 0.25
        if math.isfinite(error) and met:
            # Columns began two steps ago: their error says how to go on, not that this step is bad.
            young_factor = SAFETY * (control.tol / max(float(report[3]), 1e-300)) ** 0.25
            _adapt(run, control, h, min(factor, young_factor))
            break
        state.restore_young(young)
        run.rejected += 1
        run.dt = h * min(0.7, max(0.2, factor)) if math.isfinite(error) else 0.3 * h
        if not run.dt > SMALLEST_STEP * max(1.0, state.t):
            run.status, run.message = _failure(state, error)
            return False
    if not np.all(np.abs(state.arrays["Z"][:, state.n]) < LARGEST):
        run.status, run.message = _failure(state, math.nan)
        return False
    state.settle()
    run.taken += 1
    return True


def _adapt(run: March, control: Control, h: float, factor: float) -> None:
    """The next step: equal ones where nothing is gained."""
    proposed = h * min(GROWTH, factor)
    if h < 0.999 * run.dt:
        # A step that was shortened to meet a saved time says nothing of longer ones.
        proposed = max(proposed, min(run.dt, h * GROWTH))
        if factor > 1.0:
            proposed = max(proposed, run.dt)
    elif STEADY[0] < factor < STEADY[1]:
        proposed = run.dt
    run.dt = min(proposed, control.max_step)


def _failure(state: State, error: float) -> tuple[Status, str]:
    """Status of a march that can take no step."""
    t = state.t
    Z = state.arrays["Z"][:, state.n]
    if not np.all(np.isfinite(Z)) or not math.isfinite(error):
        return Status.NONFINITE, f"the equations give no finite number after t = {t:.6g}"
    if np.any(np.abs(Z) >= LARGEST):
        return Status.DIVERGED, f"signals exceed {LARGEST:.0e} after t = {t:.6g}"
    return Status.TOLERANCE_NOT_MET, f"no step from t = {t:.6g} meets the tolerance"


def _log(run: March, control: Control) -> None:
    """Keep signals and rows two steps later, when they are final."""
    state = run.state
    run.times.append(state.t)
    run.signals.append(state.arrays["Z"][:, state.n - 1].copy())
    back = state.n - 3
    if back >= 0:
        run.signals[-3] = state.arrays["Z"][:, back].copy()
    ahead = run.saved + len(run.waiting)
    if ahead < control.save_at.size and abs(state.t - control.save_at[ahead]) <= 1e-12 * state.t:
        run.waiting.append(state.t)
    while run.waiting and back >= 0 and state.arrays["x"][back] >= run.waiting[0]:
        store_row(run, ROWS - 3, back)
        run.waiting.pop(0)


def store_row(run: March, r: int, node: int) -> None:
    """Keep row `node` of the grid, which stands in place r of the last rows."""
    a = run.state.arrays
    row = a["X"][r, :, : node + 1].copy()
    run.rows.append((float(a["x"][node]), a["x"][: node + 1].copy(), row))
    run.saved += 1


def start(problem: Any, values: Any, control: Control) -> March:
    """March before its first step."""
    dt = control.first_step if control.times is None else 0.0
    return March(State.begin(problem, values), dt)

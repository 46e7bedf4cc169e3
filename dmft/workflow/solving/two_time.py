"""Solve hand-written two-time problems: options, the run and its error, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.codegen.two_time_volterra import build_volterra
from dmft.equations.two_time.problem import TwoTime
from dmft.errors import BadParameter
from dmft.model.random_network import valued
from dmft.names import VERSION, Status
from dmft.progress import Progress, ProgressOption
from dmft.solvers.checkpoint import Digest, StepFile, asked, claim, march
from dmft.solvers.jobs import Job
from dmft.solvers.run import save_times
from dmft.solvers.solution import Values
from dmft.solvers.two_time.advance import ITERATE
from dmft.solvers.two_time.run import TwoTimeRun, interpolate
from dmft.solvers.two_time.step import DIAGONAL
from dmft.solvers.two_time.thinned import Control, March, VolterraProblem
from dmft.solvers.two_time.thinned import start as begin
from dmft.symbolic_lock import once
from dmft.validation import is_number, shown
from dmft.workflow.solve import Solver, equations_of

# Rows that are saved by default, at times in geometric progression down to t_max / SPAN.
ROWS, SPAN = 41, 1000.0
# Largest gap of the thinned grid, relative to the distance from both ends; what dropped times may
# change, relative to the tolerance of a step; how much less the run that measures the error asks.
RATIO, GRID, LESS = 0.3, 0.1, 10.0
# First step, relative to the time in which the fastest function changes by one.
FIRST = 0.05
# Seconds between checkpoints.
EVERY = 20.0


@dataclass(frozen=True)
class TwoTimeOptions:
    """How a two-time problem is solved.

    Attributes
    ----------
    tol : float
        Error of a step, in units of the functions.
    save_at : None, int or (K,) array
        Times of the saved rows: by default 41 in geometric progression; n equidistant ones; these.
    max_step : float
    thin : bool
        Drop times far from both ends of a row, as soon as the rows do not need them; False keeps
        the full grid (cost t^3).
    measure_error : bool
        Solve again with steps twice as long: the difference is the claimed error.
    checkpoint : str or Path, optional
        Folder from which the same call resumes.
    timeout : float, optional
        Seconds.
    max_steps : int
    method : "volterra", optional
    progress : None, bool or callable
    """

    tol: float = 1e-5
    save_at: Any = None
    max_step: float = math.inf
    thin: bool = True
    measure_error: bool = True
    checkpoint: str | Path | None = None
    timeout: float | None = None
    max_steps: int = 10_000_000
    method: str | None = None
    progress: ProgressOption = None

    def __post_init__(self) -> None:
        if self.method not in (None, "volterra"):
            raise BadParameter(f'two-time problems take method "volterra", got {self.method!r}')
        if not (is_number(self.max_step) and self.max_step > 0.0):
            raise BadParameter(f"max_step must be positive, got {shown(self.max_step)}")
        if not (is_number(self.tol) and 1e-12 <= self.tol <= 0.01):
            raise BadParameter(
                f"tol = {self.tol!r}, the error of a step, must lie in [1e-12, 0.01]"
            )


once_built = once(build_volterra)
OPTIONS = tuple(one.name for one in fields(TwoTimeOptions))


def solve_two_time(
    system: TwoTime | VolterraProblem,
    start: None,
    t_max: float,
    options: TwoTimeOptions,
    given: Mapping[str, Any],
) -> TwoTimeRun:
    """Solve a two-time problem from t = 0 to `t_max`, forward in time, parameters `given` by name.

    Scaling     the problem's own times; work grows as t (log t)^2 with thinning, t^3 without
    Valid for   kernels that are smooth away from u = s; order four in the step, with control
    Source      [kim_latz_2001]
    """
    if start is not None:
        raise BadParameter("a two-time problem has its own start: pass start=None")
    problem: TwoTime = equations_of(system)
    varying = {n: y for n, y in given.items() if isinstance(y, sp.Expr) and not y.is_number}
    if varying:
        problem = problem.replace(varying)
        given = {n: y for n, y in given.items() if n not in varying}
    values = {y.name: v for y, v in valued(problem.parameters, given, OPTIONS).items()}
    save_at = saved_times(options.save_at, t_max)
    built = once_built(problem)
    terms = {str(y): {n: str(e) for n, e in of.items()} for y, of in problem.named.items()}
    key = {
        "problem": Digest.of(problem.fingerprint, {"terms": terms}),
        "version": VERSION, "parameters": values,
        "t_max": float(t_max), "save_at": save_at.tolist(), "tol": options.tol,
        "max_step": str(options.max_step), "thin": options.thin,
    }  # fmt: skip
    folder = None if options.checkpoint is None else Path(options.checkpoint)
    if folder is not None:
        claim(folder, key)  # refuses the folder of another run
    ratio = RATIO if options.thin else 0.0
    control = Control(
        float(t_max), save_at[save_at > 0.0], options.tol, _first_step(built, values, options),
        options.max_step, None, ratio, GRID * options.tol, options.max_steps,
    )  # fmt: skip
    files = {n: StepFile(folder and folder / f"{n}.npz", EVERY) for n in ("fine", "coarse")}
    job = Job(1, math.inf if options.timeout is None else options.timeout)
    with Progress(options.progress, "two-time") as bar:
        run = begin(built, values, control)
        fine, coarse = _marched(run, files["fine"], job, bar, (0.0, 2.0 / 3.0)), None
        if options.measure_error and fine.status == Status.OK:
            times = _every_second(np.array(fine.times), float(t_max))
            wider = replace(control, times=times, grid_tol=LESS * control.grid_tol)
            run = begin(built, values, wider)
            coarse = _marched(run, files["coarse"], job, bar, (2.0 / 3.0, 1.0))
    return _record(problem, built, values, options, save_at, fine, coarse, job.seconds())


def saved_times(save_at: int | ArrayLike | None, t_max: float) -> Array:
    """Increasing times of the saved rows, t_max among them."""
    if not (isinstance(t_max, (int, float)) and 0.0 < t_max < math.inf):
        raise BadParameter(f"t_max must be a positive time, got {t_max!r}")
    default = np.geomspace(t_max / SPAN, t_max, ROWS)
    times = default if save_at is None else save_times(save_at, 0.0, float(t_max))
    return times if times[-1] == t_max else np.append(times, float(t_max))


def _every_second(times: Array, t_max: float) -> Array:
    """Every second time up to t_max, and the two beyond that make the last row final."""
    kept = times[times <= t_max * (1.0 + 1e-12)][::2]
    return np.concatenate([kept, kept[-1] + (kept[-1] - kept[-2]) * np.array([1.0, 2.0])])


def _first_step(
    built: VolterraProblem, values: Mapping[str, float], options: TwoTimeOptions
) -> float:
    """A first step whose error, of third order, is far below the tolerance."""
    probe = begin(built, values, Control(1.0, np.ones(1), 1.0, 1.0, 1.0)).arrays
    fastest = max(1.0, *(float(np.abs(probe[y]).max(initial=0.0)) for y in ("FX", "FZ")))
    if not math.isfinite(fastest):
        raise BadParameter("the equations give no finite rates at t = 0")
    return min(options.max_step, FIRST * float(np.cbrt(options.tol)) / fastest)


def _marched(
    run: March, file: StepFile, job: Job, bar: Progress, part: tuple[float, float]
) -> March:
    """March to the end, or until it is stopped; `part` is that of the progress."""

    def after(now: March) -> Status:
        file.save(now)
        done = min(1.0, now.t / now.control.t_max)
        bar.update(part[0] + (part[1] - part[0]) * done, f"t = {now.t:.4g}")
        return asked(job)

    try:
        march(file.restore(run), after)
        file.save(run, at_once=True)
    except KeyboardInterrupt:
        # In the middle of a step: what the last checkpoint holds is whole.
        run.stop(Status.INTERRUPTED)
    return run


def _record(
    problem: TwoTime,
    built: VolterraProblem,
    values: Mapping[str, float],
    options: TwoTimeOptions,
    save_at: Array,
    fine: March,
    coarse: March | None,
    seconds: float,
) -> TwoTimeRun:
    """Arrays by name; the two steps beyond t_max that made the last rows final are left out."""
    rows = [r for r in fine.rows if r[0] <= save_at[-1] * (1.0 + 1e-12)]
    if save_at[0] == 0.0:
        first = fine.signals[0][built.flags[DIAGONAL, : len(built.pairs)]][:, None]
        rows.insert(0, (0.0, np.zeros(1), first))
    times = np.array(fine.times)
    count = int(np.searchsorted(times, save_at[-1] * (1.0 + 1e-12), side="right"))
    signals = np.array(fine.signals)[:count]
    steps = np.array([s.size for _, s, _ in rows], dtype=np.int64)
    flat = [
        np.concatenate([np.zeros(0), *(v[a] for _, _, v in rows)]) for a in range(len(built.pairs))
    ]
    complete = coarse is not None and coarse.status == Status.OK
    error = (
        _errors(built, fine, coarse, rows, count, options.tol)
        if complete and coarse is not None
        else None
    )
    notes = [fine.message]
    if options.measure_error and not complete and fine.status == Status.OK:
        notes.append("the run that estimates the error did not finish: errors are unknown")
    return TwoTimeRun(
        t=times[:count],
        saved=np.array([t for t, _, _ in rows]),
        signals=Values({n: signals[:, k].copy() for k, n in enumerate(built.signals)}),
        offsets=np.concatenate([[0], np.cumsum(steps)]).astype(np.int64),
        s=np.concatenate([np.zeros(0), *(s for _, s, _ in rows)]),
        pairs=Values(dict(zip(built.pairs, flat, strict=True))),
        error=Values(error or {n: np.full(count, np.nan) for n in built.signals}
                     | {n: np.full(len(rows), np.nan) for n in built.pairs}),
        causal=built.causal,
        status=fine.status,
        message="; ".join(note for note in notes if note),
        statistics={
            "steps": fine.taken, "rejected": fine.rejected, "passes": fine.passes,
            "grid": fine.n, "seconds": seconds,
        },
        parameters=dict(values),
        provenance={
            "problem": problem.fingerprint, "dmft": VERSION, "version": VERSION,
            "kind": "two-time", "time_unit": "the problem's own", "model": problem.name,
            "source": problem.source, "method": "Volterra, Adams-Moulton of order 4",
            "tol": options.tol, "approximation": f"tol = {options.tol:g} per step",
            "dropped_terms": list(problem.dropped), "changed_terms": problem.changed_terms,
        },
    )  # fmt: skip


def _errors(
    built: VolterraProblem, fine: March, coarse: March, rows: list[Any], count: int, tol: float
) -> dict[str, Array]:
    """Differences from the run with steps twice as long: about ten times the true error.

    The largest of [t/2, t], for rows the largest over s; and where iterations stop.
    """
    times, other = np.array(coarse.times), np.array(coarse.signals)
    floor = ITERATE * tol
    here = np.array(fine.signals)[: 2 * other.shape[0] : 2]
    size = min(here.shape[0], other.shape[0])
    gap = _trailing(times[:size], np.abs(here[:size] - other[:size]))
    # A step between two common times has the error of the later one.
    spread = gap[np.minimum((np.arange(count) + 1) // 2, size - 1)] + floor
    table = {t: (s, v) for t, s, v in coarse.rows}
    found = np.zeros((len(rows), len(built.pairs)))
    for i, (t, s, v) in enumerate(rows):
        if t > 0.0:  # saved times end an even number of steps, so that both runs have them
            at, values = table[t]
            for a in range(len(built.pairs)):
                found[i, a] = np.abs(interpolate(s, v[a], at) - values[a]).max()
    found = _trailing(np.array([t for t, _, _ in rows]), found) + floor
    return {n: spread[:, k] for k, n in enumerate(built.signals)} | {
        n: found[:, a] for a, n in enumerate(built.pairs)
    }


def _trailing(times: Array, values: Array) -> Array:
    """Largest value of each column over [t/2, t]: one time may agree by chance."""
    best, levels, span = values, [values], 1
    while 2 * span <= times.size:
        best = best.copy()
        best[span:] = np.maximum(best[span:], levels[-1][:-span])
        levels.append(best)
        span *= 2
    now = np.arange(times.size)
    first = np.searchsorted(times, times / 2.0)
    level = np.floor(np.log2(now - first + 1)).astype(int)
    back = first + 2**level - 1
    table = np.stack(levels)
    return np.asarray(np.maximum(table[level, now], table[level, back]))


SOLVER = Solver(
    "two-time problems", TwoTimeOptions, solve_two_time,
    ": they take tol=, the error of a step, and have signals",
)  # fmt: skip

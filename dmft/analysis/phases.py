"""The phases of a run: when it escapes from its plateau, and when its units have aligned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmft.analysis.escape import Censored, EscapeTime, clock_of, escape_time_of, run_again
from dmft.arrays import Array, cosines
from dmft.errors import BadParameter
from dmft.record import Record, Short
from dmft.solvers.problem import Problem
from dmft.solvers.solution import CLOCK
from dmft.solvers.solve import solve_problem
from dmft.solvers.trajectory import Trajectory, with_readout
from dmft.validation import checked_or

# A crossing is looked for on the accepted steps and then twice on as many points in between: what
# is left to the straight line is 1e-5 of a step.
ZOOMS, ZOOM_POINTS = 2, 257
BLOCKS = ("M", "Q", "P")


@dataclass(frozen=True, eq=False, repr=False)
class Phases(Short, Record):
    """Times at which a run escapes and at which it aligns with the teacher.

    Attributes
    ----------
    escape : EscapeTime or Censored
        Escape time, as computed by `dmft.escape_time`.
    alignment : EscapeTime or Censored
        First time at which every teacher unit has a student unit with |cosine| >= `level`.
    units : (k,) array
        Alignment time of each teacher unit; nan if it did not occur.
    level : float

    Examples
    --------
    >>> found = EscapeTime(1.5, 0.2, "start"), EscapeTime(2.5, 0.9, "alignment")
    >>> print(Phases(*found, units=np.array([2.5]), level=0.9))
    escapes at t = 1.5, aligned (0.9) at t = 2.5
    """

    escape: EscapeTime | Censored
    alignment: EscapeTime | Censored
    units: Array
    level: float

    def _in_words(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return (
            f"{_said('escapes at', 'has not escaped', self.escape)}, "
            f"{_said(f'aligned ({self.level:g}) at', 'has not aligned', self.alignment)}"
        )


@checked_or(run="phases belong to one solved run: for paths and simulations use dmft.escape_time")
def phases(
    run: Trajectory, *, fraction: float = 0.5, reference: str = "plateau", level: float = 0.9
) -> Phases:
    r"""Compute the escape time and the alignment time of a solved run.

    Equation    escape: first t with risk <= (1 - fraction) * reference risk; alignment: first t
                with min_r max_j |M_jr| / sqrt(Q_jj P_rr) >= level
    Scaling     t of the run (steps for a map); `.steps(dim)` converts either
    Valid for   runs that observe M, Q, P and the risk. The run is integrated again at rtol = 1e-11,
                and both times are located within its steps; for a map they are whole steps
    Source      theory/one_pass F, G.3

    Parameters
    ----------
    run : Trajectory
    fraction : float in (0, 1)
    reference : {"plateau", "start"}
    level : float in (0, 1]
        Cosine at which a teacher unit counts as learned. A cosine of 1 is reached only at infinite
        time.

    Returns
    -------
    Phases
        Times of escape and alignment (`Censored` if they did not occur), and the alignment time
        of each teacher unit.

    Raises
    ------
    BadParameter
        For runs of paths or simulations, wide runs, and runs read from a file.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(0.05, constraint="sphere"))
    >>> run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.1]], [[1.0]]), t_max=3.0)
    >>> print(dmft.phases(run, level=0.9))
    escapes at t = 0.824129, aligned (0.9) at t = 1.07949
    """
    if not 0.0 < level <= 1.0:
        raise BadParameter(f"level = {level!r} is a cosine: it must lie in (0, 1]")
    missing = [name for name in BLOCKS if name not in run.blocks and name not in run.constants]
    if missing:
        raise BadParameter(f"the cosines need M, Q and P; this run has no {', '.join(missing)}")
    escape = escape_time_of(run, fraction=fraction, reference=reference)
    problem, options = run_again(run)
    dense = solve_problem(problem, run.start, float(run.t[-1]), **options)
    P = run.constants["P"]
    *best, time = (_first(dense, problem, options, (P, n), level) for n in range(len(P) + 1))
    alignment: EscapeTime | Censored
    if math.isnan(time):
        end = float(dense.t[-1])
        alignment = Censored(end, level, "alignment", dense.status, dense.message)
    else:
        until = dense
        if CLOCK in dense.blocks and time > float(dense.t[0]):
            # The mean rate of a schedule is that until then, not that until the end.
            until = solve_problem(problem, run.start, time, **options)
        alignment = EscapeTime(time, level, "alignment", **clock_of(until))
    return Phases(escape, alignment, np.array(best), level)


def _cosine(run: Trajectory, P: Array, n: int) -> Array:
    """Largest |cosine| of a student with teacher n (T,); with the worst one where n is beyond."""
    seen = with_readout(run)  # of a spectrum the sums over its blocks
    found = cosines(seen.M, seen.Q, P).max(axis=1)
    return np.asarray(found[:, n] if n < len(P) else found.min(axis=1))


def _first(
    run: Trajectory,
    problem: Problem,
    options: Mapping[str, Any],
    of: tuple[Array, int],
    level: float,
) -> float:
    """First time at which a cosine of the run reaches the level, nan if it never does."""
    for _ in range(ZOOMS + 1):
        values = _cosine(run, *of)
        reached = np.flatnonzero(values >= level)
        if reached.size == 0:
            return math.nan
        i = int(reached[0])
        if i == 0 or problem.kind == "map":
            return float(run.t[i])
        before, after = float(run.t[i - 1]), float(run.t[i])
        low, high = float(values[i - 1]), float(values[i])
        points = np.linspace(before, after, ZOOM_POINTS)
        if not np.all(np.diff(points) > 0):  # as fine as times can be told apart
            break
        state = {b.name: run.blocks[b.name][i - 1] for b in problem.state}
        finer = {**options, "t_start": before, "save_at": points}
        run = solve_problem(problem, state, after, **finer)
        if not np.any(_cosine(run, *of) >= level):  # met at the last digit of the end
            break
    return before + (after - before) * (level - low) / (high - low)


def _said(seen: str, unseen: str, found: EscapeTime | Censored) -> str:
    if isinstance(found, EscapeTime):
        return f"{seen} t = {found.value:.6g}"
    return f"{unseen} until t = {found.horizon:.6g}"

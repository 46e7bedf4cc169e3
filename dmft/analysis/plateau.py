"""The plateau of a learning curve: where its log-log slope is smallest before the descent."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.polynomial.polynomial import polyder, polyval
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.solvers.pointers import entry, loop
from dmft.solvers.problem import sizes_of
from dmft.solvers.trajectory import Trajectory

Vector = NDArray[np.float64]

# A relaxation must lower the risk by this much per unit of log t to count as one.
LEAST_RELAXATION = 1e-4
# It ends where its slope has fallen to this part of its peak.
RELAXATION_OVER = 0.8
# A start counts as relaxing when the risk falls this fast there, relative to its fastest fall.
FAST_START = 0.1
# A plateau is seen to be left when the slope grows again by this factor.
RISE = 1.2
# Below this part of its start the risk is spoilt by cancellation.
RESOLVED_RISK = 1e-10
# A run that ends flat below this part of its start has learned: it is on no plateau.
LEARNED = 1e-3
# Relative displacement along the flow for the derivative of the risk.
DISPLACEMENT = 1e-5
# Points on either side of the flattest one that locate the plateau between them, and iterations of
# Newton's method for it.
NEIGHBOURS, ITERATIONS = 3, 4


@dataclass(frozen=True)
class Plateau:
    """Time and risk at the flattest point, and the row of the run that is next to it.

    `left` when a steeper descent follows it.
    """

    t: float
    risk: float
    row: int = 0
    left: bool = True


def find_plateau(run: Trajectory, origin: float) -> Plateau | None:
    """Return the plateau after the first relaxation of `run`, or None when it does not relax.

    `run` is saved at each accepted step; log t counts from `origin`. With s = -d log risk / d log
    t: the relaxation is the first maximum of |s| that falls by half afterwards (of |s|: noise may
    lengthen students and raise the risk at first); the descent is the largest s after that fall;
    the plateau is the smallest |s| between them. A curve that still flattens at its end has its
    plateau there. They are looked for before the fastest fall of the risk, and where that is not
    later than the relaxation, as in a run that falls fast from its start on, beyond. Other runs
    begin on their plateau.
    """
    rate = risk_rate(run)
    slope = _log_slope(run, origin, rate)
    good = np.isfinite(slope) & (run.risk > RESOLVED_RISK * run.risk[0]) & (run.t > origin)
    index = np.flatnonzero(good)
    if index.size < 3:
        return None
    fastest = int(np.argmin(rate[index]))
    found = _flattest(run, rate, slope, index[: fastest + 1])
    if found is not None or not is_relaxing(rate):
        return found
    found = _flattest(run, rate, slope, index)
    learned = found and not found.left and found.risk < LEARNED * run.risk[0]
    return None if learned else found


def refined(plateau: Plateau, part: Trajectory, origin: float) -> Plateau:
    """The same plateau located on a finer part of its run."""
    rate = risk_rate(part)
    slope = _log_slope(part, origin, rate)
    if not np.all(np.isfinite(slope)):
        return plateau
    row = int(np.argmin(np.abs(slope)))
    t = _minimum(part.t, slope, row)
    return replace(plateau, t=t, risk=_cubic(part.t, part.risk, rate, row, t))


def _flattest(
    run: Trajectory, rate: Vector, slope: Vector, index: NDArray[np.int64]
) -> Plateau | None:
    """Plateau among these points of the run, or between them."""
    here = slope[index]
    bounds = _between(here)
    if bounds is None:
        return None
    begin, end = bounds
    flat = begin + int(np.argmin(np.abs(here[begin : end + 1])))
    rise = max(RISE * abs(float(here[flat])), LEAST_RELAXATION)
    beyond = slope[index[flat] :]
    left = bool(np.max(beyond[np.isfinite(beyond)]) > rise)
    row = int(index[flat])
    t = _minimum(run.t, slope, row)
    return Plateau(t, _cubic(run.t, run.risk, rate, row, t), row, left)


def _between(slope: Vector) -> tuple[int, int] | None:
    """First point after the relaxation has faded, and the steepest point of the descent."""
    peak = -np.inf
    for i, value in enumerate(np.abs(slope)):
        peak = max(peak, value)
        if peak > LEAST_RELAXATION and value < RELAXATION_OVER * peak:
            descent = i + int(np.argmax(slope[i:]))
            return i, (descent if descent > i else slope.size - 1)
    return None


def _log_slope(run: Trajectory, origin: float, rate: Vector) -> Vector:
    """Return -d log risk / d log (t - origin) at the saved points."""
    with np.errstate(divide="ignore", invalid="ignore"):
        slope: Vector = -(run.t - origin) * rate / run.risk
    return slope


def risk_rate(run: Trajectory) -> Vector:
    """Return d risk / dt at the saved points, by central differences along the right-hand side."""
    problem = run.problem
    if problem is None:
        raise BadParameter("this trajectory has no compiled equations (it was read from a file)")
    y = np.concatenate([run.blocks[b.name].reshape(run.t.size, -1) for b in problem.state], axis=1)
    widths = sizes_of(problem, run.widths)
    par = problem.pack_parameters(run.parameters, run.constants)
    flow, ahead, behind = (
        np.empty_like(y),
        *(np.empty((run.t.size, len(problem.observables))) for _ in range(2)),
    )
    rhs, observe = entry(problem.rhs, "RHS"), entry(problem.observe, "RHS")
    loop("evaluate_rows")(rhs, run.t, np.ascontiguousarray(y), widths, par, flow)
    size = np.max(np.abs(y), axis=1, initial=1e-300)
    speed = np.max(np.abs(flow), axis=1, initial=1e-300)
    h = DISPLACEMENT * size / speed
    shift = h[:, None] * flow
    loop("evaluate_rows")(observe, run.t, np.ascontiguousarray(y + shift), widths, par, ahead)
    loop("evaluate_rows")(observe, run.t, np.ascontiguousarray(y - shift), widths, par, behind)
    i = problem.observables.index("risk")
    rate: Vector = (ahead[:, i] - behind[:, i]) / (2.0 * h)
    return rate


def is_relaxing(rate: Vector) -> bool:
    """True when the risk falls from the very start about as fast as it ever does."""
    return bool(-rate[0] > FAST_START * np.max(-rate))


def _minimum(t: Vector, slope: Vector, i: int) -> float:
    """Where the polynomial through the squares of an entry, the least, and its neighbours is least.

    Of squares, as the size of a slope that changes its sign has a kink there.
    """
    count = min(NEIGHBOURS, i, t.size - 1 - i)
    near = slice(i - count, i + count + 1)
    x, squares = t[near] - t[i], slope[near] ** 2
    if count == 0 or not np.all(np.isfinite(squares)):
        return float(t[i])
    # Coefficients from the constant one on.
    value = np.linalg.solve(np.vander(x / x[-1], increasing=True), squares)
    slope_there = polyder(value)
    ahead = 0.0
    for _ in range(ITERATIONS):
        bend = polyval(ahead, polyder(slope_there))
        ahead -= float(polyval(ahead, slope_there) / bend) if bend else 0.0
    found = t[i] + ahead * x[-1]
    return float(found if t[i - 1] < found < t[i + 1] else t[i])


def _cubic(t: Vector, value: Vector, rate: Vector, i: int, at: float) -> float:
    """Interpolate between row i and the next one to `at` by values and their rates."""
    if at == t[i]:
        return float(value[i])
    from scipy.interpolate import CubicHermiteSpline

    near = slice(i, i + 2) if at > t[i] else slice(i - 1, i + 1)
    return float(CubicHermiteSpline(t[near], value[near], rate[near])(at))

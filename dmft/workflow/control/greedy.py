"""`greedy_schedule`: at each time the rate at which the risk falls fastest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dmft.compiled import njit
from dmft.equations.equations import Equations
from dmft.errors import BadParameter
from dmft.model.schedule import Schedule
from dmft.solvers.signatures import RHS_SIGNATURE, rhs_at
from dmft.solvers.solve import solve_problem
from dmft.validation import checked
from dmft.workflow.control.problem import Controlled, check_controlled

# Times of a schedule, between which it is linear.
POINTS = 1001
# Bounds by default, in units of the greedy rate at the start.
LOWEST, HIGHEST = 1e-6, 100.0


@checked
def greedy_schedule(
    equations: Equations,
    start: Any,
    t_max: float,
    *,
    minimise: str = "risk",
    control: str = "learning_rate",
    bounds: tuple[float, float] | None = None,
    points: int = POINTS,
    rtol: float = 1e-9,
    atol: float = 1e-11,
    **parameters: Any,
) -> Schedule:
    r"""Learning rates that decrease the risk fastest at each time.

    Equation    dR/dtau = (gamma/p) (A + gamma B), A = dR/dX . drift, B = dR/dX . noise;
                gamma = -A / (2 B), a bound where B <= 0
    Scaling     t_max, `Schedule.t` and `.run.t` are tau = steps/d; samples/d for batches
    Valid for   the ode of one-pass SGD with closed averages | not optimal in general; see
                `optimal_schedule`
    Source      theory/structured_inputs (24)-(26)

    Parameters
    ----------
    equations : Equations
    start : Overlaps
    t_max : float
        tau at the end.
    minimise : "risk"
    control : "learning_rate" or "batch_size"
        For batches n_b = gamma/(rate of single samples).
    bounds : (low, high), optional
        Bounds of the control; by default 1e-6 and 100 times its value at the start.
    points : int
        Equidistant times of the schedule.
    rtol, atol : float
        Tolerances of the run.
    **parameters
        Run-time values: ``label_noise=``.

    Returns
    -------
    Schedule
        `.hamiltonian` is dR/dtau.

    Raises
    ------
    BadParameter, NotClosed

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
    >>> eqs = dmft.derive(dmft.Model(line, line, label_noise=0.25), dmft.SGD(1.0))
    >>> found = dmft.greedy_schedule(eqs, dmft.Overlaps([[0.0]], [[0.0]]), 10.0)
    >>> round(float(found.value[-1]), 6), round(2 * float(found.run.risk[-1]), 6)
    (0.126133, 0.036085)
    """
    system = read(equations, start, t_max, minimise, control, parameters)
    if control == "weight_decay":
        raise BadParameter(
            "the risk is linear in a decay, so the greedy value jumps between its bounds; use "
            "dmft.optimal_schedule"
        )
    low, high = limits(system, bounds)
    c = system.control
    problem = replace(
        system.problem,
        rhs=greedy,
        tail=(system.problem.rhs, system.gradient_of_risk, c.position, c.scale, low, high),
        lanes=None,
        time_unit="steps / d",
    )
    times = np.linspace(0.0, float(t_max), points)
    run = solve_problem(
        problem, **system.inputs, t_max=float(t_max), save_at=times, rtol=rtol, atol=atol
    )
    states = [problem.pack({n: b[i] for n, b in run.blocks.items()}) for i in range(run.t.size)]
    slopes = [system.slopes(y) for y in states]
    numbers = np.array(
        [best(*system.parts(y, g), low, high) for y, g in zip(states, slopes, strict=True)]
    )
    falls = np.array(
        [system.hamiltonian(y, g, v) for y, g, v in zip(states, slopes, numbers, strict=True)]
    )
    if run.t.size < 2:
        raise BadParameter(f"the greedy run ended at its start: {run.message}")
    at_bound = int(np.sum((numbers <= low) | (numbers >= high)))
    message = f"greedy; {run.message}" + f"; {at_bound} times at a bound" * bool(at_bound)
    return system.schedule(run.t, numbers, falls, status=run.status, message=message)


def read(
    equations: Equations, start: Any, t_max: float, minimise: str, control: str, parameters: Any
) -> Controlled:
    """The controlled system of a call, or its refusal."""
    equations = check_controlled(equations, control)
    if minimise != "risk":
        raise BadParameter(f"minimise = {minimise!r} must be 'risk', the population risk")
    if not (np.isfinite(t_max) and t_max > 0.0):
        raise BadParameter(f"t_max must be positive and finite, got {t_max!r}; it is tau = steps/d")
    return Controlled(equations, start, control, parameters)


def limits(system: Controlled, bounds: tuple[float, float] | None) -> tuple[float, float]:
    """Bounds of the number that moves."""
    c = system.control
    if bounds is None:
        if c.name == "weight_decay":
            raise BadParameter(
                "a decay requires bounds, for example bounds=(0, 1), because the risk is linear "
                "in it"
            )
        if c.name == "batch_size":  # batches of one sample and more
            return c.total * c.batch * LOWEST, c.total * c.batch
        guess = first_guess(system)
        return LOWEST * guess, HIGHEST * guess
    low, high = (float(y) for y in bounds)
    least = 1.0 if c.name == "batch_size" else 0.0
    if not (least <= low < high < np.inf) or (low == 0.0 and c.name != "weight_decay"):
        raise BadParameter(
            f"bounds = {bounds!r} of {c.name} must be finite and ascending, and at least {least:g}"
        )
    if c.name == "batch_size":
        low, high = c.read(np.array([high, low])).tolist()
    return low, high


def first_guess(system: Controlled) -> float:
    """The greedy rate at the start; where noise is no cost there, a rate of order one."""
    first, second = system.parts(system.y, system.slopes(system.y))
    if second > 0.0 and first < 0.0:
        return -first / (2.0 * second)
    spectrum = system.equations.model.spectrum
    return 1.0 if spectrum is None else 1.0 / spectrum.mean


def best(first: float, second: float, low: float, high: float) -> float:
    """Number that makes number (first + number second) least, between bounds."""
    if second <= 0.0:
        return high if first + high * second < 0.0 else low
    return min(max(-first / (2.0 * second), low), high)


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def greedy(t, y, widths, par, out):  # type: ignore[no-untyped-def]
    """Right-hand side per tau at the greedy rate of the moment.

    In the tail of `par` stand the rates, the gradient of the risk, the position of the control
    among the parameters, its scale and its bounds.
    """
    n, end = y.size, par.size - 6
    rates, slope, position = np.int64(par[end]), np.int64(par[end + 1]), np.int64(par[end + 2])
    scale, low, high = par[end + 3], par[end + 4], par[end + 5]
    values, both, slopes, one = par.copy(), np.zeros(2 * n), np.zeros(2 * n), np.empty(n)
    both[:n] = y
    rhs_at(slope)(t, both, widths, values, slopes)
    values[position] = 0.0
    rhs_at(rates)(t, y, widths, values, out)
    values[position] = 1.0
    rhs_at(rates)(t, y, widths, values, one)
    first, second = 0.0, 0.0
    for i in range(n):
        first += slopes[n + i] * out[i]
        second += slopes[n + i] * (one[i] - out[i])
    if second <= 0.0:
        now = high if first + high * second < 0.0 else low
    else:
        now = min(max(-first / (2.0 * second), low), high)
    for i in range(n):
        out[i] = scale * now * (out[i] + now * (one[i] - out[i]))

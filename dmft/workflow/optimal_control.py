"""`optimal_schedule` and `greedy_schedule`: the least risk at the end, or its fastest fall."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dmft.arrays import Array
from dmft.compiled import njit
from dmft.equations.equations import Equations
from dmft.equations.noise.derivatives import following
from dmft.errors import BadParameter
from dmft.model.schedule import RATES, Schedule, is_allowed
from dmft.names import Status
from dmft.solvers.controlled import READ
from dmft.solvers.signatures import RHS_SIGNATURE, rhs_at
from dmft.solvers.solve import solve_problem
from dmft.validation import as_positive, check_pair, checked
from dmft.workflow.control_problem import Controlled, check_controlled

# Times of a schedule, between which it is linear, and most of them.
POINTS, MOST_POINTS = 1001, 100_000
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
    r"""Compute the schedule that decreases the risk as fast as possible at each time.

    Equation    dR/dtau = (gamma/p) (A + gamma B), A = dR/dX . drift, B = dR/dX . noise;
                gamma = -A / (2 B), a bound where B <= 0
    Scaling     t_max, `Schedule.t` and `.run.t` are tau = steps/d; samples/d for batches
    Valid for   the ode of one-pass SGD | not optimal in general; see `optimal_schedule`
    Source      theory/structured_inputs (24)-(26)

    Parameters
    ----------
    equations : Equations
    start : Overlaps
    t_max : float
        Final value of tau.
    minimise : str
        Quantity to decrease: "risk", or a measure of a rule of vectors.
    control : "learning_rate" or "batch_size"
        Control. The batch size is n_b = gamma/(greedy rate for single samples).
    bounds : (low, high), optional
        Bounds of the control; by default 1e-6 and 100 times its value at the start.
    points : int
        Number of equidistant times of the schedule.
    rtol, atol : float
        Tolerances of the run.
    **parameters
        Run-time values: ``label_noise=``.

    Returns
    -------
    Schedule
        Schedule, whose `.hamiltonian` is dR/dtau.

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
    if not system.control.is_rate:
        raise BadParameter(
            f"control = {control!r}: greedy schedules are computed only for a learning rate or a "
            "batch size; use dmft.optimal_schedule"
        )
    system.check_parts("a greedy schedule")
    low, high = limits(system, bounds)
    c = system.control
    problem = replace(
        system.problem,
        rhs=greedy,
        tail=(
            system.problem.rhs,
            system.gradient_of_risk,
            c.position,
            c.scale,
            low,
            high,
            *system.par[-READ:],
        ),
        lanes=None,
        time_unit="steps / d",
    )
    if not 2 <= points <= MOST_POINTS:
        raise BadParameter(f"points = {points} must be between 2 and {MOST_POINTS}")
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
    known = [d.name for d in equations.definitions if d.role == "observable"]
    if minimise not in known:
        raise BadParameter(
            f"minimise = {minimise!r} must be 'risk', the population risk, or a measure of the "
            f"rule; these equations have {known}"
        )
    if minimise in following(equations.definitions, control):
        raise BadParameter(f"{minimise} depends on {control} itself: minimise another measure")
    as_positive(t_max, "t_max (tau = steps/d)")
    return Controlled(equations, start, control, parameters, minimise)


def limits(system: Controlled, bounds: tuple[float, float] | None) -> tuple[float, float]:
    """Bounds of the number that moves."""
    c = system.control
    if bounds is None:
        if not c.is_rate:
            raise BadParameter(
                f"{c.name} requires bounds, for example bounds=(0, 1): its best value may be "
                "unbounded, because the risk is linear in a decay"
            )
        if c.name == "batch_size":  # batches of one sample and more
            return c.total * c.batch * LOWEST, c.total * c.batch
        guess = first_guess(system)
        return LOWEST * guess, HIGHEST * guess
    low, high = check_pair(bounds, "bounds")
    least = 1.0 if c.name == "batch_size" else 0.0
    ascend = -np.inf < low < high < np.inf
    if not (ascend and is_allowed(c.name, low) and (low >= least or not c.is_rate)):
        more = f", and at least {least:g}" if c.is_rate or c.name == "weight_decay" else ""
        raise BadParameter(f"bounds = {bounds!r} of {c.name} must be finite and ascending{more}")
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
    among the parameters, its scale and its bounds, and what differences read.
    """
    n, end = y.size, par.size - 6 - READ
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


# Pieces of the first search, and intervals of the schedule, between whose ends it is linear.
PIECES, INTERVALS = 30, 120
# Constant rates that are tried first, in units of the greedy one at the start.
TRIED = np.geomspace(1 / 32, 32, 21)
# H of an optimal schedule varies by less than this part of it; else the sweeps were not enough.
CONSTANT = 1e-4
DAMPING = 0.3
# Logarithms of lengths of pieces, in units of equal ones.
LENGTHS = (-6.0, 6.0)


@checked
def optimal_schedule(
    equations: Equations,
    start: Any,
    t_max: float,
    *,
    minimise: str = "risk",
    control: str = "learning_rate",
    bounds: tuple[float, float] | None = None,
    pieces: int = INTERVALS,
    interpolation: str = "linear",
    free_times: bool = False,
    method: str = "L-BFGS",
    max_iterations: int = 400,
    tol: float = 1e-8,
    **parameters: Any,
) -> Schedule:
    r"""Compute the schedule of a control that minimises the risk at the final time.

    Equation    dX/dtau = u A(X) + u^2 B(X), dLambda/dtau = -(u dA + u^2 dB)^T Lambda with
                Lambda = dR/dX at the end; u = -Lambda.A / (2 Lambda.B), the bound where
                Lambda.B <= 0; H = Lambda.(u A + u^2 B) is constant
    Scaling     t_max, `Schedule.t` and `.run.t` are tau = steps/d (samples/d for batches);
                `.value` is gamma = p u
    Valid for   the ode of one-pass SGD | a local optimum; the search starts at the best constant
                rate; central differences replace the adjoint where the derivative of an average
                has no closed form
    Source      theory/structured_inputs (27)

    Parameters
    ----------
    equations : Equations
    start : Overlaps
    t_max : float
    minimise : str
        Quantity whose final value is minimised: "risk", or a positive measure of a rule of vectors.
    control : str
        "learning_rate", "batch_size", "weight_decay" or another parameter of the equations. For the
        batch size, tau counts samples, and the learning rate is that of the equations.
    bounds : (low, high), optional
        Bounds of the control; required for controls other than the learning rate and the batch
        size.
    pieces : int
        Number of intervals of the schedule.
    interpolation : "linear" or "constant"
        Form of the schedule in each interval.
    free_times : bool
        Whether to optimise the times of constant pieces as well. Otherwise the pieces have equal
        length.
    method : "L-BFGS" or "sweep"
        "L-BFGS" applies quasi-Newton steps to log u, with gradients from the adjoint equations.
        "sweep" applies forward-backward sweeps with damping 0.3.
    max_iterations : int
        Iterations of each search.
    tol : float
        Error tolerance of the runs.
    **parameters
        Run-time values: ``label_noise=``.

    Returns
    -------
    Schedule
        Schedule, whose `.hamiltonian` contains H at its times. H is constant along an optimal
        schedule. H varies by an amount proportional to the square of the length of the pieces,
        more where the best control moves fast, and not at all for constant pieces with free times.
        `.status` is "not_converged" if both the variation of H and the relative gradient with
        respect to the values of the schedule (away from bounds) exceed 1e-4.

    Raises
    ------
    BadParameter, NotClosed

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
    >>> eqs = dmft.derive(dmft.Model(line, line, label_noise=0.25), dmft.SGD(1.0))
    >>> found = dmft.optimal_schedule(eqs, dmft.Overlaps([[0.0]], [[0.0]]), 10.0)
    >>> round(2 * float(found.run.risk[-1]), 5)
    0.03608
    """
    if method not in ("L-BFGS", "sweep"):
        raise BadParameter(f'method must be "L-BFGS" or "sweep", got {method!r}')
    if method == "sweep" and control not in RATES:
        raise BadParameter(f'method="sweep" is for rates and batches: use "L-BFGS" for {control}')
    if interpolation not in ("linear", "constant"):
        raise BadParameter(f'interpolation must be "linear" or "constant", got {interpolation!r}')
    system = read(equations, start, t_max, minimise, control, parameters)
    linear = interpolation == "linear"
    if free_times and (linear or method == "sweep"):
        raise BadParameter(
            'free_times requires constant pieces and L-BFGS: use interpolation="constant", '
            "or leave free_times out"
        )
    if method == "sweep":
        system.check_parts('method="sweep"')
    search = Search(system, *limits(system, bounds), float(tol), int(max_iterations))
    first = np.linspace(0.0, float(t_max), min(PIECES, pieces) + 1)
    knots = np.linspace(0.0, float(t_max), int(pieces) + 1)
    number = search.best_constant(float(t_max))
    if method == "sweep":
        return search.record(knots, search.swept(knots, np.full(knots.size, number)))
    _, constant = search.minimised(first, np.full(first.size - 1, number), linear=False)
    at = knots if linear else (knots[1:] + knots[:-1]) / 2
    numbers = np.interp(at, (first[1:] + first[:-1]) / 2, constant)
    _, numbers = search.minimised(knots, numbers, linear=linear)
    if free_times:
        knots, numbers = search.minimised(knots, numbers, linear=False, free=True)
    return search.record(knots, numbers)


@dataclass
class Search:
    """Searches for the numbers of a control between bounds."""

    system: Controlled
    low: float
    high: float
    tol: float
    iterations: int
    evaluations: int = 0

    def best_constant(self, t_max: float) -> float:
        """The constant with the least risk at the end."""
        if self.system.control.is_rate:
            tried = np.clip(first_guess(self.system) * TRIED, self.low, self.high)
        else:
            tried = np.linspace(self.low, self.high, TRIED.size)
        found = [self.system.risk_at(float(v), t_max) for v in tried]
        if not np.any(np.isfinite(found)):
            raise BadParameter(
                "no constant value gives a finite risk at t_max: use bounds= with smaller values"
            )
        best = int(np.nanargmin(np.where(np.isfinite(found), found, np.nan)))
        if found[best] <= 0.0:
            raise BadParameter(
                f"{self.system.minimise} = {found[best]:.4g} must be positive, because its "
                "logarithm is minimised: use a measure such as 1 - reward"
            )
        return float(tried[best])

    def minimised(
        self, knots: Array, numbers: Array, *, linear: bool, free: bool = False
    ) -> tuple[Array, Array]:
        """Knots, and numbers at them (linear) or of the pieces, that make the risk least.

        Constant pieces of free lengths are T exp(z) over the sum of all.
        """
        n, whole = numbers.size, float(knots[-1])

        def ends(values: Array) -> tuple[Array, Array]:
            return (values[:-1], values[1:]) if linear else (values, values)

        def knots_of(z: Array) -> Array:
            parts = np.exp(z)
            return np.append(0.0, np.cumsum(whole * parts / parts.sum())) if free else knots

        for tol in (1e-5, self.tol, self.tol)[: 2 + free]:
            counts = self.system.counts(knots, *ends(numbers), tol)

            def value(z: Array, counts: Any = counts) -> tuple[float, Array]:
                values, at = self.out_of(z[:n]), knots_of(z[n:])
                risk, (a, b, c), *_ = self.system.gradient(at, *ends(values), counts)
                slope = np.concatenate([a, [0.0]]) + np.concatenate([[0.0], b]) if linear else a + b
                parts = np.diff(at)
                by_length = parts * (c - c @ parts / whole) if free else []
                return self.logarithm(risk, np.append(slope * self.unit(values), by_length))

            lengths = np.diff(knots)
            first = np.append(self.into(numbers), np.log(lengths / lengths.mean()) if free else [])
            found = self.descended(value, first, [self.range] * n + [LENGTHS] * (first.size - n))
            numbers = np.clip(self.out_of(found[:n]), self.low, self.high)
            knots = knots_of(found[n:])
        return knots, numbers

    @property
    def range(self) -> tuple[float | None, float]:
        """Bounds of what the search moves."""
        none = self.low <= 0.0 and self.system.control.is_rate
        return None if none else float(self.into(self.low)), float(self.into(self.high))

    def into(self, numbers: Any) -> Array:
        """What the search moves: logarithms of rates, a decay itself."""
        return np.asarray(np.log(numbers) if self.system.control.is_rate else numbers)

    def out_of(self, z: Array) -> Array:
        """Numbers of what the search moves."""
        return np.asarray(np.exp(z) if self.system.control.is_rate else z)

    def unit(self, numbers: Array) -> Array:
        """Derivatives of the numbers by what the search moves."""
        return numbers if self.system.control.is_rate else np.ones_like(numbers)

    def logarithm(self, risk: float, slope: Array) -> tuple[float, Array]:
        """Logarithm of the risk with its slope; a wall where a run leaves the floats."""
        self.evaluations += 1
        if not (np.isfinite(risk) and risk > 0.0 and np.all(np.isfinite(slope))):
            return 1e6, np.zeros_like(slope)
        return float(np.log(risk)), slope / risk

    def descended(self, value: Any, z: Array, ranges: Any) -> Array:
        """Where L-BFGS ends from z."""
        from scipy.optimize import minimize

        found = minimize(
            value, z, jac=True, method="L-BFGS-B", bounds=ranges,
            options={"maxiter": self.iterations, "maxcor": 40, "ftol": 1e-16, "gtol": 1e-10,
                     "maxfun": 3 * self.iterations},
        )  # fmt: skip
        return np.asarray(found.x)

    def swept(self, knots: Array, numbers: Array) -> Array:
        """Forward-backward sweeps: the control moves towards the one that makes H least."""
        counts = self.system.counts(knots, numbers[:-1], numbers[1:], self.tol)
        for n in range(self.iterations):
            if n % 50 == 49:
                counts = self.system.counts(knots, numbers[:-1], numbers[1:], self.tol)
            wanted = self.stationary(knots, numbers, counts)
            self.evaluations += 1
            if np.max(np.abs(wanted - numbers) / numbers) < 1e-10:
                break
            numbers = numbers + DAMPING * (wanted - numbers)
        return numbers

    def stationary(self, knots: Array, numbers: Array, counts: Any) -> Array:
        """Numbers that make H least at the states and costates of a run."""
        _, _, states, costates = self.system.gradient(knots, numbers[:-1], numbers[1:], counts)
        pairs = zip(states, costates, strict=True)
        return np.array([best(*self.system.parts(y, z), self.low, self.high) for y, z in pairs])

    def record(self, knots: Array, numbers: Array) -> Schedule:
        """The schedule, with H at its times."""
        system = self.system
        linear = numbers.size == knots.size
        left, right = (numbers[:-1], numbers[1:]) if linear else (numbers, numbers)
        counts = system.counts(knots, left, right, self.tol)
        _, slopes, states, costates = system.gradient(knots, left, right, counts)
        numbers = numbers if linear else np.append(numbers, numbers[-1])
        triples = zip(states, costates, numbers, strict=True)
        H = np.array([system.hamiltonian(*triple) for triple in triples])
        inner = H[1:-1]
        middle, spread = float(np.median(inner)), float(np.ptp(inner))
        pairs = list(zip(states, costates, strict=True)) if system.control.is_rate else []
        helps = sum(system.parts(y, z)[1] < 0.0 for y, z in pairs)
        message = (
            f"H = {middle:.6g} varies by {spread:.1e}; {self.evaluations} gradients, "
            f"{int(counts.sum())} steps"
        )
        if helps:
            message += f"; at {helps} times noise helps and the rate is at its bound"
        off = spread / abs(middle)
        if off > CONSTANT:
            # A table cannot follow a control that moves fast: its best values have no slope.
            slope, parts = slopes[0] + slopes[1], np.diff(knots)
            if linear:
                slope = np.append(slopes[0], 0.0) + np.append(0.0, slopes[1])
                parts = (np.append(parts, 0.0) + np.append(0.0, parts)) / 2
            at = numbers[: slope.size]
            inside = (at > self.low) & (at < self.high)
            off = float(np.abs(slope * at / parts)[inside].max(initial=0.0)) / abs(middle)
            message += f"; this concerns {left.size} pieces, with gradients of {off:.1e} of H"
        status = Status.OK if off <= CONSTANT else Status.NOT_CONVERGED
        between = "linear" if linear else "constant"
        return system.schedule(
            knots, numbers, H, status=status, message=message, interpolation=between
        )

"""Equations with one number that follows a `dmft.Schedule`: runs in tau = steps/d, adjoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.codegen.linearised import compiled_adjoint, compiled_tangent
from dmft.compiled import njit
from dmft.equations.equations import Equations
from dmft.equations.update.optimiser import pace
from dmft.errors import BadParameter, NotClosed
from dmft.initial_conditions import SAMPLES, STEPS, begin_of
from dmft.model.algorithm import refuse
from dmft.model.hyperparameters import ONE_SIZE
from dmft.model.schedule import RATES, Schedule
from dmft.model.update import TIME
from dmft.names import Status
from dmft.solvers.controlled import (
    READ,
    adjoint_by_differences,
    control_by_differences,
    pull_back,
    run,
    slopes_by_differences,
)
from dmft.solvers.pointers import entry, pointer
from dmft.solvers.problem import Block, Problem, observed_at, sizes_of
from dmft.solvers.signatures import RHS, RHS_SIGNATURE, rhs_at
from dmft.solvers.solve import solve_problem
from dmft.solvers.trajectory import Trajectory
from dmft.workflow.solving.inputs import problem_of, run_inputs, unit_of, units_of
from dmft.workflow.solving.quadrature import on_nodes

RATE = "learning_rate"
# The time of a run depends on it, too.
SETS_CLOCK = ("momentum",)
# Points of an axis and error functions of a search, which takes thousands of runs: errors of 1e-5
# to 1e-4, as those of `solve`.
FEW_NODES = {"gauss-hermite": 48, "mixture": 5}
# Tolerances of the runs at constant values that a search begins with.
ROUGH: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-9}
# Second differences of rates in the learning rate, relative to them: above errors of averages.
BENT = 1e-7
# Doublings of steps until they are fine enough.
DOUBLINGS = 14
ROWS = 11


@dataclass(frozen=True)
class Control:
    """One number that follows the time, at this position among the parameters.

    Of a batch the rate gamma/n_b takes its place: samples at a rate gamma in batches of n_b move
    the overlaps, in samples/d, as steps of one sample at the rate gamma/n_b do; n_b is then `total`
    over that rate. dX/dtau = scale (number) dX/dt, or scale dX/dt where the control is no rate.
    """

    name: str
    position: int
    scale: float
    total: float = 1.0
    batch: int = 1

    @classmethod
    def of(
        cls, name: str, equations: Equations, problem: Problem, inputs: Mapping[str, Any]
    ) -> Control:
        """The control of this name, at a run's other inputs."""
        scalars, parameter = inputs["parameters"], RATE if name in RATES else name
        known = problem.parameters
        position = known.index(parameter) if parameter in known else -1
        scale = pace(scalars) / units_of(equations, inputs["widths"])
        batch = int(equations.algorithm.batch_size)  # type: ignore[union-attr]
        if name == RATE:
            return cls(name, position, scale, 1.0, batch)
        rate = scalars[RATE]
        if name == "batch_size":
            refuse(equations.algorithm, "batches")
            if getattr(getattr(equations.algorithm, "rule", None), "shortens", False):
                raise BadParameter(f"lengths of mean gradients depend on the batch: {ONE_SIZE}")
            return cls(name, position, scale / batch, rate, batch)
        return cls(name, position, rate * scale)

    @property
    def is_rate(self) -> bool:
        """Whether the time runs with it."""
        return self.name in RATES

    def shown(self, number: Array) -> Array:
        """What a user calls it: n_b for the rate in its place."""
        return self.total * self.batch / number if self.name == "batch_size" else number

    # The same both ways.
    read = shown


def check_controlled(equations: object, control: str) -> Equations:
    """Refuse what no schedule is found for, in words."""
    if isinstance(equations, Problem):
        equations = equations.origin
    if not isinstance(equations, Equations) or equations.kind != "ode" or equations.noise:
        kind = getattr(equations, "kind", type(equations).__name__)
        raise BadParameter(
            "schedules require the ode of one-pass SGD, dmft.derive(model, dmft.SGD(...)), got "
            f"{kind!r}"
        )
    if equations.algorithm.is_flow:
        raise BadParameter(
            f"{type(equations.algorithm).__name__} has no steps, so its rate cannot follow a "
            "schedule: derive with dmft.SGD(...)"
        )
    if unit_of(equations) != (1, 1):
        raise BadParameter(
            f"scaling = {equations.scaling!r} uses a different time, and schedules are not "
            "available in it"
        )
    known = [*RATES, "weight_decay", *equations.parameters]
    known = [name for name in dict.fromkeys(known) if name not in SETS_CLOCK]
    if control not in known:
        raise BadParameter(f"control = {control!r} is not supported; it must be one of {known}")
    values = {n: y for n, y in equations.declared.items() if n != control}
    for network in ("student", "teacher"):
        rows = np.ravel(getattr(getattr(equations.model, network, None), "readout", None) or ())
        values |= {
            f"readout {n} of the {network}": sp.sympify(y, strict=True)
            for n, y in enumerate(rows, 1)
        }
    for name, value in values.items():
        if control in map(str, value.free_symbols):
            raise BadParameter(f"{name} = {value} depends on {control}: only one may vary")
    if any(TIME in d.expr.free_symbols for d in equations.definitions):
        raise BadParameter(
            "the rates depend on the time t: schedules are computed for rates that do not"
        )
    return equations


@lru_cache(maxsize=16)
def _closed_adjoint(equations: Equations, minimise: str) -> tuple[Any, Any] | None:
    """Adjoint and gradient in closed form; None where an average has no such derivative."""
    try:
        return compiled_adjoint(equations, minimise)
    except NotClosed:
        return None


class Controlled:
    """Compiled equations under a control, from a start: runs, costates and gradients.

    Attributes
    ----------
    counts : (K,) of int
        Steps of the intervals of `knots`.
    """

    def __init__(
        self,
        equations: Equations,
        start: Any,
        control: str,
        parameters: Mapping[str, Any],
        minimise: str = "risk",
    ) -> None:
        self.equations, self.start, self.minimise = equations, start, minimise
        self.parameters = {n: v for n, v in parameters.items() if n != control}
        self.problem = problem_of(equations)
        given = self._numbers(control, parameters)
        self.inputs = run_inputs(equations, start, given)
        if equations.averages and "nodes" not in given:
            few = FEW_NODES.get(equations.rule(start, given).kind)
            self.inputs = on_nodes(self.inputs, equations.rule(start, {**given, "nodes": few}))
        self.control = self._control(control)
        self.widths = sizes_of(self.problem, self.inputs["widths"])
        par = self.problem.pack_parameters(self.inputs["parameters"], self.inputs["constants"])
        self.y = self.problem.pack(self.inputs["state"])
        self.differences: tuple[float, ...] = ()
        found = _closed_adjoint(equations, minimise)
        if found is not None:
            adjoint, self.gradient_of_risk = found
        else:
            adjoint, self.gradient_of_risk = adjoint_by_differences, slopes_by_differences
            seen = self.problem.observables
            addresses = (entry(f, "RHS") for f in (self.problem.rhs, self.problem.observe))
            self.differences = (
                *addresses, len(seen), seen.index(minimise), self.control.position
            )  # fmt: skip
        self.par = np.append(par, self.differences or np.zeros(READ))
        self.rhs, self.adjoint = pointer(self.problem.rhs, RHS), pointer(adjoint, RHS)

    @cached_property
    def by_control(self) -> Any:
        """Compiled derivatives of the rates by the number that moves."""
        if self.differences:
            return pointer(control_by_differences, RHS)
        name = self.problem.parameters[self.control.position]
        return pointer(compiled_tangent(self.equations, name), RHS)

    def _numbers(self, control: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Run-time values with a number where the control stands."""
        if control == "batch_size":
            return {n: v for n, v in parameters.items() if n != control}
        return {**parameters, control: 0.0 if control == "weight_decay" else 1.0}

    def _control(self, name: str) -> Control:
        names = self.problem.parameters
        if name == "weight_decay" and name not in names:
            raise BadParameter(
                "these equations have no weight_decay: derive them with dmft.SGD(..., "
                "weight_decay=1.0); the schedule replaces this value"
            )
        if RATE not in names:
            raise BadParameter(
                "these equations contain no learning_rate: without noise of the steps the "
                "largest rate is optimal"
            )
        return Control.of(name, self.equations, self.problem, self.inputs)

    # Runs -----------------------------------------------------------------------------------

    def states(self, knots: Array, left: Array, right: Array, counts: Any) -> Array:
        """States after all steps, (steps + 1, n)."""
        states = np.empty((int(counts.sum()) + 1, self.y.size))
        states[0] = self.y
        c = self.control
        run(
            self.rhs, knots, left, right, counts, self.widths, self.par.copy(), c.position,
            c.scale, c.is_rate, states, np.empty((ROWS, self.y.size)),
        )  # fmt: skip
        return states

    def risk_at(self, number: float, tau: float) -> float:
        """What is minimised, at tau of a run at a constant value; infinite where it ends early."""
        c = self.control
        scalars = {**self.inputs["parameters"], self.problem.parameters[c.position]: number}
        t = c.scale * (number if c.is_rate else 1.0) * tau
        given = {**self.inputs, "parameters": scalars}
        run = solve_problem(self.problem, **given, t_max=t, save_at=2, **ROUGH)
        return float(run.observables[self.minimise][-1]) if run.status is Status.OK else np.inf

    def risk(self, state: Array) -> float:
        """What is minimised, at a state."""
        return observed_at(self.problem, 0.0, state, self.widths, self.par)[self.minimise]

    def slopes(self, state: Array) -> Array:
        """Derivatives of the risk by the state."""
        both, out = np.concatenate([state, np.zeros_like(state)]), np.empty(2 * state.size)
        self.gradient_of_risk(0.0, both, self.widths, self.par, out)
        return out[state.size :]

    def gradient(
        self, knots: Array, left: Array, right: Array, counts: Any
    ) -> tuple[float, Array, Array, Array]:
        """Final risk, its derivatives (3, intervals), and states and costates at knots.

        Derivatives by the values at the left and right end of an interval, and by its length.
        """
        states = self.states(knots, left, right, counts)
        ends, n = counts.size, self.y.size
        costates, slopes = np.empty((ends + 1, n)), np.empty((3, ends))
        costates[-1] = self.slopes(states[-1])
        c = self.control
        pull_back(
            self.rhs, self.adjoint, self.by_control, knots, left, right, counts,
            self.widths, self.par.copy(), c.position, c.scale, c.is_rate, states,
            np.empty((ROWS, n)), costates, *slopes,
        )  # fmt: skip
        at = np.concatenate([[0], np.cumsum(counts)])
        return self.risk(states[-1]), slopes, states[at], costates

    def counts(self, knots: Array, left: Array, right: Array, tol: float, least: int = 1) -> Any:
        """Steps of the intervals with which all states at knots are within `tol` of the truth."""
        counts = np.full(left.size, least, dtype=np.int64)
        for _ in range(DOUBLINGS):
            coarse, fine = (
                self.states(knots, left, right, m)[np.concatenate([[0], np.cumsum(m)])]
                for m in (counts, 2 * counts)
            )
            with np.errstate(all="ignore"):  # steps that are too long end beyond floats
                error = np.abs(coarse - fine) / (1.0 + np.abs(fine))
                off = np.nan_to_num(error.max(axis=1), nan=np.inf, posinf=np.inf)
                # Each interval answers for what it adds.
                added = np.where(np.isfinite(off[1:]), np.abs(np.diff(off)), np.inf)
            added = np.where(np.isfinite(off[:-1]), added, 0.0)
            late = added > tol / left.size * 4.0
            if off.max() <= tol or not late.any():
                return counts
            counts = np.where(late, 2 * counts, counts)
        return counts

    # Hamiltonian ------------------------------------------------------------------------------

    def along(self, state: Array, costate: Array, number: float) -> float:
        """The costate along the rates at a value of the control."""
        par, out = self.par.copy(), np.empty_like(state)
        par[self.control.position] = number
        self.problem.rhs(0.0, state, self.widths, par, out)
        return float(costate @ out)

    def parts(self, state: Array, costate: Array) -> tuple[float, float]:
        """The costate along the rates at rate zero, and along what is linear in the rate."""
        first = self.along(state, costate, 0.0)
        return first, self.along(state, costate, 1.0) - first

    def check_parts(self, what: str) -> None:
        """Refuse rates that are not linear in the learning rate, as those of repeated steps."""
        rates = []
        for number in (0.0, 1.0, 2.0):
            par, out = self.par.copy(), np.empty_like(self.y)
            par[self.control.position] = number
            self.problem.rhs(0.0, self.y, self.widths, par, out)
            rates.append(out)
        bend = np.abs(rates[2] - 2.0 * rates[1] + rates[0]).max(initial=0.0)
        if bend > BENT * np.abs(rates).max(initial=0.0):
            raise BadParameter(
                f"{what} requires rates that are linear in the learning rate, but each of the "
                "repeated steps depends on it: use dmft.optimal_schedule"
            )

    def hamiltonian(self, state: Array, costate: Array, number: float) -> float:
        """H = costate . dX/dtau at a value of the control."""
        factor = number if self.control.is_rate else 1.0
        return self.control.scale * factor * self.along(state, costate, number)

    def schedule(self, knots: Array, numbers: Array, hamiltonian: Array, **record: Any) -> Schedule:
        """Record of a control with the run that follows it."""
        found = Schedule(
            knots, self.control.shown(numbers), self.control.name, hamiltonian,
            minimises=self.minimise, **record,
        )  # fmt: skip
        return replace(found, run=run_of(self.equations, self.start, found, self.parameters))


KNOTS = "knots"
# Tolerances of the run that a schedule is found with: errors of the states are errors of the risk,
# which may end at 1e-8 and less.
EXACT = {"rtol": 1e-13, "atol": 1e-16}


def schedule_among(values: Mapping[str, Any]) -> Schedule | None:
    """The schedule among run-time values; None where there is none."""
    found = {name: value for name, value in values.items() if isinstance(value, Schedule)}
    if not found:
        return None
    if len(found) > 1:
        raise BadParameter(
            f"{', '.join(found)} are schedules; only one parameter can follow a schedule"
        )
    name, schedule = next(iter(found.items()))
    if name != schedule.control:
        raise BadParameter(f"{name} was given a schedule of {schedule.control}")
    return schedule


def followed(
    system: Equations | Problem,
    start: Any,
    values: Mapping[str, Any],
    schedule: Schedule,
    t_start: float | None = None,
) -> tuple[Problem, dict[str, Any]]:
    """Problem and inputs of a run in tau under a schedule."""
    problem = problem_of(system)
    equations, name = problem.origin, schedule.control
    if not isinstance(equations, Equations) or equations.kind != "ode":
        raise BadParameter("a dmft.Schedule requires equations of kind 'ode'")
    if unit_of(equations) != (1, 1) or equations.algorithm.is_flow:
        raise BadParameter(
            "a dmft.Schedule requires one-pass SGD in its default scaling, with time tau = steps/d"
        )
    unit = SAMPLES if name == "batch_size" else STEPS
    begin = begin_of(start, unit, t_start)
    given = {n: v for n, v in values.items() if n != name}
    if name != "batch_size":
        given[name] = float(schedule.at(begin))
    inputs = run_inputs(system, start, given)
    if name not in RATES and (name not in problem.parameters or name in SETS_CLOCK):
        raise BadParameter(f"these equations contain no {name} that could follow a schedule")
    control = Control.of(name, equations, problem, inputs)
    # In samples/d, batches of n_b at gamma are single samples at gamma/n_b.
    numbers = control.read(schedule.value)
    inputs["constants"] |= {"schedule_t": schedule.t, "schedule_value": numbers}
    inputs["widths"] = {**inputs["widths"], KNOTS: schedule.t.size}
    # The time of batches is samples/d.
    inputs["provenance"]["time_step_times_dim"] = None if unit == SAMPLES else 1.0
    inputs["t_start"] = begin
    table = (Block("schedule_t", (KNOTS,)), Block("schedule_value", (KNOTS,)))
    moved = replace(
        problem,
        rhs=in_tau,
        tail=(
            problem.rhs,
            control.position,
            float(control.scale),
            not control.is_rate,
            schedule.interpolation == "constant",
        ),
        constants=(*problem.constants, *table),
        widths=(*problem.widths, KNOTS),
        lanes=None,
        time_unit=unit,
        provenance={**problem.provenance, f"{name}_schedule": repr(schedule)},
    )
    return moved, inputs


@njit(RHS_SIGNATURE, nogil=True, cache=True)
def in_tau(t, y, widths, par, out):  # type: ignore[no-untyped-def]
    """Right-hand side per tau, with the value that the table behind the constants says.

    In the tail of `par` stand the right-hand side per t, the position of the value among the
    parameters or -1, tau over t, whether the time does not run with the value, and whether it is
    constant in each piece.
    """
    n, end = widths[widths.size - 1], par.size - 5
    address, position, over = np.int64(par[end]), np.int64(par[end + 1]), par[end + 2]
    plain, pieces = par[end + 3] > 0.0, par[end + 4] > 0.0
    times, numbers = par[end - 2 * n : end - n], par[end - n : end]
    if pieces:
        now = numbers[min(max(np.searchsorted(times, t, side="right") - 1, 0), n - 1)]
    else:
        now = np.interp(t, times, numbers)
    values = par.copy()
    if position >= 0:
        values[position] = now
    rhs_at(address)(t, y, widths, values, out)
    factor = over if plain else over * now
    for i in range(y.size):
        out[i] *= factor


def run_of(
    equations: Equations, start: Any, schedule: Schedule, values: Mapping[str, Any]
) -> Trajectory:
    """The run under a schedule, at its own times, as exact as floats allow."""
    from dmft.workflow.solve import solve

    given = {**values, schedule.control: schedule, **EXACT}
    found = solve(equations, start, float(schedule.t[-1]), save_at=schedule.t, t_start=0.0, **given)
    assert isinstance(found, Trajectory)
    return found

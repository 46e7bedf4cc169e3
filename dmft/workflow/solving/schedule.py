"""Learning rates that follow the time or the risk, as expressions of `t` and `risk`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from dmft.compiled import njit
from dmft.emit import scalar_function
from dmft.emit.quantities import KNOWN, RISK, TIME, Rate
from dmft.equations import symbols as x
from dmft.equations.equations import Equations
from dmft.equations.update.optimiser import pace
from dmft.errors import BadParameter
from dmft.initial_conditions import begin_of, steps_before
from dmft.names import Status
from dmft.solvers.pointers import entry, keeping
from dmft.solvers.problem import Block, Problem, observed_at, sizes_of
from dmft.solvers.signatures import JACOBIAN_SIGNATURE, RHS_SIGNATURE, rhs_at
from dmft.solvers.solution import CLOCK
from dmft.solvers.trajectory import Trajectory
from dmft.workflow.solving.inputs import problem_of, run_inputs, unit_of

RATE = "learning_rate"
# A run that ends with a rate below this part of its first one ended because the rate is spent.
SPENT = 1e-3


@dataclass(frozen=True)
class Schedule(Rate):
    """A learning rate in the time of the equations."""

    def at(self, problem: Problem, inputs: Mapping[str, Any], t: float = 0.0) -> float:
        """Rate at the start of a run, or of a stage that begins at `t`."""
        state, sizes = problem.pack(inputs["state"]), sizes_of(problem, inputs["widths"])
        par = problem.pack_parameters(inputs["parameters"], inputs["constants"])
        risk = np.array([*observed_at(problem, t, state, sizes, par).values()])
        value = float(self.rate(t, risk[:1]))
        if not (math.isfinite(value) and value > 0.0):
            raise BadParameter(
                f"learning_rate = {self.expr} is {value:g} at the start (t = {t:g}, risk = "
                f"{risk[0]:.6g}); a schedule must be positive"
            )
        return value

    def with_ending(self, run: Trajectory) -> Trajectory:
        """Name a rate that stopped being positive as the reason of an early end."""
        at_start = float(self.rate(float(run.t[0]), run.observables["risk"][:1].copy()))
        now = float(self.rate(float(run.t[-1]), run.observables["risk"][-1:].copy()))
        early = (Status.NONFINITE, Status.DIVERGED, Status.TOLERANCE_NOT_MET)
        if run.status not in early or now > SPENT * at_start:
            return run
        return replace(
            run, message=f"{run.message}; the schedule {self.expr} of learning_rate falls to zero"
        )


def scheduled_inputs(
    system: Equations | Problem,
    start: Any,
    parameters: Mapping[str, Any],
    t_start: float | None = None,
) -> tuple[Problem, dict[str, Any], Schedule]:
    """Problem and inputs of a run whose learning rate is an expression, and the schedule."""
    problem = problem_of(system)
    schedule = read_schedule(problem.origin, parameters[RATE])
    assert schedule is not None
    begin = begin_of(start, TIME.name, t_start, schedule.reads_time)
    inputs = run_inputs(system, start, {**parameters, RATE: 1.0})
    first = schedule.at(problem, inputs, begin)
    inputs = run_inputs(system, start, {**parameters, RATE: first})
    problem = follow(problem, schedule)
    if problem.kind == "ode":
        count_steps(inputs, start, begin)
    return problem, {**inputs, "t_start": begin}, schedule


def count_steps(inputs: dict[str, Any], start: Any, begin: float) -> None:
    """Steps before a run that counts them, whose time has no constant unit."""
    inputs["state"][CLOCK] = np.array(steps_before(start, begin))
    inputs["provenance"]["time_step_times_dim"] = None


def with_steps(problem: Problem, inputs: dict[str, Any], start: Any) -> Problem:
    """A rule whose first observable is its learning rate, and that counts its steps."""
    count_steps(inputs, start, inputs["t_start"])
    return follow(problem, Schedule(RISK))


def read_schedule(equations: Any, value: Any) -> Schedule | None:
    """The schedule that a learning rate is; None for a number."""
    if not isinstance(value, sp.Expr) or value.is_number:
        return None
    others = sorted(s.name for s in value.free_symbols if s.name not in KNOWN)
    if others:
        raise BadParameter(
            f"learning_rate = {value} contains {', '.join(others)}; a schedule must be an "
            "expression in sympy.Symbol('t') and sympy.Symbol('risk')"
        )
    if not isinstance(equations, Equations) or equations.algorithm.is_flow:
        raise BadParameter(
            f"learning_rate = {value} is a schedule; schedules are for equations of one-pass SGD"
        )
    expr = value.subs({s: KNOWN[s.name] for s in value.free_symbols})
    return Schedule(expr)


def follow(problem: Problem, schedule: Schedule) -> Problem:
    """The problem whose learning rate is that of the schedule at each evaluation.

    A flow gets one more block, the number of steps per dimension so far: d(steps/d)/dt = p / gamma,
    over the pace of the optimiser; in its own time as `unit_of` says. The covariance of an sde,
    whose scale is that of the first rate, also grows with the rate.
    """
    names = problem.parameters
    position = names.index(RATE) if RATE in names else -1
    clock, look = problem.kind == "ode", problem.observe if schedule.reads_risk else None
    count, rate, reads = len(problem.observables), schedule.rate, schedule.reads_risk
    diffusion = problem.diffusion
    if diffusion is not None:
        diffusion = _scheduled_noise(diffusion, look or problem.rhs, reads, rate, position, count)
    return replace(
        problem,
        rhs=_scheduled(
            problem.rhs, look, rate, position, _pace_now(names) if clock else None, count,
            _units(problem) if clock else -1, unit_of(problem.origin),
        ),
        diffusion=diffusion,
        state=(*problem.state, Block(CLOCK, ())) if clock else problem.state,
        provenance={**problem.provenance, "learning_rate_schedule": str(schedule.expr)},
    )  # fmt: skip


def _units(problem: Problem) -> int:
    """Place among the widths of what divides the rate of a step, or past them for 1."""
    rule = getattr(problem.origin, "family", "") == "rule"
    return len(problem.widths) if rule else problem.widths.index("p")


def counting(problem: Problem) -> Problem:
    """A flow at a constant rate with the block of steps that `follow` gives others."""
    names = problem.parameters
    if RATE not in names:
        raise BadParameter(
            "a stage without learning_rate cannot be combined with a stage that has a "
            "schedule: solve stage by stage from run.final"
        )
    rhs = _scheduled(
        problem.rhs, None, None, names.index(RATE), _pace_now(names), 0,
        _units(problem), unit_of(problem.origin),
    )  # fmt: skip
    return replace(problem, rhs=rhs, jacobian=None, state=(*problem.state, Block(CLOCK, ())))


@lru_cache(maxsize=32)
def _rate_now(look: Any, reads: bool, rate: Any, count: int, position: int = -1) -> Any:
    """Compiled rate of the moment, read from the observables of a state.

    Without a `rate` it is the number at `position` among the parameters.
    """
    if rate is None:

        @njit(nogil=True)
        def constant(t, y, widths, par):  # type: ignore[no-untyped-def]
            return par[position]

        return constant

    address = entry(look, "RHS")

    @njit(nogil=True)
    def now(t, y, widths, par):  # type: ignore[no-untyped-def]
        seen = np.zeros(count)
        if reads:
            rhs_at(address)(t, y, widths, par, seen)
        return rate(t, seen[:1].copy())

    return keeping(now, look)


@lru_cache(maxsize=32)
def _pace_now(names: tuple[str, ...]) -> Any:
    """Compiled pace of the optimiser at ``(0, par)``; None where it is 1."""
    par = {name: x.numbers.get(name, sp.Dummy()) for name in names}
    value = pace({name: par[name] for name in x.numbers if name in par})
    return None if value == 1 else scalar_function(value, sp.Dummy(), list(par.values()))


@lru_cache(maxsize=32)
def _scheduled(
    rhs: Any,
    observe: Any,
    rate: Any,
    position: int,
    pace_now: Any,
    count: int,
    width: int,
    unit: tuple[int, int],
) -> Any:
    """Compiled right-hand side at the rate of the moment; NaN where the rate is not positive."""
    reads, has_clock, is_read = observe is not None, width >= 0, position >= 0
    power, batch = unit
    rate_now = _rate_now(observe if reads else rhs, reads, rate, count, position)
    has_pace, pace_or_rate = pace_now is not None, pace_now or rate_now
    address = entry(rhs, "RHS")

    @njit(RHS_SIGNATURE, nogil=True, later=True)
    def scheduled(t, y, widths, par, out):  # type: ignore[no-untyped-def]
        now = rate_now(t, y, widths, par)
        if not now > 0.0:
            for i in range(out.size):
                out[i] = np.nan
            return
        values = par.copy()
        if is_read:
            values[position] = now
        rhs_at(address)(t, y, widths, values, out)
        if has_clock:
            out[-1] = (widths[width] if width < widths.size else 1.0) / now
            if has_pace:
                out[-1] /= pace_or_rate(0.0, par)
            out[-1] = batch * out[-1] ** power

    return keeping(scheduled, rhs, rate_now)


@lru_cache(maxsize=32)
def _scheduled_noise(
    diffusion: Any, look: Any, reads: bool, rate: Any, position: int, count: int
) -> Any:
    """Compiled covariance at the rate of the moment, in units of the rate that `par` holds."""
    rate_now = _rate_now(look, reads, rate, count)

    @njit(JACOBIAN_SIGNATURE, nogil=True)
    def scheduled(t, y, widths, par, out):  # type: ignore[no-untyped-def]
        now = rate_now(t, y, widths, par)
        if not now > 0.0:
            out[:, :] = np.nan
            return
        values = par.copy()
        values[position] = now
        diffusion(t, y, widths, values, out)
        for i in range(out.shape[0]):
            for j in range(out.shape[1]):
                out[i, j] *= now / par[position]

    return scheduled

"""Runs that follow a `dmft.Schedule`, in the time tau = steps/d."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dmft.compiled import njit
from dmft.equations.equations import Equations
from dmft.equations.update.optimiser import pace
from dmft.errors import BadParameter
from dmft.model import SGD
from dmft.model.schedule import Schedule
from dmft.solvers.problem import Block, Problem
from dmft.solvers.signatures import RHS_SIGNATURE, rhs_at
from dmft.solvers.trajectory import Trajectory
from dmft.starts import SAMPLES, STEPS, begin_of
from dmft.workflow.solving.inputs import problem_of, run_inputs, unit_of

RATE = "learning_rate"
KNOTS = "knots"
# Tolerances of the run that a schedule is found with: errors of the states are errors of the risk,
# which may end at 1e-8 and less.
EXACT = {"rtol": 1e-13, "atol": 1e-16}


def schedule_among(values: Mapping[str, Any]) -> Schedule | None:
    """The schedule among run-time values; None where there is none.

    Raises
    ------
    BadParameter
        For more than one, and one under the name of another control.
    """
    found = {name: value for name, value in values.items() if isinstance(value, Schedule)}
    if not found:
        return None
    if len(found) > 1:
        raise BadParameter(f"{', '.join(found)} are schedules; one number follows one at a time")
    name, schedule = next(iter(found.items()))
    if name != schedule.control:
        raise BadParameter(f"{name} is given a schedule of {schedule.control}")
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
        raise BadParameter("a dmft.Schedule is followed by equations of kind 'ode'")
    algorithm = equations.algorithm
    if unit_of(equations) != (1, 1) or not isinstance(algorithm, SGD):
        raise BadParameter(
            "a dmft.Schedule is followed by one-pass SGD in its plain scaling, whose steps are "
            "counted in tau = steps/d"
        )
    unit = SAMPLES if name == "batch_size" else STEPS
    begin = begin_of(start, unit, t_start)
    given = {n: v for n, v in values.items() if n != name}
    if name != "batch_size":
        given[name] = float(schedule.at(begin))
    inputs = run_inputs(system, start, given)
    scalars, names = inputs["parameters"], problem.parameters
    batch = int(algorithm.batch_size)
    over = pace(inputs["parameters"]) / inputs["widths"]["p"]
    numbers, position = schedule.value, names.index(RATE) if RATE in names else -1
    if name == "weight_decay":
        if name not in names:
            raise BadParameter("these equations hold no weight_decay that could follow a schedule")
        over *= scalars[RATE]
        position = names.index(name)
    if name == "batch_size":
        # In samples/d, batches of n_b at gamma are single samples at gamma/n_b.
        over /= batch
        numbers = scalars[RATE] * batch / numbers
    inputs["constants"] |= {"schedule_t": schedule.t, "schedule_value": numbers}
    inputs["widths"] = {**inputs["widths"], KNOTS: schedule.t.size}
    inputs["provenance"] |= {"time_step_times_dim": 1.0}
    inputs["t_start"] = begin
    table = (Block("schedule_t", (KNOTS,)), Block("schedule_value", (KNOTS,)))
    moved = replace(
        problem,
        rhs=in_tau,
        tail=(
            problem.rhs,
            position,
            float(over),
            name == "weight_decay",
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

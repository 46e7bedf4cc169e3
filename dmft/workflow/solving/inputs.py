"""What a run needs: a compiled problem, its inputs, and which keywords are whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.codegen.build import build
from dmft.compiled.machine_code import Native
from dmft.equations.equations import Equations
from dmft.equations.parameter_values import (
    Values,
    check_bounds,
    check_concentration,
    check_number,
    stand_alone,
)
from dmft.equations.update.optimiser import pace
from dmft.errors import BadParameter
from dmft.model import DIM_NAME
from dmft.solvers.events import Event, is_plain
from dmft.solvers.problem import Problem
from dmft.solvers.run import check_events
from dmft.solvers.solution import ABOVE
from dmft.symbolic_lock import once

if TYPE_CHECKING:
    from dmft.workflow.solving.watched import Watched


built = once(build)


def problem_of(system: Equations | Problem) -> Problem:
    """Compiled problem of a system; equal equations are built once in a process."""
    if isinstance(system, Problem):
        if system.origin is None or not isinstance(system.rhs, Native):
            return system
        system = system.origin  # of a run by linked code, which Numba cannot build on
    if isinstance(system, Equations):
        return built(system)
    raise BadParameter(f"expected dmft.Equations or a Problem, got {type(system).__name__}")


def run_inputs(
    system: Equations | Problem, start: Any, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """State, widths, constants, scalars and clock of a run, as `solve_problem` takes them."""
    equations = system.origin if isinstance(system, Problem) else system
    if not isinstance(equations, Equations):
        raise BadParameter(
            "this Problem was written by hand; solve it with dmft.solvers.solve.solve_problem, "
            "which takes its own state blocks, widths and constants"
        )
    values = equations.values(start, dict(parameters))
    state = equations.state(start, values)
    constants = {name: array for name, array in values.arrays.items() if name not in state}
    return {
        "state": state,
        "widths": values.widths,
        "constants": constants,
        "parameters": {name: values.scalars[name] for name in equations.parameters},
        "provenance": _clock(equations, values) | _loss(equations, values),
    }


class InputsByPoint:
    """The inputs of a run as a function of those parameters that differ from run to run.

    They are those of `run_inputs`. Where the parameters leave state and constants alone, these are
    the same objects for all points, and only numbers are made again.
    """

    def __init__(
        self, equations: Equations, start: Any, fixed: Mapping[str, Any], example: Mapping[str, Any]
    ) -> None:
        self.equations, self._start, self._fixed = equations, start, fixed
        self._values: Values | None = None
        if isinstance(equations, Equations) and _stand_alone(equations, set(example)):
            self._first = run_inputs(equations, start, {**fixed, **example})
            self._values = equations.values(start, {**fixed, **example})

    def __call__(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs at one point."""
        equations, values = self.equations, self._values
        if values is None:
            return run_inputs(equations, self._start, {**self._fixed, **point})
        numbers = {name: check_number(value, name) for name, value in point.items()}
        scalars = {name: numbers.get(name, value) for name, value in values.scalars.items()}
        check_bounds(scalars)
        if equations.kind == "map":
            check_concentration(scalars, self._start.p)
        here = replace(values, scalars=scalars)
        return {
            **self._first,
            "parameters": {name: scalars[name] for name in equations.parameters},
            "provenance": _clock(equations, here) | _loss(equations, here),
        }

    def rows(self, points: Sequence[Mapping[str, Any]]) -> NDArray[np.float64] | None:
        """Scalars of the equations at many points, checked together.

        None where more than these depends on the point, and where each has to be looked at by
        itself: one of them is refused, or is a map's, whose bounds depend on several numbers.
        """
        values, names = self._values, list(points[0])
        if values is None or self.equations.kind == "map":
            return None
        numbers = [[point[name] for name in names] for point in points]
        if not all(type(x) in (int, float) for row in numbers for x in row):
            return None
        table = np.array(numbers, dtype=np.float64)
        if not np.isfinite(table).all():
            return None
        columns = dict(zip(names, table.T, strict=True))
        known = {name: column for name, column in columns.items() if name in values.scalars}
        try:  # what is allowed is an interval
            check_bounds({name: float(column.min()) for name, column in known.items()})
            check_bounds({name: float(column.max()) for name, column in known.items()})
        except BadParameter:
            return None
        rows = np.tile(
            [values.scalars[name] for name in self.equations.parameters], (len(table), 1)
        )
        for place, name in enumerate(self.equations.parameters):
            if name in known:
                rows[:, place] = known[name]
        return rows


def _stand_alone(equations: Equations, names: set[str]) -> bool:
    """Whether these parameters change nothing but their own numbers."""
    if names & {"dim", DIM_NAME, "initial"} or equations.noise or equations.averages:
        return False
    return stand_alone(names, equations.model, equations.declared)


def unit_of(equations: Equations) -> tuple[int, int]:
    """The time of a step, times d, is (gamma/p)^power over this number."""
    if equations.scaling != "noise-dominated":
        return 1, 1
    return 2, int(equations.algorithm.batch_size)  # type: ignore[union-attr]


def units_of(equations: Equations, widths: Mapping[str, int]) -> int:
    """What the learning rate is divided by in a step: p, or 1 for rules of vectors."""
    return 1 if equations.family == "rule" else widths["p"]


def _clock(equations: Equations, values: Values) -> dict[str, Any]:
    """What turns the time of a run into steps and samples."""
    algorithm, scalars = equations.algorithm, values.scalars
    if algorithm.is_flow:
        return {}
    if equations.kind == "map":
        return {"samples_per_step": scalars["batch_size"], "dim": scalars["dim"]}
    rate = scalars.get("learning_rate")
    step = None if rate is None else rate / units_of(equations, values.widths)
    if step is not None:
        step *= pace(scalars)
    if step is not None:
        power, batch = unit_of(equations)
        step = step**power / batch
    return {"time_step_times_dim": step, "samples_per_step": algorithm.batch_size}


def _loss(equations: Equations, values: Values) -> dict[str, Any]:
    """What the loss of a fresh sample is above what is called the risk, where that is a constant.

    Half the label's noise for the squared loss; nothing for a norm, whose mean is called the risk.
    """
    given = equations.algorithm.loss
    if given == "frobenius":
        return {ABOVE: 0.0}
    noise = values.scalars.get("label_noise")
    if noise is None:
        declared = equations.declared.get("label_noise", sp.S.Zero)
        noise = float(declared) if declared.is_number else None
    model = equations.model
    if noise is None or given != "squared" or model.label_flip != 0 or model.draws_labels:
        return {}
    return {ABOVE: noise / 2 * equations.space.outputs}


def watch_of(
    problem: Problem, inputs: Mapping[str, Any], events: Event | Sequence[Event]
) -> Watched | None:
    """What watches for events that the integrators do not know; None where there are none."""
    if all(is_plain(event, problem) for event in check_events(events)):
        return None
    from dmft.workflow.solving.watched import watched

    return watched(problem, inputs, events)


# Keywords that belong to paths, not to flows.
PATH_OPTIONS = frozenset(
    {"paths", "dt", "seed", "threads", "bridge", "increments", "substeps", "keep_paths"}
)
SOLVER_OPTIONS = frozenset(
    {"method", "rtol", "atol", "progress", "max_steps", "timeout", "save_at", "events", "t_start"}
)


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Solver options and run-time parameters of a mixed set of keywords."""
    solver = {name: value for name, value in options.items() if name in SOLVER_OPTIONS}
    return solver, {name: value for name, value in options.items() if name not in solver}


def refuse_path_options(parameters: Mapping[str, Any]) -> None:
    """Refuse keywords of paths where there are none."""
    found = sorted((PATH_OPTIONS - {"seed"}) & set(parameters))
    if found:
        raise BadParameter(
            f"{', '.join(found)} belong to equations of kind 'sde', of "
            "derive(..., dim=..., fluctuations=True)"
        )

"""Flows and maps of the overlaps: what `dmft.solve` does with equations of one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dmft.equations.averages.nodes import smooth
from dmft.equations.equations import Equations
from dmft.errors import BadParameter
from dmft.gaussian.nodes.rules import NodeRule
from dmft.progress import ProgressOption
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.solve import solve_problem
from dmft.solvers.trajectory import Trajectory
from dmft.starts import Overlaps
from dmft.workflow.solver import Solver
from dmft.workflow.solving.inputs import problem_of, refuse_path_options
from dmft.workflow.solving.limits import rate_message
from dmft.workflow.solving.rounding import with_rounding
from dmft.workflow.solving.schedule import scheduled_inputs, with_ending

# Solver tolerances, as parts of the tolerance of averages on nodes, below which steps are wasted
# where integrands have kinks.
RTOL_PER_QUADRATURE, ATOL_PER_QUADRATURE = 0.1, 1e-3

# The norm |f - y| of a sequence has a cone where y = f: rates jump when one passes a node, their
# error falls slowly with the number of nodes, and finer steps would follow the nodes.
CONE_TOLERANCE = 5e-3
CONE = {"rtol": 1e-5, "atol": 1e-7}


@dataclass(frozen=True)
class RunOptions:
    """How flows and maps are solved: the options of `dmft.solvers.solve.check_request`.

    Attributes
    ----------
    quadrature_tol : float
        Error of averages on nodes.
    """

    method: str | None = None
    rtol: float = 1e-8
    atol: float = 1e-10
    save_at: int | ArrayLike | None = None
    events: Event | Sequence[Event] = ()
    progress: ProgressOption = None
    max_steps: int = 1_000_000
    timeout: float | None = None
    quadrature_tol: float = 1e-5

    @property
    def of_solver(self) -> dict[str, Any]:
        """Options of the integrator by name."""
        names = (one.name for one in fields(self) if one.name != "quadrature_tol")
        return {name: getattr(self, name) for name in names}


def solve_one_pass(
    system: Equations | Problem,
    start: Overlaps,
    t_max: float,
    options: RunOptions,
    values: Mapping[str, Any],
) -> Trajectory:
    """Solve a flow or a map of overlaps, with schedules of the rate and averages on nodes."""
    refuse_path_options(values)
    check_start(problem_of(system).origin, start)
    problem, inputs, schedule = scheduled_inputs(system, start, values)
    equations = problem.origin
    choices = {**options.of_solver, "t_max": t_max}

    def finished(run: Trajectory) -> Trajectory:
        if schedule is not None:
            return with_readout(with_ending(run, schedule))
        return described(run, equations, inputs)

    if not equations.averages:
        run = solve_problem(problem, **inputs, **choices)
        return finished(
            run if schedule is not None else with_rounding(run, equations, options.rtol)
        )

    # Closed forms do without nodes.
    from dmft.workflow.solving.quadrature import on_nodes, solve_on_nodes

    tolerance = options.quadrature_tol
    if equations.has_cone:
        tolerance = max(tolerance, CONE_TOLERANCE)
        choices |= {name: max(value, choices[name]) for name, value in CONE.items()}
    elif not smooth(equations.averages):
        # Rates jump when a kink passes a node: finer steps would follow the nodes, not the law.
        choices["rtol"] = max(options.rtol, RTOL_PER_QUADRATURE * tolerance)
        choices["atol"] = max(options.atol, ATOL_PER_QUADRATURE * tolerance)

    def run_with(rule: NodeRule | None, **changes: Any) -> Trajectory:
        here = inputs if rule is None else on_nodes(inputs, rule)
        return solve_problem(problem, **here, **{**choices, **changes})

    def rule_of(count: int | None) -> NodeRule:
        rule: NodeRule = equations.rule(start, {**values, "nodes": count})
        return rule

    return finished(solve_on_nodes(run_with, rule_of, values.get("nodes"), tolerance))


def check_start(equations: Equations | None, start: object) -> None:
    """Refuse what is no start of these equations, or of a problem written by hand."""
    wanted = Overlaps if equations is None else equations.start_type
    if not isinstance(start, wanted):
        raise BadParameter(
            f"start must be a dmft.{wanted.__name__}, got {type(start).__name__}; lists of starts "
            "are for equations of kind 'sde'"
        )


def described(run: Trajectory, equations: Equations, inputs: Mapping[str, Any]) -> Trajectory:
    """A run of one pass with what its learning rate is worth saying, and with its readout."""
    message = run.message + rate_message(equations, inputs)
    return with_readout(replace(run, message=message))


def with_readout(run: Trajectory) -> Trajectory:
    """Show the fixed readout as a block with time first, as trained readouts are."""
    if "readout" in run.blocks or "readout" not in run.constants:
        return run
    readout = run.constants["readout"]
    block = np.broadcast_to(readout, (run.t.size, readout.size)).copy()
    return replace(
        run,
        blocks={**run.blocks, "readout": block},
        layout=(*run.layout, Block("readout", ("p",))),
    )


SOLVER = Solver("equations of one pass", RunOptions, solve_one_pass)

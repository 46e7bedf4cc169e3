"""Runs of sequence models: what they need, and their integration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmft.equations.sequence.equations import SequenceEquations
from dmft.gaussian.nodes.rules import NodeRule
from dmft.solvers.problem import Problem
from dmft.solvers.solve import solve_problem
from dmft.solvers.trajectory import Trajectory
from dmft.workflow.solver import Solver
from dmft.workflow.solving.inputs import problem_of, refuse_path_options, sequence_inputs
from dmft.workflow.solving.one_pass import RunOptions
from dmft.workflow.solving.quadrature import on_nodes, solve_on_nodes

# The norm |f - y| has a cone where y = f: rates jump when one passes a node, their error falls
# slowly with the number of nodes, and finer steps would follow the nodes.
CONE_TOLERANCE = 5e-3
KINKED = {"rtol": 1e-5, "atol": 1e-7}


def solve_sequence(
    system: SequenceEquations | Problem,
    start: Any,
    t_max: float,
    options: RunOptions,
    values: Mapping[str, Any],
) -> Trajectory:
    """Trajectory of e, m, risk and overlap |m| (untied the length of m_l / sqrt(L))."""
    refuse_path_options(values)
    problem = problem_of(system)
    equations: SequenceEquations = problem.origin
    inputs = sequence_inputs(equations, start, values)
    choices = {**options.of_solver, "t_max": t_max}
    if equations.on_nodes:
        choices |= {name: max(value, choices[name]) for name, value in KINKED.items()}

    def run_with(rule: NodeRule | None, **changes: Any) -> Trajectory:
        here = inputs if rule is None else on_nodes(inputs, rule)
        return solve_problem(problem, **here, **{**choices, **changes})

    if not equations.on_nodes:
        return run_with(None)

    def rule_of(count: int | None) -> NodeRule:
        return equations.rule({**values, "nodes": count})

    tolerance = max(options.quadrature_tol, CONE_TOLERANCE)
    return solve_on_nodes(run_with, rule_of, values.get("nodes"), tolerance)


SOLVER = Solver("equations of sequence models", RunOptions, solve_sequence)

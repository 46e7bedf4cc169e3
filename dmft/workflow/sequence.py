"""Runs of sequence models: what they need, and their integration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmft.equations.sequence import SequenceEquations
from dmft.errors import BadParameter
from dmft.model import SGD, Alignment
from dmft.solvers.problem import Problem
from dmft.solvers.solve import solve_problem
from dmft.solvers.trajectory import Trajectory


def sequence_of(system: Any) -> SequenceEquations | None:
    """Equations of a sequence model behind equations or a problem, None for anything else."""
    equations = system.origin if isinstance(system, Problem) else system
    return equations if isinstance(equations, SequenceEquations) else None


def sequence_inputs(
    equations: SequenceEquations, start: Any, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """State, widths, scalars and clock of a run, as `solve_problem` takes them."""
    if not isinstance(start, Alignment):
        raise BadParameter(
            f"the start of a sequence model is a dmft.Alignment, got {type(start).__name__}"
        )
    scalars = equations.scalars(parameters)
    algorithm, model = equations.algorithm, equations.model
    clock: dict[str, Any] = {}
    if isinstance(algorithm, SGD):
        rate = scalars.get("learning_rate")
        tokens = 1 if model.tied else model.length
        clock = {
            "time_step_times_dim": None if rate is None else rate / tokens,
            "samples_per_step": algorithm.batch_size,
        }
    return {
        "state": equations.state(start),
        "widths": {"tokens": model.length, "directions": max(model.encoding.rank, 1)},
        "constants": {},
        "parameters": {name: scalars[name] for name in equations.parameters},
        "provenance": clock,
    }


def solve_sequence(
    problem: Problem,
    equations: SequenceEquations,
    start: Any,
    t_max: float,
    options: Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> Trajectory:
    """Trajectory of e, m, risk and overlap |m| (untied the length of m_l / sqrt(L))."""
    inputs = sequence_inputs(equations, start, parameters)
    return solve_problem(problem, t_max=t_max, **inputs, **options)

"""`solve`: from equations (or a problem) and a start to a trajectory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dmft.codegen import build
from dmft.equations import Equations
from dmft.equations.values import Values
from dmft.errors import BadParameter
from dmft.gaussian.nodes import NodeRule
from dmft.model import SGD, Overlaps
from dmft.progress import ProgressOption
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.solve import solve_problem
from dmft.solvers.trajectory import Trajectory
from dmft.workflow.quadrature import solve_on_nodes


@lru_cache(maxsize=64)
def _built(fingerprint: str, equations: Equations) -> Problem:
    return build(equations)


def problem_of(system: Equations | Problem) -> Problem:
    """Compiled problem of a system; equal equations are built once in a process."""
    if isinstance(system, Problem):
        return system
    if isinstance(system, Equations):
        return _built(system.fingerprint, system)
    raise BadParameter(f"expected dmft.Equations or a Problem, got {type(system).__name__}")


def run_inputs(
    system: Equations | Problem, start: Overlaps, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """State, widths, constants, scalars and clock of a run, as `solve_problem` takes them."""
    equations = system if isinstance(system, Equations) else system.origin
    if not isinstance(equations, Equations):
        raise BadParameter(
            "this Problem was written by hand; solve it with dmft.solvers.solve.solve_problem, "
            "which takes its own state blocks, widths and constants"
        )
    values = equations.values(start, dict(parameters))
    state, constants = equations.state(start), dict(values.arrays)
    if equations.algorithm.trains_readout:
        state["readout"] = constants.pop("readout")
    return {
        "state": state,
        "widths": values.widths,
        "constants": constants,
        "parameters": {name: values.scalars[name] for name in equations.parameters},
        "provenance": _clock(equations, values),
    }


def _clock(equations: Equations, values: Values) -> dict[str, Any]:
    """What turns the time of a run into steps and samples."""
    algorithm, scalars = equations.algorithm, values.scalars
    if not isinstance(algorithm, SGD):
        return {}
    if equations.kind == "map":
        return {"samples_per_step": scalars["batch_size"], "dim": scalars["dim"]}
    rate = scalars.get("learning_rate")
    return {
        "time_step_times_dim": None if rate is None else rate / values.widths["p"],
        "samples_per_step": algorithm.batch_size,
    }


SOLVER_OPTIONS = frozenset(
    {"method", "rtol", "atol", "progress", "max_steps", "timeout", "save_at", "events"}
)


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Solver options and run-time parameters of a mixed set of keywords."""
    solver = {name: value for name, value in options.items() if name in SOLVER_OPTIONS}
    return solver, {name: value for name, value in options.items() if name not in solver}


def solve(
    system: Equations | Problem,
    start: Overlaps,
    t_max: float,
    *,
    method: str | None = None,
    rtol: float = 1e-8,
    atol: float = 1e-10,
    save_at: int | ArrayLike | None = None,
    events: Event | Sequence[Event] = (),
    progress: ProgressOption = None,
    max_steps: int = 1_000_000,
    timeout: float | None = None,
    quadrature_tol: float = 1e-5,
    **parameters: Any,
) -> Trajectory:
    r"""Integrate the equations of motion from a start to time `t_max`.

    Shapes      start Q (p, p), M (p, k), P (k, k); result Q (T, p, p), M (T, p, k),
                readout (T, p), risk (T,), t (T,)
    Scaling     t = steps * learning_rate / (p d); `run.steps(dim)` converts
    Valid for   any closed `Equations`; the status says when a run did not reach `t_max`

    Parameters
    ----------
    system : Equations or Problem
    start : Overlaps
    t_max : float
    method : {"rk5", "rk8", "Radau", "BDF", "LSODA"}
        Compiled explicit Runge-Kutta of order 5 (the default) or 8; SciPy's implicit methods when
        stiff. Maps are iterated and take none of them.
    rtol, atol : float
        Error per step below atol + rtol |y|.
    save_at : None, int or (T,) array
        None saves each accepted step; n saves n equidistant times; an array (`np.geomspace`,
        say) saves exactly these times.
    events : dmft.Event or sequence of them
        Thresholds on the risk or on overlaps, located on the dense output.
    progress : None, bool or callable
        By default a bar after two seconds, on a terminal only.
    max_steps, timeout
        Budget in steps and in seconds.
    quadrature_tol : float
        For averages without closed form (`Equations.averages`): the number of nodes is raised
        until the measured error of every saved overlap and of the risk is below; `run.error` has
        it, `run.message` says where the budget of nodes was not enough.
    **parameters
        Run-time values: ``learning_rate=``, ``label_noise=`` and the model's own symbols; with
        averages on nodes also ``nodes=`` (fixes their number in a replica), ``replicas=``,
        ``seed=``.

    Raises
    ------
    BadParameter, ShapeMismatch, InvalidCovariance, NotClosed

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(0.05, constraint="sphere"))
    >>> run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.1]], [[1.0]]), t_max=3.0)
    >>> str(run.status), bool(run.risk[-1] < 1e-3)
    ('ok', True)
    """
    problem = problem_of(system)
    inputs = run_inputs(system, start, parameters)
    options = {
        "method": method, "rtol": rtol, "atol": atol, "save_at": save_at, "events": events,
        "progress": progress, "max_steps": max_steps, "timeout": timeout, "t_max": t_max,
    }  # fmt: skip

    def run_with(rule: NodeRule | None, **changes: Any) -> Trajectory:
        here = inputs if rule is None else on_nodes(inputs, rule)
        return solve_problem(problem, **here, **{**options, **changes})

    equations = problem.origin
    if not equations.averages:
        return _with_readout(run_with(None))

    def rule_of(count: int | None) -> NodeRule:
        rule: NodeRule = equations.rule(start, {**parameters, "nodes": count})
        return rule

    run = solve_on_nodes(run_with, rule_of, parameters.get("nodes"), quadrature_tol)
    return _with_readout(run)


def on_nodes(inputs: Mapping[str, Any], rule: NodeRule) -> dict[str, Any]:
    """Inputs of a run with the nodes of another rule."""
    arrays = {"weight": rule.weight, "normal": rule.normal}
    return {
        **inputs,
        "widths": {**inputs["widths"], "nodes": rule.weight.size},
        "constants": {**inputs["constants"], **arrays},
    }


def _with_readout(run: Trajectory) -> Trajectory:
    """Show the fixed readout as a block with time first, as trained readouts are."""
    if "readout" in run.blocks:
        return run
    readout = run.constants["readout"]
    block = np.broadcast_to(readout, (run.t.size, readout.size)).copy()
    return replace(
        run,
        blocks={**run.blocks, "readout": block},
        layout=(*run.layout, Block("readout", ("p",))),
    )

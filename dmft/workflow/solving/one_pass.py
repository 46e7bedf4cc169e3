"""Flows and maps of the overlaps: what `dmft.solve` does with equations of one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import sympy as sp

from dmft.equations.equations import Equations
from dmft.errors import BadParameter
from dmft.initial_conditions import TIME, Overlaps, begin_of, check_end
from dmft.names import BLOCK, Status
from dmft.solvers.problem import Problem
from dmft.solvers.solve import Request, check_request, solve_problem
from dmft.solvers.trajectory import Trajectory, completed_later, with_readout
from dmft.workflow.kept_problems import is_linked, keep_problem, kept_problem
from dmft.workflow.solve import (
    ATOL,
    MAX_STEPS,
    QUADRATURE_TOL,
    RTOL,
    SOLVERS,
    Options,
    Solver,
    equations_of,
)
from dmft.workflow.solving.inputs import problem_of, refuse_path_options, run_inputs, watch_of

if TYPE_CHECKING:
    from dmft.gaussian.nodes.rules import NodeRule
    from dmft.model import Model
    from dmft.workflow.solving.schedule import Schedule

# Solver tolerances, as parts of the tolerance of averages on nodes, below which steps are wasted
# where integrands have kinks.
RTOL_PER_QUADRATURE, ATOL_PER_QUADRATURE = 0.1, 1e-3

# The norm |f - y| of a sequence has a cone where y = f: rates jump when one passes a node, their
# error falls slowly with the number of nodes, and finer steps would follow the nodes.
CONE_TOLERANCE = 5e-3
CONE = {"rtol": 1e-5, "atol": 1e-7}


@dataclass(frozen=True)
class RunOptions(Options):
    """How flows and maps are solved: the options of `dmft.solvers.solve.check_request`.

    Attributes
    ----------
    quadrature_tol : float
        Error of averages on nodes.
    """

    rtol: float = RTOL
    atol: float = ATOL
    max_steps: int = MAX_STEPS
    quadrature_tol: float = QUADRATURE_TOL

    @property
    def of_solver(self) -> dict[str, Any]:
        """Options of the integrator by name."""
        ours = ("quadrature_tol", "t_start")
        return {name: value for name, value in vars(self).items() if name not in ours}


def solve_one_pass(
    system: Equations | Problem,
    start: Overlaps,
    t_max: float,
    options: RunOptions,
    values: Mapping[str, Any],
) -> Trajectory:
    """Solve a flow or a map of overlaps, with schedules of the rate and averages on nodes."""
    refuse_path_options(values)
    kept = None
    if isinstance(system, Equations) and not is_followed(values):
        kept = kept_problem(system, options)
    check_start((kept or problem_of(system)).origin, start)
    problem, inputs, schedule = prepared(system, start, values, options.t_start, t_max, kept)
    equations = problem.origin
    if equations.family == "rule":  # expressions are part of its equations
        values = {n: y for n, y in values.items() if not is_open(y)}
    if any(map(is_table, values.values())):
        values = inputs["parameters"] | {n: y for n, y in values.items() if not is_table(y)}
    choices = {**options.of_solver, "t_max": t_max}
    watch = watch_of(problem, inputs, options.events)
    if watch is not None:
        choices["events"] = watch.events

    def solved(here: Mapping[str, Any], **changes: Any) -> Trajectory:
        if watch is None:
            return solve_problem(problem, **here, **{**choices, **changes})
        return watch.finished(solve_problem(watch.problem, **here, **{**choices, **changes}))

    def finished(run: Trajectory) -> Trajectory:
        if schedule is not None:
            return with_readout(schedule.with_ending(run))
        return described(run, equations, inputs)

    if not equations.averages:
        run = solved(inputs)
        if run.problem is problem and isinstance(system, Equations):
            keep_problem(problem)
        return finished(run) if schedule is not None else finish(run, equations, options.rtol)

    # Closed forms do without nodes.
    from dmft.equations.averages.conditioned import smooth
    from dmft.equations.averages.tails import may_outgrow
    from dmft.workflow.solving.quadrature import (
        fixed_beyond_tails,
        on_nodes,
        solve_on_nodes,
        within_tails,
    )

    tolerance = options.quadrature_tol
    if equations.has_cone:
        tolerance = max(tolerance, CONE_TOLERANCE)
        choices |= {name: max(value, choices[name]) for name, value in CONE.items()}
    elif not smooth(equations.averages):
        # Rates jump when a kink passes a node: finer steps would follow the nodes, not the law.
        choices["rtol"] = max(options.rtol, RTOL_PER_QUADRATURE * tolerance)
        choices["atol"] = max(options.atol, ATOL_PER_QUADRATURE * tolerance)
    else:
        choices["default"] = "rk8"  # Rates on nodes are expensive, a step is not.

    def run_with(rule: NodeRule | None, **changes: Any) -> Trajectory:
        here = inputs if rule is None else on_nodes(inputs, rule)
        return solved(here, **changes)

    def rule_of(count: int | None) -> NodeRule:
        rule: NodeRule = equations.rule(start, {**values, "nodes": count})
        return rule

    fixed, grows = values.get("nodes"), schedule is None and may_outgrow(equations.definitions)
    if grows and fixed is None:
        fixed = fixed_beyond_tails(run_with, rule_of, equations, start)
    run = finished(solve_on_nodes(run_with, rule_of, fixed, tolerance))
    return with_error_rate(within_tails(run, equations, start) if grows else run, equations)


def _with_schedules(
    system: Equations | Problem, values: Mapping[str, Any]
) -> tuple[Equations | Problem, dict[str, Any]]:
    """Equations of a rule with parameters that are functions of the time, scalars or measures."""
    open_ = {n: y for n, y in values.items() if is_open(y)}
    equations = equations_of(system)
    assert isinstance(equations, Equations)
    return equations.space.scheduled(equations, open_), {
        n: y for n, y in values.items() if n not in open_
    }


def with_error_rate(run: Trajectory, equations: Equations) -> Trajectory:
    """A run on nodes with how often signs are wrong, where labels are signs."""
    known = "error_rate" in run.observables or not {"Q", "M"} <= set(run.names)
    if known or not run.t.size or not _has_errors(equations.model):
        return run
    from dmft.equations.risk import ErrorRate

    readout = {"readout": run.readout}
    front = "" if equations.model.blocks is None else BLOCK
    Q, M = (run.blocks[f"{front}{name}"] for name in "QM")
    rate, error = ErrorRate(equations.model).along(
        Q, M, {**run.constants, **readout}, run.parameters
    )
    return replace(
        run,
        observables={**run.observables, "error_rate": rate},
        error={**(run.error or {}), "error_rate": error},
    )


def _has_errors(model: Model) -> bool:
    """Whether labels are signs or classes."""
    if model.family == "rule":
        return False
    if model.outputs > 1:
        return True
    from dmft.equations.update.overlaps import has_signs

    if not has_signs(model):
        return False
    from dmft.equations.update.linear_students import writes_signs

    return writes_signs(model)


def prepared(
    system: Equations | Problem,
    start: Any,
    values: Mapping[str, Any],
    t_start: float | None,
    t_max: float,
    kept: Problem | None = None,
) -> tuple[Problem, dict[str, Any], Schedule | None]:
    """Problem and inputs of a run with the time at which it begins, and the schedule in t.

    A schedule in time continues at the time of the start unless `t_start` says where it begins.
    `kept` is the problem of the system where that is linked already.
    """
    problem, schedule, counts = kept, None, False
    if getattr(equations_of(system), "family", "") == "rule" and any(map(is_open, values.values())):
        from dmft.emit.quantities import TIME as NOW

        if any(y.has(NOW) for y in values.values() if is_open(y)):
            t_start = begin_of(start, TIME, t_start)
        problem, counts = None, follows_schedule(values)
        system, values = _with_schedules(system, values)
    if any(map(is_table, values.values())):
        from dmft.workflow.control_problem import followed, schedule_among

        table = schedule_among(values)
        assert table is not None
        problem, inputs = followed(system, start, values, table, t_start)
    elif follows_schedule(values):
        from dmft.workflow.solving.schedule import scheduled_inputs

        problem, inputs, schedule = scheduled_inputs(system, start, values, t_start)
    else:
        begin = begin_of(start, TIME, t_start, follows=False)
        inputs = {**run_inputs(system, start, values), "t_start": begin}
    problem = problem or problem_of(system)
    if counts:
        from dmft.workflow.solving.schedule import with_steps

        problem = with_steps(problem, inputs, start)
    check_end(t_max, inputs["t_start"], problem.time_unit if problem.tail else TIME)
    return problem, inputs, schedule


def is_table(value: Any) -> bool:
    """Whether a run-time value is a `dmft.Schedule`."""
    return hasattr(value, "control")


def is_followed(values: Mapping[str, Any]) -> bool:
    """Whether a run follows a schedule, as an expression or as a table."""
    return follows_schedule(values) or any(map(is_table, values.values()))


def follows_schedule(values: Mapping[str, Any]) -> bool:
    """Whether the learning rate of a run is no number."""
    return is_open(values.get("learning_rate"))


def is_open(value: Any) -> bool:
    """Whether a run-time value is an expression that is no number."""
    return isinstance(value, sp.Expr) and not value.is_number


def request_of(
    system: Equations | Problem | None, start: Overlaps, given: Mapping[str, Any]
) -> Request | None:
    """What `solve` asks of the integrator, in runs of closed forms at a constant rate.

    `given` are the options and run-time values of `dmft.solve`.
    """
    origin = equations_of(system)
    if not isinstance(origin, Equations) or SOLVERS.get(origin.kind) != __name__:
        return None
    names = {one.name for one in fields(RunOptions)} | {"t_max"}
    options = {name: value for name, value in given.items() if name in names}
    t_max = options.pop("t_max")
    values = {name: value for name, value in given.items() if name not in names}
    # What linked code has solved is not built again.
    linked = system if isinstance(system, Problem) and is_linked(system) else None
    problem = linked or problem_of(origin)
    if is_followed(values) or origin.averages or problem is not system:
        return None
    asked = RunOptions(**options)
    _, inputs, _ = prepared(origin, start, values, asked.t_start, t_max, problem)
    return check_request(problem, t_max=t_max, **inputs, **asked.of_solver)


def check_start(equations: Equations | None, start: object) -> None:
    """Refuse what is no start of these equations, or of a problem written by hand."""
    wanted = Overlaps if equations is None else equations.space.start_type
    if not isinstance(start, wanted):
        raise BadParameter(
            f"start must be a dmft.{wanted.__name__}, got {type(start).__name__}; lists of starts "
            "are for equations of kind 'sde'"
        )


def finish(run: Trajectory, equations: Equations, rtol: float) -> Trajectory:
    """Add what follows from the equations to a run of closed forms.

    The rounding error is computed when the message or the error is read.
    """
    inputs = {name: getattr(run, name) for name in ("constants", "widths", "parameters")}

    def completed() -> Trajectory:
        from dmft.workflow.solving.rounding import with_rounding

        return described(with_rounding(run, equations, rtol), equations, inputs)

    def ending() -> str:
        return described(run, equations, inputs).message

    if run.status in (Status.DIVERGED, Status.NONFINITE):
        from dmft.workflow.solving.limits import beyond_tables, runs_away

        if runs_away(equations, run.parameters):
            return completed()
        ended = beyond_tables(run, equations)
        if ended is not run:
            return with_readout(ended)
    return completed_later(with_readout(run), completed, ending)


def described(run: Trajectory, equations: Equations, inputs: Mapping[str, Any]) -> Trajectory:
    """A run of one pass with what its learning rate is worth saying, and with its readout."""
    from dmft.workflow.solving.limits import rate_message, with_runaway

    told = replace(run, message=run.message + rate_message(equations, inputs))
    return with_readout(with_runaway(told, equations))


SOLVER = Solver("equations of one pass", RunOptions, solve_one_pass)

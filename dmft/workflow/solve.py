"""`solve`: from equations (or a problem) and a start to a trajectory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from dmft.checks import checked_or
from dmft.equations.equations import Equations
from dmft.equations.nodes import smooth
from dmft.errors import BadParameter
from dmft.gaussian.nodes import NodeRule
from dmft.model import Alignment, Overlaps
from dmft.model.two_time import TwoTime
from dmft.progress import ProgressOption
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.solve import solve_problem
from dmft.solvers.trajectory import Trajectory
from dmft.workflow.inputs import problem_of, refuse_path_options, sequence_of
from dmft.workflow.limits import rate_message
from dmft.workflow.quadrature import on_nodes, solve_on_nodes
from dmft.workflow.rounding import with_rounding
from dmft.workflow.schedule import scheduled_inputs, with_ending

if TYPE_CHECKING:
    from dmft.equations.descent import DescentEquations
    from dmft.equations.descent_flow import DescentFlow
    from dmft.equations.sequence import SequenceEquations
    from dmft.solvers.process import DescentProblem
    from dmft.solvers.volterra_problem import VolterraProblem

# Solver tolerances, as parts of the tolerance of averages on nodes, below which steps are wasted
# where integrands have kinks.
RTOL_PER_QUADRATURE, ATOL_PER_QUADRATURE = 0.1, 1e-3
# What is asked for by default; solvers that have no such option refuse anything else.
RTOL, ATOL, MAX_STEPS, QUADRATURE_TOL = 1e-8, 1e-10, 1_000_000, 1e-5
# Paths have a step of their own.
NOT_OF_PATHS = ("rtol", "atol", "max_steps")


@checked_or(start="lists of starts are for equations of kind 'sde'")
def solve(
    system: Equations | SequenceEquations | DescentEquations | DescentFlow | TwoTime | Problem
    | DescentProblem | VolterraProblem,
    start: Overlaps | Alignment | Sequence[Overlaps] | None,
    t_max: float,
    *,
    method: str | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
    save_at: int | ArrayLike | None = None,
    events: Event | Sequence[Event] = (),
    progress: ProgressOption = None,
    max_steps: int = MAX_STEPS,
    timeout: float | None = None,
    quadrature_tol: float = QUADRATURE_TOL,
    **parameters: Any,
) -> Any:  # fmt: skip
    r"""Integrate the equations of motion from a start to time `t_max`.

    Shapes      start Q (p, p), M (p, k), P (k, k); result Q (T, p, p), M (T, p, k),
                readout (T, p), risk (T,), t (T,)
    Scaling     t = steps * learning_rate / (p d); `run.steps(dim)` converts
    Valid for   any closed `Equations`; the status says when a run did not reach `t_max`

    Parameters
    ----------
    system : Equations, SequenceEquations, DescentEquations, DescentFlow or TwoTime
        Or what `dmft.build` makes of them. A `dmft.TwoTime` has its own start (pass None) and
        options: `tol=`, `thin=`, `checkpoint=` and more (`dmft.workflow.two_time.TwoTimeOptions`).
    start : Overlaps
        An `Alignment` for sequence models. For an sde also a list of them, one for each path, or
        None: drawn anew for each path as `random_overlaps` does.
    t_max : float
    method : {"rk5", "rk8", "Radau", "BDF", "LSODA"}
        Compiled explicit Runge-Kutta of order 5 (the default) or 8; SciPy's implicit methods when
        stiff. Maps are iterated and take none of them. For an sde {"euler", "weak2"}:
        Euler-Maruyama (the default) or a scheme of weak order 2.
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
        it, `run.message` says where the budget of nodes was not enough. Rates with kinks jump
        when one passes a node: there rtol and atol are at least 0.1 and 1e-3 times this. The norm
        as the loss of a sequence model is a cone where y = f: this is at least 5e-3, rtol 1e-5
        and atol 1e-7 there.
    **parameters
        Run-time values: ``learning_rate=``, ``label_noise=`` and the model's own symbols. A
        learning rate may follow the time of the equations and the risk, as an expression of
        ``sympy.Symbol("t")`` and ``sympy.Symbol("risk")``; `run.steps` then counts the steps.
        With averages on nodes also ``nodes=`` (fixes their number in a replica), ``replicas=``,
        ``seed=``. For an sde the paths: ``paths=`` (their number), ``dt=`` (the step in t),
        ``seed=``, ``threads=``, ``bridge=`` (crossings within a step), ``keep_paths=``,
        ``substeps=``, ``increments=`` (see `dmft.solvers.paths.solve_paths`).

    Returns
    -------
    Trajectory; PathEnsemble for equations of kind "sde"; DescentRun for those of kind "two-time"
        (options: `dmft.workflow.descent.solve_descent`, of a gradient flow
        `dmft.workflow.descent_flow.solve_flow`); TwoTimeRun for a `dmft.TwoTime`. `run.error` has
        what averages on nodes leave, or closed forms that lose digits (`dmft.workflow.rounding`).

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

    A learning rate that falls with the risk:

    >>> run = dmft.solve(
    ...     eqs, dmft.Overlaps([[1.0]], [[0.1]]), t_max=3.0, learning_rate=sp.Symbol("risk") / 20
    ... )
    >>> bool(np.all(np.diff(run.steps(dim=1000)) > 0))
    True
    """
    system = _unbuilt(system)
    if isinstance(system, TwoTime) or getattr(system, "kind", None) == "two-time":
        given = {
            "rtol": rtol != RTOL, "atol": atol != ATOL, "events": bool(events),
            "quadrature_tol": quadrature_tol != QUADRATURE_TOL,
            "save_at": save_at is not None, "max_steps": max_steps != MAX_STEPS,
        }  # fmt: skip
        more = {"save_at": save_at, "max_steps": max_steps} if isinstance(system, TwoTime) else {}
        own = {**parameters, "timeout": timeout, "progress": progress, **more}
        return _solve_two_times(cast(Any, system), start, t_max, method, given, own)
    one_pass = cast("Equations | SequenceEquations | Problem", system)
    problem = problem_of(one_pass)
    choices: dict[str, Any] = {
        "method": method, "rtol": rtol, "atol": atol, "save_at": save_at, "events": events,
        "progress": progress, "max_steps": max_steps, "timeout": timeout,
    }  # fmt: skip
    if problem.kind == "sde" and problem.origin is not None:
        from dmft.workflow.paths import solve_paths_of

        common = {name: choices[name] for name in choices if name not in NOT_OF_PATHS}
        return solve_paths_of(problem, cast(Any, start), t_max, common, parameters)
    refuse_path_options(parameters)
    sequence = sequence_of(problem)
    if sequence is not None:
        from dmft.workflow.sequence import solve_sequence

        return solve_sequence(problem, sequence, start, t_max, choices, parameters, quadrature_tol)
    if not isinstance(start, Overlaps):
        raise BadParameter(
            f"start must be a dmft.Overlaps, got {type(start).__name__}; lists of starts are for "
            "equations of kind 'sde'"
        )
    problem, inputs, schedule = scheduled_inputs(one_pass, start, parameters)
    equations = problem.origin
    options = {**choices, "t_max": t_max}

    def finished(run: Trajectory) -> Trajectory:
        if schedule is not None:
            run = with_ending(run, schedule)
        else:
            return described(run, equations, inputs)
        return with_readout(run)

    def run_with(rule: NodeRule | None, **changes: Any) -> Trajectory:
        here = inputs if rule is None else on_nodes(inputs, rule)
        return solve_problem(problem, **here, **{**options, **changes})

    if not equations.averages:
        run = run_with(None)
        return finished(run if schedule is not None else with_rounding(run, equations, rtol))

    if not smooth(equations.averages):
        # Rates jump when a kink passes a node: finer steps would follow the nodes, not the law.
        options["rtol"] = max(rtol, RTOL_PER_QUADRATURE * quadrature_tol)
        options["atol"] = max(atol, ATOL_PER_QUADRATURE * quadrature_tol)

    def rule_of(count: int | None) -> NodeRule:
        rule: NodeRule = equations.rule(start, {**parameters, "nodes": count})
        return rule

    run = solve_on_nodes(run_with, rule_of, parameters.get("nodes"), quadrature_tol)
    return finished(run)


def _unbuilt(system: Any) -> Any:
    """Equations of two times, also of what was built from them: compiled code is kept with them."""
    two_times = getattr(system, "kind", None) == "two-time"
    return getattr(system, "origin", system) if two_times else system


def _solve_two_times(
    system: DescentFlow | DescentEquations | TwoTime,
    start: Any,
    t_max: Any,
    method: str | None,
    given: Mapping[str, bool],
    own: Mapping[str, Any],
) -> Any:
    """Equations of two times have solvers of their own; `given` options of others are refused."""
    what, how = "equations of descents", "they take samples= and scrambles=, and keep all steps"
    if isinstance(system, TwoTime):
        what, how = "two-time problems", "they take tol=, the error of a step, and have signals"
    unused = [f"{name}=" for name, is_given in given.items() if is_given and name not in own]
    if unused:
        raise BadParameter(f"{what} know no {', '.join(unused)}: {how}")
    if isinstance(system, TwoTime):
        from dmft.workflow.two_time import check_two_time, solve_two_time

        check_two_time(start, method)
        return solve_two_time(system, t_max, **own)
    if system.family == "flow":
        from dmft.workflow.descent_flow import solve_flow

        return solve_flow(cast("DescentFlow", system), start, t_max, method=method, **own)
    from dmft.workflow.descent import solve_descent

    descent = cast("DescentEquations", system)
    return solve_descent(descent, start, t_max, method=method, **own)


def described(run: Trajectory, equations: Equations, inputs: Mapping[str, Any]) -> Trajectory:
    """A run of one pass with what its learning rate is worth saying, and with its readout."""
    message = run.message + rate_message(equations, inputs)
    return with_readout(replace(run, message=message))


def with_readout(run: Trajectory) -> Trajectory:
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

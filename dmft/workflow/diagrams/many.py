"""A built-in measure at many points: their runs go through compiled code as one batch.

Each result is what the measure itself returns at that point, or reads the same in a sweep. Points
that ask for more than the compiled loops have (implicit methods, averages on nodes, schedules,
time limits) are measured one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dmft.analysis.escape import TIGHT, check_escape, escape_times_of
from dmft.equations.equations import Equations
from dmft.names import Status
from dmft.solvers.problem import Problem
from dmft.solvers.runge_kutta.batch import Ended, Varied, attempt, rows_of, solve_batch, varied
from dmft.solvers.solve import COMPILED, Request, check_request
from dmft.solvers.trajectory import Trajectory
from dmft.workflow.solving.inputs import SOLVER_OPTIONS, InputsByPoint, split_options
from dmft.workflow.solving.one_pass import RunOptions, finish
from dmft.workflow.solving.schedule import RATE, read_schedule

Point = Mapping[str, Any]
Reader = Callable[..., Any]
# Measures that read one run from the start to `t_max`, both ends saved.
LAST_RISK = "final_risk"
OF_A_RUN = (LAST_RISK, "converged", "status", "fixed_point", "learned_directions", "overlap")
ESCAPE = "escape_time"
# Options of a run that a batch shares.
SHARED = frozenset({"method", "rtol", "atol", "max_steps", "progress"})


@dataclass(frozen=True)
class _Plan:
    """What the runs of a measure share."""

    problem: Problem
    equations: Equations
    t_max: float
    solver: Mapping[str, Any]
    inputs: InputsByPoint

    def requests(self, points: Sequence[Point]) -> list[Request | Exception]:
        """The checked run at each point, or why there is none; the first is varied by others."""
        known: list[tuple[dict[str, Any], Request]] = []
        return [attempt(self._request, point, known) for point in points]

    def _request(self, point: Point, known: list[tuple[dict[str, Any], Request]]) -> Request:
        inputs = self.inputs(point)
        if known:
            first, request = known[0]
            if all(inputs[name] is first[name] for name in ("state", "constants", "widths")):
                return varied(request, inputs["parameters"], inputs["provenance"])
        request = check_request(self.problem, t_max=self.t_max, **inputs, **self.solver)
        if not known:
            known.append((inputs, request))
        return request

    def together(self, points: Sequence[Point]) -> Varied | None:
        """All runs as one table of numbers; None where they differ in more, or one is refused."""
        scalars = self.inputs.rows(points)
        first = self.requests(points[:1])[0]
        if scalars is None or not isinstance(first, Request):
            return None

        def make(number: int) -> Request:
            inputs = self.inputs(points[number])
            return varied(first, inputs["parameters"], inputs["provenance"])

        return Varied(first, rows_of(first, scalars), make)


def results_of(of: Any, function: Reader, points: Sequence[Point]) -> Iterator[Any]:
    """Results of an `EquationMeasure` at many points in their order.

    `function` is what the measure calls at each point, with its run from `measure.run`. An
    exception that a point raises is yielded in its place. The iterator ends early when the parallel
    job is cancelled.
    """
    plan = attempt(_plan, of, points[0]) if len(points) > 1 else None
    if not isinstance(plan, _Plan):  # what is wrong with the first point is said at that point
        for point in points:
            yield attempt(of, **point)
        return
    if of.name == ESCAPE:
        how = of.how
        levels = (how["fraction"], how["reference"], how["overlap"])
        yield from escape_times_of(plan.requests(points), *levels)
        return
    asked = plan.together(points) or plan.requests(points)
    for point, ended in zip(points, solve_batch(asked), strict=False):
        if not isinstance(ended, Ended):
            yield ended
        elif of.name == LAST_RISK:
            yield attempt(_last_risk, ended, plan)
        else:
            yield attempt(function, _Solved(of, _Run(ended, plan)), {**of.options, **point})


def _last_risk(ended: Ended, plan: _Plan) -> Any:
    return (ended.observe("risk"), Status.OK) if ended.reached else _Run(ended, plan).trajectory


def _plan(of: Any, example: Point) -> _Plan | None:
    """How the runs of a measure are made in a batch; None where they are not."""
    solver, fixed = split_options(of.options)
    equations = of.origin
    if not (
        isinstance(equations, Equations) and not equations.averages and not equations.noise
    ) or of.name not in (*OF_A_RUN, ESCAPE):
        return None
    if not solver.keys() <= SHARED or SOLVER_OPTIONS & set(example):
        return None
    if solver.get("method") not in (None, "iterate", *COMPILED):
        return None
    if read_schedule(equations, fixed.get(RATE)) is not None:
        return None
    options = {**solver, "progress": False}
    if of.name == ESCAPE:
        how = of.how
        check_escape(of.problem, how["fraction"], how["reference"], how["overlap"])
        options = {**TIGHT, **options}
    else:
        options["save_at"] = 2
    inputs = InputsByPoint(equations, of.start, fixed, example)
    return _Plan(of.problem, equations, of.t_max, options, inputs)


class _Run:
    """A run that has ended; its record is made where more than status and last risk is read."""

    def __init__(self, ended: Ended, plan: _Plan) -> None:
        self._ended, self._plan = ended, plan

    @cached_property
    def trajectory(self) -> Trajectory:
        """As `dmft.solve` returns it."""
        plan, run = self._plan, self._ended.trajectory()
        rtol = plan.solver.get("rtol", RunOptions.rtol)
        return finish(run, plan.equations, rtol)

    @property
    def status(self) -> Status:
        """How it ended."""
        return Status.OK if self._ended.reached else Status(self.trajectory.status)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trajectory, name)


@dataclass(frozen=True)
class _Solved:
    """A measure whose run is done."""

    of: Any
    done: _Run

    def run(self, here: Point) -> _Run:
        """The run at these parameters."""
        return self.done

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of, name)

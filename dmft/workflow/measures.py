"""Measures of equations at given parameters, as objects that travel to other processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dmft.equations import Equations
from dmft.errors import BadParameter
from dmft.model import Overlaps
from dmft.names import Status
from dmft.solvers.problem import Problem
from dmft.workflow.escape import escape_time
from dmft.workflow.fixed_points import fixed_points, stability
from dmft.workflow.inputs import problem_of, run_inputs, split_options
from dmft.workflow.solve import solve

MEASURES = ("escape_time", "final_risk", "converged", "growth_rate", "status")


@dataclass(frozen=True)
class EquationMeasure:
    """A measure of one system of equations, called with its parameters by name.

    "escape_time" as `dmft.escape_time`; "final_risk" at t_max; "converged" is 1 where the run
    reached t_max and 0 where it did not (diverged ...); "status" the number of its status;
    "growth_rate" the largest growth rate of a small displacement from the fixed point that
    Newton's method reaches from the start (t_max is not needed).
    """

    name: str
    equations: Equations | Problem
    start: Overlaps
    t_max: float | None
    how: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in MEASURES:
            raise BadParameter(
                f"unknown measure {self.name!r}; choose one of {MEASURES} or a function"
            )
        missing = self.equations is None or self.start is None
        if missing or (self.t_max is None and self.name != "growth_rate"):
            raise BadParameter(f'the measure "{self.name}" needs equations=, start= and t_max=')

    def check(self, parameters: Mapping[str, float]) -> None:
        """Refuse a name that the equations lack or a bad start, before any point is computed."""
        _, given = split_options(self.options)
        run_inputs(self.equations, self.start, {**given, **parameters})

    @property
    def problem(self) -> Problem:
        """The compiled problem, one in each process."""
        return problem_of(self.equations)

    def __call__(self, **parameters: float) -> Any:
        """Value at these parameters."""
        here = {**self.options, **parameters}
        if self.name == "growth_rate":
            return self._growth_rate(here)
        assert self.t_max is not None
        here["progress"] = False
        if self.name == "escape_time":
            return escape_time(self.problem, self.start, self.t_max, **self.how, **here)
        run = solve(self.problem, self.start, self.t_max, save_at=2, **here)
        if self.name == "final_risk":
            return run
        if self.name == "status":
            return float(list(Status).index(Status(run.status)))
        return float(run.status in (Status.OK, Status.EVENT))

    def _growth_rate(self, here: Mapping[str, Any]) -> Any:
        equations = self.equations
        if not isinstance(equations, Equations):
            raise BadParameter('the measure "growth_rate" needs dmft.Equations')
        (point,) = fixed_points(equations, self.start, **here)
        if point.status != Status.OK:
            return float("nan"), point.status
        return stability(equations, point, **here).growth_rate

    def __getstate__(self) -> dict[str, Any]:
        # A compiled problem is built again from its equations where this is sent to.
        equations = self.equations
        if isinstance(equations, Problem) and equations.origin is not None:
            equations = equations.origin
        return {**self.__dict__, "equations": equations}

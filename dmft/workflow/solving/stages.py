"""`solve_stages`: protocols of equations, one stage after another at events, with schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.checks import checked, checked_or
from dmft.compiled import njit
from dmft.equations.equations import Equations
from dmft.errors import BadParameter
from dmft.model import Overlaps
from dmft.progress import ProgressOption
from dmft.solvers import stages as of_problems
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.signatures import RHS_SIGNATURE
from dmft.solvers.solution import ABOVE
from dmft.solvers.trajectory import Trajectory, with_readout
from dmft.workflow.solving.inputs import problem_of, run_inputs

Array = NDArray[np.float64]
RATE, TABLE, STEPS = "learning_rate", "learning_rate_schedule", "scheduled_steps"


@checked_or(equations="a stage takes those of kind 'ode' or 'map' that dmft.derive gives")
@dataclass(frozen=True)
class Stage:
    """One stage of a protocol: equations, their run-time values, and when the next stage begins.

    Attributes
    ----------
    equations : Equations
        Of kind "ode" or "map".
    parameters : mapping, or callable(t, state) -> mapping
        Run-time values as keywords of `dmft.solve`. A callable is asked when the stage begins, with
        the time and the state blocks Q (p, p), M (p, k). In a map ``learning_rate`` may be a
        function of the time t, the number of steps since the start of the run.
    until : Event or None
        The next stage begins where this happens; None: the stage lasts to the end.

    Examples
    --------
    >>> import dmft
    >>> model = dmft.literature.saad_solla(2, 2)
    >>> steps = dmft.derive(model, dmft.SGD(500, batch_size=1000), dim=1000)
    >>> dmft.Stage(steps, {"learning_rate": 200}, until=dmft.Event("risk", 0.01, -1)).until.name
    'risk falls to 0.01'
    """

    equations: Equations
    parameters: Mapping[str, Any] | Callable[[float, Mapping[str, Array]], Mapping[str, Any]] = (
        field(default_factory=dict)
    )
    until: Event | None = None

    def __post_init__(self) -> None:
        if self.equations.kind not in ("ode", "map"):
            raise BadParameter(
                f"a stage takes dmft.Equations of kind 'ode' or 'map', got {self.equations!r:.200}"
            )
        if self.equations.averages:
            raise BadParameter(
                "stages take equations with closed averages; those on nodes need dmft.solve, "
                "which refines the nodes: solve stage by stage from run.final"
            )


@checked
def solve_stages(
    stages: Sequence[Stage],
    start: Overlaps,
    t_max: float,
    *,
    save_at: int | ArrayLike | None = None,
    events: Event | Sequence[Event] = (),
    progress: ProgressOption = None,
    **options: Any,
) -> Trajectory:
    r"""Solve equations stage after stage: a protocol that switches at events.

    Shapes      start and result as in `dmft.solve`
    Scaling     t runs through all stages; all of one kind, all maps or all flows
    Valid for   equations whose averages are closed; an event of a map belongs to the first step
                after which it holds, the next step is the first one of the next stage
    Source      one_pass.md D.1 (the adaptive loss: correlation first, squared below a risk)

    Parameters
    ----------
    stages : sequence of Stage
        Each but the last has `until`.
    start : Overlaps
    t_max : float
    save_at, events, progress, options
        As for `dmft.solve` (method, rtol, atol, max_steps, timeout); events are watched for in
        every stage. The state of a switch is always saved.

    Returns
    -------
    Trajectory
        The switches are among its events; `provenance["stages"]` has start and parameters of each
        stage that began. Clocks in samples are those of the last stage.

    Raises
    ------
    BadParameter, ShapeMismatch, InvalidCovariance

    Examples
    --------
    The correlation loss until R + Delta/2 has fallen to 0.6 of its start, then the squared loss at
    a tenth of the rate, which decays by half a percent in every step (Delta = 0 here):

    >>> import numpy as np, dmft
    >>> model = dmft.literature.saad_solla(2, 2)
    >>> first, second = (
    ...     dmft.derive(model, dmft.SGD(500, batch_size=4000, loss=loss), dim=1000)
    ...     for loss in ("correlation", "squared")
    ... )
    >>> start = dmft.Overlaps(np.eye(2) / 4, [[0.06, 0.02], [0.01, 0.05]])
    >>> level = 0.6 * dmft.population_risk(model)(Q=start.Q, M=start.M, P=start.P)
    >>> slower = lambda t0, state: {"learning_rate": lambda t: 50 * 0.995 ** (t - t0)}
    >>> run = dmft.solve_stages(
    ...     [dmft.Stage(first, until=dmft.Event("risk", level, -1)), dmft.Stage(second, slower)],
    ...     start, t_max=60,
    ... )
    >>> len(run.provenance["stages"]), bool(run.risk[-1] < level)
    (2, True)
    """
    stages = list(stages)
    if not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise BadParameter("stages must be a sequence of at least one dmft.Stage")
    if not isinstance(start, Overlaps):
        raise BadParameter(f"start must be a dmft.Overlaps, got {type(start).__name__}")
    scheduled = stages[0].equations.kind == "map" and any(_may_vary(s) for s in stages)
    inputs = run_inputs(stages[0].equations, start, _first_values(stages[0], start))
    widths, constants = dict(inputs["widths"]), dict(inputs["constants"])
    if scheduled:
        widths[STEPS], constants[TABLE] = max(int(t_max), 1), np.zeros(max(int(t_max), 1))
    run = of_problems.solve_stages(
        [_of_problem(stage, start, scheduled, t_max) for stage in stages],
        inputs["state"],
        t_max,
        widths=widths,
        constants=constants,
        save_at=save_at,
        events=events,
        progress=progress,
        # What the loss is above the risk differs between stages.
        provenance={name: y for name, y in inputs["provenance"].items() if name != ABOVE},
        **options,
    )
    return with_readout(run)


def _may_vary(stage: Stage) -> bool:
    """Whether the learning rate of a stage can be a function of time."""
    return callable(stage.parameters) or callable(stage.parameters.get(RATE))


def _first_values(stage: Stage, start: Overlaps) -> dict[str, Any]:
    given = stage.parameters
    return _at(given(0.0, stage.equations.state(start)) if callable(given) else given, 0.0)


def _at(given: Mapping[str, Any], t: float) -> dict[str, Any]:
    """Values with a schedule replaced by what it says at t."""
    return {name: value(t) if callable(value) else value for name, value in given.items()}


def _of_problem(stage: Stage, start: Overlaps, scheduled: bool, t_max: float) -> of_problems.Stage:
    """The stage as the solver takes it: scalars, and the rate of each step where it varies."""
    equations, problem = stage.equations, problem_of(stage.equations)

    def values(t: float, state: Mapping[str, Array]) -> dict[str, Any]:
        given = stage.parameters(t, state) if callable(stage.parameters) else stage.parameters
        schedules = {name for name, value in given.items() if callable(value)}
        if schedules - {RATE} or (schedules and not scheduled):
            raise BadParameter(
                f"{sorted(schedules)}: only the {RATE} of a map may be a function of the time; "
                "switch other values by stages; in flows dmft.solve takes expressions of t and risk"
            )
        scalars: dict[str, Any] = run_inputs(equations, start, _at(given, t))["parameters"]
        if not scheduled:
            return scalars
        table = np.full(max(int(t_max), 1), scalars[RATE])
        for n in range(int(t), table.size) if schedules else ():
            table[n] = _at(given, n)[RATE]
        if not (np.isfinite(table).all() and (table >= 0).all()):
            raise BadParameter(f"the schedule of {RATE} must be finite and not negative")
        return {**scalars, TABLE: table}

    return of_problems.Stage(with_table(problem) if scheduled else problem, values, stage.until)


def with_table(problem: Problem) -> Problem:
    """The problem of a map whose learning rate at step t is entry t of a constant table."""
    return replace(
        problem,
        rhs=_step_by_table(problem.rhs, problem.parameters.index(RATE)),
        constants=(*problem.constants, Block(TABLE, (STEPS,))),
        widths=(*problem.widths, STEPS),
    )


@lru_cache(maxsize=32)
def _step_by_table(rhs: Any, position: int) -> Any:
    """Compiled step that reads the rate from the table, the last of the constants."""

    @njit(RHS_SIGNATURE, nogil=True, later=True)
    def step(t, y, widths, par, out):  # type: ignore[no-untyped-def]
        now = par.copy()
        now[position] = par[par.size - widths[widths.size - 1] + int(t)]
        rhs(t, y, widths, now, out)

    return step

"""`solve_stages`: protocols of equations, one stage after another at events, with schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.compiled import njit
from dmft.emit.quantities import as_expression
from dmft.equations.equations import Equations
from dmft.errors import BadParameter
from dmft.initial_conditions import TIME, begin_of, check_end
from dmft.model import Overlaps
from dmft.progress import ProgressOption
from dmft.record import Short
from dmft.solvers import stages as of_problems
from dmft.solvers.events import Event
from dmft.solvers.pointers import entry, keeping
from dmft.solvers.problem import Block, Problem
from dmft.solvers.run import check_events
from dmft.solvers.signatures import RHS_SIGNATURE, rhs_at
from dmft.solvers.solution import ABOVE
from dmft.solvers.trajectory import Trajectory, with_readout
from dmft.validation import checked, checked_or
from dmft.workflow.solving.inputs import problem_of, run_inputs, watch_of
from dmft.workflow.solving.one_pass import follows_schedule
from dmft.workflow.solving.schedule import Schedule, count_steps, counting, follow, read_schedule

if TYPE_CHECKING:
    from dmft.workflow.solving.watched import Watched

RATE, TABLE, STEPS = "learning_rate", "learning_rate_schedule", "scheduled_steps"


@checked_or(equations="a stage needs equations of kind 'ode' or 'map' from dmft.derive")
@dataclass(frozen=True, repr=False)
class Stage(Short):
    """Stage of a run: equations, their run-time values, and the event that ends the stage.

    Attributes
    ----------
    equations : Equations
        Equations of kind "ode" or "map".
    parameters : mapping, or callable(t, state) -> mapping
        Run-time values, as for `dmft.solve`. A callable is evaluated at the start of the stage, at
        the time and the state Q (p, p), M (p, k).

        ``learning_rate`` may be a schedule as in `dmft.solve`, in the time since the start of the
        run (a function only if `parameters` is a mapping). For a map it may be any function of the
        number of steps t.
    until : Event or None
        Event that ends the stage. With None the stage lasts until the end of the run.

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

    def _in_words(self) -> str:
        return (
            f"{self.equations.kind}; parameters {_shown(self.parameters)}; "
            f"until {None if self.until is None else self.until.name!r}"
        )

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
    t_start: float | None = None,
    **options: Any,
) -> Trajectory:
    r"""Solve equations in stages that switch at events.

    Shapes      start and result as in `dmft.solve`
    Scaling     t runs through all stages; stages are either all maps or all flows
    Valid for   equations with closed averages; an event of a map belongs to the first step
                after which its condition is met; the next stage starts with the next step
    Source      theory/one_pass D.1 (the adaptive loss: correlation first, squared below a risk)

    Parameters
    ----------
    stages : sequence of Stage
        Stages in order. All except the last have `until`.
    start : Overlaps
    t_max : float
    save_at, events, progress, t_start, options
        As in `dmft.solve` (method, rtol, atol, max_steps, timeout). Events apply to every stage.
        The state at each switch is saved. Schedules in time continue at the time of `start`.

    Returns
    -------
    Trajectory
        The run, whose events include the switches. `provenance["stages"]` contains the start and
        the parameters of each stage. `run.samples` is refused if the batch sizes differ.

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
    stages = [_written(stage) for stage in stages]
    begin = begin_of(start, TIME, t_start, any(_reads_time(stage) for stage in stages))
    check_end(t_max, begin)
    inputs = run_inputs(stages[0].equations, start, _first_values(stages[0], start, begin))
    follow_rates = _set_clock(stages, inputs, start, begin)
    widths, constants = dict(inputs["widths"]), dict(inputs["constants"])
    if scheduled:
        widths[STEPS], constants[TABLE] = max(int(t_max), 1), np.zeros(max(int(t_max), 1))
    ready = [_of_problem(stage, start, scheduled, follow_rates, t_max) for stage in stages]
    watch, ready, watched_for = _with_watch(ready, inputs, check_events(events))
    run = of_problems.solve_stages(
        ready,
        inputs["state"],
        t_max,
        widths=widths,
        constants=constants,
        save_at=save_at,
        events=watched_for,
        progress=progress,
        t_start=begin,
        # What the loss is above the risk differs between stages.
        provenance={name: y for name, y in inputs["provenance"].items() if name != ABOVE},
        **options,
    )
    return with_readout(run if watch is None else watch.finished(run))


def _with_watch(
    stages: Sequence[of_problems.Stage], inputs: Mapping[str, Any], events: tuple[Event, ...]
) -> tuple[Watched | None, list[of_problems.Stage], tuple[Event, ...]]:
    """Stages that all watch for the events of all: those which integrators do not know."""
    ends = [stage.until for stage in stages if stage.until is not None]
    found = [watch_of(stage.problem, inputs, (*events, *ends)) for stage in stages]
    if not any(found):
        return None, list(stages), events
    ready = []
    for stage, watch in zip(stages, found, strict=True):
        assert watch is not None
        ended = iter(watch.events[len(events) :])
        renamed = {id(end): next(ended) for end in ends}
        until = None if stage.until is None else renamed[id(stage.until)]
        ready.append(replace(stage, problem=watch.problem, until=until))
    first = found[0]
    assert first is not None
    for watch in found[1:]:
        assert watch is not None
        watch.share(first)
    return first, ready, first.events[: len(events)]


def _set_clock(
    stages: Sequence[Stage], inputs: dict[str, Any], start: Overlaps, begin: float
) -> bool:
    """Whether the run counts its steps, since their size follows a schedule or the stage."""
    algorithms = [stage.equations.algorithm for stage in stages]
    known: list[Mapping[str, Any]] = [
        {"time_step_times_dim": object(), "samples_per_step": getattr(algorithm, "batch_size", 1)}
        if callable(stage.parameters)
        else run_inputs(stage.equations, start, _first_values(stage, start, begin))["provenance"]
        for stage, algorithm in zip(stages, algorithms, strict=True)
    ]
    if len({own["samples_per_step"] for own in known if "samples_per_step" in own}) > 1:
        inputs["provenance"]["samples_per_step"] = None
    varies = len({own.get("time_step_times_dim") for own in known}) > 1
    scheduled = any(_schedule(stage) for stage in stages)
    if varies:
        inputs["provenance"]["time_step_times_dim"] = None
    counts = scheduled or (varies and not any(algorithm.is_flow for algorithm in algorithms))
    if counts and stages[0].equations.kind == "ode":
        count_steps(inputs, start, begin)
    return counts


def _shown(given: Mapping[str, Any] | Callable[..., Any]) -> str:
    return "from a function" if callable(given) else str({n: str(y) for n, y in given.items()})


def _written(stage: Stage) -> Stage:
    """The stage with a rate that is a text, or a function in a flow, as an expression."""
    given = stage.parameters
    if callable(given) or RATE not in given:
        return stage
    if callable(given[RATE]) and stage.equations.kind == "map":
        return stage
    return replace(stage, parameters={**given, RATE: as_expression(RATE, given[RATE])})


def _schedule(stage: Stage) -> Schedule | None:
    """The expression that the rate of a stage follows; None where it is a number."""
    given = stage.parameters
    if callable(given) or callable(given.get(RATE)) or not follows_schedule(given):
        return None
    return read_schedule(stage.equations, given[RATE])


def _may_vary(stage: Stage) -> bool:
    """Whether the learning rate of a stage can be a function of time."""
    return callable(stage.parameters) or callable(stage.parameters.get(RATE))


def _reads_time(stage: Stage) -> bool:
    """Whether a value of a stage may follow the time."""
    schedule = _schedule(stage)
    return _may_vary(stage) or (schedule is not None and schedule.reads_time)


def _first_values(stage: Stage, start: Overlaps, t: float) -> dict[str, Any]:
    given = stage.parameters
    found = _at(given(t, stage.equations.state(start)) if callable(given) else given, t)
    return {**found, RATE: 1.0} if _schedule(stage) else found


def _at(given: Mapping[str, Any], t: float) -> dict[str, Any]:
    """Values with a schedule replaced by what it says at t."""
    return {name: value(t) if callable(value) else value for name, value in given.items()}


def _of_problem(
    stage: Stage, start: Overlaps, scheduled: bool, follow_rates: bool, t_max: float
) -> of_problems.Stage:
    """The stage as the solver takes it: scalars, and the rate of each step where it varies."""
    equations, plain = stage.equations, problem_of(stage.equations)
    schedule, problem = _schedule(stage), plain
    if schedule is not None:
        problem = follow(plain, schedule)
    elif follow_rates and equations.kind == "ode":
        problem = counting(plain)

    def values(t: float, state: Mapping[str, Array]) -> dict[str, Any]:
        given = stage.parameters(t, state) if callable(stage.parameters) else stage.parameters
        schedules = {name for name, value in given.items() if callable(value)}
        if schedules - {RATE} or (schedules and not scheduled):
            raise BadParameter(
                f"{sorted(schedules)}: parameters(t, state) may return a function of time only for "
                f"the {RATE} of a map; change other values between stages; in flows write the "
                f'{RATE} of a stage as an expression, {{"{RATE}": "0.5/(1 + t)"}}'
            )
        now = _at(given, t)
        if schedule is not None:
            here = run_inputs(equations, start, {**now, RATE: 1.0})
            here["state"] = {name: state[name] for name in here["state"]}
            now = {**now, RATE: schedule.at(plain, here, t)}
        scalars: dict[str, Any] = run_inputs(equations, start, now)["parameters"]
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
    address = entry(rhs, "RHS")

    @njit(RHS_SIGNATURE, nogil=True, later=True)
    def step(t, y, widths, par, out):  # type: ignore[no-untyped-def]
        now = par.copy()
        now[position] = par[par.size - widths[widths.size - 1] + int(t)]
        rhs_at(address)(t, y, widths, now, out)

    return keeping(step, rhs)

"""Protocols: stages that follow one another when an event happens, as one trajectory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.solvers.events import Event
from dmft.solvers.problem import Problem, observed_at, sizes_of
from dmft.solvers.run import check_events, save_times
from dmft.solvers.solve import check_request, solve_request
from dmft.solvers.trajectory import Trajectory

# Parameters, or a function of the time and the state blocks at which the stage begins.
Parameters = Mapping[str, Any] | Callable[[float, Mapping[str, Array]], Mapping[str, Any]]
# Widths, scalars and constant arrays.
Inputs = tuple[Mapping[str, int], Mapping[str, float], Mapping[str, ArrayLike]]


@dataclass(frozen=True)
class Stage:
    """One stage of a protocol, which lasts until an event, or to the end (None).

    Parameters that are a callable of (t, state) are computed when the stage begins. Arrays under
    the names of constant blocks replace these in this stage.
    """

    problem: Problem
    parameters: Parameters
    until: Event | None = None


def solve_stages(
    stages: Sequence[Stage],
    state: Mapping[str, ArrayLike],
    t_max: float,
    *,
    widths: Mapping[str, int],
    constants: Mapping[str, ArrayLike] | None = None,
    save_at: int | ArrayLike | None = None,
    events: Event | Sequence[Event] = (),
    t_start: float = 0.0,
    **options: Any,
) -> Trajectory:
    """Solve stage after stage; the switches are among the events of the trajectory.

    All stages have one layout (state, constants, observables) and one kind, flows or maps; other
    arguments are those of `check_request`, and events are watched for in every stage.
    `provenance["stages"]` holds the start, the parameters and the problem of each stage that began;
    there is no `problem`: no single one gives the whole run.
    """
    _check(stages)
    watched = check_events(events)
    times = None if save_at is None else save_times(save_at, t_start, t_max)
    runs: list[Trajectory] = []
    t, now = float(t_start), state
    for number, stage in enumerate(stages):
        blocks = {name: np.asarray(value, dtype=np.float64) for name, value in now.items()}
        given, until = stage.parameters, stage.until
        given = given(t, blocks) if callable(given) else given
        own = {block.name for block in stage.problem.constants} & set(given)
        scalars = {name: value for name, value in given.items() if name not in own}
        arrays = {**(constants or {}), **{name: given[name] for name in own}}
        _refuse_passed(stage, number, t, blocks, (widths, scalars, arrays))
        # An event beyond the end of this stage may happen in a later one.
        asked = check_request(
            stage.problem,
            blocks,
            t_max,
            widths=widths,
            constants=arrays,
            parameters=scalars,
            save_at=_later(times, t, t_max, first=number == 0),
            events=watched if until is None else (*watched, replace(until, terminal=True)),
            t_start=t,
            **options,
        )
        run = solve_request(asked)
        runs.append(run)
        if options.get("timeout") is not None:  # of all stages together
            left = options["timeout"] - run.statistics["seconds"]
            options["timeout"] = max(left, sys.float_info.min)
        t, now = float(run.t[-1]), run.last_state
        if not _switches(stage, run) or t >= t_max:
            break
    return _join(stages, runs)


def _check(stages: Sequence[Stage]) -> None:
    if not stages:
        raise BadParameter("a protocol needs at least one stage")
    first = stages[0].problem
    for number, stage in enumerate(stages):
        problem = stage.problem
        for what in ("kind", "state", "constants", "widths", "observables"):
            if _compared(problem, what) != _compared(first, what):
                raise BadParameter(
                    f"stage {number} differs from stage 0 in its {what}: "
                    f"{getattr(problem, what)} instead of {getattr(first, what)}"
                )
        if stage.until is None and number + 1 < len(stages):
            raise BadParameter(
                f"stage {number} has no until=, so stage {number + 1} is never reached"
            )


def _compared(problem: Problem, what: str) -> Any:
    """An attribute that stages share; losses may differ, and runs have that which all have."""
    found = getattr(problem, what)
    return tuple(name for name in found if name != "loss") if what == "observables" else found


def _refuse_passed(
    stage: Stage, number: int, t: float, state: Mapping[str, Array], inputs: Inputs
) -> None:
    """Refuse a stage that begins beyond its end: it would wait for a crossing that has been."""
    until, problem = stage.until, stage.problem
    if until is None or until.direction == 0 or not isinstance(until.quantity, str):
        return
    try:
        value = _value(until.quantity, problem, t, state, inputs)
    except (KeyError, IndexError, TypeError, ValueError):
        return  # `check_request` says what is missing
    if until.direction * (value - until.threshold) > 0:
        raise BadParameter(
            f"stage {number} begins at t = {t:g} after its end: {until.quantity} is {value:.6g} "
            f"already, and {until.name!r} would not occur. Move the threshold or leave out the "
            "stage"
        )


def _value(
    quantity: str, problem: Problem, t: float, state: Mapping[str, Array], inputs: Inputs
) -> float:
    if quantity in problem.observables:
        widths, scalars, constants = inputs
        arrays = {n: np.asarray(a, dtype=np.float64) for n, a in constants.items()}
        par = problem.pack_parameters(scalars, arrays)
        return observed_at(problem, t, problem.pack(state), sizes_of(problem, widths), par)[
            quantity
        ]
    name, _, index = quantity.replace(" ", "").rstrip("]").partition("[")
    return float(state[name][tuple(int(i) for i in index.split(",") if i)])


def _switches(stage: Stage, run: Trajectory) -> bool:
    """Whether the run ended by the event that ends its stage, not by another or by a failure."""
    ended = run.status == Status.EVENT and stage.until is not None
    return ended and run.events[-1].name == stage.until.name  # type: ignore[union-attr]


def _later(times: Array | None, t: float, t_max: float, first: bool) -> Array | None:
    """Saved times of a stage that begins at t: an earlier one has saved t itself."""
    if times is None or first:
        return times
    left = times[times > t]
    return left if left.size else np.array([t_max])


def _join(stages: Sequence[Stage], runs: Sequence[Trajectory]) -> Trajectory:
    # The first row of a stage is the last one of the stage before.
    rows = [
        slice(1 if i > 0 and run.t[0] == runs[i - 1].t[-1] else 0, None)
        for i, run in enumerate(runs)
    ]

    def join(groups: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        return {
            name: np.concatenate(
                [group[name][part] for group, part in zip(groups, rows, strict=True)]
            )
            for name in groups[-1]
            if all(name in group for group in groups)
        }

    last, message = runs[-1], runs[-1].message
    if len(runs) > 1:
        switches = ", ".join(f"{run.t[-1]:.10g}" for run in runs[:-1])
        message += f"; stages switched at t = {switches}"
    began = [
        {
            "t": float(run.provenance["t_start"]),
            "parameters": dict(run.parameters),
            "problem": run.provenance["problem"],
            "until": None if stage.until is None else stage.until.name,
        }
        for stage, run in zip(stages, runs, strict=False)
    ]
    return replace(
        last,
        t=join([{"t": run.t} for run in runs])["t"],
        blocks=join([run.blocks for run in runs]),
        observables=join([run.observables for run in runs]),
        message=message,
        events=tuple(event for run in runs for event in run.events),
        statistics={n: sum(run.statistics[n] for run in runs) for n in last.statistics},
        provenance={**last.provenance, "t_start": began[0]["t"], "stages": began},
        start=runs[0].start,
        problem=None,
    )

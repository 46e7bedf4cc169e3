"""Paths of the overlaps: what `dmft.solve` does with equations of kind "sde"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from dmft.analysis.escape_paths import EscapeTimes, escape_of_paths
from dmft.arrays import Array
from dmft.equations.equations import Equations
from dmft.equations.noise.fluctuations import Noise
from dmft.equations.parameter_values import NODE_OPTIONS, resolve_scalars
from dmft.errors import BadParameter
from dmft.initial_conditions import TIME, Alignment, Overlaps, begin_of, check_end
from dmft.solvers.events import Event
from dmft.solvers.problem import Block, Problem
from dmft.solvers.solution import Values
from dmft.solvers.stochastic.ensemble import PathEnsemble
from dmft.solvers.stochastic.paths import checked_counts, solve_paths
from dmft.workflow.solve import Options, Solver
from dmft.workflow.solving.inputs import problem_of, run_inputs, watch_of
from dmft.workflow.solving.one_pass import is_open
from dmft.workflow.solving.schedule import RATE, follow, read_schedule

# Word of the seed's spawn key that keeps random starts apart from the noise of the paths.
STARTS_STREAM = 8


@dataclass(frozen=True)
class PathOptions(Options):
    """Options of `dmft.solvers.stochastic.paths.solve_paths`; None leaves its own."""

    paths: int | None = None
    dt: float | None = None
    seed: int | None = None
    threads: int | None = None
    bridge: bool | None = None
    increments: str | None = None
    substeps: int | None = None
    keep_paths: bool | None = None

    def given(self, starts: object) -> dict[str, Any]:
        """Options by name; one path for each start of a list."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        found = {name: value for name, value in found.items() if value is not None}
        if not isinstance(self.events, Event) and not self.events:
            del found["events"]  # the escape of paths has one of its own
        if not isinstance(starts, Overlaps | Alignment | None):
            found.setdefault("paths", len(starts))  # type: ignore[arg-type]
        missing = sorted({"paths", "dt"} - set(found))
        if missing:
            raise BadParameter(
                f"equations of kind 'sde' are solved over paths: pass {', '.join(missing)} (the "
                "number of paths, and the step in units of t)"
            )
        paths, seed, _ = checked_counts(found["paths"], found.get("seed", 0))
        return {**found, "paths": paths, "seed": seed}


def solve_paths_of(
    system: Equations | Problem,
    start: Overlaps | Sequence[Overlaps] | None,
    t_max: float,
    options: PathOptions,
    values: Mapping[str, Any],
) -> PathEnsemble:
    """Paths of an sde from one start, or from a start of its own for each path."""
    problem = problem_of(system)
    if problem.origin is None:
        run_inputs(problem, start, values)  # refuses what was written by hand
    problem, values, begin = at_schedule(problem, start, options, values)
    check_end(t_max, begin)
    state, choices = path_inputs(problem, start, replace(options, t_start=begin), values)
    watch = watch_of(problem, choices, options.events)
    if watch is None:
        run = solve_paths(problem, state, t_max, **choices)
    else:
        choices["events"] = watch.events
        run = watch.finished(solve_paths(watch.problem, state, t_max, **choices))
    return run if "readout" in state or "readout" not in run.constants else _with_readout(run)


def at_schedule(
    problem: Problem,
    start: Overlaps | Sequence[Overlaps] | None,
    options: PathOptions,
    values: Mapping[str, Any],
) -> tuple[Problem, Mapping[str, Any], float]:
    """The problem that follows a schedule, values with the first rate, and the time at first."""
    other = next((n for n, y in values.items() if n != RATE and is_open(y)), None)
    if other is not None:
        raise BadParameter(
            f"{other} = {values[other]} is a schedule; paths of stochastic equations follow "
            "schedules of the learning rate only, dmft.simulate those of all parameters of rules"
        )
    schedule = read_schedule(problem.origin, values.get(RATE))
    follows = schedule is not None and schedule.reads_time
    begin = begin_of(start, TIME, options.t_start, follows)
    if schedule is None:
        return problem, values, begin
    given, trial = options.given(start), {**values, RATE: 1.0}
    first, *_ = _starts(problem.origin, start, given["paths"], given["seed"], trial)
    rate = schedule.at(problem, run_inputs(problem, first, trial), begin)
    return follow(problem, schedule), {**values, RATE: rate}, begin


def path_inputs(
    problem: Problem,
    start: Overlaps | Sequence[Overlaps] | None,
    options: PathOptions,
    parameters: Mapping[str, Any],
) -> tuple[dict[str, Array], dict[str, Any]]:
    """State and options as `solve_paths` takes them, from those of `solve`."""
    equations, given = problem.origin, options.given(start)
    starts = _starts(equations, start, given["paths"], given["seed"], parameters)
    inputs = run_inputs(problem, starts[0], parameters)
    values = equations.values(starts[0], dict(parameters))
    known = {block.name for block in problem.constants}
    clock = dict(inputs["provenance"])
    if "learning_rate_schedule" in problem.provenance:
        clock["time_step_times_dim"] = None  # no constant unit
    record = {
        **clock,
        "dim": int(values.scalars["dim"]),
        "covariance_error": covariance_error(equations, starts[0], parameters),
    }
    state = _state(equations, starts)
    if equations.algorithm.trains_readout:
        state["readout"] = values.arrays["readout"]
        if len(starts) > 1:
            state["readout"] = np.tile(state["readout"], (len(starts), 1))
    return state, {
        "widths": {name: inputs["widths"][name] for name in problem.widths},
        "constants": {name: a for name, a in inputs["constants"].items() if name in known},
        "parameters": inputs["parameters"],
        "noise_scale": equations.noise.scale(values),
        "provenance": record,
        **given,
    }


def escape_times_of_ensemble(
    run: PathEnsemble, fraction: float, overlap: float | None
) -> EscapeTimes:
    """Follow the paths of an ensemble again, with the same noise, and note their escapes."""
    if run.problem is None or run.starts is None:
        raise BadParameter(
            "an ensemble read from a file has no compiled equations; call escape_time with the "
            "equations, the start, t_max, paths and dt"
        )
    names = ("method", "dt", "noise_scale", "substeps", "seed", "t_start")
    clock = {name: run.provenance.get(name) for name in ("time_step_times_dim",)}
    options = {
        "paths": len(run.path_status),
        "widths": {name: run.widths[name] for name in run.problem.widths},
        "constants": {b.name: run.constants[b.name] for b in run.problem.constants},
        "parameters": run.parameters,
        "provenance": clock,
        **{name: run.provenance[name] for name in names},
    }
    t_max = float(run.provenance["t_max"])
    return escape_of_paths(run.problem, run.starts, t_max, fraction, overlap, options)


def _starts(
    equations: Equations,
    start: Overlaps | Sequence[Overlaps] | None,
    paths: int,
    seed: int,
    parameters: Mapping[str, Any],
) -> list[Any]:
    """One start for all paths, or one for each."""
    if isinstance(start, Overlaps | Alignment):
        return [start]
    if start is None:
        dim = _dimension(equations, parameters)
        seeds = np.random.SeedSequence(seed, spawn_key=(STARTS_STREAM,)).generate_state(paths)
        assert equations.noise is not None
        return [equations.noise.random_start(dim, int(s)) for s in seeds]
    starts: list[Any] = list(start)
    if not starts or not all(isinstance(s, equations.space.start_type) for s in starts):
        raise BadParameter(
            f"start must be a dmft.{equations.space.start_type.__name__}, a list of them, or None"
        )
    first = starts[0]
    for number, other in enumerate(starts):
        if not _can_go_together(equations, first, other):
            raise BadParameter(f"start {number} has another P, readout or width than start 0")
    return starts


def _can_go_together(equations: Equations, first: Any, other: Any) -> bool:
    """Whether two starts differ in nothing but the values of the state."""
    shapes = (tuple(np.shape(x) for x in equations.state(s).values()) for s in (first, other))
    # Alignments hold nothing else: tokens and encodings are those of the model.
    held = [[getattr(s, name, None) for s in (first, other)] for name in ("P", "readout")]
    same = (a is b if a is None or b is None else np.array_equal(a, b) for a, b in held)
    return len(set(shapes)) == 1 and all(same)


def _dimension(equations: Equations, parameters: Mapping[str, Any]) -> int:
    given = {name: value for name, value in parameters.items() if name not in NODE_OPTIONS}
    scalars, _ = resolve_scalars(equations.declared, ["dim"], given)
    return int(scalars["dim"])


def _state(equations: Equations, starts: Sequence[Overlaps]) -> dict[str, Array]:
    states = [equations.state(start) for start in starts]
    if len(states) == 1:
        return states[0]
    return {name: np.stack([state[name] for state in states]) for name in states[0]}


def covariance_error(equations: Equations, point: Overlaps, parameters: Mapping[str, Any]) -> float:
    """Error of Sigma at one state from its nodes, over the largest variance; 0 where exact."""
    noise = equations.noise
    if noise is None or (isinstance(noise, Noise) and noise.exact(point.p + point.k)):
        return 0.0
    values = dict(parameters)
    error = equations.evaluate_error(point, **values)["Sigma"]
    largest = float(np.max(np.abs(equations.evaluate(point, **values)["Sigma"]), initial=0.0))
    return float(np.max(error, initial=0.0)) / largest if largest > 0.0 else 0.0


def _with_readout(run: PathEnsemble) -> PathEnsemble:
    """Show the fixed readout as a block with time first, as in trajectories."""
    a = run.constants["readout"]
    shown = np.broadcast_to(a, (run.t.size, a.size)).copy()
    zero = np.zeros_like(shown)

    def extended(values: Values, block: Array) -> Values:
        return Values({**values.arrays, "readout": block})

    return replace(
        run,
        mean=extended(run.mean, shown),
        std=extended(run.std, zero),
        stderr=extended(run.stderr, zero),
        paths=run.paths
        and extended(run.paths, np.broadcast_to(a, (len(run.path_status), *shown.shape)).copy()),
        layout=(*run.layout, Block("readout", ("p",))),
    )


SOLVER = Solver(
    "equations of kind 'sde'", PathOptions, solve_paths_of, ": they take paths= and dt="
)

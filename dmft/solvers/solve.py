"""Solve a compiled problem: one call for flows (explicit, implicit methods) and for maps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.compiled.machine_code import native_of
from dmft.errors import BadParameter, InvalidCovariance
from dmft.progress import ProgressOption
from dmft.solvers.events import Event, encode_events
from dmft.solvers.pointers import called, entry
from dmft.solvers.problem import Problem, covariance_at, describe_problem, observed_at, sizes_of
from dmft.solvers.run import (
    Raw,
    Setup,
    check_blocks,
    check_events,
    check_span,
    event_gaps,
    filled,
    save_times,
)
from dmft.solvers.runge_kutta.ending import band, describe, lowest_eigenvalue
from dmft.solvers.runge_kutta.group import march
from dmft.solvers.runge_kutta.layout import COSINE
from dmft.solvers.runge_kutta.tableau import PAIRS
from dmft.solvers.trajectory import EventRecord, Trajectory
from dmft.validation import as_count, is_number, shown

# Backward differentiation is compiled, as the explicit methods are; the others are SciPy's.
COMPILED = (*PAIRS, "BDF")
METHODS = (*COMPILED, "Radau", "LSODA")
# What the kinds of problem are solved with; the first is the default.
KINDS = {"ode": METHODS, "map": ("iterate",)}
# Overlaps of order one never get here; a growing state beyond this is called diverged.
LARGEST_NORM = 1e12
# Of a counter in compiled code.
MOST_STEPS = 2**62
# Without a method asked for, backward differentiation takes over from steps that stability holds
# where more than this many are left; its Jacobian costs a right-hand side for each entry.
WORTH, WORTH_PER_ENTRY = 10_000.0, 20.0
# Below this the error estimate is rounding.
SMALLEST_RTOL = 100 * 2.220446049250313e-16


def solve_problem(
    problem: Problem, state: Mapping[str, ArrayLike], t_max: float, **options: Any
) -> Trajectory:
    """Integrate from `t_start` to `t_max`; a numerical failure is a status, not an exception.

    Arguments are those of `check_request`. A problem of kind "map" is iterated, y <- y + rhs(t, y),
    at t = t_start, t_start + 1, ...: times are whole numbers of steps, an event belongs to the
    first step at which it holds, and tolerances serve only as the band around the domain.
    """
    given = check_request(problem, state, t_max, **options)
    warn_of_unreachable(given.setup)
    return solve_request(given)


def warn_of_unreachable(setup: Setup) -> None:
    """Warn of events that lie beyond one of the same quantity at which the run ends."""
    if len(setup.events) < 2 or setup.problem.kind != "ode":  # a step of a map may jump over both
        return
    table, gaps = setup.table, event_gaps(setup, setup.t_start, setup.start)
    places = np.where(table.kind == COSINE, -1, table.first)
    for i, j in permutations(range(len(gaps)), 2):
        first, second = setup.events[i], setup.events[j]
        way = -np.sign(gaps[i])  # from the start to the threshold of the first
        is_met = first.terminal and way != 0.0 and first.direction * way >= 0.0
        is_same = table.kind[i] == table.kind[j] and places[i] == places[j]
        if is_met and is_same and way * (second.threshold - first.threshold) > 0.0:
            warnings.warn(
                f"the event {second.name!r} can never be reached: the run ends at "
                f"{first.name!r}, which comes first; set terminal=False for {first.name!r} to "
                "continue",
                stacklevel=3,
            )


@dataclass(frozen=True)
class Request:
    """A checked call of `solve_problem`: what is integrated, and what its record will say."""

    setup: Setup
    widths: dict[str, int]
    parameters: dict[str, float]
    constants: dict[str, NDArray[np.float64]]
    provenance: Mapping[str, Any]
    # What `describe_problem` says, where that is known from an earlier run.
    described: Mapping[str, Any] | None = None

    @property
    def is_compiled(self) -> bool:
        """Whether it is for the compiled loops of explicit flows and of maps."""
        return self.setup.method in COMPILED or self.setup.problem.kind == "map"

    def with_event(self, event: Event) -> Request:
        """The same run, watched for one event."""
        setup = self.setup
        table = encode_events((event,), setup.problem, self.widths, setup.par)
        return replace(self, setup=replace(setup, events=(event,), table=table))

    def observe(self) -> dict[str, float]:
        """Observables at the start."""
        setup = self.setup
        return observed_at(setup.problem, setup.t_start, setup.start, setup.widths, setup.par)


def solve_request(given: Request) -> Trajectory:
    """Integrate what was checked."""
    if given.is_compiled:
        return trajectory_of(given, march(given.setup))
    from dmft.solvers.runge_kutta.implicit import march_implicit

    return trajectory_of(given, march_implicit(given.setup))


def check_request(
    problem: Problem,
    state: Mapping[str, ArrayLike],
    t_max: float,
    *,
    widths: Mapping[str, int],
    constants: Mapping[str, ArrayLike] | None = None,
    parameters: Mapping[str, float] | None = None,
    method: str | None = None,
    default: str | None = None,
    rtol: float = 1e-8,
    atol: float = 1e-10,
    save_at: int | ArrayLike | None = None,
    events: Event | Sequence[Event] = (),
    progress: ProgressOption = None,
    max_steps: int = 1_000_000,
    timeout: float | None = None,
    t_start: float = 0.0,
    first_step: float | None = None,
    max_step: float | None = None,
    norm_bound: float = LARGEST_NORM,
    provenance: Mapping[str, Any] | None = None,
) -> Request:
    """Check everything that a run may be asked for, before its first step.

    Arguments are those of `dmft.solve`, for a `Problem`: `state` holds every block in the shape
    that `widths` give it, `default` is the method of flows where `method` is None (like "rk5" it
    gives way to "BDF" where the run is stiff), a larger entry than `norm_bound` ends the run as
    diverged, and `provenance` is added to the problem's own.
    """
    chosen, events = _method(problem, method, default), check_events(events)
    names, scalars, arrays = filled(problem, widths, parameters, constants)
    blocks = check_blocks(problem.state, state, names, "state")
    _check_numbers(rtol, atol, t_start, t_max, max_steps, timeout, first_step, max_step)
    save = None if save_at is None else save_times(save_at, t_start, t_max)
    if problem.kind == "map":
        save = _whole_steps(t_start, t_max, save, first_step, max_step)
    par, start = problem.pack_parameters(scalars, arrays), problem.pack(blocks)
    sizes = sizes_of(problem, names)
    # The scale of the covariance at the start.
    trace = covariance_at(problem, start, sizes, par).trace()
    setup = Setup(
        problem=problem, method=chosen, widths=sizes, par=par, start=start,
        t_start=float(t_start), t_end=float(t_max), rtol=float(rtol), atol=float(atol), save=save,
        events=events, table=encode_events(events, problem, names, par),
        max_steps=int(max_steps), timeout=math.inf if timeout is None else float(timeout),
        first_step=first_step, max_step=math.inf if max_step is None else float(max_step),
        bound=float(norm_bound), trace=float(trace), progress=progress,
        worth=math.inf if method else WORTH + WORTH_PER_ENTRY * start.size,
    )  # fmt: skip
    check_start(setup)
    return Request(setup, names, scalars, arrays, provenance or {})


def _method(problem: Problem, method: str | None, default: str | None) -> str:
    if problem.kind == "sde":
        raise BadParameter(
            "a problem of kind 'sde' is solved over paths, by "
            "dmft.solvers.stochastic.paths.solve_paths"
        )
    if problem.kind not in KINDS:
        raise BadParameter(f"unknown kind of problem {problem.kind!r}; available: {list(KINDS)}")
    known = KINDS[problem.kind]
    if method is not None and method not in known:
        raise BadParameter(
            f"unknown method {method!r} for a problem of kind {problem.kind!r}; choose one of "
            f"{', '.join(known)}"
        )
    return method or (default if default in known else known[0])


def _check_numbers(
    rtol: float,
    atol: float,
    t_start: float,
    t_max: float,
    max_steps: int,
    timeout: float | None,
    first_step: float | None,
    max_step: float | None,
) -> None:
    numbers = {"rtol": rtol, "atol": atol, "t_start": t_start, "t_max": t_max}
    more = {"timeout": timeout, "first_step": first_step, "max_step": max_step}
    numbers |= {name: value for name, value in more.items() if value is not None}
    for name, number in numbers.items():
        if not is_number(number):
            raise BadParameter(f"{name} must be a number, got {shown(number)}")
    if not SMALLEST_RTOL <= rtol < 1.0:
        raise BadParameter(f"rtol = {rtol!r} must lie in [{SMALLEST_RTOL:.2g}, 1)")
    if not 0.0 < atol < math.inf:
        raise BadParameter(
            f"atol = {atol!r} must be positive: it is the tolerance for entries near zero"
        )
    check_span(t_start, t_max)
    as_count(max_steps, "max_steps", most=MOST_STEPS - 1)
    for name, value in more.items():
        if value is not None and not value > 0:
            raise BadParameter(f"{name} = {value!r} must be positive")


def _whole_steps(
    t_start: float,
    t_max: float,
    save: NDArray[np.float64] | None,
    first_step: float | None,
    max_step: float | None,
) -> NDArray[np.float64] | None:
    """Check the times of a map, and round those that are saved to whole steps."""
    for name, t in (("t_start", t_start), ("t_max", t_max)):
        if t != round(t):
            raise BadParameter(f"{name} = {t!r}: the time of a map is a whole number of steps")
    for name, step in (("first_step", first_step), ("max_step", max_step)):
        if step is not None:
            raise BadParameter(f"{name} = {step!r}: the steps of a map have length one")
    return None if save is None else np.unique(np.rint(save))


def check_start(setup: Setup) -> None:
    """Refuse a start outside the domain."""
    problem = setup.problem
    if problem.domain is not None:
        shift = band(setup, setup.start)
        domain = native_of(problem.domain) or problem.domain
        if not domain(setup.start, setup.widths, setup.par, shift) >= 0.0:
            lowest = lowest_eigenvalue(setup, setup.start)
            raise InvalidCovariance(
                "the start is outside the domain: no vectors have these overlaps"
                + ("" if lowest is None else f" (smallest eigenvalue {lowest:.6g})")
            )


def trajectory_of(given: Request, raw: Raw) -> Trajectory:
    """The record of a run that an integrator has finished."""
    setup, widths = given.setup, given.widths
    problem = setup.problem
    status, message = describe(setup, raw)
    if problem.kind == "map" and raw.sink.stride > 1:
        message += f"; saved: each {raw.sink.stride}th step (choose others by save_at)"
    if raw.stiff_from is not None:
        until = "on" if raw.stiff_until is None else f"to {raw.stiff_until:.6g}"
        message += f"; stiff from t = {raw.stiff_from:.6g} {until}: BDF took over"
    complete = setup.save is not None and status == "ok"
    t, y = raw.sink.rows(raw.t, raw.y, add_last=not complete)
    if problem.parallel_band > 0.0:
        from dmft.solvers.problem import parallel_message, parallel_statistics

        raw.statistics |= parallel_statistics(problem, y, setup.widths, setup.par)
        message += parallel_message(raw.statistics, t.size)
    values = np.empty((t.size, len(problem.observables)))
    if problem.observables:
        observe = entry(problem.observe, "RHS")
        called("evaluate_rows")(
            observe, t, np.ascontiguousarray(y), setup.widths, setup.par, values
        )
    return Trajectory(
        t=t,
        blocks={k: np.ascontiguousarray(v) for k, v in problem.unpack(y, widths).items()},
        observables={n: values[:, i].copy() for i, n in enumerate(problem.observables)},
        status=status,
        message=message,
        events=tuple(
            EventRecord(setup.events[e].name, when, problem.unpack(at, widths))
            for when, at, e in zip(raw.event_t, raw.event_y, raw.event_id, strict=True)
        ),
        statistics=raw.statistics,
        parameters=given.parameters,
        constants=given.constants,
        widths=widths,
        layout=problem.state,
        provenance={**_provenance(given, raw), **problem.provenance, **given.provenance},
        start=problem.unpack(setup.start, widths),
        problem=problem,
    )


def _provenance(given: Request, raw: Raw) -> dict[str, Any]:
    """Return what is needed to repeat the run, as plain JSON values."""
    setup = given.setup
    stiff = {} if raw.stiff_from is None else {"stiff_from": raw.stiff_from}
    return {
        **(given.described or describe_problem(setup.problem)),
        "method": setup.method,
        **stiff,
        "rtol": setup.rtol,
        "atol": setup.atol,
        "t_start": setup.t_start,
        "t_max": setup.t_end,
    }

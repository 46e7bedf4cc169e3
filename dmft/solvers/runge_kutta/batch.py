"""Many runs of one problem with different parameters, taken through compiled code together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmft.names import Status
from dmft.progress import Progress, is_cancelled
from dmft.solvers.run import Raw, Setup
from dmft.solvers.runge_kutta import layout
from dmft.solvers.runge_kutta.group import Group
from dmft.solvers.runge_kutta.march import LARGEST_CHUNK, go_on, next_budget
from dmft.solvers.runge_kutta.tableau import TABLEAUX
from dmft.solvers.solve import Request, trajectory_of
from dmft.solvers.trajectory import Trajectory

# Fewer runs than two for each lane go one by one.
FEWEST = 16
# Where code for lanes is still to be compiled: runs that tell how long all will take, and seconds
# of them that compiling is worth.
FIRST, WORTH_COMPILING = 16, 10.0


@dataclass(frozen=True)
class Ended:
    """A run of a batch that has ended; the same as `solve_problem` would have made it."""

    given: Request
    raw: Raw

    @property
    def reached(self) -> bool:
        """Whether it came to the end of its time."""
        return self.raw.outcome == layout.REACHED

    def observe(self, name: str) -> float:
        """An observable at its end."""
        setup = self.given.setup
        problem, last = setup.problem, self.raw.sink.last
        seen = np.empty(len(problem.observables))
        problem.observe(last[0], last[1], setup.widths, setup.par, seen)
        return float(seen[problem.observables.index(name)])

    def trajectory(self) -> Trajectory:
        """Its record."""
        return trajectory_of(self.given, self.raw)


def solve_batch(asked: Sequence[Request | Any]) -> Iterator[Any]:
    """Runs of requests that differ in parameters, start and thresholds: an `Ended` for each.

    What is no request passes through in its place. Requests are for compiled loops
    (`Request.is_compiled`) and without a timeout; whatever else they ask is that of the first. The
    iterator ends early when the parallel job that it works for is cancelled.
    """
    requests = [given for given in asked if isinstance(given, Request)]
    runs = _ended(requests) if requests else iter(())
    for given in asked:
        if not isinstance(given, Request):
            yield given
            continue
        run = next(runs, None)
        if run is None:
            return
        yield run


def _ended(requests: Sequence[Request]) -> Iterator[Ended]:
    """Drive the compiled loop over all runs and hand each over in its turn.

    They go side by side where that pays; either way each has the same bits.
    """
    if not _fit_lanes(requests):
        yield from _one_by_one(requests, [])
        return
    seconds: list[float] = []
    head = 0 if requests[0].setup.problem.lanes.is_kept else FIRST
    yield from _one_by_one(requests[:head], seconds)
    if is_cancelled():
        return
    rest = requests[head:]
    if head == 0 or sum(seconds) / head * len(rest) > WORTH_COMPILING:
        yield from _side_by_side(rest)
    else:
        yield from _one_by_one(rest, seconds)


def _fit_lanes(requests: Sequence[Request]) -> bool:
    """Whether runs can go side by side: flows by an explicit method, read at their ends only."""
    setup = requests[0].setup
    at_ends = setup.save is not None and bool(
        np.all((setup.save <= setup.t_start) | (setup.save >= setup.t_end))
    )
    return (
        len(requests) >= FEWEST
        and setup.problem.lanes is not None
        and setup.problem.kind == "ode"
        and setup.method in TABLEAUX
        and at_ends
        and all(event.terminal for event in setup.events)
    )


def _group(setups: Sequence[Setup]) -> Group:
    return Group(
        setups[0],
        np.array([setup.par for setup in setups]),
        np.array([setup.start for setup in setups]),
        np.array([setup.trace for setup in setups]),
        np.array([setup.table.threshold for setup in setups]),
    )


def _side_by_side(requests: Sequence[Request]) -> Iterator[Ended]:
    """Runs in lanes, in the order of the requests."""
    setups = [given.setup for given in requests]
    group = _group(setups)
    budget, done = min(group.first_budget(), LARGEST_CHUNK), 0
    group.open_lanes()
    ended: dict[int, Raw] = {}
    while done < len(requests):
        began = time.monotonic()
        runs = group.advance_lanes(budget)
        budget = next_budget(budget, time.monotonic() - began)
        for run in runs:
            ended[run] = group.raw_of(run, setups[run])
            group.drain(run, ended[run])
        while done in ended and not is_cancelled():
            finished = _finished(requests[done], ended.pop(done))
            if not is_cancelled():
                yield finished
            done += 1
        if is_cancelled():
            return


def _one_by_one(requests: Sequence[Request], seconds: list[float]) -> Iterator[Ended]:
    """Runs one after the other; `seconds` receives how long each call of compiled code took."""
    if not requests:
        return
    setups = [given.setup for given in requests]
    group = _group(setups)
    budget, done, under_way = min(group.first_budget(), LARGEST_CHUNK), 0, None
    while done < len(requests):
        began = time.monotonic()
        ended = group.advance(budget)
        seconds.append(time.monotonic() - began)
        budget = next_budget(budget, seconds[-1])
        if is_cancelled():
            return
        for run in range(done, ended):
            raw, under_way = under_way or group.raw_of(run, setups[run]), None
            group.drain(run, raw)
            finished = _finished(requests[run], raw)
            if is_cancelled():
                return
            yield finished
        done = ended
        if group.is_under_way:
            under_way = under_way or group.raw_of(done, setups[done])
            group.drain(done, under_way)


def _finished(given: Request, raw: Raw) -> Ended:
    """A run that has left the compiled loop; one that became stiff goes on by itself first."""
    if raw.outcome == layout.STIFF:
        with Progress(False, "solve") as bar:
            go_on(given.setup, raw, time.monotonic(), bar)
    if raw.outcome == layout.RUNNING:
        raw.stopped = Status.MAX_STEPS
    return Ended(given, raw)


def attempt(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a call returns, or the exception that it raises: one of many runs stops no other."""
    try:
        return function(*arguments, **named)
    except Exception as error:
        return error


def varied(
    given: Request, parameters: Mapping[str, float], provenance: Mapping[str, Any]
) -> Request:
    """A request with other scalars, which neither its start nor its domain depends on."""
    par = given.setup.par.copy()
    par[: len(given.setup.problem.parameters)] = list(parameters.values())
    setup = _changed(given.setup, par=par)
    request: Request = _changed(
        given, setup=setup, parameters=dict(parameters), provenance=provenance
    )
    return request


def _changed(record: Any, **values: Any) -> Any:
    """Copy with other values: `dataclasses.replace` takes 5 us, a fifth of what a run may take."""
    made = object.__new__(type(record))
    made.__dict__.update(record.__dict__, **values)
    return made

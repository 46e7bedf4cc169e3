"""Many runs of one problem with different parameters, taken through compiled code together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dmft.names import Status
from dmft.progress import Progress, is_cancelled
from dmft.solvers.run import Raw
from dmft.solvers.runge_kutta import layout
from dmft.solvers.runge_kutta.group import Group
from dmft.solvers.runge_kutta.march import LARGEST_CHUNK, go_on, next_budget
from dmft.solvers.solve import Request, trajectory_of
from dmft.solvers.trajectory import Trajectory


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
    """Drive the compiled loop over all runs and hand each over as it ends."""
    setups = [given.setup for given in requests]
    group = Group(
        setups[0],
        np.array([setup.par for setup in setups]),
        np.array([setup.start for setup in setups]),
        np.array([setup.trace for setup in setups]),
        np.array([setup.table.threshold for setup in setups]),
    )
    budget, done, under_way = min(group.first_budget(), LARGEST_CHUNK), 0, None
    while done < len(requests):
        began = time.monotonic()
        ended = group.advance(budget)
        budget = next_budget(budget, time.monotonic() - began)
        if is_cancelled():
            return
        for run in range(done, ended):
            raw, under_way = under_way or group.raw_of(run, setups[run]), None
            group.drain(run, raw)
            if raw.outcome == layout.STIFF:
                with Progress(False, "solve") as bar:
                    go_on(setups[run], raw, time.monotonic(), bar)
                if is_cancelled():
                    return
            if raw.outcome == layout.RUNNING:
                raw.stopped = Status.MAX_STEPS
            yield Ended(requests[run], raw)
        done = ended
        if group.is_under_way:
            under_way = under_way or group.raw_of(done, setups[done])
            group.drain(done, under_way)


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
    return replace(
        given, setup=replace(given.setup, par=par), parameters=dict(parameters),
        provenance=provenance,
    )  # fmt: skip

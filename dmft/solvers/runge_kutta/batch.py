"""Many runs of one problem with different parameters, taken through compiled code together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from dmft.arrays import Array
from dmft.names import Status
from dmft.progress import EXPECTED, Progress, is_cancelled
from dmft.solvers.pointers import called, entry, loop
from dmft.solvers.problem import Problem
from dmft.solvers.run import Raw, Setup
from dmft.solvers.runge_kutta import layout
from dmft.solvers.runge_kutta.group import LARGEST_CHUNK, Group, go_on, next_budget
from dmft.solvers.runge_kutta.tableau import PAIRS
from dmft.solvers.solve import Request, trajectory_of
from dmft.solvers.trajectory import Trajectory

# Fewer runs than two for each lane go one by one.
FEWEST = 16
# Where code for lanes is still to be compiled: runs that tell how long all will take, with those of
# other batches of the sweep, and seconds of them that compiling is worth; where the loop over lanes
# is to be compiled too, once on a machine, more of them.
FIRST, WORTH_COMPILING, WORTH_THE_LOOP = 16, 1.0, 15.0


@dataclass(frozen=True, eq=False)
class Varied:
    """Requests that differ in their scalars: numbers of all, each request on demand."""

    first: Request
    par: Array  # packed parameters of each
    make: Callable[[int], Request]  # one of them, with its record

    def __len__(self) -> int:
        return len(self.par)

    def __getitem__(self, number: int) -> Request:
        return self.make(number)

    def tail(self, first: int) -> Varied:
        """Those from one of them on."""
        return Varied(self.first, self.par[first:], lambda n: self.make(first + n))


class Ended:
    """A run of a batch that has ended; the same as `solve_problem` would have made it.

    Its record is made when it is asked for.
    """

    def __init__(
        self, reached: bool, make: Callable[[], tuple[Request, Raw]], seen: _Seen | None, place: int
    ) -> None:
        self.reached = reached  # the end of its time
        self._make, self._seen, self._place = make, seen, place

    @cached_property
    def _run(self) -> tuple[Request, Raw]:
        return self._make()

    def observe(self, name: str) -> float:
        """An observable at its end."""
        if self._seen is not None:
            return self._seen.of(name, self._place)
        given, raw = self._run
        return _Seen.of_one(given.setup, raw).of(name, 0)

    def trajectory(self) -> Trajectory:
        """Its record."""
        return trajectory_of(*self._run)


class _Seen:
    """Observables at the last saved rows of runs: computed for all of them when first read."""

    def __init__(self, problem: Problem, widths: Any, t: Array, y: Array, par: Array) -> None:
        self._problem, self._arguments = problem, (t, y, widths, par)

    @classmethod
    def of_one(cls, setup: Setup, raw: Raw) -> _Seen:
        """Of a single run."""
        t, y = raw.sink.last
        return cls(setup.problem, setup.widths, np.array([t]), y[None].copy(), setup.par[None])

    @cached_property
    def _values(self) -> Array:
        found = np.empty((self._arguments[0].size, len(self._problem.observables)))
        called("observe_ends")(entry(self._problem.observe, "RHS"), *self._arguments, found)
        return found

    def of(self, name: str, place: int) -> float:
        """One observable of one run."""
        return float(self._values[place, self._problem.observables.index(name)])


Requests = Sequence[Request] | Varied


def solve_batch(asked: Sequence[Request | Any] | Varied) -> Iterator[Any]:
    """Runs of requests that differ in parameters, start and thresholds: an `Ended` for each.

    What is no request passes through in its place. Requests are for compiled loops
    (`Request.is_compiled`) and without a timeout; whatever else they ask is that of the first. The
    iterator ends early when the parallel job that it works for is cancelled.
    """
    if isinstance(asked, Varied):
        yield from _ended(asked)
        return
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


def _ended(requests: Requests) -> Iterator[Ended]:
    """Drive the compiled loop over all runs and hand each over in its turn.

    They go side by side where that pays; either way each has the same bits.
    """
    if not _fit_lanes(requests):
        yield from _one_by_one(requests, [])
        return
    seconds: list[float] = []
    head = 0 if requests[0].setup.problem.lanes.is_kept else FIRST
    yield from _one_by_one([requests[n] for n in range(min(head, len(requests)))], seconds)
    if is_cancelled():
        return
    rest = requests.tail(head) if isinstance(requests, Varied) else requests[head:]
    left = max(len(rest), EXPECTED.get())
    if head == 0 or _is_worth_compiling(sum(seconds) / head * left):
        yield from _side_by_side(rest)
    else:
        yield from _one_by_one(rest, seconds)


def _is_worth_compiling(seconds: float) -> bool:
    """Whether to compile code for lanes, where runs one by one take so long."""
    if seconds <= WORTH_COMPILING:
        return False
    return seconds > WORTH_THE_LOOP or getattr(loop("fly_lanes"), "is_kept", True)


def _fit_lanes(requests: Requests) -> bool:
    """Whether runs can go side by side: flows by an explicit method, read at steps or ends."""
    setup = requests[0].setup
    at_steps = setup.save is None or bool(
        np.all((setup.save <= setup.t_start) | (setup.save >= setup.t_end))
    )
    return (
        len(requests) >= FEWEST
        and setup.problem.lanes is not None
        and setup.problem.lanes.takes(setup.widths)
        and setup.problem.kind == "ode"
        and setup.method in PAIRS
        and at_steps
        and all(event.terminal for event in setup.events)
    )


def _group(requests: Requests) -> Group:
    if isinstance(requests, Varied):
        setup, n = requests.first.setup, len(requests)
        start, threshold = (np.tile(x, (n, 1)) for x in (setup.start, setup.table.threshold))
        return Group(setup, requests.par, start, np.full(n, setup.trace), threshold)
    setups = [given.setup for given in requests]
    return Group(
        setups[0],
        np.array([setup.par for setup in setups]),
        np.array([setup.start for setup in setups]),
        np.array([setup.trace for setup in setups]),
        np.array([setup.table.threshold for setup in setups]),
    )


def _side_by_side(requests: Requests) -> Iterator[Ended]:
    """Runs in lanes, in the order of the requests."""
    group = _group(requests)
    budget, done = min(group.first_budget(), LARGEST_CHUNK), 0
    group.open_lanes()
    ended: dict[int, Ended] = {}
    begun: dict[int, Raw] = {}
    while done < len(requests):
        began = time.monotonic()
        runs = group.advance_lanes(budget)
        budget = next_budget(budget, time.monotonic() - began)
        if group.setup.save is None:
            for run, t, y, step in group.rows_by_run():
                if run not in begun:
                    begun[run] = group.raw_of(run, requests[run].setup)
                begun[run].sink.add(t, y, step)
        ended |= zip(runs, _finished(group, runs, requests, begun), strict=True)
        while done in ended and not is_cancelled():
            yield ended.pop(done)
            done += 1
        if is_cancelled():
            return


def _one_by_one(requests: Requests, seconds: list[float]) -> Iterator[Ended]:
    """Runs one after the other; `seconds` receives the CPU time of each call of compiled code."""
    if not len(requests):
        return
    group = _group(requests)
    budget, done = min(group.first_budget(), LARGEST_CHUNK), 0
    begun: dict[int, Raw] = {}
    while done < len(requests):
        began, spent = time.monotonic(), time.thread_time()
        ended = group.advance(budget)
        seconds.append(time.thread_time() - spent)
        budget = next_budget(budget, time.monotonic() - began)
        if is_cancelled():
            return
        for run in _finished(group, range(done, ended), requests, begun):
            if is_cancelled():
                return
            yield run
        done = ended
        if group.is_under_way:
            if done not in begun:
                begun[done] = group.raw_of(done, requests[done].setup)
            group.drain(done, begun[done])


def _finished(
    group: Group, runs: Sequence[int], requests: Requests, begun: dict[int, Raw]
) -> Iterator[Ended]:
    """Runs that have left the compiled loop; rows of earlier calls are in `begun`.

    One that became stiff goes on by itself.
    """
    if not len(runs):
        return
    saved, outcomes = group.saved(), group.batch.counts[runs, layout.OUTCOME].tolist()
    first, last = group.batch.rows[runs].T
    # A run without rows in this call is read by itself.
    has_rows = (last > first).tolist()
    seen = None
    if saved.out_t.size:
        t, y, par = saved.out_t[last - 1], saved.out_y[last - 1], group.batch.par[runs]
        seen = _Seen(group.setup.problem, group.setup.widths, t, y, par)

    def raw_of(run: int, raw: Raw | None) -> tuple[Request, Raw]:
        given = requests[run]
        raw = raw or group.raw_of(run, given.setup)
        group.drain(run, raw, saved)
        return given, raw

    for place, (run, outcome) in enumerate(zip(runs, outcomes, strict=True)):
        make = partial(raw_of, run, begun.pop(run, None))
        if outcome in (layout.STIFF, layout.RUNNING):
            given, raw = make()
            if outcome == layout.STIFF:
                with Progress(False, "solve") as bar:
                    go_on(given.setup, raw, time.monotonic(), bar)
            if raw.outcome == layout.RUNNING:
                raw.stopped = Status.MAX_STEPS
            yield Ended(raw.outcome == layout.REACHED, partial(tuple, (given, raw)), None, 0)  # type: ignore[arg-type]
        else:
            yield Ended(outcome == layout.REACHED, make, seen if has_rows[place] else None, place)


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


def rows_of(given: Request, scalars: Array) -> Array:
    """Packed parameters of requests that differ in their scalars, a row of them for each."""
    par = np.tile(given.setup.par, (len(scalars), 1))
    par[:, : scalars.shape[1]] = scalars
    return par


def _changed(record: Any, **values: Any) -> Any:
    """Copy with other values: `dataclasses.replace` takes 5 us, a fifth of what a run may take."""
    made = object.__new__(type(record))
    made.__dict__.update(record.__dict__, **values)
    return made

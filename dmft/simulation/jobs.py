"""What all simulations share: saved steps, threads over seeds, pieces that can be interrupted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter
from dmft.initial_conditions import TIME, check_end
from dmft.names import Status
from dmft.progress import ProgressOption
from dmft.simulation.clock import MOST_SCHEDULED, Clock, Schedule
from dmft.simulation.declaration import Experiment
from dmft.simulation.ensemble import WATCH_NOTHING
from dmft.simulation.risk import Rule
from dmft.simulation.risk_measures import risk_function
from dmft.simulation.steps import common
from dmft.simulation.steps.optimiser import COLUMNS, GAIN, columns
from dmft.simulation.steps.weights import compiled_update
from dmft.solvers.jobs import Job, run_tasks, thread_count
from dmft.solvers.run import save_times
from dmft.validation import as_positive

STATUS = {
    common.REACHED: Status.OK,
    common.PASSED: Status.EVENT,
    common.DIVERGED: Status.DIVERGED,
    common.NONFINITE: Status.NONFINITE,
}


# advance(first, steps) -> (code, steps done); overlaps() -> Q, M, readout and what else is saved
Advance = Callable[[int, int], tuple[int, int]]
Observe = Callable[[], dict[str, NDArray[np.float64]]]


@dataclass(frozen=True)
class Constants:
    """Arguments of a run that never change, in the order of `common.COMMON`."""

    P: NDArray[np.float64]
    experiment: Experiment
    rule: Rule
    watch: NDArray[np.float64]
    generator: np.random.Generator
    # Of this run alone: the steps move it where it is trained.
    readout: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "readout", self.experiment.readout.copy())

    def arguments(self, first: int, steps: int) -> tuple[object, ...]:
        """Arguments for `steps` steps after step number `first`."""
        e = self.experiment
        rates = self.rates(first, steps)
        fields = e.teacher.fields
        each = (e.batch_size, e.constraint, e.dim, fields, e.passes)
        counts = np.array([steps, first, *each], dtype=np.int64)
        own = e.student.parameters.copy()
        label = own if e.rule else np.zeros(1)
        terms = e.teacher_readout[:1] if fields else e.teacher_readout
        return (
            self.P, self.readout.ravel(), terms, rates, counts, self.watch,
            e.watched or risk_function(e),
            e.student.value, e.student.slope, e.teacher.value, e.pull,
            own, e.teacher.parameters.copy(), label, self.rule, e.clusters, self.generator,
        )  # fmt: skip

    def rates(self, first: int, steps: int) -> NDArray[np.float64]:
        """Numbers of the steps after step `first`, or one row for all: all of a step but psi."""
        e, each = self.experiment, self.experiment.step_rates
        rate = np.array([e.learning_rate]) if each is None else each[first : first + steps]
        found = np.empty((rate.size, COLUMNS))
        found[:, GAIN] = rate / (e.p * e.batch_size)
        found[:, common.SPREAD] = math.sqrt(e.label_noise)
        found[:, common.TRAINED] = e.readout_rate
        found[:, common.FLIPPED] = common.DRAWN if e.draws_labels else e.label_flip
        found[:, common.SHORTENED] = e.shortened
        for place, values in columns(e.numbers, rate / (e.p * e.dim)).items():
            found[:, place] = values
        return found

    def advance(
        self, function: Any, state: Sequence[Any], update: Callable[..., None] | None
    ) -> Advance:
        """Steps by a compiled function of the state, and of an update where it takes one."""
        state = tuple(state)
        if update is not None:
            numbers = np.array(list(self.experiment.scalars.values()))
            state += (compiled_update(update), numbers)
        return lambda first, steps: function(*state, *self.arguments(first, steps))


@dataclass(frozen=True)
class Runner:
    """One run that can be carried on in pieces."""

    advance: Advance
    overlaps: Observe
    P: NDArray[np.float64]
    # Read after every step; its first entry may be set to WATCH_NOTHING between pieces.
    watch: NDArray[np.float64]


# Saved times when nothing is asked for.
DEFAULT_POINTS = 101
# Steps that a counter holds.
MOST_STEPS = 2**53
# Compiled pieces of about this many seconds, so that Ctrl-C and progress are prompt.
PIECE_SECONDS = 0.1
FIRST_PIECE = 500
# The risk is measured anew after this part of d steps: a quadrature costs as much as many steps.
ANEW = 1 / 200
# What progress counts in a run whose number of steps is not known before.
UNITS = 1000

Result = TypeVar("Result")


class Steps(Protocol):
    """What `March` carries on: compiled steps, and the array whose first entry they watch."""

    @property
    def advance(self) -> Callable[[int, int], tuple[int, int]]:
        """Function of (first step, number of steps): how it ended, and the steps done."""

    @property
    def watch(self) -> NDArray[np.float64]:
        """Read after every step."""


def check_time(t_max: float, begin: float = 0.0, unit: str = TIME) -> None:
    """Refuse what is no time after the start of a run."""
    check_end(as_positive(t_max, "t_max"), begin, unit)


def save_steps(t_max: float, clock: Clock, save_at: int | ArrayLike | None) -> NDArray[np.int64]:
    """Step numbers nearest to the times that are to be saved, without repetition."""
    check_time(t_max)
    time_step, begin = clock.time_step, clock.begin
    if (t_max - begin) / time_step > MOST_STEPS:
        raise BadParameter(
            f"t_max = {t_max:g} is {t_max / time_step:.3g} steps, too many for any run"
        )
    if clock.nearest(t_max) < 1:
        raise BadParameter(f"t_max = {t_max:g} is shorter than one step, {time_step:g}")
    return np.unique(clock.nearest(times_to_save(t_max, save_at, begin)))


def times_to_save(
    t_max: float, save_at: int | ArrayLike | None, begin: float
) -> NDArray[np.float64]:
    """Times at which all runs are saved, each at its nearest step."""
    return save_times(DEFAULT_POINTS if save_at is None else save_at, begin, float(t_max))


def run_seeds(
    run: Callable[[int, Job], Result],
    seeds: Sequence[int],
    steps: int,
    threads: int | None,
    progress: ProgressOption,
) -> list[Result]:
    """Run all seeds in threads; Ctrl-C keeps the finished ones."""
    job = Job(len(seeds) * steps)
    tasks = [partial(run, seed, job) for seed in seeds]
    return run_tasks(tasks, job, thread_count(threads), progress, "simulate")


@dataclass
class Progress:
    """How one run stands, and at which step it passed what is watched."""

    runner: Steps
    job: Job
    stops: bool
    status: Status = field(default=Status.OK, kw_only=True)
    passage: int | None = field(default=None, kw_only=True)

    def take(self, code: int, step: int) -> None:
        """Note how compiled steps ended, at this step."""
        if code == common.PASSED:
            self.passage = step
            self.runner.watch[0] = WATCH_NOTHING
        if code != common.PASSED or self.stops:
            self.status = STATUS[code]


@dataclass
class March(Progress):
    """Progress of one run whose steps have the times of all runs."""

    step: int = 0
    piece: int = FIRST_PIECE

    def to(self, target: int) -> None:
        """Carry the run on to step `target`, in pieces short enough to be interrupted."""
        while self.step < target and self.status is Status.OK:
            if self.job.cancelled():
                self.status = Status.INTERRUPTED
                return
            began = time.perf_counter()
            code, done = self.runner.advance(self.step, min(self.piece, target - self.step))
            seconds = max(time.perf_counter() - began, 1e-6)
            self.step += done
            self.job.add(done)
            self.take(code, self.step)
            self.piece = max(1, min(4 * self.piece, int(done * PIECE_SECONDS / seconds)))


class RatesAhead:
    """Learning rates of one run, of which those of the next steps alone are known."""

    def __init__(self) -> None:
        self.values = np.empty(0)

    def __getitem__(self, steps: slice) -> NDArray[np.float64]:
        """Rates of the steps that are made now."""
        return self.values


@dataclass
class FollowingMarch(Progress):
    """Progress of one run whose steps take the rate at their time and at its risk.

    The population risk of the run is measured anew after `every` steps.
    """

    schedule: Schedule
    unit: float  # time of a step over its rate
    rates: RatesAhead
    risk: Callable[[], float]
    every: int
    per_time: float  # `UNITS` over the time of the whole run
    times: list[float] = field(default_factory=lambda: [0.0])  # of step 0, 1, ...
    known: NDArray[np.float64] = field(default_factory=lambda: np.full(1, math.nan))
    next_look: int = 0

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.times) - 1

    @property
    def clock(self) -> Clock:
        """Times of its steps."""
        return Clock(math.nan, np.array(self.times))

    def to(self, t: float) -> None:
        """Carry the run on to the step nearest to time `t`."""
        there = False
        while self.status is Status.OK and not there:
            if self.job.cancelled():
                self.status = Status.INTERRUPTED
                return
            if self.step >= self.next_look:
                self.known, self.next_look = np.array([self.risk()]), self.step + self.every
            sizes, times, there = self.ahead(t)
            if not (sizes or there):
                self.status = Status.NONFINITE
            elif self.step + len(sizes) > MOST_SCHEDULED:
                self.status = Status.MAX_STEPS
            elif sizes:
                self.make(np.array(sizes), times)

    def ahead(self, t: float) -> tuple[list[float], list[float], bool]:
        """Rates and times of the next steps up to time `t`, and whether they lead there."""
        rate, now = self.schedule.rate, self.times[-1]
        sizes: list[float] = []
        times: list[float] = []
        while self.step + len(sizes) < self.next_look:
            size = float(rate(now, self.known))
            if not (math.isfinite(size) and size > 0.0):
                break
            after = now + self.unit * size
            if t - now <= after - t:
                return sizes, times, True
            sizes.append(size)
            times.append(after)
            now = after
        return sizes, times, False

    def make(self, sizes: NDArray[np.float64], times: list[float]) -> None:
        """Make steps of these rates."""
        self.rates.values = sizes
        code, done = self.runner.advance(self.step, sizes.size)
        before = self.times[-1]
        self.times += times[:done]
        self.job.add(int(self.per_time * self.times[-1]) - int(self.per_time * before))
        self.take(code, self.step)

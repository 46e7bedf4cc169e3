"""Runs whose learning rate follows their own risk: each has its own times of steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.names import Status
from dmft.simulation.clock import MOST_SCHEDULED, Clock, Schedule
from dmft.simulation.declaration import Experiment
from dmft.simulation.jobs import DEFAULT_POINTS, Steps
from dmft.simulation.passage import WATCH_NOTHING
from dmft.simulation.runner import STATUS
from dmft.simulation.steps.common import PASSED
from dmft.solvers.jobs import Job
from dmft.solvers.save_times import read_save_at

# The risk is measured anew after this part of d steps: a quadrature costs as much as many steps.
ANEW = 1 / 200
# What progress counts in a run, whose number of steps is not known before.
UNITS = 1000


class RatesAhead:
    """Learning rates of one run, of which those of the next steps alone are known."""

    def __init__(self) -> None:
        self.values = np.empty(0)

    def __getitem__(self, steps: slice) -> NDArray[np.float64]:
        """Rates of the steps that are made now."""
        return self.values


def at_own_rates(experiment: Experiment) -> tuple[Experiment, RatesAhead]:
    """The experiment of one run, and where its learning rates are written."""
    ahead = RatesAhead()
    rates: Any = ahead
    return replace(experiment, step_rates=rates), ahead


def times_to_save(
    t_max: float, save_at: int | ArrayLike | None, begin: float
) -> NDArray[np.float64]:
    """Times at which all runs are saved, each at its nearest step."""
    times = read_save_at(DEFAULT_POINTS if save_at is None else save_at)
    return np.linspace(begin, float(t_max), times) if isinstance(times, int) else times


@dataclass
class FollowingMarch:
    """Progress of one run whose steps take the rate at their time and at its risk.

    Attributes
    ----------
    runner, job, stops
        As of `dmft.simulation.jobs.March`.
    schedule : Schedule
    unit : float
        Time of a step over its rate.
    rates : RatesAhead
    risk : callable
        Population risk of the run where it is.
    every : int
        Steps after which the risk is measured anew.
    per_time : float
        `UNITS` over the time of the whole run.
    times : list of float
        Of step 0, 1, ...
    """

    runner: Steps
    job: Job
    stops: bool
    schedule: Schedule
    unit: float
    rates: RatesAhead
    risk: Callable[[], float]
    every: int
    per_time: float
    times: list[float] = field(default_factory=lambda: [0.0])
    status: Status = Status.OK
    passage: int | None = None
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
        if code == PASSED:
            self.passage = self.step
            self.runner.watch[0] = WATCH_NOTHING
        if code != PASSED or self.stops:
            self.status = STATUS[code]

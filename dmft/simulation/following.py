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

# Steps between two looks at whether the job was cancelled.
LOOK = 256


class RateNow:
    """Learning rates of the steps of one run, of which the next one alone is known."""

    def __init__(self) -> None:
        self.value = math.nan

    def __getitem__(self, steps: slice) -> NDArray[np.float64]:
        """Rate of the step that is made now."""
        return np.array([self.value])


def at_own_rates(experiment: Experiment) -> tuple[Experiment, RateNow]:
    """The experiment of one run, and where its learning rate is written."""
    now = RateNow()
    rates: Any = now
    return replace(experiment, step_rates=rates), now


def times_to_save(t_max: float, save_at: int | ArrayLike | None) -> NDArray[np.float64]:
    """Times at which all runs are saved, each at its nearest step."""
    times = read_save_at(DEFAULT_POINTS if save_at is None else save_at)
    return np.linspace(0.0, float(t_max), times) if isinstance(times, int) else times


@dataclass
class FollowingMarch:
    """Progress of one run, step by step: each takes the rate at its time and risk.

    Attributes
    ----------
    runner, job, stops
        As of `dmft.simulation.jobs.March`.
    schedule : Schedule
    unit : float
        Time of a step over its rate.
    rate : RateNow
    risk : callable
        Population risk of the run where it is.
    times : list of float
        Of step 0, 1, ...
    """

    runner: Steps
    job: Job
    stops: bool
    schedule: Schedule
    unit: float
    rate: RateNow
    risk: Callable[[], float]
    times: list[float] = field(default_factory=lambda: [0.0])
    status: Status = Status.OK
    passage: int | None = None

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
        rate = self.schedule.rate
        while self.status is Status.OK:
            if self.step % LOOK == 0 and self.job.cancelled():
                self.status = Status.INTERRUPTED
                return
            now = self.times[-1]
            size = float(rate(now, np.array([self.risk()])))
            if not (math.isfinite(size) and size > 0.0):
                self.status = Status.NONFINITE
                return
            ahead = now + self.unit * size
            if t - now <= ahead - t:
                return
            if self.step >= MOST_SCHEDULED:
                self.status = Status.MAX_STEPS
                return
            self.rate.value = size
            code, _ = self.runner.advance(self.step, 1)
            self.times.append(ahead)
            self.job.add(1)
            if code == PASSED:
                self.passage = self.step
                self.runner.watch[0] = WATCH_NOTHING
            if code != PASSED or self.stops:
                self.status = STATUS[code]

"""What all simulations share: saved steps, threads over seeds, pieces that can be interrupted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter
from dmft.names import Status
from dmft.progress import ProgressOption
from dmft.simulation.clock import Clock
from dmft.simulation.passage import WATCH_NOTHING
from dmft.simulation.runner import STATUS
from dmft.simulation.steps.common import PASSED
from dmft.solvers.jobs import Job, run_tasks, thread_count
from dmft.solvers.save_times import read_save_at
from dmft.starts import TIME, check_end

# Saved times when nothing is asked for.
DEFAULT_POINTS = 101
# Steps that a counter holds.
MOST_STEPS = 2**53
# Compiled pieces of about this many seconds, so that Ctrl-C and progress are prompt.
PIECE_SECONDS = 0.1
FIRST_PIECE = 500

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
    if not (isinstance(t_max, int | float | np.number) and math.isfinite(t_max) and t_max > 0):
        raise BadParameter(f"t_max must be positive and finite, got {t_max!r}")
    check_end(t_max, begin, unit)


def save_steps(t_max: float, clock: Clock, save_at: int | ArrayLike | None) -> NDArray[np.int64]:
    """Step numbers nearest to the times that are to be saved, without repetition."""
    check_time(t_max)
    time_step, begin = clock.time_step, clock.begin
    if (t_max - begin) / time_step > MOST_STEPS:
        raise BadParameter(f"t_max = {t_max:g} is {t_max / time_step:.3g} steps: no run ends")
    if clock.nearest(t_max) < 1:
        raise BadParameter(f"t_max = {t_max:g} is shorter than one step, {time_step:g}")
    if save_at is None:
        save_at = DEFAULT_POINTS
    times = read_save_at(save_at)
    if isinstance(times, int):
        times = np.linspace(begin, float(t_max), times)
    else:
        if times[0] < begin or not times[-1] <= t_max * (1 + 1e-12):
            raise BadParameter(
                f"save_at must be rising times between {begin:g} and t_max = {t_max:g}, got "
                f"{save_at!r}"
            )
    return np.unique(clock.nearest(times))


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
class March:
    """Progress of one run: where it is, how it stands, when it passed what is watched."""

    runner: Steps
    job: Job
    stops: bool
    step: int = 0
    status: Status = Status.OK
    passage: int | None = None
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
            if code == PASSED:
                self.passage = self.step
                self.runner.watch[0] = WATCH_NOTHING
            if code != PASSED or self.stops:
                self.status = STATUS[code]
            self.piece = max(1, min(4 * self.piece, int(done * PIECE_SECONDS / seconds)))

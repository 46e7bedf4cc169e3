"""The time of runs, the sum over the steps of gamma / (p d) times the pace of the optimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.emit.quantities import TIME, Rate
from dmft.errors import BadParameter
from dmft.initial_conditions import STEPS
from dmft.model.schedule import Schedule as Table

# Steps of a schedule, whose rates are all kept.
MOST_SCHEDULED = 5_000_000


@dataclass(frozen=True)
class Clock:
    """Times of all steps: multiples of one step, or those of a schedule."""

    time_step: float  # of the first step
    # Times of step 0, 1, ... (steps + 1,) and learning rates (steps,) under a schedule.
    times: NDArray[np.float64] | None = None
    rates: NDArray[np.float64] | None = None
    begin: float = 0.0  # time of step 0

    def at(self, step: ArrayLike) -> NDArray[np.float64]:
        """Time after so many steps."""
        if self.times is None:
            return np.asarray(self.begin + np.asarray(step) * self.time_step, dtype=np.float64)
        return np.asarray(self.times[np.asarray(step, dtype=np.int64)])

    def nearest(self, t: ArrayLike) -> NDArray[np.int64]:
        """Numbers of the steps that end nearest to these times."""
        if self.times is None:
            return np.rint((np.asarray(t) - self.begin) / self.time_step).astype(np.int64)
        middle = (self.times[1:] + self.times[:-1]) / 2
        return np.asarray(np.searchsorted(middle, np.asarray(t)), dtype=np.int64)


@dataclass(frozen=True)
class Schedule(Rate):
    """A learning rate in `TIME` and `RISK` at the start of a step; with `RISK` runs differ."""

    unit: ClassVar[str] = TIME.name

    def at(self, t: float, risk: float = math.nan) -> float:
        """Rate at one time, and at a risk where it follows that."""
        return self._checked(self.rate(t, np.array([risk])), t)

    def clock(self, unit: float, t_max: float, begin: float) -> Clock:
        """Times of the steps from `begin` to past `t_max`; each takes `unit` times its rate."""
        rate, nothing = self.rate, np.full(1, math.nan)
        t, times, rates = begin, [begin], []
        while t < t_max:
            rates.append(self._checked(rate(t, nothing), t))
            t += unit * rates[-1]
            times.append(t)
            if len(rates) > MOST_SCHEDULED:
                raise BadParameter(
                    f"learning_rate = {self.expr} takes more than {MOST_SCHEDULED:,} steps to "
                    f"t_max = {t_max:g}: these reach only t = {t:g}"
                )
        return Clock(unit * rates[0], np.array(times), np.array(rates), begin)

    def _checked(self, value: float, t: float) -> float:
        if not (math.isfinite(value) and value > 0.0):
            raise BadParameter(
                f"learning_rate = {self.expr} is {value:g} at t = {t:g}; a schedule must be "
                "positive up to t_max"
            )
        return float(value)


@dataclass(frozen=True)
class Tabled:
    """A `dmft.Schedule` as the clock of its own time tau = steps/d; a step takes its first rate."""

    table: Table
    dim: int
    reads_risk: ClassVar[bool] = False
    reads_time: ClassVar[bool] = True
    unit: ClassVar[str] = STEPS

    @property
    def expr(self) -> str:
        """For provenance."""
        return repr(self.table)

    def at(self, t: float, risk: float = math.nan) -> float:
        """Rate at one time."""
        return float(self.table.at(t))

    def clock(self, unit: float, t_max: float, begin: float) -> Clock:
        """Times of the steps from `begin` to `t_max`."""
        steps = max(round((t_max - begin) * self.dim), 1)
        if steps > MOST_SCHEDULED:
            raise BadParameter(
                f"a schedule to t_max = tau = {t_max:g} takes {steps:,} steps at dim = {self.dim}; "
                f"at most {MOST_SCHEDULED:,} rates are kept"
            )
        times = begin + np.arange(steps + 1) / self.dim
        return Clock(1.0 / self.dim, times, self.table.at(times[:-1]), begin)

"""Records of many paths of a stochastic differential equation, and of their first-passage times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dmft import netcdf
from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.record import Record
from dmft.solvers.problem import Block, Problem
from dmft.solvers.solution import COUNTED, Averages, Values
from dmft.solvers.trajectory import dimensions


@dataclass(frozen=True, eq=False)
class PassageTimes(Record):
    """First-passage times over runs. Runs without a passage are kept as censored.

    Attributes
    ----------
    times : (S,)
        First-passage times; NaN for censored runs.
    horizon : (S,)
        Final time of each run.

    Examples
    --------
    >>> times = PassageTimes(np.array([1.0, 3.0, np.nan, 2.0]), np.array([1.0, 3.0, 5.0, 2.0]))
    >>> int(times.censored.sum()), times.quantile(0.5), times.quantile(0.9)
    (1, 2.0, inf)
    """

    times: NDArray[np.float64]
    horizon: NDArray[np.float64]

    @property
    def censored(self) -> NDArray[np.bool_]:
        """Whether each run did not reach the level, (S,)."""
        return self._late

    @property
    def _late(self) -> NDArray[np.bool_]:
        return np.isnan(self.times)

    @property
    def mean(self) -> float:
        """Mean time. Raises an error if a run is censored."""
        return float(np.mean(self._all_passed("mean")))

    @property
    def std(self) -> float:
        """Standard deviation over runs (with n - 1). Raises an error if a run is censored."""
        return float(np.std(self._all_passed("std"), ddof=1))

    @property
    def stderr(self) -> float:
        """Standard error of the mean."""
        return self.std / math.sqrt(self.times.size)

    @property
    def std_stderr(self) -> float:
        """Standard error of the standard deviation, from the fourth moment of the times."""
        times = self._all_passed("std")
        n, variance = times.size, float(np.var(times, ddof=1))
        fourth = float(np.mean((times - times.mean()) ** 4))
        spread = max(fourth - variance**2 * (n - 3) / (n - 1), 0.0) / n
        return math.sqrt(spread / (4.0 * variance)) if variance > 0.0 else 0.0

    def quantile(self, fraction: float) -> float:
        """Quantile of the times, with censored runs counted as later than all others.

        Parameters
        ----------
        fraction : float in [0, 1]
            0.5 is the median.

        Returns
        -------
        float

        Examples
        --------
        >>> times = PassageTimes(np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.0, 5.0]))
        >>> times.quantile(0.5), times.quantile(0.9)
        (2.0, inf)
        """
        if not 0.0 <= fraction <= 1.0:
            raise BadParameter(f"a quantile requires a fraction in [0, 1], got {fraction!r}")
        rank = math.ceil(fraction * self.times.size * (1.0 - 1e-15))
        return self._ranked(max(rank, 1))

    def quantile_interval(self, fraction: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return an interval that contains the quantile with at least the given confidence.

        It is valid for any distribution. Its ends are order statistics, whose ranks are quantiles
        of a binomial law. An end beyond the sample, or beyond the horizon of a censored run, is
        infinite (or 0 on the left).

        Parameters
        ----------
        fraction : float in (0, 1)
            0.5 is the median.
        confidence : float in (0, 1)
            Smallest probability that the interval contains the quantile.

        Returns
        -------
        (float, float)

        Examples
        --------
        >>> times = PassageTimes(np.arange(1.0, 101.0), np.arange(1.0, 101.0))
        >>> times.quantile_interval(0.5)
        (40.0, 61.0)
        """
        from scipy.special import bdtr

        if not (0.0 < fraction < 1.0 and 0.0 < confidence < 1.0):
            raise BadParameter(
                f"fraction and confidence must lie in (0, 1), not {fraction!r} and {confidence!r}"
            )
        n, tail = self.times.size, 0.5 * (1.0 - confidence)
        below = bdtr(np.arange(n, dtype=np.float64), n, fraction)  # P(at most k runs are earlier)
        low = int(np.searchsorted(below, tail, side="right"))
        high = int(np.searchsorted(below, 1.0 - tail)) + 1
        left = self._ranked(low) if low >= 1 else 0.0
        return left, self._ranked(high) if high <= n else math.inf

    def _ranked(self, rank: int) -> float:
        """The time of this rank (1 is the earliest), inf when censoring hides it."""
        order = np.sort(np.where(self._late, np.inf, self.times))
        value = float(order[rank - 1])
        seen = self.horizon[self._late]
        return math.inf if seen.size and value > float(seen.min()) else value

    def _all_passed(self, what: str) -> NDArray[np.float64]:
        missing = int(self._late.sum())
        if missing:
            raise BadParameter(
                f"{missing} of {self.times.size} runs had not passed when they ended, so the "
                f"{what} is unknown: use .quantile(q), or a longer t_max"
            )
        return self.times


@dataclass(frozen=True, eq=False, repr=False)
class PathEnsemble(Averages):
    """Many paths of one stochastic differential equation.

    Attributes
    ----------
    t : (T,)
        Saved times, each a whole number of steps.
    mean, std, stderr : Values
        Mean, standard deviation (with n - 1) and standard error of the mean over the counted paths,
        for every state variable and observable, with time as first axis. NaN after an event has
        ended a counted path.
    path_status : tuple of Status
        How each path ended. Paths that are not "ok" or "event" are excluded from the means, and
        `message` contains their number and the reason.
    status : Status
        The worst status of its members.
    message : str
    first_passage : mapping of str to PassageTimes
        First times of each event, by its name, for each path; NaN for censored paths.
    paths : Values or None
        Values for every path, with the path as first axis, if they were kept.
    layout : tuple of Block
    statistics, parameters, constants, widths, provenance : mapping
    problem, starts
        The solved problem, and its packed initial states (1 or paths, n). None if the record was
        read from a file.

    Examples
    --------
    >>> run = PathEnsemble(
    ...     t=np.array([0.0, 1.0]), mean=Values({"m": np.array([0.0, 0.1])}),
    ...     std=Values({"m": np.array([0.0, 1.0])}), stderr=Values({"m": np.array([0.0, 0.5])}),
    ...     path_status=(Status.OK,) * 4, status=Status.OK, message="4 of 4 paths ok",
    ... )
    >>> run.mean.m.tolist(), run.counted
    ([0.0, 0.1], 4)
    """

    path_status: tuple[Status, ...]
    first_passage: Mapping[str, PassageTimes] = field(default_factory=dict)
    paths: Values | None = None
    layout: tuple[Block, ...] = ()
    widths: Mapping[str, int] = field(default_factory=dict)
    problem: Problem | None = field(default=None, repr=False, compare=False)
    starts: Array | None = field(default=None, repr=False, compare=False)

    KIND = "dmft paths"
    SINGLE, OVER = "path", "path"
    KEPT_BY = "solve with keep_paths=True"
    PARTS = (Values, Block, PassageTimes)

    @property
    def counted(self) -> int:
        """Number of paths that enter the means."""
        return sum(status in COUNTED for status in self.path_status)

    @property
    def _state(self) -> tuple[str, ...]:
        return tuple(block.name for block in self.layout)

    def _axes_of(self, name: str, count: int) -> tuple[str, ...]:
        return ("t", *{block.name: dimensions(block) for block in self.layout}.get(name, ()))

    def _shown(self) -> str:
        return f"{len(self.path_status)} paths, {super()._shown()}"

    def _displayed(self) -> list[netcdf.Variable]:
        """Variables like `M_mean` and `M_stderr` over `t`, and passages over `path`."""
        rows = [row for row in super()._displayed() if not row[0].startswith("first_passage_")]
        if self.first_passage:
            passages = [*self.first_passage.values()]
            times = np.stack([passage.times for passage in passages])
            rows.append(("first_passage", ("event", "path"), times))
            rows.append(("watched_until", ("path",), passages[0].horizon))
        return rows

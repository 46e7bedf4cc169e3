"""First-passage times of many runs or paths: one record for stochastic solvers and simulations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.record import Shown


@dataclass(frozen=True, eq=False)
class PassageTimes(Shown):
    """First-passage times over runs; a run that has not passed is censored, not dropped.

    Attributes
    ----------
    times : (S,)
        NaN where censored.
    horizon : (S,)
        How far each run was watched.

    Examples
    --------
    >>> times = PassageTimes(np.array([1.0, 3.0, np.nan, 2.0]), np.array([1.0, 3.0, 5.0, 2.0]))
    >>> int(times.censored.sum()), times.quantile(0.5), times.quantile(0.9)
    (1, 2.0, inf)
    """

    times: NDArray[np.float64]
    horizon: NDArray[np.float64]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PassageTimes):
            return NotImplemented
        return np.array_equal(self.times, other.times, equal_nan=True) and np.array_equal(
            self.horizon, other.horizon
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def censored(self) -> NDArray[np.bool_]:
        """(S,) True where the level was not reached."""
        return np.isnan(self.times)

    @property
    def mean(self) -> float:
        """Mean time; refused when a run is censored."""
        return float(np.mean(self._all_passed("mean")))

    @property
    def std(self) -> float:
        """Standard deviation over runs (n - 1); refused when a run is censored."""
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
        """Quantile that counts censored runs as later than their horizon; inf if it is one.

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
        """Interval that holds the quantile with at least this confidence, for any distribution.

        Its ends are order statistics (their ranks are quantiles of a binomial law); an end beyond
        the sample, or beyond the horizon of a censored run, is infinite (or 0 on the left).

        Parameters
        ----------
        fraction : float in (0, 1)
            0.5 is the median.
        confidence : float in (0, 1)
            With which the interval holds it, at least.

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
        order = np.sort(np.where(self.censored, np.inf, self.times))
        value = float(order[rank - 1])
        seen = self.horizon[self.censored]
        return math.inf if seen.size and value > float(seen.min()) else value

    def _all_passed(self, what: str) -> NDArray[np.float64]:
        missing = int(self.censored.sum())
        if missing:
            raise BadParameter(
                f"{missing} of {self.times.size} runs had not passed when they ended, so the "
                f"{what} is unknown: use .quantile(q), or a longer t_max"
            )
        return self.times

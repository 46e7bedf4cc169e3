"""First-passage times of single runs, tested after every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.record import Shown
from dmft.solvers.stochastic.passage_times import PassageTimes
from dmft.validation import checked

__all__ = ["FirstPassage", "PassageTimes", "watch_nothing"]

# Codes of the watched observable in compiled code.
WATCH_NOTHING, WATCH_OVERLAP, WATCH_RISK = 0.0, 1.0, 2.0


@checked
@dataclass(frozen=True)
class FirstPassage(Shown):
    """A threshold that is checked after every step of a run.

    Parameters
    ----------
    observable : "risk" or "overlap"
        "risk": the population risk has fallen to `level` or below. "overlap": some |M_jr| has
        reached `level`. The risk of networks that are not polynomial needs one quadrature per step:
        set `every`, or use the overlap.
    level : float
    relative : bool
        For the risk: `level` is a fraction of the risk of each run at t = 0.
    stop : bool
        End the run there (its later saved values are NaN), or only record the time.
    every : int
        Test after every n-th step.

    Examples
    --------
    >>> from dmft.simulation.passage import FirstPassage
    >>> FirstPassage("risk", 0.9, relative=True).level
    0.9
    """

    observable: Literal["risk", "overlap"]
    level: float
    relative: bool = False
    stop: bool = True
    every: int = 1

    def __post_init__(self) -> None:
        if self.observable not in ("risk", "overlap"):
            raise BadParameter(f'observable must be "risk" or "overlap", got {self.observable!r}')
        if not (math.isfinite(self.level) and self.level > 0.0):
            raise BadParameter(f"level must be positive and finite, got {self.level!r}")
        if self.relative and self.observable != "risk":
            raise BadParameter("relative=True is for the risk; an overlap has no reference value")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise BadParameter(f"every must be an integer >= 1, got {self.every!r}")

    def watch(self, start_risk: float) -> NDArray[np.float64]:
        """[code, level, every] for compiled code.

        Parameters
        ----------
        start_risk : float
            Risk of the run at t = 0.

        Returns
        -------
        (3,) ndarray

        Examples
        --------
        >>> FirstPassage("risk", 0.5, relative=True).watch(0.2).tolist()
        [2.0, 0.1, 1.0]
        """
        code = WATCH_RISK if self.observable == "risk" else WATCH_OVERLAP
        level = self.level * start_risk if self.relative else self.level
        return np.array([code, level, float(self.every)])


def watch_nothing() -> NDArray[np.float64]:
    """What compiled code gets when no first passage is asked for."""
    return np.array([WATCH_NOTHING, 0.0, 1.0])

"""One run that can be carried on in pieces, whatever its method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.names import Status
from dmft.simulation.declaration import Experiment
from dmft.simulation.risk import Rule
from dmft.simulation.steps.common import DIVERGED, NONFINITE, PASSED, REACHED
from dmft.simulation.target_rule import risk_function

STATUS = {
    REACHED: Status.OK,
    PASSED: Status.EVENT,
    DIVERGED: Status.DIVERGED,
    NONFINITE: Status.NONFINITE,
}


# advance(first, steps) -> (code, steps done); overlaps() -> (Q, M, readout)
Advance = Callable[[int, int], tuple[int, int]]
Observe = Callable[[], tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True)
class Constants:
    """Arguments of a run that never change, in the order of `kernels.COMMON`."""

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
        rates = e.rates(first, steps)
        fields = e.teacher.fields
        counts = np.array([steps, first, e.batch_size, e.constraint, e.dim, fields], dtype=np.int64)
        own = e.student.parameters.copy()
        label = own if e.rule else np.zeros(1)
        terms = e.teacher_readout[:1] if fields else e.teacher_readout
        return (
            self.P, self.readout, terms, rates, counts, self.watch,
            risk_function(e), e.student.value, e.student.slope, e.teacher.value, e.pull,
            own, e.teacher.parameters.copy(), label, self.rule, e.clusters, self.generator,
        )  # fmt: skip

    def advance(
        self, once: Any, again: str, state: Sequence[Any], last: Sequence[Any] = ()
    ) -> Advance:
        """Steps by a compiled function of the state, and of the last step where it is remembered.

        `again` names the function of `dmft.simulation.steps.repeated` that uses each sample more
        than once; it is compiled at its first use.
        """
        if not self.experiment.repeat:
            return lambda first, steps: once(*state, *last, *self.arguments(first, steps))
        from dmft.simulation.steps import repeated

        function, repeat = getattr(repeated, again), np.array(self.experiment.repeat)
        return lambda first, steps: function(*state, repeat, *self.arguments(first, steps))


@dataclass(frozen=True)
class Runner:
    """One run that can be carried on in pieces."""

    advance: Advance
    overlaps: Observe
    P: NDArray[np.float64]
    # Read after every step; its first entry may be set to WATCH_NOTHING between pieces.
    watch: NDArray[np.float64]

"""One run that can be carried on in pieces, whatever its method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.names import Status
from dmft.simulation.declaration import Experiment
from dmft.simulation.risks.risk import Rule
from dmft.simulation.risks.target_rule import risk_function
from dmft.simulation.steps.common import (
    DIVERGED,
    DRAWN,
    FLIPPED,
    GAIN,
    NONFINITE,
    PASSED,
    REACHED,
    SHORTENED,
    SPREAD,
    TRAINED,
)
from dmft.simulation.steps.optimiser import COLUMNS, columns
from dmft.simulation.steps.sample import compiled_update

STATUS = {
    REACHED: Status.OK,
    PASSED: Status.EVENT,
    DIVERGED: Status.DIVERGED,
    NONFINITE: Status.NONFINITE,
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
        found[:, SPREAD] = math.sqrt(e.label_noise)
        found[:, TRAINED] = e.readout_rate
        found[:, FLIPPED] = DRAWN if e.draws_labels else e.label_flip
        found[:, SHORTENED] = e.shortened
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

"""Runs of the exact Markov chain of the overlaps (see `kernels` for its law)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmft.model import Overlaps
from dmft.simulation.declaration import Experiment
from dmft.simulation.risk import Rule
from dmft.simulation.runner import Advance, Constants, Runner
from dmft.simulation.steps.common import advance_overlaps
from dmft.simulation.steps.factor import factor


def chain_runner(
    experiment: Experiment,
    start: Overlaps,
    rule: Rule,
    watch: NDArray[np.float64],
    generator: np.random.Generator,
) -> Runner:
    """A run of the chain from these overlaps."""
    Q, M, P = (np.array(x, dtype=np.float64, order="C") for x in (start.Q, start.M, start.P))
    root, pivots = factor(P)
    constants = Constants(P, experiment, rule, watch, generator)

    def once(first: int, steps: int) -> tuple[int, int]:
        return advance_overlaps(Q, M, root, pivots, *constants.arguments(first, steps))

    advance = repeated(Q, M, root, pivots, constants) if experiment.repeat else once
    return Runner(advance, lambda: (Q.copy(), M.copy(), constants.readout.copy()), P, watch)


def repeated(
    Q: NDArray[np.float64],
    M: NDArray[np.float64],
    root: NDArray[np.float64],
    pivots: NDArray[np.int64],
    constants: Constants,
) -> Advance:
    """Steps that use a sample more than once; compiled at the first use."""
    from dmft.simulation.steps.repeated import advance_repeated_overlaps

    repeat = np.array(constants.experiment.repeat)

    def advance(first: int, steps: int) -> tuple[int, int]:
        return advance_repeated_overlaps(
            Q, M, root, pivots, repeat, *constants.arguments(first, steps)
        )

    return advance

"""Runs of the exact Markov chain of the overlaps (see `kernels` for its law)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmft.model import Overlaps
from dmft.simulation.declaration import Experiment
from dmft.simulation.risk import Rule
from dmft.simulation.runner import Constants, Runner
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

    advance = constants.advance(advance_overlaps, "advance_repeated_overlaps", (Q, M, root, pivots))
    return Runner(advance, lambda: (Q.copy(), M.copy(), constants.readout.copy()), P, watch)

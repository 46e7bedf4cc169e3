"""Numbers of optimisers whose steps are scaled by what they have seen of gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.model.optimisers.adaptive import LONG
from dmft.names import ACCUMULATED, BLOCK

if TYPE_CHECKING:
    from dmft.model import SGD, Overlaps
    from dmft.simulation.declaration import Experiment, Filler


@dataclass(frozen=True)
class Scale:
    """How steps are scaled.

    Attributes
    ----------
    kind : "sign", "moment", "sum" or "norm"
    beta : float
        Of the average of gradients.
    forgotten, rate : float
        1 - beta_2 of second moments, or that over the time of a step.
    eps : float
    kept : str
        Name of what is accumulated, empty where nothing is.
    initial : float or array
        What is accumulated at the start.
    """

    kind: str
    beta: float
    forgotten: float
    rate: float
    eps: float
    kept: str
    initial: float | NDArray[np.float64]

    def shapes(self, p: int, blocks: int | None) -> dict[str, tuple[int, ...]]:
        """Name and shape of what is accumulated."""
        shape = tuple(p for _ in ACCUMULATED.get(self.kept, ()))
        if shape and blocks is not None:
            return {f"{BLOCK}{self.kept}": (blocks, *shape)}
        return {self.kept: shape} if self.kept else {}


def with_scaled_steps(
    experiment: Experiment, algorithm: SGD, start: Overlaps | None, filler: Filler
) -> Experiment:
    """The experiment with the numbers of an optimiser's steps.

    Raises
    ------
    BadParameter
        For spectra whose coordinates are not those of the steps.
    """
    spectrum, name = experiment.spectrum, type(algorithm).__name__
    if spectrum is not None and spectrum.scaled:
        raise BadParameter(
            f"{spectrum} holds the scaling of steps in coordinates that it does not tell: {name} "
            "is simulated for a Spectrum of independent coordinates; take dmft.solve"
        )
    chosen: Any = algorithm
    beta = filler.scalar(getattr(chosen, "momentum", sp.S.Zero), "momentum")
    if not 0.0 <= beta < 1.0:
        raise BadParameter(f"momentum = {beta:g} must lie in [0, 1)")
    fixed = getattr(chosen, "beta2", None)
    rate = experiment.numbers.get("second_moment_rate", 0.0)
    # A long memory that is short in t, where neither is given.
    long = 1.0 / (LONG * math.sqrt(experiment.dim))
    forgotten = long if fixed is None else 1.0 - float(fixed)
    memory = (start.memory or {}).get(chosen.kept) if start is not None and chosen.kept else None
    initial = experiment.numbers.get("initial", 0.0)
    scale = Scale(
        kind="sum" if chosen.scale == "moment" and not hasattr(chosen, "eps") else chosen.scale,
        beta=beta,
        forgotten=0.0 if rate else forgotten,
        rate=rate,
        eps=experiment.numbers.get("eps", 0.0),
        kept=chosen.kept,
        initial=initial if memory is None else memory,
    )
    return replace(experiment, scale=scale)

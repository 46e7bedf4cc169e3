"""The record of simulated random networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.names import Status
from dmft.solvers.solution import Averages, Values

AXES: dict[str, tuple[str, ...]] = {
    "mean": ("t",), "corr": ("t", "t_2"), "output_mean": ("t",), "output_corr": ("t", "t_2"),
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class NetworkEnsemble(Averages):
    """Simulations of random networks: averages over sites, with means and errors over seeds.

    With P > 1 populations each array has a last axis of length P.

    Attributes
    ----------
    t : (T,)
        Saved times.
    mean, std, stderr : Values
        Values `mean` (T,), `corr` (T, T), `output_mean` and `output_corr`, as in `NetworkRun`.
    seeds, seed_status, status, message, dim
        As in `Ensemble`.
    runs : Values
        Values for every seed, with the seed as first axis.
    lyapunov_exponents : (S,) array or None
        Lyapunov exponent of each network over the second half of its run, if requested.
    eigenvalues : (S, N) complex array or None
        Eigenvalues of the Jacobian of the rates at the end, if requested.
    provenance, statistics, parameters, constants : mapping
        As in `Ensemble`.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, h = sp.symbols("x h", real=True)
    >>> network = dmft.RandomNetwork(-x + h, x, h, output=sp.tanh(x), std=1.5)
    >>> found = dmft.simulate(network, dim=200, t_max=2.0, seeds=2, start=dmft.laws.Normal())
    >>> found.mean.corr.shape
    (21, 21)
    """

    seeds: tuple[int, ...]
    seed_status: tuple[Status, ...]
    dim: int
    runs: Values
    lyapunov_exponents: Array | None = None
    eigenvalues: NDArray[np.complex128] | None = None

    KIND = "dmft simulated network"
    _NO_FINAL = "states of units are not kept: simulate with a larger t_max"
    SINGLE, OVER = "run", "seed"
    KEPT_BY = "it keeps them"
    COORDINATES: ClassVar[tuple[str, ...]] = ("t",)

    @property
    def _state(self) -> tuple[str, ...]:
        return ()

    def _axes(self, field: str, name: str, values: NDArray[Any]) -> tuple[str, ...]:
        if field in ("lyapunov_exponents", "eigenvalues"):
            return ("seed", "unit")[: values.ndim]
        return super()._axes(field, name, values)

    def _axes_of(self, name: str, count: int) -> tuple[str, ...]:
        return (*AXES[name], "population")[:count]

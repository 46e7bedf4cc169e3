"""The record of a random network: means, correlations and responses of its sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dmft.arrays import Array
from dmft.solvers.solution import Solution, Values

# Axes of each array; that of the populations comes last where there are several.
AXES: dict[str, tuple[str, ...]] = {
    "mean": ("t",), "corr": ("t", "t_2"), "output_mean": ("t",), "output_corr": ("t", "t_2"),
    "resp": ("t", "t_2"), "multiplier": ("t",), "t": ("t",), "paths": ("sweep", "t", "path"),
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class NetworkRun(Solution):
    """Solution of the equations of a random network.

    Arrays are attributes and can also be read by key. With P > 1 populations each array except
    `multiplier` has a last axis of length P.

    Attributes
    ----------
    t : (T,)
        Times of the steps.
    mean, corr : (T,), (T, T)
        Averages E x(t) and E x(t) x(s) of the state, not centred.
    output_mean, output_corr : (T,), (T, T)
        The same averages of the output phi(x).
    resp : (T, T)
        Response E d phi(x(t)) / d h(s) per unit of the time s (per step of a map); zero for s >= t,
        and nan in sweeps whose rate or output has jumps.
    multiplier : (T,)
        Multiplier of the declared constraint.
    arrays : Values
        All of these by name.
    error : Values
        Half-widths of 95 % intervals (Student's t over independent sweeps), nan for a single sweep.
        For a closed recursion, the bound of its series. The discretisation error of the step `dt`
        is not included: compare with networks that are simulated with the same step.
    paths : (sweeps, T, kept) array or None
        States of the first sites of each sweep, if requested by `keep_paths`.
    status, message, statistics, parameters, provenance
        As in `Trajectory`.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, h = sp.symbols("x h", real=True)
    >>> network = dmft.RandomNetwork(-x + h, x, h, std=0.5)
    >>> run = dmft.solve(dmft.derive(network), dmft.laws.Normal(), 2.0)
    >>> run.corr.shape, str(run.status), bool(run.error.corr.max() < 1e-9)
    ((21, 21), 'ok', True)
    """

    arrays: Values
    error: Values
    paths: Array | None = None

    KIND = "dmft random network"
    _NO_FINAL = "a run with memory cannot be continued: solve again with a larger t_max"
    NAMES: ClassVar[Mapping[str, str]] = {"arrays": "{}", "error": "{}_error"}

    def _groups(self) -> tuple[Mapping[str, Array], ...]:
        return (self.arrays,)

    def _axes(self, field: str, name: str, values: Array) -> tuple[str, ...]:
        return (*AXES[name], "population")[: values.ndim]

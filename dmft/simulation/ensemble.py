"""The record of many finite-dimensional runs: means, errors, every run, first passages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dmft import netcdf
from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.names import ACCUMULATED, BLOCK, KEPT, Status
from dmft.record import Shown
from dmft.simulation.clock import Clock
from dmft.solvers.solution import COUNTED, Averages, Values, ending
from dmft.solvers.stochastic.ensemble import PassageTimes
from dmft.validation import as_count, as_positive, checked

__all__ = ["FirstPassage", "PassageTimes", "watch_nothing"]

# Codes of the watched observable in compiled code.
WATCH_NOTHING, WATCH_OVERLAP, WATCH_RISK = 0.0, 1.0, 2.0
# Values that are no part of the state.
RISKS = ("risk", "loss", "error_rate")


@checked
@dataclass(frozen=True)
class FirstPassage(Shown):
    """A threshold that is checked after every step of a run.

    Parameters
    ----------
    observable : "risk" or "overlap"
        "risk": the population risk has fallen to `level`. "overlap": the largest |M_jr| has reached
        `level`. If the networks are not polynomials, the risk requires one quadrature per test:
        set `every`, or use the overlap.
    level : float
    relative : bool
        Whether `level` is a fraction of the risk of each run at t = 0; only for the risk.
    stop : bool
        Whether the run ends at the passage (later saved values are then NaN). Otherwise only the
        time is recorded.
    every : int
        Test after every n-th step.

    Examples
    --------
    >>> from dmft.simulation.ensemble import FirstPassage
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
        as_positive(self.level, "level")
        if self.relative and self.observable != "risk":
            raise BadParameter("relative=True is for the risk; an overlap has no reference value")
        as_count(self.every, "every")

    def watch(self, start_risk: float) -> NDArray[np.float64]:
        """[code, level, every] for compiled code, (3,), of a run with this risk at t = 0."""
        code = WATCH_RISK if self.observable == "risk" else WATCH_OVERLAP
        level = self.level * start_risk if self.relative else self.level
        return np.array([code, level, float(self.every)])


def watch_nothing() -> NDArray[np.float64]:
    """What compiled code gets when no first passage is asked for."""
    return np.array([WATCH_NOTHING, 0.0, 1.0])


@dataclass(frozen=True, eq=False, repr=False)
class Ensemble(Averages):
    """Finite-dimensional runs of one experiment over seeds.

    Attributes
    ----------
    t : (T,)
        Saved times, each a whole number of steps.
    mean, std, stderr : Values
        Mean, standard deviation (with n - 1) and standard error of the mean over the counted seeds.
        They are NaN after the first passage of a counted run that stops there. The values are

        - Q (T, p, p), M (T, p, k), readout (T, p), risk (T,);
        - loss (T,), unless it equals the risk plus a constant;
        - error_rate (T,), for labels that are signs or classes (the population average at the
          overlaps of each run, by quadrature);
        - block_Q (T, B, p, p), block_M (T, B, p, k), for inputs with a spectrum.
    seeds : tuple of int
    seed_status : tuple of Status
        How each run ended. Runs that are not "ok" or "event" are excluded from means, and
        `message` contains their number.
    status : Status
        The worst status of its members.
    message : str
    dim : int
    runs : Values or None
        Values for every seed, with the seed as first axis, if they were kept.
    first_passage : PassageTimes or None
    ends : Values or None
        Final state of each run, (S, ...), if a first passage or an event ends the runs.
    provenance : mapping
        Model, algorithm, time unit, error of the quadrature of the risk, and versions.
    statistics, parameters : mapping
    constants : mapping of str to arrays
        P (k, k).

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> model, start = dmft.Model(square, square), dmft.Overlaps([[1.0]], [[0.5]])
    >>> runs = dmft.simulate(model, dmft.SGD(0.05), 100, 1.0, 8, start, "overlaps", save_at=3)
    >>> runs.mean.M.shape, runs.runs.M.shape, runs.steps().tolist()
    ((3, 1, 1), (8, 3, 1, 1), [0.0, 1000.0, 2000.0])
    """

    seeds: tuple[int, ...]
    seed_status: tuple[Status, ...]
    dim: int
    runs: Values | None = None
    first_passage: PassageTimes | None = None
    ends: Values | None = None

    KIND = "dmft ensemble"
    SINGLE, OVER = "run", "seed"
    KEPT_BY = "simulate with keep_runs=True"
    COORDINATES = ("t", "seed")
    PARTS = (Values, PassageTimes)
    # Names of dimensions, time first.
    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Q": ("t", "p", "p_2"),
        "M": ("t", "p", "k"),
        "readout": ("t", "p"),
        **dict.fromkeys(RISKS, ("t",)),
        **{n: ("t", "p", "k" if n[-1] == "M" else "p_2") for n in KEPT},
        **{n: ("t", *axes) for n, axes in ACCUMULATED.items()},
        f"{BLOCK}second_moment": ("t", "block", "p"),
        **{
            f"{BLOCK}{n}": ("t", "block", "p", "k" if n[-1] == "M" else "p_2")
            for n in ("Q", "M", *KEPT)
        },
    }
    STATE: ClassVar[tuple[str, ...]] = tuple(name for name in AXES if name not in RISKS)

    @property
    def counted(self) -> tuple[int, ...]:
        """Seeds that enter the means."""
        pairs = zip(self.seeds, self.seed_status, strict=True)
        return tuple(s for s, status in pairs if status in COUNTED)

    @property
    def _state(self) -> tuple[str, ...]:
        # Names without axes of their own are the learned numbers of a rule.
        return tuple(n for n in self.mean if n in self.STATE or n not in self.AXES)

    @property
    def _ends(self) -> Values | None:
        return self.ends

    @property
    def _end_times(self) -> Array:
        return np.empty(0) if self.first_passage is None else self.first_passage.horizon

    def steps(self, dim: int | None = None) -> Array:
        """Number of steps at each saved time, at input dimension `dim` (by default the run's)."""
        counted = self.provenance.get("steps_at_saved_times")
        if counted is not None:
            return np.array(counted) * (1.0 if dim is None else dim / self.dim)
        return super().steps(self.dim if dim is None else dim)

    def samples(self, dim: int | None = None) -> Array:
        """Number of samples at each saved time, at input dimension `dim` (by default the run's)."""
        return super().samples(self.dim if dim is None else dim)

    def _shown(self) -> str:
        method = self.provenance.get("method")
        how = f"{len(self.seeds)} seeds, {method}" if method else f"{len(self.seeds)} seeds"
        return f"{how}, d = {self.dim}, {super()._shown()}"

    def _axes_of(self, name: str, count: int) -> tuple[str, ...]:
        # Alignments have an axis where there are several directions or tokens, readouts one for
        # several outputs.
        axes = self.AXES.get(name, ("t",))
        return axes[:count] if count <= len(axes) else (axes[0], "output", *axes[1:])

    def _quantities(self) -> Mapping[str, str]:
        parts = {"times": "first_passage", "horizon": "watched_until"}
        return {f"first_passage_{part}": name for part, name in parts.items()}

    def _displayed(self) -> list[netcdf.Variable]:
        return [*super()._displayed(), ("seed", ("seed",), np.array(self.seeds, dtype=np.int64))]


@dataclass(frozen=True, eq=False)
class SeedRun:
    """What one seed gave: values at the saved times (NaN where it did not get to)."""

    values: Mapping[str, Array]
    status: Status
    # Steps done; and the step of the first passage, or None.
    steps: int
    passage: int | None
    # Steps done at each saved time; and times of steps, where they are this run's own.
    steps_saved: NDArray[Any]
    clock: Clock | None = None
    # State after these steps.
    end: Mapping[str, Array] = field(default_factory=dict)


def averaged(
    arrays: Mapping[str, Array], seeds: tuple[int, ...], seed_status: tuple[Status, ...]
) -> dict[str, Any]:
    """Fields of an ensemble that follow from the values of all runs, seed first."""
    mean, std, stderr = moments(arrays, seed_status)
    status, message = ending(seed_status, "seeds", seeds)
    return {
        "mean": Values(mean),
        "std": Values(std),
        "stderr": Values(stderr),
        "runs": Values(arrays),
        "seeds": seeds,
        "seed_status": seed_status,
        "status": status,
        "message": message,
    }


def ends_of(runs: Sequence[SeedRun], stops: bool) -> Values | None:
    """States in which runs ended, where something may end them before their time."""
    if not stops or not all(r.end for r in runs):
        return None
    return Values({name: np.stack([r.end[name] for r in runs]) for name in runs[0].end})


def passages(runs: Sequence[Any], clock: Clock | None) -> PassageTimes:
    """First passages of runs that say how many `steps` they took, and at which they passed.

    Each by its own clock where there is none of all.
    """
    clocks = [clock or r.clock or Clock(0.0) for r in runs]
    pairs = list(zip(runs, clocks, strict=True))
    times = [math.nan if r.passage is None else float(c.at(r.passage)) for r, c in pairs]
    return PassageTimes(np.array(times), np.array([float(c.at(r.steps)) for r, c in pairs]))


def moments(
    arrays: Mapping[str, Array], seed_status: Sequence[Status]
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Mean, standard deviation and error of the mean over the seeds that count, seed first."""
    counted = np.array([status in COUNTED for status in seed_status])
    means, stds, errors = {}, {}, {}
    for name, everything in arrays.items():
        values = everything[counted]
        n = values.shape[0]
        unknown = np.full(values.shape[1:], np.nan)
        means[name] = values.mean(axis=0) if n else unknown
        stds[name] = values.std(axis=0, ddof=1) if n > 1 else unknown
        errors[name] = stds[name] / np.sqrt(max(n, 1))
    return means, stds, errors


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

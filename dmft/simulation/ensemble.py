"""The record of many finite-dimensional runs: means, errors, every run, how each ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmft.names import Status
from dmft.simulation.passage import PassageTimes

if TYPE_CHECKING:
    import xarray

Array = NDArray[np.float64]
# Runs whose values enter means: an event is an end that was asked for.
COUNTED = (Status.OK, Status.EVENT)


@dataclass(frozen=True, eq=False)
class Observed:
    """Observables at the saved times, as attributes or keys; with a seed axis first in `runs`.

    Attributes
    ----------
    Q : (..., T, p, p)
    M : (..., T, p, k)
    readout : (..., T, p)
    risk : (..., T)
    """

    Q: Array
    M: Array
    readout: Array
    risk: Array

    def __getitem__(self, name: str) -> Array:
        if name not in self.keys():
            raise KeyError(f"no observable {name!r}; there are {self.keys()}")
        array: Array = getattr(self, name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> tuple[str, ...]:
        """Names of the observables."""
        return tuple(f.name for f in fields(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Observed):
            return NotImplemented
        return all(np.array_equal(self[n], other[n], equal_nan=True) for n in self.keys())

    __hash__ = None  # type: ignore[assignment]


class OverSeeds:
    """What records of runs over seeds share: the seeds that count, and the clock."""

    t: Array
    seeds: tuple[int, ...]
    seed_status: tuple[Status, ...]
    dim: int
    provenance: Mapping[str, Any]

    @property
    def counted(self) -> tuple[int, ...]:
        """Seeds that enter the means."""
        pairs = zip(self.seeds, self.seed_status, strict=True)
        return tuple(s for s, status in pairs if status in COUNTED)

    def steps(self, dim: int | None = None) -> Array:
        """Number of steps at each saved time, at input dimension `dim` (the run's own if None)."""
        unit = float(self.provenance["time_step_times_dim"])
        return self.t * ((self.dim if dim is None else dim) / unit)

    def samples(self, dim: int | None = None) -> Array:
        """Number of samples seen at each saved time."""
        return self.steps(dim) * float(self.provenance["samples_per_step"])


@dataclass(frozen=True, eq=False)
class Ensemble(OverSeeds):
    """Finite-dimensional runs of one experiment over seeds.

    Attributes
    ----------
    t : (T,)
        Saved times, each a whole number of steps.
    mean, std, stderr : Observed
        Over the counted seeds: mean, standard deviation (n - 1), standard error of the mean. NaN
        from the time on at which a counted run was stopped by its first passage.
    seeds : tuple of int
    seed_status : tuple of Status
        How each run ended. Runs that are not "ok" or "event" are left out of means, and
        `message` says how many.
    status : Status
        The worst of them.
    message : str
    dim : int
    runs : Observed or None
        Every seed's values, seed first.
    first_passage : PassageTimes or None
    provenance : mapping
        What was simulated, the clock, the quadrature of the risk with its error, versions.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> model, start = dmft.Model(square, square), dmft.Overlaps([[1.0]], [[0.5]])
    >>> runs = dmft.simulate(model, dmft.SGD(0.05), 100, 1.0, 8, start, "overlaps", save_at=3)
    >>> runs.mean.M.shape, runs.runs.M.shape, runs.steps().tolist()
    ((3, 1, 1), (8, 3, 1, 1), [0.0, 1000.0, 2000.0])
    """

    t: Array
    mean: Observed
    std: Observed
    stderr: Observed
    seeds: tuple[int, ...]
    seed_status: tuple[Status, ...]
    status: Status
    message: str
    dim: int
    runs: Observed | None = None
    first_passage: PassageTimes | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_xarray(self) -> xarray.Dataset:
        """Return an `xarray.Dataset` with mean, std, stderr and all runs (needs the extra `io`)."""
        from dmft.simulation.archive import to_dataset

        return to_dataset(self)

    def save(self, path: str | Path) -> Path:
        """Write a netCDF file that `load_ensemble` reads."""
        from dmft.simulation.archive import save_ensemble

        return save_ensemble(self, path)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ensemble):
            return NotImplemented
        plain = ("seeds", "seed_status", "status", "message", "dim", "provenance")
        observed = ("mean", "std", "stderr", "runs", "first_passage")
        return np.array_equal(self.t, other.t) and all(
            getattr(self, name) == getattr(other, name) for name in (*plain, *observed)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        p, k = self.mean.M.shape[1:]
        method = self.provenance.get("method", "")
        return (
            f"Ensemble({self.status}: {len(self.seeds)} seeds, {method}, d = {self.dim}, "
            f"p = {p}, k = {k}, {self.t.size} times to t = {self.t[-1]:g}; {self.message})"
        )


@dataclass(frozen=True, eq=False)
class SeedRun:
    """What one seed gave: values at the saved times (NaN where it did not get to)."""

    Q: Array
    M: Array
    readout: Array
    risk: Array
    status: Status
    # Steps done; and the step of the first passage, or None.
    steps: int
    passage: int | None


def summarise(runs: Sequence[SeedRun]) -> tuple[Observed, Observed, Observed, Observed]:
    """Return all runs, and mean, std and standard error over those that count."""
    everything = Observed(
        Q=np.stack([r.Q for r in runs]),
        M=np.stack([r.M for r in runs]),
        readout=np.stack([r.readout for r in runs]),
        risk=np.stack([r.risk for r in runs]),
    )
    arrays = {name: everything[name] for name in everything}
    means, stds, errors = moments(arrays, [r.status for r in runs])
    return everything, Observed(**means), Observed(**stds), Observed(**errors)


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


def overall_status(seeds: Sequence[int], seed_status: Sequence[Status]) -> tuple[Status, str]:
    """Return the worst status over seeds, and a message that counts what was left out."""
    groups: dict[Status, list[int]] = {}
    for seed, ended in zip(seeds, seed_status, strict=True):
        groups.setdefault(ended, []).append(seed)
    order = (Status.INTERRUPTED, Status.NONFINITE, Status.DIVERGED, Status.EVENT, Status.OK)
    status = next(s for s in order if s in groups)
    parts = []
    for s in order:
        if s in groups:
            which = groups[s] if len(groups[s]) <= 8 else [*groups[s][:8], "..."]
            names = ", ".join(map(str, which))
            left_out = "" if s in COUNTED else f" (left out of the means: seeds {names})"
            parts.append(f"{len(groups[s])} of {len(seeds)} seeds {s}{left_out}")
    return status, "; ".join(reversed(parts))

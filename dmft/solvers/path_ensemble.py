"""The record of many paths of a stochastic differential equation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.names import Status
from dmft.solvers.passage_times import PassageTimes
from dmft.solvers.problem import Block, Problem

if TYPE_CHECKING:
    import xarray

Array = NDArray[np.float64]
# Paths whose values enter means: an event is an end that was asked for.
COUNTED = (Status.OK, Status.EVENT)


@dataclass(frozen=True, eq=False)
class Values(Mapping[str, Array]):
    """Blocks and observables at the saved times, as attributes or keys."""

    arrays: Mapping[str, Array]

    def __getitem__(self, name: str) -> Array:
        if name not in self.arrays:
            raise KeyError(f"no {name!r} here; there are {sorted(self.arrays)}")
        return self.arrays[name]

    def __getattr__(self, name: str) -> Array:
        if not name.startswith("_") and "arrays" in self.__dict__:
            if name in self.arrays:
                return self.arrays[name]
            raise AttributeError(f"no {name!r} here; there are {sorted(self.arrays)}")
        raise AttributeError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.arrays})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Values):
            return NotImplemented
        return list(self) == list(other) and all(
            np.array_equal(self[name], other[name], equal_nan=True) for name in self
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class PathEnsemble:
    """Many paths of one stochastic differential equation.

    Attributes
    ----------
    t : (T,)
        Saved times, each a whole number of steps.
    mean, std, stderr : Values
        Mean, standard deviation (n - 1) and standard error of the mean, over the counted paths, of
        every state block and observable, time first. NaN from the time on at which a counted path
        was ended by an event.
    path_status : tuple of Status
        How each path ended. Paths that are not "ok" or "event" are left out of the means, and
        `message` says how many and why.
    status : Status
        The worst of them.
    message : str
    first_passage : mapping of str to PassageTimes
        For each event by name: the first time of each path, NaN where censored.
    paths : Values or None
        Every path's values, path first.
    layout : tuple of Block
    statistics, parameters, constants, widths, provenance : mapping
    problem, starts
        What was solved, and the packed states (1 or paths, n) that it started from; None in a
        record that was read from a file.

    Examples
    --------
    >>> run = PathEnsemble(
    ...     t=np.array([0.0, 1.0]), mean=Values({"m": np.array([0.0, 0.1])}),
    ...     std=Values({"m": np.array([0.0, 1.0])}), stderr=Values({"m": np.array([0.0, 0.5])}),
    ...     path_status=(Status.OK,) * 4, status=Status.OK, message="4 of 4 paths ok",
    ... )
    >>> run.mean.m.tolist(), run.counted
    ([0.0, 0.1], 4)
    """

    t: Array
    mean: Values
    std: Values
    stderr: Values
    path_status: tuple[Status, ...]
    status: Status
    message: str
    first_passage: Mapping[str, PassageTimes] = field(default_factory=dict)
    paths: Values | None = None
    layout: tuple[Block, ...] = ()
    statistics: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    problem: Problem | None = field(default=None, repr=False)
    starts: Array | None = field(default=None, repr=False)

    @property
    def counted(self) -> int:
        """Number of paths that enter the means."""
        return sum(status in COUNTED for status in self.path_status)

    def steps(self, dim: int) -> Array:
        """Steps of the algorithm at input dimension `dim`, at each saved time (not those of dt)."""
        unit = self.provenance.get("time_step_times_dim")
        if unit is None:
            raise BadParameter("this run does not know how long a step of its algorithm is")
        return self.t * (dim / float(unit))

    def samples(self, dim: int) -> Array:
        """Samples that the algorithm has used at input dimension `dim`."""
        return self.steps(dim) * float(self.provenance.get("samples_per_step", 1))

    def to_xarray(self) -> xarray.Dataset:
        """Return an `xarray.Dataset` with means, errors and passages (needs the extra `io`)."""
        from dmft.solvers.path_archive import to_dataset

        return to_dataset(self)

    def save(self, path: str | Path) -> Path:
        """Write a netCDF file that `load_paths` reads."""
        from dmft.solvers.path_archive import save_paths

        return save_paths(self, path)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PathEnsemble):
            return NotImplemented
        same = ("mean", "std", "stderr", "path_status", "status", "message", "first_passage")
        more = ("paths", "layout", "statistics", "parameters", "widths", "provenance")
        return (
            np.array_equal(self.t, other.t)
            and all(getattr(self, name) == getattr(other, name) for name in (*same, *more))
            and Values(self.constants) == Values(other.constants)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in self.mean.items())
        return (
            f"PathEnsemble({self.status}: {len(self.path_status)} paths, "
            f"t = {self.t[0]:g}..{self.t[-1]:g} ({self.t.size} points); {shapes}; {self.message})"
        )

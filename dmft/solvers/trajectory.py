"""The record of a solved initial-value problem: named blocks, status, statistics, provenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.names import Status
from dmft.solvers.problem import Block, Problem

if TYPE_CHECKING:
    import xarray

Array = NDArray[np.float64]
# Block that counts steps per dimension where the learning rate follows a schedule.
CLOCK = "steps_per_dim"


@dataclass(frozen=True)
class EventRecord:
    """One located crossing: its event's name, its time and the state blocks there."""

    name: str
    t: float
    state: Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Solution at the saved times; blocks and observables are attributes (`run.Q`, `run.risk`).

    Attributes
    ----------
    t : (T,)
    blocks : mapping of str to (T, ...) arrays
        The state, time first.
    observables : mapping of str to (T,) arrays
    status : Status
    message : str
        How the run ended, in words.
    events : tuple of EventRecord
        All crossings found, in order of time.
    statistics : mapping
        steps, rejected, evaluations, band_steps (steps that ended with the covariance below zero
        by less than the tolerances explain), seconds; where the code takes overlaps slightly beyond
        Cauchy-Schwarz as those of parallel fields, parallel_states (saved states with such
        overlaps) and parallel_excess (their largest C_ij^2 / (C_ii C_jj) - 1).
    parameters, constants, widths : mapping
        What the problem was solved with.
    layout : tuple of Block
        Axes of the state blocks.
    provenance : mapping
        Versions, fingerprint of the problem, method, tolerances, time unit, scaling.
    start : mapping of str to arrays
        The state at `provenance["t_start"]`, saved or not.
    problem : Problem or None
        What was solved, for measures that integrate again; not kept in files and pickles.
    error : mapping of str to arrays, or None
        Error of blocks and observables, in their shapes: of averages computed on nodes (99 %), or
        what rounding of closed forms may leave where it passes 1e-10 of the size of their terms.
        None where the equations are exact to that. Not the error of the integrator, which rtol and
        atol bound.

    Examples
    --------
    >>> run = Trajectory(
    ...     t=np.array([0.0, 2.0]), blocks={"Q": np.ones((2, 1, 1))},
    ...     observables={"risk": np.array([1.0, 0.25])}, status=Status.OK, message="",
    ...     provenance={"time_step_times_dim": 0.1},
    ... )
    >>> run.Q.shape, run.risk[-1].item(), run.steps(dim=100)[-1].item()
    ((2, 1, 1), 0.25, 2000.0)
    """

    t: Array
    blocks: Mapping[str, Array]
    observables: Mapping[str, Array]
    status: Status
    message: str
    events: tuple[EventRecord, ...] = ()
    statistics: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    layout: tuple[Block, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Array] = field(default_factory=dict)
    problem: Problem | None = field(default=None, repr=False)
    error: Mapping[str, Array] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Compiled functions would be compiled again by whoever unpickles the record.
        return {**self.__dict__, "problem": None}

    def __getattr__(self, name: str) -> Array:
        # Copying and unpickling ask for attributes before the fields exist.
        if not name.startswith("_") and "blocks" in self.__dict__:
            for group in (self.blocks, self.observables, self.constants):
                if name in group:
                    return group[name]
            raise AttributeError(f"this trajectory has no {name!r}; it has {sorted(self)}")
        raise AttributeError(name)

    def __getitem__(self, name: str) -> Array:
        if name == "t":
            return self.t
        for group in (self.blocks, self.observables, self.constants):
            if name in group:
                return group[name]
        raise KeyError(f"this trajectory has no {name!r}; it has {sorted(self)}")

    def __iter__(self) -> Iterator[str]:
        return iter(["t", *self.blocks, *self.observables])

    def __len__(self) -> int:
        return int(self.t.size)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.blocks, *self.observables, *self.constants})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trajectory):
            return NotImplemented
        plain = ("status", "message", "statistics", "parameters", "widths", "layout", "provenance")
        return (
            all(getattr(self, name) == getattr(other, name) for name in plain)
            and np.array_equal(self.t, other.t)
            and _same(self.blocks, other.blocks)
            and _same(self.observables, other.observables)
            and _same(self.constants, other.constants)
            and _same(self.start, other.start)
            and _same(self.error or {}, other.error or {})
            and len(self.events) == len(other.events)
            and all(
                (a.name, a.t) == (b.name, b.t) and _same(a.state, b.state)
                for a, b in zip(self.events, other.events, strict=True)
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{k} {v.shape}" for k, v in (*self.blocks.items(),))
        names = ", ".join(self.observables)
        end = (
            f"t = {self.t[0]:g}..{self.t[-1]:g} ({self.t.size} points)" if self.t.size else "empty"
        )
        return f"Trajectory({self.status}: {end}; {shapes}; {names}; {self.message})"

    @property
    def quadrature_error(self) -> Array | None:
        """Largest error of all entries at each saved time, (T,); None for exact equations."""
        if self.error is None:
            return None
        rows = [e.reshape(self.t.size, -1).max(axis=1) for e in self.error.values()]
        worst: Array = np.max(rows, axis=0)
        return worst

    @property
    def final(self) -> dict[str, Array]:
        """State blocks at the last saved time, as a start for another run."""
        return {name: block[-1].copy() for name, block in self.blocks.items()}

    def steps(self, dim: int) -> Array:
        """Number of steps of the algorithm at input dimension `dim`, at each saved time.

        One step is delta t = time_step_times_dim / dim (gamma/p for one-pass SGD); where the rate
        follows a schedule the run has counted them. The time of a map counts the steps.
        """
        if self.provenance.get("time_unit") == "steps":
            return self.t.copy()
        if CLOCK in self.blocks:
            return dim * self.blocks[CLOCK]
        unit = self.provenance.get("time_step_times_dim")
        if unit is None:
            raise BadParameter(
                "this run has no steps: its time is that of a continuous flow "
                f"(time unit: {self.provenance.get('time_unit', 't')})"
            )
        return self.t * (dim / float(unit))

    def samples(self, dim: int) -> Array:
        """Number of samples that the algorithm has used at input dimension `dim`."""
        return self.steps(dim) * float(self.provenance.get("samples_per_step", 1))

    def to_xarray(self) -> xarray.Dataset:
        """Return an `xarray.Dataset` with dimension `t` (needs the extra `io`)."""
        from dmft.solvers.archive import to_dataset

        return to_dataset(self)

    def save(self, path: str | Path) -> Path:
        """Write a netCDF file from which `load_trajectory` restores an equal record."""
        from dmft.solvers.archive import save_trajectory

        return save_trajectory(self, path)


def _same(one: Mapping[str, Array], two: Mapping[str, Array]) -> bool:
    return list(one) == list(two) and all(
        np.array_equal(one[name], two[name], equal_nan=True) for name in one
    )

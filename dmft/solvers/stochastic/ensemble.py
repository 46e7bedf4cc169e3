"""The record of many paths of a stochastic differential equation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dmft import netcdf
from dmft.arrays import Array
from dmft.names import Status
from dmft.solvers.problem import Block, Problem
from dmft.solvers.solution import COUNTED, Averages, Values, outcome_of
from dmft.solvers.stochastic.passage_times import PassageTimes
from dmft.solvers.trajectory import block_of, constant_variables, dimensions, plain_block


@dataclass(frozen=True, eq=False, repr=False)
class PathEnsemble(Averages):
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
        The solved problem, and the packed states (1 or paths, n) that it started from; None in a
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
    problem: Problem | None = field(default=None, repr=False, compare=False)
    starts: Array | None = field(default=None, repr=False, compare=False)

    KIND = "dmft paths"
    SINGLE, OVER = "path", "path"
    KEPT_BY = "solve with keep_paths=True"

    @property
    def counted(self) -> int:
        """Number of paths that enter the means."""
        return sum(status in COUNTED for status in self.path_status)

    @property
    def _singles(self) -> Values | None:
        return self.paths

    @property
    def _ended(self) -> tuple[Status, ...]:
        return self.path_status

    @property
    def _state(self) -> tuple[str, ...]:
        return tuple(block.name for block in self.layout)

    def _axes(self, name: str) -> tuple[str, ...]:
        return ("t", *{block.name: dimensions(block) for block in self.layout}.get(name, ()))

    def _shown(self) -> str:
        return f"{len(self.path_status)} paths, {super()._shown()}"

    def _content(self) -> dict[str, Any]:
        return {
            "path_status": [str(s) for s in self.path_status],
            "names": list(self.mean),
            "kept": self.paths is not None,
            "events": list(self.first_passage),
            "layout": [plain_block(b) for b in self.layout],
            "constants": list(self.constants),
            "widths": dict(self.widths),
        }

    def _variables(self) -> list[netcdf.Variable]:
        """Variables like `M_mean` and `M_stderr` over `t`, and passages over `path`."""
        rows: list[netcdf.Variable] = [("t", ("t",), self.t), *self._averages()]
        rows += constant_variables(self.constants)
        if self.first_passage:
            times = np.stack([passage.times for passage in self.first_passage.values()])
            rows.append(("first_passage", ("event", "path"), times))
            horizon = next(iter(self.first_passage.values())).horizon
            rows.append(("watched_until", ("path",), horizon))
        return rows

    @classmethod
    def restore(cls, record: dict[str, Any], arrays: netcdf.Arrays) -> PathEnsemble:
        """Restore the ensemble from the contents of its file."""
        averages, paths = cls._averages_of(record["names"], record["kept"], arrays)
        return cls(
            t=arrays["t"],
            **averages,
            path_status=tuple(Status(s) for s in record["path_status"]),
            first_passage={
                name: PassageTimes(arrays["first_passage"][e], arrays["watched_until"])
                for e, name in enumerate(record["events"])
            },
            paths=paths,
            layout=tuple(block_of(b) for b in record["layout"]),
            constants={name: arrays[f"constant_{name}"] for name in record["constants"]},
            widths=record["widths"],
            **outcome_of(record),
        )

"""Points of a sweep computed in one go, by whoever: a thread, a process, a node of a cluster."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.diagrams.phase_diagram import (
    STATUSES,
    is_point_failure,
    read_number,
    read_result,
)
from dmft.analysis.sweeps.points import Points
from dmft.analysis.sweeps.records import record_type
from dmft.analysis.sweeps.store import Store
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.progress import EXPECTED, is_cancelled


@dataclass(frozen=True)
class Task:
    """What is computed at every point; small enough to be sent along with each chunk.

    The measure may have a method ``many(points)``: an iterator over its results at these mappings
    of parameters, in their order, an exception for each point that raises one. Chunks are
    then computed by it. It ends early only where the parallel job is cancelled
    (`dmft.progress.is_cancelled`). `store` is the folder of an open store of this `identity`,
    `part` (i, n) of the points is computed, of which `total` remain in all chunks.
    """

    measure: Callable[..., Any]
    points: Points
    quantities: tuple[str, ...]
    store: str | None
    identity: Mapping[str, Any]
    part: tuple[int, int] = (0, 1)
    total: int = 0


@dataclass(frozen=True)
class Chunk:
    """Computed points: whole records without checksum, in the order of `numbers`."""

    numbers: NDArray[np.int64]
    records: NDArray[Any]
    messages: Mapping[tuple[int, int], str]
    seconds: float
    # A mistake in the measure, to be raised where the sweep was called.
    error: Exception | None = None


# Of each status, as `phase_diagram.STATUSES` numbers them.
CODES = {status: code for code, status in enumerate(STATUSES)}
_STORES: dict[tuple[str, str, tuple[int, int]], Store] = {}
# Two threads of one process share a handle, and so a shard.
_OPENING = threading.Lock()


class _Writing:
    """Records of a chunk while it is computed."""

    def __init__(self, task: Task, numbers: NDArray[np.int64]) -> None:
        self._type, self._keys = record_type(task.quantities), task.points.keys(numbers)
        self._rows: list[tuple[list[float], int, float]] = []
        self.messages: dict[tuple[int, int], str] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, values: list[float], status: Status, horizon: float, message: str) -> None:
        """Add the next point."""
        if message:
            key = self._keys[len(self._rows)]
            self.messages[int(key["high"]), int(key["low"])] = message
        self._rows.append((values, CODES[status], horizon))

    def records(self) -> NDArray[Any]:
        """All that was added: whole columns at once."""
        records = np.zeros(len(self), dtype=self._type)
        if len(self):
            for name in ("high", "low"):
                records[name] = self._keys[name][: len(self)]
            records["values"], records["status"], records["horizon"] = zip(*self._rows, strict=True)
        return records


def compute_chunk(task: Task, numbers: NDArray[np.int64]) -> Chunk:
    """Compute points and write them to the store; they are durable when this returns.

    A numerical failure of a point is its status. Points after Ctrl-C or after a mistake in the
    measure are left out.
    """
    began = time.perf_counter()
    EXPECTED.set(task.total)
    writing, error = _Writing(task, numbers), None
    where = task.points.all_at(numbers)
    for parameters, result in zip(where, _results(task, where), strict=False):
        try:
            if isinstance(result, Exception):
                raise result
            values, status, horizon, message = read(task, result)
        except Exception as failure:
            if not is_point_failure(failure):
                failure.add_note(f"at the point {parameters}")
                error = failure
                break
            values, status, horizon = [np.nan] * len(task.quantities), Status.NONFINITE, np.nan
            message = f"{type(failure).__name__}: {failure}"
        if is_cancelled():  # a run that was cut short may have been read as if it were whole
            break
        writing.put(values, status, horizon, message)
    records = writing.records()
    if task.store is not None and records.size:
        store_of(task).append(records, writing.messages)
    seconds = time.perf_counter() - began
    return Chunk(numbers[: records.size], records, writing.messages, seconds, error)


def _results(task: Task, points: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    """What the measure gives at each point: a result, or the exception that it raised."""
    many = getattr(task.measure, "many", None)
    if many is not None and len(points) > 1:
        count = 0
        try:
            for result in many(points):
                count += 1
                yield result
        except Exception as failure:
            yield failure
        if count < len(points) and not is_cancelled():
            yield BadParameter(f"many() gave {count} results of {len(points)} points")
        return
    for parameters in points:
        try:
            result = task.measure(**parameters)
        except Exception as failure:
            result = failure
        yield result


def read(task: Task, result: Any) -> tuple[list[float], Status, float, str]:
    """Values, status, horizon and message of what the measure gave at one point."""
    if isinstance(result, Mapping):
        if set(result) != set(task.quantities):
            raise BadParameter(
                f"the measure returned {sorted(result)}, but the sweep declares the quantities "
                f"{sorted(task.quantities)}: pass quantities="
            )
        values = [read_number(result[name]) for name in task.quantities]
        fine = bool(np.all(np.isfinite(values)))
        return values, Status.OK if fine else Status.NONFINITE, np.nan, ""
    if len(task.quantities) > 1:
        raise BadParameter(
            f"the measure returned {type(result).__name__}, but the sweep declares several "
            f"quantities {list(task.quantities)}: return a mapping"
        )
    point = read_result(result)
    return [point.value], point.status, point.horizon, point.message


def store_of(task: Task) -> Store:
    """Handle of the running process on the store of a task."""
    assert task.store is not None
    with _OPENING:
        if _which(task) not in _STORES:
            # Made by the driver: a worker that does not see it must not make one of its own.
            opened = Store.open(task.store, task.identity, task.quantities, task.part, make=False)
            _STORES[_which(task)] = opened
        return _STORES[_which(task)]


def forget_store(task: Task) -> None:
    """Close the files that the running process has of a store."""
    with _OPENING:
        if _which(task) in _STORES:
            _STORES.pop(_which(task)).close()


def _which(task: Task) -> tuple[str, str, tuple[int, int]]:
    """A worker outlives sweeps: the same folder may be another store, or another part, later."""
    return str(task.store), repr((task.identity, task.quantities)), task.part


def _after_fork() -> None:
    global _OPENING
    _OPENING = threading.Lock()  # a thread that held it is not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def killed_point(task: Task, number: np.int64, message: str) -> Chunk:
    """Record, in the store too, a point that cannot be computed because it ends its worker."""
    numbers = np.array([number], dtype=np.int64)
    writing = _Writing(task, numbers)
    writing.put([np.nan] * len(task.quantities), Status.NOT_CONVERGED, np.nan, message)
    records = writing.records()
    if task.store is not None:
        store_of(task).append(records, writing.messages)
    return Chunk(numbers, records, writing.messages, 0.0)

"""Points of a sweep computed in one go, by whatever runs such chunks: threads, processes, nodes."""

from __future__ import annotations

import contextvars
import functools
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.phase_diagram import (
    STATUSES,
    is_point_failure,
    read_number,
    read_result,
)
from dmft.analysis.sweeps.records import record_type
from dmft.analysis.sweeps.store import Store
from dmft.analysis.sweeps.sweep import Points
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.progress import EXPECTED, is_cancelled
from dmft.solvers.jobs import thread_count
from dmft.validation import shown


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


TRAVEL = (
    "the measure cannot be sent to other processes ({error}): define it at the top of a module "
    'that these can import, or use executor="threads"'
)


@dataclass
class Engine:
    """Anything that submits functions and returns futures with callbacks."""

    executor: Any
    workers: int
    # Makes another executor when this one breaks; None for those of the caller.
    renew: Callable[[], Any] | None = None

    @classmethod
    def of(cls, given: Any, workers: int | None) -> Engine:
        """Threads, processes, an executor, or a function that returns one."""
        count = thread_count(workers, "workers or threads")
        if isinstance(given, str) and given == "threads":
            return cls(ThreadPoolExecutor(count), count, lambda: ThreadPoolExecutor(count))
        if isinstance(given, str) and given == "processes":
            spawn = multiprocessing.get_context("spawn")

            def pool() -> Executor:
                return ProcessPoolExecutor(count, mp_context=spawn, initializer=_end_with_parent)

            return cls(pool(), count, pool)
        makes_one = callable(given) and not hasattr(given, "submit")
        executor = given() if makes_one else given
        # One of the caller's own is the caller's to shut down.
        needed = ("submit", "shutdown") if makes_one else ("submit",)
        if not all(hasattr(executor, name) for name in needed):
            raise BadParameter(
                f'executor = {shown(given)} must be "threads", "processes", an executor as in '
                "concurrent.futures, a dask.distributed.Client, or a function that returns one"
            )
        if makes_one:
            return cls(executor, count, given)
        return cls(executor, workers or _workers_of(executor), None)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        if self.renew is not None:
            self.executor.shutdown(wait=True, cancel_futures=True)

    @property
    def is_threads(self) -> bool:
        """True when chunks run in this process."""
        return isinstance(self.executor, ThreadPoolExecutor)

    @property
    def is_dask(self) -> bool:
        """True for a Dask client, which starts lost workers and chunks again by itself."""
        return hasattr(self.executor, "ncores")

    def submit(self, task: Task, numbers: NDArray[np.int64], context: contextvars.Context) -> Any:
        """Hand one chunk to the executor; only its own points travel to other processes."""
        if self.is_threads:
            return self.executor.submit(context.copy().run, compute_chunk, task, numbers)
        points = task.points.only(numbers)
        extra = {"pure": False} if self.is_dask else {}
        return self.executor.submit(compute_sent, self._sent(task), points, numbers, **extra)

    def _sent(self, task: Task) -> Task | bytes:
        """A task without its points, in bytes: what cannot be loaded there is told, not fatal."""
        bare = replace(task, points=NOWHERE)
        try:
            if self.is_dask:  # its scheduler then needs not know the measure, only its workers
                from distributed.protocol.pickle import dumps

                return bytes(dumps(bare))
            return pickle.dumps(bare)
        except Exception as error:
            if isinstance(self.executor, ProcessPoolExecutor):
                raise BadParameter(TRAVEL.format(error=error)) from error
            return bare  # the executor may know better

    def replace(self) -> None:
        """Take a new executor after the old one broke."""
        if self.renew is None:
            raise BadParameter(
                "the executor broke (a worker died) and cannot be used again; pass a function "
                'that returns one, or "processes". Finished points are in the store: repeat the '
                "same call"
            )
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.executor = self.renew()


NOWHERE = Points((), (0,), (), False)


def compute_sent(sent: Task | bytes, points: Points, numbers: NDArray[np.int64]) -> Chunk:
    """Compute points that were sent here; `numbers` are theirs in the whole sweep."""
    task = _received(sent) if isinstance(sent, bytes) else sent
    chunk = compute_chunk(replace(task, points=points), np.arange(len(points)))
    return replace(chunk, numbers=numbers[chunk.numbers])


@functools.lru_cache(maxsize=4)
def _received(sent: bytes) -> Task:
    try:
        task: Task = pickle.loads(sent)
    except Exception as error:
        raise BadParameter(TRAVEL.format(error=error)) from error
    return task


def is_infrastructure(error: Exception) -> bool:
    """Whether an error is that of a worker or of the engine, not of the points."""
    names = {"KilledWorker", "CancelledError", "CommClosedError", "FutureCancelledError"}
    return isinstance(error, BrokenExecutor) or type(error).__name__ in names


def _end_with_parent() -> None:
    """End this worker when the driver is killed, which otherwise leaves it waiting for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _workers_of(executor: Any) -> int:
    """Number of workers of somebody's executor."""
    if hasattr(executor, "ncores"):  # a dask client
        return max(1, sum(executor.ncores().values()))
    return int(getattr(executor, "_max_workers", 0) or os.cpu_count() or 1)

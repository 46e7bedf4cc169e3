"""What runs the chunks of a sweep: threads, processes, anything that submits functions."""

from __future__ import annotations

import contextvars
import functools
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.sweeps.chunk import Chunk, Task, compute_chunk
from dmft.analysis.sweeps.points import Points
from dmft.errors import BadParameter
from dmft.solvers.jobs import thread_count
from dmft.validation import shown

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

"""A measure at many points: over threads, processes or a cluster; killed and carried on."""

from __future__ import annotations

import contextvars
import operator
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.analysis.sweeps.chunk import Chunk, Task, forget_store, killed_point
from dmft.analysis.sweeps.engine import Engine, is_infrastructure
from dmft.analysis.sweeps.lookup import look_up
from dmft.analysis.sweeps.named import name_of
from dmft.analysis.sweeps.points import Points, as_points
from dmft.analysis.sweeps.store import Store
from dmft.analysis.sweeps.sweep import MISSING, Sweep
from dmft.errors import BadParameter
from dmft.names import VERSION
from dmft.progress import CANCELLED, Progress, ProgressOption

# Chunks aim at this many seconds: less, and the engine costs more than the points.
CHUNK_SECONDS = 0.2
# With many workers at longer ones, so that all tasks of a store together ask its disk, and one
# scheduler, for no more than this many chunks a second; but no worker loses more than a minute.
CHUNKS_PER_SECOND = 200
LONGEST_CHUNK_SECONDS = 60.0
LARGEST_CHUNK = 1 << 16
# Chunks in flight for each worker, so that none waits for the driver.
AHEAD = 2
# The last chunks are not smaller than this part of the others.
SMALLEST_SHARE = 8
# A point that ended its worker this often is not tried again.
ATTEMPTS = 3
WAKE_SECONDS = 0.2
KILLED = f"crashed its worker {ATTEMPTS} times"


def run_sweep(
    points: Mapping[str, ArrayLike] | Sequence[Mapping[str, Any]] | Points,
    measure: Callable[..., Any],
    *,
    quantities: Sequence[str] = ("value",),
    store: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    executor: Any = "threads",
    workers: int | None = None,
    part: tuple[int, int] = (0, 1),
    progress: ProgressOption = None,
    provenance: Mapping[str, Any] | None = None,
) -> Sweep:
    """Evaluate `measure(**parameters)` at points; see `dmft.sweep`."""
    where = _part(as_points(points), part)
    names = check_quantities(quantities, where.names)
    label = dict(identity or {})
    if "measure" not in label:
        label = {"measure": name_of(measure), **label}
    # Workers may stand in other folders.
    folder = None if store is None else str(Path(store).absolute())
    task = Task(measure, where, names, folder, label, part)
    numbers, torn = np.arange(len(where)), 0
    opened = None if folder is None else Store.open(folder, label, names, part)
    board = _Board(where, names)
    with Engine.of(executor, workers) as engine:
        if opened is None:
            _drive(task, numbers, engine, board, progress)
        else:
            with opened.driver():
                known = look_up(opened, where, numbers, board.fill)
                board.messages.update(known.messages)
                torn = known.torn
                try:
                    _drive(task, numbers[~known.have], engine, board, progress)
                finally:
                    forget_store(task)
    return board.result(torn, {"dmft": VERSION, **label, **(provenance or {})})


def collect(points: Any, store: Store, provenance: Mapping[str, Any] | None = None) -> Sweep:
    """What a store holds of these points; nothing is computed."""
    where = as_points(points)
    board = _Board(where, store.quantities)
    known = look_up(store, where, np.arange(len(where)), board.fill)
    board.messages.update(known.messages)
    return board.result(known.torn, {"dmft": VERSION, **store.identity, **(provenance or {})})


def check_quantities(quantities: Sequence[str], parameters: Sequence[str]) -> tuple[str, ...]:
    """Names of the numbers of a point: different ones, which nothing else has in a data set."""
    names = (quantities,) if isinstance(quantities, str) else tuple(quantities)
    taken = [n for n in names if names.count(n) > 1 or n in parameters]
    if taken or not names:
        raise BadParameter(
            f"quantities = {names!r} must be at least one name, without duplicates and different "
            f"from the parameters {tuple(parameters)!r}"
        )
    return names


def _part(points: Points, part: tuple[int, int]) -> Points:
    """The points of one of several tasks: none holds the places of all."""
    try:
        index, count = (operator.index(n) for n in part)
    except (TypeError, ValueError):
        index = count = 0
    if not (count >= 1 and 0 <= index < count):
        raise BadParameter(f"part = {part!r} must be (i, n) with 0 <= i < n")
    return points if count == 1 else points.only(np.arange(index, len(points), count))


class _Board:
    """Where results are written, each in its own place."""

    def __init__(self, points: Points, quantities: tuple[str, ...]) -> None:
        size = len(points)
        self.points, self.quantities = points, quantities
        self.values = np.full((size, len(quantities)), np.nan)
        self.horizon = np.full(size, np.nan)
        self.codes = np.full(size, MISSING, dtype=np.uint8)
        self.messages: dict[int, str] = {}
        self.computed = 0

    def write(self, chunk: Chunk) -> None:
        """Fill in a computed chunk."""
        self.fill(chunk.numbers, chunk.records)
        self.computed += chunk.numbers.size
        if not chunk.messages:
            return
        keys = zip(chunk.records["high"].tolist(), chunk.records["low"].tolist(), strict=True)
        for number, key in zip(chunk.numbers.tolist(), keys, strict=True):
            if text := chunk.messages.get(key):
                self.messages[number] = text

    def fill(self, numbers: NDArray[np.int64], records: NDArray[Any]) -> None:
        """Fill in records."""
        self.values[numbers], self.horizon[numbers] = records["values"], records["horizon"]
        self.codes[numbers] = records["status"]

    def result(self, torn: int, provenance: Mapping[str, Any]) -> Sweep:
        """The record of the sweep."""
        shape = self.points.shape
        columns = {n: self.values[:, i].reshape(shape) for i, n in enumerate(self.quantities)}
        return Sweep(
            self.points, columns, self.codes.reshape(shape), self.horizon.reshape(shape),
            dict(sorted(self.messages.items())), self.computed, torn, provenance,
        )  # fmt: skip


def _drive(
    task: Task, numbers: NDArray[np.int64], engine: Engine, board: _Board, progress: ProgressOption
) -> None:
    """Compute these points; after Ctrl-C what is done stays on the board."""
    task = replace(task, total=numbers.size)
    driver = _Driver(task, engine, board, [numbers] if numbers.size else [], numbers.size)
    reused = len(task.points) - numbers.size
    kept = f" ({reused} of {len(task.points)} points from the store)" if reused else ""
    with Progress(progress, ", ".join(task.quantities) + kept) as bar:
        try:
            driver.run(bar)
        except KeyboardInterrupt:
            driver.stop()
        except BaseException:
            driver.stop()
            raise


class _Driver:
    """Keeps the workers busy with chunks of a fitting size."""

    def __init__(
        self,
        task: Task,
        engine: Engine,
        board: _Board,
        waiting: list[NDArray[np.int64]],
        total: int,
    ) -> None:
        self.task, self.engine, self.board = task, engine, board
        self.waiting, self.total = waiting, total
        self.finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.flying: dict[Any, NDArray[np.int64]] = {}
        self.size, self.done = 1, 0
        self.attempts: dict[int, int] = {}
        self.suspects: list[NDArray[np.int64]] = []
        self.cancel = threading.Event()
        self.context = contextvars.copy_context()
        self.context.run(CANCELLED.set, self.cancel)

    def run(self, bar: Progress) -> None:
        """Submit and collect until nothing is left."""
        while self.waiting or self.suspects or self.flying:
            self.submit()
            try:
                future = self.finished.get(timeout=WAKE_SECONDS)
            except queue.Empty:
                continue
            self.collect(future)
            bar.update(self.done / max(self.total, 1), f"{self.done} of {self.total} points")

    def submit(self) -> None:
        """Fill the workers; points that were in flight when a worker died go one by one."""
        if self.suspects:
            if not self.flying:
                self.send(self.suspects.pop())
            return
        while self.waiting and len(self.flying) < AHEAD * self.engine.workers:
            head = self.waiting[-1]
            # Shares become small at the end, so that no worker is left alone with a whole chunk.
            share = head.size // (AHEAD * self.engine.workers)
            size = min(self.size, max(share, self.size // SMALLEST_SHARE, 1))
            chunk, rest = head[:size], head[size:]
            if rest.size:
                self.waiting[-1] = rest
            else:
                self.waiting.pop()
            self.send(chunk)

    def send(self, chunk: NDArray[np.int64]) -> None:
        """Hand one chunk to the executor."""
        try:
            future = self.engine.submit(self.task, chunk, self.context)
        except BrokenExecutor:
            self.broke(chunk)
            return
        self.flying[future] = chunk
        future.add_done_callback(self.finished.put)

    def collect(self, future: Any) -> None:
        """Take one finished future."""
        if future not in self.flying:  # of an executor that broke
            return
        chunk = self.flying.pop(future)
        try:
            result: Chunk = future.result()
        except Exception as error:  # of the engine: those of the measure come as results
            if not is_infrastructure(error):
                raise
            self.broke(chunk)
            return
        self.board.write(result)
        self.done += result.numbers.size
        if result.error is not None:
            raise result.error
        if result.numbers.size:
            each = result.seconds / result.numbers.size
            together = self.engine.workers * self.task.part[1] / CHUNKS_PER_SECOND
            seconds = min(max(CHUNK_SECONDS, together), LONGEST_CHUNK_SECONDS)
            self.size = int(np.clip(seconds / max(each, 1e-7), 1, LARGEST_CHUNK))

    def broke(self, chunk: NDArray[np.int64]) -> None:
        """Try what was in flight when a worker died again, point by point."""
        lost = [chunk]
        if not self.engine.is_dask:
            lost += self.flying.values()
            self.flying.clear()
            self.engine.replace()
        alone = sum(c.size for c in lost) == 1
        for number in np.concatenate(lost):
            count = self.attempts.get(int(number), 0) + int(alone)
            self.attempts[int(number)] = count
            if count >= ATTEMPTS:
                self.give_up(number)
            else:
                self.suspects.append(np.array([number]))

    def give_up(self, number: np.int64) -> None:
        """Record a point that always ends its worker."""
        self.board.write(killed_point(self.task, number, KILLED))
        self.done += 1

    def stop(self) -> None:
        """Ask all runs to end, and keep what is finished."""
        self.cancel.set()
        for future in self.flying:
            future.cancel()
        for future in list(self.flying):
            if self.engine.is_threads and not future.cancelled():
                self.board.write(future.result())

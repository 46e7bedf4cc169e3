"""A measure at many points: over threads, processes or a cluster; killed and carried on."""

from __future__ import annotations

import contextvars
import operator
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.analysis.sweeps.chunk import (
    Chunk,
    Engine,
    Task,
    forget_store,
    is_infrastructure,
    killed_point,
)
from dmft.analysis.sweeps.named import name_of
from dmft.analysis.sweeps.records import read_records, texts_of
from dmft.analysis.sweeps.store import Store
from dmft.analysis.sweeps.sweep import KEY, MISSING, Points, Sweep, as_points
from dmft.errors import BadParameter
from dmft.names import VERSION
from dmft.progress import CANCELLED, Progress, ProgressOption

Place = Callable[[NDArray[np.int64], NDArray[Any]], None]


class Index:
    """Keys in order, to find the places of many others among them."""

    def __init__(self, keys: NDArray[Any]) -> None:
        order = np.argsort(keys["high"])
        high = keys["high"][order]
        if np.any(high[1:] == high[:-1]):  # the same point twice, or one chance in many
            order = np.lexsort((keys["low"], keys["high"]))
            high = keys["high"][order]
        self.order, self.high, self.low = order, high, keys["low"][order]

    def find(self, keys: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (place here, place in `keys`) of equal keys, all of them.

        Pairs with the same place here follow one another, in the order of `keys`.
        """
        among = np.argsort(keys["high"])  # in order: neighbours in memory are asked for together
        high = keys["high"][among]
        if np.any(high[1:] == high[:-1]):
            among = np.argsort(keys["high"], kind="stable")
        low = keys["low"][among]
        here = np.searchsorted(self.high, high)
        places, others = [], []
        while among.size:
            inside = here < self.high.size
            inside[inside] = self.high[here[inside]] == high[inside]
            here, high, low, among = here[inside], high[inside], low[inside], among[inside]
            same = self.low[here] == low
            places.append(self.order[here[same]])
            others.append(among[same])
            here = here + 1
        empty = np.empty(0, dtype=np.int64)
        return np.concatenate([empty, *places]), np.concatenate([empty, *others])


@dataclass
class Lookup:
    """What was found of some points (`have`, messages by position), and what was left out.

    `torn` counts damaged records or lines, `repeated` records of points that were found already.
    """

    have: NDArray[np.bool_]
    messages: dict[int, str] = field(default_factory=dict)
    torn: int = 0
    repeated: int = 0


def look_up(store: Store, points: Points, numbers: NDArray[np.int64], place: Place) -> Lookup:
    """Hand each record of these points to `place(places among numbers, records)`, once.

    Shards of part i of n are first compared with each n-th number from the i-th on: the keys of few
    points are in memory at a time. What is not among these is compared with all that is missing.
    """
    found = Lookup(np.zeros(numbers.size, dtype=bool))
    strangers: list[Path] = []
    for (index, count), shards in store.shards_by_part().items():
        # A handle for a part was given the points of this part alone.
        whole = count == 1 or store.part != (0, 1)
        places = np.arange(0 if whole else index, numbers.size, 1 if whole else count)
        wanted = Index(points.keys(numbers[places]))
        for shard in shards:
            known = _compare(shard, store, wanted, places, found, place)
            if not known and not whole:
                strangers.append(shard)
    missing = np.flatnonzero(~found.have)
    if strangers and missing.size:
        wanted, torn, repeated = Index(points.keys(numbers[missing])), found.torn, found.repeated
        for shard in strangers:
            _compare(shard, store, wanted, missing, found, place)
        found.torn, found.repeated = torn, repeated
    return found


def _compare(
    shard: Path, store: Store, wanted: Index, places: NDArray[np.int64], found: Lookup, place: Place
) -> bool:
    """Find the records of a shard; whether all of them are wanted."""
    known = True
    texts, lost = texts_of(shard)
    found.torn += lost
    for records, torn in read_records(shard, store.kind, texts):
        found.torn += torn
        here, there = wanted.find(records)
        asked = np.zeros(records.size, dtype=bool)
        asked[there] = True
        known = known and bool(asked.all())
        here = places[here]
        fresh = ~found.have[here]
        fresh[1:] &= here[1:] != here[:-1]
        found.repeated += int(here.size - np.count_nonzero(fresh))
        found.have[here[fresh]] = True
        place(here[fresh], records[there[fresh]])
    if texts:
        keys = np.array(list(texts), dtype="<u8").view(KEY).reshape(-1)
        words = list(texts.values())
        for at, n in zip(*wanted.find(keys), strict=True):
            found.messages[int(places[at])] = words[n]
    return known


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

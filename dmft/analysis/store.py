"""Results of a sweep on disk: append-only shards of checked records. The store is the truth.

A store is a folder. `manifest.json` says what was computed; each process that writes has a shard of
its own, records of one size with a checksum each, so that two processes never touch one file and a
record that was cut off by a crash is seen and left out. What is said in words (why a point failed)
stands in a text file beside the shard.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter

FORMAT = 1
# Odd multipliers of the checksum, fixed for ever; one for each 8-byte word of a record.
WORDS = np.array([2 * (0x9E3779B97F4A7C15 * (n + 1) % 2**63) + 1 for n in range(64)], dtype="<u8")


def record_type(quantities: Sequence[str]) -> np.dtype[Any]:
    """Layout of a record: key, values, horizon, status, checksum; all words of 8 bytes."""
    return np.dtype(
        [
            ("high", "<u8"), ("low", "<u8"), ("values", "<f8", (len(quantities),)),
            ("horizon", "<f8"), ("status", "<u8"), ("check", "<u8"),
        ]
    )  # fmt: skip


def checksums(records: NDArray[Any]) -> NDArray[np.uint64]:
    """Checksum of each record without its last word: a linear hash of its words."""
    words = records.view("<u8").reshape(records.size, -1)[:, :-1]
    if words.shape[1] > WORDS.size:
        raise BadParameter(f"a record holds at most {WORDS.size - 5} quantities")
    with np.errstate(over="ignore"):
        mixed = words ^ (words >> np.uint64(29))
        total: NDArray[np.uint64] = (mixed * WORDS[: words.shape[1]]).sum(axis=1, dtype="<u8")
        return total + np.uint64(1)  # a record of zeros, as of an unwritten page, is no record


@dataclass(frozen=True)
class Contents:
    """What a store holds.

    Attributes
    ----------
    records : structured array
        The first whole record of each key, sorted by key.
    messages : mapping of (high, low) to str
    torn : int
        Records or lines that were cut off or damaged, and left out.
    repeated : int
        Records of keys that were there already.
    shards : int
    """

    records: NDArray[Any]
    messages: Mapping[tuple[int, int], str]
    torn: int
    repeated: int
    shards: int

    def find(self, keys: NDArray[Any]) -> NDArray[np.int64]:
        """Places of keys among the records; -1 where there is none."""
        high = self.records["high"]
        place = np.searchsorted(high, keys["high"])
        inside = place < high.size
        found = np.full(keys.size, -1, dtype=np.int64)
        at = place[inside]
        same = (high[at] == keys["high"][inside]) & (self.records["low"][at] == keys["low"][inside])
        found[np.flatnonzero(inside)[same]] = at[same]
        return found


@dataclass
class Store:
    """A folder of results; `Store.open` makes or checks it.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from dmft.analysis.store import Store, record_type
    >>> store = Store.open(tempfile.mkdtemp(), {"measure": "square"}, ("value",))
    >>> record = np.zeros(1, dtype=record_type(store.quantities))
    >>> record["values"] = 4.0
    >>> store.append(record, {})
    >>> store.read().records["values"].tolist()
    [[4.0]]
    """

    path: Path
    identity: Mapping[str, Any]
    quantities: tuple[str, ...]
    # The part of the points that this handle computes, (i, n).
    part: tuple[int, int] = (0, 1)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _shard: BinaryIO | None = field(default=None, repr=False)
    _words: BinaryIO | None = field(default=None, repr=False)
    _owner: int = field(default=0, repr=False)

    @classmethod
    def open(
        cls,
        path: str | Path,
        identity: Mapping[str, Any],
        quantities: Sequence[str],
        part: tuple[int, int] = (0, 1),
    ) -> Store:
        """Make a store, or open one that holds results of the same sweep.

        A handle for a part of the points reads only shards that may hold points of this part: a
        thousand tasks that start at once do not all read the whole store.

        Raises
        ------
        BadParameter
            For a folder that cannot be written, that is no store, or holds another sweep.
        """
        folder = Path(path)
        wanted = {"format": FORMAT, "quantities": list(quantities), "identity": dict(identity)}
        manifest = folder / "manifest.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not manifest.exists():
                if any(y.name != "lock" for y in folder.iterdir() if not y.name.startswith(".")):
                    raise BadParameter(
                        f"{folder} is not empty and no store: it has no manifest.json; give "
                        "another folder"
                    )
                _write_once(manifest, json.dumps(wanted, indent=1, sort_keys=True))
        except OSError as error:
            raise BadParameter(f"cannot write the store {folder}: {error.strerror}") from error
        found = read_manifest(folder)
        if found != json.loads(json.dumps(wanted)):
            raise BadParameter(f"{folder} holds another sweep: {_difference(found, wanted)}")
        if not os.access(folder, os.W_OK):
            raise BadParameter(f"cannot write the store {folder}: permission denied")
        return cls(folder, identity, tuple(quantities), part)

    def append(self, records: NDArray[Any], messages: Mapping[tuple[int, int], str]) -> None:
        """Write records to this process's shard; they are on the disk when this returns."""
        records = records.copy()
        records["check"] = checksums(records)
        with self._lock:
            shard, words = self._files()
            if messages:
                for (high, low), text in messages.items():
                    line = json.dumps([high, low, text]).encode()
                    words.write(b"%08x %s\n" % (zlib.crc32(line), line))
                words.flush()
                os.fsync(words.fileno())
            shard.write(records.tobytes())
            shard.flush()
            os.fsync(shard.fileno())

    def read(self) -> Contents:
        """All whole records of all shards."""
        kind = record_type(self.quantities)
        parts: list[NDArray[Any]] = []
        messages: dict[tuple[int, int], str] = {}
        torn = 0
        shards = [y for y in sorted(self.path.glob("shard-*.bin")) if self._concerns(y.name)]
        for shard in shards:
            raw = shard.read_bytes()
            whole = len(raw) // kind.itemsize
            torn += len(raw) % kind.itemsize > 0
            records = np.frombuffer(raw, dtype=kind, count=whole)
            good = checksums(records) == records["check"]
            torn += int(np.count_nonzero(~good))
            parts.append(records[good])
            for key, text, fine in _lines(shard.with_suffix(".txt")):
                torn += not fine
                if fine:
                    messages[key] = text
        every = np.concatenate(parts) if parts else np.empty(0, dtype=kind)
        order = np.lexsort((every["low"], every["high"]))
        every = every[order]
        first = np.ones(every.size, dtype=bool)
        first[1:] = (every["high"][1:] != every["high"][:-1]) | (
            every["low"][1:] != every["low"][:-1]
        )
        return Contents(
            every[first], messages, torn, int(every.size - np.count_nonzero(first)), len(shards)
        )

    @contextlib.contextmanager
    def driver(self, alone: bool = True) -> Iterator[None]:
        """Hold the store as the one driver, or as one of many tasks that share the points.

        Raises
        ------
        BadParameter
            When another process drives this store.
        """
        try:
            import fcntl
        except ImportError:  # no locks on this system: shards keep two drivers apart all the same
            yield
            return
        with (self.path / "lock").open("a") as file:
            mode = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
            try:
                fcntl.flock(file, mode | fcntl.LOCK_NB)
            except OSError as error:
                raise BadParameter(
                    f"another sweep is running on {self.path}: wait for it, or give another store"
                ) from error
            yield

    def close(self) -> None:
        """Close the files of this process."""
        with self._lock:
            for file in (self._shard, self._words):
                if file is not None:
                    file.close()
            self._shard = self._words = None

    def _concerns(self, name: str) -> bool:
        """Whether a shard may hold points of this part: not one of the same parts but this."""
        index, count = name.split("-", 2)[1].split("of")
        return int(count) != self.part[1] or int(index) == self.part[0]

    def _files(self) -> tuple[BinaryIO, BinaryIO]:
        """Files of the running process; a fork must not write to its parent's."""
        # A write that failed half-way (no space left) must not shift the records behind it.
        whole = (
            self._shard is None or self._shard.tell() % record_type(self.quantities).itemsize == 0
        )
        mine = self._shard is not None and self._owner == os.getpid() and whole
        if not mine or self._shard is None or self._words is None:
            index, count = self.part
            whose = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            name = f"shard-{index}of{count}-{whose}"
            self._shard = (self.path / f"{name}.bin").open("ab")
            self._words = (self.path / f"{name}.txt").open("ab")
            self._shard.seek(0, os.SEEK_END)
            self._owner = os.getpid()
        return self._shard, self._words


def read_manifest(path: str | Path) -> dict[str, Any]:
    """What a store says of itself.

    Raises
    ------
    BadParameter
        When there is no store.
    """
    manifest = Path(path) / "manifest.json"
    try:
        found: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadParameter(f"{path} is no store: {manifest} cannot be read ({error})") from error
    return found


def open_store(path: str | Path) -> Store:
    """Open a store as it is, to read it from any process."""
    found = read_manifest(path)
    return Store(Path(path), found["identity"], tuple(found["quantities"]))


def _write_once(target: Path, text: str) -> None:
    """Write a file aside and link it into place; whoever is first wins."""
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    aside.write_text(text, encoding="utf-8")
    with contextlib.suppress(FileExistsError):
        os.link(aside, target)
    aside.unlink()


def _lines(path: Path) -> Iterator[tuple[tuple[int, int], str, bool]]:
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n"):
        check, _, body = line.partition(b" ")
        if not line:
            continue
        try:
            fine = int(check, 16) == zlib.crc32(body)
            high, low, text = json.loads(body) if fine else (0, 0, "")
        except ValueError:
            fine, high, low, text = False, 0, 0, ""
        yield (high, low), text, fine


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """First entry in which two manifests differ, in words."""
    pairs = {**wanted, **wanted["identity"]}
    others = {**found, **found.get("identity", {})}
    for name in sorted(set(pairs) | set(others)):
        if name != "identity" and pairs.get(name) != others.get(name):
            return f"its {name} is {others.get(name)!r:.100}, here {pairs.get(name)!r:.100}"
    return "its manifest differs"

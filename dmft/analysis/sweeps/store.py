"""Results of a sweep on disk: append-only shards of checked records. The store is the truth.

A store is a folder. `manifest.json` says what was computed; each process that writes has a shard of
its own, records of one size with a checksum each, so that two processes never touch one file and a
record that was cut off by a crash is seen and left out. What is said in words (why a point failed)
stands in a text file beside the shard.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
import threading
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.sweeps.records import (
    PARTS,
    SAID,
    WORDS,
    Key,
    checksums,
    create,
    hold,
    read_records,
    record_type,
    texts_of,
    write_all,
    write_message,
    write_once,
)
from dmft.errors import BadParameter
from dmft.netcdf import checked_path
from dmft.solvers.checkpoint import mismatch, words_of

# 2: keys of points are made for whole columns at once. `STATUSES` are part of it, by their places.
# 3: records say whether there is a message. What 2 wrote is read, and carried on.
FORMAT, READ = 3, (2, 3)
SHARD = re.compile(r"shard-(\d+)of(\d+)-.*\.bin")


@dataclass(frozen=True)
class Contents:
    """What a store holds: the first whole record of each key, sorted by key, and messages by key.

    `torn` counts records or lines that are cut off or damaged, `repeated` records of known keys.
    """

    records: NDArray[Any]
    messages: Mapping[Key, str]
    torn: int
    repeated: int
    shards: int


@dataclass
class _Shard:
    """Open files of a writer."""

    path: Path
    file: int
    words: int | None = None
    # Bytes of whole records; appends that are written, and those known to be on the disk.
    size: int = 0
    written: int = 0
    synced: int = 0
    failure: OSError | None = None


@dataclass(eq=False)
class Store:
    """A folder of results; `Store.open` makes or checks it."""

    path: Path
    identity: Mapping[str, Any]
    quantities: tuple[str, ...]
    # The part of the points that this handle computes, (i, n).
    part: tuple[int, int] = (0, 1)
    kind: np.dtype[Any] = field(init=False, repr=False)
    _shard: _Shard | None = field(default=None, init=False, repr=False)
    _writing: threading.Lock = field(init=False, repr=False)
    _syncing: threading.Lock = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.kind = record_type(self.quantities)
        self.renew()
        _HANDLES.add(self)

    def renew(self) -> None:
        """Begin without files; a fork must not write to its parent's, nor wait for its threads."""
        self._shard, self._writing, self._syncing = None, threading.Lock(), threading.Lock()

    @classmethod
    def open(
        cls,
        path: str | Path,
        identity: Mapping[str, Any],
        quantities: Sequence[str],
        part: tuple[int, int] = (0, 1),
        make: bool = True,
    ) -> Store:
        """Make a store, or open one that holds results of the same sweep.

        A handle for a part of the points reads only shards that may hold points of this part: a
        thousand tasks that start at once do not all read the whole store. Without `make` the store
        must be there.
        """
        folder = checked_path(path)
        try:
            wanted = json.dumps(
                _manifest(identity, quantities), indent=1, sort_keys=True, allow_nan=False
            )
        except (TypeError, ValueError) as error:
            raise BadParameter(
                f"identity = {dict(identity)!r:.200} cannot be stored ({error}): use finite "
                "numbers, strings, lists and mappings of these"
            ) from error
        manifest = folder / "manifest.json"
        if not make and not manifest.is_file():
            raise BadParameter(
                f"the store {folder} does not exist on {socket.gethostname()}: all workers must "
                "use the same folder on a shared file system"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not manifest.exists():
                if any(y.name != "lock" for y in folder.iterdir() if not y.name.startswith(".")):
                    raise BadParameter(
                        f"{folder} is not empty and is not a store (it has no manifest.json); "
                        "choose another folder"
                    )
                write_once(manifest, wanted)
        except OSError as error:
            raise _unwritable(folder, error) from error
        _compare(folder, json.loads(wanted))
        if not os.access(folder, os.W_OK):
            raise BadParameter(f"cannot write the store {folder}: permission denied")
        return cls(folder, identity, tuple(quantities), part)

    def append(self, records: NDArray[Any], messages: Mapping[Key, str]) -> None:
        """Write records to this process's shard; they are on the disk when this returns.

        Threads that append at the same time share the waiting for the disk.
        """
        records = records.copy()
        if messages:
            keys = zip(records["high"].tolist(), records["low"].tolist(), strict=True)
            said = np.fromiter((key in messages for key in keys), dtype=bool, count=records.size)
            records["status"][said] |= SAID
        records["check"] = checksums(records)
        try:
            with self._writing:
                shard = self._files()
                lines = b"".join(write_message(key, text) for key, text in messages.items())
                self._write(shard, lines, records.tobytes())
                shard.written += 1
                ticket = shard.written
            with self._syncing:
                if shard.synced < ticket:
                    self._sync(shard)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def read(self) -> Contents:
        """All whole records of all shards, in memory at once; `look_up` reads large stores."""
        parts: list[NDArray[Any]] = [np.empty(0, dtype=self.kind)]
        messages: dict[Key, str] = {}
        torn = 0
        shards = [path for paths in self.shards_by_part().values() for path in paths]
        for path in shards:
            texts, lost = texts_of(path)
            messages |= texts
            torn += lost
            for records, damaged in read_records(path, self.kind, texts):
                parts.append(records)
                torn += damaged
        every = np.concatenate(parts)
        every = every[np.lexsort((every["low"], every["high"]))]
        first = np.ones(every.size, dtype=bool)
        first[1:] = (np.diff(every["high"]) != 0) | (np.diff(every["low"]) != 0)
        repeated = int(every.size - np.count_nonzero(first))
        return Contents(every[first], messages, torn, repeated, len(shards))

    def shards_by_part(self) -> dict[tuple[int, int], list[Path]]:
        """Shards that may hold points of this handle, by the part that they were written for.

        Part i of n and part j of m share points only where i - j is a multiple of gcd(n, m): tasks
        of as many parts have their own, and twice as many read two shards, not all.
        """
        groups: dict[tuple[int, int], list[Path]] = {}
        try:
            with os.scandir(self.path) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as error:
            raise BadParameter(f"cannot read the store {self.path}: {error.strerror}") from error
        for name in names:
            match = SHARD.fullmatch(name)
            if match:
                part = (int(match[1]), int(match[2]))
                self._check_shard(name, part)
                if (part[0] - self.part[0]) % math.gcd(part[1], self.part[1]) == 0:
                    groups.setdefault(part, []).append(self.path / name)
        return dict(sorted(groups.items()))

    def _check_shard(self, name: str, part: tuple[int, int]) -> None:
        """Refuse what has the name of a shard and is none: its points would be missing."""
        path = self.path / name
        said = ""
        if not (part[0] < part[1] < PARTS):
            said = f"there is no part {part[0]} of {part[1]}"
        elif not path.is_file():
            said = "it is no file"
        elif not os.access(path, os.R_OK):
            said = "it cannot be read"
        if said:
            raise BadParameter(
                f"{path} is not a shard of this store ({said}): move it out of the folder"
            )

    @contextlib.contextmanager
    def driver(self) -> Iterator[None]:
        """Hold the points of this handle: all, or those of its part."""
        with hold(self.path, self.part):
            yield

    def close(self) -> None:
        """Close the files of this process."""
        with self._writing, self._syncing:
            self._abandon()

    def _abandon(self) -> None:
        shard, self._shard = self._shard, None
        if shard is not None:
            with contextlib.suppress(OSError):
                self._sync(shard)
            os.close(shard.file)
            if shard.words is not None:
                os.close(shard.words)

    def _files(self) -> _Shard:
        """Files of the running process."""
        if self._shard is not None and not self._shard.path.exists():
            # The folder was removed: what is written now must be found in what is there now.
            with self._syncing:
                self._abandon()
            _compare(self.path, json.loads(json.dumps(_manifest(self.identity, self.quantities))))
        if self._shard is not None and self._shard.failure is not None:
            with self._syncing:
                self._abandon()
        if self._shard is None:
            index, count = self.part
            host = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:64]
            whose = f"{host}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
            path = self.path / f"shard-{index}of{count}-{whose}.bin"
            self._shard = _Shard(path, create(path))
        return self._shard

    def _sync(self, shard: _Shard) -> None:
        """Wait for the disk. It tells a failure once: who waits must not take the next for all."""
        if shard.failure is not None:
            raise shard.failure
        upto = shard.written
        try:
            os.fsync(shard.file)
        except OSError as error:
            shard.failure = error
            raise
        shard.synced = upto

    def _write(self, shard: _Shard, lines: bytes, data: bytes) -> None:
        """Words before numbers: no point is known without what it says."""
        try:
            if lines:
                if shard.words is None:  # most sweeps have nothing to say: no file for it
                    shard.words = create(shard.path.with_suffix(".txt"))
                write_all(shard.words, lines)
                os.fsync(shard.words)
            write_all(shard.file, data)
        except OSError:
            # No room half-way: a piece of a record must not shift those behind it.
            with self._syncing:
                with contextlib.suppress(OSError):
                    os.ftruncate(shard.file, shard.size)
                self._abandon()
            raise
        shard.size += len(data)


_HANDLES: weakref.WeakSet[Store] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_HANDLES):
        store.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def read_manifest(path: str | Path) -> dict[str, Any]:
    """What a store says of itself."""
    manifest = Path(path) / "manifest.json"
    try:
        found: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadParameter(f"{path} is not a store: {manifest} cannot be read ({error})") from error
    if not _is_manifest(found):
        raise BadParameter(f"{path} is not a store: {manifest} lacks required entries")
    if found["format"] not in READ:
        raise BadParameter(
            f"the store {path} has the format {found['format']}, but this version of dmft reads "
            f"and writes {FORMAT}: use the version that wrote it, or choose another folder"
        )
    return found


def _is_manifest(found: Any) -> bool:
    """Whether this is what a manifest holds: a damaged one may hold anything."""
    if not isinstance(found, dict) or not isinstance(found.get("identity"), dict):
        return False
    names, form = found.get("quantities"), found.get("format")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    words = found.get("words", {})
    if not isinstance(words, dict) or not all(isinstance(y, dict) for y in words.values()):
        return False
    return isinstance(form, int) and 0 < len(set(names)) == len(names) <= WORDS.size - 4


def open_store(
    path: str | Path,
    identity: Mapping[str, Any] | None = None,
    quantities: Sequence[str] = ("value",),
) -> Store:
    """Open a store as it is, to read it from any process; refuse one of another `identity`."""
    found = read_manifest(path)
    if identity is not None:
        _compare(Path(path), json.loads(json.dumps(_manifest(identity, quantities))))
    return Store(Path(path), found["identity"], tuple(found["quantities"]))


def _manifest(identity: Mapping[str, Any], quantities: Sequence[str]) -> dict[str, Any]:
    found = {"format": FORMAT, "quantities": list(quantities), "identity": dict(identity)}
    words = words_of(identity)
    return {**found, "words": words} if words else found


def _unwritable(folder: Path, error: OSError) -> BadParameter:
    return BadParameter(
        f"cannot write the store {folder}: {error.strerror}. Its contents are intact; the same "
        "call computes the missing points"
    )


def _kind(entries: Mapping[str, Any]) -> str:
    """What a store was made by."""
    if "plane" in entries:
        return "a boundary"
    return "a phase diagram" if "diagram" in entries else "a sweep"


def _compare(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse a store of another sweep, naming the first entry in which it differs."""
    found = read_manifest(folder)
    pairs, others = ({"quantities": y["quantities"], **y["identity"]} for y in (wanted, found))
    if pairs == others:
        return
    theirs, ours = _kind(others), _kind(pairs)
    if theirs != ours:
        raise BadParameter(
            f"{folder} contains {theirs}, but this call has {ours}: choose another folder"
        )
    said = mismatch(others, pairs, found.get("words", {}), wanted.get("words", {}))
    raise BadParameter(f"{folder} contains another sweep: {said}; choose another folder")

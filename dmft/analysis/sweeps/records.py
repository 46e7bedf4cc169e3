"""Files of a store: records of 8-byte words with checksums, durable writes, locks."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
import uuid
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.names import Status

# Odd multipliers of the checksum, fixed for ever; one for each 8-byte word of a record.
WORDS = np.array([2 * (0x9E3779B97F4A7C15 * (n + 1) % 2**63) + 1 for n in range(64)], dtype="<u8")
# Records that are read at once: the memory of a reader does not grow with a shard.
BLOCK = 1 << 17

Key = tuple[int, int]
# Bit of the word of the status: the point has a message, in the text file beside the shard.
SAID = np.uint64(1 << 32)
# From this number on there is no status.
STATUS_COUNT = len(Status)


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
        raise BadParameter(f"a record holds at most {WORDS.size - 4} quantities")
    # A record of zeros, as of an unwritten page, is no record.
    total = np.ones(records.size, dtype="<u8")
    with np.errstate(over="ignore"):
        for n in range(words.shape[1]):
            word = words[:, n]
            total += (word ^ (word >> np.uint64(29))) * WORDS[n]
    return total


def read_records(
    path: Path, kind: np.dtype[Any], messages: Mapping[Key, str]
) -> Iterator[tuple[NDArray[Any], int]]:
    """Whole records of a shard, block by block, each with the number of damaged ones left out.

    A record whose message is lost is one of these: its point is computed again.
    """
    with path.open("rb") as file:
        cut = os.fstat(file.fileno()).st_size % kind.itemsize > 0
        while (records := np.fromfile(file, dtype=kind, count=BLOCK)).size:
            good = checksums(records) == records["check"]
            said = good & (records["status"] & SAID != 0)
            for n in np.flatnonzero(said):
                good[n] = (int(records["high"][n]), int(records["low"][n])) in messages
            records["status"] &= ~SAID
            good &= records["status"] < STATUS_COUNT
            yield (records if good.all() else records[good]), int(np.count_nonzero(~good))
    if cut:
        yield np.empty(0, dtype=kind), 1


def texts_of(shard: Path) -> tuple[dict[Key, str], int]:
    """Messages beside a shard, and how many lines of them were cut off or damaged."""
    lines = list(read_messages(shard.with_suffix(".txt")))
    return dict(line for line in lines if line is not None), lines.count(None)


def write_message(key: Key, text: str) -> bytes:
    """Line of a text file: checksum, then key and message as JSON."""
    line = json.dumps([*key, text]).encode()
    return b"%08x %s\n" % (zlib.crc32(line), line)


def read_messages(path: Path) -> Iterator[tuple[Key, str] | None]:
    """Messages of a text file by key; None for a line that was cut off or damaged."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            check, _, body = line.rstrip(b"\n").partition(b" ")
            try:
                fine = int(check, 16) == zlib.crc32(body)
                high, low, text = json.loads(body) if fine else (0, 0, "")
            except ValueError:
                fine, high, low, text = False, 0, 0, ""
            yield ((high, low), text) if fine else None


# Bytes of the file `lock`, which stays empty: byte n is held, together with others, by every task
# of n parts; byte PARTS + i alone by the task of part i. One file for any number of tasks.
PARTS = 1 << 40
# What a file system says that has no locks.
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


@contextlib.contextmanager
def hold(folder: Path, part: tuple[int, int]) -> Iterator[None]:
    """Hold a part of the points of a store; (0, 1) is all of them."""
    try:
        import fcntl
    except ImportError:  # no locks on this system: shards keep two drivers apart all the same
        yield
        return
    try:
        file = (folder / "lock").open("a+b")
    except OSError as error:
        raise BadParameter(f"cannot write the store {folder}: {error.strerror}") from error
    _HELD.add(file)
    with contextlib.ExitStack() as ending:
        ending.enter_context(file)
        ending.callback(_HELD.discard, file)
        try:
            if hasattr(fcntl, "F_OFD_SETLK"):
                reason = _refusal(file, *part)
            else:
                mode = fcntl.LOCK_EX if part == (0, 1) else fcntl.LOCK_SH
                reason = "another sweep is running"
                fcntl.flock(file, mode | fcntl.LOCK_NB)
                reason = ""
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                reason = ""
                warnings.warn(
                    f"the file system of {folder} has no locks: two sweeps on it at once are safe, "
                    "but may compute the same points",
                    stacklevel=3,
                )
        if reason:
            raise BadParameter(f"{reason} on {folder}: wait until it ends, or choose another store")
        yield


def _refusal(file: BinaryIO, index: int, count: int) -> str:
    """Lock a part, or say why it cannot be had.

    First the number of parts is announced, then others are looked for: of two that start at once
    with different numbers, at least one sees the other.
    """
    import fcntl

    def lock(kind: int, start: int, length: int, command: int) -> tuple[int, ...]:
        wanted = struct.pack("@hhqqi4x", kind, 0, start, length, 0)
        answer: bytes = fcntl.fcntl(file, command, wanted)
        return struct.unpack("@hhqqi4x", answer)

    lock(fcntl.F_RDLCK, count, 1, fcntl.F_OFD_SETLK)
    for start, end in ((0, count), (count + 1, PARTS)):
        answer = lock(fcntl.F_WRLCK, start, end - start, fcntl.F_OFD_GETLK)
        if answer[0] != fcntl.F_UNLCK:
            other = "all points" if answer[2] == 1 else f"{answer[2]} parts"
            return f"another sweep, of {other}, is running"
    try:
        lock(fcntl.F_WRLCK, PARTS + index, 1, fcntl.F_OFD_SETLK)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        whose = "" if count == 1 else f", for part {index} of {count},"
        return f"another sweep{whose} is running"
    return ""


# Files of locks that this process holds.
_HELD: set[BinaryIO] = set()


def _after_fork() -> None:
    """Give up the locks of the parent: a child that outlives it must not keep them."""
    while _HELD:
        _HELD.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def write_once(target: Path, text: str) -> None:
    """Write a file aside and link it into place; whoever is first wins."""
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    file = create(aside)
    try:
        write_all(file, text.encode())
        os.fsync(file)
    finally:
        os.close(file)
    try:
        os.link(aside, target)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        aside.replace(target)
    aside.unlink(missing_ok=True)
    sync_folder(target.parent)
    sync_folder(target.parent.parent)


def create(path: Path) -> int:
    """Make a file to append to; its name is on the disk when this returns."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    file = os.open(path, flags, 0o666)
    sync_folder(path.parent)
    return file


def sync_folder(folder: Path) -> None:
    """Put the names of a folder on the disk."""
    with contextlib.suppress(OSError):  # some systems have no such call for folders
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_all(file: int, data: bytes) -> None:
    """Write bytes, in as many pieces as the system takes."""
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]

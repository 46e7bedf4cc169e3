"""One driver for each point of a store: locks that end with the process, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dmft.errors import BadParameter

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
            raise BadParameter(f"{reason} on {folder}: wait for it, or give another store")
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
            return f"another sweep is running, of {other},"
    try:
        lock(fcntl.F_WRLCK, PARTS + index, 1, fcntl.F_OFD_SETLK)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        whose = "" if count == 1 else f", for part {index} of {count},"
        return f"another sweep is running{whose}"
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

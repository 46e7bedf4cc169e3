"""Files whose contents and names are on the disk, whatever happens next."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path


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

"""Sealed files of plain values and arrays: nothing in them is executed or unpickled."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.compiled.directory import cache_directory, keep_sealed, read_sealed

# Bytes that say how long the text is.
LENGTH = 8
# What arrays may hold: numbers of one byte order, and bytes.
KINDS = ("<f8", "<i8", "|u1")
# Records in a folder: with one more, a tenth goes, what was longest not asked for first. They are
# of 2 to 200 kB.
MOST = 2000
ENDING = ".bin"
Arrays = dict[str, NDArray[Any]]


def store(name: str, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Write a record of this name; whether it was written."""
    content, folder = packed(values, arrays), cache_directory()
    _forget_oldest(folder)
    return keep_sealed(folder / name, content)


def load(name: str) -> tuple[dict[str, Any], Arrays] | None:
    """Values and arrays of a record; None where there is none, or one that is damaged."""
    path = cache_directory() / name
    content = read_sealed(path)
    if content is None:
        return None
    with contextlib.suppress(OSError):  # a folder that is only read
        os.utime(path)
    try:
        return _unpacked(content)
    except (ValueError, KeyError, TypeError):  # ours, but of another form
        return None


def _forget_oldest(folder: Path) -> None:
    """Make room; other processes may read, write and remove the same files meanwhile."""
    found = []
    with contextlib.suppress(OSError):
        for file in os.scandir(folder):
            if file.name.endswith(ENDING):
                with contextlib.suppress(OSError):
                    found.append((file.stat().st_mtime, file.path))
    if len(found) >= MOST:
        for _, path in sorted(found)[: len(found) - MOST + MOST // 10]:
            with contextlib.suppress(OSError):
                Path(path).unlink()


def packed(values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Bytes of a record: the length of its text, the text, the arrays one after another.

    Raises
    ------
    TypeError, ValueError
        For values that are not plain.
    """
    parts, described = [], {}
    for key, array in arrays.items():
        kind = array.dtype.newbyteorder("<").str
        if kind not in KINDS:
            raise TypeError(f"arrays of {array.dtype} are not kept")
        parts.append(np.ascontiguousarray(array, dtype=kind).tobytes())
        described[key] = [kind, list(array.shape)]
    text = json.dumps({"values": values, "arrays": described}).encode()
    return b"".join([len(text).to_bytes(LENGTH, "little"), text, *parts])


def _unpacked(content: bytes) -> tuple[dict[str, Any], Arrays]:
    place = LENGTH + int.from_bytes(content[:LENGTH], "little")
    text = json.loads(content[LENGTH:place])
    arrays = {}
    for key, (kind, shape) in text["arrays"].items():
        if kind not in KINDS:
            raise ValueError(kind)
        count = math.prod(shape)
        flat = np.frombuffer(content, dtype=kind, count=count, offset=place)
        arrays[key] = flat.reshape(shape).astype(np.dtype(kind).newbyteorder("="))
        place += flat.nbytes
    return text["values"], arrays

"""Sealed files of plain values and arrays, and what they depend on: library, versions, machine.

Nothing in them is executed or unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import platform
import sys
from collections.abc import Mapping
from functools import cache
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


# Packages that shape code and results, and the file in which each says its version: to import them
# for that is what a kept record spares.
VERSIONS = {
    "numba": "_version.py",
    "llvmlite": "_version.py",
    "sympy": "release.py",
    "mpmath": "__init__.py",
    "scipy": "version.py",
}
# Settings that change what is compiled.
SETTINGS = ("NUMBA_", "LLVMLITE_")


@cache
def identity() -> str:
    """Digest of the library's sources, of versions, of settings and of the processor.

    Raises
    ------
    OSError, ImportError
        When one of them cannot be told.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (*_environment(), *_processor()):
        digest.update(part.encode())
        digest.update(b"\0")
    for package, file in VERSIONS.items():
        folder = _folder(package)
        digest.update(f"{folder}\0".encode())
        digest.update((folder / file).read_bytes())
    root = str(Path(__file__).parents[1])
    for path in _sources(root):
        content = Path(path).read_bytes()
        digest.update(f"{path[len(root) :]}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _environment() -> tuple[str, ...]:
    settings = sorted(f"{n}={v}" for n, v in os.environ.items() if n.startswith(SETTINGS))
    optimised = str(sys.flags.optimize)
    return (sys.version, sys.prefix, platform.machine(), np.__version__, optimised, *settings)


def _processor() -> tuple[str, ...]:
    """Name and features for which LLVM compiles here."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    return llvm.get_process_triple(), llvm.get_host_cpu_name(), features


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"no {package}")
    return Path(spec.submodule_search_locations[0])


def _sources(folder: str) -> list[str]:
    """Python files below a folder, in order of their names."""
    found: list[str] = []
    for item in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if item.is_dir():
            found += _sources(item.path)
        elif item.name.endswith(".py"):
            found.append(item.path)
    return found

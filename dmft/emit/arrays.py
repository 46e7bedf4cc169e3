"""Numerical tables on disk, by content of what they were computed from."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmft.compiled.directory import cache_directory, keep, read_own

_LOADED: dict[str, NDArray[np.float64]] = {}


def load_array(key: str) -> NDArray[np.float64]:
    """Vector stored under `key`; generated modules read their tables with it.

    Raises `FileNotFoundError` where nothing is stored, or what is stored is damaged.
    """
    if key not in _LOADED:
        path = _path(key)
        try:
            content = io.BytesIO(read_own(path))
            with np.load(content, allow_pickle=False) as file:  # reading checks the member's CRC
                _LOADED[key] = _frozen(file["values"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise FileNotFoundError(
                f"no readable table {path}: build the equations again"
            ) from error
    return _LOADED[key]


def store_array(key: str, values: NDArray[np.float64]) -> None:
    """Write a vector; this process has it even where nothing can be written."""
    file = io.BytesIO()
    np.savez(file, values=values)
    keep(_path(key), file.getvalue())
    _LOADED[key] = _frozen(values)


def _frozen(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Read-only copy, the type that constants of compiled functions have."""
    copy = np.array(values, dtype=np.float64, order="C")
    copy.flags.writeable = False
    return copy


def _path(key: str) -> Path:
    return cache_directory() / f"table_{key}.npz"

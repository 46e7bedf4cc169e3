"""Runs that are under way: a folder that belongs to one, arrays in files that are always whole."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays; a file is replaced only by a complete one."""
    partial = path.with_suffix(f".{os.getpid()}.partial.npz")
    np.savez(partial, **arrays)
    partial.replace(path)


def load_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """What `save_arrays` wrote, or None where there is no readable file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


class RunFolder:
    """A folder that belongs to one run: its declaration is checked, never overwritten.

    Parameters
    ----------
    folder : Path
    key : mapping
        What determines the run.

    Raises
    ------
    BadParameter
        When the folder holds another run.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(dict(key), sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / "run.json"
        if not mark.exists():
            _write(mark, json.dumps({"digest": digest, "run": dict(key)}, indent=1).encode())
        found = json.loads(mark.read_text(encoding="utf-8"))
        if found.get("digest") != digest:
            names = sorted(n for n in key if found.get("run", {}).get(n) != dict(key)[n])
            raise BadParameter(
                f"checkpoint {str(folder)!r} belongs to another run (differs in "
                f"{', '.join(names) or 'its version'}); choose another folder"
            )


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(path)

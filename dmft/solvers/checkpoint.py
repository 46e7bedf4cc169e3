"""Runs that are under way: a folder that belongs to one, arrays in files that are always whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter

# Differences that a refusal lists, and how many characters of a value.
LISTED, SHOWN = 3, 100
DIGEST = re.compile(r"(?:.* )?[0-9a-f]{16,}")


class Digest(str):
    """A digest that remembers, for refusals, the values that went into it, plain ones by name."""

    words: Mapping[str, Any]

    @classmethod
    def of(cls, text: str, words: Mapping[str, Any]) -> Self:
        """The digest `text` of these values."""
        found = cls(text)
        found.words = words
        return found


def words_of(known: Mapping[str, Any]) -> dict[str, Any]:
    """Values that went into the digests of a declaration, by their names."""
    return {name: dict(y.words) for name, y in known.items() if isinstance(y, Digest)}


def mismatch(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    words_there: Mapping[str, Any],
    words_here: Mapping[str, Any],
) -> str:
    """The first entry in which two declarations differ; digests come last, by their words."""
    names = {n for n in {*there, *here} if there.get(n) != here.get(n)}
    name = min(names, key=lambda n: (_is_digest(here.get(n)), n))
    pair = there.get(name), here.get(name)
    if _is_digest(pair[1]):
        found = _differences(words_there.get(name), words_here.get(name), "")
        parts = [
            f"another {path}" if _is_digest(a) else f"{path} = {a}, here {b}"
            for path, a, b in islice(found, LISTED)
            if path
        ]
        return f"its {name} is " + (f"one with {'; '.join(parts)}" if parts else "another")
    if not all(isinstance(y, Mapping | list) for y in pair):
        return f"its {name} is {pair[0]!r:.{SHOWN}}, here {pair[1]!r:.{SHOWN}}"
    listed = islice(_differences(*pair, name), LISTED)
    return "its " + "; ".join(f"{path} is {a}, here {b}" for path, a, b in listed)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def _differences(there: Any, here: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """Paths to values that differ, with both of them."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        inner: Any = ((f".{n}" * bool(path) or n, n) for n in sorted({*there, *here}))
        for step, n in inner:
            yield from _differences(there.get(n), here.get(n), path + step)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for i, pair in enumerate(zip(there, here, strict=True)):
            yield from _differences(*pair, f"{path}[{i}]")
    elif there != here:
        a, b = ("none" if y in (None, "") else f"{y!s:.{SHOWN}}" for y in (there, here))
        yield path, a, b


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


def claim(folder: Path, key: Mapping[str, Any]) -> Path:
    """A folder that belongs to the run of a key: its declaration is checked, never overwritten.

    Raises `BadParameter` when the folder holds another run.
    """
    text = json.dumps(dict(key), sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "run.json"
    if not mark.exists():
        made = {"digest": digest, "run": dict(key), "words": words_of(key)}
        _write(mark, json.dumps(made, indent=1).encode())
    found = json.loads(mark.read_text(encoding="utf-8"))
    if found.get("digest") != digest:
        run, here = found.get("run", {}), json.loads(text)
        differs = run != here
        said = mismatch(run, here, found.get("words", {}), words_of(key)) if differs else ""
        raise BadParameter(
            f"checkpoint {str(folder)!r} belongs to another run"
            f"{said and f': {said}'}; choose another folder"
        )
    return folder


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(path)

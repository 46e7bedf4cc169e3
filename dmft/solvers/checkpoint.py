"""Runs that are under way: a folder that belongs to one, arrays in files that are always whole.

The march of equations in two times takes steps, writes checkpoints and can be interrupted. A
stepper says what a step is and what is kept of the past: unit steps over sampled paths
(`dmft.solvers.two_time.descent_sweep`), or steps of fourth order on a thinned grid
(`dmft.solvers.two_time.thinned`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.names import Status
from dmft.solvers.jobs import Job

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


class Stepper(ABC):
    """A march under way; at the end the message describes the status."""

    status: Status
    message: str

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether all steps are done."""

    @abstractmethod
    def step(self) -> None:
        """Take one step, or a chunk of them; a step that fails sets the status."""

    @abstractmethod
    def where(self, status: Status) -> str:
        """The message of a march that was stopped here."""

    @abstractmethod
    def stored(self) -> dict[str, Any]:
        """Everything that the march needs to go on."""

    @abstractmethod
    def restore(self, data: Mapping[str, Any]) -> None:
        """Take over what `stored` gave."""

    def stop(self, status: Status) -> None:
        """End here."""
        self.status, self.message = status, self.where(status)


Run = TypeVar("Run", bound=Stepper)


def march(run: Run, after: Callable[[Run], Status] = lambda run: Status.OK) -> Run:
    """Take the steps that are left.

    `after` is asked between steps; what it returns other than "ok" stops the march.
    """
    while not run.finished and run.status == Status.OK:
        run.step()
        if run.status == Status.OK:
            status = after(run)
            if status != Status.OK and not run.finished:
                run.stop(status)
    return run


def asked(job: Job) -> Status:
    """Whether a job lets its marches go on."""
    if not job.cancelled():
        return Status.OK
    return Status.TIMEOUT if job.late else Status.INTERRUPTED


class StepFile:
    """Checkpoint of one march, written every so many seconds; without a path nothing is kept."""

    def __init__(self, path: Path | None, every: float) -> None:
        self.path, self.every = path, every
        self._last = time.monotonic()

    def restore(self, run: Run) -> Run:
        """The march as it was left, or unchanged where there is no readable file."""
        data = None if self.path is None else load_arrays(self.path)
        if data is not None:
            run.restore(data)
        return run

    def save(self, run: Stepper, at_once: bool = False) -> None:
        """Write a march that is whole, when it is time for it."""
        if self.path is None or run.status == Status.NONFINITE:
            return
        now = time.monotonic()
        if at_once or now - self._last > self.every:
            save_arrays(self.path, run.stored())
            self._last = now


def array_in(path: Path, shape: tuple[int, ...], fresh: bool) -> NDArray[np.float64]:
    """An array that lives in a file."""
    try:
        file = np.lib.format.open_memmap(
            path, mode="w+" if fresh else "r+", dtype=np.float64, shape=shape
        )
    except OSError as error:
        raise BadParameter(f"cannot keep gradients in {str(path)!r}: {error}") from error
    return np.asarray(file)

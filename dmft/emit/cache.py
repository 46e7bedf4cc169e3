"""Generated source as real, cached modules, and numerical tables on disk.

A second process finds the machine code ready. Numba cannot cache functions made from a string, so
each source becomes a file whose name holds a hash of everything that its machine code depends on;
`dmft.compiled` keeps that code beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.abc
import importlib.metadata
import importlib.util
import io
import sys
import threading
import zipfile
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType

import numpy as np
from numpy.typing import NDArray

from dmft.compiled.directory import cache_directory, keep, process_lock, read_own
from dmft.errors import BadParameter
from dmft.names import VERSION

# One import at a time in this process: generated modules compile while they are imported.
_IMPORTING = threading.RLock()


def load_module(source: str, stem: str) -> ModuleType:
    """Import `source` as a module ``<stem>_<hash>`` that lives in a file of the cache directory.

    What is executed is always `source` itself, Python text of one of our generators; a file of the
    same name that holds something else is replaced. Safe with several threads and processes: the
    first one compiles, the others wait. What it compiles and caches takes `njit` from
    `dmft.compiled`: Numba's own would trust any file that it finds. The module is registered in
    ``sys.modules``, which Numba needs to rebuild functions from its cache.
    """
    name = module_name(source, stem)
    with _IMPORTING:
        if name in sys.modules:
            return sys.modules[name]
        path = cache_directory() / f"{name}.py"
        with process_lock(path.with_suffix(".lock")):
            _ensure_file(path, source)
            return _import_source(name, path, source)


def module_name(source: str, stem: str) -> str:
    """Deterministic name ``<stem>_<hash>`` of the module that holds `source`.

    The hash covers what Numba's own index misses: the package's inlined helpers and the versions.
    """
    if not stem.isidentifier():
        raise BadParameter(f"the stem of a generated module must be an identifier, got {stem!r}")
    digest = hashlib.blake2b(digest_size=10)
    for part in (source, *_dependencies()):
        digest.update(part.encode())
        digest.update(b"\0")
    return f"{stem}_{digest.hexdigest()}"


@cache
def _dependencies() -> tuple[str, ...]:
    package = Path(__file__).parents[1]
    inlined = ("vectors", "instructions", "known_functions")
    files = [package / "compiled" / f"{name}.py" for name in inlined]
    files += sorted((package / "special").glob("*.py"))
    return (
        VERSION,
        importlib.metadata.version("numba"),
        *(f"{file.name}\0{file.read_text(encoding='utf-8')}" for file in files),
    )


def _ensure_file(path: Path, source: str) -> None:
    """Write `source` to `path`, unless it is there already."""
    wanted = source.encode()
    with contextlib.suppress(OSError):
        if path.read_bytes() == wanted:
            return
    keep(path, wanted)


class _SourceLoader(importlib.abc.ExecutionLoader):
    """Runs the given text itself, never a byte-code file or a file changed meanwhile."""

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self.source = source

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_source(self, fullname: str) -> str:
        return self.source

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.source, str(self.path))

    def is_package(self, fullname: str) -> bool:
        return False


def _import_source(name: str, path: Path, source: str) -> ModuleType:
    loader = _SourceLoader(path, source)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise ImportError(f"cannot make a module specification for {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


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

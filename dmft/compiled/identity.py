"""What kept code and records depend on beside their own input: library, versions, machine."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import sys
from functools import cache
from pathlib import Path

import numpy as np

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

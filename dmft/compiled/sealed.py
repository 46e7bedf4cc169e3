"""Numba's cache with seals: a file is unpickled only if its digest is right.

As Numba does, an index file (``.nbi``) lists the signatures of one function, and each has its
machine code in a file of its own (``.nbc``). Both begin with a digest of all that they depend on:
their own name, the versions, the source file and the content. A file with another digest (damaged,
of an older version, of another function) is as good as none: the function is compiled, and the file
written anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import pickle
import sys
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numba
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher
from numba.core.runtime import rtsys
from numba.core.serialize import dumps
from numba.core.typeinfer import register_dispatcher

from dmft.compiled import direct
from dmft.compiled.directory import (
    DIGEST_SIZE,
    NOWHERE,
    cache_directory,
    keep_sealed,
    process_lock,
    read_sealed,
    refusal,
    tell_once,
)
from dmft.compiled.machine_code import Native, Unknown
from dmft.compiled.object_files import self_contained
from dmft.names import VERSION
from dmft.progress import stage

# How functions are compiled (`dmft.compiled.object_files`): what was compiled otherwise is not
# loaded.
SHARING = "once"
# What people read while functions of these modules are compiled, or loaded.
WAITING = {
    "dmft.solvers.": "compiling the solver, once on this machine",
    "dmft.simulation.": "compiling the simulation, once on this machine",
    "dmft_": "compiling these equations",
    "": "compiling functions of the library, once on this machine",
}


class Deferred(CPUDispatcher):
    """Compiled function of fixed signatures that is compiled, or loaded, when first used.

    Importing a module that holds one costs nothing. Numba asks for one of the methods below
    whenever a function is called, is called by another compiled function, or is handed to one.
    """

    _wanted: Sequence[Any] = ()
    _settling = False
    _is_direct = False
    # What `get_compile_result` found, by the identity of the signature asked for, which is kept.
    _found: Mapping[int, tuple[Any, Any]] = MappingProxyType({})

    def settle(self) -> None:
        """Compile for the signatures, once; from then on take no others."""
        if not self._wanted:
            return
        # Numba's own lock, as a function may be asked for while another one is compiled.
        with global_compiler_lock:
            if self._settling or not self._wanted:
                return
            self._settling = True
            try:
                module = self.py_func.__module__
                said = next(text for start, text in WAITING.items() if module.startswith(start))
                with contextlib.ExitStack() as around:
                    around.enter_context(stage(said))
                    around.enter_context(_alone(self._cache))
                    around.enter_context(register_dispatcher(self))  # it may call itself
                    around.enter_context(self_contained(self))
                    for one in self._wanted:
                        self.compile(one)
                    for made in self.overloads.values():  # whether it is kept or not
                        made.library._ensure_finalized()
                self.disable_compile()
                self._wanted = ()
            finally:
                self._settling = False

    @cached_property
    def native(self) -> Native | None:
        """The function compiled from its text without Numba, None where it is not for that."""
        if not self._is_direct:
            return None
        try:
            return direct.native(self._text, self.py_func.__name__)
        except Unknown:
            return None

    @property
    def _text(self) -> str:
        """Source of the module as it was executed; its file may be absent, or damaged."""
        spec = self.py_func.__globals__["__spec__"]
        return str(spec.loader.get_source(spec.name))

    @property
    def is_kept(self) -> bool:
        """Whether machine code seems to be there already: compiled here, or kept on disk."""
        if self._is_direct and direct.is_kept(self._text, self.py_func.__name__):
            return True
        files = getattr(self._cache, "_cache_file", None)
        kept = isinstance(files, SealedFiles) and (files.folder / f"{files.base}.nbi").is_file()
        return kept or not self._wanted

    def _compile_for_args(self, *args: Any, **kws: Any) -> Any:
        if not self._wanted:
            return super()._compile_for_args(*args, **kws)
        if self.native is not None:
            return self.native
        self.settle()
        return self  # what Numba calls next, with the arguments

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """What another compiled function needs to call this one."""
        self.settle()
        return super().get_call_template(args, kws)

    def get_compile_result(self, sig: Any) -> Any:
        """Machine code for a signature.

        A compiled function asks twice at each call for each function that it is given, always with
        one and the same object; Numba's own answer takes 40 us.
        """
        asked, result = self._found.get(id(sig), (None, None))
        if asked is not sig:
            self.settle()
            result = super().get_compile_result(sig)
            # Replaced, not changed, as other threads read it; a few callers are all there are.
            known = self._found if len(self._found) < 64 else {}
            self._found = {**known, id(sig): (sig, result)}
        return result

    def get_overload(self, sig: Any) -> Any:
        """Function for a signature."""
        self.settle()
        return super().get_overload(sig)

    def get_function_type(self) -> Any:
        """Type of the function as a value, which needs its only signature."""
        self.settle()
        return super().get_function_type()

    @property
    def stats(self) -> Any:
        """How often machine code was found, and how often it was made."""
        self.settle()
        return super().stats

    def _reduce_states(self) -> dict[str, Any]:
        self.settle()
        states: dict[str, Any] = super()._reduce_states()
        return states


def _alone(files: Any) -> contextlib.AbstractContextManager[None]:
    """While one process compiles a function, the others wait for the machine code."""
    kept = isinstance(files, SealedCache)
    return process_lock(files.lock) if kept else contextlib.nullcontext()


def compile_sealed(function: Any, *signature: Any, direct: bool = False) -> Any:
    """Give a function just made by `numba.njit` its cache; its signatures wait for its use."""
    if not hasattr(function, "py_func"):  # NUMBA_DISABLE_JIT: Python's own function
        return function
    if not hasattr(function, "_cache"):
        raise ImportError("no _cache in its functions")
    source = Path(function.py_func.__code__.co_filename)
    folder = folder_for(source) if source.is_file() else None
    if folder is not None:
        function._cache = SealedCache(function.py_func, source, folder)
    made = deferred(function, *signature)
    made._is_direct = direct
    return made


def deferred(function: Any, *signature: Any) -> Any:
    """Let a function just made by `numba.njit` be compiled for its signatures at its first use."""
    if signature and hasattr(function, "py_func"):
        wanted = signature[0] if isinstance(signature[0], list) else list(signature)
        function.__class__ = Deferred
        function._wanted = wanted
    return function


def folder_for(source: Path) -> Path | None:
    """Folder of the compiled functions of a source file, as Numba chooses it, if it is safe.

    ``NUMBA_CACHE_DIR``; else ``__pycache__`` beside the source; else one in `cache_directory`.
    """
    digest = hashlib.blake2b(str(source.parent).encode(), digest_size=10).hexdigest()
    apart = f"{source.parent.name}_{digest}"
    if config.CACHE_DIR and not refusal(Path(config.CACHE_DIR, apart)):
        return Path(config.CACHE_DIR, apart)
    # Python keeps its own files there, for all who can read the source.
    beside = source.parent / "__pycache__"
    if not refusal(beside, mode=0o755):
        return beside
    folder = cache_directory() / apart
    if folder.parent == NOWHERE:  # told already
        return None
    reason = refusal(folder)
    if not reason:
        return folder
    tell_once(f"no folder for compiled code ({folder}: {reason}): it is compiled at each start")
    return None


class SealedCache(FunctionCache):
    """What a compiled function asks for machine code, and gives it to."""

    def __init__(self, function: Any, source: Path, folder: Path) -> None:
        # Not the parent's: it would look for a folder, and refuse the function if there is none.
        self._py_func = function
        self._name = repr(function)
        self._cache_path = str(folder)
        self._impl = _Results(function)
        name = f"{source.stem}.{function.__qualname__}-{function.__code__.co_firstlineno}"
        python = f"py{sys.version_info[0]}{sys.version_info[1]}{getattr(sys, 'abiflags', '')}"
        # Environments with other versions of Numba may share a source tree: none of them replaces
        # what another one keeps.
        base = f"{name}.{python}-numba{numba.__version__}".replace("<", "").replace(">", "")
        status = source.stat()
        stamp = _content_stamp(source, status.st_mtime_ns, status.st_size)
        self._cache_file = SealedFiles(folder, base, stamp)
        self.lock = folder / f"{base}.lock"
        self.enable()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Compiled function for a signature, None if it is to be compiled."""
        # Not `refresh`, which imports all that compilation needs: that asks for it itself.
        rtsys.initialize(target_context)
        if not self._enabled:
            return None
        with contextlib.suppress(Exception):  # Ours, but of another LLVM: compile once more.
            key = self._index_key(sig, target_context.codegen())
            stored = self._cache_file.load(key)
            if stored is not None:
                return self._impl.rebuild(target_context, stored)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function; what cannot be kept is compiled again, never an error."""
        if not self._enabled or not self._impl.check_cachable(data):
            return
        try:
            key = self._index_key(sig, data.codegen)
            self._cache_file.save(key, self._impl.reduce(data))
        except Exception as error:
            tell_once(f"the machine code of {self._name} is not kept: {error}")

    def kept_object(self, codegen: Any, arguments: tuple[Any, ...] | None) -> bytes:
        """Object file of the function for these types of arguments, or its only one.

        Raises
        ------
        Unknown
            When it is not kept as an object file.
        """
        _, *code = self._index_key(None, codegen)
        keys = [
            key
            for key in self._cache_file._index()
            if list(key[1:]) == code and arguments in (None, key[0])
        ]
        stored: Any = self._cache_file.load(keys[0]) if len(keys) == 1 else None
        try:
            _, kind, (content, _) = stored[0]
        except (TypeError, ValueError) as error:
            raise Unknown("kept in another way") from error
        if kind != "object":
            raise Unknown(f"kept as {kind}")
        return bytes(content)


class _Results(CompileResultCacheImpl):
    """Numba's translation of what it compiled into what can be pickled."""

    def __init__(self, function: Any) -> None:
        # Not the parent's, which looks for a folder; these are for its warnings.
        self._lineno = function.__code__.co_firstlineno
        self._locator = SimpleNamespace(_py_file=function.__code__.co_filename)


class SealedFiles:
    """Index and machine code of one function."""

    def __init__(self, folder: Path, base: str, stamp: str) -> None:
        self.folder = folder
        self.base = base
        self.context = f"{VERSION}\0{numba.__version__}\0{SHARING}\0{stamp}"

    def load(self, key: Any) -> Any:
        """Machine code stored under `key`, or None."""
        name = self._index().get(key)
        found, data = (None, None) if name is None else self._read(name) or (None, None)
        # The code names its own key: the index may be older or newer than the code.
        return data if found == key else None

    def save(self, key: Any, data: Any) -> None:
        """Store machine code under `key`; the code first, so that no index promises too much."""
        index = self._index()
        names = (f"{self.base}.{number}.nbc" for number in itertools.count(1))
        name = index.get(key) or next(n for n in names if n not in index.values())
        if self._write(name, (key, data)):
            self._write(f"{self.base}.nbi", {**index, key: name})

    def flush(self) -> None:
        """Forget all that is stored."""
        self._write(f"{self.base}.nbi", {})

    def _index(self) -> dict[Any, str]:
        return self._read(f"{self.base}.nbi") or {}

    def _read(self, name: str) -> Any:
        """Content of a file, None if there is none with the right seal."""
        content = read_sealed(self.folder / name, self.context)
        if content is None:
            return None
        try:
            return pickle.loads(content)
        except Exception:  # Ours, but it names what this installation no longer has.
            return None

    def _write(self, name: str, value: Any) -> bool:
        return keep_sealed(self.folder / name, dumps(value), self.context)


@cache
def _content_stamp(source: Path, changed: int, size: int) -> str:
    """Digest of a source file; its time and size only say when to read it again."""
    return hashlib.blake2b(source.read_bytes(), digest_size=DIGEST_SIZE).hexdigest()

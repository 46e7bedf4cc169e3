"""Functions that compiled code calls: without an entry for Python, and copied into each caller."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

from llvmlite.binding import Linkage, parse_bitcode
from numba.core.codegen import JITCodeLibrary
from numba.core.registry import CPUDispatcher

# Names of the entries for Python and C.
ENTRIES = ("cpython.", "cfunc.")


class Inner(CPUDispatcher):
    """Compiled function without an entry for Python, where a call would end the process."""

    def __call__(self, *args: Any, **kws: Any) -> NoReturn:
        """Refuse."""
        raise TypeError(
            f"{self.__name__} is called by compiled code only: from Python, call "
            f"{self.__name__}.py_func, or compile it without inner=True"
        )


def closed(function: Any) -> Any:
    """Give a function just made by `numba.njit` no way in from Python."""
    if hasattr(function, "py_func"):  # else NUMBA_DISABLE_JIT: Python's own function
        function.__class__ = Inner
    return function


class _Library(JITCodeLibrary):
    """Machine code of a function; what it calls of others is its own copy, without a name.

    Numba compiles what a function calls by itself and once more within each caller, all under one
    name: the copy that runs is the first that the process has compiled or loaded. LLVM may order
    sums differently in each copy, so a process that compiles would find other last bits than one
    that loads what is kept. And what nobody else can call, LLVM inlines and cuts to size: rates of
    ReLU run in two thirds of the time.

    Names that are local to an object file (`Linkage.internal`) are not enough: the linker of the
    process looks up the names of all files in one table.
    """

    # Of a function that was loaded: its bitcode.
    _packed = b""

    def _optimize_final_module(self) -> None:
        functions = [f for f in self._final_module.functions if not f.is_declaration]
        if any(f.name.startswith(ENTRIES) for f in functions):
            for function in functions:
                if function.linkage == Linkage.linkonce_odr:
                    function.linkage = Linkage.private
        super()._optimize_final_module()

    @classmethod
    def _unserialize(cls, codegen: Any, state: Any) -> Any:
        """Load machine code; what a caller would inline stays packed until one asks for it.

        Most functions that are loaded have no compiled caller, and LLVM's form of what it would see
        takes half of the memory of all that is loaded.
        """
        library = super()._unserialize(codegen, state)
        if library._shared_module is not None:
            (_, library._packed), library._shared_module = state[-1], None
        return library

    def _get_module_for_linking(self) -> Any:
        return parse_bitcode(self._packed) if self._packed else super()._get_module_for_linking()


@contextlib.contextmanager
def self_contained(function: Any) -> Iterator[None]:
    """While it lasts (under Numba's lock), what is compiled has its own copy of what it calls."""
    codegen = function.targetctx.codegen()
    before = codegen._library_class
    codegen._library_class = _Library
    try:
        yield
    finally:
        codegen._library_class = before

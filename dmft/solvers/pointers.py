"""Compiled functions as addresses: what a loop takes for a first-class function, looked up once.

Handing a dispatcher to compiled code costs Numba 20 to 30 us a function and a call: it searches
the machine code for the signature each time. A run of a small problem takes less than four of them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from numba import types
from numba.core.dispatcher import Dispatcher


class Pointer:
    """The address of a compiled function, as Numba asks for it."""

    def __init__(self, function: Dispatcher, kind: types.FunctionType) -> None:
        self.function = function  # keeps the machine code alive
        compiled = function.get_compile_result(kind.signature)
        name = compiled.fndesc.llvm_cfunc_wrapper_name
        self._address = int(compiled.library.get_pointer_to_function(name))
        self._numba_type_ = kind

    def __wrapper_address__(self) -> int:
        return self._address


@lru_cache(maxsize=256)
def pointer(function: Any, kind: types.FunctionType) -> Any:
    """A compiled function of this type by its address; anything but a dispatcher as it is."""
    return Pointer(function, kind) if isinstance(function, Dispatcher) else function

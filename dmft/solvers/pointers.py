"""Compiled functions as addresses, and the loops that take them, by name.

Handing a dispatcher to compiled code costs Numba 20 to 30 us a function and a call: it searches
the machine code for the signature each time. A run of a small problem takes less than four of them.

A loop is machine code that was linked from files (`dmft.compiled.machine_code`), or else Numba's
function, which is loaded or compiled when it is first asked for. Both are the same code.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dmft.compiled.machine_code import LINKED, Native

if TYPE_CHECKING:
    from numba import types

ROOM = "dmft.solvers.runge_kutta"
# Where the loops stand.
LOOPS = {
    "fly": "batch_loop",
    "fly_lanes": "lanes",
    "advance": "explicit",
    "unwatched": "explicit",
    "evaluate_rows": "explicit",
    "nothing": "explicit",
    "everywhere": "explicit",
    "watch": "crossings",
    "iterate": "discrete",
    "sides": "discrete",
    "advance_backward": "backward",
}


class Pointer:
    """The address of a compiled function, as Numba asks for it."""

    def __init__(self, function: Any, kind: types.FunctionType) -> None:
        self.function = function  # keeps the machine code alive
        compiled = function.get_compile_result(kind.signature)
        name = compiled.fndesc.llvm_cfunc_wrapper_name
        self._address = int(compiled.library.get_pointer_to_function(name))
        self._numba_type_ = kind

    def __wrapper_address__(self) -> int:
        return self._address


def loop_name(name: str) -> str:
    """Name of a loop among all compiled functions."""
    return f"{ROOM}.{LOOPS[name]}.{name}"


def loop(name: str) -> Any:
    """A compiled function of the loops, as Python calls it."""
    return LINKED.get(loop_name(name)) or getattr(import_module(f"{ROOM}.{LOOPS[name]}"), name)


def entry(function: Any, kind: str) -> Any:
    """A compiled function as the loops take it; `kind` names its type in `signatures`."""
    if isinstance(function, Native):
        return function
    from dmft.solvers import signatures

    return pointer(function, getattr(signatures, kind))


@lru_cache(maxsize=256)
def pointer(function: Any, kind: types.FunctionType) -> Any:
    """A compiled function of this type by its address; anything but a dispatcher as it is."""
    from numba.core.dispatcher import Dispatcher

    return Pointer(function, kind) if isinstance(function, Dispatcher) else function

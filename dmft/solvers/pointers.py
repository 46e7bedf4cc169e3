"""Compiled functions as addresses, and the loops that take them, by name.

Handing a dispatcher to compiled code costs Numba 20 to 30 us a function and a call, and any other
object 5 us. A run of a small problem takes less than that.

A loop is machine code that was linked from files (`dmft.compiled.machine_code`), or else Numba's
function, which is loaded or compiled when it is first asked for. Both are the same code.
"""

from __future__ import annotations

import sys
from functools import cache, lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dmft.compiled.machine_code import LINKED, native_of

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
    "observe_ends": "explicit",
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
        self._numba_type_ = kind
        native = native_of(function)
        if native is not None:
            self._address = native.address
            return
        compiled = function.get_compile_result(kind.signature)
        name = compiled.fndesc.llvm_cfunc_wrapper_name
        self._address = int(compiled.library.get_pointer_to_function(name))

    def __wrapper_address__(self) -> int:
        return self._address


def loop_name(name: str) -> str:
    """Name of a loop among all compiled functions."""
    return f"{ROOM}.{LOOPS[name]}.{name}"


def loop(name: str) -> Any:
    """A compiled function of the loops, as Python calls it."""
    linked = LINKED.get(loop_name(name)) if "numba" not in sys.modules else None
    return linked or _compiled_loop(name)


@cache
def _compiled_loop(name: str) -> Any:
    return getattr(import_module(f"{ROOM}.{LOOPS[name]}"), name)


def called(name: str) -> Any:
    """A loop for who calls it with arguments of exactly its types, as the integrators do.

    Numba's dispatcher looks at each of fifty arrays to find the one signature that there is: 6 us a
    call, where the entry that it then calls takes 1.
    """
    found = loop(name)
    return _entry_points(found) if hasattr(found, "overloads") else found


@lru_cache(maxsize=32)
def _entry_points(function: Any) -> Any:
    function.stats  # noqa: B018 - compiles what waits for its first use
    (only,) = function.overloads.values()
    return only.entry_point


@lru_cache(maxsize=256)
def entry(function: Any, kind: str) -> int:
    """Address of a compiled function as the loops take it; `kind` names its type in `signatures`.

    Whoever calls with it keeps the function.
    """
    native = native_of(function)
    if native is not None:
        return native.address
    from dmft.solvers import signatures

    return int(pointer(function, getattr(signatures, kind)).__wrapper_address__())


def keeping(function: Any, *called: Any) -> Any:
    """A function just compiled that calls others by address: it keeps them."""
    function.called = called
    return function


@lru_cache(maxsize=256)
def pointer(function: Any, kind: types.FunctionType) -> Any:
    """A compiled function of this type by its address; anything but a dispatcher as it is."""
    from numba.core.dispatcher import Dispatcher

    return Pointer(function, kind) if isinstance(function, Dispatcher) else function

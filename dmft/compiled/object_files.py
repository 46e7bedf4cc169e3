"""Object files of functions that Numba compiled and `sealed` keeps: what `machine_code` links."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from numba import types
from numba.core.errors import NumbaError

from dmft.compiled.machine_code import FUNCTION, Code, Unknown, symbols

SCALARS = {types.float64: "f8", types.int64: "i8"}


def library_code(module: str, name: str, arguments: Sequence[str]) -> Code:
    """The code of a function of the library for arguments as `Code.arguments` names them.

    Raises
    ------
    Unknown
        As `code_of`, and where Numba does not compile it for these types.
    """
    function = getattr(importlib.import_module(module), name)
    kinds = tuple(_type(leaf) for leaf in arguments)
    try:
        function.get_call_template(kinds, {})  # compiles what is not compiled yet
    except NumbaError as error:
        raise Unknown(f"{name} of {', '.join(arguments)}") from error
    code = code_of(function, kinds)
    if not code.c_entry:
        raise Unknown(f"{name} is called by Numba's code alone")
    return code


def _type(leaf: str) -> Any:
    kind = next(kind for kind, start in SCALARS.items() if leaf.startswith(start))
    return types.Array(kind, int(leaf[3:-1]), "C") if leaf.endswith("]") else kind


def code_of(function: Any, arguments: tuple[Any, ...] | None = None) -> Code:
    """The kept code of a compiled function, for these types or its only ones.

    Raises
    ------
    Unknown
        When it is not kept, or cannot be called without Numba.
    """
    kept = getattr(getattr(function, "_cache", None), "kept_object", None)
    overloads = getattr(function, "overloads", {})
    results = [r for key, r in overloads.items() if arguments in (None, key)]
    if kept is None or len(results) != 1:
        raise Unknown("not kept")
    result = results[0]
    described = result.fndesc
    content = kept(result.library.codegen, arguments)
    defined, needs = symbols(content)
    if described.llvm_func_name not in defined:
        raise Unknown("the object file lacks its function")
    c_entry = described.llvm_cfunc_wrapper_name
    return Code(
        content=content,
        entry=described.llvm_func_name,
        c_entry=c_entry if c_entry in defined else "",
        arguments=tuple(leaf for kind in described.argtypes for leaf in _leaves(kind)),
        result="" if described.restype == types.none else _leaf(described.restype),
        needs=tuple(needs),
    )


def _leaves(kind: Any) -> list[str]:
    """Leaves of the type of one argument, as `Code.arguments` names them."""
    if isinstance(kind, types.BaseTuple):
        return [leaf for inner in kind for leaf in _leaves(inner)]
    return [_leaf(kind)]


def _leaf(kind: Any) -> str:
    if kind in SCALARS:
        return SCALARS[kind]
    if isinstance(kind, types.FunctionType):
        return FUNCTION
    if isinstance(kind, types.Array) and kind.layout == "C" and kind.dtype in SCALARS:
        return f"{SCALARS[kind.dtype]}[{kind.ndim}]"
    raise Unknown(f"an argument of type {kind}")

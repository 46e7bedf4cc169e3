"""Object files of functions that Numba compiled and `sealed` keeps: what `machine_code` links."""

from __future__ import annotations

from typing import Any

from numba import types

from dmft.compiled.kept_code import symbols
from dmft.compiled.machine_code import FUNCTION, Code, Unknown
from dmft.compiled.sealed import SealedCache

SCALARS = {types.float64: "f8", types.int64: "i8"}


def code_of(function: Any) -> Code:
    """The kept code of a compiled function with one signature.

    Raises
    ------
    Unknown
        When it is not kept, or cannot be called without Numba.
    """
    cache = getattr(function, "_cache", None)
    results = list(getattr(function, "overloads", {}).values())
    if not isinstance(cache, SealedCache) or len(results) != 1:
        raise Unknown("not kept")
    result = results[0]
    described = result.fndesc
    content = _kept(cache, result.library.codegen)
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


def _kept(cache: SealedCache, codegen: Any) -> bytes:
    """Object file among what Numba keeps of the function."""
    _, *code = cache._index_key(None, codegen)
    keys = [key for key in cache._cache_file._index() if list(key[1:]) == code]
    stored: Any = cache._cache_file.load(keys[0]) if len(keys) == 1 else None
    try:
        _, kind, (content, _) = stored[0]
    except (TypeError, ValueError) as error:
        raise Unknown("kept in another way") from error
    if kind != "object":
        raise Unknown(f"kept as {kind}")
    return bytes(content)


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

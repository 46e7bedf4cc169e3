"""Functions that Numba compiled, as object files: what `sealed` keeps and `machine_code` links.

Inner functions, which only compiled code calls, have no entry for Python and are copied into each
caller.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NoReturn

from llvmlite.binding import Linkage, create_new_function_pass_manager, parse_bitcode
from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.errors import NumbaError
from numba.core.registry import CPUDispatcher

from dmft.compiled.machine_code import FUNCTION, Code, Unknown, symbols

# Beginnings of the names of the entries for Python and C.
ENTRIES = ("_ZN7cpython", "cpython.", "cfunc.")
# Objects of Python that functions use, of those that have no machine code yet.
_ENVIRONMENTS: dict[str, Any] = {}


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

    A function that Python does not call is therefore neither optimised nor made machine code of
    before it is asked for: Numba does both for each function, and both again within each caller.
    """

    # Of a function that was loaded: its bitcode.
    _packed = b""

    def get_pointer_to_function(self, name: str) -> int:
        """Address of a function; 0 if there is none, and its caller is to make the code."""
        is_here = self._finalized or any(f.name == name for f in _defined(self._final_module))
        return int(super().get_pointer_to_function(name)) if is_here else 0

    def add_linking_library(self, library: Any) -> None:
        """Take in what another library has."""
        if isinstance(library, _Library) and not library._finalized:
            self._linking_libraries.append(library)
        else:
            super().add_linking_library(library)

    def finalize(self) -> None:
        """Make machine code of all that was taken in; its objects of Python have waited for it."""
        super().finalize()
        defined = [n for n in _ENVIRONMENTS if self._codegen._engine.is_symbol_defined(n)]
        for name in defined:
            self._codegen.set_env(name, _ENVIRONMENTS.pop(name))

    def _optimize_functions(self, ll_module: Any) -> None:
        """Take values out of memory; the rest is done once, when all is together."""
        if not hasattr(self._codegen, "_pass_builder"):  # Numba before 0.62
            super()._optimize_functions(ll_module)
            return
        ll_module.data_layout = self._codegen._data_layout
        passes, builder = create_new_function_pass_manager(), self._codegen._pass_builder()
        passes.add_sroa_pass()
        passes.add_simplify_cfg_pass()
        passes.add_refprune_pass()
        for function in _defined(ll_module):
            passes.run(function, builder)

    def _optimize_final_module(self) -> None:
        functions = _defined(self._final_module)
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
        if self._packed:
            return parse_bitcode(self._packed)
        return super()._get_module_for_linking() if self._finalized else self._gathered

    @cached_property
    def _gathered(self) -> Any:
        """The function and all that it calls, for its callers."""
        module = self._final_module.clone()
        for library in dict.fromkeys(self._linking_libraries):
            module.link_in(library._get_module_for_linking(), preserve=True)
        for function in _defined(module):
            if function.linkage == Linkage.external:
                function.linkage = Linkage.linkonce_odr
        return module


def _defined(module: Any) -> list[Any]:
    return [function for function in module.functions if not function.is_declaration]


@contextlib.contextmanager
def self_contained(function: Any) -> Iterator[None]:
    """While it lasts (under Numba's lock), what is compiled has its own copy of what it calls."""
    codegen = function.targetctx.codegen()
    before, give = codegen._library_class, codegen.set_env

    def set_env(name: str, environment: Any) -> None:
        if codegen._engine.is_symbol_defined(name):
            give(name, environment)
        else:
            _ENVIRONMENTS[name] = environment

    codegen._library_class, codegen.set_env = _Library, set_env
    try:
        yield
    finally:
        codegen._library_class, codegen.set_env = before, give


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
    results = [
        (key, result)
        for key, result in overloads.items()
        if arguments is None or _flat(key) == arguments
    ]
    if kept is None or len(results) != 1:
        raise Unknown("not kept")
    ((key, result),) = results
    described = result.fndesc
    # A function of a declared signature is kept under it, not under its types.
    content = kept(result.library.codegen, arguments and key)
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


def _flat(kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """Types with those of `*arguments` in place of their tuple."""
    if kinds and isinstance(kinds[-1], types.StarArgUniTuple):
        return (*kinds[:-1], *kinds[-1])
    return kinds


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

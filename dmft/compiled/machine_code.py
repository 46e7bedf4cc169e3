"""Machine code that Numba made, loaded and called without Numba.

A function is kept as LLVM's object file. `llvmlite` links it into the process in a millisecond;
what it asks for (allocation, errors, libm) are the same C functions that Numba would give it, from
the two extension modules that hold them. So the same instructions run on the same helpers, and give
the same bits.

Nothing is linked whose needs are not all known: LLVM ends the process at a name that it misses.
"""

from __future__ import annotations

import builtins
import ctypes
import importlib.machinery
import importlib.util
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dmft.compiled import records
from dmft.record import decoded, encoded

# What an argument is, in C: a number, the three addresses of a first-class function, or an array
# (dtype and number of axes), of which compiled code takes owner, parent, size, item size, data,
# lengths and strides.
NUMBERS = {"f8": ctypes.c_double, "i8": ctypes.c_int64}
FUNCTION = "function"
DTYPES = {"f8": np.dtype(np.float64), "i8": np.dtype(np.int64)}
# Numba's extension modules with C helpers, and what compiled code calls these.
HELPERS = (("numba._helperlib", "numba_"), ("numba.core.runtime._nrt_python", "NRT_"))
# Of libm, under their own names (`numba.core.intrinsics.INTR_MATH`).
PLAIN = "numba._helperlib"
# Of the format ELF: a table of symbols, its entries, and "defined in another file".
ELF, SYMBOL_TABLE, ENTRY_SIZE, ELSEWHERE = b"\x7fELF\x02\x01", 2, 24, 0
# What this process has linked, by module and name: callers look here before they load Numba.
LINKED: dict[str, Native] = {}


class Unknown(Exception):
    """Code that cannot be linked here, or what is not kept."""


@dataclass(frozen=True)
class Code:
    """Object file of one compiled function, its symbols and the types of its arguments.

    `entry` has Numba's calling convention: status(result*, error**, arguments...); `c_entry` is
    called through a first-class function, empty if there is none. `arguments` and `result` ("" for
    none) are named "f8", "i8", "function", "f8[1]" (array with one axis), one for each leaf.
    `needs` are symbols that the process must have, `library` the compiled functions that the code
    calls, by the symbol that it calls each by.
    """

    content: bytes
    entry: str
    c_entry: str
    arguments: tuple[str, ...]
    result: str
    needs: tuple[str, ...]
    library: Mapping[str, Code] = field(default_factory=dict)


class Native:
    """A compiled function of the process, as Python and as compiled code call it."""

    def __init__(self, code: Code, entry: int, address: int) -> None:
        self.code = code
        self.address = address
        self._result = _result_type(code.result)
        self._passed = [_passer(name) for name in code.arguments]
        # Room for what is returned, where that is nothing: shared by all calls.
        self._nowhere = (ctypes.c_int64 * 2)()
        where = ctypes.addressof(self._nowhere)
        self._unread = (where, where + 8) if not code.result else None
        kinds = [kind for name in code.arguments for kind in _leaves(name)]
        pointer = ctypes.c_void_p
        self._call = ctypes.CFUNCTYPE(ctypes.c_int32, pointer, pointer, *kinds)(entry)

    def __wrapper_address__(self) -> int:
        """Address by which Numba's own code calls a first-class function."""
        return self.address

    def __call__(self, *arguments: Any) -> Any:
        """Call as Numba's function would be called; records count by their fields."""
        passed = self._passed
        values = arguments if len(arguments) == len(passed) else list(_flat(arguments))
        if len(values) != len(passed):
            raise TypeError(f"expected {len(passed)} values, got {len(values)}")
        leaves: list[Any] = []
        for function, value in zip(passed, values, strict=True):
            leaves += function(value)
        if self._unread is not None:
            status = self._call(*self._unread, *leaves)
        else:
            result, error = self._result(), ctypes.c_void_p()
            status = self._call(ctypes.addressof(result), ctypes.addressof(error), *leaves)
        if status not in (0, -2):  # -2: None is returned
            raise RuntimeError(f"compiled code failed with status {status}")
        if self._unread is not None:
            return None
        if self.code.result in NUMBERS:
            return result.value
        return _taken(result, self.code.result)


def native_of(function: Any) -> Native | None:
    """The function without Numba, where it is that or has been compiled directly."""
    return function if isinstance(function, Native) else getattr(function, "native", None)


def _result_type(name: str) -> Any:
    """Type in C of what a function returns; of none, room that nothing is written to."""
    if not name or name in NUMBERS:
        return NUMBERS.get(name, ctypes.c_int64)
    fields = [(f"field{n}", kind) for n, kind in enumerate(_leaves(name))]
    return type("Array", (ctypes.Structure,), {"_fields_": fields})


def _taken(result: Any, name: str) -> np.ndarray[Any, Any]:
    """Own copy of a returned array, whose memory is given back."""
    values = [getattr(result, field) for field, _ in result._fields_]
    owner, size, data = values[0], values[2] * values[3], values[4]
    content = ctypes.string_at(data, size)
    release = _extension(HELPERS[1][0]).c_helpers["MemInfo_release"]
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(release)(owner)
    shape = values[5 : 5 + _axes(name)]
    return np.frombuffer(content, DTYPES[name[:2]]).reshape(shape).copy()


def _leaves(name: str) -> list[Any]:
    """Types in C of one argument."""
    if name in NUMBERS:
        return [NUMBERS[name]]
    if name == FUNCTION:
        return [ctypes.c_void_p] * 3
    whole, axes = ctypes.c_int64, _axes(name)
    return [ctypes.c_void_p, ctypes.c_void_p, whole, whole, ctypes.c_void_p, *[whole] * 2 * axes]


def _axes(name: str) -> int:
    return int(name[3:-1])


def _flat(arguments: Iterable[Any]) -> Iterable[Any]:
    for value in arguments:
        if isinstance(value, tuple):
            yield from _flat(value)
        else:
            yield value


def _passer(name: str) -> Callable[[Any], Sequence[Any]]:
    """What makes the leaves of one argument, which must be of the type that the code takes."""
    if name == "f8":
        return lambda value: (float(value),)
    if name == "i8":
        return lambda value: (int(value),)
    if name == FUNCTION:
        return lambda value: (value.__wrapper_address__(), None, None)
    dtype, axes = DTYPES[name[:2]], _axes(name)

    def array(value: Any) -> Sequence[Any]:
        fits = isinstance(value, np.ndarray) and value.ndim == axes and value.dtype == dtype
        if not (fits and value.flags.carray):
            raise TypeError(f"expected a contiguous array {name}, got {type(value).__name__}")
        address = _address(value) if value.size else value.ctypes.data
        return (None, None, value.size, 8, address, *value.shape, *value.strides)

    return array


def _address(array: np.ndarray[Any, Any]) -> int:
    """Where the entries are; an array's own `ctypes` takes eight times as long to say so."""
    return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]


def link(codes: Mapping[str, Code]) -> dict[str, Native]:
    """Functions of these names, linked into the process; they stay until it ends.

    Raises
    ------
    Unknown
        Where llvmlite cannot link them, or the process lacks what they need.
    """
    try:
        import llvmlite.binding as llvm

        engine = _engine()  # from now on LLVM also finds the symbols of the process
        _give_helpers(llvm.add_symbol)
        for code in codes.values():
            called = {n: c for n, c in code.library.items() if not _has(llvm, n)}
            for name, function in link(called).items() if called else ():
                llvm.add_symbol(name, function.address)
        missing = {n for code in codes.values() for n in code.needs if not _has(llvm, n)}
        if missing:
            raise Unknown(f"no {', '.join(sorted(missing)[:3])}")
        for code in codes.values():
            engine.add_object_file(llvm.ObjectFileRef.from_data(code.content))
        engine.finalize_object()
        found = {name: _native(engine, code) for name, code in codes.items()}
    except (ImportError, AttributeError, OSError, RuntimeError, TypeError) as error:
        raise Unknown(str(error)) from error
    return found


def _native(engine: Any, code: Code) -> Native:
    entry = engine.get_function_address(code.entry)
    address = engine.get_function_address(code.c_entry) if code.c_entry else 0
    if not entry or bool(address) != bool(code.c_entry):
        raise Unknown("the object file lacks its function")
    return Native(code, entry, address)


def _has(llvm: Any, name: str) -> bool:
    return bool(llvm.address_of_symbol(name))


@cache
def _engine() -> Any:
    """What links and owns the code, until the process ends."""
    import llvmlite.binding as llvm

    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(opt=0))


def target_machine(**options: Any) -> Any:
    """The processor for LLVM; static relocations on x86, as Numba has them."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    reloc = "static" if target.name.startswith("x86") else "default"
    return target.create_target_machine(reloc=reloc, jit=True, **options)


@cache
def _give_helpers(add_symbol: Callable[[str, int], None]) -> None:
    """Tell LLVM of the C functions that compiled code calls, as Numba does when it starts."""
    add_symbol("_Py_NoneStruct", id(None))
    for name, value in vars(builtins).items():
        if isinstance(value, type) and issubclass(value, BaseException):
            add_symbol(f"PyExc_{name}", id(value))
    for module, prefix in HELPERS:
        for name, address in _extension(module).c_helpers.items():
            add_symbol(name if name.startswith("_") else f"{prefix}{name}", address)
            if module == PLAIN and name in _math_names():
                add_symbol(name, address)


def _math_names() -> frozenset[str]:
    names = "sin cos tan sinh cosh tanh asin acos atan asinh acosh atanh exp expm1 sqrt fabs floor"
    names += " ceil log log10 log1p round trunc pow fmod atan2"
    return frozenset(f"{name}{end}" for name in names.split() for end in ("", "f"))


def _extension(name: str) -> Any:
    """An extension module of Numba's, without the package around it."""
    if name in sys.modules:
        return sys.modules[name]
    package = importlib.util.find_spec("numba")
    if package is None or not package.submodule_search_locations:
        raise Unknown("no Numba")
    stem = Path(package.submodule_search_locations[0], *name.split(".")[1:])
    paths = [f"{stem}{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    path = next((p for p in paths if Path(p).is_file()), None)
    if path is None:
        raise Unknown(f"no {name}")
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise Unknown(f"no {name}")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def code_parts(code: Code) -> tuple[Any, records.Arrays]:
    """Plain values and arrays of code and of the library that it calls."""
    return encoded(code, (Code,))


def read_code(file: str) -> Code | None:
    """Code of a record; None where there is none, or one of another version."""
    found = records.load(file)
    try:
        code = None if found is None else decoded(*found, (Code,))
    except Exception:  # other fields, other arrays: compiled once more
        return None
    return code if isinstance(code, Code) else None


def keep_code(file: str, code: Code) -> bool:
    """Write a record of code; whether that could be done."""
    return records.store(file, *code_parts(code))


def symbols(content: bytes) -> tuple[set[str], list[str]]:
    """Names that an object file defines, and those that it needs.

    Raises
    ------
    Unknown
        For what is not in the format ELF of 64 bits (Linux): others are not read.
    """
    if not content.startswith(ELF):
        raise Unknown("object files of this system are not read")
    defined: set[str] = set()
    needs: list[str] = []
    (start,), (size, count) = (
        struct.unpack_from("<Q", content, 40),
        struct.unpack_from("<HH", content, 58),
    )
    sections = [struct.unpack_from("<IIQQQQIIQQ", content, start + i * size) for i in range(count)]
    for section in sections:
        if section[1] != SYMBOL_TABLE:
            continue
        names = sections[section[6]][4]
        for place in range(section[4], section[4] + section[5], ENTRY_SIZE):
            first, _, _, where = struct.unpack_from("<IBBH", content, place)
            end = content.index(b"\0", names + first)
            name = content[names + first : end].decode()
            if name and where == ELSEWHERE:
                needs.append(name)
            elif name:
                defined.add(name)
    return defined, needs

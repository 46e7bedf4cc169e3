"""Measures that return names: numbers for the grid, in the order of the alphabet at the end."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import pickle
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from dmft.analysis.phase_diagram import Point, read_result
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.record import Brief, Short, in_full
from dmft.solvers.checkpoint import Digest

# Larger arrays are known by a digest: NumPy prints the ends of long ones only.
LISTED = 8
# Data of a module that a function reads, besides formulas and what has a fingerprint.
PLAIN = (int, float, complex, str, bytes, bool, type(None), tuple, list, set, frozenset, np.ndarray)
# Where packages are: the library itself, others, the standard library.
INSTALLED = (
    str(Path(__file__).parents[2]),
    *(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")),
)


class Named:
    """A measure whose labels (names, and if `keeps_all` bools and ints) travel with its points.

    A label stands as JSON in the message of its point, in a store too; the value of a name is its
    place in `PhaseDiagram.names`, once all are known.
    """

    def __init__(self, measure: Callable[..., Any], keeps_all: bool = False) -> None:
        self.measure, self.keeps_all = measure, keeps_all
        self.name, self.number = "", False
        if hasattr(measure, "many"):
            self.many = self._many

    def __call__(self, **point: float) -> Any:
        """Result at a point."""
        return self.labelled(self.measure(**point))

    def _many(self, points: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        """Results at many points, where the measure has them together."""
        yield from map(self.labelled, self.measure.many(points))  # type: ignore[attr-defined]

    def labelled(self, result: Any) -> Any:
        """A label with its point, anything else as it is."""
        if isinstance(result, Exception):
            return result
        number = result[0] if isinstance(result, tuple) and result else result
        is_name = isinstance(result, str)
        if is_name:
            self.name = self.name or str(result)
        elif not isinstance(number, str) and not (isinstance(number, float) and number != number):
            self.number = True
        if self.name and self.number:
            raise mixed_labels(self.name)
        if is_name:
            return Point(0.0, Status.OK, message=json.dumps(str(result)))
        if self.keeps_all and isinstance(number, bool | int | np.bool_ | np.integer):
            point = read_result(result)
            good = point.status in (Status.OK, Status.EVENT)
            return replace(point, message=json.dumps(point.value)) if good else point
        return result


def mixed_labels(name: str) -> BadParameter:
    """The error of a measure that returns names and numbers."""
    return BadParameter(
        f"the measure returned the name {name!r} at one point and a number at another: return one "
        "kind, or nan where there is no name"
    )


def name_of(measure: Callable[..., Any]) -> Digest:
    """What a store remembers of a function: its name and a digest of what it computes.

    The digest is of its code, its defaults and the variables around it that it reads: those of an
    enclosing function, and of its module the plain data and the functions, which are digested in
    turn. What other modules hold is known by its name. The same in every process.
    """
    return Digest.of(_Known().function(measure), _words(measure))


def word_of(value: Any) -> str:
    """A value in words that differ where it does, and are the same in every process."""
    return _Known().word(value)


def _words(measure: Any) -> dict[str, str]:
    """What `name_of` digests, by the names that these values have in the user's program."""
    if isinstance(measure, functools.partial):
        bound = {f"argument {n}": value for n, value in enumerate(measure.args)} | measure.keywords
        return _words(measure.func) | {name: word_of(value) for name, value in bound.items()}
    measure = getattr(measure, "py_func", measure)
    inner = getattr(measure, "__func__", getattr(type(measure), "__call__", None))  # noqa: B004
    function = measure if isinstance(measure, FunctionType) else inner
    words = {"name": str(getattr(measure, "__qualname__", type(measure).__qualname__))}
    if not isinstance(function, FunctionType):
        return words
    words["code"] = _digest(repr(_code(function.__code__)).encode())
    around, module = inspect.getclosurevars(function).nonlocals, function.__globals__
    defaults = {n: y.default for n, y in inspect.signature(function).parameters.items()}
    owned = getattr(measure, "__self__", None if function is measure else measure)
    held = {**defaults, **around, **getattr(owned, "__dict__", {})}
    read = {n: module[n] for n in _names(function.__code__) if n in module}
    empty = inspect.Parameter.empty
    words |= {n: word_of(value) for n, value in held.items() if value is not empty}
    return words | {n: _Known().data(value) for n, value in read.items()}


class _Known:
    """Words for values that differ where these do; a function that calls itself is met once."""

    def __init__(self) -> None:
        self.met: set[int] = set()

    def function(self, measure: Any) -> str:
        """A function, with what it binds."""
        if isinstance(measure, functools.partial):
            given = [*map(self.word, measure.args)]
            given += [f"{name}={self.word(value)}" for name, value in measure.keywords.items()]
            return f"{self.function(measure.func)}({', '.join(given)})"
        name = str(getattr(measure, "__qualname__", type(measure).__qualname__))
        measure = getattr(measure, "py_func", measure)  # what Numba compiled
        parts = self.parts(measure)
        if id(measure) in self.met or parts is None:
            return name
        self.met.add(id(measure))
        return f"{name} {_digest(repr(parts()).encode())}"

    def parts(self, measure: Any) -> Callable[[], list[Any]] | None:
        """What is digested; None of functions that are not written in Python."""
        if isinstance(measure, FunctionType):
            return lambda: self.code_of(measure)
        inner = getattr(measure, "__func__", None)
        if isinstance(inner, FunctionType):
            return lambda: [*self.code_of(inner), self.word(measure.__self__)]
        call = getattr(type(measure), "__call__", None)  # noqa: B004 (its code is wanted)
        if isinstance(call, FunctionType):
            return lambda: [*self.code_of(call), self.data(getattr(measure, "__dict__", {}))]
        return None

    def code_of(self, function: FunctionType) -> list[Any]:
        """Code, defaults and what is read around it."""
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]
        around = inspect.getclosurevars(function).nonlocals.values()
        words = [self.word(value) for value in (*defaults, *around)]
        module = function.__globals__
        read = sorted(name for name in _names(function.__code__) if name in module)
        return [_code(function.__code__), words, [self.data(module[name]) for name in read]]

    def data(self, value: Any) -> str:
        """A value of a module: plain data and functions of Python, of anything else its type."""
        if isinstance(value, Mapping):
            return repr(sorted((str(k), self.data(v)) for k, v in value.items()))
        is_plain = isinstance(value, PLAIN) or hasattr(value, "fingerprint")
        is_symbolic = str(type(value).__module__).startswith("sympy")
        if is_plain or is_symbolic or isinstance(value, FunctionType):
            return self.word(value)
        return str(getattr(value, "__name__", type(value).__qualname__))

    def word(self, value: Any) -> str:
        """A value in words that differ where it does, and are the same in every process."""
        if isinstance(value, FunctionType) and not _is_local(value):
            return f"{value.__module__}.{value.__qualname__}"
        if callable(value) and hasattr(value, "__qualname__"):
            return self.function(value)
        if hasattr(value, "fingerprint"):
            return str(value.fingerprint)
        if isinstance(value, set | frozenset):
            return f"{type(value).__name__} {sorted(map(self.word, value))}"
        if isinstance(value, tuple | list):
            return f"{type(value).__name__} {[self.word(each) for each in value]}"
        if isinstance(value, Mapping):
            return f"mapping {[(self.word(k), self.word(v)) for k, v in value.items()]}"
        if isinstance(value, Short) and is_dataclass(value):  # its repr leaves things out
            held = [f"{one.name}={self.word(getattr(value, one.name))}" for one in fields(value)]
            return f"{type(value).__qualname__}({', '.join(held)})"
        text = in_full(value) if isinstance(value, Brief) else str(value)
        if " at 0x" in text or (isinstance(value, np.ndarray) and value.size > LISTED):
            # Without it, the address: such a store is refused later rather than taken for another.
            with contextlib.suppress(Exception):
                return f"{type(value).__qualname__} {_digest(pickle.dumps(value))}"
        return text


def _is_local(function: FunctionType) -> bool:
    """Whether a function is the user's: those of installed packages have versions of their own."""
    file = function.__code__.co_filename
    return not any(file.startswith(folder) for folder in INSTALLED)


def _names(code: CodeType) -> set[str]:
    """Names that a function reads, with those inside it."""
    inner = [_names(value) for value in code.co_consts if isinstance(value, CodeType)]
    return {*code.co_names}.union(*inner)


def _code(code: CodeType) -> list[Any]:
    """Instructions, names and constants of a function."""
    constants = [_constant(value) for value in code.co_consts]
    return [code.co_code, code.co_names, code.co_varnames, constants]


def _constant(value: Any) -> Any:
    """A constant in words; the order of a set is another in every process."""
    if isinstance(value, CodeType):
        return _code(value)
    if isinstance(value, frozenset):
        return sorted(map(repr, map(_constant, value)))
    if isinstance(value, tuple):
        return [_constant(each) for each in value]
    return repr(value)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()

"""Measures that return names: numbers for the grid, in the order of the alphabet at the end."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import CodeType
from typing import Any

import numpy as np

from dmft.analysis.phase_diagram import PhaseDiagram
from dmft.errors import BadParameter

# Larger arrays are known by a digest: NumPy prints the ends of long ones only.
LISTED = 8


class Named:
    """A measure whose names become numbers, in the order in which they come."""

    def __init__(self, measure: Callable[..., Any]) -> None:
        self.measure = measure
        self.names: dict[str, int] = {}
        self.has_numbers = False
        self.lock = threading.Lock()
        if hasattr(measure, "many"):
            self.many = self._many

    def __call__(self, **point: float) -> Any:
        """Result at a point."""
        return self.number(self.measure(**point))

    def _many(self, points: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        """Results at many points, where the measure has them together."""
        yield from map(self.number, self.measure.many(points))  # type: ignore[attr-defined]

    def number(self, result: Any) -> Any:
        """A name as a number, anything else as it is."""
        if not isinstance(result, str):
            number = result[0] if isinstance(result, tuple) and result else result
            failed = isinstance(number, float) and np.isnan(number)
            if not (failed or isinstance(number, str | Exception)):
                self.has_numbers = True
            return self.checked(result)
        with self.lock:
            number = self.names.setdefault(str(result), len(self.names))
        return self.checked(number)

    def checked(self, result: Any) -> Any:
        """Refuse names beside numbers."""
        if self.has_numbers and self.names:
            raise BadParameter(
                f"the measure returned the name {next(iter(self.names))!r} at one point and a "
                "number at another: return one kind, or nan where there is no name"
            )
        return result

    def in_order(self, diagram: PhaseDiagram) -> PhaseDiagram:
        """The diagram with its names in the order of the alphabet, whichever came first."""
        if not self.names:
            return diagram
        names = sorted(self.names)
        place = np.empty(len(names))
        place[[self.names[name] for name in names]] = np.arange(len(names))
        known = np.isfinite(diagram.values)
        values = diagram.values.copy()
        values[known] = place[values[known].astype(int)]
        return replace(diagram, values=values, provenance={**diagram.provenance, "labels": names})


def name_of(measure: Callable[..., Any], is_whole: bool = True) -> str:
    """What a store remembers of a function: its name, the same in every process.

    Behind it stand what `functools.partial` binds, and of a lambda, which has no name, a digest of
    its code and (if `is_whole`) of the variables around it.
    """
    if isinstance(measure, functools.partial):
        given = [*map(_word, measure.args)]
        given += [f"{name}={_word(value)}" for name, value in measure.keywords.items()]
        return f"{name_of(measure.func)}({', '.join(given)})"
    name = str(getattr(measure, "__qualname__", type(measure).__qualname__))
    code = getattr(measure, "__code__", None)
    if name.endswith("<lambda>") and isinstance(code, CodeType):
        bound = inspect.getclosurevars(measure).nonlocals if is_whole else {}
        given = [*(getattr(measure, "__defaults__", None) or ()), *bound.values()]
        return f"{name} {_digest(repr([_code(code), *map(_word, given)]).encode())}"
    return name


def _word(value: Any) -> str:
    """A value in words that differ where it does, and are the same in every process."""
    if callable(value) and hasattr(value, "__qualname__"):
        return name_of(value, is_whole=False)
    if hasattr(value, "fingerprint"):
        return str(value.fingerprint)
    text = str(value)
    if " at 0x" in text or (isinstance(value, np.ndarray) and value.size > LISTED):
        # Without it, the address: such a store is refused later rather than taken for another.
        with contextlib.suppress(Exception):
            return f"{type(value).__qualname__} {_digest(pickle.dumps(value))}"
    return text


def _code(code: CodeType) -> list[Any]:
    """Instructions, names and constants of a function."""
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code, code.co_names, code.co_varnames, constants]


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()

"""Equality of records by what they hold, the same after pickling. Floor 0: knows no record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


class Record:
    """Base of dataclasses (``eq=False``) that hold arrays or numbers which may be nan.

    Two of them are equal where all fields are, arrays element by element and nan equal to nan.
    Fields with ``compare=False`` do not count.
    """

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _same_fields(self, other)

    # Arrays have no hash.
    __hash__ = None  # type: ignore[assignment]


def is_same(a: Any, b: Any) -> bool:
    """Whether two values are equal as records count it."""
    if a is b:
        return True
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        # A number of NumPy's is an array without axes, as files give it back.
        both = all(isinstance(x, np.ndarray | np.generic) for x in (a, b))
        return both and a.shape == b.shape and _same_arrays(np.asarray(a), np.asarray(b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(is_same(a[name], b[name]) for name in a)
    if isinstance(a, tuple | list):
        if type(a) is not type(b) or len(a) != len(b):
            return False
        return all(is_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float) and a != a and b != b:
        return True
    if type(a) is type(b) and is_dataclass(a):
        return _same_fields(a, b) if _is_plain(a) else bool(a == b)
    return bool(a == b)


def _same_arrays(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    if a.dtype.kind in "fc" and b.dtype.kind in "fc":
        return bool(np.array_equal(a, b, equal_nan=True))
    return bool(np.array_equal(a, b))


def _is_plain(a: Any) -> bool:
    """Whether a dataclass compares its fields, with the equality made for it or none."""
    parameters = getattr(type(a), "__dataclass_params__", None)
    return not any("__eq__" in vars(kind) for kind in type(a).__mro__[:-1]) or bool(
        parameters and parameters.eq
    )


def _same_fields(a: Any, b: Any) -> bool:
    names = [f.name for f in fields(a) if f.compare]
    return all(is_same(getattr(a, name), getattr(b, name)) for name in names)

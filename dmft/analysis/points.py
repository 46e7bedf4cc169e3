"""Points of a sweep: a Cartesian product of axes, or a list; keys that name each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter

Array = NDArray[np.float64]
KEY = np.dtype([("high", "<u8"), ("low", "<u8")])


@dataclass(frozen=True, eq=False)
class Points:
    """Named parameters at numbered points; a product of axes is never unrolled.

    Attributes
    ----------
    names : tuple of str
    shape : tuple of int
        Lengths of the axes of a product, the last one fastest; (n,) for a list.
    columns : tuple of arrays
        Values of each axis, or of each parameter at all points of a list.
    is_grid : bool

    Examples
    --------
    >>> points = as_points({"a": [0.0, 1.0], "b": [10, 20, 30]})
    >>> len(points), points.at(4)
    (6, {'a': 1.0, 'b': 20})
    >>> as_points([{"a": 1.0}, {"a": 3.0}]).at(1)
    {'a': 3.0}
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    columns: tuple[NDArray[Any], ...]
    is_grid: bool

    def __len__(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def at(self, number: int) -> dict[str, float | int]:
        """Parameters of one point, as Python numbers."""
        if self.is_grid:
            places = np.unravel_index(number, self.shape)
            return {
                n: c[i].item() for n, c, i in zip(self.names, self.columns, places, strict=True)
            }
        return {n: c[number].item() for n, c in zip(self.names, self.columns, strict=True)}

    def rows(self, numbers: NDArray[np.int64]) -> Array:
        """Parameters of many points, (n, parameters)."""
        if not self.is_grid:
            return np.stack([c[numbers].astype(np.float64) for c in self.columns], axis=1)
        places = np.unravel_index(numbers, self.shape)
        pairs = zip(self.columns, places, strict=True)
        return np.stack([c[i].astype(np.float64) for c, i in pairs], axis=1)

    def keys(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """128-bit keys of points: the same for the same names and values, whatever the order."""
        order = sorted(range(len(self.names)), key=lambda i: self.names[i])
        names = "\0".join(self.names[i] for i in order).encode()
        base = hashlib.blake2b(names, digest_size=16)
        rows = np.ascontiguousarray(self.rows(numbers)[:, order] + 0.0)  # -0.0 is 0.0
        result = np.empty(numbers.size, dtype=KEY)
        view = result.view("u1").reshape(-1, KEY.itemsize)
        for n, row in enumerate(rows):
            digest = base.copy()
            digest.update(row.tobytes())
            view[n] = np.frombuffer(digest.digest(), dtype="u1")
        return result


def as_points(given: Mapping[str, ArrayLike] | Sequence[Mapping[str, Any]] | Points) -> Points:
    """Axes of a product, or a list of parameters by name.

    Raises
    ------
    BadParameter
        For no points, values that are not finite numbers, and lists with different names.
    """
    if isinstance(given, Points):
        return given
    if isinstance(given, Mapping):
        if not given:
            raise BadParameter("a sweep needs at least one parameter with its values")
        columns = tuple(_column(name, values) for name, values in given.items())
        return Points(tuple(given), tuple(c.size for c in columns), columns, True)
    rows = list(given)
    if not rows or not all(isinstance(row, Mapping) and row for row in rows):
        raise BadParameter(
            "points are a mapping of names to values (all combinations), or a list of mappings"
        )
    names = tuple(rows[0])
    for n, row in enumerate(rows):
        if set(row) != set(names):
            raise BadParameter(
                f"point {n} has the parameters {sorted(row)}, point 0 {sorted(names)}"
            )
    columns = tuple(_column(name, [row[name] for row in rows]) for name in names)
    return Points(names, (len(rows),), columns, False)


def _column(name: str, values: ArrayLike) -> NDArray[Any]:
    if not isinstance(name, str) or not name.isidentifier():
        raise BadParameter(f"a parameter is named by an identifier, got {name!r}")
    array = np.array(values)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iuf":
        raise BadParameter(f"{name} must have a non-empty list of numbers, got {values!r:.80}")
    if not np.all(np.isfinite(array)):
        raise BadParameter(f"{name} holds a value that is not finite")
    return array if array.dtype.kind == "f" else array.astype(np.int64)

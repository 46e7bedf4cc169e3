"""Points of a sweep, with keys that name each of them, and what it gives: values and statuses.

Points are a Cartesian product of axes, or a list.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft import netcdf
from dmft.analysis.phase_diagram import STATUSES, PhaseDiagram
from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.record import Archived, Record, variable_key
from dmft.validation import as_python

KEY = np.dtype([("high", "<u8"), ("low", "<u8")])
# Points whose keys are made at once: what is between fits into a cache.
BLOCK = 1 << 14
# Odd factors of the mixing, fixed for ever, three for each word of a key: digits of a hash.
FACTORS = np.frombuffer(hashlib.blake2b(b"dmft points", digest_size=48).digest(), dtype="<u8")
FACTORS = FACTORS.reshape(2, 3) | np.uint64(1)
# Whole numbers beyond are not all held by the doubles that keys are made of.
LARGEST = 2**53


@dataclass(frozen=True, eq=False)
class Points(Record):
    """Parameters at the points of a sweep.

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
        """Return the parameters of one point, as Python numbers.

        Parameters
        ----------
        number : int
            Number of the point. The last parameter varies fastest.

        Returns
        -------
        dict of str to float or int

        Examples
        --------
        >>> points = as_points({"a": [0.0, 1.0], "b": [10, 20, 30]})
        >>> points.at(4)
        {'a': 1.0, 'b': 20}
        """
        return self.all_at(np.array([number]))[0]

    def all_at(self, numbers: NDArray[np.int64]) -> list[dict[str, float | int]]:
        """Parameters of the points with these numbers (n,), as Python numbers."""
        columns = [column.tolist() for column in self._chosen(numbers)]
        return [dict(zip(self.names, row, strict=True)) for row in zip(*columns, strict=True)]

    def _chosen(self, numbers: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Columns at these points."""
        if not self.is_grid:
            return [column[numbers] for column in self.columns]
        places = np.unravel_index(numbers, self.shape)
        return [column[i] for column, i in zip(self.columns, places, strict=True)]

    def rows(self, numbers: NDArray[np.int64]) -> Array:
        """Return the parameters of many points as an array.

        Parameters
        ----------
        numbers : (n,) ndarray of int
            Places of the points.

        Returns
        -------
        (n, parameters) ndarray

        Examples
        --------
        >>> points = as_points({"a": [0.0, 1.0], "b": [10, 20, 30]})
        >>> points.rows(np.array([0, 4])).tolist()
        [[0.0, 10.0], [1.0, 20.0]]
        """
        return np.stack([c.astype(np.float64) for c in self._chosen(numbers)], axis=1)

    def keys(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return 128-bit keys of points, which do not depend on the order of the parameters.

        Parameters
        ----------
        numbers : (n,) ndarray of int
            Places of the points.

        Returns
        -------
        (n,) structured array
            Two words of 64 bits each.

        Examples
        --------
        >>> points = as_points({"a": [0.0, 1.0], "b": [10, 20, 30]})
        >>> points.keys(np.array([0, 4])).size
        2
        """
        order = sorted(range(len(self.names)), key=lambda i: self.names[i])
        names = "\0".join(self.names[i] for i in order).encode()
        seeds = np.frombuffer(hashlib.blake2b(names, digest_size=16).digest(), dtype="<u8")
        result = np.empty(numbers.size, dtype=KEY)
        for begin in range(0, numbers.size, BLOCK):
            here = slice(begin, begin + BLOCK)
            rows = self.rows(numbers[here]) + 0.0  # -0.0 is 0.0
            for word, seed, factors in zip(KEY.names or (), seeds, FACTORS, strict=True):
                state = np.full(rows.shape[0], seed)
                for i in order:
                    state = _mix(state ^ np.ascontiguousarray(rows[:, i]).view("u8"), factors)
                result[word][here] = state
        return result

    def only(self, numbers: NDArray[np.int64]) -> Points:
        """Return some of the points as a list.

        Parameters
        ----------
        numbers : (n,) ndarray of int
            Places of the points.

        Returns
        -------
        Points

        Examples
        --------
        >>> points = as_points({"a": [0.0, 1.0], "b": [10, 20, 30]})
        >>> len(points.only(np.array([0, 4])))
        2
        """
        return Points(self.names, (numbers.size,), tuple(self._chosen(numbers)), False)


def _mix(state: NDArray[np.uint64], factors: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of words: shifts and odd factors in turn, each step a bijection."""
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(32))) * factors[0]
        state = (state ^ (state >> np.uint64(29))) * factors[1]
        state = (state ^ (state >> np.uint64(32))) * factors[2]
    mixed: NDArray[np.uint64] = state ^ (state >> np.uint64(29))
    return mixed


Axis = tuple[str, float, float] | tuple[str, ArrayLike]
Axes = Axis | Mapping[str, ArrayLike]
# Values of an axis that is given by its ends, evenly spaced.
OF_RANGE = 33
FORMS = "(name, values), (name, lowest, highest) or a mapping of names to values"


@dataclass(frozen=True)
class Range:
    """An axis that is given by its ends."""

    low: float
    high: float

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.linspace(self.low, self.high, OF_RANGE)


def as_axes(*given: Axes | None) -> dict[str, Range | ArrayLike]:
    """Ends or values of axes by name, in the forms that diagrams, boundaries and sweeps take."""
    found: dict[str, Range | ArrayLike] = {}
    for axis in given:
        here = axis if isinstance(axis, Mapping) else _named(axis)
        for name, values in here.items():
            if name in found:
                raise BadParameter(f"both axes are {name!r}: each parameter has one axis")
            found[name] = values
    return found


def _named(axis: Any) -> dict[str, Range | ArrayLike]:
    if not (isinstance(axis, tuple | list) and axis and isinstance(axis[0], str)):
        raise BadParameter(f"an axis is {FORMS}, got {axis!r:.80}")
    name, *rest = axis
    if len(rest) == 1:
        return {name: rest[0]}
    try:
        low, high = map(float, rest)
    except (TypeError, ValueError) as error:
        raise BadParameter(f"an axis is {FORMS}, got {axis!r:.80}") from error
    if not -math.inf < low < high < math.inf:
        raise BadParameter(f"axis {name!r} must have lowest < highest, got {low!r} and {high!r}")
    return {name: Range(low, high)}


def two_axes(*given: Axes | None) -> dict[str, Range | ArrayLike]:
    """The axes of a plane."""
    found = as_axes(*(axis for axis in given if axis is not None))
    if len(found) != 2:
        one = "; along one axis use dmft.sweep({name: values}, measure, ...)" * (len(found) == 1)
        raise BadParameter(f"a plane has two axes, each {FORMS}; got {list(found)}{one}")
    return found


def as_points(
    given: Mapping[str, ArrayLike] | Sequence[Mapping[str, Any] | Axis] | Axis | Points,
) -> Points:
    """Axes of a product, or a list of parameters by name."""
    if isinstance(given, Points):
        return given
    axes = _product(given)
    if axes is not None:
        if not axes:
            raise BadParameter("a sweep needs at least one parameter with its values")
        columns = tuple(_column(name, values) for name, values in axes.items())
        return Points(tuple(axes), tuple(c.size for c in columns), columns, True)
    rows: list[Any] = list(given)
    if not rows or not all(isinstance(row, Mapping) and row for row in rows):
        raise BadParameter(
            "points are a mapping of names to values or a list of axes (all combinations), or a "
            f"list of mappings; an axis is {FORMS}"
        )
    names = tuple(rows[0])
    for n, row in enumerate(rows):
        if set(row) != set(names):
            raise BadParameter(
                f"point {n} has the parameters {sorted(row)}, point 0 {sorted(names)}"
            )
    columns = tuple(_column(name, [row[name] for row in rows]) for name in names)
    return Points(names, (len(rows),), columns, False)


def _product(given: Any) -> Mapping[str, Any] | None:
    """Axes of all combinations; None for a list of points."""
    if isinstance(given, tuple | list) and given and isinstance(given[0], str):
        return as_axes(given)  # type: ignore[arg-type]
    if isinstance(given, tuple | list) and any(isinstance(axis, tuple) for axis in given):
        return as_axes(*given)
    return given if isinstance(given, Mapping) else None


def _column(name: str, values: ArrayLike) -> NDArray[Any]:
    if not isinstance(name, str) or not name.isidentifier():
        raise BadParameter(f"the name of a parameter must be an identifier, got {name!r}")
    try:
        array = np.array(values)
        if array.dtype == object:  # SymPy's numbers
            array = np.array(as_python(array.tolist()))
    except (TypeError, ValueError):  # rows of unequal lengths, say
        array = np.empty(0)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iuf":
        raise BadParameter(f"{name} must have a non-empty list of numbers, got {values!r:.80}")
    if not np.all(np.isfinite(array)):
        raise BadParameter(f"{name} contains a value that is not finite")
    if array.dtype.kind != "f" and max(int(array.max()), -int(array.min())) > LARGEST:
        raise BadParameter(
            f"{name} contains an integer beyond 2**53, which floating-point numbers cannot "
            "represent"
        )
    return array if array.dtype.kind == "f" else array.astype(np.int64)


MISSING = STATUSES.index(Status.INTERRUPTED)


@dataclass(frozen=True, eq=False)
class Sweep(Archived):
    """Result of a sweep: values and statuses, in the order of the points.

    Attributes
    ----------
    points : Points
    values : mapping of str to arrays of the shape of the points
        Values of each quantity; nan if a point failed or was censored.
    codes : array of uint8
        Statuses as integers; `status` contains them as text.
    horizon : array
        Time until which a censored or failed point was followed.
    messages : mapping of int to str
        Messages of failed points, by the number of the point.
    computed : int
        Number of points computed by this call. The others were read from the store.
    torn : int
        Number of damaged records in the store, which were computed again.
    provenance : mapping

    Examples
    --------
    >>> from dmft.analysis.sweeps.run_sweep import run_sweep
    >>> sweep = run_sweep({"a": [1.0, 2.0], "b": [3.0, 0.0]}, lambda a, b: a / b)
    >>> sweep.values["value"].round(3).tolist(), sweep.count()
    ([[0.333, nan], [0.667, nan]], {'nonfinite': 2, 'ok': 2})
    """

    KIND = "dmft sweep"
    PARTS = (Points,)

    points: Points
    values: Mapping[str, NDArray[np.float64]]
    codes: NDArray[np.uint8] = field(repr=False)
    horizon: NDArray[np.float64]
    messages: Mapping[int, str]
    computed: int
    torn: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> NDArray[np.str_]:
        """Status of each point, as text. "interrupted" means that the point was not computed."""
        return np.array([str(s) for s in STATUSES])[self.codes]

    @property
    def complete(self) -> bool:
        """Whether every point has a result."""
        return not bool(np.any(self.codes == MISSING))

    @property
    def reused(self) -> int:
        """Number of points that were in the store before this call."""
        return int(np.count_nonzero(self.codes != MISSING)) - self.computed

    def count(self) -> dict[str, int]:
        """Count the points of each status that occurs.

        Returns
        -------
        dict of str to int
            Numbers of points, by the name of their status.

        Examples
        --------
        >>> import dmft
        >>> swept = dmft.sweep({"a": [1.0, 2.0], "b": [3.0, 0.0]}, lambda a, b: a / b)
        >>> swept.count()
        {'nonfinite': 2, 'ok': 2}
        """
        numbers = np.bincount(self.codes.ravel(), minlength=len(STATUSES)).tolist()
        return {s: n for s, n in sorted(zip(map(str, STATUSES), numbers, strict=True)) if n}

    def __repr__(self) -> str:
        axes = " x ".join(
            f"{n} ({k})" for n, k in zip(self.points.names, self.points.shape, strict=False)
        )
        kept = f", {self.reused} of them from the store" if self.reused else ""
        return f"Sweep({', '.join(self.values)} over {axes}; {self.count()}{kept})"

    def diagram(self, quantity: str | None = None) -> PhaseDiagram:
        """Convert the sweep to a phase diagram, if it is a product of two parameters.

        Parameters
        ----------
        quantity : str, optional
            Name of the quantity in `values`; by default the first one.

        Returns
        -------
        PhaseDiagram
            The first parameter along x, the second along y.

        Raises
        ------
        BadParameter
            For a sweep that is not the product of two parameters.

        Examples
        --------
        >>> import dmft
        >>> swept = dmft.sweep({"a": [1.0, 2.0], "b": [3.0, 0.0]}, lambda a, b: a / b)
        >>> swept.diagram()
        PhaseDiagram(value over a (2) x b (2); {'nonfinite': 2, 'ok': 2})
        """
        if not self.points.is_grid or len(self.points.names) != 2:
            raise BadParameter(
                f"a diagram has two axes; this sweep has the parameters {list(self.points.names)}"
            )
        name = quantity or next(iter(self.values))
        (x_name, y_name), (x, y) = self.points.names, self.points.columns
        rows = y.size
        messages = {(n % rows, n // rows): text for n, text in self.messages.items()}
        messages = dict(sorted(messages.items()))
        return PhaseDiagram(
            x_name, y_name, name, x.astype(np.float64), y.astype(np.float64),
            self.values[name].T, self.status.T, self.horizon.T, messages, self.provenance,
        )  # fmt: skip

    def _displayed(self) -> list[netcdf.Variable]:
        dims = self.points.names if self.points.is_grid else ("point",)
        return [*super()._displayed(), ("status", dims, self.status)]

    def _coordinates(self) -> tuple[str, ...]:
        return self.points.names

    def _axes(self, field: str, name: str, values: NDArray[Any]) -> tuple[str, ...]:
        if field == "points" and self.points.is_grid:
            return (f"axis_{name}",)
        return tuple(f"axis_{i}" for i in range(values.ndim))

    def _quantities(self) -> Mapping[str, str]:
        names = dict(enumerate(self.points.names))
        axes = {f"axis_{i}": n for i, n in names.items()} if self.points.is_grid else {}
        columns = {f"points_columns_{i}": name for i, name in names.items()}
        values = {f"values_{variable_key(n, i)}": n for i, n in enumerate(self.values)}
        return {"axis_0": "point", **axes, **columns, **values}

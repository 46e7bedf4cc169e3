"""Bases of records: equality by what they hold, files, JSON. Floor 0: knows no record."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from dmft.errors import BadParameter
from dmft.names import PAGES, Status

if TYPE_CHECKING:
    import xarray

    from dmft import netcdf
    from dmft.summary import Summary


# Ends of the names of netCDF files, which are HDF5 files.
SUFFIXES = (".nc", ".nc4", ".netcdf", ".cdf", ".h5", ".hdf5", "")
# Bits of a number of Python.
DOUBLE = 53
# Characters of a field's value that a line keeps in any case.
SHORTEST_VALUE = 12
# Numbers of small arrays that a line shows.
SHOWN_NUMBERS = 12


def in_line(values: np.ndarray[Any, Any] | None) -> str:
    """A small array as nested lists of short numbers, a large one as its shape."""
    if values is None or values.size > SHOWN_NUMBERS:
        return "None" if values is None else f"array of shape {values.shape}"
    text = np.array2string(values, precision=4, separator=", ", max_line_width=10**6)
    return " ".join(text.split())


class Brief:
    """Base of dataclasses whose `repr` is a line, whatever they hold; `str` holds everything."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A decorator @dataclass writes no `__repr__` where the class has one.
        if cls.__repr__ in (object.__repr__, Brief.__repr__):
            cls.__repr__ = Brief.__repr__  # type: ignore[method-assign]

    def _in_full(self) -> str:
        """Every field: what tells one record from another."""
        if type(self).__repr__ is not Brief.__repr__:
            return repr(self)
        if not is_dataclass(self):
            return object.__repr__(self)
        return _line(self, {f.name: worded(getattr(self, f.name), in_full) for f in _listed(self)})

    def _summary(self) -> Summary | None:
        """What a result says, which `print` and notebooks lay out; None for declarations."""
        return None

    def __repr__(self) -> str:
        from dmft.summary import LONGEST_REPR, cut

        summary = self._summary()
        if summary is not None:
            return summary.line(type(self).__name__)
        text = self._in_full()
        if len(text) <= LONGEST_REPR or not is_dataclass(self):
            return cut(" ".join(text.split()))
        held = {f.name: getattr(self, f.name) for f in _listed(self) if not _is_default(self, f)}
        texts = {name: " ".join(worded(value, repr).split()) for name, value in held.items()}
        # The longest give way first.
        for most in range(LONGEST_REPR, SHORTEST_VALUE, -1):
            text = _line(self, {name: cut(each, most) for name, each in texts.items()})
            if len(text) <= LONGEST_REPR:
                return text
        return cut(text)

    def __str__(self) -> str:
        summary = self._summary()
        return self._in_full() if summary is None else summary.text()


def _listed(record: Any) -> list[Field[Any]]:
    return [f for f in fields(record) if f.repr]


def _is_default(record: Any, each: Field[Any]) -> bool:
    """Whether a field holds what it holds where nothing is said."""
    return each.default is not MISSING and is_same(getattr(record, each.name), each.default)


def _line(record: Any, texts: Mapping[str, str]) -> str:
    return f"{type(record).__qualname__}({', '.join(f'{n}={y}' for n, y in texts.items())})"


def in_full(value: Any) -> str:
    """What tells a value from others."""
    return value._in_full() if isinstance(value, Brief) else repr(value)


def worded(value: Any, otherwise: Callable[[Any], str]) -> str:
    """A value; numbers of SymPy's that are those of Python's as Python writes them."""
    is_float = type(value).__name__ == "Float" and getattr(value, "_prec", 0) == DOUBLE
    return repr(float(value)) if is_float else otherwise(value)


class Shown(Brief):
    """Base of what a notebook shows as a page: facts, formulas and a small picture."""

    def _repr_html_(self) -> str | None:
        return PAGES[0](self) if PAGES else None


def summary_of(record: object) -> Summary | None:
    """What a result says; None for declarations, and for what is no record."""
    return record._summary() if isinstance(record, Brief) else None


class InLatex:
    """Base of what is written as LaTeX, which a notebook displays."""

    def latex(self) -> str:
        r"""What it holds as LaTeX.

        Returns
        -------
        str

        Examples
        --------
        >>> import dmft
        >>> print(dmft.batch_exponents(3).latex().splitlines()[1])
        \log_d(\text{steps}) &= \max\left(\frac{1}{2}, 2 - \mu\right) \\
        """
        raise NotImplementedError

    def _repr_latex_(self) -> str:
        text = self.latex()
        whole = text.startswith("$") or r"\begin{align" in text
        return text if whole else rf"$\displaystyle {text}$"


class Short(Shown):
    """Base of dataclasses (``repr=False``) that are too long for a line: `repr` leaves out."""

    def _in_words(self) -> str:
        """What the line says, without the name of the class."""
        raise NotImplementedError

    def __repr__(self) -> str:
        from dmft.summary import cut

        return cut(f"{type(self).__name__}({self._in_words()})")


class Record(Shown):
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

    def _summary(self) -> Summary | None:
        """Attributes that the docstring of the class describes; None where there are none."""
        from dmft.summary import of_attributes

        return None if isinstance(self, Short) else of_attributes(self)


class Archived(Record, ABC):
    """Base of records with `save`, `load` and `to_xarray`."""

    # What a file calls a record of this class, and which of its arrays are coordinates.
    KIND: ClassVar[str]
    COORDINATES: ClassVar[tuple[str, ...]] = ()
    # Axes of arrays by name; names of the variables of a field that holds several arrays.
    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    NAMES: ClassVar[Mapping[str, str]] = {}
    # Classes of what fields hold, besides plain values, arrays, sequences and mappings.
    PARTS: ClassVar[tuple[type, ...]] = ()

    def _axes(self, field: str, name: str, values: np.ndarray[Any, Any]) -> tuple[str, ...]:
        """Names of the dimensions of an array of a field; as many as it has, or its own."""
        return self.AXES.get(name, ())[: values.ndim]

    def _archive(self) -> tuple[dict[str, Any], list[netcdf.Variable]]:
        """Fields as JSON holds them, and the arrays that these name."""
        archive = _Archive(self.PARTS, self.NAMES, self._axes)
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}  # type: ignore[arg-type]
        record = {name: archive.encoded(value, name) for name, value in held.items()}
        if isinstance(held.get("status"), Status):  # readable as such
            record["status"] = str(held["status"])
        return record, archive.rows

    @classmethod
    def restore(cls, record: dict[str, Any], arrays: netcdf.Arrays) -> Self:
        """The record, from what `save` wrote: all but the arrays, and the variables of the file."""
        found = {name: decoded(value, arrays, cls.PARTS) for name, value in record.items()}
        if isinstance(found.get("status"), str):
            found["status"] = Status(found["status"])
        return cls(**found)

    def _quantities(self) -> Mapping[str, str]:
        """Quantities and axes whose names in the file are others."""
        return {}

    def _coordinates(self) -> tuple[str, ...]:
        """Arrays of the data set that are coordinates."""
        return self.COORDINATES

    def _displayed(self) -> list[netcdf.Variable]:
        """Arrays of the data set."""
        known = self._quantities()
        return [
            (known.get(name, name), tuple(known.get(axis, axis) for axis in axes), values)
            for name, axes, values in self._archive()[1]
        ]

    def to_xarray(self) -> xarray.Dataset:
        """Return an `xarray.Dataset` with described variables (needs the extra `io`).

        Returns
        -------
        xarray.Dataset
            Arrays with named dimensions and coordinates; attributes contain the provenance.

        Examples
        --------
        >>> import dmft
        >>> diagram = dmft.phase_diagram(lambda a, b: a * b, ("a", [1.0, 2.0]), ("b", [0.5, 1.0]))
        >>> data = diagram.to_xarray()
        >>> data["value"].dims, data["value"].sel(a=2.0, b=0.5).item()
        (('b', 'a'), 1.0)
        """
        from dmft import netcdf

        data = {name: (dims, values) for name, dims, values in self._displayed()}
        coords = {name: data.pop(name) for name in self._coordinates()}
        return netcdf.dataset(self.KIND, self._archive()[0], data, coords)

    def save(self, path: str | Path) -> Path:
        """Write a netCDF file from which `dmft.load` restores an equal record.

        An existing file is replaced only when the new one is complete.

        Parameters
        ----------
        path : str or Path
            Name of the file, ending in .nc or .h5, in an existing folder.

        Returns
        -------
        Path
            Path of the file, so that ``dmft.load(run.save(...))`` is possible.

        Raises
        ------
        BadParameter
            For an unsupported suffix, and if the file cannot be written.

        Examples
        --------
        >>> import dmft
        >>> import pathlib, tempfile
        >>> diagram = dmft.phase_diagram(lambda a, b: a * b, ("a", [1.0, 2.0]), ("b", [0.5, 1.0]))
        >>> path = diagram.save(pathlib.Path(tempfile.mkdtemp()) / "diagram.nc")
        >>> dmft.load(path) == diagram
        True
        """
        from dmft import netcdf

        suffix = netcdf.checked_path(path).suffix.lower()
        if suffix not in SUFFIXES:
            raise BadParameter(
                f"save writes netCDF, not {suffix}: use a name that ends in .nc; for tables use "
                f"to_pandas().to_csv(...), for arrays to_xarray()"
            )

        record, arrays = self._archive()
        variables = [_stored(*row) for row in arrays]
        return netcdf.write(path, self.KIND, record, variables, self._quantities())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record of this class from a file written by `save`.

        Parameters
        ----------
        path : str or Path
            File of a record of this class. `dmft.load` reads records of any class.

        Returns
        -------
        Archived
            A record of this class.

        Examples
        --------
        >>> import dmft
        >>> import pathlib, tempfile
        >>> diagram = dmft.phase_diagram(lambda a, b: a * b, ("a", [1.0, 2.0]), ("b", [0.5, 1.0]))
        >>> path = diagram.save(pathlib.Path(tempfile.mkdtemp()) / "diagram.nc")
        >>> dmft.PhaseDiagram.load(path).values.tolist()
        [[0.5, 1.0], [1.0, 2.0]]
        """
        from dmft import netcdf

        return netcdf.load(path, {cls.KIND: cls.restore})


# Keys of one-item mappings, which mark values that JSON does not have.
ARRAY, BYTES, EMPTY, OBJECTS, PAIRS, PART, STATUS, TUPLE = (
    f"<{kind}>"
    for kind in ("array", "bytes", "empty", "objects", "pairs", "part", "status", "tuple")
)


def encoded(value: Any, parts: tuple[type, ...]) -> tuple[Any, dict[str, np.ndarray[Any, Any]]]:
    """A value as JSON holds it, and the arrays that it names; `parts` are classes in it."""
    archive = _Archive(parts)
    return archive.encoded(value, ""), {name: array for name, _, array in archive.rows}


class _Archive:
    """Fields of a record as plain values; its arrays are collected as variables of a file."""

    def __init__(
        self,
        parts: tuple[type, ...],
        names: Mapping[str, str] | None = None,
        axes: Callable[..., tuple[str, ...]] | None = None,
    ) -> None:
        self.parts, self.names, self.axes = parts, names or {}, axes
        self.rows: list[netcdf.Variable] = []

    def encoded(self, value: Any, field: str) -> Any:
        """A field as plain values."""
        return self._encoded(value, field, field, field, self.names.get(field))

    def _encoded(self, value: Any, field: str, key: str, name: str, names: str | None) -> Any:
        def inner(item: Any, key: str) -> Any:
            key = variable_key(key, number[0])
            number[0] += 1
            return self._encoded(item, field, key, (names or f"{name}_{{}}").format(key), None)

        number, kind = [0], type(value)
        if isinstance(value, Status):
            return {STATUS: str(value)}
        if isinstance(value, np.ndarray):
            return self._array(value, field, key, name)
        if isinstance(value, Mapping):
            if all(isinstance(k, str) for k in value):
                held: Any = {k: inner(item, k) for k, item in value.items()}
            else:
                held = {PAIRS: [[inner(k, ""), inner(item, "")] for k, item in value.items()]}
            return {PART: [kind.__name__, [held]]} if kind in self.parts else held
        if isinstance(value, tuple | list):
            items = [inner(item, "") for item in value]
            return {TUPLE: items} if isinstance(value, tuple) else items
        if is_dataclass(value):
            parts = {f.name: inner(getattr(value, f.name), f.name) for f in fields(value)}
            return {PART: [kind.__name__, parts]}
        if isinstance(value, bytes):
            return {BYTES: self._array(np.frombuffer(value, np.uint8), field, key, name)}
        if kind in self.parts:
            return {PART: [kind.__name__, list(value.__getnewargs__())]}
        if isinstance(value, np.generic):
            value = value.item()
        return value if value is None or isinstance(value, str | int | float) else str(value)

    def _array(self, values: np.ndarray[Any, Any], field: str, key: str, name: str) -> Any:
        if values.dtype == object:
            items = self._encoded(values.ravel().tolist(), field, key, name, None)
            return {OBJECTS: [list(values.shape), items]}
        if not values.size:
            return {EMPTY: [list(values.shape), values.dtype.str]}
        axes = self.axes(field, key, values) if self.axes else ()
        while any(name == row[0] for row in self.rows):  # of the items "a_b", and "b" of "a"
            name += "_"
        own = tuple(f"{name}_{i}" for i in range(values.ndim))
        self.rows.append((name, axes if len(axes) == values.ndim else own, values))
        words = [np.unique(values).tolist()] if values.dtype.kind == "U" else []
        return {ARRAY: [name, values.dtype.str, *words]}


def variable_key(key: str, number: int) -> str:
    """Part of the name of a variable for an item of a mapping, or of a sequence."""
    return key if key.isidentifier() else str(number)


def _stored(
    name: str, axes: tuple[str, ...], values: np.ndarray[Any, Any]
) -> tuple[str, tuple[str, ...], np.ndarray[Any, Any]]:
    """A variable in numbers that netCDF holds."""
    if values.dtype.kind == "U":
        return name, axes, np.unique(values, return_inverse=True)[1].reshape(values.shape)
    if values.dtype.kind == "c":
        return name, (*axes, "part"), np.stack([values.real, values.imag], axis=-1)
    return name, axes, values.astype(np.int8) if values.dtype == bool else values


def decoded(value: Any, arrays: Mapping[str, np.ndarray[Any, Any]], parts: tuple[type, ...]) -> Any:
    """What was encoded."""
    if isinstance(value, list):
        return [decoded(item, arrays, parts) for item in value]
    if not isinstance(value, dict):
        return value
    tag: str = next(iter(value), "")
    inner: Any = value.get(tag)
    if tag == ARRAY:
        name, kind, *words = inner
        found = arrays[name]
        if words:
            return np.array(words[0], dtype=kind)[found.astype(np.int64)]
        if np.dtype(kind).kind == "c":  # not by a sum: 1j * inf is nan + inf j
            found = np.array(found, dtype=float, order="C").view(complex)[..., 0]
        return found.astype(kind)
    if tag == EMPTY:
        return np.empty(*inner)
    if tag == STATUS:
        return Status(inner)
    if tag not in (BYTES, OBJECTS, PAIRS, PART, TUPLE):
        return {name: decoded(item, arrays, parts) for name, item in value.items()}
    inner = decoded(inner, arrays, parts)
    if tag == BYTES:
        return inner.tobytes()
    if tag == TUPLE:
        return tuple(inner)
    if tag == PAIRS:
        return dict(inner)
    if tag == OBJECTS:
        objects = np.empty(math.prod(inner[0]), dtype=object)
        objects[:] = inner[1]
        return objects.reshape(inner[0])
    made: Any = next(part for part in parts if part.__name__ == inner[0])
    return made(**inner[1]) if isinstance(inner[1], dict) else made(*inner[1])


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


def plain(value: Any) -> Any:
    """Return the value as JSON can hold it; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        numbers = value.tolist()
        finite = value.dtype.kind in "iub" or (
            value.dtype.kind == "f" and bool(np.isfinite(value).all())
        )
        return numbers if finite else plain(numbers)  # most arrays are taken whole
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, (np.floating, float)):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return str(value)

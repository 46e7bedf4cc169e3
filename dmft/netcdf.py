"""Records in netCDF files: named arrays, a few attributes for people, one JSON text for us.

Floor 0: knows no record. Files are written aside and moved into place, so that an interrupted
write never leaves half a file under the name that was asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter, MissingExtra
from dmft.names import variable_attributes

if TYPE_CHECKING:
    import xarray

# Raised when the layout of files changes; readers of older ones are kept.
FORMAT = 1
# A variable: its name, the names of its dimensions, its values.
Variable = tuple[str, tuple[str, ...], NDArray[Any]]


def xarray_module() -> Any:
    """Import xarray, or name the extra that brings it."""
    try:
        import xarray
    except ImportError as error:
        raise MissingExtra('to_xarray needs xarray: pip install "dmft[io]"') from error
    return xarray


def attributes(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a file or data set of this kind; status and message are readable as such."""
    readable = {name: record[name] for name in ("status", "message") if name in record}
    return {"kind": kind, "format": FORMAT, **readable, "record": json.dumps(dict(record))}


def dataset(
    kind: str, record: Mapping[str, Any], data: Mapping[str, Any], coords: Mapping[str, Any]
) -> xarray.Dataset:
    """Data set of a record, whose known variables say what they are and in which units."""
    made: xarray.Dataset = xarray_module().Dataset(
        data, coords=coords, attrs=attributes(kind, record)
    )
    for name in made.variables:
        made[name].attrs |= variable_attributes(str(name), time_unit(record))
    return made


def time_unit(record: Mapping[str, Any]) -> str:
    """What time means in a record, in words where it says so."""
    return str((record.get("provenance") or {}).get("time_unit", "t"))


def write(
    path: str | Path,
    kind: str,
    record: Mapping[str, Any],
    variables: Sequence[Variable],
    names: Mapping[str, str] | None = None,
) -> Path:
    """Write one record; an existing file is replaced only by a complete one.

    `names` are the quantities that variables hold where these have other names.
    """
    h5netcdf = _h5netcdf()
    target = Path(path)
    if not target.parent.is_dir():
        raise BadParameter(f"cannot write {str(target)!r}: there is no folder {target.parent}")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with h5netcdf.File(partial, "w") as file:
            for name, value in attributes(kind, record).items():
                file.attrs[name] = value
            for name, dims, values in variables:
                for dim, size in zip(dims, values.shape, strict=True):
                    if dim not in file.dimensions:
                        file.dimensions[dim] = size
                variable = file.create_variable(name, dims, data=values)
                holds = (names or {}).get(name, name)
                known = variable_attributes(holds, time_unit(record))
                for key, text in {"quantity": holds, **known}.items():
                    variable.attrs[key] = text
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def kind_of(path: str | Path) -> str:
    """Return the kind of record that a file holds; empty when it does not say."""
    h5netcdf = _h5netcdf()
    if not Path(path).is_file():
        raise BadParameter(f"no file {str(path)!r}")
    try:
        with h5netcdf.File(path, "r") as file:
            return str(file.attrs.get("kind", ""))
    except OSError as error:
        raise BadParameter(f"{str(path)!r} is not a netCDF file: {error}") from error


def read(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read the record and the arrays of a file of this kind."""
    found = kind_of(path)
    with _h5netcdf().File(path, "r") as file:
        form = file.attrs.get("format", 0)
        if found != kind or int(form) > FORMAT:
            raise BadParameter(
                f"{str(path)!r} is not a {kind.removeprefix('dmft ')} that this version reads "
                f"(kind {found!r}, format {form!r})"
            )
        record: dict[str, Any] = json.loads(str(file.attrs["record"]))
        arrays = {name: np.array(file.variables[name][...]) for name in file.variables}
    return record, arrays


def _h5netcdf() -> Any:
    try:
        import h5netcdf
    except ImportError as error:
        raise MissingExtra('netCDF files need h5netcdf: pip install "dmft[io]"') from error
    return h5netcdf

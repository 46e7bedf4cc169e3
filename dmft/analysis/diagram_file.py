"""Phase diagrams in netCDF files and as xarray data sets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmft.analysis.phase_diagram import STATUSES, PhaseDiagram
from dmft.errors import BadParameter, MissingExtra

if TYPE_CHECKING:
    import xarray

FORMAT = 1
KIND = "dmft phase diagram"


def to_dataset(diagram: PhaseDiagram) -> xarray.Dataset:
    """Return values, status and horizon over the two named parameters."""
    try:
        import xarray as xr
    except ImportError as error:
        raise MissingExtra('to_xarray needs xarray: pip install "dmft[io]"') from error
    dims = (diagram.y_name, diagram.x_name)
    return xr.Dataset(
        {
            diagram.quantity: (dims, diagram.values),
            "status": (dims, diagram.status),
            "horizon": (dims, diagram.horizon),
        },
        coords={diagram.x_name: diagram.x, diagram.y_name: diagram.y},
        attrs={"kind": KIND, "provenance": json.dumps(dict(diagram.provenance))},
    )


def save_diagram(diagram: PhaseDiagram, path: str | Path) -> Path:
    """Write a netCDF file; an existing one is replaced only by a complete one."""
    h5netcdf = _h5netcdf()
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    codes = np.array([[STATUSES.index(s) for s in row] for row in diagram.status], dtype=np.int64)
    record = {
        "x_name": diagram.x_name,
        "y_name": diagram.y_name,
        "quantity": diagram.quantity,
        "statuses": [str(s) for s in STATUSES],
        "messages": [[i, j, text] for (i, j), text in diagram.messages.items()],
        "provenance": dict(diagram.provenance),
    }
    try:
        with h5netcdf.File(partial, "w") as file:
            file.attrs["kind"], file.attrs["format"] = KIND, FORMAT
            file.attrs["record"] = json.dumps(record)
            file.dimensions = {"y": diagram.y.size, "x": diagram.x.size}
            file.create_variable("x", ("x",), data=diagram.x)
            file.create_variable("y", ("y",), data=diagram.y)
            file.create_variable("values", ("y", "x"), data=diagram.values)
            file.create_variable("horizon", ("y", "x"), data=diagram.horizon)
            file.create_variable("status", ("y", "x"), data=codes)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def load_diagram(path: str | Path) -> PhaseDiagram:
    """Read a phase diagram that `PhaseDiagram.save` wrote."""
    h5netcdf = _h5netcdf()
    if not Path(path).exists():
        raise BadParameter(f"no file {str(path)!r}")
    with h5netcdf.File(path, "r") as file:
        kind, form = file.attrs.get("kind"), file.attrs.get("format")
        if kind != KIND or int(form) > FORMAT:
            raise BadParameter(
                f"{str(path)!r} is not a phase diagram that this version reads "
                f"(kind {kind!r}, format {form!r})"
            )
        record = json.loads(str(file.attrs["record"]))
        arrays = {name: np.array(file.variables[name][...]) for name in file.variables}
    names = np.array(record["statuses"], dtype="<U20")
    return PhaseDiagram(
        record["x_name"], record["y_name"], record["quantity"], arrays["x"], arrays["y"],
        arrays["values"], names[arrays["status"].astype(np.int64)], arrays["horizon"],
        {(i, j): text for i, j, text in record["messages"]}, record["provenance"],
    )  # fmt: skip


def _h5netcdf() -> Any:
    try:
        import h5netcdf
    except ImportError as error:
        raise MissingExtra('netCDF files need h5netcdf: pip install "dmft[io]"') from error
    return h5netcdf

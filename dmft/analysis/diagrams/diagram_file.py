"""Phase diagrams in netCDF files and as xarray data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmft import netcdf
from dmft.analysis.diagrams.phase_diagram import STATUSES, PhaseDiagram

if TYPE_CHECKING:
    import xarray

KIND = "dmft phase diagram"


def to_dataset(diagram: PhaseDiagram) -> xarray.Dataset:
    """Return values, status, horizon and what was computed over the two named parameters."""
    dims = (diagram.y_name, diagram.x_name)
    data = {
        diagram.quantity: (dims, diagram.values),
        "status": (dims, diagram.status),
        "horizon": (dims, diagram.horizon),
        "computed": (dims, diagram.computed),
    }
    coords = {diagram.x_name: diagram.x, diagram.y_name: diagram.y}
    return netcdf.dataset(KIND, _record(diagram), data, coords)


def save_diagram(diagram: PhaseDiagram, path: str | Path) -> Path:
    """Write a netCDF file; an existing one is replaced only by a complete one."""
    codes = np.array([[STATUSES.index(s) for s in row] for row in diagram.status], dtype=np.int64)
    grid = ("y", "x")
    variables: list[netcdf.Variable] = [
        ("x", ("x",), diagram.x),
        ("y", ("y",), diagram.y),
        ("values", grid, diagram.values),
        ("horizon", grid, diagram.horizon),
        ("status", grid, codes),
        ("computed", grid, diagram.computed.astype(np.int8)),
    ]
    names = {"x": diagram.x_name, "y": diagram.y_name, "values": diagram.quantity}
    return netcdf.write(path, KIND, _record(diagram), variables, names)


def load_diagram(path: str | Path) -> PhaseDiagram:
    """Read a phase diagram that `PhaseDiagram.save` wrote."""
    return netcdf.load(path, {KIND: restore})


def restore(record: dict[str, Any], arrays: netcdf.Arrays) -> PhaseDiagram:
    """The diagram of what its file holds."""
    names = np.array(record["statuses"], dtype="<U20")
    # Older files have computed points only.
    more = {"computed": arrays["computed"].astype(bool)} if "computed" in arrays else {}
    return PhaseDiagram(
        record["x_name"], record["y_name"], record["quantity"], arrays["x"], arrays["y"],
        arrays["values"], names[arrays["status"].astype(np.int64)], arrays["horizon"],
        {(i, j): text for i, j, text in record["messages"]}, record["provenance"], **more,
    )  # fmt: skip


def _record(diagram: PhaseDiagram) -> dict[str, Any]:
    return {
        "x_name": diagram.x_name,
        "y_name": diagram.y_name,
        "quantity": diagram.quantity,
        "statuses": [str(s) for s in STATUSES],
        "messages": [[i, j, text] for (i, j), text in diagram.messages.items()],
        "provenance": dict(diagram.provenance),
    }

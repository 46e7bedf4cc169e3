"""Diagrams of regions in netCDF files and as xarray data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmft import netcdf
from dmft.analysis.diagrams.region_diagram import RegionDiagram

if TYPE_CHECKING:
    import xarray

KIND = "dmft diagram of regions"
GRIDS = ("codes", "labels", "e", "m", "risk", "number")


def to_dataset(diagram: RegionDiagram) -> xarray.Dataset:
    """Return codes, labels and the global minimum over the two named parameters."""
    dims = (diagram.y_name, diagram.x_name)
    names = np.array(diagram.names)
    data = {"region": (dims, names[diagram.labels])}
    data |= {name: (dims, getattr(diagram, name)) for name in GRIDS if name != "labels"}
    coords = {diagram.x_name: diagram.x, diagram.y_name: diagram.y}
    return netcdf.dataset(KIND, _record(diagram), data, coords)


def save_regions(diagram: RegionDiagram, path: str | Path) -> Path:
    """Write a netCDF file; an existing one is replaced only by a complete one."""
    variables: list[netcdf.Variable] = [("x", ("x",), diagram.x), ("y", ("y",), diagram.y)]
    variables += [(name, ("y", "x"), getattr(diagram, name)) for name in GRIDS]
    names = {"x": diagram.x_name, "y": diagram.y_name}
    return netcdf.write(path, KIND, _record(diagram), variables, names)


def load_regions(path: str | Path) -> RegionDiagram:
    """Read a diagram of regions that `RegionDiagram.save` wrote."""
    return netcdf.load(path, {KIND: restore})


def restore(record: dict[str, Any], arrays: netcdf.Arrays) -> RegionDiagram:
    """The diagram of what its file holds."""
    whole = {name: arrays[name].astype(np.int64) for name in ("codes", "labels", "number")}
    return RegionDiagram(
        record["x_name"], record["y_name"], names=tuple(record["names"]),
        provenance=record["provenance"], **{**arrays, **whole},
    )  # fmt: skip


def _record(diagram: RegionDiagram) -> dict[str, Any]:
    return {
        "x_name": diagram.x_name,
        "y_name": diagram.y_name,
        "names": list(diagram.names),
        "provenance": dict(diagram.provenance),
    }

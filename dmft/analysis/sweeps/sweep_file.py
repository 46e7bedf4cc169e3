"""Sweeps in netCDF files and as xarray data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmft import netcdf
from dmft.analysis.diagrams.phase_diagram import STATUSES
from dmft.analysis.sweeps.points import Points
from dmft.analysis.sweeps.sweep import Sweep

if TYPE_CHECKING:
    import xarray

KIND = "dmft sweep"


def to_dataset(sweep: Sweep) -> xarray.Dataset:
    """Return values, status and horizon over the parameters; a list of points has one dimension."""
    points = sweep.points
    dims: tuple[str, ...]
    coords: dict[str, Any]
    if points.is_grid:
        dims, coords = points.names, dict(zip(points.names, points.columns, strict=True))
    else:
        dims = ("point",)
        pairs = zip(points.names, points.columns, strict=True)
        coords = {name: (dims, column) for name, column in pairs}
    fields = {**sweep.values, "status": sweep.status, "horizon": sweep.horizon}
    data = {name: (dims, values) for name, values in fields.items()}
    return netcdf.dataset(KIND, _record(sweep), data, coords)


def save_sweep(sweep: Sweep, path: str | Path) -> Path:
    """Write a netCDF file; an existing one is replaced only by a complete one."""
    points = sweep.points
    dims = tuple(f"axis_{i}" for i in range(len(points.shape)))
    variables: list[netcdf.Variable] = [
        (f"parameter_{i}", (dims[i] if points.is_grid else dims[0],), column)
        for i, column in enumerate(points.columns)
    ]
    variables += [(f"values_{i}", dims, v) for i, v in enumerate(sweep.values.values())]
    variables += [("status", dims, sweep.codes), ("horizon", dims, sweep.horizon)]
    names = {f"parameter_{i}": name for i, name in enumerate(points.names)}
    names |= {f"values_{i}": name for i, name in enumerate(sweep.values)}
    return netcdf.write(path, KIND, _record(sweep), variables, names)


def load_sweep(path: str | Path) -> Sweep:
    """Read a sweep that `Sweep.save` wrote."""
    return netcdf.load(path, {KIND: restore})


def restore(record: dict[str, Any], arrays: netcdf.Arrays) -> Sweep:
    """The sweep of what its file holds."""
    names = tuple(record["names"])
    columns = tuple(arrays[f"parameter_{i}"] for i in range(len(names)))
    shape = tuple(record["shape"])
    known = [str(s) for s in STATUSES]
    codes = np.array([known.index(name) for name in record["statuses"]], dtype=np.uint8)
    return Sweep(
        Points(names, shape, columns, record["is_grid"]),
        {n: arrays[f"values_{i}"] for i, n in enumerate(record["quantities"])},
        codes[arrays["status"].astype(np.int64)],
        arrays["horizon"],
        {int(n): text for n, text in record["messages"]},
        record["computed"],
        record["torn"],
        record["provenance"],
    )


def _record(sweep: Sweep) -> dict[str, Any]:
    return {
        "names": list(sweep.points.names),
        "shape": list(sweep.points.shape),
        "is_grid": sweep.points.is_grid,
        "quantities": list(sweep.values),
        "statuses": [str(s) for s in STATUSES],
        "messages": [[n, text] for n, text in sweep.messages.items()],
        "computed": sweep.computed,
        "torn": sweep.torn,
        "provenance": dict(sweep.provenance),
    }

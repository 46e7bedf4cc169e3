"""Boundaries in netCDF files and as xarray data sets."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmft import netcdf
from dmft.analysis.boundaries.boundary import Boundary, BoundaryCurve
from dmft.analysis.boundaries.jumps import Jump
from dmft.names import Status

if TYPE_CHECKING:
    import xarray

KIND = "dmft boundary"


def to_dataset(found: Boundary) -> xarray.Dataset:
    """Return all points of all curves, one after the other, with the number of their curve."""
    numbers = np.repeat(np.arange(len(found.curves)), [c.x.size for c in found.curves])
    columns = {
        found.x_name: _joined([c.x for c in found.curves]),
        found.y_name: _joined([c.y for c in found.curves]),
        "error": _joined([c.error for c in found.curves]),
        "curve": numbers,
    }
    data = {name: ("point", values) for name, values in columns.items()}
    return netcdf.dataset(KIND, _record(found), data, {})


def save_boundary(found: Boundary, path: str | Path) -> Path:
    """Write a netCDF file; an existing one is replaced only by a complete one."""
    variables: list[netcdf.Variable] = [("x", ("x",), found.x), ("y", ("y",), found.y)]
    names = {"x": found.x_name, "y": found.y_name}
    for n, curve in enumerate(found.curves):
        columns = {"x": curve.x, "y": curve.y, "error": curve.error}
        variables += [(f"{name}_{n}", (f"curve_{n}",), c) for name, c in columns.items()]
        names |= {f"x_{n}": found.x_name, f"y_{n}": found.y_name}
    if found.triple_points.size:
        variables.append(("triple_points", ("triple", "pair"), found.triple_points))
    return netcdf.write(path, KIND, _record(found), variables, names)


def load_boundary(path: str | Path) -> Boundary:
    """Read a boundary that `Boundary.save` wrote."""
    return netcdf.load(path, {KIND: restore})


def restore(record: dict[str, Any], arrays: netcdf.Arrays) -> Boundary:
    """The boundary of what its file holds."""
    curves = tuple(
        BoundaryCurve(
            arrays[f"x_{n}"], arrays[f"y_{n}"], arrays[f"error_{n}"],
            (c["labels"][0], c["labels"][1]), c["closed"], (c["ends"][0], c["ends"][1]),
        )
        for n, c in enumerate(record["curves"])
    )  # fmt: skip
    labels = np.empty((arrays["y"].size, arrays["x"].size), dtype=object)
    labels[:] = record["labels"]
    return Boundary(
        record["x_name"], record["y_name"], arrays["x"], arrays["y"], labels, curves,
        arrays.get("triple_points", np.empty((0, 2))), record["tol"], record["solves"],
        record.get("stored", 0), Status(record.get("status", "ok")), record["message"],
        record["provenance"], tuple(Jump(**jump) for jump in record.get("jumps", ())),
    )  # fmt: skip


def _joined(parts: list[Any]) -> Any:
    return np.concatenate(parts) if parts else np.empty(0)


def _record(found: Boundary) -> dict[str, Any]:
    return {
        "x_name": found.x_name,
        "y_name": found.y_name,
        "labels": [list(row) for row in found.labels],
        "curves": [
            {"labels": list(c.labels), "closed": c.closed, "ends": list(c.ends)}
            for c in found.curves
        ],
        "tol": found.tol,
        "solves": dict(found.solves),
        "stored": found.stored,
        "status": str(found.status),
        "message": found.message,
        "jumps": [asdict(jump) for jump in found.jumps],
        "provenance": json.loads(json.dumps(dict(found.provenance), default=str)),
    }

"""Trajectories in netCDF files (readable by any netCDF program) and as xarray data sets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter, MissingExtra
from dmft.names import Status
from dmft.solvers.problem import Block
from dmft.solvers.trajectory import EventRecord, Trajectory

if TYPE_CHECKING:
    import xarray

# Raised when the layout of files changes; readers of older ones are kept.
FORMAT = 1
KIND = "dmft trajectory"


def to_dataset(run: Trajectory) -> xarray.Dataset:
    """Return the data set with dimension `t`, one dimension for each block axis."""
    try:
        import xarray as xr
    except ImportError as error:
        raise MissingExtra('to_xarray needs xarray: pip install "dmft[io]"') from error
    data = {name: (dims, values) for name, dims, values in _variables(run) if name != "t"}
    return xr.Dataset(data, coords={"t": ("t", run.t)}, attrs=_attributes(run))


def save_trajectory(run: Trajectory, path: str | Path) -> Path:
    """Write `run` to a netCDF file; an existing file is replaced only by a complete one."""
    h5netcdf = _h5netcdf()
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with h5netcdf.File(partial, "w") as file:
            for name, value in _attributes(run).items():
                file.attrs[name] = value
            for name, dims, values in _variables(run):
                _write(file, name, dims, values)
            events = file.create_group("events")
            _write(events, "time", ("event",), np.array([e.t for e in run.events]))
            for block in run.layout:
                if any(block.name not in e.state for e in run.events):
                    continue  # not part of the state (a fixed readout shown as a block)
                stacked = [e.state[block.name] for e in run.events]
                shape = (0, *block.shape(run.widths))
                values = np.stack(stacked) if stacked else np.empty(shape)
                _write(events, block.name, ("event", *_dims(block)), values)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def load_trajectory(path: str | Path) -> Trajectory:
    """Read a trajectory that `Trajectory.save` wrote."""
    h5netcdf = _h5netcdf()
    if not Path(path).exists():
        raise BadParameter(f"no file {str(path)!r}")
    with h5netcdf.File(path, "r") as file:
        attrs = {name: file.attrs[name] for name in file.attrs}
        if attrs.get("kind") != KIND or int(attrs["format"]) > FORMAT:
            raise BadParameter(
                f"{str(path)!r} is not a trajectory that this version reads "
                f"(kind {attrs.get('kind')!r}, format {attrs.get('format')!r})"
            )
        meta = json.loads(str(attrs["record"]))
        arrays = {name: np.array(file.variables[name][...]) for name in file.variables}
        group = file.groups["events"]
        events = {name: np.array(group.variables[name][...]) for name in group.variables}
    return _restore(meta, arrays, events)


def _restore(
    meta: Mapping[str, Any],
    arrays: Mapping[str, NDArray[np.float64]],
    events: Mapping[str, NDArray[np.float64]],
) -> Trajectory:
    layout = tuple(Block(b["name"], tuple(b["axes"]), b["symmetric"]) for b in meta["layout"])
    return Trajectory(
        t=arrays["t"],
        blocks={b.name: arrays[b.name] for b in layout},
        observables={name: arrays[name] for name in meta["observables"]},
        status=Status(meta["status"]),
        message=meta["message"],
        events=tuple(
            EventRecord(
                name,
                float(events["time"][i]),
                {b.name: events[b.name][i] for b in layout if b.name in events},
            )
            for i, name in enumerate(meta["events"])
        ),
        statistics=meta["statistics"],
        parameters=meta["parameters"],
        constants={name: arrays[f"constant_{name}"] for name in meta["constants"]},
        widths=meta["widths"],
        layout=layout,
        provenance=meta["provenance"],
        start={name: arrays[f"start_{name}"] for name in meta["start"]},
    )


def _attributes(run: Trajectory) -> dict[str, Any]:
    """Return flat attributes for people and one JSON text for the reader."""
    record = {
        "status": str(run.status),
        "message": run.message,
        "statistics": dict(run.statistics),
        "parameters": dict(run.parameters),
        "widths": dict(run.widths),
        "layout": [
            {"name": b.name, "axes": list(b.axes), "symmetric": b.symmetric} for b in run.layout
        ],
        "observables": list(run.observables),
        "constants": list(run.constants),
        "events": [e.name for e in run.events],
        "provenance": dict(run.provenance),
        "start": list(run.start),
    }
    return {
        "kind": KIND,
        "format": FORMAT,
        "status": str(run.status),
        "message": run.message,
        "record": json.dumps(record),
    }


def _variables(run: Trajectory) -> list[tuple[str, tuple[str, ...], NDArray[np.float64]]]:
    rows: list[tuple[str, tuple[str, ...], NDArray[np.float64]]] = [("t", ("t",), run.t)]
    for block in run.layout:
        rows.append((block.name, ("t", *_dims(block)), run.blocks[block.name]))
    rows += [(name, ("t",), values) for name, values in run.observables.items()]
    for name, values in run.constants.items():
        dims = tuple(f"{name}_{i}" for i in range(values.ndim))
        rows.append((f"constant_{name}", dims, values))
    for block in run.layout:
        if block.name in run.start:
            rows.append((f"start_{block.name}", _dims(block), run.start[block.name]))
    return rows


def _dims(block: Block) -> tuple[str, ...]:
    """Dimension names of a block; xarray refuses the same name twice (p, p -> p, p_2)."""
    seen: dict[str, int] = {}
    names = []
    for axis in block.axes:
        seen[axis] = seen.get(axis, 0) + 1
        names.append(axis if seen[axis] == 1 else f"{axis}_{seen[axis]}")
    return tuple(names)


def _write(group: Any, name: str, dims: tuple[str, ...], values: NDArray[np.float64]) -> None:
    for dim, size in zip(dims, values.shape, strict=True):
        if dim not in group.dimensions:
            group.dimensions[dim] = size
    group.create_variable(name, dims, data=np.asarray(values, dtype=np.float64))


def _h5netcdf() -> Any:
    try:
        import h5netcdf
    except ImportError as error:
        raise MissingExtra('netCDF files need h5netcdf: pip install "dmft[io]"') from error
    return h5netcdf

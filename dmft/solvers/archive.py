"""Trajectories in netCDF files (readable by any netCDF program) and as xarray data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmft import netcdf
from dmft.solvers.outcome import outcome_from, outcome_of
from dmft.solvers.problem import Block
from dmft.solvers.trajectory import EventRecord, Trajectory

if TYPE_CHECKING:
    import xarray

KIND = "dmft trajectory"


def to_dataset(run: Trajectory) -> xarray.Dataset:
    """Return the data set with dimension `t`, one dimension for each block axis."""
    data = {name: (dims, values) for name, dims, values in _variables(run) if name != "t"}
    return netcdf.dataset(KIND, _record(run), data, {"t": ("t", run.t)})


def save_trajectory(run: Trajectory, path: str | Path) -> Path:
    """Write `run` to a netCDF file; an existing file is replaced only by a complete one."""
    return netcdf.write(path, KIND, _record(run), _variables(run))


def load_trajectory(path: str | Path) -> Trajectory:
    """Read a trajectory that `Trajectory.save` wrote."""
    return netcdf.load(path, {KIND: restore})


def restore(meta: dict[str, Any], arrays: netcdf.Arrays) -> Trajectory:
    """The trajectory of what its file holds."""
    layout = tuple(Block(b["name"], tuple(b["axes"]), b["symmetric"]) for b in meta["layout"])
    return Trajectory(
        t=arrays["t"],
        blocks={b.name: arrays[b.name] for b in layout},
        observables={name: arrays[name] for name in meta["observables"]},
        events=tuple(
            EventRecord(
                name,
                float(arrays["event_t"][i]),
                {b: arrays[f"event_{b}"][i] for b in meta["event_blocks"]},
            )
            for i, name in enumerate(meta["events"])
        ),
        constants={name: arrays[f"constant_{name}"] for name in meta["constants"]},
        widths=meta["widths"],
        layout=layout,
        **outcome_from(meta),
        start={name: arrays[f"start_{name}"] for name in meta["start"]},
        error={n: arrays[f"error_{n}"] for n in meta["error"]} if meta.get("error") else None,
    )


def _record(run: Trajectory) -> dict[str, Any]:
    return {
        **outcome_of(run),
        "widths": dict(run.widths),
        "layout": [
            {"name": b.name, "axes": list(b.axes), "symmetric": b.symmetric} for b in run.layout
        ],
        "observables": list(run.observables),
        "constants": list(run.constants),
        "events": [e.name for e in run.events],
        "event_blocks": list(run.events[0].state) if run.events else [],
        "start": list(run.start),
        "error": list(run.error or ()),
    }


def _variables(run: Trajectory) -> list[tuple[str, tuple[str, ...], NDArray[np.float64]]]:
    rows: list[tuple[str, tuple[str, ...], NDArray[np.float64]]] = [("t", ("t",), run.t)]
    for block in run.layout:
        rows.append((block.name, ("t", *block_dimensions(block)), run.blocks[block.name]))
    rows += [(name, ("t",), values) for name, values in run.observables.items()]
    for name, values in run.constants.items():
        dims = tuple(f"{name}_{i}" for i in range(values.ndim))
        rows.append((f"constant_{name}", dims, values))
    for block in run.layout:
        if block.name in run.start:
            rows.append((f"start_{block.name}", block_dimensions(block), run.start[block.name]))
    if run.error is not None:
        axes = {name: d for name, d, _ in rows}
        rows += [(f"error_{name}", axes[name], e) for name, e in run.error.items()]
    if run.events:
        rows.append(("event_t", ("event",), np.array([e.t for e in run.events])))
        for block in run.layout:
            if block.name in run.events[0].state:
                stacked = np.stack([e.state[block.name] for e in run.events])
                rows.append((f"event_{block.name}", ("event", *block_dimensions(block)), stacked))
    return rows


def block_dimensions(block: Block) -> tuple[str, ...]:
    """Dimension names of a block; xarray refuses the same name twice (p, p -> p, p_2)."""
    seen: dict[str, int] = {}
    names = []
    for axis in block.axes:
        seen[axis] = seen.get(axis, 0) + 1
        names.append(axis if seen[axis] == 1 else f"{axis}_{seen[axis]}")
    return tuple(names)

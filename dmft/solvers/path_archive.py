"""Ensembles of paths in netCDF files and as xarray data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmft import netcdf
from dmft.names import Status
from dmft.solvers.archive import block_dimensions
from dmft.solvers.outcome import outcome_from, outcome_of
from dmft.solvers.passage_times import PassageTimes
from dmft.solvers.path_ensemble import Array, PathEnsemble, Values
from dmft.solvers.problem import Block

if TYPE_CHECKING:
    import xarray

KIND = "dmft paths"
SUMMARIES = ("mean", "std", "stderr")


def to_dataset(run: PathEnsemble) -> xarray.Dataset:
    """Return variables like `M_mean` and `M_stderr` over `t`, and passages over `path`."""
    data = {name: (dims, values) for name, dims, values in _variables(run)}
    coords = {"t": data.pop("t")}
    return netcdf.dataset(KIND, _record(run), data, coords)


def save_paths(run: PathEnsemble, path: str | Path) -> Path:
    """Write a netCDF file; an existing file is replaced only by a complete one."""
    return netcdf.write(path, KIND, _record(run), _variables(run))


def load_paths(path: str | Path) -> PathEnsemble:
    """Read an ensemble that `PathEnsemble.save` wrote."""
    return netcdf.load(path, {KIND: restore})


def restore(record: dict[str, Any], arrays: netcdf.Arrays) -> PathEnsemble:
    """Paths of what its file holds."""
    names = record["names"]
    mean, std, stderr = (Values({n: arrays[f"{n}_{s}"] for n in names}) for s in SUMMARIES)
    paths = Values({n: arrays[f"{n}_paths"] for n in names}) if record["kept"] else None
    return PathEnsemble(
        t=arrays["t"],
        mean=mean,
        std=std,
        stderr=stderr,
        path_status=tuple(Status(s) for s in record["path_status"]),
        first_passage={
            name: PassageTimes(arrays["first_passage"][e], arrays["watched_until"])
            for e, name in enumerate(record["events"])
        },
        paths=paths,
        layout=tuple(Block(b["name"], tuple(b["axes"]), b["symmetric"]) for b in record["layout"]),
        constants={name: arrays[f"constant_{name}"] for name in record["constants"]},
        widths=record["widths"],
        **outcome_from(record),
    )


def _record(run: PathEnsemble) -> dict[str, Any]:
    return {
        **outcome_of(run),
        "path_status": [str(s) for s in run.path_status],
        "names": list(run.mean),
        "kept": run.paths is not None,
        "events": list(run.first_passage),
        "layout": [
            {"name": b.name, "axes": list(b.axes), "symmetric": b.symmetric} for b in run.layout
        ],
        "constants": list(run.constants),
        "widths": dict(run.widths),
    }


def _variables(run: PathEnsemble) -> list[tuple[str, tuple[str, ...], Array]]:
    axes = {block.name: block_dimensions(block) for block in run.layout}
    rows: list[tuple[str, tuple[str, ...], Array]] = [("t", ("t",), run.t)]
    for name in run.mean:
        dims = ("t", *axes.get(name, ()))
        rows += [(f"{name}_{s}", dims, getattr(run, s)[name]) for s in SUMMARIES]
        if run.paths is not None:
            rows.append((f"{name}_paths", ("path", *dims), run.paths[name]))
    for name, values in run.constants.items():
        dims = tuple(f"{name}_{i}" for i in range(values.ndim))
        rows.append((f"constant_{name}", dims, values))
    if run.first_passage:
        times = np.stack([passage.times for passage in run.first_passage.values()])
        rows.append(("first_passage", ("event", "path"), times))
        horizon = next(iter(run.first_passage.values())).horizon
        rows.append(("watched_until", ("path",), horizon))
    return rows

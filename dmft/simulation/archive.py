"""Ensembles as xarray data sets and netCDF files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmft.errors import BadParameter, MissingExtra
from dmft.names import Status
from dmft.simulation.ensemble import Array, Ensemble, Observed
from dmft.simulation.passage import PassageTimes

if TYPE_CHECKING:
    import xarray

# Raised when the layout of files changes; readers of older ones are kept.
FORMAT = 1
KIND = "dmft ensemble"
DIMS = {"Q": ("t", "p", "p_2"), "M": ("t", "p", "k"), "readout": ("t", "p"), "risk": ("t",)}
SUMMARIES = ("mean", "std", "stderr")


def to_dataset(ensemble: Ensemble) -> xarray.Dataset:
    """Return variables like `Q_mean`, `Q_stderr` and `Q_runs` over `t` (and `seed`)."""
    try:
        import xarray as xr
    except ImportError as error:
        raise MissingExtra('to_xarray needs xarray: pip install "dmft[io]"') from error
    data = {name: (dims, values) for name, dims, values in _variables(ensemble)}
    coords = {"t": data.pop("t"), "seed": data.pop("seed")}
    return xr.Dataset(data, coords=coords, attrs=_attributes(ensemble))


def save_ensemble(ensemble: Ensemble, path: str | Path) -> Path:
    """Write a netCDF file; an existing file is replaced only by a complete one."""
    h5netcdf = _h5netcdf()
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with h5netcdf.File(partial, "w") as file:
            for name, value in _attributes(ensemble).items():
                file.attrs[name] = value
            for name, dims, values in _variables(ensemble):
                for dim, size in zip(dims, values.shape, strict=True):
                    if dim not in file.dimensions:
                        file.dimensions[dim] = size
                file.create_variable(name, dims, data=values)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def load_ensemble(path: str | Path) -> Ensemble:
    """Read an ensemble that `Ensemble.save` wrote."""
    h5netcdf = _h5netcdf()
    if not Path(path).exists():
        raise BadParameter(f"no file {str(path)!r}")
    with h5netcdf.File(path, "r") as file:
        attrs = {name: file.attrs[name] for name in file.attrs}
        if attrs.get("kind") != KIND or int(attrs["format"]) > FORMAT:
            raise BadParameter(
                f"{str(path)!r} is not an ensemble that this version reads "
                f"(kind {attrs.get('kind')!r}, format {attrs.get('format')!r})"
            )
        record = json.loads(str(attrs["record"]))
        arrays = {name: np.array(file.variables[name][...]) for name in file.variables}
    parts = {s: Observed(**{n: arrays[f"{n}_{s}"] for n in DIMS}) for s in SUMMARIES}
    runs = Observed(**{n: arrays[f"{n}_runs"] for n in DIMS}) if "Q_runs" in arrays else None
    passage = None
    if "first_passage" in arrays:
        passage = PassageTimes(arrays["first_passage"], arrays["watched_until"])
    return Ensemble(
        t=arrays["t"],
        **parts,
        seeds=tuple(int(s) for s in arrays["seed"]),
        seed_status=tuple(Status(s) for s in record["seed_status"]),
        status=Status(record["status"]),
        message=record["message"],
        dim=record["dim"],
        runs=runs,
        first_passage=passage,
        provenance=record["provenance"],
    )


def _attributes(ensemble: Ensemble) -> dict[str, Any]:
    """Return flat attributes for people and one JSON text for the reader."""
    record = {
        "status": str(ensemble.status),
        "seed_status": [str(s) for s in ensemble.seed_status],
        "message": ensemble.message,
        "dim": ensemble.dim,
        "provenance": dict(ensemble.provenance),
    }
    return {
        "kind": KIND,
        "format": FORMAT,
        "status": str(ensemble.status),
        "message": ensemble.message,
        "record": json.dumps(record),
    }


def _variables(ensemble: Ensemble) -> list[tuple[str, tuple[str, ...], Array]]:
    rows: list[tuple[str, tuple[str, ...], Any]] = [
        ("t", ("t",), ensemble.t),
        ("seed", ("seed",), np.array(ensemble.seeds, dtype=np.int64)),
    ]
    for name, dims in DIMS.items():
        rows += [(f"{name}_{s}", dims, getattr(ensemble, s)[name]) for s in SUMMARIES]
        if ensemble.runs is not None:
            rows.append((f"{name}_runs", ("seed", *dims), ensemble.runs[name]))
    if ensemble.first_passage is not None:
        rows.append(("first_passage", ("seed",), ensemble.first_passage.times))
        rows.append(("watched_until", ("seed",), ensemble.first_passage.horizon))
    return rows


def _h5netcdf() -> Any:
    try:
        import h5netcdf
    except ImportError as error:
        raise MissingExtra('netCDF files need h5netcdf: pip install "dmft[io]"') from error
    return h5netcdf

"""Ensembles as xarray data sets and netCDF files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmft import netcdf
from dmft.names import Status
from dmft.simulation.ensemble import Array, Ensemble, Observed
from dmft.simulation.passage import PassageTimes

if TYPE_CHECKING:
    import xarray

KIND = "dmft ensemble"
DIMS = {"Q": ("t", "p", "p_2"), "M": ("t", "p", "k"), "readout": ("t", "p"), "risk": ("t",)}
SUMMARIES = ("mean", "std", "stderr")


def to_dataset(ensemble: Ensemble) -> xarray.Dataset:
    """Return variables like `Q_mean`, `Q_stderr` and `Q_runs` over `t` (and `seed`)."""
    data = {name: (dims, values) for name, dims, values in _variables(ensemble)}
    coords = {"t": data.pop("t"), "seed": data.pop("seed")}
    return netcdf.dataset(KIND, _record(ensemble), data, coords)


def save_ensemble(ensemble: Ensemble, path: str | Path) -> Path:
    """Write a netCDF file; an existing file is replaced only by a complete one."""
    return netcdf.write(path, KIND, _record(ensemble), _variables(ensemble))


def load_ensemble(path: str | Path) -> Ensemble:
    """Read an ensemble that `Ensemble.save` wrote."""
    return netcdf.load(path, {KIND: restore})


def restore(record: dict[str, Any], arrays: netcdf.Arrays) -> Ensemble:
    """The ensemble of what its file holds."""
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


def _record(ensemble: Ensemble) -> dict[str, Any]:
    return {
        "status": str(ensemble.status),
        "seed_status": [str(s) for s in ensemble.seed_status],
        "message": ensemble.message,
        "dim": ensemble.dim,
        "provenance": dict(ensemble.provenance),
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

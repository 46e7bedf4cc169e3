"""Checkpoints of a descent: kernels of every step, and the gradients of the samples."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.solvers.checkpoint import load_arrays, save_arrays
from dmft.solvers.descent.sweep import Sweep

Array = NDArray[np.float64]
# Arrays of a step that is done; fields and overlaps follow from them.
KERNELS = (
    "M_at",
    "readout_at",
    "C_theta",
    "R_theta",
    "C_l",
    "R_l",
    "g_star",
    "mean_pull",
    "Q_free",
)


class Store:
    """A folder that belongs to one run: its declaration is checked, never overwritten.

    Parameters
    ----------
    folder : Path
    key : mapping
        What determines the run.

    Raises
    ------
    BadParameter
        When the folder holds another run.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(dict(key), sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / "run.json"
        if not mark.exists():
            _write(mark, json.dumps({"digest": digest, "run": dict(key)}, indent=1).encode())
        found = json.loads(mark.read_text(encoding="utf-8"))
        if found.get("digest") != digest:
            names = sorted(n for n in key if found.get("run", {}).get(n) != dict(key)[n])
            raise BadParameter(
                f"checkpoint {str(folder)!r} belongs to another run (differs in "
                f"{', '.join(names) or 'its version'}); choose another folder"
            )

    def load(self, number: int, sweep: Sweep, shape: tuple[int, int]) -> tuple[Sweep, Array]:
        """Sweep of a scramble as it was left, and its gradients as a file in memory."""
        path = self.folder / f"gradients_{number}.npy"
        kernels = load_arrays(self._kernels(number))
        fresh = kernels is None or not path.exists()
        try:
            file = np.lib.format.open_memmap(
                path, mode="w+" if fresh else "r+", dtype=np.float64, shape=shape
            )
        except OSError as error:
            raise BadParameter(f"cannot keep gradients in {str(path)!r}: {error}") from error
        if kernels is not None and not fresh:
            for name in KERNELS:
                getattr(sweep.arrays, name)[...] = kernels[name]
            sweep.train_loss[...], sweep.root[...] = kernels["train_loss"], kernels["root"]
            sweep.done, sweep.lowest = int(kernels["done"]), float(kernels["lowest"])
            for t in range(sweep.done + 1):
                for step in (sweep.task.process.overlaps, sweep.task.process.drive):
                    sweep.take(step, t)
            for t in range(sweep.done):
                sweep.take(sweep.task.process.fields, t)
        return sweep, np.asarray(file)

    def save(self, number: int, sweep: Sweep) -> None:
        """Keep the kernels of the steps that are done; gradients are written already."""
        arrays = {name: getattr(sweep.arrays, name) for name in KERNELS}
        arrays |= {name: getattr(sweep, name) for name in ("train_loss", "root", "done", "lowest")}
        save_arrays(self._kernels(number), arrays)

    def _kernels(self, number: int) -> Path:
        return self.folder / f"kernels_{number}.npz"


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(path)

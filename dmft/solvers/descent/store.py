"""Checkpoints of a descent: kernels of every step, and the gradients of the samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.solvers.checkpoint import RunFolder, load_arrays, save_arrays
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


class Store(RunFolder):
    """The folder of a descent: a file of kernels and one of gradients for each scramble."""

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

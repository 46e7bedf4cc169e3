"""Checkpoints of a two-time march: everything that it needs to go on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from dmft.names import Status
from dmft.solvers.checkpoint import load_arrays, save_arrays
from dmft.solvers.two_time.march import March

SCALARS = ("dt", "taken", "rejected", "passes", "swept")
# Seconds between checkpoints.
EVERY = 20.0


class MarchFile:
    """File of one march inside a folder that belongs to its run.

    Parameters
    ----------
    path : Path or None
        None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._last = time.monotonic()

    def restore(self, run: March) -> March:
        """The march as it was left, or unchanged where there is no readable file."""
        data = None if self.path is None else load_arrays(self.path)
        if data is None:
            return run
        arrays = {n.removeprefix("state_"): a for n, a in data.items() if n.startswith("state_")}
        run.state.restore(int(data["n"]), arrays)
        for name in SCALARS:
            setattr(run, name, data[name].item())
        run.times = data["times"].tolist()
        run.signals = list(data["signals"])
        run.waiting = data["waiting"].tolist()
        edges = data["row_edges"]
        run.rows = [
            (float(t), data["row_s"][a:b].copy(), data["row_values"][:, a:b].copy())
            for t, a, b in zip(data["row_t"], edges[:-1], edges[1:], strict=True)
        ]
        return run

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.path is not None and time.monotonic() - self._last > EVERY

    def save(self, run: March) -> None:
        """Write the march, where it is whole."""
        if self.path is None or run.status == Status.NONFINITE:
            return
        self._last = time.monotonic()
        pairs = len(run.state.problem.pairs)
        rows = run.rows
        edges = np.cumsum([0, *(s.size for _, s, _ in rows)])
        data: dict[str, Any] = {
            "n": run.state.n, "times": np.array(run.times), "signals": np.array(run.signals),
            "waiting": np.array(run.waiting), "row_t": np.array([t for t, _, _ in rows]),
            "row_edges": edges, "row_s": np.concatenate([np.zeros(0), *(s for _, s, _ in rows)]),
            "row_values": np.concatenate([np.zeros((pairs, 0)), *(v for _, _, v in rows)], axis=1),
        }  # fmt: skip
        data |= {name: np.array(getattr(run, name)) for name in SCALARS}
        data |= {f"state_{name}": array for name, array in run.state.stored().items()}
        save_arrays(self.path, data)

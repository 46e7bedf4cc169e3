"""How the units of a wide student are distributed: M_jr against the residual length, over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dmft.display.style import COLOURS, blank_figure, pyplot
from dmft.errors import BadParameter

# Frames a second of an animation.
RATE = 12


def plot_density(
    run: Any, *, teacher: int = 0, at: int = -1, ax: Any = None, path: str | Path | None = None
) -> Any:
    """Draw the units of a wide run at one saved time as points (M_jr, sqrt Q_perp_j).

    Parameters
    ----------
    run : Trajectory
        Of equations with ``scaling="mean-field"``.
    teacher : int
        The r of M_jr.
    at : int
        Which saved time.
    ax : matplotlib axes, optional
    path : str or Path, optional
        Where to write the figure.
    """
    _check(run, teacher)
    if ax is None:
        ax = blank_figure((5.0, 4.0), shown=path is None).subplots()
    _points(run, teacher, at, ax)
    _frame(run, teacher, ax)
    if path is not None:
        ax.figure.savefig(path, dpi=300)
    return ax


def animate_density(run: Any, path: str | Path, *, teacher: int = 0) -> Path:
    """Write the distribution of the units as an animation, a frame for each saved time.

    Parameters
    ----------
    run : Trajectory
    path : str or Path
        ``.gif`` (by Pillow), or ``.mp4`` where ffmpeg is installed.
    teacher : int
    """
    pyplot()
    from matplotlib.animation import FFMpegWriter, PillowWriter

    _check(run, teacher)
    path = Path(path)
    writers = {".gif": PillowWriter, ".mp4": FFMpegWriter}
    if path.suffix not in writers:
        raise BadParameter(f"cannot write {path}: the name must end in .gif or .mp4")
    if path.suffix == ".mp4" and not FFMpegWriter.isAvailable():
        raise BadParameter(f"cannot write {path}: ffmpeg is not installed; write a .gif")
    ax = blank_figure((5.0, 4.0), shown=False).subplots()
    writer = writers[path.suffix](fps=RATE)
    with writer.saving(ax.figure, str(path), dpi=80):
        for n in range(run.t.size):
            ax.clear()
            _points(run, teacher, n, ax)
            _frame(run, teacher, ax)
            writer.grab_frame()
    return path


def _check(run: Any, teacher: int) -> None:
    if not (hasattr(run, "Q_perp") and hasattr(run, "M")):
        raise BadParameter(
            'the density requires a run with scaling="mean-field" (state M and Q_perp)'
        )
    if not 0 <= teacher < run.M.shape[2]:
        raise BadParameter(f"teacher = {teacher}: the run has {run.M.shape[2]} teachers")


def _points(run: Any, teacher: int, at: int, ax: Any) -> None:
    # A residual that vanishes may be negative by rounding.
    length = np.sqrt(np.abs(run.Q_perp[at]))
    ax.scatter(run.M[at, :, teacher], length, s=6, color=COLOURS[0], alpha=0.4, linewidth=0)
    ax.set_title(f"t = {run.t[at]:.3g}, risk {run.risk[at]:.3g}", fontsize="medium")


def _frame(run: Any, teacher: int, ax: Any) -> None:
    """Axes that hold all times."""
    reach = 1.05 * float(np.abs(run.M[:, :, teacher]).max()) or 1.0
    ax.set(xlim=(-reach, reach), ylim=(0.0, 1.05 * float(np.sqrt(np.abs(run.Q_perp).max()))))
    ax.set_xlabel(rf"overlap $M_{{j{teacher + 1}}}$")
    ax.set_ylabel(r"residual length $\sqrt{Q^{\perp}_j}$")
    ax.spines[["top", "right"]].set_visible(False)

"""A measure on a grid of two parameters: a sweep over two axes, as a phase diagram."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.analysis.diagrams.adaptive import Coarse, Kept, adaptive_diagram
from dmft.analysis.diagrams.phase_diagram import PhaseDiagram
from dmft.analysis.sweeps.named import Named, without_labels
from dmft.analysis.sweeps.run_sweep import run_sweep
from dmft.errors import BadParameter
from dmft.progress import ProgressOption


def compute_diagram(
    measure: Callable[[float, float], Any], axes: Mapping[str, ArrayLike], **options: Any
) -> PhaseDiagram:
    """Evaluate `measure(x, y)` on the grid of two named axes.

    Parameters
    ----------
    measure : callable(x, y)
        Returns a number, an `EscapeTime`, a `Censored`, a `Trajectory` (its last risk counts) or
        a pair (number, status), or a name (`PhaseDiagram.labels`). It runs in several threads at
        once.
    axes, **options
        As for `named_diagram`.
    """
    names = list(axes)
    return named_diagram(lambda **point: measure(*(point[n] for n in names)), axes, **options)


def read_axis(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Values of an axis as numbers."""
    try:
        read = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        read = np.empty(0)
    if read.ndim != 1 or read.size == 0 or not np.all(np.isfinite(read)):
        raise BadParameter(
            f"axis {name!r} must be a non-empty list of finite numbers, got {values!r:.80}"
        )
    return read


def named_diagram(
    measure: Callable[..., Any],
    axes: Mapping[str, ArrayLike],
    *,
    adaptive: bool = False,
    level: float = 0.0,
    coarse: Coarse = None,
    quantity: str = "value",
    threads: int | None = None,
    progress: ProgressOption = None,
    provenance: Mapping[str, Any] | None = None,
    store: Kept | None = None,
) -> PhaseDiagram:
    """Evaluate ``measure(**{x_name: x, y_name: y})`` on the grid of two named axes.

    Parameters
    ----------
    measure : callable
        As for `compute_diagram`; with a method `many`, as for `dmft.analysis.sweeps.chunk.Task`,
        points are computed together.
    axes : mapping of two names to (nx,) and (ny,) values
        First the horizontal one.
    adaptive : bool
        Compute a coarse subgrid, and between its points only where labels differ; `level` and
        `coarse` say how (`dmft.analysis.diagrams.adaptive.adaptive_diagram`).
    quantity : str
        What the values are, for labels.
    threads : int or None
        By default one a core.
    progress : None, bool or callable
    store : Kept, optional
        Folder of the points, so that none is computed twice.

    Returns
    -------
    PhaseDiagram
        After Ctrl-C the points that are done; the others have status interrupted.
    """
    if len(axes) != 2:
        raise BadParameter(f"a phase diagram has two axes, not {len(axes)}: {list(axes)}")
    grid = {name: read_axis(name, values) for name, values in axes.items()}
    if adaptive:
        return adaptive_diagram(
            measure, grid, level=level, coarse=coarse, quantity=quantity, threads=threads,
            progress=progress, provenance=provenance, store=store,
        )  # fmt: skip
    if level != 0.0 or coarse is not None:
        raise BadParameter("level= and coarse= say what adaptive=True refines: pass it too")
    kept = store or Kept()
    swept = run_sweep(
        grid, Named(measure, keeps_all=kept.folder is not None), workers=threads,
        progress=progress, provenance=provenance, **kept.keys(quantity),
    )  # fmt: skip
    return without_labels(replace(swept.diagram(), quantity=quantity))

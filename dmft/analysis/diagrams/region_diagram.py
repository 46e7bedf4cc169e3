"""Landscapes on a grid of two parameters: kinds of minima, the global one, the start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft import netcdf
from dmft.analysis.diagrams.diagram import read_axis
from dmft.analysis.diagrams.phase_diagram import OnGrid, count_names
from dmft.analysis.landscape import Landscape, NoMinimum
from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.names import VERSION
from dmft.progress import Progress, ProgressOption

Codes = NDArray[np.int64]
NONE = "no strict minimum"


@dataclass(frozen=True, eq=False)
class RegionDiagram(OnGrid):
    """Minima of a family of risks on a grid; rows correspond to `y`, columns to `x`.

    Attributes
    ----------
    x_name, y_name : str
    x : (nx,)
    y : (ny,)
    codes : (ny, nx) of int
        1 if the global minimum has e > r/2, plus 2 if training starts along e, plus 4 if there is
        more than one minimum; -1 if there is no strict minimum.
    labels : (ny, nx) of int
        Position in `names`.
    names : tuple of str
        Kinds of the minima, the global one first; "no strict minimum" if the risk is constant along
        a line.
    e, m, risk : (ny, nx)
        Alignments and risk of the global minimum; nan if there is none.
    number : (ny, nx) of int
        Number of minima; images under sign changes are counted once.
    provenance : mapping

    Examples
    --------
    >>> from dmft.literature import positional_semantic_risk
    >>> def measure(a, omega):
    ...     return landscape(positional_semantic_risk(a, omega))
    >>> from dmft.analysis.landscape import landscape
    >>> region_diagram(measure, {"a": [0.8, 1.0], "omega": [0.5, 0.9]}).codes.tolist()
    [[0, 0], [6, 3]]
    """

    KIND = "dmft diagram of regions"

    x_name: str
    y_name: str
    x: Array
    y: Array
    codes: Codes
    labels: Codes
    names: tuple[str, ...]
    e: Array
    m: Array
    risk: Array
    number: Codes
    provenance: Mapping[str, Any] = field(default_factory=dict)

    # Curves between the regions are `dmft.boundary`'s; none belong to the record.
    boundaries = None

    def _displayed(self) -> list[netcdf.Variable]:
        names = np.array(self.names)[self.labels]
        return [*super()._displayed(), ("region", (self.y_name, self.x_name), names)]

    def count(self) -> dict[str, int]:
        """Count the points of each region that occurs.

        Returns
        -------
        dict of str to int
            Numbers of points by the name of their region.

        Examples
        --------
        >>> import numpy as np
        >>> from dmft.literature import positional_semantic_diagram
        >>> positional_semantic_diagram(np.array([0.8, 1.0]), np.array([0.5])).count()
        {'semantic': 2}
        """
        return count_names(np.array(self.names)[self.labels])

    def __repr__(self) -> str:
        axes = f"{self.x_name} ({self.x.size}) x {self.y_name} ({self.y.size})"
        return f"{type(self).__name__}({axes}; {self.count()})"


def region_diagram(
    measure: Callable[[float, float], Landscape],
    axes: Mapping[str, ArrayLike],
    *,
    progress: ProgressOption = None,
) -> RegionDiagram:
    """Find the landscape at every point of two named axes."""
    if len(axes) != 2:
        raise BadParameter(f"a diagram of regions has two axes, not {len(axes)}: {list(axes)}")
    grid_axes = {name: read_axis(name, np.atleast_1d(values)) for name, values in axes.items()}
    (x_name, x), (y_name, y) = grid_axes.items()
    rows: list[list[Landscape | None]] = []
    with Progress(progress, "regions") as bar:
        for i, value in enumerate(y):
            rows.append([_found(measure, float(other), float(value)) for other in x])
            bar.update((i + 1) / y.size, f"{i + 1} of {y.size} rows")
    labels = [[found.name if found else NONE for found in row] for row in rows]
    names = tuple(sorted({name for row in labels for name in row}))

    def grid(read: Callable[[Landscape], float], none: float = np.nan) -> NDArray[Any]:
        return np.array([[read(found) if found else none for found in row] for row in rows])

    return RegionDiagram(
        x_name, y_name, x, y, grid(lambda f: f.code, -1),
        np.array([[names.index(name) for name in row] for row in labels]), names,
        grid(lambda f: f.best.e), grid(lambda f: f.best.m), grid(lambda f: f.best.risk),
        grid(lambda f: len(f.minima), 0), {"dmft": VERSION},
    )  # fmt: skip


def _found(measure: Callable[[float, float], Landscape], x: float, y: float) -> Landscape | None:
    """Landscape of one point; None, a region of its own, where there is no minimum."""
    try:
        return measure(x, y)
    except NoMinimum:
        return None

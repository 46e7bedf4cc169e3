"""What a sweep gives: values and statuses at its points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft import netcdf
from dmft.analysis.phase_diagram import STATUSES, PhaseDiagram
from dmft.analysis.sweeps.points import Points
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.record import Archived, variable_key

MISSING = STATUSES.index(Status.INTERRUPTED)


@dataclass(frozen=True, eq=False)
class Sweep(Archived):
    """Result of a sweep: values and statuses, in the order of the points.

    Attributes
    ----------
    points : Points
    values : mapping of str to arrays of the shape of the points
        Values of each quantity; nan if a point failed or was censored.
    codes : array of uint8
        Statuses as integers; `status` contains them as text.
    horizon : array
        Time until which a censored or failed point was followed.
    messages : mapping of int to str
        Messages of failed points, by the number of the point.
    computed : int
        Number of points computed by this call. The others were read from the store.
    torn : int
        Number of damaged records in the store, which were computed again.
    provenance : mapping

    Examples
    --------
    >>> from dmft.analysis.sweeps.run_sweep import run_sweep
    >>> sweep = run_sweep({"a": [1.0, 2.0], "b": [3.0, 0.0]}, lambda a, b: a / b)
    >>> sweep.values["value"].round(3).tolist(), sweep.count()
    ([[0.333, nan], [0.667, nan]], {'nonfinite': 2, 'ok': 2})
    """

    KIND = "dmft sweep"
    PARTS = (Points,)

    points: Points
    values: Mapping[str, NDArray[np.float64]]
    codes: NDArray[np.uint8] = field(repr=False)
    horizon: NDArray[np.float64]
    messages: Mapping[int, str]
    computed: int
    torn: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> NDArray[np.str_]:
        """Status of each point, as text. "interrupted" means that the point was not computed."""
        return np.array([str(s) for s in STATUSES])[self.codes]

    @property
    def complete(self) -> bool:
        """Whether every point has a result."""
        return not bool(np.any(self.codes == MISSING))

    @property
    def reused(self) -> int:
        """Number of points that were in the store before this call."""
        return int(np.count_nonzero(self.codes != MISSING)) - self.computed

    def count(self) -> dict[str, int]:
        """Count the points of each status that occurs.

        Returns
        -------
        dict of str to int
            Numbers of points, by the name of their status.

        Examples
        --------
        >>> import dmft
        >>> swept = dmft.sweep({"a": [1.0, 2.0], "b": [3.0, 0.0]}, lambda a, b: a / b)
        >>> swept.count()
        {'nonfinite': 2, 'ok': 2}
        """
        numbers = np.bincount(self.codes.ravel(), minlength=len(STATUSES)).tolist()
        return {s: n for s, n in sorted(zip(map(str, STATUSES), numbers, strict=True)) if n}

    def __repr__(self) -> str:
        axes = " x ".join(
            f"{n} ({k})" for n, k in zip(self.points.names, self.points.shape, strict=False)
        )
        kept = f", {self.reused} of them from the store" if self.reused else ""
        return f"Sweep({', '.join(self.values)} over {axes}; {self.count()}{kept})"

    def diagram(self, quantity: str | None = None) -> PhaseDiagram:
        """Convert the sweep to a phase diagram, if it is a product of two parameters.

        Parameters
        ----------
        quantity : str, optional
            Name of the quantity in `values`; by default the first one.

        Returns
        -------
        PhaseDiagram
            The first parameter along x, the second along y.

        Raises
        ------
        BadParameter
            For a sweep that is not the product of two parameters.

        Examples
        --------
        >>> import dmft
        >>> swept = dmft.sweep({"a": [1.0, 2.0], "b": [3.0, 0.0]}, lambda a, b: a / b)
        >>> swept.diagram()
        PhaseDiagram(value over a (2) x b (2); {'nonfinite': 2, 'ok': 2})
        """
        if not self.points.is_grid or len(self.points.names) != 2:
            raise BadParameter(
                f"a diagram has two axes; this sweep has the parameters {list(self.points.names)}"
            )
        name = quantity or next(iter(self.values))
        (x_name, y_name), (x, y) = self.points.names, self.points.columns
        rows = y.size
        messages = {(n % rows, n // rows): text for n, text in self.messages.items()}
        messages = dict(sorted(messages.items()))
        return PhaseDiagram(
            x_name, y_name, name, x.astype(np.float64), y.astype(np.float64),
            self.values[name].T, self.status.T, self.horizon.T, messages, self.provenance,
        )  # fmt: skip

    def _displayed(self) -> list[netcdf.Variable]:
        dims = self.points.names if self.points.is_grid else ("point",)
        return [*super()._displayed(), ("status", dims, self.status)]

    def _coordinates(self) -> tuple[str, ...]:
        return self.points.names

    def _axes(self, field: str, name: str, values: NDArray[Any]) -> tuple[str, ...]:
        if field == "points" and self.points.is_grid:
            return (f"axis_{name}",)
        return tuple(f"axis_{i}" for i in range(values.ndim))

    def _quantities(self) -> Mapping[str, str]:
        names = dict(enumerate(self.points.names))
        axes = {f"axis_{i}": n for i, n in names.items()} if self.points.is_grid else {}
        columns = {f"points_columns_{i}": name for i, name in names.items()}
        values = {f"values_{variable_key(n, i)}": n for i, n in enumerate(self.values)}
        return {"axis_0": "point", **axes, **columns, **values}

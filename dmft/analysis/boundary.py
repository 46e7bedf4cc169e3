"""What the tracing of boundaries gives: curves, triple points, jumps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft import netcdf
from dmft.analysis.plane import Change, Label
from dmft.arrays import Array
from dmft.names import Status
from dmft.record import Archived, Record


@dataclass(frozen=True, eq=False)
class BoundaryCurve(Record):
    """Boundary curve between two labels.

    Attributes
    ----------
    x, y : (n,)
        Points in order along the curve.
    error : (n,)
        Half-widths of the final brackets across the curve, in units of the ranges.
    labels : tuple
        Labels on the left and on the right of the curve, in the direction of the points; "-" and
        "+" for signs.
    closed : bool
    ends : tuple of str
        Reason for each end: "edge" of the plane, "triple point", "lost", "closed", "crossing" of
        two curves between the same labels, "jump" or "pole" (the sign changes further on, but
        without a zero), or "interrupted" by Ctrl-C.

    Examples
    --------
    >>> import dmft
    >>> found = dmft.boundary(lambda u, v: u**2 + v**2 - 1, ("u", 0, 2), ("v", 0, 2), tol=1e-4)
    >>> (curve,) = found.curves
    >>> curve.labels, curve.closed, curve.ends
    (('-', '+'), False, ('edge', 'edge'))
    """

    x: Array
    y: Array
    error: Array
    labels: tuple[Label, Label]
    closed: bool
    ends: tuple[str, str]

    def at(self, x: float) -> Array:
        """Return all y of the curve at one x, by linear interpolation, in the order of the points.

        Parameters
        ----------
        x : float
            Value of x.

        Returns
        -------
        (m,) ndarray
            Values of y; empty if the curve has no point at this x.

        Examples
        --------
        >>> import dmft
        >>> found = dmft.boundary(lambda u, v: u**2 + v**2 - 1, ("u", 0, 2), ("v", 0, 2), tol=1e-4)
        >>> (curve,) = found.curves
        >>> curve.at(0.6).round(3).tolist()
        [0.8]
        """
        low, high = self.x[:-1], self.x[1:]
        lines = np.flatnonzero((low - x) * (high - x) < 0.0)
        part = (x - low[lines]) / (high[lines] - low[lines])
        between = self.y[:-1][lines] + part * np.diff(self.y)[lines]
        points = np.flatnonzero((self.x[:-1] if self.closed else self.x) == x)
        order = np.argsort(np.concatenate([lines + 0.5, points]))
        found: Array = np.concatenate([between, self.y[points]])[order]
        return found


@dataclass(frozen=True)
class Jump:
    """Change of sign without a zero.

    Attributes
    ----------
    x, y : float
    kind : str
        "pole" if the values grow on both sides, otherwise "jump": a discontinuity, or a step that
        is narrower than a thousandth of the tolerance.
    before, behind : float
        Values on both sides, along x or y.

    Examples
    --------
    >>> import dmft
    >>> found = dmft.boundary(lambda u, v: 1 / (u - 0.3), ("u", 0, 1), ("v", 0, 1), grid=(3, 3))
    >>> jump = found.jumps[0]
    >>> jump.kind, round(jump.x, 3)
    ('pole', 0.3)
    """

    x: float
    y: float
    kind: str
    before: float
    behind: float


@dataclass(frozen=True, eq=False)
class Boundary(Archived):
    """Boundary curves of a measure in the plane of two parameters.

    Attributes
    ----------
    x_name, y_name : str
    x, y : (nx,), (ny,)
        The coarse grid.
    labels : (ny, nx) object array
        Labels on the coarse grid.
    curves : tuple of BoundaryCurve
    triple_points : (m, 2)
        Points (x, y) at which three labels meet.
    tol : float
        Requested half-width of brackets, in units of the ranges.
    solves : mapping of str to int
        Numbers of evaluations of the measure, for the "grid" and for the "curves".
    stored : int
        Number of points that were read from the store.
    status : Status
        "ok"; "tolerance_not_met" if the end of a curve was lost or a sign changes without a zero;
        or "interrupted".
    message : str
        Description of unfinished curves and failed points.
    provenance : mapping
    jumps : tuple of Jump
        Edges of the grid on which the sign changes without a zero; not part of the boundary.

    Examples
    --------
    >>> from dmft.analysis.boundary_trace import trace_boundary
    >>> found = trace_boundary(lambda u, v: u**2 + v**2 - 1, ("u", -2, 2), ("v", -2, 2))
    >>> (curve,) = found.curves
    >>> curve.closed, bool(np.abs(np.hypot(curve.x, curve.y) - 1).max() < 1e-5)
    (True, True)
    """

    KIND = "dmft boundary"
    PARTS = (BoundaryCurve, Jump)

    x_name: str
    y_name: str
    x: Array
    y: Array
    labels: NDArray[Any]
    curves: tuple[BoundaryCurve, ...]
    triple_points: Array
    tol: float
    solves: Mapping[str, int]
    stored: int = 0
    status: Status = Status.OK
    message: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    jumps: tuple[Jump, ...] = ()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{c.labels[0]}|{c.labels[1]}: {c.x.size}" for c in self.curves)
        return (
            f"Boundary({self.y_name} over {self.x_name}; {len(self.curves)} curves ({sizes}); "
            f"{sum(self.solves.values())} solves)"
        )

    def _displayed(self) -> list[netcdf.Variable]:
        """All points of all curves, one after the other, with the number of their curve."""
        numbers = np.repeat(np.arange(len(self.curves)), [c.x.size for c in self.curves])
        columns = {
            self.x_name: _joined([c.x for c in self.curves]),
            self.y_name: _joined([c.y for c in self.curves]),
            "error": _joined([c.error for c in self.curves]),
            "curve": numbers,
        }
        return [(name, ("point",), values) for name, values in columns.items()]

    def _quantities(self) -> Mapping[str, str]:
        names = {"x": self.x_name, "y": self.y_name}
        numbered = {f"curves_{n}_{x}": names[x] for n in range(len(self.curves)) for x in names}
        return names | numbered


def _joined(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.empty(0)


def jump_of(change: Change, axes: Sequence[Callable[[float], float]]) -> Jump:
    """The record of a change, `axes` taking the unit square to parameters."""
    x, y = (axes[i](float(change.point[i])) for i in (0, 1))
    return Jump(x, y, change.kind, *change.values)


def describe_jumps(jumps: tuple[Jump, ...], ends: int) -> str:
    """Message about changes of sign that are not zeros."""
    if not jumps:
        return f"{ends} ends of curves lie where the measure jumps" if ends else ""
    first, kinds = jumps[0], sorted({jump.kind for jump in jumps})
    return (
        f"on {len(jumps)} edges of the grid the sign changes by a {' or a '.join(kinds)}, "
        f"without a zero, first at ({first.x:.7g}, {first.y:.7g}) from {first.before:.3g} to "
        f"{first.behind:.3g}; these are not part of the boundary. To include them, return a "
        "label (a str or bool)"
    )

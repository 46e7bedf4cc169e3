"""The record of a measure on a grid of two parameters, and how what a measure returns is read.

The failure of a point is part of the result: its value is nan and its status says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.escape import Censored, EscapeTime
from dmft.arrays import Array
from dmft.errors import BadParameter, InvalidCovariance
from dmft.names import FIXED_POINTS, Status
from dmft.record import Archived
from dmft.solvers.trajectory import Trajectory

if TYPE_CHECKING:
    from dmft.summary import Summary

# Statuses in a fixed order: files and colours hold their position here.
STATUSES = tuple(Status)
# Failures of arithmetic at one point are data; anything else is a mistake and is raised.
POINT_FAILURES = (ArithmeticError, np.linalg.LinAlgError, InvalidCovariance)
# What functions of the module `math` say outside their domain, where NumPy's return nan; the second
# from Python 3.14 on.
OUTSIDE = ("math domain error", "expected a ")


class OnGrid(Archived):
    """Base of records on a grid of two parameters, rows for `y` and columns for `x`."""

    x_name: str
    y_name: str

    def _axes(self, field: str, name: str, values: NDArray[Any]) -> tuple[str, ...]:
        return {"x": ("x",), "y": ("y",)}.get(field, ("y", "x", "minimum")[: values.ndim])

    def _coordinates(self) -> tuple[str, ...]:
        return self.x_name, self.y_name

    def _quantities(self) -> Mapping[str, str]:
        return {"x": self.x_name, "y": self.y_name}


@dataclass(frozen=True, eq=False)
class PhaseDiagram(OnGrid):
    """Values and statuses of a measure on a grid of two parameters.

    Rows of arrays correspond to `y`, columns to `x`.

    Attributes
    ----------
    x_name, y_name, quantity : str
    x : (nx,)
    y : (ny,)
    values : (ny, nx)
        Values of the measure; nan if a point failed or was censored. If the measure returns names,
        the values are positions in `names`, and `labels` (ny, nx) contains the names.
    status : (ny, nx) of str
        "ok" and "event": the value is valid. "not_converged": not reached until `horizon`.
        "diverged", "left_domain" and others: reason for a failure. "interrupted": not computed.
    horizon : (ny, nx)
        Time until which a censored or failed point was followed; nan elsewhere.
    messages : mapping of (row, column) to str
        Messages of failed points.
    provenance : mapping
    computed : (ny, nx) of bool
        Whether the measure was evaluated at a point. Other points of an adaptive diagram have the
        status of their block and a value interpolated from its corners.

    Examples
    --------
    >>> import dmft
    >>> axes = {"x": [1.0, 2.0, 3.0], "y": [0.5, 1.0]}
    >>> diagram = dmft.phase_diagram(lambda x, y: x * y, axes)
    >>> diagram
    PhaseDiagram(value over x (3) x y (2); {'ok': 6})
    >>> diagram.values[1].tolist(), diagram.complete
    ([1.0, 2.0, 3.0], True)
    """

    KIND = "dmft phase diagram"

    x_name: str
    y_name: str
    quantity: str
    x: Array
    y: Array
    values: Array
    status: NDArray[np.str_]
    horizon: Array
    messages: Mapping[tuple[int, int], str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    # All points but the interrupted ones, where nothing is said.
    computed: NDArray[np.bool_] = field(default_factory=lambda: np.ones((0, 0), dtype=bool))

    def __post_init__(self) -> None:
        if self.computed.shape != self.values.shape:
            object.__setattr__(self, "computed", self.status != Status.INTERRUPTED)

    @property
    def complete(self) -> bool:
        """Whether every point has a result."""
        return not bool(np.any(self.status == Status.INTERRUPTED))

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the values, if the measure returns names (such as "fixed_point")."""
        if "labels" in self.provenance:
            return tuple(self.provenance["labels"])
        known = self.values[np.isfinite(self.values)]
        # A function of the same name may return anything.
        whole = bool(np.all(np.isin(known, np.arange(len(FIXED_POINTS)))))
        return FIXED_POINTS if self.quantity == "fixed_point" and whole else None

    @property
    def labels(self) -> NDArray[np.object_]:
        """Names at the points, (ny, nx); the status for points without a value."""
        if self.names is None:
            raise BadParameter(
                f'the values of {self.quantity} are numbers; only "fixed_point" and measures '
                "that return names have names"
            )
        found = self.status.astype(object)
        known = np.isfinite(self.values)
        found[known] = np.array(self.names, dtype=object)[self.values[known].astype(int)]
        return found

    def count(self, *, computed: bool = False) -> dict[str, int]:
        """Count the points of each status.

        Parameters
        ----------
        computed : bool
            Whether to count only the points at which the measure was evaluated, in an adaptive
            diagram.

        Returns
        -------
        dict of str to int
            Number of points of each status that occurs, by the name of the status.

        Examples
        --------
        >>> import dmft
        >>> axes = {"x": [1.0, 2.0], "y": [0.0, 1.0]}
        >>> diagram = dmft.phase_diagram(lambda x, y: x / y, axes)
        >>> diagram.count()
        {'nonfinite': 2, 'ok': 2}
        """
        return count_names(self.status[self.computed] if computed else self.status)

    def __repr__(self) -> str:
        axes = f"{self.x_name} ({self.x.size}) x {self.y_name} ({self.y.size})"
        done = int(self.computed.sum())
        part = "" if done == self.computed.size else f"; {done} of {self.computed.size} computed"
        return f"PhaseDiagram({self.quantity} over {axes}; {self.count()}{part})"

    def _summary(self) -> Summary:
        from dmft.summary import Summary, figures

        rows = list(getattr(super()._summary(), "rows", ()))
        if self.names is not None:
            counts = count_names(self.labels[np.isfinite(self.values)])
            rows += [(name, f"{n} points") for name, n in counts.items()]
        elif np.isfinite(self.values).any():
            for name, find in (("smallest", np.nanargmin), ("largest", np.nanargmax)):
                i, j = np.unravel_index(find(self.values), self.values.shape)
                at = f"at {self.x_name} = {self.x[j]:.6g}, {self.y_name} = {self.y[i]:.6g}"
                rows.append((name, figures(self.values[i, j]), at))
        return Summary(f"{self.quantity} over {self.x_name} and {self.y_name}", tuple(rows))

    def _quantities(self) -> Mapping[str, str]:
        return {**super()._quantities(), "values": self.quantity}


def count_names(names: NDArray[Any]) -> dict[str, int]:
    """How often each name occurs."""
    found, numbers = np.unique(names, return_counts=True)
    return {str(name): int(n) for name, n in zip(found, numbers, strict=True)}


@dataclass(frozen=True)
class Point:
    """What one point gave; beside a status ok or event, the message is a label as JSON."""

    value: float
    status: Status
    horizon: float = np.nan
    message: str = ""


def is_point_failure(error: Exception) -> bool:
    """Whether an error of a measure is a failure of arithmetic at its point."""
    outside = type(error) is ValueError and str(error).startswith(OUTSIDE)
    return outside or isinstance(error, POINT_FAILURES)


def read_result(result: Any) -> Point:
    """Value, status, horizon and message of what a measure returned."""
    if isinstance(result, Point):
        return result
    if isinstance(result, EscapeTime):
        return Point(result.value, Status.OK)
    if isinstance(result, Censored):
        # A run that came to its end in good order, without the escape: neither ok nor a failure.
        status = Status.NOT_CONVERGED if result.status == Status.OK else result.status
        return Point(np.nan, status, result.horizon, result.message)
    if isinstance(result, Trajectory):
        if result.status in (Status.OK, Status.EVENT):
            return Point(float(result.risk[-1]), result.status)
        return Point(np.nan, result.status, float(result.t[-1]), result.ending)
    if isinstance(result, tuple):
        return _read_pair(result)
    value = read_number(result)
    return Point(value, Status.OK if math.isfinite(value) else Status.NONFINITE)


def _read_pair(pair: tuple[Any, ...]) -> Point:
    """A number with its status; ok is no status of a number that is not finite."""
    if len(pair) != 2 or pair[1] not in STATUSES:
        raise BadParameter(
            f"the measure returned {pair!r:.80}: a pair must be (number, status), with a status "
            f"out of {', '.join(STATUSES)}"
        )
    value, status = read_number(pair[0]), Status(pair[1])
    good = status not in (Status.OK, Status.EVENT) or math.isfinite(value)
    return Point(value, status if good else Status.NONFINITE)


def read_number(value: Any) -> float:
    """A number that a measure returned; a text that looks like one is none."""
    try:
        if not isinstance(value, str | bytes):
            return float(value)
        reason = (
            "a sweep stores numbers (phase_diagram and boundary accept names, without a status)"
        )
    except (TypeError, ValueError) as error:
        reason = str(error)
    raise BadParameter(
        f"the measure returned {value!r:.80}, which is not a number: {reason}; return a number, "
        "a Trajectory, an EscapeTime, a Censored or a pair (number, status)"
    )

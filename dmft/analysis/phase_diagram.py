"""A measure on a grid of two parameters, computed in parallel threads.

The failure of a point is part of the result: its value is nan and its status says why. Threads
serve because solvers and simulations release the interpreter's lock; each point is computed by
itself, so that the number of threads never changes a result.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.analysis.escape import Censored, EscapeTime
from dmft.errors import BadParameter, InvalidCovariance
from dmft.names import VERSION, Status
from dmft.progress import CANCELLED, Progress, ProgressOption, is_cancelled
from dmft.solvers.trajectory import Trajectory

if TYPE_CHECKING:
    import xarray

Array = NDArray[np.float64]
Measure = Callable[[float, float], Any]

# Statuses in a fixed order: files and colours hold their position here.
STATUSES = tuple(Status)
# How often the main thread wakes, for progress and Ctrl-C.
WAKE_SECONDS = 0.2
# Failures of arithmetic at one point are data; anything else is a mistake and is raised.
POINT_FAILURES = (ArithmeticError, np.linalg.LinAlgError, InvalidCovariance)


@dataclass(frozen=True, eq=False)
class PhaseDiagram:
    """Values and statuses on a grid; rows run over `y`, columns over `x`.

    Attributes
    ----------
    x_name, y_name, quantity : str
    x : (nx,)
    y : (ny,)
    values : (ny, nx)
        nan where the status is a failure or the measure was censored.
    status : (ny, nx) of str
        ok and event: the value counts; not_converged: not reached until `horizon`;
        diverged, left_domain ...: how the run failed; interrupted: not computed.
    horizon : (ny, nx)
        Time until which a censored or failed point was followed; nan elsewhere.
    messages : mapping of (row, column) to str
        What failed points say.
    provenance : mapping

    Examples
    --------
    >>> diagram = compute_diagram(lambda x, y: x * y, {"x": [1.0, 2.0, 3.0], "y": [0.5, 1.0]})
    >>> diagram
    PhaseDiagram(value over x (3) x y (2); {'ok': 6})
    >>> diagram.values[1].tolist(), diagram.complete
    ([1.0, 2.0, 3.0], True)
    """

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

    @property
    def complete(self) -> bool:
        """True when every point was computed (no interruption)."""
        return not bool(np.any(self.status == Status.INTERRUPTED))

    def count(self) -> dict[str, int]:
        """Number of points of each status that occurs."""
        names, numbers = np.unique(self.status, return_counts=True)
        return {str(name): int(n) for name, n in zip(names, numbers, strict=True)}

    def __repr__(self) -> str:
        axes = f"{self.x_name} ({self.x.size}) x {self.y_name} ({self.y.size})"
        return f"PhaseDiagram({self.quantity} over {axes}; {self.count()})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PhaseDiagram):
            return NotImplemented
        names = ("x_name", "y_name", "quantity", "messages", "provenance")
        arrays = ("x", "y", "values", "horizon")
        return (
            all(getattr(self, n) == getattr(other, n) for n in names)
            and all(
                np.array_equal(getattr(self, n), getattr(other, n), equal_nan=True) for n in arrays
            )
            and np.array_equal(self.status, other.status)
        )

    __hash__ = None  # type: ignore[assignment]

    def to_xarray(self) -> xarray.Dataset:
        """Return an `xarray.Dataset` with the two parameters as dimensions."""
        from dmft.analysis.diagram_file import to_dataset

        return to_dataset(self)

    def save(self, path: str | Path) -> Path:
        """Write a netCDF file from which `load_diagram` restores an equal record."""
        from dmft.analysis.diagram_file import save_diagram

        return save_diagram(self, path)


def compute_diagram(
    measure: Measure,
    axes: Mapping[str, ArrayLike],
    *,
    quantity: str = "value",
    threads: int | None = None,
    progress: ProgressOption = None,
    provenance: Mapping[str, Any] | None = None,
) -> PhaseDiagram:
    """Evaluate `measure(x, y)` on the grid of two named axes.

    Parameters
    ----------
    measure : callable(x, y)
        Returns a number, an `EscapeTime`, a `Censored`, a `Trajectory` (its last risk counts) or
        a pair (number, status). It runs in several threads at once.
    axes : mapping of two names to (nx,) and (ny,) values
        First the horizontal one.
    quantity : str
        What the values are, for labels.
    threads : int or None
        By default one a core.
    progress : None, bool or callable

    Returns
    -------
    PhaseDiagram
        After Ctrl-C the points that are done; the others have status interrupted.

    Examples
    --------
    >>> diagram = compute_diagram(lambda x, y: x / y, {"x": [1.0, 2.0], "y": [1.0, 0.0]})
    >>> diagram.values.tolist(), diagram.status.tolist()
    ([[1.0, 2.0], [nan, nan]], [['ok', 'ok'], ['nonfinite', 'nonfinite']])
    """
    (x_name, x), (y_name, y) = _axes(axes)
    shape = (y.size, x.size)
    board = _Board(
        np.full(shape, np.nan), np.full(shape, str(Status.INTERRUPTED), dtype="<U20"),
        np.full(shape, np.nan), {},
    )  # fmt: skip
    cancel = threading.Event()
    context = contextvars.copy_context()
    context.run(CANCELLED.set, cancel)
    with (
        Progress(progress, quantity) as bar,
        ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool,
    ):
        jobs = {
            pool.submit(context.copy().run, _point, measure, float(x[j]), float(y[i])): (i, j)
            for i in range(y.size)
            for j in range(x.size)
        }
        try:
            _collect(jobs, board, bar)
        except BaseException as error:
            cancel.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if not isinstance(error, KeyboardInterrupt):
                raise
            _keep_finished(jobs, board)
    # In order of the grid, whatever the order in which the threads came back.
    messages = dict(sorted(board.messages.items()))
    return PhaseDiagram(
        x_name, y_name, quantity, x, y, board.values, board.status, board.horizon, messages,
        {"dmft": VERSION, **(provenance or {})},
    )  # fmt: skip


@dataclass
class _Board:
    """Where finished points are written, each in its own place."""

    values: Array
    status: NDArray[np.str_]
    horizon: Array
    messages: dict[tuple[int, int], str]

    def write(self, place: tuple[int, int], point: _Point) -> None:
        self.values[place], self.status[place] = point.value, str(point.status)
        self.horizon[place] = point.horizon
        if point.message:
            self.messages[place] = point.message


@dataclass(frozen=True)
class _Point:
    value: float
    status: Status
    horizon: float = np.nan
    message: str = ""


Jobs = dict["Future[_Point]", tuple[int, int]]


def _axes(axes: Mapping[str, ArrayLike]) -> list[tuple[str, Array]]:
    if len(axes) != 2:
        raise BadParameter(f"a phase diagram has two axes, not {len(axes)}: {list(axes)}")
    out = []
    for name, values in axes.items():
        array = np.array(values, dtype=np.float64)
        if array.ndim != 1 or array.size == 0 or not np.all(np.isfinite(array)):
            raise BadParameter(f"axis {name!r} must be a non-empty list of finite numbers")
        out.append((name, array))
    return out


def _point(measure: Measure, x: float, y: float) -> _Point:
    """Evaluate one point; a numerical failure becomes its status."""
    try:
        result = measure(x, y)
        if is_cancelled():
            # A run that was cut short may have been read as if it were whole.
            return _Point(np.nan, Status.INTERRUPTED)
        return read_result(result)
    except POINT_FAILURES as error:
        return _Point(np.nan, Status.NONFINITE, message=f"{type(error).__name__}: {error}")
    except Exception as error:
        error.add_note(f"at the point ({x:g}, {y:g}) of the phase diagram")
        raise


def read_result(result: Any) -> _Point:
    """Value, status, horizon and message of what a measure returned."""
    if isinstance(result, EscapeTime):
        return _Point(result.value, Status.OK)
    if isinstance(result, Censored):
        # A run that came to its end in good order, without the escape: neither ok nor a failure.
        status = Status.NOT_CONVERGED if result.status == Status.OK else result.status
        return _Point(np.nan, status, result.horizon, result.message)
    if isinstance(result, Trajectory):
        if result.status in (Status.OK, Status.EVENT):
            return _Point(float(result.risk[-1]), result.status)
        return _Point(np.nan, result.status, float(result.t[-1]), result.message)
    if isinstance(result, tuple):
        value, status = result
        return _Point(float(value), Status(status))
    value = float(result)
    return _Point(value, Status.OK if np.isfinite(value) else Status.NONFINITE)


def _collect(jobs: Jobs, board: _Board, bar: Progress) -> None:
    waiting, total = set(jobs), len(jobs)
    while waiting:
        done, waiting = wait(waiting, timeout=WAKE_SECONDS, return_when=FIRST_COMPLETED)
        for job in done:
            board.write(jobs[job], job.result())
        bar.update(1.0 - len(waiting) / total, f"{total - len(waiting)} of {total} points")


def _keep_finished(jobs: Jobs, board: _Board) -> None:
    for job, place in jobs.items():
        if job.done() and not job.cancelled() and job.exception() is None:
            board.write(place, job.result())

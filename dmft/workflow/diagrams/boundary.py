"""`boundary`: where a measure of two parameters changes its sign or its label."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dmft.analysis.boundary import Boundary
from dmft.analysis.boundary_trace import check_options, trace_boundary
from dmft.analysis.diagram import read_axis
from dmft.analysis.phase_diagram import read_result
from dmft.analysis.plane import FAILED, Seen
from dmft.analysis.sweeps.sweep import Axes, Range, two_axes
from dmft.errors import BadParameter
from dmft.model import Alignment, Overlaps
from dmft.names import Status
from dmft.progress import ProgressOption
from dmft.validation import checked_or
from dmft.workflow.diagrams.measures import BUILT_IN, System, chosen_measure, one_warning

# Points of a side of the coarse grid.
COARSE = 9
# Measures without a sign of their own.
POSITIVE = ("escape_time", "final_risk", "overlap")


@checked_or(measure=BUILT_IN)
def boundary(
    measure: str | Callable[..., Any],
    x: Axes,
    y: Axes | None = None,
    *,
    tol: float = 1e-6,
    grid: tuple[int, int] | None = None,
    step: float = 0.04,
    log: tuple[str, ...] = (),
    level: float = 0.0,
    equations: System | None = None,
    start: Overlaps | Alignment | None = None,
    t_max: float | None = None,
    fraction: float = 0.5,
    reference: str = "start",
    overlap: float | None = None,
    store: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    threads: int | None = None,
    progress: ProgressOption = None,
    **options: Any,
) -> Boundary:
    r"""Trace the curves along which a measure changes its sign or its label.

    The labels are computed on a coarse grid. Each change between neighbouring points is refined,
    and the curve is traced in both directions. Curves can turn, close, end at the edge of the
    rectangle, or end where three labels meet. Curves that the coarse grid does not resolve are not
    found. A change of sign at a jump or a pole is not a zero: it is listed in `.jumps` and not
    drawn.

    Parameters
    ----------
    measure : callable(**{x_name: ..., y_name: ...}) or a built-in measure of `dmft.phase_diagram`
        A measure that returns a float is compared with `level` (secant method, about 5 evaluations
        per point). If it returns a str, int, bool or `Status`, this is a label (bisection, about
        9 evaluations). The built-in measures "converged", "status", "fixed_point", "minima" and
        "learned_directions" are labels. nan, inf and failed runs have the label "failed".

        "growth_rate" is the growth rate at a fixed point, which is found from `start` at the lowest
        x and y and continued to each point. If its branch ends or meets another one, the label is
        "failed" and the message gives the reason.
    x, y : (name, lowest, highest), (name, values) or mapping of names to values
        Ranges of two parameters; a mapping of two names defines both. If values are given, they
        define the range and, if there are more than two, also the number of points of the coarse
        grid.
    tol : float
        Half-width of the final bracket of each point across the curve, in units of the ranges.
    grid : (nx, ny), optional
        Number of points of the coarse grid, 9 per axis by default.
    step : float
        Largest distance between neighbouring points of a curve, in units of the ranges.
    log : names
        Axes with a logarithmic scale.
    level : float
        Value of a float measure on the boundary; positive for "escape_time", "final_risk" and
        "overlap".
    equations, start, t_max, fraction, reference, overlap, **options
        For the built-in measures, as in `dmft.phase_diagram`.
    store, identity, threads, progress
        As in `dmft.phase_diagram`. Calls with other ranges and tolerances reuse a store (for
        "growth_rate" only with the same lowest x and y). Threads compute the coarse grid.

    Returns
    -------
    Boundary
        Curves `.curves` with x, y and error, `.triple_points` and `.jumps`. After Ctrl-C the curves
        found so far are returned, with the status "interrupted".

    Raises
    ------
    BadParameter
        For a name that the equations do not contain, an empty range, a measure with an unsupported
        return type, or a store of another measure.

    Examples
    --------
    The learning rate above which a unit with square activation on the sphere does not leave the
    uninformative point, gamma = 2/(12 + Delta) (theory/one_pass F.1):

    >>> import dmft
    >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.SGD(0.05, constraint="sphere"))
    >>> found = dmft.boundary(
    ...     "growth_rate", ("learning_rate", 0.05, 0.2), ("label_noise", 0.0, 4.0), grid=(3, 3),
    ...     equations=eqs, start=dmft.Overlaps([[1.0]], [[0.0]]))
    >>> (curve,) = found.curves
    >>> bool(abs(curve.x - 2 / (12 + curve.y)).max() < 1e-6)
    True
    """
    axes = two_axes(x, y)
    names = tuple(axes)
    across, up = ((name, *_ends(name, values)) for name, values in axes.items())
    if grid is None:
        columns, rows = map(_count, axes.values())
        grid = columns, rows
    check_options(across, up, tol=tol, grid=grid, step=step, log=log)
    if not (isinstance(level, int | float | np.number) and math.isfinite(level)):
        raise BadParameter(f"level = {level!r} must be a finite number")
    if not callable(measure):
        _check_level(measure, level, t_max)
    corner = {name: low for name, low, _ in (across, up)}
    chosen = chosen_measure(
        measure, corner, True, equations=equations, start=start, t_max=t_max, fraction=fraction,
        reference=reference, overlap=overlap, **options,
    )  # fmt: skip
    provenance = {"level": level, **chosen.known}
    if "time_unit" in chosen.provenance:
        provenance["time_unit"] = chosen.provenance["time_unit"]

    def signed(first: float, second: float) -> Any:
        result = chosen.function(**{names[0]: first, names[1]: second})
        compared = relative(chosen.label(result), level)
        failed = isinstance(compared, float) and math.isnan(compared)
        return Seen(FAILED, message=_why(result, level)) if failed else compared

    with one_warning():
        return trace_boundary(
            signed, across, up, tol=tol, grid=grid, step=step, log=log, threads=threads,
            store=store, progress=progress, provenance=provenance | dict(identity or {}),
        )  # fmt: skip


def _ends(name: str, values: Range | ArrayLike) -> tuple[float, float]:
    if isinstance(values, Range):
        return values.low, values.high
    read = read_axis(name, values)
    return float(read.min()), float(read.max())


def _count(values: Range | ArrayLike) -> int:
    """Points of the coarse grid along an axis."""
    size = 2 if isinstance(values, Range) else np.size(values)
    return size if size > 2 else COARSE


def _check_level(measure: str, level: float, t_max: float | None) -> None:
    """Refuse levels that such a measure cannot cross."""
    if measure in POSITIVE and level <= 0.0:
        raise BadParameter(
            f'level = {level!r}: the measure "{measure}" is never negative, so level= must be '
            'positive (for the boundary of runs that fail use "status" or "converged")'
        )
    if measure == "escape_time" and t_max is not None and level >= t_max:
        raise BadParameter(f"level = {level!r} must be below t_max = {t_max!r}, where runs end")


def _why(result: Any, level: float) -> str:
    """What is known of a point that has no distance from the level."""
    point = read_result(result)
    if point.status == Status.NOT_CONVERGED and math.isfinite(point.horizon):
        return f"not reached until t = {point.horizon:g}, and the level is {level:g}"
    if point.message.startswith(point.status):
        return point.message
    return ": ".join(text for text in (str(point.status), point.message) if text)


def relative(result: Any, level: float) -> Any:
    """A label as it is; a number, an escape time or a run as its distance from the level."""
    if isinstance(result, str | bool | int | np.bool_ | np.integer):
        return result
    point = read_result(result)
    if point.status == Status.NOT_CONVERGED and point.horizon > level:  # later than the horizon
        return point.horizon - level
    return point.value - level if point.status in (Status.OK, Status.EVENT) else float("nan")

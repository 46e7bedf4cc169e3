"""Curves along which a measure of two parameters changes its sign or its label."""

from __future__ import annotations

import contextlib
import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.boundary import Boundary, BoundaryCurve, describe_jumps, jump_of
from dmft.analysis.boundary_curve import INTERRUPTED, Trace, trace_curve
from dmft.analysis.plane import JUMP, POLE, Change, Label, Plane, PlaneStore, find_change
from dmft.analysis.sweeps.store import Store
from dmft.analysis.sweeps.sweep import Range, as_axes
from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.names import VERSION, Status
from dmft.progress import Progress, ProgressOption

Axis = tuple[str, float, float]
# Of a grid whose labels are held at once.
MOST_POINTS = 10**7
# Steps in units of the tolerance.
LEAST_STEP = 200
# Least tolerance in spacings of doubles.
ROUNDINGS = 16


def check_options(
    x: Axis, y: Axis, *, tol: float, grid: Any, step: float, log: Any
) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Refuse axes and accuracies that do not go together; return grid and names of log axes."""
    for axis in (x, y):
        to_parameter(axis, ())
    if x[0] == y[0]:
        raise BadParameter(f"both axes are {x[0]!r}: a boundary requires two different parameters")
    names = (log,) if isinstance(log, str) else tuple(log)
    unknown = [name for name in names if name not in (x[0], y[0])]
    if unknown:
        raise BadParameter(
            f"log = {log!r}: {unknown[0]!r} is neither of the axes {x[0]!r}, {y[0]!r}"
        )
    try:
        fits = 0.0 < LEAST_STEP * tol <= step <= 0.25
    except TypeError:
        fits = False
    if not fits:
        raise BadParameter(
            f"tol = {tol!r} and step = {step!r}: 0 < {LEAST_STEP} tol <= step <= 1/4 is "
            "required, so that points resolve the direction of the curve"
        )
    for name, low, high in (x, y):
        width = math.log(high / low) if name in names and low > 0 else high - low
        largest = 1.0 if name in names else max(abs(low), abs(high))
        finest = ROUNDINGS * np.finfo(float).eps * max(largest / width, 1.0)
        if tol < finest:
            raise BadParameter(
                f"tol = {tol!r} is below the resolution of doubles on the axis {name!r}: use "
                f"at least {finest:.1g}"
            )
    try:
        columns, rows = (operator.index(n) for n in grid)
    except (TypeError, ValueError) as error:
        raise BadParameter(f"grid = {grid!r} must be two integers (nx, ny)") from error
    if min(columns, rows) < 2:
        raise BadParameter(f"grid = {grid!r} needs at least two points per side")
    if columns * rows > MOST_POINTS:
        raise BadParameter(f"grid = {grid!r:.80} has more than {MOST_POINTS:,} points to evaluate")
    return (columns, rows), names


def to_parameter(axis: Axis, log: tuple[str, ...]) -> Callable[[float], float]:
    """Parameter at a coordinate in [0, 1]."""
    ((name, ends),) = as_axes(axis).items()
    if not isinstance(ends, Range):
        raise BadParameter(f"an axis is (name, lowest, highest), got {axis!r}")
    low, high = ends.low, ends.high
    if name not in log:
        return lambda u: high if u == 1.0 else low + u * (high - low)
    if not low > 0.0:
        raise BadParameter(f"axis {name!r} is logarithmic and starts at {low!r}: it must be > 0")
    return lambda u: high if u == 1.0 else low * (high / low) ** u


# A change on a grid edge belongs to a curve that passes this near, in units of the curve's step.
ON_CURVE = 0.25
AT_NODE = 0.1
# Sine below which a direction along a curve does not say from which side it comes.
BESIDE = 0.2
# Labels along one edge of the coarse grid.
MOST_CHANGES = 16
# Length over which the direction of a curve at its end is taken.
CHORD = 1e-3


def trace_boundary(
    measure: Callable[[float, float], Any],
    x: Axis,
    y: Axis,
    *,
    tol: float = 1e-6,
    grid: tuple[int, int] = (9, 9),
    step: float = 0.04,
    log: tuple[str, ...] = (),
    threads: int | None = None,
    store: str | Path | None = None,
    progress: ProgressOption = None,
    provenance: Mapping[str, Any] | None = None,
) -> Boundary:
    """Trace all boundaries of a measure in a rectangle; see `dmft.boundary`.

    A store is that of one measure between two names, whatever the ranges and the tolerance; what
    it must agree on is `provenance`.
    """
    grid, log = check_options(x, y, tol=tol, grid=grid, step=step, log=log)
    axes = [to_parameter(x, log), to_parameter(y, log)]

    def to_parameters(point: Array) -> tuple[float, float]:
        return axes[0](float(point[0])), axes[1](float(point[1]))

    u, v = (np.linspace(0.0, 1.0, n) for n in grid)
    known = {"dmft": VERSION, **(provenance or {})}
    with (
        Progress(progress, "boundary") as bar,
        _memory(store, (x[0], y[0]), known) as memory,
        Plane(measure, to_parameters, threads=threads, store=memory) as plane,
    ):
        labels = _coarse(plane, u, v, bar)
        _check_kinds(plane)
        on_grid = plane.solves
        traces, broken, status, message = _all_curves(plane, u, v, labels, tol, step, bar)
        jumps = tuple(jump_of(change, axes) for change in broken)
        ends = sum(reason in (JUMP, POLE) for trace in traces for reason in trace.ends)
        if (jumps or ends) and status == Status.OK:
            status = Status.TOLERANCE_NOT_MET
        message = "; ".join(
            text for text in (message, describe_jumps(jumps, ends), plane.failures) if text
        )
    curves = tuple(_curve(t, axes) for t in traces)
    return Boundary(
        x[0], y[0],
        np.array([axes[0](float(a)) for a in u]), np.array([axes[1](float(b)) for b in v]),
        labels, curves, _triple_points(traces, axes, step), tol,
        {"grid": on_grid, "curves": plane.solves - on_grid}, plane.stored, status, message, known,
        jumps,
    )  # fmt: skip


@contextlib.contextmanager
def _memory(
    path: str | Path | None, names: tuple[str, str], known: Mapping[str, Any]
) -> Iterator[PlaneStore | None]:
    """The store of a plane, held while it is in use."""
    if path is None:
        yield None
        return
    # A measure may change the folder.
    place = Path(path).absolute()
    store = Store.open(place, {**known, "plane": list(names)}, ("value",))
    with store.driver():
        try:
            yield PlaneStore(store, names)
        finally:
            store.close()


def _coarse(plane: Plane, u: Array, v: Array, bar: Progress) -> NDArray[Any]:
    """Labels of the grid, as far as Ctrl-C lets it come."""
    places = [np.array([a, b]) for b in v for a in u]

    def told(count: int) -> None:
        bar.update(0.5 * count / len(places), f"{count} grid points")

    with contextlib.suppress(KeyboardInterrupt):
        plane.all_at(places, told)
    labels = np.empty(len(places), dtype=object)
    for n, (a, b) in enumerate(places):
        seen = plane.known.get((float(a), float(b)))
        labels[n] = INTERRUPTED if seen is None else seen.label
    return labels.reshape(v.size, u.size)


def _check_kinds(plane: Plane) -> None:
    """Refuse whole numbers, which are labels, beside floats, which count by their sign."""
    seen = plane.known.values()
    whole = [s.label for s in seen if isinstance(s.label, int)]
    if whole and any(math.isfinite(s.value) for s in seen):
        raise BadParameter(
            f"the measure returned {whole[0]!r} at one point and a float at another: integers "
            "are labels, and floats define the boundary by their sign; return float(...) "
            "everywhere, or labels"
        )


def _all_curves(
    plane: Plane, u: Array, v: Array, labels: NDArray[Any], tol: float, step: float, bar: Progress
) -> tuple[list[Trace], list[Change], Status, str]:
    """Follow curves until every change on the grid lies on one, or until Ctrl-C.

    Changes of sign without a zero are returned apart; no curve is followed there.
    """
    edges = [] if plane.cancel.is_set() else _changes(labels)
    found: list[Trace] = []
    broken: list[Change] = []
    for n, (begin, end) in enumerate(edges):
        a, b = np.array([u[begin[0]], v[begin[1]]]), np.array([u[end[0]], v[end[1]]])
        share = 0.5 + 0.5 * n / len(edges)
        plane.told = functools.partial(_tell, bar, share, len(found), plane)
        plane.told()
        pair = (plane.at(a).label, plane.at(b).label)
        if any(_crosses(t, a, b, pair) for t in found) or _is_explained(found, a, b, pair):
            continue
        # A curve through a point of the grid touches edges without crossing them.
        if any(_passes(t, y, b - a, pair, AT_NODE * step) for t in found for y in (a, b)):
            continue
        try:
            for change in _changes_between(plane, a, b, tol):
                if change.kind:
                    broken.append(change)
                    continue
                on_curve = (change.point, b - a, change.labels, ON_CURVE * step)
                if not any(_passes(t, *on_curve) for t in found):
                    found.append(trace_curve(plane, change, tol, step))
                if plane.cancel.is_set():
                    break
        except KeyboardInterrupt:
            break
        if plane.cancel.is_set():
            break
    if plane.cancel.is_set():
        return found, broken, Status.INTERRUPTED, "interrupted: curves are missing"
    lost = [t.points[-at] for t in found for at in (0, 1) if t.ends[-at] == "lost"]
    if lost:
        x, y = plane.to_parameters(lost[0])
        lines = (
            f"{len(lost)} curves could not be continued, the first at ({x:.7g}, {y:.7g}): they "
            "end or turn back there, or another curve is closer than a step; use a smaller step"
        )
        return found, broken, Status.TOLERANCE_NOT_MET, lines
    return found, broken, Status.OK, ""


def _tell(bar: Progress, share: float, curves: int, plane: Plane) -> None:
    bar.update(share, f"{curves} curves, {plane.solves} solves")


def _changes_between(plane: Plane, a: Array, b: Array, tol: float) -> Iterator[Change]:
    """Changes along an edge of the grid, until the label is that of its end."""
    begin, last = a, plane.at(b).label
    for _ in range(MOST_CHANGES):
        change = find_change(plane, begin, b, tol)
        yield change
        if change.labels[1] == last:
            return
        # Another label stands between: what lies behind it changes once more.
        along = (b - a) / np.linalg.norm(b - a)
        begin = change.point + (change.half_width + tol) * along
        if float((b - begin) @ along) < tol or plane.at(begin).label == last:
            return


def _changes(labels: NDArray[Any]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Edges of the grid whose ends have different labels, as pairs of (column, row)."""
    across = np.argwhere(labels[:, :-1] != labels[:, 1:]).tolist()
    up = np.argwhere(labels[:-1] != labels[1:]).tolist()
    return [((j, i), (j + 1, i)) for i, j in across] + [((j, i), (j, i + 1)) for i, j in up]


def _crosses(trace: Trace, a: Array, b: Array, pair: tuple[Label, Label]) -> bool:
    """Whether a traced curve between the same labels crosses the edge from a to b."""
    if set(trace.labels) != set(pair):
        return False
    p, q = trace.points[:-1], trace.points[1:]
    apart = _side(a, b, p) * _side(a, b, q) <= 0
    return bool(np.any(apart & (_side(p, q, a) * _side(p, q, b) < 0)))


def _is_explained(traces: list[Trace], a: Array, b: Array, pair: tuple[Label, Label]) -> bool:
    """Whether the curves that cross the edge from a to b lead from its first label to its last."""
    crossings: list[tuple[float, Label, Label]] = []
    for trace in traces:
        p, q = trace.points[:-1], trace.points[1:]
        at_a, at_b = _side(p, q, a), _side(p, q, b)
        hit = (_side(a, b, p) * _side(a, b, q) <= 0) & (at_a * at_b < 0)
        for one, other in zip(at_a[hit], at_b[hit], strict=True):
            before, behind = trace.labels if one > 0 else trace.labels[::-1]
            crossings.append((float(one / (one - other)), before, behind))
    label = pair[0]
    for _, before, behind in sorted(crossings, key=lambda crossing: crossing[0]):
        if before != label:
            return False
        label = behind
    return bool(crossings) and label == pair[1]


def _side(a: Array, b: Array, points: Array) -> Array:
    """Positive on the left of the line from a to b; any of them may be many points."""
    along, to = b - a, points - a
    value: Array = along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]
    return value


def _passes(
    trace: Trace, point: Array, direction: Array, pair: tuple[Label, Label], distance: float
) -> bool:
    """Whether a curve passes this near and has the labels of `pair` before and behind it.

    Of the two borders of a lane, both near, a direction meets one from inside, one from outside.
    """
    if set(trace.labels) != set(pair):
        return False
    p, along = trace.points[:-1], np.diff(trace.points, axis=0)
    square = np.maximum(np.sum(along**2, axis=1), 1e-300)
    part = np.clip(np.sum((point - p) * along, axis=1) / square, 0.0, 1.0)
    gaps = np.linalg.norm(p + part[:, None] * along - point, axis=1)
    # Sine of the angle from the curve to the direction: positive where that leads to its left.
    across = along[:, 0] * direction[1] - along[:, 1] * direction[0]
    across = across / np.sqrt(square * float(direction @ direction))
    if trace.labels == pair:  # from left to right
        across = -across
    return bool(np.any((gaps < distance) & (across > -BESIDE)))


def _curve(trace: Trace, axes: list[Callable[[float], float]]) -> BoundaryCurve:
    x, y = (np.array([axes[i](float(p[i])) for p in trace.points]) for i in (0, 1))
    return BoundaryCurve(x, y, trace.error, trace.labels, trace.closed, trace.ends)


def _triple_points(traces: list[Trace], axes: list[Callable[[float], float]], step: float) -> Array:
    """Where the straight continuations of curves that end beside each other meet."""
    groups: list[list[tuple[Array, Array]]] = []
    for trace in traces:
        for points, reason in zip((trace.points[::-1], trace.points), trace.ends, strict=True):
            if reason != "triple point" or len(points) < 2:
                continue
            end = points[-1]
            far = np.linalg.norm(points[:-1] - end, axis=1) >= CHORD
            along = end - (points[:-1][far][-1] if np.any(far) else points[0])
            line = end, np.array([-along[1], along[0]]) / np.linalg.norm(along)
            near = [g for g in groups if np.linalg.norm(g[0][0] - end) < 0.5 * step]
            if near:
                near[0].append(line)
            else:
                groups.append([line])
    rows = []
    for group in groups:
        normals = np.array([normal for _, normal in group])
        offsets = np.array([normal @ end for end, normal in group])
        meeting = (
            np.linalg.lstsq(normals, offsets, rcond=None)[0] if len(group) > 1 else group[0][0]
        )
        rows.append([axes[0](float(meeting[0])), axes[1](float(meeting[1]))])
    return np.array(rows).reshape(-1, 2)

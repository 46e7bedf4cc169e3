"""Regions of minima with their boundaries, and boundary curves of any measure."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmft.display.diagram import cell_edges, is_geometric
from dmft.display.style import COLOURS, INK, Canvas, described, put_legends

# Ground of each region, whichever of them occur: never scaled to the data. Blues end at the
# semantic minimum, oranges at the positional one, greens at a mixed one; red and yellow set out
# for another place than the global minimum.
GROUNDS = {
    "semantic": "#CFE3F1",
    "semantic, positional start": "#F5E6A3",
    "semantic over mixed": "#9FD0C9",
    "semantic over mixed, positional start": "#C9C95E",
    "semantic over positional": "#86B6DC",
    "semantic over positional, positional start": "#D9776F",
    "mixed": "#A9DDB3",
    "mixed over semantic": "#5DB075",
    "mixed over positional": "#3E8E58",
    "positional": "#F6D5BA",
    "positional over semantic": "#E8A768",
    "positional over mixed": "#B98C5A",
}
# Further regions in the order of their names.
OTHERS = ("#C2B5E3", "#B7B7B7", "#E3B5D5", "#8E7CC3", "#7F7F7F", "#C27BA0")
# Points a side on which regions between known curves are shaded.
FINE = 240
# Boundary curves: attribute, words, style.
CURVES = (
    ("transition", "global minimum changes", {"color": INK, "linewidth": 2.0}),
    ("semantic", "semantic stable below", {"color": "#0072B2", "linestyle": "--"}),
    ("positional", "positional stable above", {"color": "#D55E00", "linestyle": "--"}),
    ("direction", "starts along $e$ above", {"color": INK, "linestyle": ":"}),
    ("fold", "mixed appears", {"color": "#00704F", "linestyle": "-."}),
)


def plot_regions(diagram: Any, ax: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw the regions over two parameters into `ax` (or a new figure) and return the axes."""
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    (ax,) = canvas.axes(ax, "regions take one", 1, (7.2, 6.2))
    count = len(diagram.names)
    others = [name for name in diagram.names if name not in GROUNDS]
    further = {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(others)}
    colours = [{**GROUNDS, **further}[name] for name in diagram.names]
    known = diagram.boundaries is not None and min(diagram.x.size, diagram.y.size) > 1
    x, y, labels = _between_curves(diagram) if known else (diagram.x, diagram.y, diagram.labels)
    ax.pcolormesh(
        cell_edges(x), cell_edges(y), labels, rasterized=True,
        cmap=ListedColormap(colours), norm=BoundaryNorm(np.arange(count + 1) - 0.5, count),
    )  # fmt: skip
    limits = [(float(x.min()), float(x.max())) for x in (diagram.x, diagram.y)]
    lines = _curves(ax, diagram.boundaries, limits[1]) if known else []
    if all(low < high for low, high in limits):
        ax.set(xlim=limits[0], ylim=limits[1])
    words = getattr(diagram, "words", ("", ""))
    ax.set_xlabel(f"{words[0]} {described(diagram.x_name)}".strip())
    ax.set_ylabel(f"{words[1]} {described(diagram.y_name)}".strip())
    if title:
        ax.set_title(title)
    patches = [Patch(color=c, label=n) for c, n in zip(colours, diagram.names, strict=True)]
    put_legends(ax, handles=patches + lines, where="below")
    return ax


def _between_curves(diagram: Any) -> tuple[Any, Any, Any]:
    """Labels on a finer grid: each point has that of the nearest one on its side of all curves.

    Cells of the grid itself would reach beyond the curves that are drawn over them.
    """
    from scipy.spatial import KDTree

    x, y = (np.linspace(v.min(), v.max(), max(FINE, v.size)) for v in (diagram.x, diagram.y))
    near, fine = _sides(diagram.boundaries, diagram.x, diagram.y), _sides(diagram.boundaries, x, y)
    scale = np.ptp(x), np.ptp(y)
    known = np.stack(np.meshgrid(diagram.x / scale[0], diagram.y / scale[1]), axis=-1)
    wanted = np.stack(np.meshgrid(x / scale[0], y / scale[1]), axis=-1)
    labels = np.empty(fine.shape, dtype=diagram.labels.dtype)
    for side in np.unique(fine):
        # A strip between two curves may hold no point of the grid: then the nearest of all.
        here = near == side if np.any(near == side) else np.ones(near.shape, dtype=bool)
        _, place = KDTree(known[here]).query(wanted[fine == side])
        labels[fine == side] = diagram.labels[here][place]
    return x, y, labels


def _sides(boundaries: Any, x: Any, y: Any) -> Any:
    """On which side of each curve the points of a grid are, as one number, (ny, nx)."""
    code = np.zeros((y.size, x.size), dtype=np.int64)
    for name, _, _ in CURVES:
        omega = np.interp(x, boundaries.a, np.array(getattr(boundaries, name), dtype=float))
        # Where there is no curve all are on one side.
        side = np.sign(y[:, None] - np.nan_to_num(omega)).astype(np.int64) + 1
        code = 3 * code + np.where(np.isfinite(omega), side, 0)
    return code


def _curves(ax: Any, boundaries: Any, span: tuple[float, float]) -> list[Any]:
    """Draw the boundaries where they lie in the span of omega; return the lines for a legend."""
    handles = []
    for name, words, style in CURVES:
        omega = np.array(getattr(boundaries, name), dtype=float)
        inside = np.isfinite(omega) & (omega >= span[0]) & (omega <= span[1])
        # One point beyond the border, so that lines reach it.
        near = inside | np.roll(inside, 1) | np.roll(inside, -1)
        shown = np.where(near & np.isfinite(omega), omega, np.nan)
        if inside.any():
            handles += ax.plot(boundaries.a, shown, label=words, **style)
    return handles


# Points of the grid by their label: pale colours of the palette, and a marker each. Cells around
# them would claim what was not computed, and contradict the curves between them.
POINT_COLOURS = ("#9CC5E3", "#EFB592", "#93D1BA", "#E3BAD1", "#F3D08A", "#B5DDF5")
MARKERS = ("o", "s", "^", "D", "v", "P")
FAILED = "failed"
# Area of a marker in square points, of a grid of few points and of one of many.
AREAS, MANY = (18.0, 4.0), 400


def plot_boundary(record: Any, ax: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw boundary curves into `ax` (over what is there) or into a new figure with the grid."""
    from matplotlib.patheffects import withStroke

    (ax,) = canvas.axes(ax, "a boundary takes one", 1, (6.4, 4.8))
    over = ax.has_data()
    points = [] if over else _draw_points(ax, record)
    lines = []
    for number, curve in enumerate(record.curves):
        lines += ax.plot(
            curve.x, curve.y, color=INK if over else COLOURS[number % len(COLOURS)],
            linewidth=1.8, label=_between(curve.labels),
            marker="." if curve.x.size == 1 else None,
            path_effects=[withStroke(linewidth=3.5, foreground="white")],
        )  # fmt: skip
    if record.triple_points.size:
        x, y = record.triple_points.T
        lines += ax.plot(x, y, "o", color=INK, markersize=5, label="triple point")
    for axis, values, name in (("x", record.x, record.x_name), ("y", record.y, record.y_name)):
        ax.set(**{f"{axis}label": described(name), f"{axis}lim": (values[0], values[-1])})
        if is_geometric(values):
            ax.set(**{f"{axis}scale": "log"})
    if title:
        ax.set_title(title)
    put_legends(ax, handles=[*points, *lines], where="below")
    return ax


# What grid points of a boundary of numbers show, which lies where they vanish.
SIGNS = {"+": "positive", "-": "negative"}


def _between(labels: Any) -> str:
    """Name of the curve between two labels."""
    one, other = (str(label) for label in labels)
    return "zero" if {one, other} == set(SIGNS) else f"between {one} and {other}"


def _draw_points(ax: Any, record: Any) -> list[Any]:
    """Draw the points of the grid by their label; return what a legend says of them."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    labels = set(record.labels.ravel())
    whole = all(isinstance(label, int) for label in labels)
    names = [str(label) for label in sorted(labels, key=None if whole else str)]
    grounds: list[Any] = list(POINT_COLOURS)
    if len(names) > len(POINT_COLOURS):  # no two labels have one colour
        grounds = [to_hex(each) for each in colormaps["viridis"](np.linspace(0, 1, len(names)))]
    x, y = np.meshgrid(record.x, record.y)
    area = AREAS[int(record.labels.size > MANY)]
    handles = []
    for number, name in enumerate(names):
        here = np.vectorize(lambda label, name=name: str(label) == name)(record.labels)
        failed = name == FAILED
        look = {"color": INK if failed else grounds[number], "linewidth": 0.8 if failed else 0.0}
        marker = "x" if failed else MARKERS[number % len(MARKERS)]
        look |= {"marker": marker, "label": SIGNS.get(name, name), "clip_on": False}
        handles.append(ax.scatter(x[here], y[here], s=area, zorder=1, **look))
    return handles

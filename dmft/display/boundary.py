"""Boundary curves, and the points of the coarse grid whose labels showed them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmft.display.diagram import is_geometric
from dmft.display.style import COLOURS, INK, Canvas, described, put_legends

# Points of the grid by their label: pale colours of the palette, and a marker each. Cells around
# them would claim what was not computed, and contradict the curves between them.
GROUNDS = ("#9CC5E3", "#EFB592", "#93D1BA", "#E3BAD1", "#F3D08A", "#B5DDF5")
MARKERS = ("o", "s", "^", "D", "v", "P")
FAILED = "failed"
# Area of a marker in square points, of a grid of few points and of one of many.
AREAS, MANY = (18.0, 4.0), 400


def is_boundary(record: Any) -> bool:
    """Whether a record holds boundary curves."""
    return all(hasattr(record, name) for name in ("curves", "triple_points", "labels"))


def plot_boundary(record: Any, ax: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw boundary curves into `ax` (over what is there) or into a new figure with the grid."""
    from matplotlib.patheffects import withStroke

    over = ax is not None and ax.has_data()
    if ax is None:
        ax = canvas.panels(1, (6.4, 4.8))
    points = [] if over else _draw_points(ax, record)
    lines = []
    for number, curve in enumerate(record.curves):
        words = " | ".join(str(label) for label in curve.labels)
        lines += ax.plot(
            curve.x, curve.y, color=INK if over else COLOURS[number % len(COLOURS)],
            linewidth=1.8, label=f"{words}: {curve.x.size} points",
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
    handles = [*points, *lines]
    put_legends((ax, handles, [handle.get_label() for handle in handles]), where="below")
    return ax


def _draw_points(ax: Any, record: Any) -> list[Any]:
    """Draw the points of the grid by their label; return what a legend says of them."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    labels = set(record.labels.ravel())
    whole = all(isinstance(label, int) for label in labels)
    names = [str(label) for label in sorted(labels, key=None if whole else str)]
    grounds: list[Any] = list(GROUNDS)
    if len(names) > len(GROUNDS):  # no two labels have one colour
        grounds = [to_hex(each) for each in colormaps["viridis"](np.linspace(0, 1, len(names)))]
    x, y = np.meshgrid(record.x, record.y)
    area = AREAS[int(record.labels.size > MANY)]
    handles = []
    for number, name in enumerate(names):
        here = np.vectorize(lambda label, name=name: str(label) == name)(record.labels)
        failed = name == FAILED
        look = {"color": INK if failed else grounds[number], "linewidth": 0.8 if failed else 0.0}
        marker = "x" if failed else MARKERS[number % len(MARKERS)]
        handles.append(
            ax.scatter(
                x[here], y[here], s=area, marker=marker, label=name, zorder=1, clip_on=False, **look
            )
        )
    return handles

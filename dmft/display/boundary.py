"""Boundary curves over the labels of the coarse grid that showed them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmft.display.diagram import HATCH_INK, cell_edges, is_geometric
from dmft.display.style import COLOURS, INK, described, new_figure

# Ground of the labels, pale versions of the palette; failed points are hatched.
GROUNDS = ("#D6E6F2", "#F7DCCB", "#D3EBE2", "#F0DEE8", "#FBEACB", "#DDF0FA")
FAILED = "failed"


def is_boundary(record: Any) -> bool:
    """Whether a record holds boundary curves."""
    return all(hasattr(record, name) for name in ("curves", "triple_points", "labels"))


def plot_boundary(record: Any, ax: Any, *, shown: bool, title: str | None) -> Any:
    """Draw boundary curves into `ax` (over what is there) or into a new figure with the grid."""
    from matplotlib.patheffects import withStroke

    alone = ax is None
    if alone:
        ax = new_figure((1, 1), (6.4, 4.8), shown=shown)
        _draw_labels(ax, record)
    for number, curve in enumerate(record.curves):
        words = " | ".join(str(label) for label in curve.labels)
        ax.plot(
            curve.x, curve.y, color=COLOURS[number % len(COLOURS)] if alone else INK,
            linewidth=1.8, label=f"{words}: {curve.x.size} points",
            marker="." if curve.x.size == 1 else None,
            path_effects=None if alone else [withStroke(linewidth=3.5, foreground="white")],
        )  # fmt: skip
    if record.triple_points.size:
        x, y = record.triple_points.T
        ax.plot(x, y, "o", color=INK, markersize=5, label="triple point")
    for axis, values, name in (("x", record.x, record.x_name), ("y", record.y, record.y_name)):
        ax.set(**{f"{axis}label": described(name), f"{axis}lim": (values[0], values[-1])})
        if is_geometric(values):
            ax.set(**{f"{axis}scale": "log"})
    if record.curves:
        ax.legend(loc="upper left", bbox_to_anchor=(0.0, -0.12), frameon=False, fontsize="small")
    if title:
        ax.set_title(title)
    return ax


def _draw_labels(ax: Any, record: Any) -> None:
    """Cells of the grid by their label, with a legend beside the axes."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    edges = cell_edges(record.x), cell_edges(record.y)
    labels = set(record.labels.ravel())
    whole = all(isinstance(label, int) for label in labels)
    names = [str(label) for label in sorted(labels, key=None if whole else str)]
    grounds: list[Any] = list(GROUNDS)
    if len(names) > len(GROUNDS):  # no two labels have one colour
        grounds = [
            (*colour[:3], 0.5) for colour in colormaps["viridis"](np.linspace(0, 1, len(names)))
        ]
    handles = []
    for number, name in enumerate(names):
        here = np.vectorize(lambda label, name=name: str(label) == name)(record.labels)
        hatch, ground = ("+++", "#F2D0BC") if name == FAILED else ("", grounds[number])
        ax.pcolor(
            *edges, np.ma.masked_where(~here, np.zeros(here.shape)),
            cmap=ListedColormap([ground]), hatch=hatch, edgecolor=HATCH_INK, linewidth=0,
        )  # fmt: skip
        handles.append(Patch(facecolor=ground, hatch=hatch, edgecolor=HATCH_INK, label=name))
    ax.figure.legend(handles=handles, loc="outside right upper", frameon=False, title="label")

"""Regions of minima in the plane of two parameters, with the boundary curves between them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmft.display.diagram import cell_edges
from dmft.display.style import INK, described, new_figure

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
# Boundary curves: attribute, words, style.
CURVES = (
    ("transition", "global minimum changes", {"color": INK, "linewidth": 2.0}),
    ("semantic", "semantic stable below", {"color": "#0072B2", "linestyle": "--"}),
    ("positional", "positional stable above", {"color": "#D55E00", "linestyle": "--"}),
    ("direction", "starts along $e$ above", {"color": INK, "linestyle": ":"}),
    ("fold", "mixed appears", {"color": "#00704F", "linestyle": "-."}),
)


def is_regions(record: Any) -> bool:
    """Whether a record holds regions of minima."""
    return all(hasattr(record, name) for name in ("codes", "labels", "names", "boundaries"))


def plot_regions(diagram: Any, ax: Any, *, shown: bool, title: str | None) -> Any:
    """Draw the regions over two parameters into `ax` (or a new figure) and return the axes."""
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    alone = ax is None
    if alone:
        ax = new_figure((1, 1), (7.2, 6.2), shown=shown)
    count = len(diagram.names)
    others = [name for name in diagram.names if name not in GROUNDS]
    further = {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(others)}
    colours = [{**GROUNDS, **further}[name] for name in diagram.names]
    ax.pcolormesh(
        cell_edges(diagram.x), cell_edges(diagram.y), diagram.labels, rasterized=True,
        cmap=ListedColormap(colours), norm=BoundaryNorm(np.arange(count + 1) - 0.5, count),
    )  # fmt: skip
    limits = [(float(x.min()), float(x.max())) for x in (diagram.x, diagram.y)]
    known = diagram.boundaries is not None and diagram.x.size > 1
    lines = _curves(ax, diagram.boundaries, limits[1]) if known else []
    if all(low < high for low, high in limits):
        ax.set(xlim=limits[0], ylim=limits[1])
    words = getattr(diagram, "words", ("", ""))
    ax.set_xlabel(f"{words[0]} {described(diagram.x_name)}".strip())
    ax.set_ylabel(f"{words[1]} {described(diagram.y_name)}".strip())
    if title:
        ax.set_title(title)
    patches = [Patch(color=c, label=n) for c, n in zip(colours, diagram.names, strict=True)]
    if alone:
        ax.figure.legend(
            handles=patches + lines, loc="outside lower center", ncols=2, frameon=False,
            fontsize="small",
        )  # fmt: skip
    else:
        # Small weights are semantic whatever a: the free corner.
        ax.legend(handles=patches + lines, loc="lower left", fontsize="x-small", framealpha=0.9)
    return ax


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

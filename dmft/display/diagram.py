"""Phase diagrams as heat maps or labels; a cell without a value is hatched, never blank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.display.style import FLAT, INK, Canvas, described, noise_of, put_legends
from dmft.names import Status

# Hatch and ground of each way in which a cell has no value. Told apart without colour.
CELLS: dict[str, tuple[str, str, str]] = {
    Status.NOT_CONVERGED: ("///", "#E6E6E6", "not reached"),
    Status.DIVERGED: ("xxx", "#F2D0BC", "diverged"),
    Status.LEFT_DOMAIN: ("\\\\\\", "#F2D0BC", "left the domain"),
    Status.NONFINITE: ("+++", "#F2D0BC", "not finite"),
    Status.TOLERANCE_NOT_MET: ("ooo", "#F2E6BC", "tolerance not met"),
    Status.MAX_STEPS: ("...", "#F2E6BC", "out of steps"),
    Status.TIMEOUT: ("---", "#F2E6BC", "out of time"),
    Status.INTERRUPTED: ("|||", "#E3D7EE", "not computed"),
    Status.OK: ("", "#BFDCEB", "ok"),
    Status.EVENT: ("", "#A6D9C8", "event"),
}
HATCH_INK = "#666666"
# Fields of a diagram with an entry for each cell.
CELLWISE = ("values", "status", "horizon", "computed")
# Quantities without names of their own that are labels: names of their numbers, or None where the
# numbers say it.
LABELS: dict[str, tuple[str, ...] | None] = {
    "converged": ("did not converge", "converged"),
    "minima": None,
    "learned_directions": None,
}
# Quantities that vanish where everything is learned.
RISKS = ("risk", "final_risk")
# Values spanning more than this factor get a logarithmic colour scale.
LOG_COLOURS = 30.0
# Spacing equal to this accuracy counts as linear or as geometric.
EVEN = 1e-6


def plot_diagram(diagram: Any, ax: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw a phase diagram into `ax` (or a new figure) and return the axes."""
    (ax,) = canvas.axes(ax, "a diagram takes one", 1, (6.4, 4.8))
    diagram = in_order(diagram)
    edges = cell_edges(diagram.x), cell_edges(diagram.y)
    shows_status = diagram.quantity == "status" and _is_built_in(diagram)
    good = np.isin(diagram.status, (Status.OK, Status.EVENT))
    valued = np.isfinite(diagram.values) & good & (not shows_status)
    values = np.where(valued, diagram.values, np.nan)
    handles: list[Any] = []
    if valued.any() and (diagram.names or _is_label(diagram.quantity, values[valued])):
        names = diagram.names or LABELS[diagram.quantity]
        # Fixed points are in the order of falling risk, and low risk is dark.
        order = "viridis_r" if diagram.quantity == "fixed_point" else "viridis"
        cmap = canvas.maps.get("cmap", order)
        handles = _draw_labels(ax, edges, values, names, diagram.quantity, cmap)
    elif valued.any():
        _draw_values(ax, edges, diagram, values, canvas.maps)
    handles += _draw_statuses(ax, edges, diagram, ~valued)
    for axis, values, name in (("x", diagram.x, diagram.x_name), ("y", diagram.y, diagram.y_name)):
        ax.set(**{f"{axis}label": described(name)})
        if is_geometric(values):
            ax.set(**{f"{axis}scale": "log"})
    ax.set_xlim(edges[0][0], edges[0][-1])
    ax.set_ylim(edges[1][0], edges[1][-1])
    if title:
        ax.set_title(title)
    put_legends(ax, handles=handles, where="below")
    return ax


def in_order(diagram: Any) -> Any:
    """The same diagram with axes that rise or fall: cells are drawn between their neighbours."""
    for axis, along in (("x", 1), ("y", 0)):
        steps = np.diff(getattr(diagram, axis))
        if np.all(steps >= 0) or np.all(steps <= 0):
            continue
        order = np.argsort(getattr(diagram, axis), kind="stable")
        moved = {n: np.take(getattr(diagram, n), order, along) for n in CELLWISE}
        diagram = replace(diagram, **{axis: getattr(diagram, axis)[order]}, **moved)
    return diagram


def _is_built_in(diagram: Any) -> bool:
    """Whether a measure is one of equations; a function of one's own may have the same name."""
    measure = diagram.provenance.get("measure")
    return "equations" in diagram.provenance or measure is None


def _is_label(quantity: str, values: NDArray[np.float64]) -> bool:
    """Whether numbers are those of a built-in label."""
    if quantity not in LABELS:
        return False
    names = LABELS[quantity]
    highest = float(values.max()) if names is None else len(names) - 1
    return bool(np.all((values == np.round(values)) & (values >= 0) & (values <= highest)))


def is_geometric(values: NDArray[np.float64]) -> bool:
    """Whether positive values have constant ratios (and not constant differences)."""
    if values.size < 3 or not np.all(values > 0):
        return False
    steps, ratios = np.diff(values), np.diff(np.log(values))
    even = np.ptp(steps) <= EVEN * np.abs(steps).max()
    return bool(not even and np.ptp(ratios) <= EVEN * np.abs(ratios).max())


def cell_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the borders of cells around grid values, n + 1 for n values."""
    if values.size == 1:
        half = 0.5 * abs(float(values[0])) or 0.5
        return np.array([values[0] - half, values[0] + half])
    if is_geometric(values):
        return np.exp(cell_edges(np.log(values)))
    middles = 0.5 * (values[1:] + values[:-1])
    first, last = values[0] - (middles[0] - values[0]), values[-1] + (values[-1] - middles[-1])
    return np.concatenate([[first], middles, [last]])


def rectangles(cells: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Cover cells by few rectangles, (n, 4): first row, row behind, first column, column behind.

    Hatching cell by cell takes minutes where there are a million of them.
    """
    found: list[list[int]] = []
    # Columns of the rectangles that reach the row above, and their places in the list.
    above: dict[tuple[int, int], int] = {}
    for row, line in enumerate(cells):
        ends = np.flatnonzero(np.diff(line, prepend=False, append=False)).reshape(-1, 2)
        here = {}
        for left, right in map(tuple, ends.tolist()):
            place = above.get((left, right), len(found))
            if place == len(found):
                found.append([row, row, left, right])
            found[place][1] = row + 1
            here[left, right] = place
        above = here
    return np.array(found, dtype=np.int64).reshape(-1, 4)


def _draw_values(
    ax: Any,
    edges: tuple[Any, Any],
    diagram: Any,
    values: NDArray[np.float64],
    asked: Mapping[str, Any],
) -> None:
    """Colour cells by their value, with lines at the levels that the caller names."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    noise = noise_of(diagram) if diagram.quantity in RISKS else 0.0
    below = 0 <= low < noise
    if below:  # smaller risks are what solvers leave of zero
        low, high = noise, max(high, 10 * noise)
    if high - low <= FLAT * max(abs(low), abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    norm = colour_norm(low, high, LOG_COLOURS)
    masked = np.ma.masked_invalid(values)
    look = {"cmap": "viridis", "norm": norm} | {n: v for n, v in asked.items() if n != "levels"}
    image = ax.pcolormesh(*edges, masked, rasterized=True, **look)
    words = described(diagram.quantity.replace("_", " "))
    bar = ax.figure.colorbar(image, ax=ax, label=words, extend="min" if below else "neither")
    if "levels" in asked:
        lines = ax.contour(
            diagram.x, diagram.y, masked, asked["levels"], colors=INK, linewidths=0.8
        )
        bar.add_lines(lines)


def colour_norm(low: float, high: float, wide: float) -> Any:
    """Normalisation of colours, logarithmic for positive values that span a wide range."""
    from matplotlib.colors import LogNorm, Normalize

    return (LogNorm if low > 0 and high > wide * low else Normalize)(low, high)


def _draw_labels(
    ax: Any,
    edges: tuple[Any, Any],
    values: NDArray[np.float64],
    names: tuple[str, ...] | None,
    quantity: str,
    cmap: Any,
) -> list[Any]:
    """Colour cells by their label; the same label has the same colour in all figures with names."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.patches import Patch

    numbers = np.unique(values[np.isfinite(values)])
    highest = max(float(numbers[-1]) if names is None else len(names) - 1.0, 1.0)
    norm, colours = Normalize(0.0, highest), colormaps.get_cmap(cmap)
    masked = np.ma.masked_invalid(values)
    ax.pcolormesh(*edges, masked, cmap=colours, norm=norm, rasterized=True)
    words = quantity.replace("_", " ")
    return [
        Patch(
            facecolor=colours(norm(n)),
            edgecolor=HATCH_INK,
            label=f"{words}: {n:g}" if names is None else names[int(n)],
        )
        for n in numbers
    ]


def _draw_statuses(
    ax: Any, edges: tuple[Any, Any], diagram: Any, cells: NDArray[np.bool_]
) -> list[Any]:
    """Hatch every chosen cell by its status; return what a legend says of it."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for status, (hatch, ground, words) in CELLS.items():
        here = cells & (diagram.status == status)
        if not here.any():
            continue
        top, bottom, left, right = rectangles(here).T
        x = edges[0][np.stack([left, right, right, left], axis=1)]
        y = edges[1][np.stack([top, top, bottom, bottom], axis=1)]
        ax.add_collection(
            PolyCollection(
                [*np.stack([x, y], axis=2)], facecolor=ground, hatch=hatch, edgecolor=HATCH_INK,
                linewidth=0,
            )
        )  # fmt: skip
        if status == Status.NOT_CONVERGED:
            stationary = diagram.quantity == "fixed_point"
            words = "not stationary" if stationary else _horizon_words(diagram.horizon[here])
        handles.append(Patch(facecolor=ground, hatch=hatch, edgecolor=HATCH_INK, label=words))
    return handles


def _horizon_words(horizon: NDArray[np.float64]) -> str:
    known = horizon[np.isfinite(horizon)]
    if known.size and np.ptp(known) <= EVEN * abs(known).max():
        return f"not reached until t = {known[0]:g}"
    return "not reached"

"""Descents on repeated data and two-time runs: curves, and functions of two times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dmft.arrays import Array
from dmft.display.curves import draw, draw_averages, draw_overlaps, entries_of
from dmft.display.diagram import cell_edges, colour_norm
from dmft.display.style import (
    FAINT,
    Canvas,
    blank_figure,
    broken,
    colour,
    flatten_noise,
    line_style,
    mark_end,
    put_legends,
    symbol,
)
from dmft.names import Status
from dmft.solvers.two_time.run import unknown

PANELS = 6
# Kinds of records of random networks.
NETWORKS = ("dmft random network", "dmft simulated network")
# Kernels of two times, by the name of their array.
KERNELS = (
    ("corr", r"$C^\ell_{11}(t, s)$", "gradients"),
    ("resp", r"$R^\ell_{11}(t, s)$", "response of gradients"),
    ("Q2", r"$Q_{11}(t, s)$", "overlaps of two times"),
)
# Panels in each row of a figure of given width and the heights of the rows in inches: of a page,
# and of a narrower figure.
PAGE_ROWS = ((3, 1.9), (3, 2.7))
NARROW_ROWS = ((1, 1.9), (2, 1.7), (3, 2.2))
# A figure narrower than this has narrow rows.
PAGE = 5.7
# Width of a map in inches below which its colour bar is under it.
SMALL = 2.0
# Positive kernels that span more than this factor get logarithmic colours.
WIDE, TICKS = 5.0, 5
# Entries that are not known: a grey, which no scale of values has.
UNKNOWN = "#BBBBBB"


def is_descent(record: Any) -> bool:
    """Whether a record is a solved or a simulated descent on repeated data."""
    shown = getattr(record, "mean", record)
    names = getattr(shown, "arrays", shown)
    return isinstance(names, Mapping) and {"train_loss", "corr", "Q2"} <= set(names)


def plot_descent(records: Sequence[Any], axes: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw overlaps M and Q, training loss and risk in one row, kernels of two times in another.

    Solved runs are lines with a band of their error, simulated ones points with error bars. Where
    both are given, maps show the first theory below the diagonal and the simulation above it.
    Entries of kernels whose error passes the signal are grey.
    """
    in_row = axes is None and canvas.width is not None
    if axes is None:
        axes = _in_rows(canvas) if in_row else canvas.panels(PANELS, (4.2, 3.6), columns=3)
    panels = canvas.axes(axes, "a descent takes six axes (2 x 3)", PANELS, (4.2, 3.6))
    theories = [r for r in records if not _is_simulated(r)]
    simulated = [r for r in records if _is_simulated(r)]
    for number, run in enumerate(theories):
        _draw_run(run, panels, number)
    for number, ensemble in enumerate(simulated):
        _draw_ensemble(ensemble, panels, number, theories)
    _finish_curves(panels, records)
    words = [
        _map(panel, theories, simulated, kernel, canvas.maps)
        for panel, kernel in zip(panels[3:], KERNELS, strict=True)
    ]
    _name_maps(panels[3:], words, in_row=in_row)
    put_legends(*panels[:3])
    if title:
        panels[0].figure.suptitle(title)
    return panels.reshape(2, 3)


def _in_rows(canvas: Canvas) -> list[Any]:
    """Six axes of a new figure of given width, in rows that leave no room empty."""
    width = canvas.width or 0.0
    rows = PAGE_ROWS if width >= PAGE else NARROW_ROWS
    heights = [height for _, height in rows]
    figure = blank_figure((width, sum(heights)), shown=canvas.shown)
    grid = figure.add_gridspec(len(rows), 1, height_ratios=heights)
    places = [spot for row, (count, _) in zip(grid, rows, strict=True)
              for spot in row.subgridspec(1, count)]  # fmt: skip
    return [figure.add_subplot(spot) for spot in places]


def _is_simulated(record: Any) -> bool:
    return hasattr(record, "mean")


def _is_flow(record: Any) -> bool:
    """Whether times are those of a flow, not steps."""
    return bool(record.provenance.get("flow", False))


def _draw_run(run: Any, panels: Any, number: int) -> None:
    style, curves = line_style(number), entries_of(run)
    draw_overlaps(panels[0], run.t, curves, style)
    for curve, error in zip(curves, entries_of(run.error), strict=True):
        low, high = curve["values"] - error["values"], curve["values"] + error["values"]
        panels[0].fill_between(run.t, low, high, color=curve["color"], alpha=0.3, lw=0)
    steps = run.t[: run.train_loss.size]
    label = None if number else "theory"
    for panel, t, key in ((panels[1], steps, "train_loss"), (panels[2], run.t, "risk")):
        if key in run.arrays:
            draw(panel, t, run.arrays[key], run.error[key], number, label=label)
    # Errors above values end no run: kernels are masked where they do not show them.
    if Status(run.status) not in (Status.OK, Status.TOLERANCE_NOT_MET):
        mark_end(run, panels[:3], panels[1])


def _draw_ensemble(ensemble: Any, panels: Any, number: int, theories: Sequence[Any]) -> None:
    t = ensemble.t + 0.08 * number
    draw_averages(panels[0], t, ensemble, number, theories)
    label = f"d = {ensemble.dim}, {len(ensemble.seeds)} runs"
    for panel, key in ((panels[1], "train_loss"), (panels[2], "risk")):
        if key in ensemble.mean:
            values, error = ensemble.mean[key], ensemble.stderr[key]
            draw(panel, t[: values.size], values, error, number, label=label, points=True)


def _finish_curves(panels: Any, records: Sequence[Any]) -> None:
    last = max(float(np.asarray(r.t)[-1]) for r in records)
    unit = "time" if any(_is_flow(r) for r in records) else "step"
    words = ("overlaps", r"training loss $\langle \ell \rangle$", r"risk $\mathcal{R}$")
    for panel, label in zip(panels[:3], words, strict=True):
        panel.set(xlabel=f"{unit} $t$", ylabel=label, xlim=(-0.02 * last, 1.02 * last))
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.get_major_locator().set_params(integer=unit == "step")
        flatten_noise(panel)
    if not panels[2].lines and not panels[2].containers:
        small = panels[2].bbox.width / panels[2].figure.dpi < SMALL
        _empty(panels[2], "no risk: runs in R^d do not measure it", small)


def _map(
    panel: Any,
    theories: Sequence[Any],
    simulated: Sequence[Any],
    kernel: tuple[str, str, str],
    asked: Mapping[str, Any],
) -> list[str]:
    """Draw component (1, 1) of one kernel; return what is to be said of it."""
    from matplotlib.colors import ListedColormap

    name, label, words = kernel
    small = panel.bbox.width / panel.figure.dpi < SMALL
    theory = theories[0].arrays[name] if theories else None
    truth = simulated[0].mean[name] if simulated and name in simulated[0].mean else None
    found = truth if theory is None else theory
    if found is None:
        return _empty(panel, f"{label}: simulations do not measure responses", small)
    values = np.array(found[:, :, 0, 0])
    if name == "resp":
        # Causal: what lies above the diagonal is zero by definition; densities end before it.
        below = -1 if theories and _is_flow(theories[0]) else 0
        values = np.where(np.tri(len(values), k=below, dtype=bool), values, np.nan)
    elif theory is not None and truth is not None and truth.shape == theory.shape:
        values = np.where(np.tri(len(values), dtype=bool), values, truth[:, :, 0, 0])
        words = "theory below, simulation above the diagonal"
    first = (*theories, *simulated)[0]
    lost = np.zeros(values.shape, dtype=bool)
    if theory is not None:
        lost = unknown(theories[0], name)[:, :, 0, 0] & (values == theory[:, :, 0, 0])
    values[lost] = np.nan
    if not np.any(np.isfinite(values)):
        return _empty(panel, f"{label}: errors exceed the values", small)
    edges = cell_edges(np.asarray(first.t[: len(values)]))
    unit = "time" if _is_flow(first) else "step"
    image = panel.pcolormesh(
        edges, edges, np.ma.masked_invalid(values), rasterized=True, **{**_colours(values), **asked}
    )
    if np.any(lost):
        panel.pcolormesh(
            edges, edges, np.ma.masked_where(~lost, np.zeros(lost.shape)),
            cmap=ListedColormap([UNKNOWN]), rasterized=True,
        )  # fmt: skip
    # Below them, bars leave small maps their width.
    where = {"location": "bottom", "aspect": 14} if small else {"aspect": 12}
    bar = panel.figure.colorbar(image, ax=panel, label=label, format="%.2g", **where)
    low, high = image.get_clim()
    if small:
        bar.set_ticks([low, high])
        bar.minorticks_off()
        for text, side in zip(bar.ax.get_xticklabels(), ("left", "right"), strict=True):
            text.set_horizontalalignment(side)
    elif not asked and low > 0 and high > WIDE * low:
        # Decades are too few for a range of about one.
        bar.set_ticks([float(f"{y:.2g}") for y in np.geomspace(low, high, TICKS)])
        bar.minorticks_off()
    panel.set(xlabel=f"{unit} $s$", ylabel=f"{unit} $t$", aspect="equal")
    # As a matrix is written: t downwards, so that the past is below the diagonal.
    panel.invert_yaxis()
    for axis in (panel.xaxis, panel.yaxis):
        axis.get_major_locator().set_params(integer=unit == "step")
    return [words, "grey: not known"] if np.any(lost) else [words]


def _name_maps(panels: Any, words: Sequence[list[str]], *, in_row: bool) -> None:
    """Titles of maps; in one row, what they share is written once above it."""
    if not in_row:
        for panel, said in zip(panels, words, strict=True):
            panel.set_title("; ".join(said), fontsize="small")
        return
    plain = {words for _, _, words in KERNELS}
    notes = dict.fromkeys(text for said in words for text in said if text not in plain)
    # The note is wider than a map; empty lines keep its height free.
    note = panels[0].text(
        0.0, 1.03, "\n".join(notes), fontsize="small", transform=panels[0].transAxes
    )
    note.set_in_layout(False)
    for panel in panels:
        panel.set_title("\n".join(" " for _ in notes), fontsize="small")
    for panel in panels[1:]:
        panel.set_ylabel("")
        panel.tick_params(labelleft=False)


def _colours(values: Array) -> dict[str, Any]:
    """Symmetric colours for both signs, logarithmic ones for a wide positive range."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < 0:
        low, high = -max(-low, high), max(-low, high)
    cmap = "RdBu_r" if low < 0 else "viridis"
    return {"cmap": cmap, "norm": colour_norm(low, high, WIDE)}


def _empty(panel: Any, words: str, small: bool = False) -> list[str]:
    panel.set_axis_off()
    panel.text(
        0.5, 0.5, broken(words, 14) if small else words, ha="center", va="center", color=FAINT,
        transform=panel.transAxes, fontsize="small" if small else None,
    )  # fmt: skip
    return []


# Rows that are drawn of each function, from the youngest to the oldest.
ROWS = 6


def plot_two_time(run: Any, axes: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw signals in the first panel and X(t, t - age) of saved rows in one panel a function."""
    names = list(run.pairs)
    count = 1 + len(names)
    panels = canvas.axes(axes, f"this run takes {count} axes", count, (4.6, 3.8))
    later = run.t > 0
    diagonals = {f"{name}_diagonal" for name in names}
    for number, name in enumerate(n for n in run.signals if n not in diagonals):
        panels[0].plot(
            run.t[later], run.signals[name][later], label=symbol(name), color=colour(number)
        )
    panels[0].set(xscale="log", xlabel="time $t$", ylabel="signals")
    chosen = run.saved[np.unique(np.linspace(0, run.saved.size - 1, ROWS).round().astype(int))]
    for panel, name in zip(panels[1:], names, strict=True):
        for number, t in enumerate(chosen if run.saved.size else ()):
            s, values = run.row(name, float(t))
            old = s < t
            panel.plot(t - s[old], values[old], color=colour(number), label=f"t = {t:.4g}")
        panel.set(xscale="log", xlabel="age $t - s$", ylabel=f"${name}(t, s)$")
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    if title:
        panels[0].figure.suptitle(title)
    put_legends(*panels)
    return panels


def is_network(record: Any) -> bool:
    """Whether a record is a solved or a simulated random network."""
    return getattr(record, "KIND", None) in NETWORKS


def plot_network(records: Sequence[Any], axes: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw the mean, the variance and C(T, s), and the states at T of paths that were kept.

    Solved runs are lines with a band of their error, simulated ones points with error bars.
    Populations differ in colour, records in line style.
    """
    count = 4 if any(getattr(r, "paths", None) is not None for r in records) else 3
    panels = canvas.axes(axes, f"these networks take {count} axes", count, (3.6, 3.2))
    for number, record in enumerate(records):
        is_simulated = hasattr(record, "stderr")
        values, errors = (
            [np.moveaxis(y[name], -1, 0) if y["mean"].ndim > 1 else y[name][None]
             for name in ("mean", "corr")]
            for y in ((record.mean, record.stderr) if is_simulated
                      else (record.arrays, record.error))
        )  # fmt: skip
        label = f"N = {record.dim}" if is_simulated else "theory"
        for a, (mean, corr, d_mean, d_corr) in enumerate(zip(*values, *errors, strict=True)):
            variance = np.diagonal(corr) - mean**2
            d_variance = np.diagonal(d_corr) + 2.0 * np.abs(mean) * d_mean
            last = int(np.flatnonzero(np.isfinite(mean))[-1])
            rows = ((mean, d_mean), (variance, d_variance), (corr[last], d_corr[last]))
            name = label if len(values[0]) == 1 else f"{label}, population {a + 1}"
            for panel, (y, error) in zip(panels, rows, strict=False):
                draw(panel, record.t, y, error, number, label=name, color=colour(a),
                     points=is_simulated)  # fmt: skip
        if getattr(record, "paths", None) is not None:
            panels[3].hist(record.paths[:, -1].ravel(), bins="auto", density=True, color=FAINT)
    words = ("mean $E\\,x(t)$", "variance of $x(t)$", "$C(T, s)$", "density of $x(T)$")
    for panel, label, name in zip(panels, words, ("t", "t", "s", "x"), strict=False):
        panel.set(xlabel=f"${name}$" if name == "x" else f"time ${name}$", ylabel=label)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[:2]:
        flatten_noise(panel)
    put_legends(panels[0])
    if title:
        panels[0].figure.suptitle(title)
    return panels

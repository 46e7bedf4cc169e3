"""Descents on repeated data and two-time runs: curves, and functions of two times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.display.diagram import cell_edges
from dmft.display.style import (
    COLOURS,
    FAINT,
    INK,
    Canvas,
    colour,
    line_style,
    mark_end,
    named_once,
    put_legends,
    shade,
    symbol,
)
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.solvers.descent.run import unknown

Array = NDArray[np.float64]
PANELS = 6
# Kernels of two times, by the name of their array.
KERNELS = (
    ("corr", r"$C^\ell_{11}(t, s)$", "gradients"),
    ("resp", r"$R^\ell_{11}(t, s)$", "response of gradients"),
    ("Q2", r"$Q_{11}(t, s)$", "overlaps of two times"),
)
DOTS: dict[str, Any] = {
    "linestyle": "none", "marker": "o", "markersize": 3.5, "capsize": 2.0, "elinewidth": 0.9,
    "zorder": 4,
}  # fmt: skip
# Beyond this many curves of overlaps a legend names teachers, not units.
CROWD = 9
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
    """Draw overlaps, training loss and risk in one row, kernels of two times in another.

    Solved runs are lines with a band of their error, simulated ones points with error bars. Where
    both are given, maps show the first theory below the diagonal and the simulation above it.
    Entries of kernels whose error passes the signal are grey.
    """
    if axes is None:
        axes = canvas.panels(PANELS, (4.2, 3.6), columns=3)
    panels = np.ravel(axes)
    if panels.size != PANELS:
        raise BadParameter(f"a descent takes six axes (2 x 3), got {panels.size}")
    theories = [r for r in records if not _is_simulated(r)]
    simulated = [r for r in records if _is_simulated(r)]
    for number, run in enumerate(theories):
        _draw_run(run, panels, number)
    for number, ensemble in enumerate(simulated):
        _draw_ensemble(ensemble, panels, number, beside=bool(theories))
    _finish_curves(panels, records)
    for panel, (name, label, words) in zip(panels[3:], KERNELS, strict=True):
        _map(panel, theories, simulated, name, label, words, canvas.maps)
    put_legends(*((panel, *named_once(panel)) for panel in panels[:3]))
    if title:
        panels[0].figure.suptitle(title)
    return panels.reshape(2, 3)


def _is_simulated(record: Any) -> bool:
    return hasattr(record, "mean")


def _is_flow(record: Any) -> bool:
    """Whether times are those of a flow, not steps."""
    return bool(record.provenance.get("flow", False))


def _overlaps(M: Array) -> list[tuple[tuple[int, int], str, str, str]]:
    """Each M_jr with its label, colour and line style."""
    _, p, k = M.shape
    rows = []
    for j in range(p):
        for r in range(k):
            name = f"$M_{{{j + 1}{r + 1}}}$" if p * k > 1 else "$M$"
            name = name if p * k <= CROWD else f"$M_{{j{r + 1}}}$"
            rows.append(((j, r), name, shade(colour(r), j, p), line_style(6 * j)))
    return rows


def _draw_run(run: Any, panels: Any, number: int) -> None:
    style = line_style(6 * number)
    for (j, r), name, tone, own in _overlaps(run.M):
        values, error = run.M[:, j, r], run.error["M"][:, j, r]
        look = own if number == 0 else style
        label = None if number else name
        panels[0].plot(run.t, values, color=tone, linestyle=look, label=label)
        panels[0].fill_between(run.t, values - error, values + error, color=tone, alpha=0.3, lw=0)
    steps = run.t[: run.train_loss.size]
    rows = [(panels[1], steps, "train_loss")]
    if "risk" in run.arrays:
        rows.append((panels[2], run.t, "risk"))
    for panel, t, key in rows:
        values, error = run.arrays[key], run.error[key]
        panel.plot(t, values, color=INK, linestyle=style, label="theory" if not number else None)
        panel.fill_between(t, values - error, values + error, color=FAINT, alpha=0.4, lw=0)
    # Errors above values end no run: kernels are masked where they do not show them.
    if Status(run.status) not in (Status.OK, Status.TOLERANCE_NOT_MET):
        mark_end(run, panels[:3], panels[1])


def _draw_ensemble(ensemble: Any, panels: Any, number: int, beside: bool) -> None:
    shift = 0.08 * number
    for (j, r), name, tone, _ in _overlaps(ensemble.mean["M"]):
        panels[0].errorbar(
            ensemble.t + shift, ensemble.mean["M"][:, j, r], ensemble.stderr["M"][:, j, r],
            color=tone, label=None if beside or number else name, **DOTS,
        )  # fmt: skip
    label = f"d = {ensemble.dim}, {len(ensemble.seeds)} runs"
    for panel, key in ((panels[1], "train_loss"), (panels[2], "risk")):
        if key in ensemble.mean:
            values = ensemble.mean[key]
            panel.errorbar(
                ensemble.t[: values.size] + shift, values, ensemble.stderr[key],
                color=COLOURS[(1 + number) % len(COLOURS)], label=label, **DOTS,
            )  # fmt: skip


def _finish_curves(panels: Any, records: Sequence[Any]) -> None:
    last = max(float(np.asarray(r.t)[-1]) for r in records)
    unit = "time" if any(_is_flow(r) for r in records) else "step"
    words = ("overlaps $M$", r"training loss $\langle \ell \rangle$", r"risk $\mathcal{R}$")
    for panel, label in zip(panels[:3], words, strict=True):
        panel.set(xlabel=f"{unit} $t$", ylabel=label, xlim=(-0.02 * last, 1.02 * last))
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.get_major_locator().set_params(integer=unit == "step")
    if not panels[2].lines and not panels[2].containers:
        _empty(panels[2], "no risk: runs in R^d measure none")


def _map(
    panel: Any,
    theories: Sequence[Any],
    simulated: Sequence[Any],
    name: str,
    label: str,
    words: str,
    asked: Mapping[str, Any],
) -> None:
    """One kernel, component (1, 1)."""
    from matplotlib.colors import ListedColormap

    theory = theories[0].arrays[name] if theories else None
    truth = simulated[0].mean[name] if simulated and name in simulated[0].mean else None
    kernel = truth if theory is None else theory
    if kernel is None:
        _empty(panel, f"{label}: no simulation measures a response")
        return
    values = np.array(kernel[:, :, 0, 0])
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
        _empty(panel, f"{label}: errors are above the values")
        return
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
        words = f"{words}; grey: not known"
    bar = panel.figure.colorbar(image, ax=panel, label=label, format="%.2g", aspect=12)
    low, high = image.get_clim()
    if not asked and low > 0 and high > WIDE * low:
        # Decades are too few for a range of about one.
        bar.set_ticks([float(f"{y:.2g}") for y in np.geomspace(low, high, TICKS)])
        bar.minorticks_off()
    panel.set(xlabel=f"{unit} $s$", ylabel=f"{unit} $t$", aspect="equal")
    panel.set_title(words, fontsize="small")
    # As a matrix is written: t downwards, so that the past is below the diagonal.
    panel.invert_yaxis()
    for axis in (panel.xaxis, panel.yaxis):
        axis.get_major_locator().set_params(integer=unit == "step")


def _colours(values: Array) -> dict[str, Any]:
    """Symmetric colours for both signs, logarithmic ones for a wide positive range."""
    from matplotlib.colors import LogNorm, Normalize

    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < 0:
        bound = max(-low, high)
        return {"cmap": "RdBu_r", "norm": Normalize(-bound, bound)}
    if low > 0 and high > WIDE * low:
        return {"cmap": "viridis", "norm": LogNorm(low, high)}
    return {"cmap": "viridis", "norm": Normalize(low, high)}


def _empty(panel: Any, words: str) -> None:
    panel.set_axis_off()
    panel.text(0.5, 0.5, words, ha="center", va="center", color=FAINT, transform=panel.transAxes)


# Rows that are drawn of each function, from the youngest to the oldest.
ROWS = 6


def plot_two_time(run: Any, axes: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw signals in the first panel and X(t, t - age) of saved rows in one panel a function."""
    names = list(run.pairs)
    count = 1 + len(names)
    if axes is None:
        axes = canvas.panels(count, (4.6, 3.8))
    panels = np.ravel(axes)
    if panels.size != count:
        raise BadParameter(f"this run takes {count} axes, got {panels.size}")
    later = run.t > 0
    diagonals = {f"{name}_diagonal" for name in names}
    for number, name in enumerate(n for n in run.signals if n not in diagonals):
        look = {"color": colour(number), "linestyle": line_style(number)}
        panels[0].plot(run.t[later], run.signals[name][later], label=symbol(name), **look)
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
    put_legends(*((panel, *panel.get_legend_handles_labels()) for panel in panels))
    return panels

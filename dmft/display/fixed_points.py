"""Curves of fixed points with thresholds, and reference lines of static limits in other figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dmft.display.style import COLOURS, FAINT, INK, Canvas, put_legends
from dmft.errors import BadParameter

# Room to the right of the last threshold, and the range where there is none.
BEYOND, WIDE = 1.4, 5.0
# Room below the branch q = 0.
ZERO = -0.02
LINES = {
    "weak_recovery": ("weak recovery", ":"),
    "information_theoretic": ("information-theoretic", "-."),
    "algorithmic": ("algorithmic", "--"),
}
# Attributes of records that are drawn as reference lines: their labels, and a word of the axis.
REFERENCES = {
    **{name: (label, "samples") for name, (label, _) in LINES.items()},
    "message_passing": ("weak recovery", "samples"),
    "perfect": ("perfect recovery", "samples"),
    "threshold": ("spectral", "samples"),
    "M": ("{} $M$", "overlaps"),
    "Q": ("{} $Q$", "overlaps"),
    "train_loss": ("{}", "training"),
    "risk": ("{}", "risk"),
}
# Labels of lines across one axis start at this many heights.
HEIGHTS = 3
# Overlaps at which a rate is drawn.
OVERLAPS = np.linspace(-1.0, 1.0, 41)


def draw_references(records: Sequence[Any], axes: Sequence[Any]) -> None:
    """Draw numbers of static limits as lines across the axes that show their quantity."""
    found: dict[tuple[str, float], str] = {}
    for record in records:
        for attribute, (label, word) in REFERENCES.items():
            given = getattr(record, attribute, None)
            for value in [] if given is None else np.ravel(given):
                name = label.format(getattr(record, "KIND", "").removeprefix("dmft "))
                found.setdefault((word, round(float(value), 6)), name)
    drawn = sum(_across(ax, *where, name) for ax in axes for where, name in found.items())
    if not drawn:
        raise BadParameter(
            "lines: no axis of this figure shows a quantity of these records: thresholds need an "
            "axis samples_per_dim, dmft.erm and dmft.bayes_optimal need a figure of runs"
        )


def _across(ax: Any, word: str, value: float, label: str) -> int:
    """Draw a line at a value of the axis whose label has a word; how many were drawn."""
    from matplotlib.patheffects import withStroke

    # White around the ink, for the colours of diagrams.
    ink = {
        "color": INK,
        "zorder": 4,
        "path_effects": [withStroke(linewidth=2.2, foreground="white")],
    }
    style = {**ink, "linestyle": "--", "linewidth": 0.9}
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    text: dict[str, Any] = {"color": INK, "zorder": 4, "fontsize": "small", "bbox": box}
    text |= {"textcoords": "offset points", "xytext": (3, 3)}
    number = len(ax.texts) % HEIGHTS / HEIGHTS
    low, high = sorted(ax.get_xlim())
    if word in ax.get_xlabel() and low <= value <= high:
        ax.axvline(value, label=label, **style)
        place = {"xycoords": ("data", "axes fraction"), "rotation": 90}
        ax.annotate(label, (value, number), **place, **text)
        return 1
    if word in ax.get_ylabel() and np.isfinite(value):
        ax.axhline(value, label=label, **style)
        ax.annotate(label, (number, value), xycoords=("axes fraction", "data"), **text)
        return 1
    return 0


# Curves of records, by attributes that tell them: x, y, and the labels of the axes.
CURVES: dict[tuple[str, ...], tuple[Callable[[Any], tuple[Any, Any]], str, str]] = {
    ("lags", "values", "output_variance"): (
        lambda state: (state.lags, state.values), r"lag $\tau$", r"correlation $C(\tau)$"
    ),
    ("q", "mmse", "converged"): (
        lambda run: (np.arange(len(run.q)), run.q), "iteration of AMP", "overlap $q$"
    ),
    ("coefficients", "square", "cross"): (
        lambda law: (OVERLAPS, [law.rate(float(m)) for m in OVERLAPS]),
        "overlap $m$",
        "rate $dm/dt$",
    ),
}  # fmt: skip


def plot_curve(found: Any, ax: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw the curve of a record in `CURVES` into `ax` (or a new figure) and return the axes."""
    values, *labels = next(
        y for names, y in CURVES.items() if all(hasattr(found, n) for n in names)
    )
    x, y = values(found)
    (ax,) = canvas.axes(ax, "curves take one", 1, (5.0, 3.4))
    ax.axhline(0.0, color=FAINT, linewidth=0.8)
    ax.plot(x, np.reshape(y, (len(x), -1)), color=COLOURS[0])
    ax.set(xlabel=labels[0], ylabel=labels[1], title=title or "")
    return ax


def plot_thresholds(found: Any, ax: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw the curve into `ax` (or a new figure) and return the axes."""
    if not found.samples.size:
        raise BadParameter(
            f"the thresholds of {found.label} have no curve of fixed points, which exists only "
            "for labels of one field: print them, or draw q of dmft.bayes_optimal against "
            "samples_per_dim"
        )
    (ax,) = canvas.axes(ax, "thresholds take one", 1, (5.0, 3.4))
    stable = np.gradient(found.samples) > 0
    for wanted, style in ((True, "-"), (False, "--")):
        q = np.where(stable == wanted, found.overlap, np.nan)
        label = "stable" if wanted else "unstable"
        ax.plot(found.samples, q, style, color=COLOURS[0] if wanted else FAINT, label=label)
    last = 0.0
    for name, (label, style) in LINES.items():
        at = getattr(found, name)
        if at is not None and 0 < at < np.inf:
            ax.axvline(float(at), linestyle=style, color=COLOURS[1], linewidth=1, label=label)
            last = max(last, float(at))
    if found.weak_recovery is not None and 0 < found.weak_recovery < np.inf:
        ax.plot([0.0, float(found.weak_recovery)], [0.0, 0.0], "-", color=COLOURS[0])
    ax.set(xlim=(0.0, BEYOND * last or WIDE), ylim=(ZERO, None))
    ax.set_xlabel(r"samples per dimension $\alpha$")
    ax.set_ylabel("overlap $q$")
    ax.set_title(title or "")
    put_legends(ax, where="below")
    return ax

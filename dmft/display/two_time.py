"""Two-time runs: signals over time, and each function of two times by age at its saved rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmft.display.style import Canvas, colour, line_style, put_legends, symbol
from dmft.errors import BadParameter

# Rows that are drawn of each function, from the youngest to the oldest.
ROWS = 6


def is_two_time(record: Any) -> bool:
    """Whether a record is a solved two-time problem."""
    return all(hasattr(record, name) for name in ("saved", "signals", "pairs"))


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

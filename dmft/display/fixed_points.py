"""Curves of fixed points: overlap against samples, stable and unstable, with thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmft.display.style import COLOURS, FAINT, Canvas
from dmft.errors import BadParameter

# Room to the right of the last threshold, and the range where there is none.
BEYOND, WIDE = 1.4, 5.0
LINES = {
    "weak_recovery": ("weak recovery", ":"),
    "information_theoretic": ("information-theoretic", "-."),
    "algorithmic": ("algorithmic", "--"),
}


def plot_thresholds(found: Any, ax: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw the curve into `ax` (or a new figure) and return the axes."""
    if not found.samples.size:
        raise BadParameter(
            f"the thresholds of {found.label} have no curve of fixed points, which labels of one "
            "field have: print them, or draw q of dmft.bayes_optimal against samples_per_dim"
        )
    ax = canvas.panels(1, (5.0, 3.4)) if ax is None else ax
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
    ax.set(xlim=(0.0, BEYOND * last or WIDE), ylim=(0.0, None))
    ax.set_xlabel(r"samples over dimension $\alpha$")
    ax.set_ylabel("overlap $q$")
    ax.set_title(title or "")
    ax.legend()
    return ax

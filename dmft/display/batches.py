"""Exponents of steps and samples against the batch size, with their regions."""

from __future__ import annotations

from typing import Any

from dmft.display.style import Canvas, colour, put_legends

# Shown beyond the last boundary.
MARGIN = 1.0


def is_batches(record: Any) -> bool:
    """Whether a record is the result of `dmft.batch_exponents`."""
    return all(hasattr(record, name) for name in ("steps", "samples", "optimal_batch", "regions"))


def plot_batches(record: Any, ax: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw log_d of steps and samples over mu = log_d n_b; regions are shaded and named."""
    axes = canvas.panels(1, (6.4, 4.8)) if ax is None else ax
    bounds = sorted({float(b) for (a, b), _ in record.regions if b.is_finite})
    last = max(bounds) + MARGIN
    points = [0.0, *bounds, last]
    for n, (name, style) in enumerate((("steps", "-"), ("samples", "--"))):
        expr = getattr(record, name)
        values = [float(expr.subs(record.mu, mu)) for mu in points]
        axes.plot(points, values, style, color=colour(n), label=name)
    for number, ((low, high), text) in enumerate(record.regions):
        end = min(float(high), last)
        axes.axvspan(float(low), end, color=colour(number + 2), alpha=0.15, label=text)
    axes.axvline(float(record.optimal_batch), color="k", lw=0.8, ls=":", label="optimal batch")
    axes.set_xlim(0, last)
    axes.set_ylim(bottom=-0.1)
    axes.set_xlabel(r"$\mu = \log_d n_b$")
    axes.set_ylabel(r"power of $d$")
    axes.set_title(title or rf"$\ell = {record.exponent}$, {record.loss} loss")
    put_legends((axes, *axes.get_legend_handles_labels()), where="below")
    return axes

"""Exponents: the plane (kappa, delta) with its limits, and powers of d against the batch."""

from __future__ import annotations

from typing import Any

from dmft.display.style import COLOURS, INK, Canvas, colour, lay_out, put_legends

# Lines that are regions, and the axis delta = 0 as far as it is one.
LINE, AXIS = COLOURS[0], COLOURS[2]
# Direction of kappa + delta = const in the plane.
ALONG = -45.0

# Ground of each region; told apart in grey as well.
GROUNDS = {"mean-field": "#BFDCEB", "noise-dominated": "#F2D0BC", "no ode": "#E0E0E0"}
# Short forms of the limits, in the notation of the equations.
SHORT = {
    "gradient-flow": r"$\dot M = B^*,\ \dot Q = B + B^{\!\top}$",
    "mean-field": r"$\dot M = B^*,\ \dot Q^{\perp} = 2\,\mathbb{E}[\psi\, h^{\perp}]$",
    "high-dimensional": (r"$\dot M = B^*,\ \dot Q = B + B^{\!\top} + \frac{\gamma}{p\,n_b} S$"),
    "noise-dominated": r"$M' = 0,\ Q' = S$",
    "map": r"$M \to M + \frac{\eta}{p} B^*,\ \ldots$",
    "no ode": "",
}
# Letters that the plane must hold in its width for the limits to be written into it.
ROOM = 45
# Widths shown, and how far the plane reaches beyond its outer boundaries.
DELTA = (0.0, 1.2)
LEFT, RIGHT = 1.2, 1.2


def plot_regimes(plane: Any, ax: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw the regions into `ax` (or a new figure) and return the axes."""
    (ax,) = canvas.axes(ax, "regimes take one", 1, (8.0, 4.4))
    regions = {region.name: region for region in plane}
    lines = sorted({float(b) for r in plane for b in (r.lower, r.upper) if b.is_finite})
    span = (lines[0] - LEFT, lines[-1] + RIGHT)
    for name, ground in GROUNDS.items():
        if name in regions:
            _band(ax, regions[name], span, ground)
    drawn = {}
    for place in lines:
        named = [r.name for r in plane if float(r.lower) == float(r.upper) == place]
        style = {"color": LINE, "linewidth": 2.5} if named else {"color": INK, "linestyle": "--"}
        (line,) = ax.plot([place - d for d in DELTA], list(DELTA), zorder=3, **style)
        drawn.update(dict.fromkeys(named, line))
    (drawn["gradient-flow"],) = ax.plot(
        [lines[-1], span[1]], [0, 0], color=AXIS, linewidth=4, zorder=4, clip_on=False
    )
    ax.set(xlim=span, ylim=DELTA)
    ax.set_xlabel(r"$\kappa$, learning rate $\gamma \sim d^{-\kappa}$")
    ax.set_ylabel(r"$\delta$, width $p \sim d^{\delta}$")
    batch = plane.batch_power
    power = "d" if batch == 1 else f"d^{{{batch}}}"
    ax.set_title(title or (rf"batches $n_b \sim {power}$" if batch != 0 else ""))
    ax.spines[["top", "right"]].set_visible(False)
    lay_out(ax.figure)
    if ax.bbox.width / ax.figure.figure.dpi * 72 < ROOM * _letter():
        _name_below(ax, regions, drawn)
    else:
        _label(ax, regions, lines, span)
    return ax


def _letter() -> float:
    """Points of a letter of the size that limits are written in."""
    from matplotlib.font_manager import FontProperties

    return float(FontProperties(size="small").get_size_in_points())


def _name_below(ax: Any, regions: dict[str, Any], drawn: dict[str, Any]) -> None:
    """Name regions and their limits in a legend, where the plane has no room for them."""
    from matplotlib.patches import Patch

    handles = {
        ": ".join(text for text in (region.title, SHORT[name]) if text): drawn.get(name)
        or Patch(color=GROUNDS[name])
        for name, region in regions.items()
    }
    put_legends(ax, handles=handles, where="below")


def _band(ax: Any, region: Any, span: tuple[float, float], ground: str) -> None:
    """Strip lower < kappa + delta < upper."""
    low, high = float(region.lower), float(region.upper)
    low, high = max(low, span[0] - DELTA[1]), min(high, span[1] + DELTA[1])
    bottom, top = DELTA
    corners = [(low - bottom, bottom), (high - bottom, bottom), (high - top, top), (low - top, top)]
    ax.fill(*zip(*corners, strict=True), color=ground, linewidth=0, zorder=1)


def _label(ax: Any, regions: dict[str, Any], lines: list[float], span: tuple[float, float]) -> None:
    """Name and equations of each region, in it or along its line."""
    first, last = lines[0], lines[-1]
    _write(ax, regions["mean-field"], (last + span[1]) / 2 - 0.15, 0.65, 0.0)
    _write(ax, regions["gradient-flow"], (last + span[1]) / 2, 0.09, 0.0)
    _write(ax, regions["no ode"], (first + span[0]) / 2 - 0.1, 0.12, 0.0)
    middle = 0.5 * DELTA[1]
    for name in ("high-dimensional", "map", "noise-dominated"):
        if name in regions:
            region = regions[name]
            at = (float(region.lower) + float(region.upper)) / 2
            # A line is named beside it, a strip inside.
            lift = 0.075 if region.lower == region.upper else 0.0
            _write(ax, region, at - middle + lift, middle + lift, ALONG)


def _write(ax: Any, region: Any, x: float, y: float, turn: float) -> None:
    text = "\n".join(line for line in (region.title, SHORT[region.name]) if line)
    ax.text(
        x, y, text, ha="center", va="center", rotation=turn, fontsize="small", zorder=5,
        transform_rotates_text=True, rotation_mode="anchor", linespacing=1.4,
    )  # fmt: skip


# Shown beyond the last boundary.
MARGIN = 1.0


def plot_batches(record: Any, ax: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw log_d of steps and samples over mu = log_d n_b; regions are shaded and named."""
    (axes,) = canvas.axes(ax, "exponents take one", 1, (6.4, 4.8))
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
    put_legends(axes, where="below")
    return axes

"""A risk over the feasible alignments: contours with its minima, flow, section along the circle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dmft.arrays import Array
from dmft.display.style import COLOURS, FAINT, INK, Canvas, put_legends

# Polar grid of the pictures, and the square grid of the flow.
RADII, ANGLES, SQUARE = 60, 180, 81
LEVELS = 24
# At most as many numbers stand beside a colour bar.
TICKS = 4
# Endings of the labels that the legend takes.
NAMED = ("minimum", "(global)")
# Kinds of minima: marker and colour.
MARKS = {
    "semantic": ("s", COLOURS[0]),
    "positional": ("D", COLOURS[1]),
    "mixed": ("o", COLOURS[2]),
    "uninformative": ("X", COLOURS[3]),
}


def plot_landscape(found: Any, ax: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw contours, flow and section into three axes (or a new figure) and return them."""
    words = "a landscape takes three axes (contours, flow, section)"
    axes = canvas.axes(ax, words, 3, (4.4, 4.3))
    u = _grid(found)
    f = found.disc.values(u)
    e, m = found.disc.alignments(u)
    _contours(axes[0], found, e, m, f, canvas.maps)
    _flow(axes[1], found, f)
    _section(axes[2], found)
    marks = [line for line in axes[0].lines if line.get_label().endswith(NAMED)]
    axes[0].set_title(title or found.name, fontsize="medium")
    axes[1].set_title("flow of the population gradient", fontsize="medium")
    axes[2].set_title("along the circle", fontsize="medium")
    put_legends(axes[2], handles=marks, where="below")
    return axes


def _quarter(found: Any) -> bool:
    """Whether one quarter of the disc shows all of it."""
    return bool(found.even[0] and found.even[1])


def _polar(found: Any) -> tuple[Array, Array]:
    """Angles and radii, of the quarter where it shows all."""
    return np.linspace(0.0, _turn(found), ANGLES), np.linspace(0.0, 1.0, RADII)


def _turn(found: Any) -> float:
    return 0.5 * np.pi if _quarter(found) else 2 * np.pi


def _grid(found: Any) -> Array:
    """Polar points u (ANGLES, RADII, 2)."""
    angles, radii = _polar(found)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return circle[:, None, :] * radii[None, :, None]


def _contours(ax: Any, found: Any, e: Array, m: Array, f: Array, asked: Mapping[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    look = {"levels": LEVELS, "cmap": "viridis", **asked}
    image = ax.contourf(e, m, f, **look)
    ax.contour(e, m, f, image.levels, colors="white", linewidths=0.3, alpha=0.6)
    # Below: beside them it would make all panels of a column narrower.
    bar = ax.figure.colorbar(
        image, ax=ax, location="bottom", label=r"risk $\mathcal{R}$", shrink=0.85
    )
    bar.locator = MaxNLocator(TICKS)
    bar.update_ticks()
    _frame(ax, found)
    _mark(ax, found)


def _flow(ax: Any, found: Any, f: Array) -> None:
    """Streamlines of du/dt = -(I - u u^T) grad f, drawn in e and m."""
    from scipy.interpolate import RectBivariateSpline

    spline = RectBivariateSpline(*_polar(found), f, kx=5, ky=5)
    e_range, m_range = _ranges(found)
    e, m = np.meshgrid(np.linspace(*e_range, SQUARE), np.linspace(*m_range, SQUARE))
    points = np.stack([m, e], axis=-1) @ np.linalg.inv(found.disc.basis).T
    radius = np.hypot(points[..., 0], points[..., 1])
    turn = np.mod(np.arctan2(points[..., 1], points[..., 0]), 2 * np.pi)
    inside = (radius <= 1.0) & (radius > 1e-9)
    safe = np.where(inside, radius, 0.5)
    along = spline.ev(np.where(inside, turn, 0.0), safe, dx=1) / safe
    across = spline.ev(np.where(inside, turn, 0.0), safe, dy=1)
    unit = points / np.where(radius > 0, radius, 1.0)[..., None]
    side = np.stack([-unit[..., 1], unit[..., 0]], axis=-1)
    velocity = -((1 - safe**2) * across)[..., None] * unit - along[..., None] * side
    velocity = np.where(inside[..., None], velocity, np.nan) @ found.disc.basis.T
    speed = np.hypot(velocity[..., 0], velocity[..., 1])
    top = np.nanmax(speed)
    ax.streamplot(
        e[0], m[:, 0], velocity[..., 1], velocity[..., 0], density=1.1, color=FAINT,
        linewidth=0.4 + 1.6 * np.nan_to_num(speed / top) ** 0.5, arrowsize=0.8,
    )  # fmt: skip
    _frame(ax, found)
    _mark(ax, found)


def _section(ax: Any, found: Any) -> None:
    """Risk along the border, from the semantic to the positional corner and around."""
    turn = _turn(found)
    angles = np.linspace(0.0, turn, 721)
    ax.plot(angles / np.pi, found.around(angles), color=INK)
    for x in found.minima:
        if x.border:
            u = np.linalg.solve(found.disc.basis, [x.m, x.e])
            marker, colour = MARKS[x.kind]
            at = np.mod(np.arctan2(u[1], u[0]), 2 * np.pi) / np.pi
            ax.plot(at, x.risk, marker=marker, color=colour, markersize=8, clip_on=False, zorder=4)
    ax.set_xlim(0.0, turn / np.pi)
    ax.set_xlabel(r"angle $/\,\pi$ from $m$ towards $e$")
    ax.set_ylabel(r"risk $\mathcal{R}$")


def _ranges(found: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    length = float(np.hypot(*found.disc.basis[1]))
    low = 0.0 if _quarter(found) else -1.0
    return (low * length, length), (low, 1.0)


def _frame(ax: Any, found: Any) -> None:
    angles = np.linspace(0.0, _turn(found), 361)
    e, m = found.disc.alignments(np.stack([np.cos(angles), np.sin(angles)], axis=-1))
    ax.plot(e, m, color=INK, linewidth=1.0)
    e_range, m_range = _ranges(found)
    room = 0.04
    ax.set_aspect("equal")
    ax.set_xlim(e_range[0] - room * e_range[1], (1 + room) * e_range[1])
    ax.set_ylim(m_range[0] - room, 1 + room)
    ax.set_xlabel("positional alignment $e$")
    ax.set_ylabel("semantic alignment $m$")


def _mark(ax: Any, found: Any) -> None:
    """Mark every minimum with its images; the global one is larger."""
    for rank, x in enumerate(found.minima):
        marker, colour = MARKS[x.kind]
        words = f"{x.kind} minimum" + (" (global)" if rank == 0 and found.several else "")
        points = {(x.e, x.m)}
        if not _quarter(found):
            points |= {(-e, m) for e, m in points if found.even[0]}
            points |= {(e, -m) for e, m in points if found.even[1]}
            points |= {(-e, -m) for e, m in points if found.even[2]}
        es, ms = zip(*sorted(points), strict=True)
        ax.plot(
            es, ms, linestyle="none", marker=marker, color=colour, markeredgecolor="white",
            markersize=11 if rank == 0 else 8, clip_on=False, zorder=5, label=words,
        )  # fmt: skip
    if found.direction is not None:
        basis = found.disc.basis
        e, m = found.disc.alignments(np.array([found.direction[1], found.direction[0]]))
        size = 0.22 / max(1.0, float(np.hypot(*basis[1])))
        ax.annotate(
            "", xy=(size * float(e), size * float(m)), xytext=(0.0, 0.0), zorder=6,
            arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 2.0},
        )  # fmt: skip

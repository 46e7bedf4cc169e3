"""How the figures look: colours, labels in the notation of `names`, axes. No global state."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter, MissingExtra
from dmft.names import QUANTITIES
from dmft.typeset.plain import GREEK

# Okabe and Ito's palette without yellow (too light for lines): told apart by all eyes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Runs of one figure differ in line style only.
STYLES: tuple[Any, ...] = (
    "-", "--", "-.", ":", (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 2, 1, 2)),
)  # fmt: skip
INK, FAINT = "#333333", "#999999"
# Widths of a figure in inches: one column of a paper, and its page.
WIDTHS = {"column": 3.4, "page": 7.0}
# Inches that no page has; who asks for more has points in mind.
WIDEST = 60.0
# A panel narrower than this has no room for its labels; a lower one none for its curve.
NARROWEST, LOWEST = 2.9, 2.0
# Rows of panels share this height: with their legends they stay within a page of text (24 cm).
TALLEST = 8.5
# How much lighter each further round of the palette is, and the lightest of them.
LIGHTER, LIGHTEST = 0.35, 0.7
# Points between axes, or their labels, and the legend outside of them.
GAP = 3.0
# A label may be this much longer than its axis before it is broken.
OVERHANG = 1.1
# Pixels by which a legend may be moved without another layout.
STILL = 0.1
# A positive axis spanning more than this many factors of ten is drawn logarithmic.
LOG_DECADES = 2.0
# Values below this, the absolute tolerance of solvers, are noise; so are relative changes below
# the other.
NOISE, FLAT = 1e-10, 1e-8


def pyplot() -> Any:
    """Import matplotlib's pyplot, or say which extra brings it."""
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise MissingExtra('plot needs matplotlib: pip install "dmft[plot]"') from error
    return plt


def blank_figure(size: tuple[float, float], *, shown: bool) -> Any:
    """Return a new figure of a size in inches.

    A figure that only goes to a file is not registered with pyplot: no window, nothing to close.
    """
    plt = pyplot()
    if shown:
        return plt.figure(figsize=size, layout="constrained")
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


@dataclass(frozen=True)
class Canvas:
    """Where a figure goes, how wide it is, and the colours of its maps.

    `shown` by pyplot or only written to a file; `width` in inches, by default each figure's own;
    `maps` are those of ``cmap``, ``norm``, ``levels`` that the caller gave.
    """

    shown: bool = True
    width: float | None = None
    maps: Mapping[str, Any] = field(default_factory=dict)

    def panels(self, count: int, panel: tuple[float, float], columns: int | None = None) -> Any:
        """Return `count` axes of a new figure, in rows of as many as its width holds.

        Without a width each has the size `panel` in inches, in `columns` (all in one row).
        """
        columns = columns or count
        size = (columns * panel[0], panel[1])
        if self.width is not None:
            columns = max(1, min(columns, int(self.width / NARROWEST)))
            height = self.width / columns * panel[1] / panel[0]
            size = (self.width, max(height, min(LOWEST, panel[1])))
        rows = -(-count // columns)
        height = rows * size[1]
        if self.width is not None:
            height = min(height, TALLEST)
        axes = np.ravel(blank_figure((size[0], height), shown=self.shown).subplots(rows, columns))
        for rest in axes[count:]:
            rest.remove()
        return axes[:count]

    def axes(self, given: Any, what: str, count: int, panel: tuple[float, float]) -> Any:
        """Return the axes that a caller gave, `count` in number, or those of a new figure."""
        if given is None:
            return self.panels(count, panel)
        if np.size(given) != count:
            raise BadParameter(f"ax: {what}; got {np.size(given)}")
        return np.ravel(given)


def colour(index: int) -> str:
    """Colour of the teacher neuron (or of the curve) of this number; lighter after the palette."""
    base, turn = COLOURS[index % len(COLOURS)], index // len(COLOURS)
    part = min(LIGHTER * turn, LIGHTEST)
    levels = (int(base[n : n + 2], 16) for n in (1, 3, 5))
    return "#" + "".join(f"{round(v + part * (255 - v)):02X}" for v in levels)


def line_style(run: int) -> Any:
    """Line style of the run of this number."""
    return STYLES[run % len(STYLES)]


def symbol(name: str) -> str:
    """Return a quantity or a parameter in mathtext: its LaTeX name where the library has one."""
    if name in QUANTITIES:
        return f"${QUANTITIES[name].latex}$"
    head, _, tail = name.partition("_")
    first = rf"\{head}" if head in GREEK else head if len(head) == 1 else rf"\mathrm{{{head}}}"
    if not tail:
        return f"${first}$"
    inner = tail.replace("_", r"\,")
    return f"${first}_{{\\mathrm{{{inner}}}}}$"


def described(name: str) -> str:
    """Return an axis label: what the quantity is, and its symbol."""
    words = {"learning_rate": "learning rate", "label_noise": "label noise", "risk": "risk"}
    if name == "samples_per_dim":
        return r"samples per dimension $\alpha$"
    if name in words:
        return f"{words[name]} {symbol(name)}"
    # Words (as in "escape time") are a label already; a letter is set as mathematics.
    return name if " " in name else symbol(name)


def time_label(unit: str) -> str:
    """Return the label of a time axis from the words of a record's time unit."""
    text = unit.split(";")[0].split(",")[0].strip()
    if not text.startswith("t ="):
        return "step $t$" if text == "steps" else "time $t$"
    text = text.removeprefix("t =").strip()
    text = text.replace("learning_rate", "gamma").replace("gamma", r"\gamma")
    text = text.replace("steps", r"\mathrm{steps}").replace(" * ", r"\,").replace(" / ", "/")
    text = text.replace("(p d)", "(pd)")
    return f"time $t = {text}$" if " " not in text else "time $t$"


def wants_log(values: NDArray[np.float64]) -> bool:
    """Whether positive values fill a logarithmic axis better: wide, and crowded at its low end."""
    positive = values[values > 0]
    if positive.size < 3 or positive.size < values.size - 1:
        return False
    spread = np.log10(positive.max() / positive.min())
    return bool(spread > LOG_DECADES and np.median(positive) < 0.2 * positive.max())


def make_room(figure: Any) -> None:
    """Let the labels of a caller's figure have the room they need.

    Only where nobody has laid it out: neither an engine nor `subplots_adjust`.
    """
    from matplotlib.figure import SubplotParams

    root = figure.figure
    placed, usual = root.subplotpars, SubplotParams()
    sides = ("left", "right", "bottom", "top")
    untouched = all(getattr(placed, side) == getattr(usual, side) for side in sides)
    if root.get_layout_engine() is None and untouched:
        try:
            root.set_layout_engine("constrained")
        except RuntimeError:  # a colour bar is there, placed by another rule
            return


def lay_out(figure: Any) -> None:
    """Place axes now, so that what depends on their sizes can be measured."""
    root = figure.figure
    engine = root.get_layout_engine()
    if engine is not None:
        engine.execute(root)
    # As drawing does it: a colour bar is as wide as its height says.
    for ax in root.axes:
        locator = ax.get_axes_locator()
        ax.apply_aspect(locator(ax, None) if locator else None)


def mark_end(run: Any, panels: Iterable[Any], named: Any) -> None:
    """Draw where a run failed, and its status in one of the panels."""
    for panel in panels:
        panel.axvline(run.t[-1], color=colour(1), linestyle=":", linewidth=1.0)
    named.annotate(
        str(run.status).replace("_", " "), (run.t[-1], 0.98), xycoords=("data", "axes fraction"),
        rotation=90, ha="right", va="top", color=colour(1),
    )  # fmt: skip


def noise_of(record: Any) -> float:
    """Absolute tolerance at which a record was solved: smaller values are noise."""
    provenance = getattr(record, "provenance", None) or {}
    return float(provenance.get("atol") or NOISE)


def flatten_noise(panel: Any) -> None:
    """Widen a linear axis on which curves vary by less than solvers resolve."""
    low, high = panel.dataLim.intervaly
    size = max(abs(low), abs(high), 0.1)
    if np.isfinite(size) and high - low < FLAT * size:
        panel.set_ylim(0.5 * (low + high) - 0.5 * size, 0.5 * (low + high) + 0.5 * size)


def put_legends(
    *panels: Any, handles: Mapping[str, Any] | Sequence[Any] | None = None, where: str = "above"
) -> None:
    """Put legends outside of their axes, where they can cover no curve.

    `handles` by label, or with labels of their own; by default those of the axes, each label once:
    the first of its curves.
    """
    break_labels(panels[0].figure)
    for ax in panels:
        shown = ax.get_legend_handles_labels()[0] if handles is None else handles
        if not isinstance(shown, Mapping):
            first = {handle.get_label(): handle for handle in reversed(shown)}
            shown = {handle.get_label(): first[handle.get_label()] for handle in shown}
        if shown:
            _put_legend(ax, [*shown.values()], [*shown], where)


def refit_legends(figure: Any) -> bool:
    """Put legends again: since others came, their axes are narrower or labels stand elsewhere.

    Return whether that changed one; most stay as they are.
    """
    changed = False
    for ax in figure.figure.axes:
        legend = ax.get_legend()
        given = getattr(legend, "dmft_given", None)
        if given:
            changed |= _put_legend(ax, *given, before=legend)
    return changed


def bars_below(ax: Any) -> list[Any]:
    """Axes of the colour bars that stand beside axes, or beside those above and below them."""
    column = [each for each in ax.figure.figure.axes if abs(each.bbox.x0 - ax.bbox.x0) < 1.0]
    drawn = [artist for each in column for artist in each.collections]
    return [c.colorbar.ax for c in drawn if getattr(c, "colorbar", None) is not None]


def _not_wider(legend: Any, renderer: Any = None) -> Any:
    """Box that a layout keeps free for a legend: no wider than its axes.

    A layout would place colour bars beyond a legend that is wider.
    """
    from matplotlib.transforms import Bbox

    box, axes = type(legend).get_tightbbox(legend, renderer), legend.axes.bbox
    return Bbox([[max(box.x0, axes.x0), box.y0], [max(min(box.x1, axes.x1), axes.x0), box.y1]])


def _placed(ax: Any, where: str) -> tuple[dict[str, Any], float]:
    """Options of matplotlib's legend outside of axes, and how far from them it is, in inches."""
    from matplotlib.transforms import ScaledTranslation

    root = ax.figure.figure
    tight = ax.xaxis.get_tightbbox() if where == "below" else None
    down = 0.0 if tight is None else max(ax.bbox.y0 - tight.y0, 0.0)
    shift = GAP / 72 if where == "above" else -GAP / 72 - down / root.dpi
    outside = ax.transAxes + ScaledTranslation(0.0, shift, root.dpi_scale_trans)
    options = {
        "loc": "lower left" if where == "above" else "upper left", "borderaxespad": 0.0,
        "bbox_to_anchor": (0.0, 1.0 if where == "above" else 0.0), "bbox_transform": outside,
        "frameon": False, "fontsize": "small", "columnspacing": 1.2, "handlelength": 1.8,
        "borderpad": 0.2,
    }  # fmt: skip
    return options, shift


def _put_legend(
    ax: Any, handles: list[Any], labels: list[str], where: str, *, before: Any = None
) -> bool:
    """In as many columns as the axes are wide; names wider than the axes are broken.

    Return whether the legend is another one than `before`, or elsewhere. To make and to measure
    one takes long: widths are known from before.
    """
    dpi = ax.figure.figure.dpi
    options, shift = _placed(ax, where)
    bars = bars_below(ax) if where == "below" else []
    # A legend below may also be below the colour bar.
    room = max(ax.bbox.x1, *(bar.get_tightbbox().x1 for bar in bars), 0.0) - ax.bbox.x0
    tries = [(columns, labels) for columns in range(len(handles), 0, -1)]
    longest = max(map(len, labels))
    tries += [(1, [broken(text, longest // parts + 2) for text in labels]) for parts in (2, 3, 4)]
    widths, used, at, known = getattr(before, "dmft_found", ([], None, shift, dpi))
    legend, widths = before, list(widths) if known == dpi else []
    for number, (columns, words) in enumerate(tries):
        if number == len(widths):
            legend = ax.legend(handles, words, ncols=columns, **options)
            widths.append(legend.get_window_extent().width)
        if widths[number] <= room:
            break
    if legend is before and number != used:
        legend = ax.legend(handles, words, ncols=columns, **options)
    legend.set_bbox_to_anchor(options["bbox_to_anchor"], options["bbox_transform"])
    legend.dmft_given = (handles, labels, where)
    legend.dmft_found = (widths, number, shift, dpi)
    if bars:
        legend.get_tightbbox = partial(_not_wider, legend)
    return legend is not before or abs(shift - at) * dpi > STILL


def broken(text: str, most: int) -> str:
    """Return text in lines of about `most` characters; mathematics is not broken."""
    lines: list[str] = []
    for word in re.findall(r"(?:\$[^$]*\$|[^\s$])+", text):
        if lines and len(lines[-1]) + 1 + len(word) <= most:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def settle(figure: Any, *, own: bool) -> None:
    """Finish a figure: room for its legends if it is ours, and no label longer than its axis."""
    root = figure.figure
    for axis in (axis for ax in root.axes for axis in (ax.xaxis, ax.yaxis)):
        formatter = axis.get_major_formatter()
        if hasattr(formatter, "set_useOffset"):  # a label 75 above 1e-12 + 1 reads as 75
            formatter.set_useOffset(False)
    if not own:  # legends have taken room from the axes: labels may be too long now
        break_labels(root)
        if refit_legends(root):  # each depends on the other
            break_labels(root)
            if refit_legends(root):
                lay_out(root)
    else:
        heights: dict[int, float] = {}
        for ax in root.axes:
            spec, legend = ax.get_subplotspec(), ax.get_legend()
            if legend is not None and spec is not None:
                row = spec.rowspan.start
                tall = legend.get_window_extent().height / root.dpi
                heights[row] = max(heights.get(row, 0.0), tall)
        width, height = root.get_size_inches()
        root.set_size_inches(width, height + sum(heights.values()))


def break_labels(figure: Any) -> None:
    """Lay a figure out; break labels and titles that are longer than their axes."""
    root = figure.figure
    lay_out(root)
    changed = False
    for ax in root.axes:
        changed |= _break_label(ax.xaxis.label, ax.bbox.width, 0)
        changed |= _break_label(ax.yaxis.label, ax.bbox.height, 1)
        changed |= _break_label(ax.title, ax.bbox.width, 0)
    if changed:
        lay_out(root)


def _break_label(label: Any, length: float, along: int) -> bool:
    """Break a label that is too long, or one that was; return whether that changed it."""
    before = label.get_text()
    # What we have broken ourselves may be broken less now.
    text, ours = getattr(label, "dmft_given", (before, before))
    if ours != before:
        text = before
    label.set_text(text)
    for parts in (2, 3, 4):
        box = label.get_window_extent()
        if " " not in text or (box.width, box.height)[along] <= OVERHANG * length:
            break
        label.set_text(broken(text, len(text) // parts + 1))
    label.dmft_given = (text, label.get_text())
    return bool(label.get_text() != before)

"""Overlaps and risk against time: theory as lines, simulation as points with error bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.display.style import (
    FAINT,
    INK,
    Canvas,
    colour,
    flatten_noise,
    line_style,
    mark_end,
    noise_of,
    put_legends,
    symbol,
    time_label,
    wants_log,
)
from dmft.display.units import aligned
from dmft.names import Status

# More error bars than this hide the curve under them.
POINTS = 24
# Beyond this many curves of one kind they are drawn thin and pale.
CROWD = 12
# Units of a wide student that are drawn.
UNITS = 60
# Markers of ensembles; hollow, so that lines are seen through them.
MARKERS = ("o", "s", "^", "D", "v")
DOTS: dict[str, Any] = {
    "linestyle": "none", "markersize": 4.0, "markerfacecolor": "white", "markeredgewidth": 1.0,
    "capsize": 1.5, "elinewidth": 0.8, "zorder": 4,
}  # fmt: skip
# Values in the name of a run among others: digits.
DIGITS = 4
FINE = (Status.OK, Status.EVENT)


def is_ensemble(record: Any) -> bool:
    """Whether a record is an ensemble of simulated runs: it has a mean and a standard error."""
    return hasattr(record, "mean") and hasattr(record, "stderr")


def is_escape(record: Any) -> bool:
    """Whether a record is an escape time, seen or censored, or those of many runs."""
    return hasattr(record, "threshold") and hasattr(record, "reference")


def on_one_clock(records: Sequence[Any]) -> list[Any]:
    """Records with one time axis: simulations are drawn in steps if a theory is a map."""
    units = [_provenance(r).get("time_unit") for r in records]
    in_steps = any(unit == "steps" for unit in units)
    return [
        replace(r, t=r.steps()) if in_steps and unit != "steps" and hasattr(r, "seeds") else r
        for r, unit in zip(records, units, strict=True)
    ]


def plot_runs(records: Sequence[Any], axes: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw trajectories and ensembles into two panels, overlaps and risk; return both axes."""
    axes = canvas.axes(axes, "runs take two axes, overlaps and risk", 2, (5.0, 4.0))
    overlaps, risk = axes
    escapes = [r for r in records if is_escape(r)]
    records = on_one_clock([r for r in records if not is_escape(r)])
    theories = [r for r in records if not is_ensemble(r)]
    for number, (run, name) in enumerate(zip(theories, _names_of(theories), strict=True)):
        _draw_trajectory(run, overlaps, risk, line_style(number), name)
    for number, ensemble in enumerate(r for r in records if is_ensemble(r)):
        _draw_ensemble(ensemble, overlaps, risk, number, theories)
    for escape in escapes:
        _draw_escape(escape, overlaps, risk)
    _finish(records, overlaps, risk)
    if title:
        overlaps.figure.suptitle(title)
    return axes


def entries_of(values: Any) -> list[dict[str, Any]]:
    """Return overlaps as curves: values, label, colour, width; a sample of wide students.

    Colours tell teachers apart, and all units that overlap with one teacher share a legend entry.
    """
    if hasattr(values, "m"):
        return _alignment_entries(getattr(values, "e", np.zeros(len(values.m))), values.m)
    if hasattr(values, "Q_perp"):
        return _wide_entries(values.M, values.Q_perp)
    if hasattr(values, "coupling"):
        return _aligned_entries(values)
    Q, p = values.Q, values.M.shape[1]
    names = ("$Q_{jj}$", "$Q_{jl}$") if p > 1 else ("$Q$", "")
    curves = _student_teacher(values.M, range(p))
    curves += [_entry(Q[:, j, j], names[0], INK, 1.2, 2) for j in range(p)]
    return curves + [
        _entry(Q[:, j, n], names[1], FAINT, 1.0, 1) for j in range(p) for n in range(j)
    ]


def _entry(
    values: NDArray[np.float64], label: str, tone: str, width: float = 1.6, zorder: int = 3
) -> dict[str, Any]:
    return {"values": values, "label": label, "color": tone, "width": width, "zorder": zorder}


def _names_of(theories: Sequence[Any]) -> list[str]:
    """What tells runs apart: the values of the parameters in which they differ, or their number."""
    if len(theories) <= 1:
        return ["theory"] * len(theories)
    given = [dict(getattr(run, "parameters", None) or {}) for run in theories]
    same = [name for name in given[0] if all(name in each for each in given)]
    names = [name for name in same if len({str(each[name]) for each in given}) > 1]
    words = [
        ", ".join(f"{symbol(n)} = {each[n]:.{DIGITS}g}" for n in names if np.ndim(each[n]) == 0)
        for each in given
    ]
    if "" in words or len(set(words)) < len(words):
        return [f"theory {number + 1}" for number in range(len(theories))]
    return words


def _aligned_entries(values: Any) -> list[dict[str, Any]]:
    """The three numbers of an infinitely wide student, M_j^2 = X z^2 / (1 + Y z^2)."""
    names = (("variance", "$X$"), ("saturation", "$Y$"), ("coupling", "$C$"))
    return [
        _entry(getattr(values, name)[:, 0], label, colour(n))
        for n, (name, label) in enumerate(names)
    ]


def _alignment_entries(e: Any, m: Any) -> list[dict[str, Any]]:
    """Alignments of a sequence model; those with positional vectors where there are any."""
    curves: list[dict[str, Any]] = []
    for name, values, first in (("m", m, 0), ("e", e, 1)):
        rows = np.reshape(values, (len(values), -1))
        if name == "e" and not np.any(rows):
            continue
        for n in range(rows.shape[1]):
            label = f"${name}_{{{n + 1}}}$" if rows.shape[1] > 1 else f"${name}$"
            curves.append(_entry(rows[:, n], label, colour(first + 2 * n)))
    return curves


def _student_teacher(M: NDArray[np.float64], units: Sequence[int]) -> list[dict[str, Any]]:
    _, p, k = M.shape
    unit = "j" if p > 1 else "1"
    names = [rf"$M_{{{unit}{r + 1}}}$" if p * k > 1 else "$M$" for r in range(k)]
    return [_entry(M[:, j, r], names[r], colour(r)) for r in range(k) for j in units]


def _wide_entries(M: NDArray[np.float64], Q_perp: NDArray[np.float64]) -> list[dict[str, Any]]:
    """M and Q_perp of units from the least to the most aligned at the end."""
    p = Q_perp.shape[1]
    order = np.argsort(np.abs(M[-1]).max(axis=1), kind="stable")
    units = [int(j) for j in order[np.linspace(0, p - 1, min(p, UNITS)).round().astype(int)]]
    some = f" ({len(units)} of {p})" if len(units) < p else ""
    curves = _student_teacher(M, units)
    return curves + [_entry(Q_perp[:, j], rf"$Q^\perp_j${some}", INK, 1.0, 2) for j in units]


def _draw_trajectory(run: Any, overlaps: Any, risk: Any, style: Any, name: str) -> None:
    draw_overlaps(overlaps, run.t, entries_of(run), style)
    for values, label in _second(run):
        risk.plot(run.t, values, color=INK, linestyle=style, label=label or name, zorder=2)
    if Status(run.status) not in FINE and len(run.t):
        mark_end(run, (overlaps, risk), risk)


def _second(run: Any) -> list[tuple[Any, str]]:
    """Curves of the second panel with their labels: risk, or what a rule measures and learns."""
    if hasattr(run, "risk"):
        return [(run.risk, "")]
    seen = {**getattr(run, "observables", {})} or {
        n: y for n, y in getattr(run, "blocks", {}).items() if np.ndim(y) == 1
    }
    found = [(y, n.replace("_", " ")) for n, y in seen.items()]
    Q = np.asarray(run.Q)
    return found or [(Q[:, j, j], f"$Q_{{{j + 1}{j + 1}}}$") for j in range(Q.shape[1])]


def draw_overlaps(
    panel: Any, t: NDArray[np.float64], curves: Sequence[dict[str, Any]], style: Any
) -> None:
    """Draw curves in the line style of their run, thin and pale where there are many of a kind."""
    sizes = {c["label"]: sum(d["label"] == c["label"] for d in curves) for c in curves}
    for curve in curves:
        crowded = sizes[curve["label"]] > CROWD
        panel.plot(
            t, curve["values"], color=curve["color"], linestyle=style, label=curve["label"],
            linewidth=0.6 if crowded else curve["width"], alpha=0.5 if crowded else 1.0,
            zorder=curve["zorder"],
        )  # fmt: skip


def _draw_ensemble(
    ensemble: Any, overlaps: Any, risk: Any, number: int, theories: Sequence[Any]
) -> None:
    times = np.asarray(ensemble.t)
    at = _spread(times, number)
    draw_averages(overlaps, times, ensemble, number, theories, at)
    risks, errors = (
        [y.risk] if hasattr(ensemble.mean, "risk") else np.diagonal(y.Q, axis1=1, axis2=2).T
        for y in (ensemble.mean, ensemble.stderr)
    )
    label = _describe_seeds(ensemble)
    for values, error in zip(risks, errors, strict=True):
        draw(risk, times[at], values[at], error[at], number, label=label, points=True)


def draw_averages(
    panel: Any, t: Any, ensemble: Any, number: int, theories: Sequence[Any], at: Any = slice(None)
) -> None:
    """Draw mean overlaps of runs with their errors, at some of the times."""
    means, errors = (entries_of(values) for values in aligned(ensemble, theories))
    for mean, error in zip(means, errors, strict=True):
        look = {"color": mean["color"], "label": None if theories else mean["label"]}
        draw(panel, t[at], mean["values"][at], error["values"][at], number, points=True, **look)


def draw(
    panel: Any, t: Any, values: Any, error: Any, number: int, *,
    label: str | None, color: str = INK, points: bool = False,
) -> None:  # fmt: skip
    """Draw a theory as a line with a band of its error, a simulation as points with error bars.

    Line styles and markers differ by the number of the record.
    """
    if points:
        marker = MARKERS[number % len(MARKERS)]
        panel.errorbar(t, values, error, color=color, label=label, marker=marker, **DOTS)
        return
    panel.plot(t, values, color=color, linestyle=line_style(number), label=label)
    panel.fill_between(t, values - error, values + error, color=color, alpha=0.3, lw=0)


def _draw_escape(escape: Any, overlaps: Any, risk: Any) -> None:
    """Mark the time and the threshold of an escape; one that was not seen has no time.

    Of the escape times of many runs it is the median.
    """
    threshold = float(np.median(escape.threshold))
    if escape.reference != "overlap":
        risk.axhline(threshold, color=FAINT, linestyle=":", linewidth=1.0, zorder=1)
    many = hasattr(escape, "quantile")
    time = escape.quantile(0.5) if many else getattr(escape, "value", None)
    if time is not None and np.isfinite(time):
        for panel in (overlaps, risk):
            panel.axvline(time, color=FAINT, linestyle="--", linewidth=1.0, zorder=1)
        words = "median escape" if many else "escape"
        risk.plot([], [], color=FAINT, linestyle="--", label=f"{words} at t = {time:.4g}")


def _describe_seeds(ensemble: Any) -> str:
    counted = ensemble.counted
    if isinstance(counted, int):  # paths of an sde
        dim = ensemble.parameters.get("dim", ensemble.provenance.get("dim"))
        where = "" if dim is None else f"d = {dim:g}: "
        return f"{where}mean of {counted} paths ± standard error"
    return f"d = {ensemble.dim}: mean of {len(counted)} runs ± standard error"


def _spread(times: NDArray[np.float64], offset: int) -> NDArray[np.int64]:
    """Indices of about POINTS saved times, evenly spaced along the axis that will be drawn.

    Successive ensembles are shifted, so that their points do not cover each other.
    """
    if times.size <= POINTS:
        return np.arange(times.size)
    axis = np.log(np.maximum(times, times[times > 0].min())) if wants_log(times) else times
    targets = np.linspace(axis[0], axis[-1], POINTS) + offset * (axis[-1] - axis[0]) / (3 * POINTS)
    return np.unique(np.clip(np.searchsorted(axis, targets), 0, times.size - 1))


def _finish(records: Sequence[Any], overlaps: Any, risk: Any) -> None:
    times = np.concatenate([np.asarray(r.t) for r in records])
    shown = [r.mean if is_ensemble(r) else r for r in records]
    whole = all(hasattr(r, "risk") for r in shown)
    risks = np.concatenate([np.ravel(r.risk if whole else r.Q) for r in shown])
    unit = next((r.provenance["time_unit"] for r in records if "time_unit" in _provenance(r)), "")
    for panel in (overlaps, risk):
        panel.set_xlabel(time_label(unit))
        if all(wants_log(np.asarray(r.t)) for r in records):
            panel.set_xscale("log")
            # The start itself, t = 0, has no place on a logarithmic axis.
            panel.set_xlim(times[times > 0].min(), times.max())
        else:
            panel.set_xlim(0.0, times.max())
        panel.spines[["top", "right"]].set_visible(False)
    overlaps.set_ylabel("overlaps")
    flatten_noise(overlaps)
    risk.set_ylabel(f"risk {symbol('risk')}" if whole else "measures")
    if whole:
        _scale_risk(risk, risks, min(map(noise_of, records)))
    put_legends(overlaps, risk)


def _scale_risk(panel: Any, risks: NDArray[np.float64], noise: float) -> None:
    """Logarithmic where risks span decades; it ends where solvers leave noise."""
    top, low = float(np.nanmax(risks)), float(np.nanmin(risks))
    if top <= noise:
        panel.set_ylim(-0.05, 1.0)
    elif low > 0 and top > 20 * low:
        panel.set_yscale("log")
        if low < noise:
            panel.set_ylim(bottom=noise)
    else:
        flatten_noise(panel)


def _provenance(record: Any) -> Any:
    return getattr(record, "provenance", None) or {}


def plot_escape_times(records: Sequence[Any], ax: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw the distribution of escape times; its area is the fraction of runs that escaped."""
    (ax,) = canvas.axes(ax, "escape times take one", 1, (5.0, 3.6))
    for number, record in enumerate(records):
        times = record.times[np.isfinite(record.times)]
        late = f", {record.censored} not escaped" if record.censored else ""
        label, tone = f"{record.times.size} runs{late}", colour(number)
        if times.size:
            edges = np.histogram_bin_edges(times, "auto")
            heights = np.histogram(times, edges)[0] / (record.times.size * np.diff(edges))
            ax.stairs(heights, edges, fill=True, color=tone, alpha=0.25)
            ax.stairs(heights, edges, color=tone, label=label)
        middle = record.quantile(0.5) if record.censored else record.mean
        if np.isfinite(middle):
            error = "" if record.censored else rf" $\pm$ {record.stderr:.1g}"
            words = f"{'median' if record.censored else 'mean'} {middle:.3g}{error}"
            ax.axvline(middle, color=tone, linestyle="--", linewidth=1.2, label=words)
    ax.set(xlabel="escape time $t$", ylabel="probability density", title=title or "")
    ax.set_ylim(bottom=0.0)
    ax.spines[["top", "right"]].set_visible(False)
    put_legends(ax)
    return ax


def plot_schedule(schedule: Any, axes: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw the control, and the observable that it minimises along its run; return the axes."""
    axes = canvas.axes(axes, "a schedule takes two axes, control and risk", 2, (4.5, 3.4))
    control, risk = axes
    step = "steps-post" if schedule.interpolation == "constant" else "default"
    control.plot(schedule.t, schedule.value, color=colour(0), drawstyle=step)
    control.set(xlabel=r"$\tau$", ylabel=symbol(schedule.control))
    if np.min(schedule.value) > 0.0 and np.ptp(schedule.value) > 29.0 * np.min(schedule.value):
        control.set_yscale("log")
    if schedule.run is not None:
        name = schedule.minimises
        risk.semilogy(schedule.run.t, schedule.run[name], color=colour(1))
        risk.set(xlabel=r"$\tau$", ylabel=r"risk $\mathcal{R}$" if name == "risk" else name)
    if title is not None:
        control.set_title(title)
    return axes

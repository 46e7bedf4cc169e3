"""Overlaps and risk against time: theory as lines, simulation as points with error bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    time_label,
    wants_log,
)
from dmft.errors import BadParameter
from dmft.names import Status

# More error bars than this hide the curve under them.
POINTS = 24
# Beyond this many curves of one kind they are drawn thin and pale.
CROWD = 12
# Units of a wide student that are drawn.
UNITS = 60
# Up to this many curves of a run are named one by one; more by families, with a key to the units.
NAMED = 9
# Up to this many units are told apart, by line style and shade.
TOLD_APART = 8
# Values in the name of a run among others: digits.
DIGITS = 4
FINE = (Status.OK, Status.EVENT)


def is_ensemble(record: Any) -> bool:
    """Whether a record is an ensemble of simulated runs: it has a mean and a standard error."""
    return hasattr(record, "mean") and hasattr(record, "stderr")


def is_escape(record: Any) -> bool:
    """Whether a record is an escape time, seen or censored."""
    return hasattr(record, "threshold") and hasattr(record, "reference")


def plot_runs(records: Sequence[Any], axes: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw trajectories and ensembles into two panels, overlaps and risk; return both axes."""
    if axes is None:
        axes = canvas.panels(2, (5.0, 4.0))
    if np.size(axes) != 2:
        raise BadParameter(f"ax: runs take two axes, overlaps and risk; got {np.size(axes)}")
    overlaps, risk = np.ravel(axes)
    escapes = [r for r in records if is_escape(r)]
    records = [r for r in records if not is_escape(r)]
    theories = [r for r in records if not is_ensemble(r)]
    names = _names_of(theories)
    for number, record in enumerate(records):
        if is_ensemble(record):
            _draw_ensemble(record, overlaps, risk, offset=number, named=not theories)
        else:
            place = next(n for n, theory in enumerate(theories) if theory is record)
            _draw_trajectory(record, overlaps, risk, line_style(6 * place), names[place])
    for escape in escapes:
        _draw_escape(escape, overlaps, risk)
    _finish(records, overlaps, risk)
    if title:
        overlaps.figure.suptitle(title)
    return np.ravel(axes)


def _entries(values: Any) -> list[dict[str, Any]]:
    """Return overlaps as curves: values, label of the family, colour; a sample of wide students."""
    if hasattr(values, "m"):
        return _alignment_entries(getattr(values, "e", np.zeros(len(values.m))), values.m)
    if hasattr(values, "Q_perp"):
        return _wide_entries(values.M, values.Q_perp)
    if hasattr(values, "coupling"):
        return _aligned_entries(values)
    Q, M = values.Q, values.M
    p = M.shape[1]
    curves = _student_teacher(M, range(p))
    for j in range(p):
        family, name = ("$Q_{jj}$", f"$Q_{{{j + 1}{j + 1}}}$") if p > 1 else ("$Q$", "$Q$")
        look = {"label": family, "name": name, **_of_unit(INK, j, p), "zorder": 2}
        curves.append({"values": Q[:, j, j], "width": 1.2, **look})
    pairs = [(j, n) for j in range(p) for n in range(j)]
    for place, (j, n) in enumerate(pairs):
        look = {"label": "$Q_{jl}$", "name": f"$Q_{{{n + 1}{j + 1}}}$", "zorder": 1}
        look |= {"color": FAINT, "linestyle": line_style(6 * place)}
        curves.append({"values": Q[:, j, n], "width": 1.0, **look})
    told = len(curves) <= NAMED
    return [{**curve, "label": curve["name"]} if told else curve for curve in curves]


def _of_unit(base: str, j: int, p: int) -> dict[str, Any]:
    """Line style and shade of unit j of p, where they can be told apart."""
    if p > TOLD_APART:
        return {"color": base, "linestyle": "-"}
    return {"color": shade(base, j, p), "linestyle": line_style(6 * j)}


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
        {"values": getattr(values, name)[:, 0], "label": label, "color": colour(n), "width": 1.6,
         "linestyle": line_style(n), "zorder": 3}
        for n, (name, label) in enumerate(names)
    ]  # fmt: skip


def _alignment_entries(e: Any, m: Any) -> list[dict[str, Any]]:
    """Alignments of a sequence model; those with positional vectors where there are any."""
    curves: list[dict[str, Any]] = []
    for name, values, first in (("m", m, 0), ("e", e, 1)):
        rows = np.reshape(values, (len(values), -1))
        if name == "e" and not np.any(rows):
            continue
        for n in range(rows.shape[1]):
            label = f"${name}_{{{n + 1}}}$" if rows.shape[1] > 1 else f"${name}$"
            look = {"label": label, "color": colour(first + 2 * n), "width": 1.6, "zorder": 3}
            curves.append({"values": rows[:, n], "linestyle": line_style(first), **look})
    return curves


def _student_teacher(M: NDArray[np.float64], units: Sequence[int]) -> list[dict[str, Any]]:
    _, p, k = M.shape
    curves: list[dict[str, Any]] = []
    for r in range(k):
        name = rf"$M_{{j{r + 1}}}$" if p > 1 else rf"$M_{{1{r + 1}}}$" if k > 1 else "$M$"
        for j in units:
            one = rf"$M_{{{j + 1}{r + 1}}}$" if p > 1 else name
            look = {"label": name, "name": one, **_of_unit(colour(r), j, p), "zorder": 3}
            if r >= len(COLOURS):
                look["linestyle"] = line_style(r)
            curves.append({"values": M[:, j, r], "width": 1.6, **look})
    return curves


def _wide_entries(M: NDArray[np.float64], Q_perp: NDArray[np.float64]) -> list[dict[str, Any]]:
    """M and Q_perp of units from the least to the most aligned at the end."""
    p = Q_perp.shape[1]
    order = np.argsort(np.abs(M[-1]).max(axis=1), kind="stable")
    units = [int(j) for j in order[np.linspace(0, p - 1, min(p, UNITS)).round().astype(int)]]
    some = f" ({len(units)} of {p})" if len(units) < p else ""
    look = {"label": rf"$Q^\perp_j${some}", "color": INK, "linestyle": "-", "zorder": 2}
    curves = _student_teacher(M, units)
    return curves + [{"values": Q_perp[:, j], "width": 1.0, **look} for j in units]


def _draw_trajectory(run: Any, overlaps: Any, risk: Any, style: str, name: str) -> None:
    curves = _entries(run)
    sizes = {c["label"]: sum(d["label"] == c["label"] for d in curves) for c in curves}
    for curve in curves:
        crowded = sizes[curve["label"]] > CROWD
        overlaps.plot(
            run.t,
            curve["values"],
            color=curve["color"],
            linestyle=curve["linestyle"] if style == "-" else style,
            linewidth=0.6 if crowded else curve["width"],
            alpha=0.5 if crowded else 1.0,
            label=curve["label"],
            zorder=curve["zorder"],
        )
    risk.plot(run.t, run.risk, color=INK, linestyle=style, label=name, zorder=2)
    if Status(run.status) not in FINE and len(run.t):
        mark_end(run, (overlaps, risk), risk)


def _draw_ensemble(ensemble: Any, overlaps: Any, risk: Any, offset: int, named: bool) -> None:
    times = np.asarray(ensemble.t)
    at = _spread(times, offset)
    means = _entries(ensemble.mean)
    errors = _entries(ensemble.stderr)
    dots: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 3.0, "capsize": 1.5}
    dots |= {"elinewidth": 0.8, "zorder": 4}
    for mean, error in zip(means, errors, strict=True):
        overlaps.errorbar(
            times[at], mean["values"][at], error["values"][at], color=mean["color"],
            label=mean["label"] if named else None, **dots,
        )  # fmt: skip
    risk.errorbar(
        times[at], ensemble.mean.risk[at], ensemble.stderr.risk[at],
        color=colour(1 + offset), label=_describe_seeds(ensemble), **dots,
    )  # fmt: skip


def _draw_escape(escape: Any, overlaps: Any, risk: Any) -> None:
    """Mark the time and the threshold of an escape; one that was not seen has no time."""
    if escape.reference != "overlap":
        risk.axhline(escape.threshold, color=FAINT, linestyle=":", linewidth=1.0, zorder=1)
    time = getattr(escape, "value", None)
    if time is not None:
        for panel in (overlaps, risk):
            panel.axvline(time, color=FAINT, linestyle="--", linewidth=1.0, zorder=1)
        risk.plot([], [], color=FAINT, linestyle="--", label=f"escape at t = {time:.4g}")


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
    risks = np.concatenate([np.asarray(r.mean.risk if is_ensemble(r) else r.risk) for r in records])
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
    risk.set_ylabel(f"risk {symbol('risk')}")
    if np.all(risks > 0) and risks.max() > 20 * risks.min():
        risk.set_yscale("log")
    wanted = []
    for panel in (overlaps, risk):
        handles, names = named_once(panel)
        keys = _keys_of_units(records) if panel is overlaps else []
        wanted.append((panel, handles + keys, names + [key.get_label() for key in keys]))
    put_legends(*wanted)


def _keys_of_units(records: Sequence[Any]) -> list[Any]:
    """What a legend of families says of the units of each."""
    from matplotlib.lines import Line2D

    values = [record.mean if is_ensemble(record) else record for record in records]
    widths = [each.M.shape[1] for each in values if hasattr(each, "Q") and hasattr(each, "M")]
    p = max(widths, default=1)
    if not 1 < p <= TOLD_APART or all(len(_entries(each)) <= NAMED for each in values):
        return []
    return [Line2D([], [], **_of_unit(INK, j, p), label=f"$j = {j + 1}$") for j in range(p)]


def _provenance(record: Any) -> Any:
    return getattr(record, "provenance", None) or {}


def plot_schedule(schedule: Any, axes: Any, *, canvas: Canvas, title: str | None) -> Any:
    """Draw the control, and the risk and H of its run where they are known; return the axes."""
    if axes is None:
        axes = canvas.panels(2, (4.5, 3.4))
    if np.size(axes) != 2:
        raise BadParameter(f"ax: a schedule takes two axes, control and risk; got {np.size(axes)}")
    control, risk = np.ravel(axes)
    step = "steps-post" if schedule.interpolation == "constant" else "default"
    control.plot(schedule.t, schedule.value, color=colour(0), drawstyle=step)
    control.set(xlabel=r"$\tau$", ylabel=symbol(schedule.control))
    if np.max(schedule.value) > 30.0 * max(np.min(schedule.value), 1e-300):
        control.set_yscale("log")
    if schedule.run is not None:
        risk.semilogy(schedule.run.t, schedule.run.risk, color=colour(1))
        risk.set(xlabel=r"$\tau$", ylabel=r"risk $\mathcal{R}$")
    if schedule.hamiltonian is not None:
        middle = float(np.median(schedule.hamiltonian))
        risk.set_title(f"H = {middle:.5g}, spread {np.ptp(schedule.hamiltonian):.1e}", fontsize=9)
    if title is not None:
        control.set_title(title)
    return np.ravel(axes)

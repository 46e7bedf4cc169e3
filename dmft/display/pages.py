"""Pages of records in notebooks: facts as a table, formulas, a small picture."""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp

from dmft.errors import BadParameter, MissingExtra
from dmft.model import SGD, Committee, GradientDescent, GradientFlow, Model
from dmft.record import Record, Short, Shown, summary_of
from dmft.summary import Summary

Facts = list[tuple[str, str]]
# Entries of a matrix that is written out, characters of a text, rows of a table.
ENTRIES, LONGEST, MOST_ROWS = 16, 160, 24
# Longer formulas would fill the table.
LONGEST_LATEX = 600
ALGORITHMS = {
    SGD: "stochastic gradient descent, fresh samples",
    GradientFlow: "gradient flow of the population risk",
    GradientDescent: "gradient descent on repeated data",
}


def facts_of(record: Any) -> Facts:
    """Names and values, most important first."""
    if isinstance(record, Model):
        return _of_model(record)
    if isinstance(record, Committee):
        return [("network", committee_latex(record)), *_declared(record)]
    if not is_dataclass(record):
        return [("", value(record))]
    found = _declared(record)
    kind = next((words for one, words in ALGORITHMS.items() if isinstance(record, one)), None)
    return [("algorithm", kind), *found] if kind else found


def _declared(record: Any) -> Facts:
    """Fields that differ from their defaults."""
    rows: Facts = []
    for one in fields(record):
        given = getattr(record, one.name)
        default = one.default
        is_default = (
            default is not MISSING and type(given) is type(default) and not _differs(given, default)
        )
        if one.repr and not one.name.startswith("_") and given is not None and not is_default:
            rows.append((one.name.replace("_", " "), value(given)))
    return rows[:MOST_ROWS] or [("", value(record))]


def _differs(a: Any, b: Any) -> bool:
    return not (a is b or (not isinstance(a, np.ndarray) and bool(a == b)))


def _of_model(model: Model) -> Facts:
    rows: Facts = [("student", _declaration(model.student))]
    if model.label_clusters is None:
        rows.append(("teacher", _declaration(model.teacher)))
    if model.label_noise != 0:
        rows.append(("label noise", rf"$\Delta = {sp.latex(model.label_noise)}$"))
    if model.inputs is not None:
        rows.append(("inputs", value(model.inputs)))
    return rows


def _declaration(network: Any) -> str:
    """A network or a target as a formula."""
    if isinstance(network, Committee):
        return committee_latex(network)
    return f"${network._repr_latex_().strip('$')}$"


def committee_latex(network: Committee) -> str:
    """The function of a committee."""
    width, field = sp.latex(network.width), network.activation.free_symbols
    local = sp.Symbol("h_j", real=True)
    named = {s: local for s in field if s.name == "z"}
    body = sp.latex(network.activation.xreplace(named))
    readout = "" if network.readout is None else "a_j "
    if network.width == 1 and network.readout is None:
        return rf"$f = {sp.latex(network.activation.xreplace({s: sp.Symbol('h') for s in named}))}$"
    left = rf"\left({body}\right)" if network.activation.is_Add else body
    text = rf"$f = \frac{{1}}{{{width}}} \sum_{{j=1}}^{{{width}}} {readout}{left}$"
    given = ", ".join(map(sp.latex, network.readout or ()))
    return f"{text}, $a = ({given})$" if given else text


def value(given: Any) -> str:
    """A value in a table."""
    if isinstance(given, sp.MatrixBase | sp.Basic):
        text = sp.latex(given)
        return f"${text}$" if len(text) <= LONGEST_LATEX else _short(str(given))
    if isinstance(given, np.ndarray):
        return _array(given)
    if isinstance(given, bool | str) or given is None:
        return _short(str(given))
    if isinstance(given, float | np.floating):
        return f"{given:.8g}"
    if isinstance(given, Record) and not isinstance(given, Short):
        return _in_a_cell(given)
    if isinstance(given, Mapping):
        return ", ".join(f"{n}: {value(y)}" for n, y in list(given.items())[:8])
    if isinstance(given, tuple | list):
        more = ", ..." if len(given) > 8 else ""
        return f"({', '.join(value(each) for each in given[:8])}{more})"
    text = repr(given) if isinstance(given, Shown) else str(given)
    # A record of the inside that holds arrays: its name.
    return type(given).__name__ if "array(" in text else _short(text)


def _in_a_cell(record: Record) -> str:
    """A record in a record: its number, the time that it was watched, or its name."""
    number, horizon = (getattr(record, name, None) for name in ("value", "horizon"))
    if isinstance(number, float):
        return f"{number:.8g}"
    return f"not before {horizon:.8g}" if isinstance(horizon, float) else type(record).__name__


def _array(array: np.ndarray[Any, Any]) -> str:
    if array.ndim == 0:
        return value(array.item())
    if array.ndim > 2 or array.size > ENTRIES or array.dtype.kind not in "fiuc":
        return f"array of shape {array.shape}"
    rows = [" & ".join(f"{x:.4g}" for x in row) for row in np.atleast_2d(array)]
    inside = r" \\ ".join(rows)
    return rf"$\begin{{bmatrix}}{inside}\end{{bmatrix}}$"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


# Records with a picture, by the names of their classes: `dmft.plot` draws them.
DRAWN = frozenset(
    {
        "Trajectory", "Ensemble", "PathEnsemble", "SequenceEnsemble", "DescentRun",
        "DescentEnsemble", "TwoTimeRun", "PhaseDiagram", "RegionDiagram", "Boundary", "Sweep",
        "Regimes", "Landscape", "BatchExponents", "EscapeTimes", "NetworkRun", "NetworkEnsemble",
    }
)  # fmt: skip
DOTS_PER_INCH, PIXELS = 100, 560


def page(record: Any) -> str | None:
    """HTML of a record; None where a notebook shows its `_repr_latex_` instead."""
    drawn, summary = picture(record), summary_of(record)
    has_formula = hasattr(record, "_repr_latex_")
    if drawn is None and summary is None and has_formula:
        return None
    formula = formulas(record._repr_latex_()) if has_formula else ""
    if summary is None:
        summary = Summary("", () if formula else tuple(facts_of(record)))
    shown = type(record).__name__
    return f"<div><b>{escape(shown)}</b>{drawn or ''}{formula}{summary.html()}</div>"


def formulas(text: str) -> str:
    """LaTeX as a notebook shows it: headings in HTML, no comments."""
    lines = [line for line in text.split("\n") if not line.startswith("%")]
    body = re.sub(r"\\paragraph\{(.*)\}", r"<p><b>\1</b></p>", "\n".join(lines))
    return f"<div>{body}</div>"


def picture(record: Any) -> str | None:
    """The figure of a record as an image in the text; None without matplotlib or a figure."""
    if not {one.__name__ for one in type(record).__mro__} & DRAWN:
        return None
    from dmft.display.plots import plot

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        try:
            plot(record, path=path, dpi=DOTS_PER_INCH)
        except (MissingExtra, BadParameter, ValueError, IndexError):
            return None  # an empty run, a sweep over one parameter: the facts say it
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    size = f'style="width:{PIXELS}px;max-width:100%;display:block"'
    return f'<img {size} alt="{type(record).__name__}" src="data:image/png;base64,{data}">'

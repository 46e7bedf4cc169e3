"""The page of a record: its name, facts and picture, or nothing where its formula says it all."""

from __future__ import annotations

import base64
import tempfile
from html import escape
from pathlib import Path
from typing import Any

from dmft.display.pages.facts import Facts, facts_of
from dmft.errors import BadParameter, MissingExtra

# Records with a picture, by the names of their classes: `dmft.plot` draws them.
DRAWN = frozenset(
    {
        "Trajectory", "Ensemble", "PathEnsemble", "SequenceEnsemble", "DescentRun",
        "DescentEnsemble", "TwoTimeRun", "PhaseDiagram", "RegionDiagram", "Boundary", "Sweep",
        "Regimes", "Landscape", "BatchExponents",
    }
)  # fmt: skip
DOTS_PER_INCH, PIXELS = 100, 560
CELL = 'style="text-align:left;vertical-align:top;padding:1px 10px 1px 0;border:none"'


def page(record: Any) -> str | None:
    """HTML of a record; None where a notebook shows its `_repr_latex_` instead."""
    drawn = picture(record)
    if drawn is None and hasattr(record, "_repr_latex_"):
        return None
    shown = type(record).__name__
    formula = f"<div>{record._repr_latex_()}</div>" if hasattr(record, "_repr_latex_") else ""
    facts = [] if formula else facts_of(record)
    return f"<div><b>{escape(shown)}</b>{drawn or ''}{formula}{table(facts)}</div>"


def table(facts: Facts) -> str:
    """Names and values in two columns without lines."""
    rows = [
        f"<tr><td {CELL}>{name.replace('_', ' ') if '$' not in name else name}</td>"
        f"<td {CELL}>{value}</td></tr>"
        for name, value in facts
    ]
    return f'<table style="border:none">{"".join(rows)}</table>' if rows else ""


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

r"""Standalone LaTeX documents around the equations of a record."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dmft.display.bibliography import bibtex
from dmft.display.declaration import declaration, escape, sources, validity
from dmft.equations.views.fragment import fitted
from dmft.errors import BadParameter

if TYPE_CHECKING:
    from dmft.equations.views.printer import Notation

PREAMBLE = r"""\documentclass[11pt,a4paper%s]{article}
\usepackage[T1]{fontenc}
\usepackage[textwidth=%gpt,textheight=24cm]{geometry}
\usepackage{amsmath,amssymb}
\setlength{\columnsep}{18pt}
\allowdisplaybreaks
\raggedright
\hfuzz=0.5pt
"""
# Lines below this are set in two columns; widths that the layout is made for.
TWO_COLUMNS, NARROWEST, WIDEST = 260.0, 200.0, 520.0


class HasLatex(Protocol):
    """Anything with a `.latex()`: equations, a risk, a formula."""

    def latex(self) -> str:
        """LaTeX text, in its own display environments."""


def latex(
    path: str | Path,
    *objects: Any,
    width: float = 246.0,
    notation: Notation = None,
    explain: bool = False,
    title: str = "",
    note: str = "",
) -> Path:
    r"""Write a standalone LaTeX document about these objects, and its bibliography beside it.

    Equations come with their declaration, the equations, definitions, the risk, a statement of
    scaling and validity, and references; other records with their formulas.

    Parameters
    ----------
    path : str or Path
        The file, which ends in ``.tex``; the ``.bib`` of the same name stands beside it.
    *objects
        Equations, explicit equations, risks, formulas: anything with `.latex()`.
    width : float
        Points of a line, 200 to 520: 246 sets two columns, more than 260 one.
    notation : "saad-solla", "krzakala", mapping or None
        Letters, as of `Equations.latex`.
    explain : bool
        Append derivations (`dmft.explain`).
    title, note : str
        Plain text, escaped here.

    Returns
    -------
    Path
        The document.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft, tempfile
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = dmft.latex(f"{folder}/square.tex", eqs)
    ...     file.name, file.with_suffix(".bib").exists()
    ('square.tex', True)
    """
    file = Path(path)
    if file.suffix != ".tex":
        raise BadParameter(f"the document's name must end in .tex, got {str(path)!r}")
    if not NARROWEST <= width <= WIDEST:
        raise BadParameter(
            f"width = {width} points; lines of {NARROWEST:g} (a column) to {WIDEST:g} (a page)"
        )
    if not objects:
        raise BadParameter("there is nothing to print: pass equations, a risk, a formula")
    for one in objects:
        if not hasattr(one, "latex"):
            raise BadParameter(f"{type(one).__name__} has no LaTeX: {one!r:.80}")
    keys = _citations(objects)
    text = document(
        *objects,
        title=title,
        note=note,
        width=width,
        notation=notation,
        explain=explain,
        keys=keys,
        bibliography=file.stem,
    )
    file.write_text(text, encoding="utf-8")
    file.with_suffix(".bib").write_text(bibtex(*keys) + "\n", encoding="utf-8")
    return file


def document(
    *records: HasLatex,
    title: str = "",
    note: str = "",
    width: float = 482.0,
    notation: Notation = None,
    explain: bool = False,
    keys: Sequence[str] = (),
    bibliography: str = "",
) -> str:
    r"""Return a LaTeX document (article, amsmath) that shows these records one after another.

    Parameters
    ----------
    *records
        Objects with `.latex()`.
    title, note : str
        Plain text, escaped here.
    width, notation, explain
        As of `latex`.
    keys : sequence of str
        Cited entries of the bibliography.
    bibliography : str
        Name of the `.bib` file; none where it is empty.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> from dmft.display.latex import document
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.SGD(0.1))
    >>> document(eqs, title="phase retrieval").splitlines()[0]
    '\\documentclass[11pt,a4paper]{article}'
    """
    two = width < TWO_COLUMNS
    preamble = PREAMBLE % (",twocolumn" if two else "", 2 * width + 18 if two else width)
    parts = [rf"\section*{{{escape(title)}}}"] if title else []
    parts += [escape(note)] if note else []
    for record in records:
        parts += _sections(record, width, notation)
    if explain:
        parts += _explained(records, width)
    if bibliography and keys:
        cited = ", ".join(rf"\cite{{{key}}}" for key in keys)
        parts += [rf"\section*{{Sources}} Equations and averages of this kind: {cited}."]
        parts += [r"\bibliographystyle{plain}", rf"\bibliography{{{bibliography}}}"]
    body = "\n\n".join(part for part in parts if part)
    return f"{preamble}\\begin{{document}}\n{body}\n\\end{{document}}\n"


def _sections(record: Any, width: float, notation: Notation) -> list[str]:
    """What a document says about one record."""
    text = fragment(record, width, notation)
    if not hasattr(record, "time_unit"):
        return [text]
    return [
        r"\subsection*{Declaration}",
        declaration(record, width, notation),
        r"\subsection*{Equations}",
        text,
        r"\subsection*{Scaling and validity}",
        validity(record),
    ]


def fragment(record: Any, width: float, notation: Notation = None) -> str:
    """LaTeX of a record, with lines of at most `width` points."""
    accepted = _accepted(record.latex)
    options = {n: v for n, v in (("width", width), ("notation", notation)) if n in accepted}
    text = str(record.latex(**options))
    text = "\n".join(y for y in text.split("\n") if not y.startswith("%"))
    return text if "width" in accepted else fitted(_displayed(text), width)


def _accepted(function: Any) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {"width", "notation"}
    return {p.name for p in parameters}


def _displayed(text: str) -> str:
    r"""Formulas without an environment in one of their own."""
    if r"\begin{align" in text:
        return text
    plain = text.strip().strip("$").removeprefix(r"\displaystyle").strip()
    if r"\begin{array}" in plain or r"\begin{tabular}" in plain:
        return text
    plain = plain.removeprefix(r"\[").removesuffix(r"\]")
    sides = re.split(r"(?<!\\)=", plain, maxsplit=1)
    row = f"{sides[0]} &= {sides[1]}" if len(sides) == 2 else f"& {plain}"
    return f"\\begin{{align*}}\n{row}\n\\end{{align*}}"


def _explained(records: Iterable[Any], width: float) -> list[str]:
    """Derivations of the records."""
    found = [r"\section*{Derivation}"]
    for record in records:
        if not hasattr(record, "explain"):
            raise BadParameter(f"explain=True: {type(record).__name__} has no derivation")
        found.append(fragment(record.explain(), width))
    return found


def _citations(records: Iterable[Any]) -> list[str]:
    """Keys of the papers whose equations these are."""
    return list(dict.fromkeys(key for record in records for key in sources(record)))

r"""Standalone LaTeX documents around the equations of a record."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from dmft.display.bibliography import bibtex, sources, subject
from dmft.display.declaration import LIMIT, declaration, escape
from dmft.equations.explained.notation import names_of
from dmft.equations.explained.printed import printed_blocks
from dmft.equations.views.explicit import ExplicitEquations
from dmft.equations.views.latex import only_rate
from dmft.equations.views.laws import with_risk
from dmft.equations.views.token_outputs import OUTPUTS
from dmft.errors import BadParameter
from dmft.explanation.latex import rules_latex
from dmft.explanation.paragraphs import LAWS, Step, rules_of, without_laws
from dmft.explanation.steps import Explanation
from dmft.model import SGD, GradientDescent, GradientFlow, Model
from dmft.record import summary_of
from dmft.typeset.fragment import (
    ALIGN,
    align,
    equations_of,
    fitted,
    labelled,
    punctuated,
    split_rows,
    together,
)
from dmft.validation import checked, checked_or, shown

if TYPE_CHECKING:
    from dmft.equations.views.printer import Notation

ALGORITHMS = (SGD, GradientFlow, GradientDescent)
# Brackets have no space around them, as in \pi(1 + Q).
PREAMBLE = r"""\documentclass[%s,a4paper]{article}
\usepackage[T1]{fontenc}
\usepackage[textwidth=%gpt,textheight=25cm]{geometry}
\usepackage{amsmath,amssymb}
\setlength{\columnsep}{18pt}
\allowdisplaybreaks
\let\leftbracket\left \let\rightbracket\right
\renewcommand{\left}{\mathopen{}\mathclose\bgroup\leftbracket}
\renewcommand{\right}{\aftergroup\egroup\rightbracket}
\raggedright
\setlength{\parindent}{1em}
\raggedbottom
\hfuzz=0.5pt
\makeatletter
\renewcommand{\@openbib@code}{\setlength{\itemsep}{0pt}\setlength{\parsep}{0pt}}
\makeatother
"""
BREAKS = re.compile(r"\\(?:[bB]igg?[lr]|left|right|q?quad|notag)(?![a-z])|[&\s]")
PARAGRAPH = "\n\0\n"
# What a document says in its first sentences: units, and labels without noise.
OF_DECLARATION = re.compile(
    r"^Outputs are sums over units, .*\n|(?<=Here )\$(?:\\Delta|\\sigma\^2) = 0\$(?:, |(?=\.))"
    r"|, \$(?:\\Delta|\\sigma\^2) = 0\$(?=[,.])|^Here \$(?:\\Delta|\\sigma\^2) = 0\$\.\n?",
    re.MULTILINE,
)
# What is said of the blocks of a spectrum, and sums over them.
BLOCKS_TOLD = re.compile(
    r"\nHere block \$e =[^\n]* of the coordinates\.|block \$e = [^\n]* of the coordinates, "
    r"|, block \$e =[^\n]* of the coordinates(?=\.)"
)
OF_BLOCKS = re.compile(r"[A-Z](_\{[^}]*\})? &= \\sum_\{e=1\}\^\{B\} c_\{e\} [A-Z]_\{e")
NAMES_OF_TERMS = re.compile(r"\nTerms in this order: [^.]*\.(?=\n|$)")
# A sentence in front of equations that have gone.
LEADS = re.compile(r"^(?:where|[^\n]*(?:[:,]| is| are))\n(?=\s*\Z|\n)", re.MULTILINE)
# Where a step says how it was checked.
NUMBERS_OF_CHECK = re.compile(r"Checked with [^.]*\.")
NOISELESS = r"The variance of the label noise is $\Delta$, which is zero in the equations above."
NO_NOISE = re.compile(r"\$[^$\n]*\\Delta[^$\n]*\$")
# Lines below this are set in two columns; widths that the layout is made for.
TWO_COLUMNS, NARROWEST, WIDEST = 260.0, 200.0, 520.0


class HasLatex(Protocol):
    """Anything with a `.latex()`: equations, a risk, a formula."""

    def latex(self) -> str:
        """LaTeX text, in its own display environments."""


@checked_or(path='the name of the file comes first, as in dmft.latex("note.tex", equations)')
def latex(
    path: str | Path,
    *objects: Any,
    width: float = 246.0,
    notation: Notation = None,
    explain: bool = False,
    title: str = "",
    note: str = "",
) -> Path:
    r"""Write a standalone LaTeX document about the given objects, and its bibliography.

    For equations the document states model, algorithm and limit, the equations, their definitions,
    the risk, and references; for other records their formulas.

    Parameters
    ----------
    path : str or Path
        File to write, which ends in ``.tex``. The ``.bib`` file has the same name and folder.
    *objects
        Equations, risks, formulas and other objects with a method `latex`.
    width : float
        Line width in points, 200 to 520. Up to 260 the document has two columns (of 246 points
        each), otherwise one.
    notation : "saad-solla", "scalar", "krzakala", mapping or None
        Notation, as in `Equations.latex`.
    explain : bool
        Append derivations (`dmft.explain`), for equations the derivations of all rates.
        Explanations can also be passed as objects.
    title, note : str
        Plain text; special characters are escaped.

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
            f"width = {width} must be between {NARROWEST:g} (a column) and {WIDEST:g} points (a "
            "page); widths in inches are for dmft.plot"
        )
    if not objects:
        raise BadParameter("latex requires at least one object: equations, a risk or a formula")
    for one in objects:
        if isinstance(one, Model):
            raise BadParameter(
                "a model is printed with its equations or its risk: pass dmft.derive(model, "
                "algorithm) or dmft.population_risk(model)"
            )
        if not hasattr(one, "latex") and not hasattr(one, "_repr_latex_") and not summary_of(one):
            raise BadParameter(
                f"{type(one).__name__} has no LaTeX: {one!r:.80}; only equations, risks, "
                "formulas, averages, exponents, explanations and results have it"
            )
    derivations = [d for one in objects for d in _derivations(one)] if explain else []
    cited = _citations([*objects, *derivations])
    text = document(
        *objects,
        title=title,
        note=note,
        width=width,
        notation=notation,
        derivations=derivations,
        cited=cited,
        bibliography=file.stem,
    )
    references = (bibtex(*chain(*cited.values())) if cited else "") + "\n"
    try:
        file.write_text(text, encoding="utf-8")
        file.with_suffix(".bib").write_text(references, encoding="utf-8")
    except OSError as error:
        raise BadParameter(f"cannot write {file}: {error.strerror}") from error
    return file


@checked
def cite(*objects: Any) -> str:
    """Return BibTeX entries of the papers cited by the given objects.

    Parameters
    ----------
    *objects
        Equations, risks, formulas or explanations, or a model and its algorithm.

    Returns
    -------
    str
        Entries of a `.bib` file.

    Raises
    ------
    BadParameter
        If no object is given.

    Examples
    --------
    >>> import dmft
    >>> model = dmft.literature.phase_retrieval(1)
    >>> eqs = dmft.derive(model, dmft.SGD(0.1, constraint="sphere"))
    >>> [line for line in dmft.cite(eqs).splitlines() if "@" in line][-1]
    '@article{ben_arous_2021,'
    >>> dmft.cite(model, dmft.SGD(0.1)) == dmft.cite(dmft.derive(model, dmft.SGD(0.1)))
    True
    """
    if not objects:
        raise BadParameter("cite requires at least one object: equations, or a model and algorithm")
    model = next((one for one in objects if isinstance(one, Model)), None)
    algorithm = next((one for one in objects if isinstance(one, ALGORITHMS)), None)
    rest = [one for one in objects if one is not model and one is not algorithm]
    for one in rest:
        if not isinstance(one, Explanation) and not hasattr(one, "model"):
            raise BadParameter(
                f"cite: {shown(one)} has no citations; pass equations, risks, explanations, or "
                "a model and its algorithm"
            )
    declared = [SimpleNamespace(model=model, algorithm=algorithm)] if model or algorithm else []
    return bibtex(*chain(*_citations([*declared, *rest]).values()))


def document(
    *records: HasLatex,
    title: str = "",
    note: str = "",
    width: float = 482.0,
    notation: Notation = None,
    derivations: Sequence[Any] = (),
    cited: Mapping[str, Sequence[str]] | None = None,
    bibliography: str = "",
) -> str:
    """Return a LaTeX document (article, amsmath) that shows these records one after another."""
    two = width < TWO_COLUMNS
    preamble = PREAMBLE % ("10pt,twocolumn" if two else "11pt", 2 * width + 18 if two else width)
    parts = [rf"\section*{{{escape(title)}}}"] if title else []
    parts += [escape(note)] if note else []
    cite = bool(bibliography and cited)
    several = sum(isinstance(y, Explanation) for y in records) > 1
    kept = _said_once(records, alone=True) if several else records
    derivations = _said_once(derivations)
    explained = [y for y in (*kept, *derivations) if isinstance(y, Explanation)]
    rules = rules_of(explained) if len(explained) > 1 else None
    stated = [r"\section*{Rules}", rules_latex(rules, width, cite)] if rules else []
    displayed, model, said = set[str](), None, ""
    systems, number, last = sum(hasattr(y, "time_unit") for y in kept), 0, 0
    for record in kept:
        if hasattr(record, "time_unit") or getattr(record, "model", model) != model:
            displayed.clear()  # letters of another model mean something else
            said = ""
        model = getattr(record, "model", model)
        if stated and isinstance(record, Explanation):
            parts, stated = [*parts, *stated], []
        number += systems > 1 and hasattr(record, "time_unit")
        sections = _sections(record, width, notation, cite, rules, number)
        # Explanations and equations written out begin from what is not declared otherwise.
        if not (explained or any(isinstance(y, ExplicitEquations) for y in kept)):
            sections = [OF_DECLARATION.sub("", text) for text in sections]
        if not isinstance(record, Explanation):
            sections = [_without_displayed(_not_again(text, said), displayed) for text in sections]
            said += "".join(sections)
            sections, last = labelled([*map(punctuated, sections)], last)
        parts += sections
    parts += stated
    if derivations:
        derived = [
            escape(one) if isinstance(one, str) else fragment(one, width, None, cite, rules)
            for one in derivations
        ]
        text = "".join(derived)
        is_open = r"\Delta" in text and NO_NOISE.search("".join(parts) + text) is None
        noiseless = is_open and getattr(model, "label_noise", None) == 0
        parts += [r"\section*{Derivation}", NOISELESS if noiseless else "", *derived]
    if cited and bibliography:
        told = (rf"{what} are derived in \cite{{{','.join(y)}}}." for what, y in cited.items())
        parts.append(" ".join(told))
        parts += [r"\small", r"\bibliographystyle{unsrt}"]
        parts += [rf"\bibliography{{{bibliography}}}"]
    body = ALIGN.sub(together, "\n\n".join(part for part in parts if part))
    return f"{preamble}\\begin{{document}}\n{body}\n\\end{{document}}\n"


def _without_displayed(text: str, displayed: set[str]) -> str:
    """Text without equations that the document displays before, to which it adds its own."""

    def kept(match: re.Match[str]) -> str:
        equations = equations_of(match.group(3))
        fresh = [rows for rows in equations if _unbroken(rows) not in displayed]
        displayed.update(map(_unbroken, equations))
        if len(fresh) == len(equations):
            return match.group()
        return align([*chain(*fresh)], match.group(2))

    return LEADS.sub("", ALIGN.sub(kept, text))


def _unbroken(rows: Sequence[str]) -> str:
    """An equation without what depends on its line breaks."""
    return BREAKS.sub("", "".join(rows))


def _said_once(derivations: Sequence[Any], alone: bool = False) -> list[Any]:
    """Derivations, without what the document says before.

    Proofs and sentences of earlier ones are left out, and so are proofs of laws that a rule states
    and, unless derivations are `alone`, letters of the declaration.
    """
    seen: set[object] = set()
    found: list[Any] = []
    for one in derivations:
        if not isinstance(one, Explanation):
            found.append(one)
            continue
        steps = one.steps if alone else without_laws(one.steps, set(LAWS))
        keys = [_proof(step) for step in steps]
        kept = [
            replace(step, note=NUMBERS_OF_CHECK.sub("", step.note)) if found else step
            for key, step in zip(keys, steps, strict=True)
            if step.depth == 0 or key not in seen
        ]
        printed = names_of(kept)
        told = tuple(
            m
            for m in one.notation
            if m.latex not in seen
            and (alone or (not m.declared and (not m.names or printed & {*m.names})))
        )
        if one.appendix and one.appendix in seen:  # what is computed of a sample
            one = replace(one, appendix=())
            told = tuple(m for m in told if not m.latex.endswith(" are"))
        seen |= {*keys, one.appendix, *(m.latex for m in told)}
        found.append(replace(one, steps=tuple(kept), notation=told))
    return found


def _proof(step: Step) -> tuple[object, ...]:
    """What a step says; an average of other fields with the same covariances says the same."""
    return (step.rule, step.after) if step.rule == "pair" else (step.rule, step.before, step.after)


def _sections(
    record: Any, width: float, notation: Notation, cite: bool, rules: Mapping[str, int] | None,
    titled: int,
) -> list[str]:  # fmt: skip
    """What a document says about one record."""
    text = NAMES_OF_TERMS.sub("", fragment(record, width, notation, cite, rules))
    if not hasattr(record, "time_unit"):
        if isinstance(lead := getattr(record, "lead", None), str):
            return [f"{lead}\n{text}"]
        name = getattr(record, "name", "") if hasattr(record, "pairs") else ""
        return [f"The equations of the {name} are\n{text}" if name else text]
    if getattr(record, "family", "") == "rule":  # which is printed with its equations
        return [text]
    title = [rf"\subsection*{{System {titled}}}"] if titled else []
    declared = declaration(record, width, notation, text)
    text = with_risk(text.partition(OUTPUTS)[0], record, notation)
    text, several = _not_again(text, declared), "" if only_rate(text) else "s"
    lead = f"the equation{several} of motion"
    if declared.endswith(f"{LIMIT}."):
        return [*title, f"{declared.removesuffix('.')} {lead}\n{text}"]
    return [*title, declared, f"{lead.capitalize()} {'are' if several else 'is'}\n{text}"]


def _not_again(text: str, declared: str) -> str:
    """Text without the formulas in the sentences of a declaration."""
    rows = (row for y in ALIGN.finditer(declared) for row in split_rows(y.group(3)))
    stated = re.findall(r"\$([^$]*)\$", ALIGN.sub("", declared))
    stated += [y.replace("&", "").rstrip(",.") for row in rows for y in row.split(r",\quad ")]
    outputs = {
        y.partition(" ")[0] for y in re.findall(r"^(?:f|y|\\zeta) &=", declared, re.MULTILINE)
    }

    def kept(match: re.Match[str]) -> str:
        formulas = (y for row in split_rows(match.group(3)) for y in row.split(r",\quad "))
        every = {y.replace("&", "").strip().replace("^{2}", "^2") for y in formulas}
        if every <= {*stated}:
            return ""
        equations = equations_of(match.group(3))
        fresh = [
            rows
            for rows in equations
            if rows[0].partition(" ")[0] not in outputs
            and not (r"blockdiag" in declared and OF_BLOCKS.match(rows[0]))
            and not {y.strip("& ") for y in rows[0].split(r",\quad ")} <= {*stated}
        ]
        if len(fresh) == len(equations):
            return match.group()
        return align([*chain(*fresh)], match.group(2))

    text = text.replace("\n\n", PARAGRAPH)
    text = LEADS.sub("", ALIGN.sub(kept, text)).replace("\n\n", "\n")
    text = BLOCKS_TOLD.sub("", text) if "blockdiag" in declared else text
    for line in stated:
        text = text.replace(f"Here ${line}$.", "").replace(f"Here ${line}$, ", "Here ")
        text = text.replace(f", ${line}$.", ".").replace(f", ${line}$, ", ", ")
        text = re.sub(rf"\${re.escape(line)}\$ is the [a-z ]+, ", "", text)
        text = re.sub(rf"\nHere \${re.escape(line)}\$ is the [a-z ]+\.(?=\n|$)", "", text)
    return re.sub(r"\n\n+", "\n", text).replace(PARAGRAPH, "\n\n")


def fragment(
    record: Any,
    width: float,
    notation: Notation = None,
    cite: bool = False,
    rules: Mapping[str, int] | None = None,
) -> str:
    r"""LaTeX of a record, with lines of at most `width` points; `cite` where `\cite` is known.

    `rules` are the numbers of those that the document states.
    """
    if not hasattr(record, "latex"):
        summary = summary_of(record)
        if summary is not None:
            return summary.latex()
        return fitted(_displayed(record._repr_latex_()), width)
    accepted = _accepted(record.latex)
    given = {"width": width, "notation": notation, "cite": cite, "rules": rules, "numbered": True}
    options = {n: v for n, v in given.items() if n in accepted}
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
    if "&=" in plain:  # rows that are aligned already
        return f"\\begin{{align*}}\n{plain}\n\\end{{align*}}"
    sides = re.split(r"(?<!\\)=", plain, maxsplit=1)
    row = f"{sides[0]} &= {sides[1]}" if len(sides) == 2 else f"& {plain}"
    return f"\\begin{{align*}}\n{row}\n\\end{{align*}}"


def _derivations(record: Any) -> list[Any]:
    """Derivations of a record, of equations one for each block; why, where there is none."""
    if not hasattr(record, "explain"):
        raise BadParameter(
            f"explain=True: {type(record).__name__} has no derivation; pass the result of "
            "dmft.explain as a separate argument"
        )
    if "block" not in inspect.signature(record.explain).parameters:
        return [record.explain()]
    found: list[Any] = []
    for block in printed_blocks(record):
        try:
            found.append(record.explain(block))
        except BadParameter as refusal:
            found.append(f"The rate of {block} is not derived here: {refusal}.")
            refused = refusal
    if all(isinstance(one, str) for one in found):
        raise BadParameter(
            f"explain=True: {refused}; leave it out, or pass the result of dmft.explain, for "
            "example dmft.explain(dmft.population_risk(model)), as a separate argument"
        )
    return found


def _citations(records: Iterable[Any]) -> dict[str, list[str]]:
    """Keys of the papers, by what they derive."""
    found: dict[str, list[str]] = {}
    for record in records:
        what, keys = "Averages of these functions", [*getattr(record, "citations", ())]
        if not isinstance(record, Explanation):
            is_known = hasattr(record, "latex") or hasattr(record, "model")
            what, keys = subject(record), sources(record) if is_known else []
        told = {*chain(*found.values())}
        if fresh := [key for key in dict.fromkeys(keys) if key not in told]:
            found[what] = [*found.get(what, ()), *fresh]
    return found

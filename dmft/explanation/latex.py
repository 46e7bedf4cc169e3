r"""Explanations as LaTeX for appendices: a paragraph for each rule, statements in alignments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import sympy as sp

from dmft.explanation.average import Average
from dmft.explanation.paragraphs import KEY, Argument, Paragraph, Printer, Step, paragraphs
from dmft.explanation.rules import RULES, Rule
from dmft.typeset.formula import width as points
from dmft.typeset.fragment import COLUMN, align, check_points, fitted

# Formulas wider than this share of a line do not stand in a sentence.
INLINE_SHARE = 0.72
# Results of more characters (of LaTeX) than this are not printed a second time at the end.
LONG_RESULT = 600
JUDGED = (
    r"\noindent Both sides of each step below were computed at two random covariances by a "
    "quadrature that uses no closed form; they agree."
)
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    **{c: rf"\{c}" for c in "#$%&_"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
}


def escaped(text: str) -> str:
    """Plain text as LaTeX; names of letters in it as formulas."""
    plain = "".join(SPECIAL.get(c, c) for c in text)
    plain = re.sub(r"\b(\d)e-0*(\d+)\b", r"$\1 \\cdot 10^{-\2}$", plain)
    return re.sub(r"\b(Omega|tau)\b", r"$\\\1$", plain)


def rules_latex(rules: Mapping[str, int], width: float, cite: bool) -> str:
    r"""What the rules of several explanations say, each once, by its number."""
    parts = [JUDGED]
    for name, number in rules.items():
        rule = RULES[name]
        marks = "".join(rf"~\cite{{{key}}}" for key in KEY.findall(rule.source) if cite)
        head = rf"\paragraph{{Rule {number}. {escaped(rule.title)}{marks}.}}"
        parts.append(f"{head} {escaped(rule.text)}")
        if rule.formula:
            parts.append(align([_formula(rule)]))
    text = "\n".join(parts)
    return fitted(text, width)


def _formula(rule: Rule) -> str:
    return f"& {rule.formula}".replace(r",\ ", r",\quad ")


def as_latex(
    explanation: Argument,
    width: float = COLUMN,
    cite: bool = False,
    rules: Mapping[str, int] | None = None,
) -> str:
    r"""An appendix; the papers are listed at its end, or cited (`\cite`) by their keys.

    Rules that `rules` numbers are cited by their numbers, others are stated where they are used
    first.
    """
    check_points(width)
    sign = "=" if explanation.claim == "exact" else r"\approx"
    show = explanation.show
    keys = {key: n for n, key in enumerate(explanation.citations, start=1)}
    claim = explanation.claim
    told = "exact" if claim == "exact" else f"with {claim}"
    parts = [
        rf"\subsection*{{{escaped(explanation.title)}}}",
        rf"\noindent The result, {escaped(told)}, is",
        align([f"{show(explanation.before)} &{sign} {show(explanation.after)}"]),
    ]
    if rules is None:
        parts.append(JUDGED)
    if isinstance(explanation.before, Average):
        parts += _law("", explanation.before, show, width)
    for paragraph in paragraphs(explanation):
        rule = (rules or {}).get(paragraph.steps[0].rule)
        stated = rule is None and paragraph.first
        marks = _marks(paragraph, keys, cite) if stated else f", Rule {rule}" if rule else ""
        parts += [*_paragraph(paragraph, marks, explanation, stated), *_notes(paragraph, width)]
    if explanation.notation:
        told = ". ".join(meaning.latex for meaning in explanation.notation)
        told += "" if told.endswith(" are") else "."
        parts += [rf"\paragraph{{Notation.}} {told}", *explanation.appendix]
    if keys and not cite:
        parts.append(r"\paragraph{References}")
        named = (explanation.references.get(key, key) for key in keys)
        parts += [rf"\noindent [{n}] {escaped(text)}\\" for n, text in enumerate(named, start=1)]
    text = "\n".join(parts)
    return fitted(text, width)


def _marks(paragraph: Paragraph, keys: dict[str, int], cite: bool) -> str:
    """What the rule is cited for, where it is used first."""
    found = KEY.findall(paragraph.steps[0].source)
    return "".join(rf"~\cite{{{key}}}" if cite else f" [{keys[key]}]" for key in found)


def _paragraph(
    paragraph: Paragraph, marks: str, explanation: Argument, stated: bool
) -> Iterator[str]:
    head = rf"\paragraph{{{escaped(paragraph.number)}. {escaped(paragraph.title)}{marks}.}}"
    yield f"{head} {escaped(paragraph.words_of(stated))}".strip()
    if stated and paragraph.rule.formula:
        yield align([_formula(paragraph.rule)])
    begin, last = paragraph.steps[0], paragraph.steps[-1]
    rows: list[str] = []
    earlier: Step | None = None
    for step in paragraph.steps:
        if step.where:
            if rows:
                yield align(rows)
                rows = []
            told = ", ".join(f"${step.show(a)} = {step.show(b)}$" for a, b in step.where)
            yield rf"\noindent Here {told}."
        goes_on = earlier is not None and earlier.after == step.before
        left = "" if goes_on or (step is begin and paragraph.continues) else step.show(step.before)
        earlier = step
        right = step.show(step.after)
        again = step is last and step.depth == 0 and step.after == explanation.after
        if again and len(right) > LONG_RESULT:
            right = r"\text{what is stated at the beginning.}"
        rows.append(f"{left} &{step.sign} {right}")
    yield align(rows)


def _notes(paragraph: Paragraph, width: float) -> Iterator[str]:
    """Diagrams, laws and bounds of the steps."""
    drawn = [step for step in paragraph.steps if step.diagrams]
    for step in drawn:
        formula = step.show(step.before)
        of, begin = "", ("Diagrams", "The diagram")
        if len(drawn) > 1 and points(formula) < INLINE_SHARE * width:
            of = f" of ${formula}$"
        elif len(drawn) > 1:
            begin = ("the diagrams are", "the diagram is")
            yield r"\noindent Of the average"
            yield align([f"& {formula}"])
        pictures = "\\quad\n".join(d.picture(step.show) for d in step.diagrams[: step.MOST_DRAWN])
        more = rf"\quad {step.undrawn}" if step.undrawn else ""
        yield (
            rf"\noindent {begin[0]}{of}, each with its number of pairings:\\[4pt]"
            if (len(step.diagrams) > 1)
            else rf"\noindent {begin[1]}{of}, with its number of pairings:\quad"
        )
        yield f"{pictures}{more}\n"
    for step in paragraph.steps:
        for name, law in step.laws:
            yield from _law(name, law, step.show, width)
        if step.bound != 0:
            yield rf"\noindent What is left out is at most ${step.show(step.bound)}$."


def _law(name: str, law: Average, show: Printer, width: float) -> Iterator[str]:
    """A law in a sentence, or its covariances one by one where their matrix is wide."""
    text = law_in_words(name, law, show)
    formulas = re.findall(r"\$([^$]*)\$", text)
    if max(points(y) for y in formulas) < INLINE_SHARE * width:
        yield rf"\noindent {text}."
        return
    average = rf"\mathbb{{E}}_{{{show(sp.Symbol(name))}}}" if name else r"\mathbb{E}"
    centred = all(m == 0 for m in law.mean)
    fields = [show(y) for y in law.fields]
    rows = [
        rf"{average}\left[{a}\right] &= {show(m)}"
        for a, m in zip(fields, law.mean, strict=True)
        if m != 0
    ]
    rows += [
        rf"{average}\left[{fields[i]}\,{fields[j]}\right] &= {show(law.cov[i, j])}"
        for i in range(len(fields))
        for j in range(i, len(fields))
    ]
    yield rf"\noindent The {'covariances' if centred else 'means and covariances'} are"
    yield align(rows)


def law_in_words(name: str, law: Average, show: Printer) -> str:
    """Covariance and mean of the fields of a law."""
    fields = ", ".join(show(x) for x in law.fields)
    matrix = r" \\ ".join(" & ".join(show(e) for e in row) for row in law.cov.tolist())
    under = rf"In $\mathbb{{E}}_{{{show(sp.Symbol(name))}}}$" if name else "Here"
    text = rf"{under} $({fields})$ has"
    text += rf" the covariance $\begin{{pmatrix}} {matrix} \end{{pmatrix}}$"
    if any(m != 0 for m in law.mean):
        text += f" and the mean $({', '.join(show(m) for m in law.mean)})$"
    return text

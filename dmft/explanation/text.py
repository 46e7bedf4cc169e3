"""Explanations as plain text, and as HTML for notebooks."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator

from dmft.explanation.average import Average
from dmft.explanation.latex import law_in_words
from dmft.explanation.paragraphs import Argument, Paragraph, Step, paragraphs
from dmft.typeset.fragment import NOTEBOOK, align, fitted

# Characters of a line in a terminal.
WIDTH = 96
# Averages below this are rounding errors of zero.
ROUNDING = 1e-15


def as_text(explanation: Argument) -> str:
    """Plain text: numbered steps, indented by depth."""
    sign = "=" if explanation.claim == "exact" else "≈"
    tell = explanation.tell
    lines = [
        explanation.title,
        *_wrapped(f"{tell(explanation.before)} {sign} {tell(explanation.after)}", "  "),
        f"  {explanation.claim}; each step checked at two random covariances",
    ]
    for paragraph in paragraphs(explanation):
        lines += ["", *_paragraph(paragraph)]
    if explanation.notation:
        lines += ["", "Notation"]
        for meaning in explanation.notation:
            lines += _wrapped(f"{meaning.plain}.", "  ")
    return "\n".join(lines)


def _paragraph(paragraph: Paragraph) -> Iterator[str]:
    pad, own = "  " * paragraph.depth, "  " * paragraph.depth + "   "
    begin = paragraph.steps[0]
    source = f"  ({begin.source})" if begin.source and paragraph.first else ""
    yield f"{pad}{paragraph.number}. {paragraph.title}{source}"
    if paragraph.words:
        yield from _wrapped(paragraph.words, own)
    if paragraph.first and paragraph.rule.plain:
        yield from _wrapped(paragraph.rule.plain, own + "  ")
    for step in paragraph.steps:
        yield from _statement(step, own)


def _statement(step: Step, pad: str) -> Iterator[str]:
    """The two sides, what is named in them, and how they were judged."""
    told = ", ".join(f"{step.tell(a)} = {step.tell(b)}" for a, b in step.where)
    if told:
        yield from _wrapped(f"Here {told}.", pad)
    equal = "=" if step.bound == 0 else "≈"
    yield from _wrapped(step.tell(step.before), pad)
    yield from _wrapped(f"{equal} {step.tell(step.after)}", pad)
    for diagram in step.diagrams[: step.MOST_DRAWN]:
        yield f"{pad}  {diagram.line(step.tell)}"
    if step.undrawn:
        yield f"{pad}  {step.undrawn}"
    yield from (f"{pad}{text}" for text in _laws(step))
    if step.bound != 0:
        yield from _wrapped(f"left out at most: {step.tell(step.bound)}", pad)
    yield f"{pad}checked: {_checked(step, 10)}"


def _checked(step: Step, digits: int) -> str:
    """Both sides at the two covariances; what rounding leaves of zero is zero."""
    rows = ([f"{0.0 if abs(y) < ROUNDING else y:.{digits}g}" for y in row] for row in step.check)
    return "; ".join(" and ".join(row) for row in rows)


def _wrapped(text: str, pad: str) -> list[str]:
    width = max(WIDTH - len(pad), 40)
    return [pad + line for line in textwrap.wrap(text, width, break_long_words=False) or [""]]


def _laws(step: Step) -> list[str]:
    lines = []
    for name, law in step.laws:
        tell = step.tell
        fields = ", ".join(map(tell, law.fields))
        mean = "" if all(m == 0 for m in law.mean) else f", mean ({', '.join(map(tell, law.mean))})"
        rows = "; ".join(", ".join(map(tell, row)) for row in law.cov.tolist())
        lines.append(f"under {name}, ({fields}) has the covariance [{rows}]{mean}")
    return lines


def as_html(explanation: Argument) -> str:
    """Collapsible steps; mathematics is set by MathJax."""
    sign = "=" if explanation.claim == "exact" else r"\approx"
    show = explanation.show
    body = [f"<b>{html.escape(explanation.title)}</b> ({html.escape(explanation.claim)})"]
    body.append(_display([f"{show(explanation.before)} &{sign} {show(explanation.after)}"]))
    if isinstance(explanation.before, Average):
        body.append(f"<p>{html.escape(law_in_words('', explanation.before, show))}.</p>")
    if explanation.notation:
        told = ". ".join(meaning.latex for meaning in explanation.notation)
        more = "".join(_text(part) for part in explanation.appendix)
        words = f"<p>{html.escape(told)}.</p>{more}"
        body.append(f"<details><summary>Notation</summary>{words}</details>")
    open_depths: list[int] = []
    for paragraph in paragraphs(explanation):
        while open_depths and open_depths[-1] >= paragraph.depth:
            open_depths.pop()
            body.append("</details>")
        body.append(_details(paragraph))
        open_depths.append(paragraph.depth)
    body += ["</details>"] * len(open_depths)
    return "<div>" + "\n".join(body) + "</div>"


def _details(paragraph: Paragraph) -> str:
    rule, begin = paragraph.rule, paragraph.steps[0]
    formula = f" ${html.escape(rule.formula)}$" if rule.formula and paragraph.first else ""
    told = paragraph.first and begin.source
    source = f" <small>{html.escape(begin.source)}</small>" if told else ""
    opened = " open" if paragraph.depth == 0 else ""
    head = (
        f'<details{opened} style="margin-left:{1 + paragraph.depth}em"><summary>'
        f"{paragraph.number}. {html.escape(paragraph.title)}</summary>"
        f"<p>{html.escape(paragraph.words)}{formula}{source}</p>"
    )
    return head + "".join(map(_step_in_html, paragraph.steps))


def _step_in_html(step: Step) -> str:
    """The two sides, what is named in them, diagrams, and how they were judged."""
    where = ", ".join(f"${step.show(a)} = {step.show(b)}$" for a, b in step.where)
    told = f"<p>{html.escape(f'Here {where}.')}</p>" if where else ""
    laws = "".join(
        f"<p>{html.escape(law_in_words(name, law, step.show))}.</p>" for name, law in step.laws
    )
    drawn = "&emsp;".join(d.svg(step.tell) for d in step.diagrams[: step.MOST_DRAWN])
    more = f"&emsp;{step.undrawn}" if step.undrawn else ""
    pictures = f"<p>{drawn}{more}</p>" if drawn else ""
    bound = f"<p>Left out at most: ${html.escape(step.show(step.bound))}$</p>" if step.bound else ""
    rows = [f"{step.show(step.before)} &{step.sign} {step.show(step.after)}"]
    checked = f"<small>checked: {_checked(step, 8)}</small>"
    return f"{told}{_display(rows)}{pictures}{laws}{bound}{checked}"


def _display(rows: list[str]) -> str:
    """Rows of an alignment, broken to the width of a notebook."""
    return _text(align(rows))


def _text(text: str) -> str:
    shown = fitted(text, NOTEBOOK).split("\n")
    return f"<p>{html.escape(chr(10).join(shown))}</p>"

"""Explanations as plain text for terminals."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dmft.explanation.paragraphs import Paragraph, paragraphs

if TYPE_CHECKING:
    from dmft.explanation.steps import Explanation, Step

# Characters of a line in a terminal.
WIDTH = 96


def as_text(explanation: Explanation) -> str:
    """Plain text: numbered steps, indented by depth."""
    sign = "=" if explanation.claim == "exact" else "≈"
    tell = explanation.tell
    lines = [
        explanation.title,
        *_wrapped(f"{tell(explanation.before)} {sign} {tell(explanation.after)}", "  "),
        f"  {explanation.claim}; each step judged at two random covariances",
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
        yield from _wrapped(f"left out at most: {step.bound}", pad)
    pairs = "; ".join(f"{a:.10g} and {b:.10g}" for a, b in step.check)
    yield f"{pad}judged: {pairs}"


def _wrapped(text: str, pad: str) -> list[str]:
    width = max(WIDTH - len(pad), 40)
    return [pad + line for line in textwrap.wrap(text, width, break_long_words=False) or [""]]


def _laws(step: Step) -> list[str]:
    lines = []
    for name, law in step.laws:
        fields = ", ".join(map(str, law.fields))
        mean = "" if all(m == 0 for m in law.mean) else f", mean ({', '.join(map(str, law.mean))})"
        rows = "; ".join(", ".join(str(e) for e in row) for row in law.cov.tolist())
        lines.append(f"under {name}, ({fields}) has the covariance [{rows}]{mean}")
    return lines

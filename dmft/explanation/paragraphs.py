"""How an explanation is read: paragraphs of steps, their numbers, what is said once, the names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from dmft.explanation.rules import RULES, Rule

if TYPE_CHECKING:
    from dmft.explanation.steps import Explanation, Step

KEY = re.compile(r"\[([a-z_0-9]+)\]")


@dataclass(frozen=True)
class Meaning:
    """What names that an explanation prints stand for, in a sentence without its stop.

    Attributes
    ----------
    names : tuple of str
        Symbols and bases of arrays, as the expressions name them.
    latex, plain : str
        The sentence, with formulas between dollars, and as plain text.
    """

    names: tuple[str, ...]
    latex: str
    plain: str


@dataclass(frozen=True)
class Paragraph:
    """Steps by one rule that follow each other.

    Attributes
    ----------
    number : str
        Such as 2.1, or 2.1-2.3.
    steps : tuple of Step
    first : bool
        Whether the rule has not been used before: what it says is said once.
    continues : bool
        Whether the first step begins with the result of the step before it at the same depth.
    """

    number: str
    steps: tuple[Step, ...]
    first: bool
    continues: bool

    @property
    def rule(self) -> Rule:
        """The rule of the steps."""
        return RULES[self.steps[0].rule]

    @property
    def depth(self) -> int:
        """Depth of the steps."""
        return self.steps[0].depth

    @property
    def title(self) -> str:
        """Name of the rule."""
        return self.steps[0].title

    @property
    def words(self) -> str:
        """What the rule says where it is used first, and what is particular here."""
        return self.words_of(self.first)

    def words_of(self, stated: bool) -> str:
        """What the rule says where it is `stated`, and what is particular here."""
        notes = dict.fromkeys(step.note for step in self.steps)
        return " ".join(t for t in (self.rule.text if stated else "", *notes) if t)


def cited(explanation: Explanation) -> tuple[str, ...]:
    """Keys of the bibliography that the steps cite, in order."""
    found = (key for step in explanation.steps for key in KEY.findall(step.source))
    return tuple(dict.fromkeys(found))


def rules_of(explanations: Iterable[Explanation]) -> dict[str, int]:
    """Numbers of the rules that explanations go by, in the order of their first use."""
    found = dict.fromkeys(step.rule for one in explanations for step in one.steps)
    return {rule: number for number, rule in enumerate(found, start=1)}


def numbered(explanation: Explanation) -> Iterator[tuple[str, Step]]:
    """Steps with numbers such as 2.1."""
    counts: list[int] = []
    for step in explanation.steps:
        depth = min(step.depth, len(counts))
        counts = counts[: depth + 1] + [0] * (depth + 1 - len(counts))
        counts[depth] += 1
        yield ".".join(map(str, counts)), step


def paragraphs(explanation: Explanation) -> Iterator[Paragraph]:
    """Paragraphs in their order."""
    said: set[str] = set()
    latest: dict[int, Step] = {}
    for _, run in groupby(numbered(explanation), key=lambda y: (y[1].rule, y[1].depth)):
        numbers, steps = zip(*run, strict=True)
        begin = steps[0]
        earlier = latest.get(begin.depth)
        yield Paragraph(
            numbers[0] if len(steps) == 1 else f"{numbers[0]}–{numbers[-1]}",
            steps,
            begin.rule not in said,
            earlier is not None and earlier.after == begin.before,
        )
        said.add(begin.rule)
        latest = {d: s for d, s in latest.items() if d < begin.depth} | {begin.depth: steps[-1]}

r"""Steps of an explanation, and how they are read: paragraphs, numbers, what is said once, names.

A step says `before = after`, two expressions in averages (`dmft.explanation.average.Average`) and
what multiplies them, by a rule of `dmft.explanation.rules`. Both sides are computed at two random
covariances by `dmft.explanation.both_sides`; a step whose sides differ raises `UnprovenStep`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import ClassVar

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.errors import UnprovenStep
from dmft.explanation.average import Average, statement_latex
from dmft.explanation.both_sides import Numbers, number
from dmft.explanation.diagrams import Diagram
from dmft.explanation.rules import RULES, Rule
from dmft.record import Brief
from dmft.typeset.plain import in_words, plain

Printer = Callable[[sp.Expr], str]
# Both sides, and what they may differ by, at one of the two cases.
Judged = tuple[float, float, float]
# Sides may differ by this part of the averages of the absolute values.
TOLERANCE = 1e-6
KEY = re.compile(r"\[([a-z_0-9]+)\]")


@dataclass(frozen=True)
class Meaning:
    """What names that an explanation prints mean, in a sentence without its stop.

    `latex` has formulas between dollars; `declared` is true if the declaration in a document
    says it.
    """

    names: tuple[str, ...]
    latex: str
    declared: bool = False

    @property
    def plain(self) -> str:
        """The sentence for a terminal."""
        return in_words(self.latex)


@dataclass(frozen=True)
class Step(Brief):
    """One step: by `rule`, a key of `dmft.explanation.rules.RULES`, `before` is `after`.

    `depth` is 0 for the line of the argument, 1 for what proves a line of it, and so on; `source`
    is where it is derived, `note` what is particular to this step (diagrams that survive, a claim),
    `bound` what `after` leaves out at most. `laws` and `where` are laws and abbreviations that it
    names, `rules` those of the steps that one line replaces; `check` (2, 2) has the values before
    and after at two random covariances, which `judge` computes with their tolerance where the sides
    are no averages.
    """

    rule: str
    before: sp.Expr
    after: sp.Expr
    depth: int = 0
    source: str = ""
    note: str = ""
    bound: sp.Expr = sp.S.Zero
    laws: tuple[tuple[str, Average], ...] = ()
    where: tuple[tuple[sp.Expr, sp.Expr], ...] = ()
    diagrams: tuple[Diagram, ...] = ()
    check: Array = field(default_factory=lambda: np.full((2, 2), np.nan), compare=False)
    rules: tuple[str, ...] = ()
    judge: Callable[[int], Judged] | None = field(default=None, repr=False, compare=False)
    show: Printer = field(default_factory=lambda: statement_latex, repr=False, compare=False)
    # Diagrams that are drawn one by one.
    MOST_DRAWN: ClassVar[int] = 12

    def __post_init__(self) -> None:
        """A step goes by its own rule."""
        object.__setattr__(self, "rules", self.rules or (self.rule,))

    @property
    def title(self) -> str:
        """Name of the rule in words."""
        return "Likewise" if self.is_folded else RULES[self.rule].title

    @property
    def is_folded(self) -> bool:
        """Whether it replaces several steps, by rules that are used before."""
        return len(self.rules) > 1

    @property
    def undrawn(self) -> str:
        """What is said of the diagrams that are not drawn."""
        more = len(self.diagrams) - self.MOST_DRAWN
        return f"and {more} more" if more > 0 else ""

    @property
    def sign(self) -> str:
        """Equal, or equal up to a bound."""
        return "=" if self.bound == 0 else r"\approx"

    @property
    def latex(self) -> str:
        """The statement as LaTeX, without delimiters."""
        return f"{self.show(self.before)} {self.sign} {self.show(self.after)}"

    @property
    def tell(self) -> Printer:
        """Function that converts expressions to text."""
        return lambda expr: plain(self.show(expr))

    def __str__(self) -> str:
        return f"{self.title}: {plain(self.latex)}"

    def judged(self, cases: Sequence[Numbers]) -> Step:
        """The step with both sides computed."""
        check = np.empty((2, 2))
        for row, at in enumerate(cases):
            one, two, limit = self.judge(row) if self.judge else self._values(at)
            check[row] = one, two
            if not abs(one - two) <= limit:
                raise UnprovenStep(
                    f"the step {self.title!r} does not hold: {self.before} is {one!r}, "
                    f"{self.after} is {two!r} (they may differ by {limit:.1e})",
                    self.rule,
                )
        return replace(self, check=check)

    def _values(self, at: Numbers) -> Judged:
        one, two = number(self.before, at), number(self.after, at)
        limit = TOLERANCE * max(one.size, two.size, abs(one.value), 1e-12)
        return one.value, two.value, limit + (number(self.bound, at).value if self.bound else 0.0)


@dataclass(frozen=True)
class Argument:
    """Steps from a definition to the result, as they are read."""

    title: str
    steps: tuple[Step, ...]
    before: sp.Expr
    after: sp.Expr
    claim: str = "exact"
    references: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    notation: tuple[Meaning, ...] = field(default=(), repr=False, compare=False)
    appendix: tuple[str, ...] = field(default=(), repr=False, compare=False)
    show: Printer = field(default_factory=lambda: statement_latex, repr=False, compare=False)

    @property
    def citations(self) -> tuple[str, ...]:
        """Keys of the papers that the steps cite, in order."""
        found = (key for step in self.steps for key in KEY.findall(step.source))
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Paragraph:
    """Steps by one rule that follow each other, with a number such as 2.1 or 2.1-2.3.

    `first` is true if the rule has not been used before (its text is printed once).
    """

    number: str
    steps: tuple[Step, ...]
    first: bool

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
        notes = dict.fromkeys(step.note for step in self.steps)
        return " ".join(t for t in (self.rule.text if self.first else "", *notes) if t)


# Rules that state a known law; its proof is the same each time.
LAWS = frozenset({"smoothing", "arcsine", "two_signs"})


def without_laws(steps: Iterable[Step], proven: set[str]) -> tuple[Step, ...]:
    """Steps without proofs of laws that are `proven`, to which those of the steps are added."""
    kept: list[Step] = []
    below: int | None = None
    for step in steps:
        if below is not None and step.depth > below:
            continue
        below = step.depth if step.rule in proven else None
        if step.rule in LAWS:
            proven.add(step.rule)
        kept.append(step)
    return tuple(kept)


def rules_of(explanations: Iterable[Argument]) -> dict[str, int]:
    """Numbers of the rules that explanations go by, in the order of their first use."""
    found = dict.fromkeys(r for one in explanations for step in one.steps for r in step.rules)
    return {rule: number for number, rule in enumerate(found, start=1)}


def numbered(explanation: Argument) -> Iterator[tuple[str, Step]]:
    """Steps with numbers such as 2.1."""
    counts: list[int] = []
    for step in explanation.steps:
        depth = min(step.depth, len(counts))
        counts = counts[: depth + 1] + [0] * (depth + 1 - len(counts))
        counts[depth] += 1
        yield ".".join(map(str, counts)), step


def paragraphs(explanation: Argument) -> Iterator[Paragraph]:
    """Paragraphs in their order."""
    said: set[str] = set()
    for _, run in groupby(numbered(explanation), key=lambda y: (y[1].title, y[1].depth)):
        numbers, steps = zip(*run, strict=True)
        number, rule = numbers[0], steps[0].rule
        number += f"–{numbers[-1]}" if len(steps) > 1 else ""
        yield Paragraph(number, steps, rule not in said)
        said.add(rule)

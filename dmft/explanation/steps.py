"""Explanations: their steps as they are noted, judged at two random covariances, and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp

from dmft.errors import BadParameter, UnprovenStep
from dmft.explanation.average import statement_latex, statement_text
from dmft.explanation.both_sides import Numbers, draw, unknowns
from dmft.explanation.paragraphs import Argument, Meaning, Printer, Step
from dmft.explanation.rules import RULES
from dmft.typeset.fragment import COLUMN
from dmft.validation import is_whole

CASES = (11, 29)


class Ledger:
    """Steps as they are noted, before they are judged."""

    def __init__(self, show: Printer = statement_latex, tell: Printer = statement_text) -> None:
        self.steps: list[Step] = []
        self.depth = 0
        self.show, self.tell = show, tell

    def add(self, rule: str, before: sp.Expr, after: sp.Expr, **others: Any) -> None:
        """Note a step at the present depth (`deeper` levels below it)."""
        depth = self.depth + others.pop("deeper", 0)
        source = others.pop("source", RULES[rule].source)
        step = Step(rule, before, after, depth, source, show=self.show, tell=self.tell, **others)
        if step.before != step.after:
            self.steps.append(step)


@dataclass(frozen=True)
class Explanation(Argument):
    """Steps from a definition to the result, each checked; displays in terminal and notebook.

    Attributes
    ----------
    title : str
    steps : tuple of Step
        In order; a step of depth n is followed by the steps of depth n + 1 that prove it.
    before, after : sympy.Expr
        The explained quantity and the result.
    claim : str
        How far the result is exact.
    references : mapping
        Cited papers by key, as text.
    notation : tuple of Meaning
        Meaning of the names in the steps.
    appendix : tuple of str
        Definitions in LaTeX that the notation needs.
    show, tell : callable
        How expressions become LaTeX, and text.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, y, m = sp.symbols("x y m", real=True)
    >>> law = dmft.Gaussian([x, y], cov=[[1, m], [m, 1]])
    >>> proof = dmft.explain(law, of=(x**3 - 3 * x) * (y**3 - 3 * y))
    >>> proof.after, [step.rule for step in proof.steps]
    (6*m**3, ['hermite', 'diagrams'])
    >>> proof.steps[0].check.shape
    (2, 2)
    """

    def to_depth(self, depth: int | None) -> Explanation:
        """The same with the steps of at most this depth.

        Parameters
        ----------
        depth : int or None
            0 keeps the steps of the argument itself, None keeps all.

        Returns
        -------
        Explanation

        Raises
        ------
        BadParameter

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> x, y = sp.symbols("x y", real=True)
        >>> proof = dmft.explain(dmft.Gaussian([x, y], cov=[[1, 0.5], [0.5, 1]]), of=x**2 * y**2)
        >>> len(proof.to_depth(0).steps)
        4
        """
        if depth is None:
            return self
        if not (is_whole(depth) and depth >= 0):
            raise BadParameter(f"depth must be a whole number from 0 on, or None, got {depth!r}")
        return replace(self, steps=tuple(s for s in self.steps if s.depth <= depth))

    def latex(
        self, *, width: float = COLUMN, cite: bool = False, rules: Mapping[str, int] | None = None
    ) -> str:
        r"""The steps as LaTeX for an appendix (amsmath), a paragraph for each rule.

        Parameters
        ----------
        width : float
            Points of a line.
        cite : bool
            Cite papers by their keys (`\cite`), for documents with a bibliography; else they are
            listed at the end.
        rules : mapping, optional
            Numbers of rules that a document states once for several explanations; they are cited.

        Returns
        -------
        str

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> x, y = sp.symbols("x y", real=True)
        >>> proof = dmft.explain(dmft.Gaussian([x, y], cov=[[1, 0.5], [0.5, 1]]), of=x**2 * y**2)
        >>> proof.latex().count(r"\paragraph") > 1
        True
        """
        from dmft.explanation.latex import as_latex

        return as_latex(self, width, cite, rules)

    def __str__(self) -> str:
        from dmft.explanation.text import as_text

        return as_text(self)

    def __repr__(self) -> str:
        return f"<Explanation of {self.title}: {len(self.steps)} steps, each checked twice>"

    def _repr_html_(self) -> str:
        from dmft.explanation.text import as_html

        return as_html(self)


def explanation(
    title: str,
    ledger: Ledger,
    sides: tuple[sp.Expr, sp.Expr],
    laws: Sequence[sp.ImmutableDenseMatrix],
    *,
    claim: str = "exact",
    cases: Sequence[Mapping[sp.Basic, float]] | None = None,
    whole: bool = True,
    notation: tuple[Meaning, ...] = (),
    appendix: tuple[str, ...] = (),
) -> Explanation:
    """Judge the steps of a ledger at two random covariances; `whole` judges both ends as well."""
    if cases is None:
        cases = random_cases(ledger, laws)
    steps = tuple(step.judged(cases) for step in ledger.steps)
    found = Explanation(
        title, steps, *sides, claim, {}, notation, appendix, show=ledger.show, tell=ledger.tell
    )
    if whole and claim == "exact":
        # The steps hold; they may still not lead where they should.
        Step("collect", *sides, show=ledger.show).judged(cases)
    return found


def random_cases(
    ledger: Ledger, laws: Sequence[sp.ImmutableDenseMatrix]
) -> list[dict[sp.Basic, float]]:
    """Two sets of numbers for all symbols of the steps, at which the laws are positive definite."""
    symbolic = [law for law in laws if unknowns(law)]
    plain = [s for s in ledger.steps if s.judge is None]
    others = unknowns(*(e for s in plain for e in (s.before, s.after, s.bound)))
    return [draw(symbolic, others, seed) for seed in CASES]


def unproven(ledger: Ledger, cases: Sequence[Numbers]) -> list[Step]:
    """Steps of a ledger that do not hold."""
    found = []
    for step in ledger.steps:
        try:
            step.judged(cases)
        except UnprovenStep:
            found.append(step)
    return found

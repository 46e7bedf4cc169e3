r"""Steps of an explanation: what they say, and the judgement that each of them has passed.

A step says `before = after`, two expressions in averages (`dmft.explanation.average.Average`) and
what multiplies them, by a rule of `dmft.explanation.rules`. Both sides are computed at two random
covariances by `dmft.explanation.judge`; a step whose sides differ raises `UnprovenStep`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import BadParameter, UnprovenStep
from dmft.explanation.average import Average
from dmft.explanation.both_sides import Numbers, draw, number, unknowns
from dmft.explanation.diagrams import Diagram
from dmft.explanation.paragraphs import Meaning, cited
from dmft.explanation.rules import RULES
from dmft.record import Brief
from dmft.typeset.fragment import COLUMN
from dmft.validation import is_whole

Array = NDArray[np.float64]
Printer = Callable[[sp.Expr], str]
# Both sides, and what they may differ by, at one of the two cases.
Judged = tuple[float, float, float]
CASES = (11, 29)
# Sides may differ by this part of the averages of the absolute values.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Step(Brief):
    """One step: by `rule`, `before` is `after`.

    Attributes
    ----------
    rule : str
        Key of the rule in `dmft.explanation.rules.RULES`.
    before, after : sympy.Expr
    depth : int
        0 for the line of the argument, 1 for what proves a line of it, and so on.
    source : str
        Where it is derived.
    note : str
        What is particular to this step: diagrams that survive, a claim.
    bound : sympy.Expr
        What `after` leaves out at most; 0 where the step is exact.
    laws : tuple of (name, Average)
        Laws that this step names.
    where : tuple of (symbol, expression)
        What names of this step stand for.
    diagrams : tuple of Diagram
        Linked diagrams that survive, where the step sums over them.
    check : (2, 2) array
        Rows are two random covariances, columns the values before and after.
    judge : callable or None
        Computes both sides and their tolerance at one case, where they are no averages.
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
    judge: Callable[[int], Judged] | None = field(default=None, repr=False, compare=False)
    show: Printer = field(default=sp.latex, repr=False, compare=False)
    tell: Printer = field(default=str, repr=False, compare=False)
    # Diagrams that are drawn one by one.
    MOST_DRAWN: ClassVar[int] = 12

    @property
    def title(self) -> str:
        """Name of the rule in words."""
        return RULES[self.rule].title

    @property
    def undrawn(self) -> str:
        """What is said of the diagrams that are not drawn."""
        more = len(self.diagrams) - self.MOST_DRAWN
        return f"and {more} more" if more > 0 else ""

    @property
    def words(self) -> str:
        """What the rule says, and what is particular here."""
        return " ".join(t for t in (RULES[self.rule].text, self.note) if t)

    @property
    def sign(self) -> str:
        """Equal, or equal up to a bound."""
        return "=" if self.bound == 0 else r"\approx"

    @property
    def latex(self) -> str:
        """The statement as LaTeX, without delimiters."""
        return f"{self.show(self.before)} {self.sign} {self.show(self.after)}"

    def __str__(self) -> str:
        sign = "=" if self.bound == 0 else "≈"
        return f"{self.title}: {self.tell(self.before)} {sign} {self.tell(self.after)}"

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


class Ledger:
    """Steps as they are noted, before they are judged."""

    def __init__(self, show: Printer = sp.latex, tell: Printer = str) -> None:
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
class Explanation:
    """Steps from a definition to the result, each judged; displays in terminal and notebook.

    Attributes
    ----------
    title : str
    steps : tuple of Step
        In order; a step of depth n is followed by those of depth n + 1 that prove it.
    before, after : sympy.Expr
        What is explained, and the result.
    claim : str
        How far the result is exact.
    references : mapping
        Papers that are cited, by key, in words.
    notation : tuple of Meaning
        What the names in the steps stand for.
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

    title: str
    steps: tuple[Step, ...]
    before: sp.Expr
    after: sp.Expr
    claim: str = "exact"
    references: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    notation: tuple[Meaning, ...] = field(default=(), repr=False, compare=False)
    appendix: tuple[str, ...] = field(default=(), repr=False, compare=False)
    show: Printer = field(default=sp.latex, repr=False, compare=False)
    tell: Printer = field(default=str, repr=False, compare=False)

    @property
    def citations(self) -> tuple[str, ...]:
        """Keys of the bibliography that the steps cite."""
        return cited(self)

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
        return f"<Explanation of {self.title}: {len(self.steps)} steps, each judged twice>"

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

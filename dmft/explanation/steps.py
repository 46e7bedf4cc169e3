"""Explanations: their steps as they are noted, checked at two random covariances, and shown.

They are shown as plain text, and as HTML in notebooks.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import sympy as sp

from dmft.errors import BadParameter
from dmft.explanation.average import Average, statement_latex
from dmft.explanation.both_sides import draw, unknowns
from dmft.explanation.latex import as_latex, law_in_words
from dmft.explanation.paragraphs import Argument, Meaning, Paragraph, Printer, Step, paragraphs
from dmft.explanation.rules import RULES
from dmft.typeset.fragment import COLUMN, NOTEBOOK, align, fitted
from dmft.typeset.plain import in_words, plain, plain_text
from dmft.validation import is_whole

# Characters of a line in a terminal.
WIDTH = 96
# Averages below this are rounding errors of zero.
ROUNDING = 1e-15


def as_text(explanation: Argument) -> str:
    """Plain text: numbered steps, indented by depth."""
    one, two = (plain(explanation.show(y)) for y in (explanation.before, explanation.after))
    lines = [
        explanation.title,
        *_wrapped(f"{one} {'=' if explanation.claim == 'exact' else '≈'} {two}", "  "),
        f"  {explanation.claim}; each step checked at two random covariances",
    ]
    for paragraph in paragraphs(explanation):
        lines += ["", *_paragraph(paragraph)]
    if explanation.notation:
        lines += ["", "Notation"]
        for meaning in explanation.notation:
            lines += _wrapped(f"{meaning.plain}.".replace("are.", "are:"), "  ")
        lines += [f"  {line}" for y in explanation.appendix for line in plain_text(y).split("\n")]
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
    sides = step.tell(step.before), f"{plain(step.sign)} {step.tell(step.after)}"
    whole = _wrapped(" ".join(sides), pad)
    yield from whole if len(whole) == 1 else (y for side in sides for y in _wrapped(side, pad))
    for diagram in step.diagrams[: step.MOST_DRAWN]:
        yield f"{pad}  {diagram.line(step.tell)}"
    if step.undrawn:
        yield f"{pad}  {step.undrawn}"
    for name, law in step.laws:
        yield from _wrapped(f"{in_words(law_in_words(name, law, step.show))}.", pad)
    if step.bound != 0:
        yield from _wrapped(f"omitted part at most {step.tell(step.bound)}", pad)
    if step.after != 0 or not step.is_folded:
        yield f"{pad}checked: {_checked(step, 10)}"


def _checked(step: Step, digits: int) -> str:
    """Both sides at the two covariances; what rounding leaves of zero is zero."""
    rows = ([f"{0.0 if abs(y) < ROUNDING else y:.{digits}g}" for y in row] for row in step.check)
    return "; ".join(" and ".join(row) for row in rows)


def _wrapped(text: str, pad: str) -> list[str]:
    width = max(WIDTH - len(pad), 40)
    return [pad + line for line in textwrap.wrap(text, width, break_long_words=False) or [""]]


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


CASES = (11, 29)


class Ledger:
    """Steps in the order in which they are added, before they are checked.

    If it `folds`, averages that follow by rules used before are one line, equal ones are left out.
    """

    def __init__(self, show: Printer = statement_latex, folds: bool = False) -> None:
        self.steps: list[Step] = []
        self.depth = 0
        self.show, self.folds = show, folds
        # Names of laws by their fields, means and covariances.
        self.laws: dict[tuple[sp.Expr, ...], str] = {}

    def add(self, rule: str, before: sp.Expr, after: sp.Expr, **others: Any) -> None:
        """Note a step at the present depth (`deeper` levels below it)."""
        depth = self.depth + others.pop("deeper", 0)
        source = others.pop("source", RULES[rule].source)
        step = Step(rule, before, after, depth, source, show=self.show, **others)
        if step.before != step.after:
            self.steps.append(step)

    def fold(self, begin: int, before: sp.Expr, after: sp.Expr, bare: bool = True) -> None:
        """Put one line in place of the steps from `begin` on if their rules were used before.

        It is about the average without what multiplies it if it is `bare`.
        """
        earlier, steps = self.steps[:begin], self.steps[begin:]
        if bare and before.is_Mul:
            front = sp.Mul(*(f for f in before.args if not isinstance(f, Average)))
            before, after = before / front, sp.Add(*(y / front for y in sp.Add.make_args(after)))
        if any((s.before, s.after) == (before, after) for s in earlier):
            del self.steps[begin:]
            return
        used = dict.fromkeys(rule for s in steps for rule in s.rules)
        more = len(steps) > 1 or (steps and steps[0].after != after)
        if more and not set(used) - {rule for s in earlier for rule in s.rules}:
            del self.steps[begin:]
            depth = steps[0].depth
            self.depth, kept = depth, self.depth
            self.add(next(iter(used)), before, after, rules=tuple(used), source="")
            self.depth = kept


class Explained:
    """Base of results that are explained step by step."""

    def _explanation(self) -> Explanation:
        """All steps."""
        raise NotImplementedError

    def explain(self, depth: int | None = None) -> Explanation:
        """Explain the derivation, with each step checked numerically at two sets of values.

        Parameters
        ----------
        depth : int, optional
            Level of detail; all steps by default.

        Returns
        -------
        Explanation

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
        >>> proof = dmft.population_risk(dmft.Model(square, square)).explain(depth=0)
        >>> [step.rule for step in proof.steps]
        ['local_fields', 'linearity', 'values', 'insert']
        """
        return self._explanation().to_depth(depth)


@dataclass(frozen=True)
class Explanation(Argument):
    """Steps from a definition to a result, each checked numerically.

    The record displays in terminals and notebooks.

    Attributes
    ----------
    title : str
    steps : tuple of Step
        In order; a step of depth n is followed by the steps of depth n + 1 that prove it.
    before, after : sympy.Expr
        The explained quantity and the result.
    claim : str
        Statement of the accuracy of the result.
    references : mapping
        Cited papers by key, as text.
    notation : tuple of Meaning
        Meaning of the symbols in the steps.
    appendix : tuple of str
        Definitions in LaTeX that the notation requires.
    show : callable
        Function that converts expressions to LaTeX.

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
        """Return the explanation restricted to steps of at most this depth.

        Parameters
        ----------
        depth : int or None
            0 keeps only the main argument, None keeps all steps.

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
        steps = tuple(s for s in self.steps if s.depth <= depth)
        printed = _names(steps)
        gone = _names(self.steps) - printed
        told = tuple(m for m in self.notation if not gone & {*m.names} or printed & {*m.names})
        appendix = self.appendix if any(m.latex.endswith(" are") for m in told) else ()
        return replace(self, steps=steps, notation=told, appendix=appendix)

    def latex(
        self, *, width: float = COLUMN, cite: bool = False, rules: Mapping[str, int] | None = None
    ) -> str:
        r"""Return the steps as LaTeX for an appendix (amsmath), with a paragraph for each rule.

        Parameters
        ----------
        width : float
            Line width in points.
        cite : bool
            Cite papers by their keys (`\cite`), for documents with a bibliography. Otherwise they
            are listed at the end.
        rules : mapping, optional
            Numbers of rules that the document states elsewhere; they are cited by number.

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
        return as_latex(self, width, cite, rules)

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        return f"<Explanation of {self.title}: {len(self.steps)} steps, each checked twice>"

    def _repr_html_(self) -> str:
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
    steps = tuple(step.judged(cases) for step in _with_laws(ledger.steps))
    found = Explanation(title, steps, *sides, claim, {}, notation, appendix, show=ledger.show)
    if whole and claim == "exact":
        # The steps hold; they may still not lead where they should.
        Step("collect", *sides, show=ledger.show).judged(cases)
    return found


def _names(steps: Sequence[Step]) -> set[str]:
    """Names of symbols, arrays and functions in the statements of steps."""
    sides = (e for s in steps for e in (s.before, s.after, s.bound, *chain(*s.where)))
    parts = (part for e in sides for part in sp.preorder_traversal(e))
    return {str(getattr(part, "name", type(part).__name__)) for part in parts}


def _with_laws(steps: Sequence[Step]) -> Iterator[Step]:
    """Steps with the laws that each is the first to name."""
    known = set[str]()
    for step in steps:
        averages = step.before.atoms(Average) | step.after.atoms(Average)
        fresh = {
            a.law: a
            for a in sorted(averages, key=lambda a: len(a.fields))
            if a.law and a.fields and a.law not in known
        }
        known |= set(fresh)
        yield replace(step, laws=tuple(sorted(fresh.items()))) if fresh else step


def random_cases(
    ledger: Ledger, laws: Sequence[sp.ImmutableDenseMatrix]
) -> list[dict[sp.Basic, float]]:
    """Two sets of numbers for all symbols of the steps, at which the laws are positive definite."""
    symbolic = [law for law in laws if unknowns(law)]
    plain = [s for s in ledger.steps if s.judge is None]
    others = unknowns(*(e for s in plain for e in (s.before, s.after, s.bound)))
    return [draw(symbolic, others, seed) for seed in CASES]

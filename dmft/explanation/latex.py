r"""Explanations as LaTeX for appendices: a paragraph for each rule, statements in alignments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import sympy as sp

from dmft.explanation.average import Average
from dmft.explanation.paragraphs import KEY, Argument, Printer, Step, without_laws
from dmft.explanation.rules import RULES, Rule
from dmft.typeset.formula import width as points
from dmft.typeset.fragment import COLUMN, align, check_points, fitted

# Formulas wider than this share of a line do not stand in a sentence.
INLINE_SHARE = 0.72
JUDGED = (
    r"\noindent Both sides of each step were evaluated at two random covariances, by quadrature or "
    "sampling and without closed forms, and agree."
)
# Rules that begin the proof of another average.
OPENING = ("pair", "coefficient")
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
    plain = re.sub(r"\b([A-Zw])\\_([a-z]+)\b|\b(d)\b", _letter, plain)
    return re.sub(r"\b(Omega|tau|Phi|nu|gamma)\b", r"$\\\1$", plain)


def _letter(match: re.Match[str]) -> str:
    """A letter with its indices, or the dimension."""
    name, indices, alone = match.groups()
    return f"${alone}$" if alone else f"${name}_{{{indices}}}$"


def rules_latex(rules: Mapping[str, int], width: float, cite: bool) -> str:
    r"""What the rules of several explanations say, each once, by its number."""
    parts = [JUDGED]
    for name, number in rules.items():
        rule = RULES[name]
        marks = "".join(rf"~\cite{{{key}}}" for key in KEY.findall(rule.source) if cite)
        head = rf"\paragraph{{Rule {number}. {escaped(rule.title)}{marks}.}}"
        parts.append(f"{head} {escaped(rule.text)}")
        if rule.formula:
            parts.append(align(_formulas(rule)))
    text = "\n".join(parts)
    return fitted(text, width)


def _formulas(rule: Rule) -> list[str]:
    """Rows of an identity; what follows from a step has a row of its own."""
    rows = rule.formula.replace(r",\ ", r",\quad ").split(r":\ ")
    return [f"& {row}" for row in rows]


def as_latex(
    explanation: Argument,
    width: float = COLUMN,
    cite: bool = False,
    rules: Mapping[str, int] | None = None,
) -> str:
    r"""An appendix; the papers are listed at its end, or cited (`\cite`) by their keys.

    Rules that `rules` numbers are cited by their numbers, others are stated where they are used
    first. The line of the argument has a paragraph for each rule, a proof of one of its averages
    has one paragraph.
    """
    check_points(width)
    keys = {key: n for n, key in enumerate(explanation.citations, start=1)}
    parts = [rf"\subsection*{{{escaped(explanation.title)}}}", *_notation(explanation)]
    if rules is None:
        parts.append(JUDGED)
    page = Page(explanation, width, {} if cite else keys, rules)
    for run in page.runs():
        counts = list(page.counts)
        lines = list(page.paragraph(page.number(run[0]), run))
        page.counts = page.counts if lines else counts
        parts += lines
    if explanation.claim != "exact":
        parts.append(rf"\noindent The result holds with {escaped(explanation.claim)}.")
    if keys and not cite:
        parts.append(r"\paragraph{References}")
        named = (explanation.references.get(key, key) for key in keys)
        parts += [rf"\noindent [{n}] {escaped(text)}\\" for n, text in enumerate(named, start=1)]
    text = "\n".join(parts)
    return fitted(text, width)


def _notation(explanation: Argument) -> list[str]:
    """What the names mean, before they are used."""
    parts = []
    if explanation.notation:
        told = ". ".join(meaning.latex for meaning in explanation.notation)
        told += "" if told.endswith(" are") else "."
        parts = [rf"\noindent {told}", *explanation.appendix]
    if isinstance(explanation.before, Average):
        show = explanation.show
        parts.append(rf"\noindent {law_in_words('', explanation.before, show)}.")
    return parts


@dataclass
class Page:
    """How far an explanation is printed.

    `keys` are numbers of cited papers (empty: cited by keys), `rules` those of the rules that the
    document states; `said` holds rules, sentences, rows and diagrams that are not printed again.
    """

    explanation: Argument
    width: float
    keys: Mapping[str, int]
    rules: Mapping[str, int] | None
    said: set[object] = field(default_factory=set)
    counts: list[int] = field(default_factory=lambda: [0, 0])

    def __post_init__(self) -> None:
        """Averages that vanish are left out of sums."""
        zero = (s.before for s in self.explanation.steps if s.after == 0)
        self.zeros = {e: sp.S.Zero for e in zero if isinstance(e, Average)}

    def runs(self) -> Iterator[list[Step]]:
        """Steps of one paragraph."""
        run = list[Step]()
        for step in without_laws(self.explanation.steps, set()):
            if run and _only_reorders(step) and step.after != self.explanation.after:
                continue
            if run and not self._continues(run, step):
                yield run
                run = []
            run.append(step)
        if run:
            yield run

    @staticmethod
    def _continues(run: Sequence[Step], step: Step) -> bool:
        """Whether a step belongs to a paragraph."""
        if run[0].depth:
            return step.depth > 0 and step.rule not in OPENING
        chained = run[-1].after == step.before
        return step.depth == 0 and (step.rule == run[0].rule or chained)

    def number(self, begin: Step) -> str:
        """Number of the next paragraph, which begins with this step."""
        first, second = self.counts
        self.counts = [first, second + 1] if begin.depth else [first + 1, 0]
        return ".".join(map(str, self.counts[: 2 if begin.depth else 1]))

    def paragraph(self, number: str, run: Sequence[Step]) -> Iterator[str]:
        """Heading, what is said of the rules, statements, and notes."""
        names = list(dict.fromkeys(rule for step in run for rule in step.rules))
        rows = list(self.rows(run))
        if not any(rows):
            return
        if not rows[1] and len(rows[0]) == 1:  # what a proof ends with may be what it is asked for
            (row,) = rows[0]
            rows = [] if run[0].depth and row in self.said else rows
            self.said.add(row)
        fresh = [name for name in names if not run[0].depth or name not in self.said]
        titles = [self._title(name) for name in fresh]
        if run[0].depth and self.rules is not None:
            numbers = sorted(self.rules[name] for name in names)
            titles = ["Rule " + str(numbers[0])] if len(numbers) == 1 else [_rules(numbers)]
        heading = f"{number}. {'; '.join(titles)}.".replace(". .", ".")
        yield rf"\paragraph{{{heading}}} {self._words(names, run)}".strip()
        if self.rules is None:
            stated = [RULES[n] for n in names if n not in self.said and RULES[n].formula]
            yield from (align(_formulas(rule)) for rule in stated)
            self.said.update(names)
        where = dict.fromkeys(y for step in run for y in step.where)
        if where:
            show = self.explanation.show
            told = ", ".join(f"${show(a)} = {show(b)}$" for a, b in where)
            yield rf"\noindent Here {told}."
        for number_of_block, block in enumerate(y for y in rows if y):
            if number_of_block:
                yield r"\noindent with"
            yield align(block)
        yield from self._notes(run)

    def _title(self, name: str) -> str:
        """Title of a rule, with its number or its citations."""
        rule = RULES[name]
        title = escaped(rule.title)
        if self.rules is not None:
            return f"{title}, Rule {self.rules[name]}"
        if name in self.said:
            return title
        found = KEY.findall(rule.source)
        number = self.keys.get
        marks = (f" [{number(key)}]" if self.keys else rf"~\cite{{{key}}}" for key in found)
        return title + "".join(marks)

    def _words(self, names: Sequence[str], run: Sequence[Step]) -> str:
        """Texts of rules that are stated here, and notes of the steps, each once."""
        texts = [RULES[n].text for n in names if self.rules is None and n not in self.said]
        notes = [step.note for step in run if step.note and step.after != 0]
        fresh = [n for n in dict.fromkeys(notes) if n not in self.said]
        self.said.update(fresh)
        return escaped(" ".join(t for t in (*texts, *fresh) if t))

    # Statements -----------------------------------------------------------------------------

    def rows(self, run: Sequence[Step]) -> tuple[list[str], list[str]]:
        """The chain of equalities of a paragraph, and what is used in it."""
        chain, used = list[str](), list[str]()
        begin, tail = run[0].depth, None
        latest: dict[int, sp.Expr] = {}
        for step in run:
            if step.rule == "collect" and ends(run[-1]) and step.after == run[-1].after:
                continue
            before, after = (e.xreplace(self.zeros) for e in (step.before, step.after))
            main = step.depth == begin and (begin == 0 or tail in (None, before) or ends(step))
            if 0 in (before, after) and not (main and tail is not None):
                continue
            if before == after or (main and after == tail) or _is_known(step, run):
                continue
            goes_on = (main and begin and tail is not None) or latest.get(step.depth) == before
            row = self._row(step, before, after, bool(goes_on))
            latest = {d: e for d, e in latest.items() if d < step.depth} | {step.depth: after}
            if main:
                tail = after
            elif row in self.said:
                continue
            else:
                self.said.add(row)
            (chain if main else used).append(row)
        return chain, used

    def _row(self, step: Step, before: sp.Expr, after: sp.Expr, goes_on: bool) -> str:
        left, right = "" if goes_on else step.show(before), step.show(after)
        if left == right and after == self.explanation.after:  # a result that needs no more steps
            left = step.show(self.explanation.before)
        return f"{left} &{step.sign} {right}"

    # Notes ----------------------------------------------------------------------------------

    def _notes(self, run: Sequence[Step]) -> Iterator[str]:
        """Diagrams, laws and bounds of the steps."""
        pictures = list[str]()
        more = ""
        for step in run:
            for diagram in step.diagrams[: step.MOST_DRAWN]:
                if diagram.kind not in self.said and sum(diagram.degrees) > 2:
                    self.said.add(diagram.kind)
                    pictures.append(diagram.picture(step.show))
            more = step.undrawn or more
        if pictures:
            many = "s" if len(pictures) > 1 else ""
            yield rf"\noindent Diagram{many}, with the number of pairings:\\[4pt]"
            yield "\\quad\n".join(pictures) + (rf"\quad {more}" if more else "") + "\n"
        for step in run:
            for name, law in step.laws:
                yield from _law(name, law, step.show, self.width)
            if step.bound != 0:
                yield rf"\noindent The omitted part is at most ${step.show(step.bound)}$."


def _only_reorders(step: Step) -> bool:
    """Whether both sides of a step are printed alike, or with the same factors in another order."""
    sizes = r"\\(left|right|[bB]igg?[lr])\b|\\,|[{}\s]"
    one, two = (re.sub(sizes, "", step.show(side)) for side in (step.before, step.after))
    return one == two or (step.rule == "linearity" and sorted(one) == sorted(two))


def _is_known(step: Step, run: Sequence[Step]) -> bool:
    """Whether a step inserts averages into sums, and the sums and the averages are printed."""
    rate = isinstance(step.before, sp.Derivative) and not isinstance(step.before.expr, sp.Symbol)
    return step.rule == "values" and step.after.has(sp.Sum) and (rate or run[0].rule == "names")


def ends(step: Step) -> bool:
    """Whether a step states the closed form of the average that its paragraph began with."""
    return step.rule == "closed"


def _rules(numbers: Sequence[int]) -> str:
    """Rules by their numbers, in a heading: Rules 2, 3 and 5--8."""
    places = {n: n - place for place, n in enumerate(numbers)}
    runs = [[*run] for _, run in groupby(numbers, key=places.__getitem__)]
    *first, last = (f"{r[0]}--{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)
    return f"Rules {', '.join(first)} and {last}" if first else f"Rules {last}"


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

"""Explanations as text for terminals, as HTML for notebooks, as LaTeX for appendices."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import sympy as sp

from dmft.explanation.average import Average
from dmft.explanation.rules import RULES

if TYPE_CHECKING:
    from dmft.explanation.steps import Explanation, Printer, Step

# Characters of a line in a terminal, and printed ones that fit a line of an appendix.
WIDTH, LATEX_WIDTH = 96, 62
COMMAND = re.compile(r"\\(?:operatorname|mathrm|mathbb|left|right|displaystyle|limits|quad|,)")
LETTER = re.compile(r"\\[a-zA-Z]+")
KEY = re.compile(r"\[([a-z_0-9]+)\]")
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
}


def cited(explanation: Explanation) -> tuple[str, ...]:
    """Keys of the bibliography that the steps cite, in order."""
    found = (key for step in explanation.steps for key in KEY.findall(step.source))
    return tuple(dict.fromkeys(found))


def numbered(explanation: Explanation) -> Iterator[tuple[str, Step]]:
    """Steps with numbers such as 2.1."""
    counts: list[int] = []
    for step in explanation.steps:
        depth = min(step.depth, len(counts))
        counts = counts[: depth + 1] + [0] * (depth + 1 - len(counts))
        counts[depth] += 1
        yield ".".join(map(str, counts)), step


# Terminal -------------------------------------------------------------------------------------


def as_text(explanation: Explanation) -> str:
    """Plain text: numbered steps, indented by depth."""
    sign = "=" if explanation.claim == "exact" else "≈"
    tell = explanation.tell
    lines = [
        explanation.title,
        *_wrapped(f"{tell(explanation.before)} {sign} {tell(explanation.after)}", "  "),
        f"  {explanation.claim}; each step judged at two random covariances",
    ]
    for number, step in numbered(explanation):
        pad = "  " * step.depth
        source = f"  ({step.source})" if step.source else ""
        lines += ["", f"{pad}{number}. {step.title}{source}"]
        told = ", ".join(f"{step.tell(a)} = {step.tell(b)}" for a, b in step.where)
        lines += _wrapped(f"{step.words} Here {told}." if told else step.words, pad + "   ")
        plain = RULES[step.rule].plain
        lines += _wrapped(plain, pad + "     ") if plain else []
        equal = "=" if step.bound == 0 else "≈"
        lines += _wrapped(tell(step.before), pad + "   ")
        lines += _wrapped(f"{equal} {tell(step.after)}", pad + "   ")
        lines += [f"{pad}   {text}" for text in _laws(step)]
        if step.bound != 0:
            lines += _wrapped(f"left out at most: {step.bound}", pad + "   ")
        pairs = "; ".join(f"{a:.10g} and {b:.10g}" for a, b in step.check)
        lines.append(f"{pad}   judged: {pairs}")
    return "\n".join(lines)


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


# LaTeX ----------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Plain text as LaTeX."""
    return "".join(SPECIAL.get(c, c) for c in text)


def statement(step: Step) -> list[str]:
    """The two sides as lines of an alignment, sums broken at their terms."""
    return _aligned(step.before, step.after, step.sign, step.show)


def _aligned(before: sp.Expr, after: sp.Expr, sign: str, show: Printer) -> list[str]:
    left, right = lines_of(before, show), lines_of(after, show)
    if len(left) == 1 and printed(left[0] + right[0]) < LATEX_WIDTH:
        first = [rf"{left[0]} &{sign} {right[0]}"]
    else:
        head, *rest = left
        first = [f"& {head}", *(rf"&\qquad {line}" for line in rest)]
        first.append(rf"&\quad {sign} {right[0]}")
    return first + [rf"&\qquad {line}" for line in right[1:]]


def lines_of(expr: sp.Expr, show: Printer) -> list[str]:
    """LaTeX of an expression in lines that fit, broken at the terms of its sums.

    Examples
    --------
    >>> x = sp.symbols("x_1:40")
    >>> len(lines_of(2 * sp.sqrt(x[0]) * sp.Add(*x), sp.latex))
    3
    """
    text = show(expr)
    if printed(text) < LATEX_WIDTH:
        return [text]
    if expr.is_Add:
        return _joined([lines_of(t, show) for t in expr.as_ordered_terms()])
    inner = next((f for f in sp.Mul.make_args(expr) if f.is_Add or isinstance(f, sp.Sum)), None)
    if inner is None or (isinstance(inner, sp.Sum) and not inner.function.has(sp.Add)):
        return [text]
    rest = expr / inner
    head = "" if rest == 1 else "-" if rest == -1 else show(rest)
    body = inner
    if isinstance(inner, sp.Sum):
        limits = ((s, low, high) for s, low, high in inner.limits)
        head += "".join(rf" \sum_{{{show(s)}={show(a)}}}^{{{show(b)}}}" for s, a, b in limits)
        body = inner.function
    inside = lines_of(body, show)
    if len(inside) == 1 and printed(head + inside[0]) >= LATEX_WIDTH and not body.is_Add:
        return [text]
    inside[0] = rf"{head} \Bigl[ {inside[0]}"
    inside[-1] += r" \Bigr]"
    return inside


def _joined(terms: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a sum: short terms share one."""
    lines: list[str] = []
    for n, term in enumerate(terms):
        first, *rest = term
        signed = first if n == 0 or first.startswith("-") else f"+ {first}"
        if lines and not rest and printed(lines[-1] + signed) < LATEX_WIDTH:
            lines[-1] += f" {signed}"
        else:
            lines.append(signed)
        lines += rest
    return lines


def printed(text: str) -> int:
    r"""About how many characters LaTeX prints.

    Examples
    --------
    >>> printed(r"\operatorname{erf}{\left(x \right)} + \sqrt{\rho}")
    9
    """
    plain = LETTER.sub("a", COMMAND.sub("", text).replace(r"\frac", "").replace(r"\sqrt", "v"))
    return sum(c not in "{}_^ &" for c in plain)


def as_latex(explanation: Explanation) -> str:
    """An appendix: a paragraph for each step, the statement in an alignment."""
    sign = "=" if explanation.claim == "exact" else r"\approx"
    show = explanation.show
    keys = {key: n for n, key in enumerate(cited(explanation), start=1)}
    rows = _aligned(explanation.before, explanation.after, sign, show)
    parts = [
        rf"\paragraph{{{escaped(explanation.title)}}} {escaped(explanation.claim)}; each step is "
        "judged at two random covariances.",
        display(rows),
    ]
    for number, step in numbered(explanation):
        parts += [_paragraph(number, step, keys), display(statement(step)), *_latex_laws(step)]
        if step.bound != 0:
            parts.append(rf"\noindent What is left out is at most ${show(step.bound)}$.")
    if keys:
        parts.append(r"\paragraph{References}")
        named = (explanation.references.get(key, key) for key in keys)
        parts += [rf"\noindent [{n}] {escaped(text)}\\" for n, text in enumerate(named, start=1)]
    return "\n".join(parts)


def display(rows: list[str]) -> str:
    """An alignment without numbers."""
    return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}"


def _paragraph(number: str, step: Step, keys: dict[str, int]) -> str:
    rule = RULES[step.rule]
    marks = "".join(f" [{keys[key]}]" for key in KEY.findall(step.source))
    formula = f" ${rule.formula}$." if rule.formula else ""
    note = f" {escaped(step.note)}" if step.note else ""
    note += _where(step)
    return (
        rf"\paragraph{{{number}. {escaped(step.title)}{marks}}} {escaped(rule.text)}{formula}{note}"
    )


def _where(step: Step) -> str:
    told = ", ".join(f"${step.show(a)} = {step.show(b)}$" for a, b in step.where)
    return f" Here {told}." if told else ""


def _latex_laws(step: Step) -> list[str]:
    return [rf"\noindent {_law(name, law, step)}." for name, law in step.laws]


def _law(name: str, law: Average, step: Step) -> str:
    fields = ", ".join(step.show(x) for x in law.fields)
    matrix = r" \\ ".join(" & ".join(step.show(e) for e in row) for row in law.cov.tolist())
    text = rf"Under ${name}$, $({fields})$ has the covariance "
    text += rf"$\begin{{pmatrix}} {matrix} \end{{pmatrix}}$"
    if any(m != 0 for m in law.mean):
        text += f" and the mean $({', '.join(step.show(m) for m in law.mean)})$"
    return text


# Notebooks ------------------------------------------------------------------------------------


def as_html(explanation: Explanation) -> str:
    """Collapsible steps; mathematics between dollars, set by MathJax."""
    sign = "=" if explanation.claim == "exact" else r"\approx"
    show = explanation.show
    head = f"{show(explanation.before)} {sign} {show(explanation.after)}"
    body = [f"<b>{html.escape(explanation.title)}</b> ({html.escape(explanation.claim)})"]
    body.append(_math(head))
    open_depths: list[int] = []
    for number, step in numbered(explanation):
        while open_depths and open_depths[-1] >= step.depth:
            open_depths.pop()
            body.append("</details>")
        body.append(_details(number, step))
        open_depths.append(step.depth)
    body += ["</details>"] * len(open_depths)
    return "<div>" + "\n".join(body) + "</div>"


def _details(number: str, step: Step) -> str:
    rule = RULES[step.rule]
    formula = f" ${html.escape(rule.formula)}$" if rule.formula else ""
    source = f" <small>{html.escape(step.source)}</small>" if step.source else ""
    laws = "".join(f"<p>{html.escape(_law(name, law, step))}.</p>" for name, law in step.laws)
    bound = f"<p>Left out at most: ${html.escape(step.show(step.bound))}$</p>" if step.bound else ""
    pairs = "; ".join(f"{a:.8g} and {b:.8g}" for a, b in step.check)
    opened = " open" if step.depth == 0 else ""
    return (
        f'<details{opened} style="margin-left:{1 + step.depth}em"><summary>{number}. '
        f"{html.escape(step.title)}</summary><p>{html.escape(step.words)}{formula}"
        f"{html.escape(_where(step))}{source}</p>"
        f"{_math(step.latex)}{laws}{bound}<small>judged: {pairs}</small>"
    )


def _math(text: str) -> str:
    return f"<p>$\\displaystyle {html.escape(text)}$</p>"

r"""LaTeX of rules: the step as it was written, the inputs, the rates in overlaps of named rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition, define
from dmft.equations.rules.moments import Moments
from dmft.equations.system import System
from dmft.equations.views.latex import Page, definition_latex
from dmft.equations.views.printer import EquationPrinter
from dmft.model.update import VectorRule
from dmft.rules import Row, Vector, View
from dmft.typeset.fragment import align, fitted

# Operations of a rate that is printed without names for its covariances.
LONGEST = 250


def rule_latex(equations: System, page: Page) -> str:
    """Step, inputs, rates and measures."""
    rule = equations.model
    assert isinstance(rule, VectorRule)
    printer = page.printer({})
    names = row_names(rule)
    shown, parts = printed(equations.definitions, names, rule), [f"% {equations.time_unit}"]
    parts.append("One step changes")
    parts.append(align(_steps(rule, printer)))
    inputs = _inputs(rule, printer)
    if inputs:
        parts += ["where", align(inputs)]
    parts.append("In the limit of large $d$, with $G_{ab} = X_a \\cdot X_b / d$,")
    parts.append(align([line for d in shown for line in definition_latex(d, printer)]))
    if any(d.expr.has(Expectation) for d in shown):
        parts.append(r"$\langle \cdot \rangle$ is over independent normal $n_1, n_2, \ldots$")
    return fitted("\n".join(part for part in parts if part), page.width)


def row_names(rule: VectorRule) -> dict[sp.Symbol, sp.Symbol]:
    """Symbols of the overlaps with the names of their rows."""
    moments, found = Moments(rule), {}
    rows, blocks = moments.rows, range(len(rule.fractions))
    for a in rows:
        for b in rows:
            for e in blocks:
                own = "" if len(blocks) == 1 else f"^{{({e + 1})}}"
                names = " ".join(
                    sp.latex(sp.Symbol(_row(r)))
                    for r in sorted((a, b), key=moments.places.__getitem__)
                )
                found[moments.in_block(a, b, e)] = sp.Symbol(f"G{own}_{{{names}}}", real=True)
    return found


def _row(row: Row) -> str:
    stem = row.name.rstrip("0123456789")
    number = row.name[len(stem) :]
    return f"{stem}_{number}" if number else stem


def printed(
    definitions: Sequence[Definition], names: Mapping[sp.Symbol, sp.Symbol], rule: VectorRule
) -> list[Definition]:
    """Rates and measures, with covariances put in where these are short, and what is left."""
    inside: dict[sp.Expr, sp.Expr] = {}
    kept: list[Definition] = []
    for d in definitions:
        value = d.expr.xreplace(inside)
        if d.role == "intermediate" and len(d.terms) == 1 and value.count_ops() <= LONGEST // 10:
            inside[d.target] = value
        else:
            kept.append(d)
    found: list[Definition] = []
    order = {"rate": 0, "observable": 1, "intermediate": 2}
    upper = set(names)
    for d in sorted(kept, key=lambda d: order.get(d.role, 3)):
        if d.role == "rate" and d.name.startswith(("Q_", "M_")) and d.target not in upper:
            continue  # the same entry below the diagonal
        terms = {n: _short(e.xreplace(inside)).xreplace(dict(names)) for n, e in d.terms}
        target = names.get(d.target, d.target)
        found.append(define(target, terms, d.role))
    return found


def _short(expr: sp.Expr) -> sp.Expr:
    """An expression with common factors in front, where that is quick."""
    if expr.has(Expectation) or expr.count_ops() > LONGEST:
        return expr
    return sp.factor_terms(sp.expand(expr) if expr.is_polynomial() else expr)


def _vector(step: Mapping[Vector, sp.Expr], printer: EquationPrinter) -> str:
    """A combination of vectors."""
    parts = []
    for vector, c in step.items():
        name = _row(vector) if isinstance(vector, Row) else str(vector)
        root = "" if isinstance(vector, View) else r"/\sqrt{d}"
        text = printer.doprint(c)
        if c == 1:
            text = ""
        elif c.is_Add:
            text = rf"\left({text}\right)"
        parts.append(rf"{text}\, {printer.doprint(sp.Symbol(name))}{root}")
    return " + ".join(parts).replace("+ -", "-") or "0"


def _steps(rule: VectorRule, printer: EquationPrinter) -> list[str]:
    rate = printer.doprint(sp.Symbol("gamma"))
    lines = []
    for row, step in rule.steps:
        name = printer.doprint(sp.Symbol(_row(row)))
        inside = _vector(step.terms, printer)
        lines.append(rf"\Delta {name} &= \frac{{{rate}}}{{\sqrt{{d}}}} \left[{inside}\right]")
    for symbol, value in rule.rates:
        text = printer.doprint(value)
        lines.append(
            rf"\Delta {printer.doprint(symbol)} &= \frac{{{rate}}}{{d}} \left[{text}\right]"
        )
    return lines


def _inputs(rule: VectorRule, printer: EquationPrinter) -> list[str]:
    """Views with their latents, and laws of random numbers."""
    lines = []
    for view in rule.views:
        x = printer.doprint(sp.Symbol(view.name))
        parts = [
            rf"{_coefficient(c, printer)} {printer.doprint(sp.Symbol(_row(row)))}/\sqrt{{d}}"
            for row, c in view.latents.items()
        ]
        scale = "" if view.scales == (1,) else _coefficient(view.scales[0], printer)
        noise = rf"{scale} G_{{{x}}}"
        if view.replaces:
            noise += r"^{\perp}"
        lines.append(f"{x} &= {' + '.join([*parts, noise])}")
    for r in rule.randoms:
        lines.append(rf"{printer.doprint(r)} &\sim \text{{{_law(r.law)}}}")
    return lines


def _coefficient(c: sp.Expr, printer: EquationPrinter) -> str:
    text = printer.doprint(c)
    return "" if c == 1 else rf"\left({text}\right)" if c.is_Add else str(text)


def _law(law: object) -> str:
    """A law in a text of LaTeX."""
    text = repr(law)
    for old, new in (("{", r"\{"), ("}", r"\}"), ("_", r"\_"), ("**", "^"), ("^", r"\^{}")):
        text = text.replace(old, new)
    return text

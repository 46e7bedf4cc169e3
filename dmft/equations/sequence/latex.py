"""LaTeX of the equations of sequence models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sympy as sp
from sympy.printing.latex import LatexPrinter

from dmft.equations import symbols as x
from dmft.equations.sequence.risk import SequenceRisk
from dmft.gaussian.tables.tokens import TokenAverage
from dmft.model import SGD

if TYPE_CHECKING:
    from dmft.equations.sequence.equations import SequenceEquations


def equations_latex(equations: SequenceEquations) -> str:
    """Rates with the gradient of the risk as a symbol, then what the symbols are."""
    from dmft.equations.sequence.equations import INTERMEDIATE_LATEX

    printer = SequencePrinter()
    state = [*equations.blocks["m"], *equations.blocks["e"]]
    names = {s: printer.doprint(s) for s in state}
    slopes = {s: sp.Symbol(rf"\partial_{{{names[s]}}} \mathcal{{L}}") for s in state}
    gram = equations.model.encoding.gram
    if not equations.model.tied:
        gram = equations.model.length * sp.eye(len(state))
    if equations.on_nodes:
        return _of_nodes(equations, printer)
    lines = []
    derived = equations.as_derived.terms
    for block, terms in equations.rates:
        for n, symbol in enumerate(equations.blocks[block]):
            row = state.index(symbol)
            drift = -sp.Add(*(gram[row, k] * slopes[y] for k, y in enumerate(state)))
            parts = [
                drift if (name, now) == ("learning", derived[block].get(name)) else column[n]
                for (name, column), now in zip(terms, equations.terms[block].values(), strict=True)
            ]
            shown = " ".join(_signed(printer.doprint(y), first=not k) for k, y in enumerate(parts))
            lines.append(rf"\frac{{d {names[symbol]}}}{{dt}} &= {shown}")
    pull = " + ".join(rf"{names[s]} \partial_{{{names[s]}}} \mathcal{{L}}" for s in state)
    for symbol, expr in equations.definitions:
        name = INTERMEDIATE_LATEX[symbol]
        value = pull if name == r"\rho" else printer.doprint(expr)
        lines.append(rf"{name} &{_sign(expr)} {value}")
    lines.append(_loss(equations, printer, names))
    body = " \\\\\n".join(lines)
    return f"% {equations.time_unit}\n\\begin{{align*}}\n{body}\n\\end{{align*}}"


def _of_nodes(equations: SequenceEquations, printer: LatexPrinter) -> str:
    """Equations whose slopes are averages of their own."""
    lines = []
    for block, terms in equations.rates:
        for n, symbol in enumerate(equations.blocks[block]):
            parts = [printer.doprint(column[n]) for _, column in terms]
            shown = " ".join(_signed(y, first=not k) for k, y in enumerate(parts))
            lines.append(rf"\frac{{d {printer.doprint(symbol)}}}{{dt}} &= {shown}")
    for symbol, expr in equations.definitions:
        lines.append(rf"{printer.doprint(symbol)} &= {printer.doprint(expr)}")
    lines.append(rf"\mathcal{{L}} &= {printer.doprint(equations.observable)}")
    body = " \\\\\n".join(lines)
    return f"% {equations.time_unit}\n\\begin{{align*}}\n{body}\n\\end{{align*}}"


def _loss(equations: SequenceEquations, printer: LatexPrinter, names: dict[sp.Symbol, str]) -> str:
    """What the gradient is that of: the risk, or minus the correlation."""
    risk = SequenceRisk(equations.model)
    correlation = isinstance(equations.algorithm, SGD) and equations.algorithm.loss == "correlation"
    expr = -risk.moments.cross if correlation else risk.expr
    head = r"\mathcal{L}" if correlation else r"\mathcal{L} = \mathcal{R}"
    return rf"{head}({', '.join(names.values())}) &{_sign(expr)} {printer.doprint(expr)}"


def _sign(expr: sp.Expr) -> str:
    return r"\approx" if expr.has(TokenAverage) else "="


def _signed(text: str, *, first: bool) -> str:
    return text if first or text.startswith("-") else f"+ {text}"


class SequencePrinter(LatexPrinter):
    """House names of the parameters and intermediates."""

    def _print_Symbol(self, expr: sp.Symbol, style: str = "plain") -> str:
        from dmft.equations.sequence.equations import INTERMEDIATE_LATEX

        known = x.SYMBOL_LATEX.get(expr) or INTERMEDIATE_LATEX.get(expr)
        if expr.name == "across":
            return r"\sqrt{1 - m^2}\,\partial_{m} \mathcal{L}"
        if expr.name.startswith("slope_"):
            return rf"\partial_{{{expr.name.removeprefix('slope_')}}} \mathcal{{L}}"
        return known or str(super()._print_Symbol(expr, style))

    def _print_TokenAverage(self, expr: TokenAverage) -> str:
        return str(expr._latex(self))

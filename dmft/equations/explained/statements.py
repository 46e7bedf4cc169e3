r"""Statements of explanations in LaTeX: coefficients in front, functions of fields behind them."""

from __future__ import annotations

from typing import Any

import sympy as sp

from dmft.equations.averages.expectation import At
from dmft.equations.views.printer import KernelPrinter
from dmft.explanation.average import Average, FieldHermite


class StatementPrinter(KernelPrinter):
    r"""Closed forms as kernels are printed; averages, integrals and functions of fields come last.

    Examples
    --------
    >>> f, g = sp.symbols("f f_*")
    >>> nothing = sp.ImmutableDenseMatrix(0, 0, [])
    >>> square = Average((g - f) ** 2, sp.Tuple(), nothing, sp.Tuple(), sp.Symbol("x"))
    >>> StatementPrinter({}).doprint(square / 2)
    '\\frac{1}{2} \\mathbb{E}_{x}\\left[\\left(f_{*} - f\\right)^{2}\\right]'
    """

    def _print_Derivative(self, expr: sp.Derivative) -> str:
        return rf"\frac{{d {self._print(expr.expr)}}}{{d{self._print(expr.variables[0])}}}"

    def stands_behind(self, factor: sp.Expr) -> bool:
        """Whether a factor comes after the coefficients."""
        return factor.has(At, Average, FieldHermite, sp.Integral) or super().stands_behind(factor)


class Marked(sp.Expr):
    """An expression with a mark, in LaTeX and in text."""

    is_commutative = True
    is_real = True
    latex_form = text_form = "{}"

    def _latex(self, printer: Any) -> str:
        return self.latex_form.format(printer.doprint(self.args[0]))

    def _sympystr(self, printer: Any) -> str:
        return self.text_form.format(printer.doprint(self.args[0]))


class OnNodes(Marked):
    """The sum over nodes that stands for an average without closed form."""

    latex_form, text_form = r"{}_{{\mathrm{{nodes}}}}", "{}_nodes"


class Increment(Marked):
    """What a step adds to an entry."""

    latex_form, text_form = r"\Delta {}", "Δ{}"

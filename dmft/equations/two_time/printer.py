"""LaTeX of equations in two times: times as superscripts, laws of teachers and batches."""

from __future__ import annotations

import sympy as sp

from dmft.equations.two_time.descent_process import (
    BATCH_LAWS,
    SYMBOLS_LATEX,
    TIME_LATEX,
    TWO_TIMES,
)
from dmft.equations.views.latex import EquationPrinter
from dmft.model import Model
from dmft.model.descent import GradientDescent


def batches_latex(algorithm: GradientDescent) -> list[str]:
    """Law of how often a batch holds a sample."""
    return [BATCH_LAWS[algorithm.batch]] if algorithm.batch in BATCH_LAWS else []


def law_of_teachers(model: Model) -> str:
    """LaTeX of the law of h*."""
    if model.clusters is None:
        return r"h^* \sim \mathcal{N}(0, P)"
    means = sp.latex(sp.Matrix(model.clusters.means.T))
    weights = ", ".join(f"{y:g}" for y in model.clusters.weights)
    return (
        rf"h^* \mid c \sim \mathcal{{N}}(P \mu_c, P), \quad \mu = {means}, "
        rf"\quad \Pr(c) = ({weights})"
    )


class TwoTimePrinter(EquationPrinter):
    """Times as superscripts of vectors, as arguments of kernels."""

    def _print_Symbol(self, expr: sp.Symbol, style: str = "plain") -> str:
        return SYMBOLS_LATEX.get(expr) or super()._print_Symbol(expr, style)

    def _print_Indexed(self, expr: sp.Indexed) -> str:
        base = str(expr.base.label)
        indices = [self._print(y) for y in expr.indices]
        if base in TWO_TIMES:
            return f"{TIME_LATEX[base]}_{{{' '.join(indices[2:])}}}({', '.join(indices[:2])})"
        if base in TIME_LATEX:
            return f"{TIME_LATEX[base]}^{{{indices[0]}}}_{{{' '.join(indices[1:])}}}"
        special = {"g_star": r"g^{\star %s}_{%s}",
                   "mean_pull": r"\langle \ell' \sigma \rangle^{%s}_{%s}"}  # fmt: skip
        if base == "P_inverse":
            return f"P^{{-1}}_{{{' '.join(indices)}}}"
        if base == "readout_pull":
            return rf"(\ell' \sigma)_{{{' '.join(indices)}}}"
        if base in ("R_l_equal", "multiplier"):  # of a flow: one time
            name = r"R^{\ell}" if base == "R_l_equal" else r"\nu"
            return f"{name}_{{{' '.join(indices[1:])}}}({indices[0]})"
        if base in special:
            return special[base] % (indices[0], " ".join(indices[1:]))
        return super()._print_Indexed(expr)

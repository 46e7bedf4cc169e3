"""Averages of equations in LaTeX: closed forms as papers print them, sentences for the others."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.averages.passes import Lowered, value_of
from dmft.equations.views.print_forms import Polynomials, for_print
from dmft.equations.views.printer import EquationPrinter, KernelPrinter
from dmft.errors import NotClosed
from dmft.gaussian.closed.pair import elementary
from dmft.gaussian.tables.tabled import TableAverage
from dmft.typeset.fragment import align

# Closed forms of more operations, in their printed shape, are left out unless asked for.
KERNEL_OPERATIONS = 360
# What a table promises, relative to the root of the product of the second moments.
TABLE_ERROR = "10^{-10}"
LAW = (
    r"For centred Gaussian $x_1, x_2, \ldots$ with covariances $C_{ab} = \langle x_a x_b \rangle$:"
)
SENTENCES = {
    "table": "No elementary closed form, tabulated with a relative error below "
    rf"${TABLE_ERROR}$ of the root of the second moments:",
    "open": "These have no closed form:",
    "long": "Functions of $C$ in closed form, too long for a page:",
    "nodes": "Computed by quadrature, with an error estimate:",
}
BIVARIATE = (
    r"\Phi_2(u, v; \rho) &= \Pr(x_1 \le u,\ x_2 \le v),\quad "
    r"C_{11} = C_{22} = 1,\ C_{12} = \rho"
)


@dataclass
class Kernels:
    """Lines of closed forms, and what has none, by reason."""

    printer: EquationPrinter
    rows: list[str] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)
    names: Polynomials = field(default_factory=Polynomials)

    def add(self, average: Expectation, limit: int | None, how: str = "value") -> None:
        """One average, over fields x_1, x_2 ... with covariance C."""
        head = self.head(average)
        if how == "nodes":
            self.others.setdefault("nodes", []).append(self.printer.doprint(average))
            return
        try:
            closed = _closed(average)
        except NotClosed:
            self.others.setdefault("open", []).append(head)
            return
        if closed.has(TableAverage):
            self.others.setdefault("table", []).append(head)
            return
        if limit is not None and sp.count_ops(closed) > 2.2 * limit:
            self.others.setdefault("long", []).append(head)
            return
        shown = for_print(closed, self.names)
        if limit is not None and sp.count_ops(shown) > limit:
            self.names.take()
            self.others.setdefault("long", []).append(head)
            return
        closed_forms = KernelPrinter({}, self.printer.letters)
        self.rows.append(f"{head} &= {closed_forms.doprint(shown)}")
        self.rows += [
            f"{closed_forms.doprint(s)} &= {closed_forms.doprint(e)}"
            for s, e in sorted(self.names.take(), key=lambda y: _number(y[0]))
        ]

    def head(self, average: Expectation) -> str:
        """The average itself."""
        labels = [sp.Symbol(f"x_{{{n + 1}}}") for n in range(len(average.parts))]
        if not average.is_product:
            return str(self.printer.doprint(average))
        pairs = zip(average.factors, labels, strict=True)
        return str(self.printer.doprint(Expectation(*(At(f, y) for f, y in pairs))))

    def latex(self) -> list[str]:
        """Sentences and alignments."""
        found = []
        if self.rows:
            found += [LAW, align([*self.rows, *self.meanings()])]
        for reason, heads in self.others.items():
            unique = list(dict.fromkeys(heads))
            if reason != "nodes":
                unique = [h.replace(" &", "") for h in unique]
            found += [SENTENCES[reason], align(["& " + r",\quad ".join(unique)])]
        return found

    def meanings(self) -> list[str]:
        """Definitions of special functions that the closed forms hold."""
        text = " ".join(self.rows)
        found = []
        if r"\Phi_{2}" in text:
            found.append(BIVARIATE)
        if "S_{1234}" in text or "S_4" in text:
            found += signs_rows("S_4" in text)
        if r"\operatorname{erfcx}" in text:
            found.append(r"\operatorname{erfcx}(x) &= e^{x^2} \operatorname{erfc}(x)")
        return found


def signs_rows(with_arguments: bool) -> list[str]:
    """What is left of four signs: the average less that of pairs (`FourSigns`)."""
    product = "".join(rf"\operatorname{{sign}}(x_{n})" for n in (1, 2, 3, 4))
    text = rf"S_{{1234}} &= \left\langle {product} \right\rangle"
    more = [r"S_4(C_{11}, C_{12}, \ldots, C_{44}) &= S_{1234}"] if with_arguments else []
    return [text, *more]


def average_latex(average: Expectation, printer: EquationPrinter, limit: int | None) -> list[str]:
    """Closed form of an average over fields x_1, x_2, ... with covariance C, as align lines."""
    kernels = Kernels(printer)
    kernels.add(average, limit)
    return kernels.rows


def kernels_latex(
    averages: Iterable[Lowered], printer: EquationPrinter, limit: int | None
) -> list[str]:
    """Sentences and alignments about averages; `limit` bounds the operations of closed forms."""
    kernels = Kernels(printer)
    for one in averages:
        kernels.add(one.average, limit, one.how)
    return kernels.latex()


def _closed(average: Expectation) -> sp.Expr:
    """Function of the covariances that stands for an average."""

    def cov(first: Any, second: Any) -> sp.Symbol:
        low, high = sorted((int(first), int(second)))
        name = f"C_{{{low + 1}{high + 1}}}"
        return sp.Symbol(name, positive=True) if low == high else sp.Symbol(name, real=True)

    if not average.is_product:
        raise NotClosed(f"{average} is no product of functions of single fields")
    places = (At(f, sp.Integer(n)) for n, f in enumerate(average.factors))
    closed = elementary(value_of(Expectation(*places), cov))
    try:
        return written_out(closed)
    except NotClosed:  # products with error functions: one integral of closed averages
        return closed


def written_out(expr: sp.Expr) -> sp.Expr:
    """Closed forms of averages that stand whole in equations; some hold others of them."""
    inner = {q: q.written_out() for q in expr.atoms(TableAverage)}
    changed = {q: value for q, value in inner.items() if value != q}
    return written_out(expr.xreplace(changed)) if changed else expr


def _number(symbol: sp.Symbol) -> tuple[str, int]:
    found = re.search(r"\d+", symbol.name)
    return symbol.name.split("_")[0], int(found.group()) if found else 0

r"""Averages over tokens in LaTeX: each by a name E_n(e, m), its functions in named blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import sympy as sp

from dmft.equations.views.printer import EquationPrinter
from dmft.gaussian.tables.tokens import TokenAverage
from dmft.model import FIELD
from dmft.typeset.fragment import align

# Functions of more operations than this are named.
INLINE = 6
MEAN = sp.Symbol(r"\bar{h}", real=True)


@dataclass
class _Functions:
    """Functions of the tokens by name, and the sums of exponentials in their denominators."""

    printer: EquationPrinter
    found: dict[sp.Expr, str] = field(default_factory=dict)
    sums: dict[sp.Expr, sp.Symbol] = field(default_factory=dict)

    def at(self, expr: sp.Expr, star: bool) -> str:
        """A function at the fields of the student or of the target."""
        if expr == 1:
            return ""
        if expr.is_number or (sp.count_ops(expr) <= INLINE and not expr.has(sp.exp)):
            text = self.printer.doprint(expr.xreplace(_fields(expr, star)))
            return rf"\left({text}\right)" if expr.is_Add else text
        name = self.found.setdefault(expr, f"F_{{{len(self.found) + 1}}}")
        return rf"{name}(h^*)" if star else rf"{name}(h)"

    def rows(self) -> list[str]:
        """Definitions of the functions, and of the sums that they hold."""
        rows = []
        for expr, name in self.found.items():
            shown = self.shown(expr).xreplace(_fields(expr, False))
            rows.append(f"{name}(h) &= {self.printer.doprint(shown)}")
        for total, symbol in self.sums.items():
            shown = total.xreplace(_fields(total, False))
            rows.append(f"{self.printer.doprint(symbol)} &= {self.printer.doprint(shown)}")
        return rows

    def shown(self, expr: sp.Expr) -> sp.Expr:
        """An expression with names for the sums below its fractions."""
        below = {
            p.base
            for p in expr.atoms(sp.Pow)
            if p.exp.is_negative and p.base.is_Add and p.base.has(sp.exp)
        }
        for total in sorted(below, key=sp.default_sort_key):
            symbol = sp.Symbol(f"Z_{{{len(self.sums) + 1}}}", positive=True)
            self.sums.setdefault(total, symbol)
        return expr.xreplace(self.sums)


def _numbers_first(f: sp.Expr, g: sp.Expr, functions: _Functions) -> list[str]:
    """The factors of a product at the fields of the target and of the student."""
    pairs = sorted(((f, True), (g, False)), key=lambda y: not y[0].is_number)
    return [functions.at(*y) for y in pairs]


def _fields(expr: sp.Expr, star: bool) -> dict[sp.Expr, sp.Expr]:
    """Token fields as they are printed."""
    found: dict[sp.Expr, sp.Expr] = {FIELD: MEAN}
    for symbol in expr.free_symbols:
        if symbol.name.startswith("z") and symbol.name[1:].isdigit():
            label = f"h^*_{{{symbol.name[1:]}}}" if star else f"h_{{{symbol.name[1:]}}}"
            found[symbol] = sp.Symbol(label, real=True)
    return found


def token_rows(
    found: Mapping[tuple[sp.Basic, ...], TokenAverage], printer: EquationPrinter
) -> list[str]:
    """Sentences and alignments that define the averages that a printer has named."""
    functions = _Functions(printer)
    rows = []
    for key, number in printer.tokens.items():
        average = found.get(key)
        if average is None:
            continue
        terms = [
            r"\,".join(y for y in _numbers_first(f, g, functions) if y) or "1"
            for f, g in average.pairs
        ]
        inside = " + ".join(terms)
        head = rf"\mathcal{{E}}_{{{number}}}(e, m)"
        rows.append(rf"{head} &= \mathbb{{E}}\left[ {inside} \right]")
    if not rows:
        return []
    # Averages that do not depend on e have the pattern 0.
    moving = max(found.values(), key=lambda y: any(c != 0 for c in y.args[1]))
    pattern = ", ".join(printer.doprint(y) for y in moving.args[1])
    mean = any(g.has(FIELD) for average in found.values() for _, g in average.pairs)
    law = (
        r"Token fields are Gaussian of variance one, independent between tokens, with "
        r"$\langle h_l h^*_l \rangle = m$, $\langle h^*_l \rangle = 0$ and "
        rf"$\langle h_l \rangle = c_l e$, $c = ({pattern})$;"
    )
    if mean:
        law += r" $\bar{h} = \sum_l h_l / \sqrt{L}$ over the $L$ tokens;"
    blocks = [f"{law} $\\mathbb{{E}}$ is over them, by tables:", align(rows)]
    named = functions.rows()
    return [*blocks, *(["with the functions", align(named)] if named else [])]

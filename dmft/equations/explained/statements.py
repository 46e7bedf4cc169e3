"""How the statements of a derivation are printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.definitions import base_name
from dmft.equations.symbols import ONLY
from dmft.equations.views.closed import ClosedPrinter, ClosedSystem, Entry
from dmft.equations.views.collected import PI, collected
from dmft.equations.views.printer import KernelPrinter, sums_over_students
from dmft.explanation.average import Average, FieldHermite
from dmft.explanation.print_forms import rewritten, written

# Overlaps of single units, as symbols.
OVERLAPPING = {sp.Symbol(name, positive=True) for name in "QP"} | {sp.Symbol("M", real=True)}
VARIANCES = (x.Q, x.P)
# Operations of a closed form of an average that is collected, and of one in more symbols.
MOST_COLLECTED, MOST_SYMBOLS, SHORT = 120, 3, 40


class StatementPrinter(KernelPrinter):
    """Closed forms printed like kernels; averages, integrals and functions of fields come last."""

    def doprint(self, expr: sp.Expr) -> str:
        """LaTeX, coefficients of averages with one root and without fractions in fractions."""
        return str(super().doprint(_simplified(expr, self.shortened)))

    def shortened(self, expr: sp.Expr) -> sp.Expr:
        """A closed form as it is printed."""
        return shortened(expr)

    def in_order(self, terms: Sequence[sp.Expr]) -> list[sp.Expr]:
        """Terms of a sum: those of teachers, those of students, noise of labels."""

        def place(term: sp.Expr) -> tuple[bool, int]:
            return term.has(x.xi), sums_over_students(term)

        return sorted(super().in_order(terms), key=place)

    def factors(self, number: int, pairs: Sequence[tuple[sp.Expr, sp.Expr]]) -> str:
        """Product of powers; the noise of labels after its deviation."""
        noise = [self.power(*pair, True) for pair in pairs if pair[0] == x.xi]
        rest = [pair for pair in pairs if pair[0] != x.xi]
        return r"\,".join(y for y in (super().factors(number, rest), *noise) if y)

    def _print_Derivative(self, expr: sp.Derivative) -> str:
        return rf"\frac{{d {self._print(expr.expr)}}}{{d{self._print(expr.variables[0])}}}"

    def stands_behind(self, factor: sp.Expr) -> bool:
        """Whether a factor comes after the coefficients."""
        return factor.has(At, Average, FieldHermite, sp.Integral) or super().stands_behind(factor)


def shortened(expr: sp.Expr) -> sp.Expr:
    """A closed form in covariances as kernels are printed, where it is short.

    Polynomials of many covariances have factors that take SymPy minutes in some orders.
    """
    short = SHORT if len(expr.free_symbols) > MOST_SYMBOLS else MOST_COLLECTED
    if sp.count_ops(expr) <= short:
        return rewritten(expr)
    own = expr.is_Add or expr.is_Mul or expr.is_Pow
    return expr.func(*map(shortened, expr.args)) if own else expr


def _simplified(expr: sp.Expr, shortened: Callable[[sp.Expr], sp.Expr]) -> sp.Expr:
    """A statement with its short closed forms rewritten for print."""
    if isinstance(expr, sp.Integral):
        return sp.Integral(_simplified(expr.function, shortened), *expr.limits)
    if any(e.law == "x" for e in expr.atoms(Average)):
        return expr
    kept: dict[sp.Expr, sp.Expr] = {
        e: sp.Dummy(real=True) for e in expr.atoms(Average, sp.Integral, FieldHermite)
    }
    if not expr.has(sp.Sum):
        kept |= {e: sp.Dummy(real=True) for e in expr.atoms(Expectation)}
    plain = expr.xreplace(kept)
    single = {e for e in plain.atoms(sp.Indexed) if set(e.indices) <= set(ONLY)}
    own = {e: sp.Dummy(positive=True) if e.base in VARIANCES else sp.Dummy() for e in single}
    plain = plain.xreplace(own)
    powers = (e for e in plain.atoms(sp.Pow) if not e.exp.is_nonnegative)
    if plain.has(Expectation, sp.Sum, sp.Indexed, At) or (not any(powers) and kept):
        return expr
    back = {
        d: _simplified(e, shortened) if isinstance(e, sp.Integral) else e for e, d in kept.items()
    }
    found = written(shortened(plain)) if own else shortened(plain)
    return found.xreplace(back | {d: e for e, d in own.items()})


class SinglePrinter(StatementPrinter, ClosedPrinter):
    """Statements about single units, whose fields and overlaps are symbols."""

    SINGLE = frozenset({"h", "h_star", "Q", "M", "P"})

    def __init__(self, names: Mapping[sp.Expr, str], closed: ClosedSystem) -> None:
        super().__init__(names)
        self.rows = {closed[base_name(target)]: expr for target, expr, _ in closed.rows}

    def shortened(self, expr: sp.Expr) -> sp.Expr:
        """A closed form in overlaps as equations are printed."""
        if expr in self.rows:
            return self.rows[expr]
        if sp.count_ops(expr) > MOST_COLLECTED:
            return expr
        entries = {s: Entry(sp.IndexedBase(s.name)[ONLY]) for s in expr.free_symbols & OVERLAPPING}
        return collected(expr.xreplace({**entries, sp.pi: PI}))

    def is_parameter(self, symbol: sp.Expr) -> bool:
        """Whether a symbol is printed before overlaps."""
        return str(symbol) not in self.SINGLE and super().is_parameter(symbol)


class Marked(sp.Expr):
    """An expression with a mark in print."""

    is_commutative = True
    is_real = True
    form = "{}"

    def _latex(self, printer: Any) -> str:
        return self.form.format(printer.doprint(self.args[0]))


class OnNodes(Marked):
    """Sum over nodes that replaces an average without a closed form."""

    form = r"{}_{{\mathrm{{nodes}}}}"


class FromTable(Marked):
    """Value of an average that is interpolated from a table."""

    form = r"{}_{{\mathrm{{table}}}}"


class Increment(Marked):
    """What a step adds to an entry."""

    form = r"\Delta {}"

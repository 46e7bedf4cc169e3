r"""Nodes that steps are written in, E[F] under a named Gaussian law and Hermite polynomials, and
how their numbers and functions are printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp
from mpmath.libmp import prec_to_dps
from sympy.functions.special.polynomials import hermite_prob
from sympy.printing.latex import LatexPrinter

from dmft.explanation.print_forms import rewritten, written

# Significant digits of decimals in statements.
DIGITS = 6
# Share of the covariances between fields, from 0 to 1; its assumptions make it no user's symbol.
SHARE = sp.Symbol("tau", positive=True, transcendental=True)


class Average(sp.Expr):
    """E[integrand] of jointly Gaussian fields with a covariance and a mean.

    Arguments are the integrand, the fields, their covariance, their mean and the name of the law
    (the symbol "" where it is the law that the explanation began with).
    """

    is_commutative = True
    is_real = True

    def __new__(cls, *args: sp.Basic) -> Average:
        """Keep integrand, fields, covariance, mean and name."""
        return sp.Expr.__new__(cls, *args)

    @classmethod
    def of(
        cls,
        integrand: sp.Expr,
        fields: Sequence[sp.Expr],
        cov: Any,
        mean: Sequence[sp.Expr] | None = None,
        name: str = "",
    ) -> Average:
        """Average of those fields alone that the integrand holds, by name."""
        kept = [i for i, x in enumerate(fields) if integrand.has(x)]
        kept.sort(key=lambda i: str(fields[i]))
        whole = sp.Matrix(cov) if fields else sp.zeros(0, 0)
        shift = [sp.S.Zero] * len(fields) if mean is None else list(mean)
        return cls(
            integrand,
            sp.Tuple(*(fields[i] for i in kept)),
            sp.ImmutableDenseMatrix(len(kept), len(kept), lambda i, j: whole[kept[i], kept[j]]),
            sp.Tuple(*(shift[i] for i in kept)),
            sp.Symbol(name),
        )

    @property
    def integrand(self) -> sp.Expr:
        """What is averaged."""
        return self.args[0]

    @property
    def fields(self) -> tuple[sp.Expr, ...]:
        """Fields, symbols or entries of an array."""
        return tuple(self.args[1])

    @property
    def cov(self) -> sp.ImmutableDenseMatrix:
        """Covariance of the fields."""
        return self.args[2]

    @property
    def mean(self) -> tuple[sp.Expr, ...]:
        """Mean of the fields."""
        return tuple(self.args[3])

    @property
    def law(self) -> str:
        """Name of the law."""
        return str(self.args[4])

    @property
    def free_symbols(self) -> set[sp.Basic]:
        """Symbols of coefficients and of the law."""
        bound: set[sp.Basic] = set().union(*(x.free_symbols for x in self.fields), self.fields)
        outer = self.cov.free_symbols.union(*(m.free_symbols for m in self.mean))
        return (self.integrand.free_symbols - bound) | outer

    def _eval_evalf(self, prec: int) -> sp.Expr:
        return self

    def _sympystr(self, printer: Any) -> str:
        name = f"_{self.law}" if self.law else ""
        return f"E{name}[{printer.doprint(self.integrand)}]"

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        name = f"_{{{printer.doprint(self.args[4])}}}" if self.law else ""
        text = rf"\mathbb{{E}}{name}\left[{printer.doprint(self.integrand)}\right]"
        return text if exp is None else rf"{{{text}}}^{{{exp}}}"


class FieldHermite(sp.Expr):
    """He_n of a centred field x in its own variance v: v^(n/2) He_n(x / sqrt(v))."""

    is_commutative = True
    is_real = True

    @classmethod
    def of(cls, n: int, x: sp.Expr, variance: sp.Expr) -> sp.Expr:
        """The node; plain where the degree is 0 or 1."""
        if n < 2:
            return x if n else sp.S.One
        return sp.Expr.__new__(cls, sp.Integer(n), x, variance)

    def written_out(self) -> sp.Expr:
        """The polynomial."""
        n, x, variance = self.args
        z = sp.Dummy()
        terms = sp.Poly(hermite_prob(n, z), z).terms()
        powers = (c * z**m * variance ** ((n - m) // 2) for (m,), c in terms)
        return sp.expand(sp.Add(*powers)).xreplace({z: x})

    def _sympystr(self, printer: Any) -> str:
        n, x, variance = (printer.doprint(a) for a in self.args)
        return f"He{n}({x})" if variance == "1" else f"He{n}({x}; {variance})"

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        n, x, variance = (printer.doprint(a) for a in self.args)
        own = "" if variance == "1" else f";{variance}"
        text = rf"\mathrm{{He}}_{{{n}}}({x}{own})"
        return text if exp is None else f"{text}^{{{exp}}}"


def written_out(expr: sp.Expr) -> sp.Expr:
    """An expression with its Hermite polynomials as powers."""
    return expr.replace(lambda e: isinstance(e, FieldHermite), lambda e: e.written_out())


# Statements of more operations are printed as they are.
SHORT = 60


class ShortDecimals:
    """Decimals with six digits, in LaTeX and in text."""

    def _print_Float(self, expr: sp.Float) -> str:
        digits = min(DIGITS, prec_to_dps(expr._prec))
        return str(super()._print_Float(sp.Float(expr, digits)))  # type: ignore[misc]


class LatexStatements(ShortDecimals, LatexPrinter):
    """LaTeX of a statement."""

    def _print_Heaviside(self, expr: sp.Heaviside, exp: str | None = None) -> str:
        return str(super()._print_Heaviside(expr, exp)).replace(r"\theta", r"\Theta", 1)

    def doprint(self, expr: sp.Expr) -> str:
        """Coefficients with one root and without fractions in fractions."""
        return str(super().doprint(reduced(expr)))


def reduced(expr: sp.Expr) -> sp.Expr:
    """A short statement with its roots together; averages and integrals stay apart."""
    if isinstance(expr, sp.Integral):
        return sp.Integral(reduced(expr.function), *expr.limits)
    if not isinstance(expr, sp.Expr) or isinstance(expr, Average) or sp.count_ops(expr) > SHORT:
        return expr
    apart = {e: sp.Dummy(real=True) for e in expr.atoms(Average, sp.Integral, FieldHermite)}
    bare = expr.xreplace(apart)
    if not any(p.exp.is_negative for p in bare.atoms(sp.Pow)):
        return expr
    back = {d: reduced(e) for e, d in apart.items()}
    return written(rewritten(bare)).xreplace(back)


statement_latex = LatexStatements({"inv_trig_style": "full"}).doprint

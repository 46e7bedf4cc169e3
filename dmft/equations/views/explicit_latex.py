"""Scalar equations of small systems in LaTeX: simplified for print, their repeated parts named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.views.closed import ClosedPrinter
from dmft.equations.views.collected import PI, collected
from dmft.equations.views.printer import Notation, letters_of
from dmft.explanation.print_forms import Part, named_parts, rewritten
from dmft.typeset.fragment import align, fitted

# Systems of more operations have names for what they repeat; such a part has at least so many.
WHOLE, PART = 160, 6
# First letters of overlaps, alignments and of parts with names.
OVERLAPS = ("Q", "M", "P", "e", "m", "\\tau")
# Terms of more operations stay as they are.
LONGEST = 160
# Rates of systems of one student and one teacher, which are printed as closed systems are.
SINGLE = 2


def simplified(expr: sp.Expr) -> sp.Expr:
    """A rate with roots and exponentials put together, term by term."""
    if expr.is_polynomial():
        return sp.expand(expr)
    return sp.Add(
        *(
            rewritten(term) if sp.count_ops(term) <= LONGEST else term
            for term in sp.Add.make_args(expr)
        )
    )


def explicit_latex(
    rates: Mapping[sp.Symbol, sp.Expr],
    risk: sp.Expr,
    covariance: sp.Matrix | None,
    kind: str,
    width: float,
    notation: Notation,
) -> str:
    """LaTeX of scalar equations, its lines broken."""
    letters = letters_of(notation)
    printer = _ScalarPrinter(letters)
    symbols = list(rates)
    exprs = [simplified(e) for e in (*rates.values(), risk)]
    if covariance is not None:
        size = len(symbols)
        places = [(i, n) for i in range(size) for n in range(i, size)]
        exprs += [simplified(covariance[i, n]) for i, n in places]
    if len(rates) <= SINGLE and covariance is None:
        exprs = [collected(e.xreplace(_overlaps(e))) for e in (*rates.values(), risk)]
        text = " ".join(printer.doprint(e) for e in exprs)
        exprs, named = named_parts(exprs, text)
        parts = list(named.items())
    else:
        parts, exprs = _shared(exprs)
    heads = [rate_of(printer.doprint(s), kind) for s in symbols]
    heads.append(printer.letter("risk"))
    if covariance is not None:
        names = [printer.doprint(s) for s in symbols]
        heads += [rf"\Sigma_{{{names[i]}\,{names[n]}}}" for i, n in places]
    rows = [f"{h} &= {printer.doprint(e)}" for h, e in zip(heads, exprs, strict=True)]
    found = [align(rows)]
    if parts:
        found += [
            "where",
            align([f"{printer.doprint(s)} &= {printer.doprint(e)}" for s, e in parts]),
        ]
    found += special_functions(exprs + [e for _, e in parts])
    text = "\n".join(found)
    return fitted(text, width)


class _Overlap(sp.Symbol):
    """An overlap, which is no parameter of the model."""

    entry = True


def _overlaps(expr: sp.Expr) -> dict[sp.Symbol, sp.Symbol]:
    """Overlaps of single units as such, variances positive."""
    found = {}
    for s in expr.free_symbols:
        base, _, place = s.name.rpartition("_")
        if base in OVERLAPS and place.isdigit():
            known = {"positive": True} if base in ("Q", "P") else {"real": True}
            found[s] = _Overlap(s.name, **known)
    return found


def rate_of(entry: str, kind: str) -> str:
    """The rate of an entry, its dot above the letter alone."""
    letter, mark, place = entry.partition("_")
    return rf"\Delta {entry}" if kind == "map" else rf"\dot{{{letter}}}{mark}{place}"


def _shared(exprs: Sequence[sp.Expr]) -> tuple[list[tuple[sp.Symbol, sp.Expr]], list[sp.Expr]]:
    """Names for repeated parts of a large system, and the system in terms of them."""
    if sum(map(sp.count_ops, exprs)) <= WHOLE:
        return [], list(exprs)
    names = sp.numbered_symbols(r"\tau_", start=1, real=True)
    found, left = sp.cse(list(exprs), symbols=names, order="none")
    small: dict[sp.Expr, sp.Expr] = {}
    kept: list[tuple[sp.Symbol, sp.Expr]] = []
    for symbol, expr in found:
        whole = expr.xreplace(small)
        if sp.count_ops(whole) < PART or not whole.args:
            small[symbol] = whole
        else:
            kept.append((symbol, whole))
    left = [e.xreplace(small) for e in left]
    numbers = {s: sp.Symbol(rf"\tau_{{{n}}}", real=True) for n, (s, _) in enumerate(kept, 1)}
    return [(numbers[s], e.xreplace(numbers)) for s, e in kept], [e.xreplace(numbers) for e in left]


def special_functions(exprs: Sequence[sp.Expr]) -> list[str]:
    """Definitions of special functions."""
    from dmft.equations.views.kernels import BIVARIATE, signs_rows
    from dmft.gaussian.closed.bivariate import BivariateNormalCDF, TwoSigns
    from dmft.gaussian.closed.orthant import FourSigns
    from dmft.gaussian.tables.tokens import TokenAverage

    rows: list[str] = []
    if any(e.has(BivariateNormalCDF, TwoSigns) for e in exprs):
        rows.append(BIVARIATE)
    if any(e.has(FourSigns) for e in exprs):
        rows += signs_rows(True)
    law = "For standard Gaussian $x_1, x_2, \\ldots$ with covariances $C_{ab}$:"
    found = [law, align(rows)] if rows else []
    averages = {a.args[:3]: a for e in exprs for a in e.atoms(TokenAverage)}
    if not averages:
        return found
    # A run-time value also where the declared noise is zero, of which a document does not speak.
    noisy = any(e.has(x.Delta) for e in exprs)
    noise = [r"$\Delta$ is the variance of the label noise."] if noisy else []
    return [*found, *noise, *_tokens(averages)]


def _tokens(averages: Mapping[tuple[sp.Basic, ...], sp.Expr]) -> list[str]:
    from dmft.equations.views.kernels import token_rows

    printer = _ScalarPrinter({})
    for average in sorted(averages.values(), key=sp.default_sort_key):
        printer.doprint(average)
    return token_rows(averages, printer)


class _ScalarPrinter(ClosedPrinter):
    """Entries of overlaps in the letters of a notation: Q_11 is Q_{11}."""

    def __init__(self, letters: Mapping[str, str]) -> None:
        super().__init__({}, letters)

    def is_parameter(self, symbol: sp.Expr) -> bool:
        """Whether a symbol is printed before overlaps."""
        plain = symbol.is_Symbol and symbol != PI and not isinstance(symbol, Part)
        return plain and symbol.name.partition("_")[0] not in OVERLAPS

    def _print_Symbol(self, expr: sp.Symbol, style: str = "plain") -> str:
        base, _, place = expr.name.rpartition("_")
        if base in ("Q", "M", "P") and place.isdigit():
            return f"{self.letter(base)}_{{{place}}}"
        return super()._print_Symbol(expr, style)

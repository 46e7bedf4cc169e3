"""Scalar equations of small systems in LaTeX: simplified for print, their repeated parts named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition, Role, base_name
from dmft.equations.symbols import ONLY
from dmft.equations.views.closed import LONGEST as CLOSED_LONGEST
from dmft.equations.views.closed import ROLES, ClosedPrinter, ClosedSystem, system_of
from dmft.equations.views.collected import PI, collected
from dmft.equations.views.kernels import BIVARIATE, OF_UNITS, meanings, token_rows
from dmft.equations.views.paper_units import letters_of
from dmft.equations.views.printer import EquationPrinter, Notation
from dmft.explanation.print_forms import Part, named_parts, rewritten
from dmft.gaussian.tables.tokens import TokenAverage
from dmft.model import FIELD
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
    printer = _ScalarPrinter(letters_of(notation))
    names = [*map(printer.doprint, rates)]
    heads = [*(_dotted(name, kind) for name in names), printer.letter("risk")]
    exprs = [*rates.values(), risk]
    if covariance is not None:
        places = [*combinations_with_replacement(range(len(rates)), 2)]
        exprs += [covariance[i, n] for i, n in places]
        heads += [rf"\Sigma_{{{names[i]}\,{names[n]}}}" for i, n in places]
    if len(rates) <= SINGLE and covariance is None:
        exprs = [collected(e.xreplace(_overlaps(e))) for e in exprs]
        exprs, parts = named_parts(exprs, " ".join(map(printer.doprint, exprs)))
    else:
        exprs, parts = _shared([*map(simplified, exprs)])
    rows = [f"{h} &= {printer.doprint(e)}" for h, e in zip(heads, exprs, strict=True)]
    named = [f"{printer.doprint(s)} &= {printer.doprint(e)}" for s, e in parts.items()]
    found = [align(rows), *(["where", align(named)] if named else [])]
    found += special_functions(found, [*exprs, *parts.values()], printer)
    return fitted("\n".join(found), width)


def _overlaps(expr: sp.Expr) -> dict[sp.Symbol, sp.Symbol]:
    """Overlaps of single units as such, variances positive."""
    found = {}
    for s in expr.free_symbols:
        base, _, place = s.name.rpartition("_")
        if base in OVERLAPS and place.isdigit():
            known = {"positive": True} if base in ("Q", "P") else {"real": True}
            found[s] = Part(s.name, **known)
    return found


def _dotted(entry: str, kind: str) -> str:
    """The rate of an entry, its dot above the letter alone."""
    letter, mark, place = entry.partition("_")
    return rf"\Delta {entry}" if kind == "map" else rf"\dot{{{letter}}}{mark}{place}"


def _shared(exprs: Sequence[sp.Expr]) -> tuple[list[sp.Expr], dict[sp.Symbol, sp.Expr]]:
    """A large system with names for its repeated parts, and what these are."""
    if sum(map(sp.count_ops, exprs)) <= WHOLE:
        return list(exprs), {}
    names = sp.numbered_symbols(r"\tau_", start=1, real=True)
    found, left = sp.cse(list(exprs), symbols=names, order="none")
    put: dict[sp.Expr, sp.Expr] = {}
    parts: dict[sp.Symbol, sp.Expr] = {}
    for symbol, expr in found:
        whole = expr.xreplace(put)
        if sp.count_ops(whole) < PART or not whole.args:
            put[symbol] = whole
        else:
            put[symbol] = sp.Symbol(rf"\tau_{{{len(parts) + 1}}}", real=True)
            parts[put[symbol]] = whole
    return [e.xreplace(put) for e in left], parts


def special_functions(
    rows: Sequence[str], exprs: Sequence[sp.Expr], printer: EquationPrinter
) -> list[str]:
    """Definitions of special functions in rows, and of the averages that a printer has named."""
    named = meanings(" ".join(rows))
    law = "For standard Gaussian $z_1, z_2, \\ldots$ with covariances $C_{ab}$:"
    if BIVARIATE + OF_UNITS in named:  # the only covariance, but for averages of signs
        law = law.replace("covariances $C_{ab}$", "correlation $c$").replace(r", \ldots", "")
        named = [y.replace(OF_UNITS, "") for y in named]
    averages = {a.args[:3]: a for e in exprs for a in e.atoms(TokenAverage)}
    # A run-time value also where the declared noise is zero, of which a document does not speak.
    noisy = averages and any(e.has(x.Delta) for e in exprs)
    noise = [r"$\Delta$ is the variance of the label noise."] if noisy else []
    return [*([law, align(named)] if named else []), *noise, *token_rows(averages, printer)]


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


def closed_alone(
    definitions: Sequence[Definition], single: bool
) -> tuple[ClosedSystem, tuple[Definition, ...]]:
    """Terms of `single` units that have closed forms, where not all have one; and what is left.

    Averages of what a sample or an earlier definition computes are left.
    """
    if not single:
        return ClosedSystem((), scalar=True), tuple(definitions)
    blocks = tuple(d for d in definitions if d.role == "block")
    inner = {base_name(d.target) for d in definitions if d.role in ("sample", "intermediate")}
    known = {FIELD, *ONLY, *x.AXES}

    def is_known(term: sp.Expr) -> bool:
        averages = term.atoms(Expectation)
        entries = {e for a in averages for e in a.integrand.atoms(sp.Indexed)}
        symbols = {s for a in averages for s in a.integrand.free_symbols} - known
        others = symbols - {y.base.label for y in entries} - entries
        names = term.atoms(sp.Indexed, sp.Symbol) if not averages else entries
        return not others and not {base_name(y) for y in names} & inner

    def closed(d: Definition, terms: Sequence[sp.Expr]) -> ClosedSystem | None:
        shown = replace(d, terms=(("closed", sp.Add(*terms)),), role="observable")
        one = (
            system_of((*blocks, shown), False, (), CLOSED_LONGEST)
            if shown.expr.has(Expectation)
            else None
        )
        return one if one is not None and one.scalar and one.operations <= CLOSED_LONGEST else None

    rows, left = list[tuple[sp.Expr, sp.Expr, Role]](), list[Definition]()
    angle: sp.Expr | None = None
    for d in definitions:
        terms = [y for y in sp.Add.make_args(d.expr) if is_known(y)] * (d.role in ROLES)
        one = closed(d, terms)
        if one is None:
            terms = [y for y in terms if not y.has(Expectation) or closed(d, [y])]
            one = closed(d, terms)
        if one is None or (angle and one.angle not in (None, angle)):
            left.append(d)
            continue
        angle, rest = one.angle or angle, d.expr - sp.Add(*terms)
        rows.append((d.target, sp.Add(one.rows[0][1], rest, evaluate=rest == 0), d.role))
        left += [replace(d, terms=(("rest", rest),))] if rest.has(Expectation) else []
    rows.sort(key=lambda row: ROLES.index(row[2]))
    return ClosedSystem(tuple(rows), angle=angle, scalar=True), tuple(left)

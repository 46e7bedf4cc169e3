"""Averages of equations in LaTeX: closed forms, tables by name, sentences for others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.averages.passes import Lowered, value_of
from dmft.equations.definitions import Definition, base_name, mapped
from dmft.equations.views.collected import PI, collected
from dmft.equations.views.printer import EquationPrinter, KernelPrinter, indexed
from dmft.equations.views.text import function_text, halved
from dmft.equations.views.token_outputs import at_fields
from dmft.errors import NotClosed
from dmft.explanation.print_forms import Part, Polynomials, for_print, rewritten
from dmft.gaussian.closed.orthant import FourSigns, orthant_moment
from dmft.gaussian.closed.pair import elementary
from dmft.gaussian.tables.tabled import TableAverage
from dmft.gaussian.tables.tokens import TokenAverage
from dmft.model import FIELD
from dmft.typeset.fragment import align

# Closed forms of more operations, in their printed shape, are left out unless asked for.
KERNEL_OPERATIONS = 360
LAW = (
    r"For centred Gaussian $z_1, z_2, \ldots$ with covariances $C_{ab} = \langle z_a z_b \rangle$:"
)
NAMED = "With the indices of the fields as arguments (and likewise for other indices),"
SENTENCES = {
    "table": "averages have no elementary closed form",
    "open": "averages have no closed form",
    "long": "averages are too long to be written out here",
    "nodes": "averages are computed by quadrature, with an error estimate",
}
BIVARIATE = r"\Phi_2(a, b; c) &= \Pr(z_1 \le a,\ z_2 \le b)"
OF_UNITS = r",\quad C_{11} = C_{22} = 1,\ C_{12} = c"


# Closed forms at means of at most so many operations are collected.
COLLECTED = 120
# What the terms of moments of an orthant are, which have no formula where two fields are equal.
ORTHANT_WORDS = (
    r"P_{4} &= \Pr(z_1, z_2, z_3, z_4 > 0),\quad F_{q q} = 0",
    r"\rho_{q s} &= \mathrm{Corr}(z_a, z_b \mid z_q = z_s = 0)",
    r"\{a, b\} &= \{1, 2, 3, 4\} \setminus \{q, s\}",
)
COINCIDENT = "Where two of the fields coincide, the average is the limit of this expression."
# Means of the fields z_1, z_2, ...
MEANS = sp.symbols("m_{1:9}", real=True)


@dataclass
class Kernels:
    """Lines of closed forms, and what has none, by reason."""

    printer: EquationPrinter
    rows: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)
    names: Polynomials = field(default_factory=Polynomials)
    orthants: list[str] = field(default_factory=list)

    def add(self, average: Expectation, limit: int | None, how: str = "value") -> None:
        """One average, over fields z_1, z_2 ... with covariance C."""
        first, *rest = average.parts
        if average.is_product and not function_text(self.printer.names, first.factor, "", str):
            shown = halved(average.factors)[0]
            if not shown.is_Add and shown.could_extract_minus_sign():
                average = Expectation(At(-first.factor, first.field), *rest, average.law)
        head = self.head(average)
        if any(row.startswith(f"{head} &=") for row in self.rows):
            return
        reason = how if how == "nodes" else self.written(average, head, limit)
        if reason:
            shown_as = self.printer.doprint(average) if how == "nodes" else head
            self.others.setdefault(reason, []).append(shown_as)

    def written(self, average: Expectation, head: str, limit: int | None) -> str:
        """Write the rows of a closed form; return why there are none."""
        printer = KernelPrinter({}, self.printer.letters)
        named = list[tuple[sp.Expr, sp.Expr]]()
        try:
            closed = closed_average(average)
        except NotClosed:
            return "open"
        if closed.has(TableAverage):
            return "table"
        if closed.has(FourSigns) and (ramps := _ramps(average)):
            shown, terms = orthant_moment(*ramps)
            self.orthants = [
                *(f"{printer.doprint(y)} &= {printer.doprint(e)}" for y, e in terms.items()),
                *ORTHANT_WORDS,
            ]
        else:
            if limit is not None and sp.count_ops(closed) > 2.2 * limit:
                return "long"
            if sp.count_ops(closed) <= COLLECTED and closed.free_symbols & set(MEANS):
                other = in_factors(closed)
                closed = min(closed, other, key=lambda e: sp.count_ops(rewritten(e)))
            shown = for_print(closed, self.names)
            named = sorted(self.names.take(), key=lambda y: _number(y[0]))
            used = {y for y, _ in named}  # what others hold comes first
            named.sort(key=lambda y: bool(y[1].free_symbols & used))
            if limit is not None and sp.count_ops(shown) > limit:
                return "long"
        rows = self.named if head in self.printer.averages.values() else self.rows
        if rows is self.named:
            head += f" &= {over_labels(average.factors, self.printer)}"
        pairs = ((printer.doprint(y), printer.doprint(e)) for y, e in named)
        sign = "=" if "&=" in head else "&="
        rows += [f"{head} {sign} {printer.doprint(shown)}", *(f"{y} &= {e}" for y, e in pairs)]
        return ""

    def head(self, average: Expectation) -> str:
        """The average itself."""
        if not average.is_product:
            return str(self.printer.doprint(average))
        return self.printer.name_of(average) or over_labels(average.factors, self.printer)

    def latex(self) -> list[str]:
        """Sentences and alignments."""
        found = []
        if self.rows or self.named:
            text = " ".join([*self.named, *self.rows, *self.orthants])
            rows = [*self.rows, *self.orthants, *meanings(text)]
            found += [LAW, align(self.named), align(rows), *([COINCIDENT] if self.orthants else [])]
        if len(self.others) == 1:
            (words,) = (SENTENCES[y] for y in self.others)
            return [*found, f"The {'other ' if found else ''}{words}."]
        for reason, heads in self.others.items():
            unique = list(dict.fromkeys(heads))
            if reason != "nodes":
                unique = [h.replace(" &", "") for h in unique]
            found += [f"These {SENTENCES[reason]}:", align(["& " + r",\quad ".join(unique)])]
        return found


def meanings(text: str) -> list[str]:
    """Definitions of special functions that closed forms hold."""
    found = [r"\Phi(a) &= \Pr(z_1 \le a)"] if r"\Phi\left" in text else []
    found += [BIVARIATE + OF_UNITS] if r"\Phi_{2}" in text else []
    if "S_{1234}" in text or "S_4" in text:  # what is left of four signs: less that of pairs
        signs = "".join(rf"\operatorname{{sign}}(z_{n})" for n in (1, 2, 3, 4))
        found.append(rf"S_{{1234}} &= \left\langle {signs} \right\rangle")
        found += [r"S_4(C_{11}, C_{12}, \ldots, C_{44}) &= S_{1234}"] * ("S_4" in text)
    if r"\operatorname{erfcx}" in text:
        found.append(r"\operatorname{erfcx}(x) &= e^{x^2} \operatorname{erfc}(x)")
    return found


def over_labels(factors: Sequence[sp.Expr], printer: EquationPrinter) -> str:
    """The average of a product of functions of z_1, z_2, ..."""
    labels = (sp.Symbol(f"z_{{{n + 1}}}") for n in range(len(factors)))
    parts = (At(f, y) for f, y in zip(factors, labels, strict=False))
    return str(printer.doprint(Expectation(*parts)))


def name_averages(
    definitions: Iterable[Definition], printer: EquationPrinter
) -> tuple[list[str], list[str]]:
    """Names, for a printer, of averages that equations hold three times or more.

    Returns a sentence, and rows that define them.
    """
    nodes = (y for d in definitions for y in sp.preorder_traversal(d.expr))
    every = [y for y in nodes if isinstance(y, Expectation) and indexed(y)]
    count = Counter(y.factors for y in every)
    often = [y for y, number in count.items() if number > 2 and len(y) > 1]
    taken = set(printer.letters.values())
    # Without derivatives first: I_2 is the average that the risk holds, in all equations.
    sloped = {y: "'" in over_labels(y, printer) for y in often}
    for factors in sorted(often, key=lambda y: (len(y), sloped[y], -count[y])):
        first = "" if len(factors) == 2 and sloped[factors] else "I"
        letters = (rf"{y}_{{{len(factors)}}}" for y in f"{first}JKL" if y not in taken)
        used = printer.averages.values()
        name = next((y for y in letters if y not in used), None)
        printer.averages |= {factors: name} if name else {}
    if not printer.averages:
        return [], []
    named, printer.averages = printer.averages, {}
    # Of each, the one with most fields of teachers among those of both networks.
    every.sort(key=str)
    shown = [max((y for y in every if y.factors == f), key=_fields_of_both) for f in named]
    texts = [printer.doprint(y) for y in shown]
    printer.averages = named
    pairs = zip(map(printer.doprint, shown), texts, strict=True)
    uses = [f"{one} &= {text}" for one, text in pairs]
    rows = [f"{name} &= {over_labels(f, printer)}" for f, name in printer.averages.items()]
    return [NAMED, align(uses)], rows


def _fields_of_both(average: Expectation) -> tuple[bool, int, int]:
    """How many different fields an average has, and of teachers, those of both networks last."""
    fields = {*average.fields}
    teachers = sum(y.base == x.h_star for y in fields)
    return 0 < teachers < len(fields), len(fields), teachers


def _ramps(average: Expectation) -> tuple[int, int] | None:
    """Numbers of the two ramps max(0, x) in a product with two steps; None for others."""
    step, ramp = sp.Heaviside(FIELD), sp.Max(0, FIELD)
    places = [n for n, f in enumerate(average.factors, 1) if f == ramp]
    steps = [f for f in average.factors if f == step]
    return (places[0], places[1]) if (len(places), len(steps)) == (2, 2) else None


def kernels_latex(
    averages: Iterable[Lowered], printer: EquationPrinter, limit: int | None
) -> list[str]:
    """Sentences and alignments about averages; `limit` bounds the operations of closed forms."""
    kernels = Kernels(printer)
    named = lambda one: printer.name_of(one.average) or f"~{len(one.average.parts)}"  # noqa: E731
    ordered = sorted(averages, key=named)
    shown = {at_means(one.average): one.how for one in ordered}
    for average, how in shown.items():
        kernels.add(average, limit, how)
    return kernels.latex()


def at_means(average: Expectation) -> Expectation:
    """The average of a product at any means m_1, m_2 ... of its fields, not those of a cluster."""
    if not average.is_product:
        return average
    means = [
        {e: x.mean[n] for e in a.factor.atoms(sp.Indexed) if _is_mean(base_name(e))}
        for n, a in enumerate(average.parts, 1)
    ]
    if not any(means):
        return average
    places = (
        At(f.xreplace(m), sp.Integer(n))
        for n, (f, m) in enumerate(zip(average.factors, means, strict=True))
    )
    return Expectation(*places, average.law)


def _is_mean(name: str) -> bool:
    stem, _, number = name.rpartition("_")
    return stem in ("mean", "output_mean") and number.isdigit()


def closed_average(average: Expectation) -> sp.Expr:
    """Function of the covariances that stands for an average."""

    def cov(first: Any, second: Any) -> sp.Symbol:
        low, high = sorted((int(first), int(second)))
        name = f"C_{{{low + 1}{high + 1}}}"
        return sp.Symbol(name, positive=True) if low == high else sp.Symbol(name, real=True)

    if not average.is_product:
        raise NotClosed(f"{average} is not a product of functions of single fields")
    places = (At(f, sp.Integer(n)) for n, f in enumerate(average.factors))
    closed = elementary(value_of(Expectation(*places), cov))
    closed = closed.xreplace({x.mean[n]: y for n, y in enumerate(MEANS, 1)})
    try:
        return written_out(closed)
    except NotClosed:  # products with error functions: one integral of closed averages
        return closed


def without_zeros(definitions: Sequence[Definition]) -> tuple[Definition, ...]:
    """Definitions without averages that are zero where directions are orthonormal."""
    every = {a for d in definitions for a in d.expr.atoms(Expectation)}
    zero = dict.fromkeys(filter(_is_zero_at_identity, every), sp.S.Zero)

    def change(expr: sp.Expr) -> sp.Expr:
        left = expr.xreplace(zero)
        empty = {e for e in left.atoms(sp.Sum) if e.function == 0}
        return left.xreplace(dict.fromkeys(empty, sp.S.Zero))

    return tuple(mapped(d, change) for d in definitions)


def _is_zero_at_identity(average: Expectation) -> bool:
    """Whether an average is zero by its closed form where fields of directions are independent."""
    if not average.is_product:
        return False
    fields = ((n, y) for n, y in enumerate(average.fields, 1) if isinstance(y, sp.Indexed))
    found = {n: y for n, y in fields if y.base == x.h_star and y.indices[0].is_Integer}
    if len(found) < 2:
        return False
    try:
        closed = closed_average(average)
    except NotClosed:
        return False
    apart = {
        sp.Symbol(f"C_{{{a}{b}}}", real=True): sp.S.Zero
        for a, b in combinations(found, 2) if found[a] != found[b]
    }  # fmt: skip
    return bool(closed.xreplace(apart) == 0)


def in_factors(closed: sp.Expr) -> sp.Expr:
    """A closed form in factors; covariances and means are no parameters."""
    table = {s: Part(s.name, **s.assumptions0) for s in closed.free_symbols}
    back = {new: s for s, new in table.items()} | {PI: sp.pi}
    return collected(closed.xreplace(table)).xreplace(back)


def written_out(expr: sp.Expr) -> sp.Expr:
    """Closed forms of averages that stand whole in equations; some hold others of them."""
    inner = {q: q.written_out() for q in expr.atoms(TableAverage)}
    changed = {q: value for q, value in inner.items() if value != q}
    return written_out(expr.xreplace(changed)) if changed else expr


def _number(symbol: sp.Symbol) -> tuple[str, int]:
    found = re.search(r"\d+", symbol.name)
    return symbol.name.split("_")[0], int(found.group()) if found else 0


# Functions of more operations than this are named.
INLINE = 6


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
        fields = "h^*" if star else "h"
        if expr.is_number or (sp.count_ops(expr) <= INLINE and not expr.has(sp.exp)):
            text = self.printer.doprint(at_fields(expr, fields))
            return rf"\left({text}\right)" if expr.is_Add else text
        return f"{self.found.setdefault(expr, f'F_{{{len(self.found) + 1}}}')}({fields})"

    def rows(self) -> list[str]:
        """Definitions of the functions, and of the sums that they hold."""
        rows = []
        for expr, name in self.found.items():
            shown = self.printer.doprint(at_fields(self.shown(expr), "h"))
            rows.append(f"{name}(h) &= {shown}")
        for total, symbol in self.sums.items():
            shown = self.printer.doprint(at_fields(total, "h"))
            rows.append(f"{self.printer.doprint(symbol)} &= {shown}")
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

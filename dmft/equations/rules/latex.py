r"""LaTeX of rules: the step as it was written, the inputs, the rates in overlaps of named rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields

import sympy as sp

from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition, define
from dmft.equations.rules.forms import variables
from dmft.equations.rules.rates import OpenMoments, Rates
from dmft.equations.rules.space import RowOverlaps
from dmft.equations.system import System
from dmft.equations.views.closed import ClosedPrinter
from dmft.equations.views.collected import collected
from dmft.equations.views.latex import Page, definition_latex
from dmft.equations.views.paper_units import letters_of
from dmft.equations.views.printer import EquationPrinter
from dmft.equations.views.text import printed_definitions
from dmft.explanation.print_forms import MOST, Part
from dmft.laws import Discrete, Law, Normal
from dmft.model.update import VectorRule
from dmft.rules import Field, Mean, Row, Vector, View
from dmft.typeset.fragment import align, fitted

# Operations of a rate that is printed without names for its covariances.
LONGEST = 250
# Operations of closed forms above which averages are printed instead.
LONGEST_CLOSED = 1200
# Decimals closer than this to a fraction with a denominator up to LARGEST are that fraction.
EXACT, LARGEST = 1e-12, 64
# Independent inputs of one law from here on are not all listed.
MOST_LISTED = 5
# Overlaps of a row with itself.
SQUARE = re.compile(r"G.*_\{(.+) \1\}")


class RulePrinter(ClosedPrinter):
    """Closed forms in overlaps of named rows; names of several letters upright."""

    def is_parameter(self, symbol: sp.Expr) -> bool:
        """Whether a symbol is printed before overlaps."""
        return super().is_parameter(symbol) and not isinstance(symbol, Field)

    def _print_sign(self, expr: sp.sign, exp: str | None = None) -> str:
        # Roots are positive.
        kept = [f for f in sp.Mul.make_args(expr.args[0]) if f.as_base_exp()[1] != sp.S.Half]
        text = rf"\operatorname{{sign}}\left({self._print(sp.Mul(*kept))}\right)"
        return text if exp is None else rf"{text}^{{{exp}}}"

    def _print_Symbol(self, expr: sp.Symbol, style: str = "plain") -> str:
        text = str(super()._print_Symbol(expr, style))
        return re.sub(r"(?<![A-Za-z\\])[A-Za-z]{3,}", r"\\mathrm{\g<0>}", text)


def rule_latex(equations: System, page: Page) -> str:
    """Step, inputs, rates and measures."""
    rule = equations.model
    assert isinstance(rule, VectorRule)
    printer = RulePrinter({}, letters_of(page.notation))
    names = row_names(rule)
    shown = printed(printed_definitions(equations.definitions), names, rule)
    is_long = sum(d.expr.count_ops() for d in shown) > LONGEST_CLOSED
    form = page.form or ("structured" if is_long and not equations.is_changed else "closed")
    if form == "structured":
        shown = printed(_in_averages(equations, rule), names, rule)
    parts = [f"% {equations.time_unit}", "One step changes", align(_steps(rule, printer))]
    parts += ["The inputs are", align(_inputs(rule, printer)), _meanings(rule, printer)]
    parts.append(rf"In the limit of large $d$, {_overlaps(rule)}")
    parts.append(align([line for d in shown for line in definition_latex(d, printer)]))
    if equations.noise:
        parts.append(align(equations.noise.latex(printer, ())))
    if any(d.expr.has(Expectation) for d in shown):
        parts.append(
            r"Averages $\langle \cdot \rangle$ are over independent standard normal "
            r"$n_1, n_2, \ldots$."
        )
    if any(d.expr.has(Mean) for d in shown):
        parts.append(r"Averages $\langle \cdot \rangle$ are over the inputs of one step.")
    if any(str(d.target).startswith(r"\Phi") for d in shown):
        parts.append(r"$\Phi$ is the rate of $G$ without constraint.")
    return fitted("\n".join(part for part in parts if part), page.width)


def _in_averages(equations: System, rule: VectorRule) -> list[Definition]:
    """Rates and measures in averages over one step."""
    rates, known = Rates(rule, OpenMoments(rule)), dict(rule.measures)
    found = [define(target, terms, "rate") for target, terms in rates.all_terms.items()]
    measures = [d for d in equations.definitions if d.name in known]
    found += [define(d.target, {d.name: rates.moments(known[d.name])}, d.role) for d in measures]
    return [
        define(d.target, {n: e.replace(_is_mean, _without_factor) for n, e in d.terms}, d.role)
        for d in (*found, *rates.growths)
    ]


def _is_mean(expr: sp.Basic) -> bool:
    return isinstance(expr, Mean)


def _without_factor(mean: Mean) -> sp.Expr:
    """An average with what is not random in front."""
    inside, given = mean.args
    factor, rest = inside.as_independent(*variables(inside), as_Add=False)
    return factor if rest == 1 else factor * Mean(rest, given)


def _meanings(rule: VectorRule, printer: EquationPrinter) -> str:
    """Fields, noises and the step function."""
    exprs = [c for _, step in rule.steps for c in step.terms.values()]
    exprs += [value for _, value in rule.rates]
    read = {f for e in exprs for f in e.atoms(Field)}
    parts = []
    if read:
        field = min(read, key=str)
        row, view = printer.doprint(sp.Symbol(_row(field.row))), field.view.letter(printer)
        product = rf"{printer.doprint(field)} = {row} \cdot {view} / \sqrt{{d}}"
        parts.append(f"Fields are products such as ${product}$.")
    if any(e.has(sp.Heaviside) for e in exprs):
        parts.append(r"$\Theta$ is the step function.")
    replaced = sorted({sp.latex(sp.Symbol(_row(r))) for v in rule.views for r in v.replaces})
    if replaced:
        parts.append(rf"$\xi^\perp$ is $\xi$ without its components along ${', '.join(replaced)}$.")
    return " ".join(parts)


def _overlaps(rule: VectorRule) -> str:
    """What G is."""
    if len(rule.fractions) == 1:
        return r"with $G_{ab} = a \cdot b / d$ of rows $a$ and $b$,"
    shares = ", ".join(sp.latex(f) for f in rule.fractions)
    return (
        rf"with $G^{{(e)}}_{{ab}}$ the part of $a \cdot b / d$ that comes from block $e$ of the "
        rf"coordinates (shares ${shares}$),"
    )


def row_names(rule: VectorRule) -> dict[sp.Symbol, sp.Symbol]:
    """Symbols of the overlaps with the names of their rows."""
    moments, found = RowOverlaps(rule), {}
    rows, blocks = moments.rows, range(len(rule.fractions))
    for a in rows:
        for b in rows:
            for e in blocks:
                own = "" if len(blocks) == 1 else f"^{{({e + 1})}}"
                names = " ".join(
                    sp.latex(sp.Symbol(_row(r)))
                    for r in sorted((a, b), key=moments.places.__getitem__)
                )
                found[moments.in_block(a, b, e)] = Part(f"G{own}_{{{names}}}", real=True)
    return found


def _row(row: Row) -> str:
    stem = row.name.rstrip("0123456789")
    number = row.name[len(stem) :]
    return f"{stem}_{number}" if number else stem


def printed(
    definitions: Sequence[Definition], names: Mapping[sp.Symbol, sp.Symbol], rule: VectorRule
) -> list[Definition]:
    """Rates and measures, with covariances put in where these are short, and what is left."""
    inside: dict[sp.Expr, sp.Expr] = {}
    kept: list[Definition] = []
    is_short = all(d.expr.count_ops() <= LONGEST or _is_algebraic(d.expr) for d in definitions)
    for d in definitions:
        if is_short and d.role == "intermediate" and len(d.terms) == 1:
            value = d.expr.xreplace(inside)
            if value.count_ops() <= LONGEST // 10:
                inside[d.target] = value
                continue
        kept.append(d)
    found: list[Definition] = []
    order = {"rate": 0, "observable": 1, "intermediate": 2}
    upper = set(names)
    table = {**names, **_growths(definitions, rule)}
    for d in sorted(kept, key=lambda d: order.get(d.role, 3)):
        if d.role == "rate" and d.name.startswith(("Q_", "M_")) and d.target not in upper:
            continue  # the same entry below the diagonal
        terms = {n: _short(e.xreplace(inside).xreplace(table)) for n, e in d.terms}
        found.append(define(table.get(d.target, d.target), terms, d.role))
    return found


def _growths(definitions: Sequence[Definition], rule: VectorRule) -> dict[sp.Expr, sp.Expr]:
    """Names of rates without constraint, by their rows."""
    names = [sp.latex(sp.Symbol(_row(r))) for r in RowOverlaps(rule).rows]
    found: dict[sp.Expr, sp.Expr] = {}
    for d in (d for d in definitions if d.name.startswith("growth_")):
        own = " ".join(names[int(n) - 1] for n in d.name.split("_")[1:])
        found[d.target] = Part(rf"\Phi_{{{own}}}", real=True)
    return found


def _short(expr: sp.Expr) -> sp.Expr:
    """An expression collected and factored, where that is quick."""
    near = {f: sp.Rational(f).limit_denominator(LARGEST) for f in expr.atoms(sp.Float)}
    exact = (f for f, n in near.items() if f == n or (n != 0 and abs(f - n) < EXACT))
    expr = expr.xreplace({f: near[f] for f in exact})
    is_long = expr.count_ops() > LONGEST and not _is_algebraic(expr)
    if is_long or expr.has(Expectation, sp.Piecewise):
        return expr
    expr = expr.replace(lambda e: hasattr(e, "formula"), lambda e: e.formula())
    squares = (s for s in expr.atoms(Part) if SQUARE.fullmatch(s.name))
    expr = expr.xreplace({s: Part(s.name, positive=True) for s in squares})
    return min(collected(expr), sp.factor_terms(expr), key=sp.count_ops)


def _is_algebraic(expr: sp.Expr) -> bool:
    """Whether an expression of any length is collected: one without functions."""
    return not expr.has(sp.Function, Expectation) and expr.count_ops() <= MOST


def _vector(step: Mapping[Vector, sp.Expr], printer: EquationPrinter) -> str:
    """A combination of vectors."""
    parts = []
    for vector, c in step.items():
        if isinstance(vector, View):
            name, root = vector.letter(printer), ""
        else:
            assert isinstance(vector, Row)
            name, root = printer.doprint(sp.Symbol(_row(vector))), r"/\sqrt{d}"
        text = printer.doprint(c)
        if c == 1:
            text = ""
        elif c.is_Add:
            text = rf"\left({text}\right)"
        parts.append(rf"{text}\, {name}{root}")
    return " + ".join(parts).replace("+ -", "-") or "0"


def _steps(rule: VectorRule, printer: EquationPrinter) -> list[str]:
    rate = printer.doprint(sp.Symbol("gamma"))
    lines = []
    for row, step in rule.steps:
        name = printer.doprint(sp.Symbol(_row(row)))
        inside = _vector(step.terms, printer)
        lines.append(rf"\Delta {name} &= \frac{{{rate}}}{{\sqrt{{d}}}} \left[{inside}\right]")
    for symbol, value in rule.rates:
        text = printer.doprint(value)
        lines.append(
            rf"\Delta {printer.doprint(symbol)} &= \frac{{{rate}}}{{d}} \left[{text}\right]"
        )
    return lines


def _inputs(rule: VectorRule, printer: EquationPrinter) -> list[str]:
    """Views with their latents, and laws of noises and random numbers."""
    lines, noises, plain = [], [], []
    for view in rule.views:
        x = view.letter(printer)
        parts = [
            rf"{_coefficient(c, printer)} {printer.doprint(sp.Symbol(_row(row)))}/\sqrt{{d}}"
            for row, c in view.latents.items()
        ]
        if not parts and set(view.scales) == {1} and len(view.group) == 1:
            plain.append(x)
            continue
        noise = rf"\xi_{{{x}}}" + (r"^{\perp}" if view.replaces else "")
        lines.append(f"{x} &= {' + '.join([*parts, f'{_scale(view, printer)} {noise}'])}")
        if view.group not in noises:
            noises.append(view.group)
    if plain:  # independent ones
        listed = plain if len(plain) < MOST_LISTED else [*plain[:2], r"\ldots", plain[-1]]
        lines.insert(0, rf"{', '.join(listed)} &\sim \mathcal{{N}}(0, I_d)")
    for group in noises:
        names = ", ".join(rf"\xi_{{{v.letter(printer)}}}" for v in group)
        covs = r",\ ".join(printer.doprint(y) for y in group[0].covs)
        law = "I_d" if len(group) == 1 else rf"{covs} \otimes I"
        lines.append(rf"{names} &\sim \mathcal{{N}}(0, {law})")
    for r in rule.randoms:
        lines += _law(printer.doprint(r), r.law, printer)
    return lines


def _scale(view: View, printer: EquationPrinter) -> str:
    """What multiplies the noise, in each block."""
    if len(set(view.scales)) == 1:
        return _coefficient(view.scales[0], printer)
    return rf"\operatorname{{diag}}({', '.join(map(printer.doprint, view.scales))})"


def _coefficient(c: sp.Expr, printer: EquationPrinter) -> str:
    text = printer.doprint(c)
    return "" if c == 1 else rf"\left({text}\right)" if c.is_Add else str(text)


def _law(name: str, law: Law, printer: EquationPrinter) -> list[str]:
    """A law: its probabilities, or its name and parameters."""
    values = [getattr(law, f.name) for f in fields(law)]  # type: ignore[arg-type]
    if isinstance(law, Discrete):
        return [
            rf"\mathrm{{P}}({name} = {_number(value, printer)}) &= {_number(weight, printer)}"
            for value, weight in zip(*values, strict=True)
        ]
    told = ", ".join(_number(y, printer) for y in values)
    kind = r"\mathcal{N}" if isinstance(law, Normal) else rf"\mathrm{{{type(law).__name__}}}"
    return [rf"{name} &\sim {kind}({told})"]


def _number(value: object, printer: EquationPrinter) -> str:
    return str(printer.doprint(_short(sp.sympify(value, strict=True))))

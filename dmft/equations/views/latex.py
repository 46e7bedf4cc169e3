"""Equations as LaTeX: the same object that is compiled, with its kernels as where-lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sympy as sp
from sympy.printing.latex import LatexPrinter

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.averages.passes import value_of
from dmft.equations.definitions import Definition, base_name
from dmft.equations.update.law import target
from dmft.equations.views.text import function_text, split_averages
from dmft.errors import NotClosed
from dmft.gaussian.closed.pair import elementary
from dmft.gaussian.tables.tabled import PlacedAverage, TableAverage
from dmft.model import FIELD, Committee, GaussianMixture, Model, MultiIndex

if TYPE_CHECKING:
    from dmft.equations.equations import Equations

# Closed forms with more operations than this are left as expectations unless asked for.
KERNEL_OPERATIONS = 120
# A random field of a sample, or a mean, in a cluster.
CLUSTER_LATEX = "{}^{{[{}]}}"
# What a table promises, relative to the root of the product of the second moments.
TABLE_ERROR = "$10^{-10}$"


class EquationPrinter(LatexPrinter):
    """House style: neuron sums, local fields, kernels as averages."""

    def __init__(self, names: Mapping[sp.Expr, str]) -> None:
        super().__init__({"fold_short_frac": False, "inv_trig_style": "full"})
        self.names = dict(names)

    def _print_Symbol(self, expr: sp.Symbol, style: str = "plain") -> str:
        name, found, number = expr.name.partition(x.IN_CLUSTER)
        if found:
            plain = self._print_Symbol(sp.Symbol(name, real=True))
            return CLUSTER_LATEX.format(plain, number)
        if expr.name.startswith(x.SLOPE):
            alignment = self._print(sp.Symbol(expr.name.removeprefix(x.SLOPE), real=True))
            return rf"\partial_{{{alignment}}} \mathcal{{L}}"
        return x.SYMBOL_LATEX.get(expr) or super()._print_Symbol(expr, style)

    def _print_Indexed(self, expr: sp.Indexed) -> str:
        base = base_name(expr)
        name = x.printed(base, x.BASE_LATEX, CLUSTER_LATEX)
        inside = [self._print(index) for index in expr.indices]
        separator = "," if any(not i.is_Symbol for i in expr.indices) else " "
        subscript = separator.join(inside)
        if "^" in name and not name.endswith(")"):
            head, power = name.split("^", 1)
            return f"{head}_{{{subscript}}}^{power}"
        return f"{name}_{{{subscript}}}"

    def _helper_print_standard_power(self, expr: sp.Pow, template: str) -> str:
        # h_1^* has its superscript already: TeX refuses a second one outside braces.
        if isinstance(expr.base, sp.Indexed):
            return template % (f"{{{self._print(expr.base)}}}", self._print(expr.exp))
        return str(super()._helper_print_standard_power(expr, template))

    def _print_Sum(self, expr: sp.Sum) -> str:
        signs = "".join(
            rf"\sum_{{{self._print(s)}={low}}}^{{{self._print(high)}}}"
            for s, low, high in expr.limits
        )
        body = self._print(expr.function)
        return f"{signs} " + (rf"\left[{body}\right]" if expr.function.is_Add else body)

    def _print_Mul(self, expr: sp.Mul) -> str:
        rest, averages = split_averages(expr)
        if not averages:
            return str(super()._print_Mul(expr))
        inside = [
            rf"\left[{self._print(f)}\right]" if f.is_Add else self._print(f) for f in averages
        ]
        if rest in (1, -1):
            return ("- " if rest == -1 else "") + " ".join(inside)
        text = super()._print_Mul(rest) if rest.is_Mul else self._print(rest)
        return " ".join([text, *inside])

    def _print_At(self, expr: At) -> str:
        field = self._print(expr.field)
        named = function_text(self.names, expr.factor, field, self._print)
        return named or self.parenthesize(expr.factor.xreplace({FIELD: sp.Symbol(field)}), 50)


def equations_latex(equations: Equations, kernels: str) -> str:
    """LaTeX of equations; `kernels` says which averages follow in closed form."""
    printer = EquationPrinter(equations.names(r"\sigma", r"\sigma_*"))
    roles = ("rate", "intermediate", "sample", "observable")
    ordered = sorted(
        (d for d in equations.definitions if d.role in roles), key=lambda d: roles.index(d.role)
    )
    lines = [line for d in ordered for line in definition_latex(d, printer, equations.kind)]
    lines += blocks_latex((d for d in equations.definitions if d.role == "block"), printer)
    if equations.noise:
        lines += equations.noise.latex(printer, equations.definitions)
    lines += equations.functions_latex(printer)
    parts = [f"% {equations.time_unit}", align(lines)]
    if kernels != "none":
        limit = KERNEL_OPERATIONS if kernels == "auto" else None
        found = (a.average for a in equations.lowered if a.how != "nodes")
        parts.append(align([y for q in found for y in average_latex(q, printer, limit)]))
        if equations.noise and equations.noise.closed:
            parts.append(align(equations.noise.closed_latex(printer)))
    return "\n".join(parts)


def definition_latex(
    definition: Definition, printer: EquationPrinter, kind: str = "ode"
) -> list[str]:
    """Lines of an align environment, one for each named term."""
    target = printer.doprint(definition.target)
    if definition.role == "rate":
        target = rf"\Delta {target}" if kind == "map" else rf"\frac{{d {target}}}{{dt}}"
    lines: list[str] = []
    sign = r"\approx" if definition.expr.has(PlacedAverage) else "="
    for number, (name, expr) in enumerate(definition.terms):
        first, *more = term_latex(expr, printer)
        if number == 0:
            first = f"{target} &{sign} {first}"
        else:
            first = r"&\quad " + (first if first.startswith("- ") else f"+ {first}")
        lines += [first, *(r"&\qquad " + text for text in more)]
        if len(definition.terms) > 1:
            lines[-1] += rf" && \text{{({name.replace('_', ' ')})}}"
    return lines or [f"{target} &= 0"]


def term_latex(expr: sp.Expr, printer: EquationPrinter) -> list[str]:
    """One term; a factor that adds several double sums or averages has a line for each."""
    long = [f for f in sp.Mul.make_args(expr) if f.is_Add and _is_long(f)]
    return broken(expr, long[0], printer, width=0) if long else [printer.doprint(expr)]


def _is_long(add: sp.Expr) -> bool:
    return sum(len(s.limits) for s in add.atoms(sp.Sum)) > 3 or _wholes(add) > 3


def _wholes(expr: sp.Expr) -> int:
    return sum(not q.is_product for q in expr.atoms(Expectation))


def broken(expr: sp.Expr, add: sp.Add, printer: EquationPrinter, width: int) -> list[str]:
    """Lines of a product of which one factor is the sum `add`, at most `width` characters each."""
    head = sp.Mul(*(f for f in sp.Mul.make_args(expr) if f is not add))
    lines: list[str] = []
    for number, term in enumerate(printer.doprint(a) for a in add.args):
        signed = term if number == 0 or term.startswith("- ") else f"+ {term}"
        if lines and len(lines[-1]) + len(signed) <= width:
            lines[-1] += f" {signed}"
        else:
            lines.append(signed)
    if head == 1:
        return lines
    lines[0] = rf"{printer.doprint(head)} \Bigl[ {lines[0]}"
    lines[-1] += r" \Bigr]"
    return lines


def functions_latex(model: Model, printer: EquationPrinter) -> str:
    """Align line that says what sigma and sigma_* (or g) are."""
    student, teacher = model.student.activation, model.teacher
    lines = [rf"\sigma(z) = {sp.latex(student)}"]
    if isinstance(teacher, MultiIndex):
        lines.append(rf"g(h^*) = {printer.doprint(target(model))}")
    elif isinstance(teacher, Committee) and teacher.activation != student:
        lines.append(rf"\sigma_*(z) = {sp.latex(teacher.activation)}")
    if model.clusters is not None:
        lines += inputs_latex(model.clusters)
    return "& " + r",\quad ".join(lines)


def inputs_latex(inputs: GaussianMixture) -> list[str]:
    """Weights, means and scales of clusters, and their labels."""
    rows = zip(inputs.weights, inputs.means, inputs.scales, strict=True)
    lines = []
    for number, (weight, mean, scale) in enumerate(rows, start=1):
        vector = ", ".join(f"{m:g}" for m in mean)
        text = rf"\text{{cluster {number}: }} w = {weight:.4g},\ \mu = ({vector})"
        text += "" if scale == 1 else rf",\ s = {scale:g}"
        if inputs.labels is not None:
            label = {z: _star(r) for r, z in enumerate(inputs.fields, start=1)}
            text += rf",\ y = {sp.latex(inputs.labels[number - 1].xreplace(label))}"
        lines.append(text)
    return [r"\\ & ".join(["", *lines]) if len(lines) > 2 else r",\quad ".join(lines)]


def _star(number: int) -> sp.Symbol:
    return sp.Symbol(f"h^*_{{{number}}}")


def blocks_latex(definitions: Iterable[Definition], printer: EquationPrinter) -> list[str]:
    """Blocks of Omega and of c, one align line for each array."""
    rows: dict[str, list[str]] = {}
    for d in definitions:
        text = f"{printer.doprint(d.target)} = {printer.doprint(d.expr)}"
        rows.setdefault(d.name, []).append(text)
    return ["& " + r",\quad ".join(row) for row in rows.values()]


def align(lines: Sequence[str]) -> str:
    """Align environment of lines; nothing where there are none (TeX refuses an empty one)."""
    if not lines:
        return ""
    return "\\begin{align*}\n" + " \\\\\n".join(lines) + "\n\\end{align*}"


def average_latex(average: Expectation, printer: EquationPrinter, limit: int | None) -> list[str]:
    """Closed form of an average over fields x_1, x_2, ... with covariance C, as align lines."""
    labels = [f"x_{{{number + 1}}}" for number in range(len(average.parts))]

    def cov(first: Any, second: Any) -> sp.Symbol:
        low, high = sorted((int(first), int(second)))
        return sp.Symbol(f"C_{{{low + 1}{high + 1}}}")

    pairs = zip(average.factors, labels, strict=True)
    head = printer.doprint(Expectation(*(At(f, sp.Symbol(y)) for f, y in pairs)))
    places = (At(f, sp.Integer(n)) for n, f in enumerate(average.factors))
    try:
        closed = elementary(value_of(Expectation(*places), cov))
    except NotClosed:
        return [rf"{head} &\text{{: no closed form}}"]
    try:
        closed = written_out(closed)
    except NotClosed:  # products with error functions: one integral of closed averages
        return [rf"{head} &= {printer.doprint(closed)}"]
    if closed.has(TableAverage):
        return [rf"{head} &\approx \text{{a table of its factors, error below {TABLE_ERROR}}}"]
    if limit is not None and sp.count_ops(closed) > limit:
        return [rf"{head} &\text{{: long closed form, printed by kernels=`all'}}"]
    parts, (reduced,) = sp.cse([closed], symbols=sp.numbered_symbols(r"\tau_"), order="none")
    if len(parts) > 1 and sp.count_ops(closed) > MANY_OPERATIONS:
        lines = in_lines(head, reduced, printer)
        rows = [f"{printer.doprint(s)} = {printer.doprint(e)}" for s, e in parts]
        groups = [rows[n : n + 3] for n in range(0, len(rows), 3)]
        return lines + [r"&\quad " + r",\quad ".join(group) for group in groups]
    return in_lines(head, closed, printer)


def written_out(expr: sp.Expr) -> sp.Expr:
    """Closed forms of averages that stand whole in equations; some hold others of them."""
    inner = {q: q.written_out() for q in expr.atoms(TableAverage)}
    changed = {q: value for q, value in inner.items() if value != q}
    return written_out(expr.xreplace(changed)) if changed else expr


def in_lines(head: str, expr: sp.Expr, printer: EquationPrinter) -> list[str]:
    """Align lines of `head = expr`, a long sum broken."""
    sums = [f for f in sp.Mul.make_args(expr) if f.is_Add]
    text = printer.doprint(expr)
    if len(text) <= LINE_CHARACTERS or len(sums) != 1:
        return [f"{head} &= {text}"]
    first, *more = broken(expr, sums[0], printer, LINE_CHARACTERS)
    return [f"{head} &= {first}", *(r"&\quad " + line for line in more)]


# Closed forms up to this size are printed in one piece.
MANY_OPERATIONS = 40
# LaTeX text of about this length fills a line of an article.
LINE_CHARACTERS = 120

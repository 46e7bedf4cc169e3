"""LaTeX of the expressions of equations: neuron sums, local fields, averages, in a notation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import sympy as sp
from sympy.printing.latex import LatexPrinter

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import FIELDS, At, Expectation, free_indices
from dmft.equations.definitions import MeanSlope, base_name
from dmft.equations.symbols import ONLY
from dmft.equations.views.networks import placed_field
from dmft.equations.views.text import (
    function_text,
    halved,
    printed,
    root_of_two_over_pi,
    split_averages,
)
from dmft.explanation.print_forms import OneMore
from dmft.gaussian.closed.orthant import FourSigns
from dmft.gaussian.tables.tokens import TokenAverage
from dmft.model import FIELD
from dmft.names import BLOCK, LETTERS

# A random field of a sample, or a mean, in a cluster.
CLUSTER_LATEX = "{}^{{[{}]}}"
PARAMETERS = frozenset({x.gamma, x.Delta, x.flip, x.rho_a, *x.numbers.values()})
# Combinations of fields that a loss sees of linear networks.
OF_LINES = {"output": "f", "residual": r"\left(y - f\right)"}
# Two roots that are printed as one.
TWO_ROOTS = re.compile(r"\\sqrt\{(\d+)\} \\sqrt\{(\w+)\}")
ALONE = re.compile(r"^(\\left\\langle )\\left\((.*)\\right\)( \\right\\rangle)$")
DOUBLE = re.compile(r"(\\left[(|]\{?|, )\(y - f\)(?=\}?\\right)")
# Overlaps of no, one and two teachers.
OVERLAPS = (x.Q, x.M, x.P)
# What makes a sum too high for a numerator.
PARTS = (sp.Function, sp.Sum, Expectation)
Notation = str | Mapping[str, str] | None


class EquationPrinter(LatexPrinter):
    """House style: neuron sums, local fields, kernels as averages."""

    def __init__(
        self, names: Mapping[sp.Expr, str], letters: Mapping[str, str] | None = None
    ) -> None:
        super().__init__({"fold_short_frac": False, "inv_trig_style": "full"})
        self.letters = dict(letters or {})
        swap = {r"\sigma_*": self.letter("teacher_sigma"), r"\sigma": self.letter("sigma")}
        self.names = {f: _renamed(name, swap) for f, name in names.items()}
        self.tokens: dict[tuple[sp.Basic, ...], int] = {}
        # Names of averages, by their functions; their arguments are the indices of the fields.
        self.averages: dict[tuple[sp.Expr, ...], str] = {}

    def letter(self, name: str) -> str:
        """Letter of a quantity in this notation."""
        return self.letters.get(name, LETTERS[name])

    def _print(self, expr: Any, **kwargs: Any) -> str:
        # These print themselves in other printers.
        for kind in (Expectation, TokenAverage, FourSigns, MeanSlope):
            if isinstance(expr, kind):
                return str(getattr(self, f"_print_{kind.__name__}")(expr))
        if isinstance(expr, sp.Mul):  # 2 a - 11 b/10 for (20 a - 11 b)/10
            number, total = expr.as_coeff_Mul()
            numbers = [y.as_coeff_Mul()[0] for y in total.args] if total.is_Add else []
            whole = (y.is_Integer and y % number.q == 0 for y in numbers)
            if number.is_Rational and number.q > 2 and any(whole):
                expr = sp.Add(*(number * y for y in total.args))
        return str(super()._print(expr, **kwargs))

    def _print_Symbol(self, expr: sp.Symbol, style: str = "plain") -> str:
        if isinstance(expr, OneMore):
            return rf"\left(1 + {self._print(expr.variance)}\right)"
        name, found, number = expr.name.partition(x.IN_CLUSTER)
        if found:
            plain = self._print_Symbol(sp.Symbol(name, real=True))
            return _one_superscript(CLUSTER_LATEX.format(plain, "c" if number == "0" else number))
        if expr.name.startswith(x.SLOPE):
            alignment = self._print(sp.Symbol(expr.name.removeprefix(x.SLOPE), real=True))
            return rf"\partial_{{{alignment}}} {self.letter('loss')}"
        if expr.name in self.letters:
            return self.letters[expr.name]
        return x.SYMBOL_LATEX.get(expr) or super()._print_Symbol(expr, style)

    def _print_Indexed(self, expr: sp.Indexed) -> str:
        base = base_name(expr)
        for line, whole in OF_LINES.items():  # <h_j f> and <f^2>
            if base == f"{line}_variance":
                return rf"\langle {whole}^{{2}} \rangle"
            if base == f"{line}_covariance":
                return rf"\langle {self._print(placed_field(expr.indices[0]))} {whole} \rangle"
        if base == "Omega" and any(i.has(*ONLY) for i in expr.indices):
            return self._print(overlap_of(expr))
        name, whole = self.letters.get(base), base.removeprefix(BLOCK)
        name = name or self.letters.get(whole) or _base_latex(base)
        if x.is_mean(expr.base) and ONLY[1] in expr.indices:
            name = name.replace("^{", "^{*", 1)
        inside = [self._print(index) for index in expr.indices if index not in ONLY]
        # Q_{e,jl} is an entry of Q_e.
        separator = "," if any(i.is_Add for i in expr.indices) else " "
        if not (subscript := separator.join(inside).replace(" ", ",", int(whole != base))):
            return name
        if "^" in name and not name.endswith(")"):
            head, power = name.split("^", 1)
            return f"{head}_{{{subscript}}}^{power}"
        return f"{name}_{{{subscript}}}"

    def _print_Pow(self, expr: sp.Pow) -> str:
        # What stands alone under a root or in a denominator needs no brackets.
        text = str(super()._print_Pow(expr))
        return re.sub(r"\{\\left\((1 \+ [^()]*?)\\right\)\}", r"{\1}", text)

    def _print_ExpBase(self, expr: sp.exp, exp: str | None = None) -> str:
        above, below = sp.fraction(expr.exp)
        if below == 1 or above.is_Add or below.has(sp.Add, OneMore):
            return str(super()._print_ExpBase(expr, exp))
        under = f"({self._print(below)})" if below.is_Mul else self._print(below)
        return str(self._do_exponent(f"e^{{{self._print(above)}/{under}}}", exp))

    def _helper_print_standard_power(self, expr: sp.Pow, template: str) -> str:
        # h_1^* has its superscript already: TeX refuses a second one outside braces.
        if isinstance(expr.base, sp.Indexed | OneMore):
            braced = _braced if isinstance(expr.base, sp.Indexed) else str
            return template % (braced(self._print(expr.base)), self._print(expr.exp))
        return str(super()._helper_print_standard_power(expr, template))

    def _print_Function(self, expr: sp.Function, exp: str | None = None) -> str:
        # No group around the brackets: TeX would set it off from the name.
        return self._ungrouped(super()._print_Function(expr, exp), expr)

    def _print_log(self, expr: sp.log, exp: str | None = None) -> str:
        return self._ungrouped(super()._print_log(expr, exp), expr)

    def _ungrouped(self, text: str, expr: sp.Function) -> str:
        inside = ",".join(map(self._print, expr.args))
        group = rf"{{\left({inside} \right)}}"
        return text.removesuffix(group) + rf"\left({inside}\right)" * text.endswith(group)

    def _print_Heaviside(self, expr: sp.Heaviside, exp: str | None = None) -> str:
        return str(super()._print_Heaviside(expr, exp)).replace(r"\theta", r"\Theta", 1)

    def _print_Float(self, expr: sp.Float) -> str:
        # A short decimal, the root of one, or as many digits as a reader takes in.
        short = f"{float(expr):.6g}"
        scale = 10.0 ** math.floor(math.log10(abs(expr)) + 0.5) if expr else 1.0
        square = f"{(float(expr) / scale) ** 2:.3g}"
        if not math.isclose(float(short), expr, rel_tol=1e-12) and math.isclose(
            math.sqrt(float(square)) * scale, abs(expr), rel_tol=1e-12
        ):
            front = "" if scale == 1 else f"{scale:g} "
            return f"{'-' if expr < 0 else ''}{front}\\sqrt{{{square}}}"
        return str(super()._print_Float(sp.Float(short, 6))).removesuffix(".0")

    def _print_Sum(self, expr: sp.Sum) -> str:
        # Sums over the same range stand under one sign.
        signs: list[tuple[list[str], sp.Expr, sp.Expr]] = []
        for s, low, high in expr.limits:
            if signs and signs[-1][1:] == (low, high):
                signs[-1][0].append(self._print(s))
            else:
                signs.append(([self._print(s)], low, high))
        heads = "".join(
            rf"\sum_{{{','.join(names)}={low}}}^{{{self._print(high)}}}"
            for names, low, high in signs
        )
        body = self._print(expr.function)
        return f"{heads} " + (rf"\left[{body}\right]" if expr.function.is_Add else body)

    def _print_Mul(self, expr: sp.Mul) -> str:
        number, *others = expr.args
        if number.is_Float and abs(float(number)) == 1.0:  # 1.0 x is x
            return str(self._print(sp.Mul(sp.Integer(number), *others)))
        rest, averages = split_averages(expr)
        if not averages:
            if plain := self.plain_product(expr):
                return plain
            text = TWO_ROOTS.sub(r"\\sqrt{\1 \2}", super()._print_Mul(expr))
            return re.sub(r"(?<=\})\{\\left\((1 \+ [^()]*?)\\right\)\}", r"{\1}", text)
        inside = [
            rf"\left[{self._print(f)}\right]" if f.is_Add else self._print(f) for f in averages
        ]
        roots = sp.Mul(*(f for f in sp.Mul.make_args(rest) if f.is_number and not f.is_Rational))
        if (square := roots**2 * sp.pi).is_Integer:  # one root, as in front of signs
            inside, rest = [rf"\sqrt{{\frac{{{square}}}{{\pi}}}}", *inside], rest / roots
        if rest in (1, -1):
            return ("- " if rest == -1 else "") + " ".join(inside)
        text = self.plain_product(rest)
        text = text or (super()._print_Mul(rest) if rest.is_Mul else self._print(rest))
        text = re.sub(r"^-(?=\d)", "- ", text)
        return " ".join([rf"\left({text}\right)" if rest.is_Add else text, *inside])

    def _print_Add(self, expr: sp.Add, order: str | None = None) -> str:
        # Sums over teachers come first, as in the square of y - f; no sign at the beginning.
        terms = self.in_order(self._as_ordered_terms(expr, order=order))
        place = next((n for n, y in enumerate(terms) if not y.could_extract_minus_sign()), 0)
        first, *others = map(self._print, [terms[place], *terms[:place], *terms[place + 1 :]])
        return " ".join([first, *(y if y.startswith("-") else f"+ {y}" for y in others)])

    def in_order(self, terms: Sequence[sp.Expr]) -> list[sp.Expr]:
        """Terms of a sum in the order in which they are printed."""
        return sorted(terms, key=lambda y: (sums_over_students(y), isinstance(y, sp.exp)))

    def plain_product(self, expr: sp.Expr) -> str:
        """A product of numbers, symbols and entries, parameters first; empty for others."""
        number, rest = expr.as_coeff_Mul()
        pairs = [f.as_base_exp() for f in rest.as_ordered_factors()]
        simple = number.is_Rational and all(
            isinstance(b, sp.Symbol | sp.Indexed) and e.is_Integer for b, e in pairs
        )
        if not simple or not rest.is_Mul:
            return ""
        above = sorted((y for y in pairs if y[1] > 0), key=lambda y: self.first(y[0]))
        one = [str(abs(number.p))] if abs(number.p) != 1 else []
        one += [self._print(sp.Pow(*y)) for y in above]
        two = [str(number.q)] if number.q != 1 else []
        two += [self._print(sp.Pow(b, -e)) for b, e in pairs if e < 0]
        text = " ".join(one) or "1"
        text = rf"\frac{{{text}}}{{{' '.join(two)}}}" if two else text
        return f"- {text}" if number < 0 else text

    def is_parameter(self, symbol: sp.Expr) -> bool:
        """Whether a factor is printed before others."""
        return symbol in PARAMETERS

    def first(self, factor: sp.Expr) -> tuple[int, ...]:
        """Place of a factor of a product: numbers, parameters, sums of them, the rest."""
        if factor == sp.E:
            return (5,)
        if factor.is_number or str(factor) == r"\pi":
            return (0,)
        if self.is_parameter(factor):
            return (1, factor != x.gamma)
        if isinstance(factor, sp.Indexed) and base_name(factor) in x.OF_INPUTS:
            return (1, 2)
        if factor.free_symbols and all(map(self.is_parameter, factor.free_symbols)):
            return (1, 3)
        return (4,) if factor.is_Add else (2,)

    def _print_At(self, expr: At) -> str:
        field = self._print(expr.field)
        named = function_text(self.names, expr.factor, field, self._print)
        if expr.factor == FIELD and expr.field.is_Add:
            return rf"\left({field}\right)"
        # A letter that is a key as well is not looked up again.
        whole = sp.Symbol(f"{{{field}}}" if field in self.letters else field)
        powers = expr.factor.atoms(sp.Pow) if expr.field.is_Mul else ()  # of y h
        table = {y: sp.Symbol(rf"\left({field}\right)") ** y.exp for y in powers if y.base == FIELD}
        text = named or self.parenthesize(expr.factor.xreplace({**table, FIELD: whole}), 50)
        return DOUBLE.sub(r"\1y - f", text)

    def _print_Expectation(self, expr: Expectation) -> str:
        name = self.name_of(expr)
        if expr.is_product and expr.law == FIELDS:
            pairs = zip(halved(expr.factors), expr.fields, strict=True)
            expr = Expectation(*(At(f, y) for f, y in pairs))
        if not name or not indexed(expr):
            text = expr._latex(self)
            # A factor alone needs no brackets.
            alone = expr.is_product and len(expr.parts) == 1
            return ALONE.sub(r"\1\2\3", text) if alone else text
        return f"{name}({', '.join(self._print(y.indices[0]) for y in expr.fields)})"

    def name_of(self, average: Expectation) -> str:
        """Name of a product of functions of single fields; empty where it has none."""
        return self.averages.get(average.factors, "") if average.is_product else ""

    def _print_TokenAverage(self, expr: TokenAverage) -> str:
        key = (*expr.args[:3],)
        number = self.tokens.setdefault(key, len(self.tokens) + 1)
        e, m = (self._print(y) for y in expr.place)
        order = "".join(
            rf"\partial_{name}^{{{n}}}" if n > 1 else rf"\partial_{name}" if n else ""
            for n, name in zip(expr.orders, "em", strict=True)
        )
        space = r"\," if order else ""
        return rf"{order}{space}\mathcal{{E}}_{{{number}}}({e}, {m})"

    def _print_MeanSlope(self, expr: MeanSlope) -> str:
        pull, root = expr.args
        rows = " ".join(self._print(i) for i in pull.indices[:-1] if i not in ONLY)
        beta = _base_latex(base_name(pull))
        covariance = _base_latex(base_name(root).replace("root", "Omega"))
        field = self._print(root.indices[0])
        return rf"\left({beta}\,{{{covariance}}}^{{-1/2}}\right)_{{{f'{rows} {field}'.strip()}}}"

    def _print_FourSigns(self, expr: sp.Function, exp: str | None = None) -> str:
        inside = ", ".join(self._print(a) for a in expr.args)
        own = ", ".join(f"C_{{{i}{n}}}" for i in range(1, 5) for n in range(i, 5))
        text = "S_{1234}" if inside == own else rf"S_4\left({inside}\right)"
        return text if exp is None else f"{text}^{{{exp}}}"


class KernelPrinter(EquationPrinter):
    """Closed forms: one root in a denominator, 1/sqrt(2), functions behind their fraction."""

    def _print_Mul(self, expr: sp.Mul) -> str:
        if expr.has(sp.Sum) or split_averages(expr)[1]:
            return super()._print_Mul(expr)
        number, rest = expr.as_coeff_Mul()
        if not number.is_Rational:
            return super()._print_Mul(expr)
        behind, above, below = [], [], []
        for factor in rest.as_ordered_factors() if rest.is_Mul else [rest]:
            base, power = factor.as_base_exp()
            if self.stands_behind(factor):
                behind.append(factor)
            elif power.is_Rational and power < 0:
                below.append((base, -power))
            else:
                above.append((base, power))
        top, bottom = abs(number.p), number.q
        for pair in [y for y in above if y[0].is_Integer and y[1] == sp.S.Half]:
            if bottom % pair[0] == 0:  # sqrt(2)/2 is 1/sqrt(2)
                bottom //= int(pair[0])
                above.remove(pair)
                below.append(pair)
        behind.sort(key=_is_sine)  # sin(theta) has no brackets
        front = root_of_two_over_pi(above, below)
        if front and bottom == 1 != top:
            front, top = f"{top} {front}", 1
        one, two = self.factors(top, above), self.factors(bottom, below)
        one = "" if front and one == "1" else one
        is_sum = len(above) == 1 and above[0][1] == top == 1 and _is_sum(above[0][0])
        if is_sum and not two and (behind or number < 0):
            one = rf"\left({one}\right)"
        text = rf"\frac{{{one or '1'}}}{{{two}}}" if two else one
        inside = [rf"\left[{self._print(f)}\right]" if f.is_Add else self._print(f) for f in behind]
        if len(behind) == 1 and two and not one and (_is_flat(behind[0]) or _is_sine(behind[0])):
            text, inside = rf"\frac{{{self._print(behind[0])}}}{{{two}}}", []
        sign = "- " if number < 0 else ""
        return sign + " ".join(y for y in (front, text, *inside) if y)

    def stands_behind(self, factor: sp.Expr) -> bool:
        """Whether a factor comes after the coefficients."""
        if factor.is_Add:
            return factor.has(sp.Function) or any(
                sp.fraction(y)[1].free_symbols for y in factor.args
            )
        return isinstance(factor, sp.Function)

    def in_order(self, terms: Sequence[sp.Expr]) -> list[sp.Expr]:
        """Named parts first."""
        return sorted(terms, key=_is_behind)

    def factors(self, number: int, pairs: Sequence[tuple[sp.Expr, sp.Expr]]) -> str:
        """Product of powers, the square roots under one sign."""
        half = [(b, e) for b, e in pairs if e.is_Rational and e.q == 2]
        roots = [(b, e) for b, e in half if e == sp.S.Half or b.is_Rational]
        whole = [(b, e) for b, e in pairs if (b, e) not in roots]
        whole += [(b, e - sp.S.Half) for b, e in roots if e > sp.S.Half]
        whole.sort(key=lambda y: self.first(y[0]))
        alone = number == 1 and not roots and len(whole) == 1
        parts = [str(number)] if number != 1 else []
        last = [y for y in whole if y[0] == sp.E or isinstance(y[0], sp.sin)]
        parts += [self.power(b, e, alone) for b, e in whole if e != 0 and (b, e) not in last]
        if roots:
            roots.sort(key=lambda y: (not y[0].is_number, not y[0].is_Integer))
            inside = " ".join(self.power(b, sp.S.One, len(roots) == 1) for b, _ in roots)
            place = int(number != 1) if all(b.is_number for b, _ in roots) else len(parts)
            parts.insert(place, rf"\sqrt{{{inside}}}")
        parts += [self.power(b, e, True) for b, e in last]
        return " ".join(parts)

    def power(self, base: sp.Expr, power: sp.Expr, alone: bool) -> str:
        """One power; a sum that is not alone stands in brackets."""
        if base == sp.E:
            return self._print(sp.exp(power))
        text = self._print(base)
        if isinstance(base, OneMore):
            text = f"1 + {self._print(base.variance)}"
        if _is_sum(base) and not (alone and power == 1):
            text = rf"\left[{text}\right]" if r"\left(" in text else rf"\left({text}\right)"
        elif power != 1 and (isinstance(base, sp.Indexed) or base.is_Symbol):
            text = _braced(text)
        elif power != 1 and not base.is_number:
            return self._print(sp.Pow(base, power, evaluate=False))
        high = f"{power.p}/{power.q}" if power.is_Rational and power.q != 1 else self._print(power)
        return text if power == 1 else f"{text}^{{{high}}}"


def overlap_of(entry: sp.Indexed) -> sp.Indexed:
    """The overlap that an entry of Omega is, of single units."""
    students = [i for i in entry.indices if not i.has(x.p)]
    teachers = [i - x.p for i in entry.indices if i.has(x.p)]
    return OVERLAPS[len(teachers)][(*students, *teachers)]


def indexed(average: Expectation) -> bool:
    """Whether an average is over functions of fields that have an index each."""
    if not average.is_product or average.law != FIELDS or any(map(free_indices, average.factors)):
        return False
    indices = [y.indices[0] for y in average.fields if isinstance(y, sp.Indexed)]
    return len(indices) == len(average.fields) and all(y in x.AXES for y in indices)


def sums_over_students(term: sp.Expr) -> int:
    """Number of indices of students that a term sums over."""
    limits = [limit for y in term.atoms(sp.Sum) for limit in y.limits]
    return sum(1 for index, *_ in limits if x.AXES.get(index) == x.p)


def _base_latex(name: str) -> str:
    """How a base is printed, in a cluster or not."""
    return _one_superscript(printed(name, x.BASE_LATEX, CLUSTER_LATEX))


def _one_superscript(name: str) -> str:
    """h^{(1)}^{[2]} as h^{(1)[2]}; TeX refuses the first."""
    return re.sub(r"\^\{([^{}]*)\}\^\{(\[\w+\])\}", r"^{\1\2}", name)


def _braced(text: str) -> str:
    """A letter that gets an exponent: a superscript that is an index is bracketed with it."""
    if re.search(r"\^(?!\*|\{\*\})", text):
        return rf"\left({text}\right)"
    return f"{{{text}}}" if "^" in text else text


def _is_sum(base: sp.Expr) -> bool:
    return bool(base.is_Add or isinstance(base, OneMore))


def _is_sine(factor: sp.Expr) -> bool:
    return isinstance(factor, sp.sin | sp.cos)


def _is_flat(total: sp.Expr) -> bool:
    """Whether a sum fits a numerator: no fractions and no functions."""
    whole = all(sp.fraction(y)[1].is_Integer for y in sp.Add.make_args(total))
    return total.is_Add and whole and not total.has(*PARTS)


def _is_behind(term: sp.Expr) -> bool:
    return not any(s.name.startswith(r"\Lambda") for s in term.free_symbols)


def _renamed(name: str, swap: Mapping[str, str]) -> str:
    for old, new in swap.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name

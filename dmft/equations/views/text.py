"""Equations as text in the comments of generated code, and names of functions in print."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import sympy as sp
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation, OverSamples
from dmft.equations.definitions import Definition, base_name, mapped
from dmft.equations.symbols import ONLY
from dmft.equations.update.law import Cluster, clusters_of
from dmft.gaussian.closed.pair import Formula
from dmft.gaussian.derivative import derivative
from dmft.model import FIELD, Model

PRIMES = ("", "'", "''")
# A random field of a sample, or a mean, in a cluster.
CLUSTER_TEXT = "{}⟨{}⟩"
# Stands for the mean of a field in the shapes of shifted functions.
MEAN = sp.Symbol("mean", real=True)


def printed(name: str, known: Mapping[str, str], cluster: str) -> str:
    """How a base is printed; `cluster` is a template of a name and the number of a cluster."""
    stem, _, number = name.rpartition("_")
    if stem in x.CLUSTERED and number.isdigit():
        letter = known.get(stem, x.CLUSTERED[stem])
        return cluster.format(letter, "c" if number == "0" else number)
    plain, found, number = name.partition(x.IN_CLUSTER)
    shown = known.get(plain, plain)
    return cluster.format(shown, "c" if number == "0" else number) if found else shown


def model_factors(model: Model) -> dict[sp.Expr, str]:
    """Names of the activations of a model of overlaps and of their derivatives."""
    names: dict[sp.Expr, str] = {}
    for network, name in ((model.student, r"\sigma"), (model.teacher, r"\sigma_*")):
        for order, prime in enumerate(PRIMES if network.activation is not None else ()):
            slope = derivative(network.activation, order)
            if not slope.is_number:
                names.setdefault(slope, name + prime)
    return names


def model_names(model: Model) -> dict[sp.Expr, str]:
    """Names of the activations of a model; none of sequences, whose functions are written out."""
    if model.family != "overlaps":
        return {}
    names = {f: name for f, name in model_factors(model).items() if f != FIELD}
    shifted: dict[sp.Expr, str] = {}
    laws = clusters_of(model)
    for law in (*laws, *(replace(y, scale=sp.S.One) for y in laws)):
        shifted |= {y: name for y, name in _shifted_names(names, law).items() if y not in names}
    return names | shifted


def shapes_in(factors: Iterable[sp.Expr], law: Cluster) -> dict[sp.Expr, tuple[sp.Expr, sp.Expr]]:
    """Functions of the fields of a cluster: the number times one of these factors that each is."""
    found: dict[sp.Expr, tuple[sp.Expr, sp.Expr]] = {}
    for factor in factors:
        shape = _shape(law.shifted(At(factor, x.h[x.j])).factor)
        found |= dict.fromkeys((shape, sp.expand(shape)), (sp.S.One, factor))
        # Stein's identity takes derivatives along centred fields.
        if (higher := derivative(factor)) in factors:
            slope = derivative(shape)
            found |= dict.fromkeys((slope, sp.expand(slope)), (law.root, higher))
    return found


def _shifted_names(names: Mapping[sp.Expr, str], law: Cluster) -> dict[sp.Expr, str]:
    """Templates of functions of the fields of a cluster: places for a field and its mean."""
    scale = "" if law.scale == 1 else f"{math.sqrt(law.scale):.4g} "
    inside = f"({scale}%s)" if law.is_centred else f"({scale}%s + %s)"
    return {
        shape: ("" if number == 1 else scale) + names[factor] + inside
        for shape, (number, factor) in shapes_in(names, law).items()
    }


def in_own_units(part: sp.Expr, factors: Iterable[sp.Expr], law: Cluster) -> sp.Expr:
    """A part of an integrand with fields of variance s_c Omega in place of sqrt(s_c) times others.

    Factors are those of the fields of N(0, Omega).
    """
    if not isinstance(part, At):
        fields = {f: f / law.root for f in part.atoms(sp.Indexed) if x.is_field(f.base)}
        values = {y: in_own_units(y, factors, law) for y in part.atoms(At)}
        return part.xreplace(fields | values)
    known = _entry_of(shapes_in(factors, law), _shape(part.factor))
    if known is None:
        changed = part.factor.xreplace({FIELD: FIELD / law.root})
        number = changed.as_independent(FIELD)[0] if not changed.is_Add else sp.S.One
        return number * At(changed / number, part.field)
    number, factor = known
    mean = law.mean_of(part.field).xreplace({ONLY[1]: sp.S.One})
    return number * At(factor.xreplace({FIELD: FIELD + mean}), part.field)


def _shape(factor: sp.Expr) -> sp.Expr:
    """A function without the name of its field's mean."""
    return factor.xreplace(dict.fromkeys(_means(factor), MEAN))


def _means(factor: sp.Expr) -> list[sp.Expr]:
    return [e for e in factor.atoms(sp.Indexed) if x.is_mean(e.base)]


def function_text(
    names: Mapping[sp.Expr, str], factor: sp.Expr, field: str, doprint: Callable[[sp.Expr], str]
) -> str | None:
    """A named function at a field, shifted or not; None where it has no name."""
    name = names.get(factor, "%s")
    if "%s" not in name:
        return f"{name}({field})"
    means = _means(factor)
    template = _entry_of(names, _shape(factor)) if len(means) < 2 else None
    if template is None or template.count("%s") != 1 + len(means):
        return None
    return template % (field, *map(doprint, means))


def _entry_of(table: Mapping[sp.Expr, Any], shape: sp.Expr) -> Any:
    """What a table has for a function, or for one that is equal when it is multiplied out."""
    if shape in table:
        return table[shape]
    wanted = _multiplied(shape)
    return next((y for f, y in table.items() if _multiplied(f) == wanted), None)


@lru_cache(maxsize=512)
def _multiplied(expr: sp.Expr) -> sp.Expr:
    return sp.expand(sp.powsimp(sp.expand(expr)))


@lru_cache(maxsize=512)
def halved(factors: tuple[sp.Expr, ...]) -> tuple[sp.Expr, ...]:
    """Factors of an average over centred fields, (A(z) + A(-z))/2 and (A(z) - A(-z))/2 as A(z).

    The average is the same if the other factors are even or odd.
    """
    if any(f.free_symbols - {FIELD} or f.atoms(sp.Indexed) for f in factors):
        return factors
    forms = tuple(map(in_one_form, factors))
    signs = [1 if f == flipped(f) else -1 if f == sp.expand(-flipped(f)) else 0 for f in forms]
    factors = tuple(
        f if f.is_Add or f.has(sp.Heaviside) else y for f, y in zip(forms, factors, strict=True)
    )
    if sp.prod(signs) != 1:
        return factors
    return tuple(_half(f, sign) if f.is_Add else f for f, sign in zip(factors, signs, strict=True))


def _half(factor: sp.Expr, sign: int) -> sp.Expr:
    """Twice one of the terms that change into each other with the sign of the field."""
    terms = [*sp.Add.make_args(factor)]
    found = []
    for term in terms:
        other = sp.expand(sign * flipped(term))
        if other == term or other not in terms:
            found.append(term)
        elif max(term, other, key=lambda y: (str(y).count("-"), str(y))) == term:
            found.append(2 * term)
    return sp.Add(*found)


def flipped(factor: sp.Expr) -> sp.Expr:
    """A factor at minus its field, in one form."""
    return in_one_form(factor.xreplace({FIELD: -FIELD}))


def in_one_form(factor: sp.Expr) -> sp.Expr:
    """A sum of products, clipped fields by their sign, two steps of |u| < c as one."""
    factor = sp.expand(factor)
    for edge in factor.atoms(sp.Max):
        low = sp.Add(*(y for y in edge.args if y.is_number))
        inside = sp.Add(*(y for y in edge.args if not y.is_number))
        if edge != sp.Max(low, inside) or not low.is_negative:
            continue
        steps = sp.Heaviside(-low - edge) * sp.Heaviside(inside - low)
        factor = factor.subs(steps, sp.Heaviside(-low - sp.Abs(inside)))
        if inside.could_extract_minus_sign():
            clipped = sp.Min(-low, sp.Max(low, -inside))
            factor = factor.xreplace({sp.Min(-low, edge): -clipped})
    return sp.expand(factor)


def in_exponentials(expr: sp.Expr) -> sp.Expr:
    """Products of 1 - tanh(z/2) and 1 + tanh(z/2), as of logistic losses, as 1/(1 + e^z)."""
    if not expr.has(sp.tanh) or (isinstance(expr, Expectation) and not expr.is_product):
        return expr
    if isinstance(expr, Expectation):
        parts = [in_exponentials(y).as_coeff_Mul() for y in expr.factors]
        inside = (At(y, field) for (_, y), field in zip(parts, expr.fields, strict=True))
        return sp.Mul(*(number for number, _ in parts)) * Expectation(*inside, expr.law)
    if expr.has(At, Expectation, sp.Sum):
        plain = isinstance(expr, At) or not expr.has(Expectation)
        return expr if plain else expr.func(*map(in_exponentials, expr.args))
    tanh, *others = expr.atoms(sp.tanh)
    T, z = sp.Symbol("T", real=True), 2 * tanh.args[0]
    number, factors = sp.factor_list(expr.xreplace({tanh: T}), T)
    powers = dict(factors)
    low, high = powers.pop(T - 1, 0), powers.pop(T + 1, 0)
    if others or low == high == 0 or any(y.has(T) for y in powers):
        return expr
    both, rest = min(low, high), sp.Mul(*(y**n for y, n in powers.items()))
    number *= (-1) ** low * 2 ** (low + high - 2 * both)
    shown = number * rest / sp.cosh(z / 2) ** (2 * both)
    return shown / (1 + sp.exp(z)) ** (low - both) / (1 + sp.exp(-z)) ** (high - both)


class TextPrinter(StrPrinter):
    """Definitions in the comments of code; `dmft.typeset.plain` is what terminals show."""

    def _print(self, expr: Any, **kwargs: Any) -> str:
        # Indexed and averages print themselves; the house style comes first.
        if isinstance(expr, sp.Indexed):
            return self._print_Indexed(expr)
        for kind in (Expectation, OverSamples):
            if isinstance(expr, kind):
                return str(getattr(self, f"_print_{kind.__name__}")(expr))
        return str(super()._print(expr, **kwargs))

    def _print_Symbol(self, expr: sp.Symbol) -> str:
        name, found, number = expr.name.partition(x.IN_CLUSTER)
        if found:
            plain = self._print(sp.Symbol(name, real=True))
            return CLUSTER_TEXT.format(plain, number)
        if expr.name.startswith(x.SLOPE):
            return f"∂_{expr.name.removeprefix(x.SLOPE)} L"
        return x.SYMBOL_TEXT.get(expr, expr.name)

    def _print_Indexed(self, expr: sp.Indexed) -> str:
        base = base_name(expr)
        shown = [self._print(i).replace(" ", "") for i in expr.indices if i not in ONLY]
        name = printed(base, x.BASE_TEXT, CLUSTER_TEXT)
        return f"{name}[{','.join(shown)}]" if shown else name

    def _print_Derivative(self, expr: sp.Derivative) -> str:
        return f"d{self._print(expr.expr)}/d{self._print(expr.variables[0])}"

    def _print_KroneckerDelta(self, expr: sp.KroneckerDelta) -> str:
        return f"δ[{','.join(map(self._print, expr.args))}]"

    def _print_Mul(self, expr: sp.Mul) -> str:
        rest, averages = split_averages(expr)
        if not averages:
            return str(super()._print_Mul(expr))
        inside = [f"[{self._print(f)}]" if f.is_Add else self._print(f) for f in averages]
        if rest in (1, -1):
            return ("-" if rest == -1 else "") + " ".join(inside)
        text = super()._print_Mul(rest) if rest.is_Mul else self._print(rest)
        return " ".join([f"({text})" if rest.is_Add else text, *inside])

    def _print_Piecewise(self, expr: sp.Piecewise) -> str:
        parts = (
            f"{self._print(e)} {'else' if c == sp.true else f'if {self._print(c)}'}"
            for e, c in expr.args
        )
        return f"{{{', '.join(parts)}}}"

    def _print_Sum(self, expr: sp.Sum) -> str:
        ranges = (
            f"{s}" if first == 1 else f"{s}={self._print(first)}..{self._print(last)}"
            for s, first, last in expr.limits
        )
        symbols = ",".join(ranges).replace(" ", "")
        body = self._print(expr.function)
        return f"Σ_{symbols} " + (f"[{body}]" if expr.function.is_Add else body)

    def _print_OverSamples(self, expr: OverSamples) -> str:
        first, last = expr.numbers[0], expr.numbers[-1]
        return f"Σ_μ={first}..{last} ({self._print(expr.body)})_μ"

    def _print_Function(self, expr: Any) -> str:
        if not isinstance(expr, Formula):
            return str(super()._print_Function(expr))
        return str(self.parenthesize(expr.formula(), PRECEDENCE["Pow"], strict=True))

    def _print_Expectation(self, expr: Expectation) -> str:
        parts = (f"[{self._print(y)}]" if y.is_Add else self._print(y) for y in expr.parts)
        return f"⟨{' '.join(parts)}⟩"


def split_averages(expr: sp.Mul) -> tuple[sp.Expr, list[sp.Expr]]:
    """Split a product into plain factors and those with sums or averages, sums last.

    Without these, functions of fields come after readouts.
    """
    averages = [f for f in expr.args if f.has(sp.Sum, sp.Integral, Expectation) and not f.is_Pow]
    if not averages and any(isinstance(f, sp.Indexed) for f in expr.args):
        averages = [f for f in expr.args if isinstance(f, At)]
    rest = sp.Mul(*(f for f in expr.args if f not in averages))
    return rest, sorted(averages, key=lambda f: (f.has(sp.Sum), isinstance(f, sp.Sum)))


def root_of_two_over_pi(
    above: list[tuple[sp.Expr, sp.Expr]], below: list[tuple[sp.Expr, sp.Expr]]
) -> str:
    """The root of 2 above and that of pi below, taken out of the factors of a fraction."""
    two = (sp.Integer(2), sp.S.Half)
    pi = next((y for y in below if str(y[0]) in ("pi", r"\pi") and y[1].q == 2), None)
    if two not in above or pi is None:
        return ""
    above.remove(two)
    below[below.index(pi)] = (pi[0], pi[1] - sp.S.Half)
    below[:] = [y for y in below if y[1] != 0]
    return r"\sqrt{\frac{2}{\pi}}"


@lru_cache(maxsize=256)
def comment_text(definition: Definition) -> tuple[str, ...]:
    """Lines of a definition for the comments of code, a line for each named term."""
    printer = TextPrinter({"order": None})
    target = printer.doprint(definition.target)
    head = f"d{target}/dt = " if definition.role == "rate" else f"{target} = "
    lines = []
    for number, (name, expr) in enumerate(definition.terms):
        text = printer.doprint(expr)
        sign = "" if number == 0 else "- " if text.startswith("-") else "+ "
        text = text.removeprefix("-") if sign == "- " else text
        lead = head if number == 0 else " " * (len(head) - 2) + sign
        label = f"   ({name.replace('_', ' ')})" if len(definition.terms) > 1 else ""
        lines.append(f"{lead}{text}{label}")
    return tuple(lines) or (f"{head}0",)


def printed_definitions(definitions: Iterable[Definition]) -> tuple[Definition, ...]:
    """Definitions without constants that only code needs: guards of zero, functions that are 1."""
    return tuple(mapped(d, _without_constants) for d in definitions)


def _without_constants(expr: sp.Expr) -> sp.Expr:
    table = {a: a.factor for a in expr.atoms(At) if a.factor.is_number}
    table[x.LEAST_SQUARE] = sp.S.Zero
    for guard in expr.atoms(sp.Max):
        if guard.has(x.LEAST_VARIANCE):
            table[guard] = sp.Max(*(a for a in guard.args if not a.has(x.LEAST_VARIANCE)))
    averages = {}
    for average in expr.atoms(Expectation):
        parts = [part.xreplace(table).as_coeff_Mul() for part in average.parts]
        rest = [part for _, part in parts if part != 1]
        plain = sp.Mul(*(number for number, _ in parts))
        if plain != 1 or len(rest) < len(parts):
            averages[average] = plain * (Expectation(*rest, average.law) if rest else 1)
    expr = expr.xreplace(averages).xreplace(table)
    sums = ((s, *s.function.as_coeff_Mul()) for s in expr.atoms(sp.Sum))
    return expr.xreplace({s: n * sp.Sum(body, *s.limits) for s, n, body in sums if n != 1})

r"""Equations of motion around the uninformative point M = 0, Q = q I, P = I.

There all local fields are independent, so every average is a product of moments of one field, and
neurons that no index names are interchangeable: a sum over them is a count times one value. This
gives the rates at symbolic widths, with one overlap `mu` between two fields kept to a given order
(Mehler's series, theory/one_pass A.7).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.definitions import Definition, base_name, index_symbol
from dmft.errors import NotClosed
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.closed.wick import hermite
from dmft.gaussian.exponents.coefficients import Coefficients
from dmft.model import FIELD

# A neuron: "s" student or "t" teacher, and a number; equal labels are the same neuron.
Label = tuple[str, int]
# Index symbols to neurons.
At_ = Mapping[sp.Symbol, Label]
# Functions of one field each, as they multiply in an average.
Factors = tuple[tuple[sp.Expr, Label], ...]

# Numerical moments below this are zero: they are known to 1e-15 of functions of unit size.
ROUNDED = 1e-13
STUDENT, OTHER, TEACHER = ("s", 0), ("s", 1), ("t", 0)
q = sp.Symbol("q", positive=True)
mu = sp.Symbol("mu", real=True)


@dataclass(frozen=True)
class Uninformative:
    """Values of indexed expressions at M = 0, Q = q I, P = I, but for one overlap `mu`.

    `definitions` are looked up for intermediates; `length` is q (1 on the sphere), `pair` the two
    fields of covariance mu, `order` the largest power of mu that is kept; `readouts` (a, a*) are
    equal for all units, and `weight` (factor, label) is multiplied into every average.
    """

    definitions: Sequence[Definition]
    widths: tuple[sp.Expr, sp.Expr]
    length: sp.Expr = sp.S.One
    pair: tuple[Label, Label] = (STUDENT, TEACHER)
    order: int = 1
    readouts: tuple[sp.Expr, sp.Expr] = (sp.S.One, sp.S.One)
    weight: Factors = ()
    known: dict[Any, sp.Expr] = field(default_factory=dict, repr=False)

    def rate(self, name: str, *labels: Label) -> sp.Expr:
        """Polynomial in mu: rate or observable `name` of these neurons."""
        value = self.defined(name, labels, roles=("rate", "observable"))
        return sp.expand(value.subs({x.p: self.widths[0], x.k: self.widths[1]}))

    def term(self, name: str, *labels: Label) -> sp.Expr:
        """The same of a named term, wherever it stands: ``"sgd_noise"``."""
        total = sp.S.Zero
        for d in self.definitions:
            for term, expr in d.terms:
                if term == name:
                    total += self.value(expr, dict(zip(d.indices, labels, strict=True)))
        return sp.expand(total.subs({x.p: self.widths[0], x.k: self.widths[1]}))

    def defined(
        self, name: str, labels: Sequence[Label], roles: Sequence[str] = ("intermediate",)
    ) -> sp.Expr:
        """Value of a definition."""
        key = (name, tuple(labels), tuple(roles))
        if key not in self.known:
            (d,) = (d for d in self.definitions if d.name == name and d.role in roles)
            at = dict(zip(d.indices, labels, strict=True))
            self.known[key] = self.value(d.expr, at)
        return self.known[key]

    def value(self, expr: sp.Expr, at: At_) -> sp.Expr:
        """Value of an expression whose free indices are these neurons."""
        if isinstance(expr, sp.Indexed):
            return self.entry(base_name(expr), [at[index_symbol(i)] for i in expr.indices])
        if isinstance(expr, Expectation):
            if expr.is_product:
                pairs = zip(expr.factors, expr.fields, strict=True)
                return self.average(tuple((f, at[index_symbol(y.indices[0])]) for f, y in pairs))
            parts = self.expanded([expr.integrand], at, ())
            return sp.Add(*(c * self.average(factors) for c, factors in parts))
        if isinstance(expr, sp.Sum):
            body = expr.function
            return sp.Add(*(n * self.value(body, inner) for n, inner in self.choices(expr, at)))
        if not expr.args:
            return expr
        return expr.func(*(self.value(a, at) for a in expr.args))

    def entry(self, base: str, labels: Sequence[Label]) -> sp.Expr:
        """Entry of an array at neurons."""
        if base in ("Q", "M", "P", "Omega"):
            return self.covariance(*labels)
        if base in ("readout", "teacher_readout"):
            return self.readouts[0 if base == "readout" else 1]
        if base == "c":
            ((kind, _),) = labels
            return -self.readouts[0] / x.p if kind == "s" else self.readouts[1] / x.k
        return self.defined(base, labels)

    def covariance(self, a: Label, b: Label) -> sp.Expr:
        """Covariance of the fields of two neurons."""
        if a == b:
            return self.length if a[0] == "s" else sp.S.One
        return mu if {a, b} == set(self.pair) else sp.S.Zero

    def choices(self, expr: sp.Sum, at: At_, taken: Sequence[Label] = ()) -> Iterator[Any]:
        """Neurons that a sum may run over, as (count, indices): those named and one of the rest."""
        points: list[tuple[sp.Expr, At_]] = [(sp.S.One, dict(at))]
        for index, *_ in expr.limits:
            points = [
                (n * count, {**inner, index: label})
                for n, inner in points
                for count, label in self.labels(index, [*inner.values(), *taken])
            ]
        return iter(points)

    def labels(self, index: sp.Symbol, taken: Sequence[Label]) -> list[tuple[sp.Expr, Label]]:
        """Neurons of the axis of an index: each that is named once, and one for all others."""
        axis = x.AXES[index]
        kinds = [(kind, n) for kind, n, w in (("s", 0, x.p), ("t", 1, x.k)) if axis.has(w)]
        found = []
        for kind, n in kinds:
            named = sorted({a for a in (*taken, *self.pair) if a[0] == kind})
            found += [(sp.S.One, a) for a in named]
            rest = self.widths[n] - len(named)
            if rest != 0:
                found.append((rest, (kind, max((a[1] for a in named), default=-1) + 1)))
        return found

    def expanded(
        self, parts: Sequence[sp.Expr], at: At_, taken: Factors
    ) -> Iterator[tuple[sp.Expr, Factors]]:
        """Integrand (a product of `parts`) as terms: coefficient and functions of one field."""
        if not parts:
            yield sp.S.One, taken
            return
        first, rest = parts[0], parts[1:]
        if isinstance(first, sp.Mul):
            yield from self.expanded([*first.args, *rest], at, taken)
        elif isinstance(first, sp.Add):
            for part in first.args:
                yield from self.expanded([part, *rest], at, taken)
        elif isinstance(first, sp.Pow) and first.exp.is_Integer and first.exp > 0:
            yield from self.expanded([first.base] * int(first.exp) + list(rest), at, taken)
        elif isinstance(first, sp.Sum):
            # The other parts do not read its index; their own sums must know its neuron.
            for count, inner in self.choices(first, at, [a for _, a in taken]):
                for c, factors in self.expanded([first.function, *rest], inner, taken):
                    yield count * c, factors
        elif isinstance(first, At) or (isinstance(first, sp.Indexed) and _is_field(first)):
            of, where = (first.factor, first.field) if isinstance(first, At) else (FIELD, first)
            factor = (of, at[index_symbol(where.indices[0])])
            yield from self.expanded(rest, at, (*taken, factor))
        else:
            for c, factors in self.expanded(rest, at, taken):
                yield self.value(first, at) * c, factors

    def average(self, factors: Factors) -> sp.Expr:
        """E[prod factor(field)] to the order of mu: a product of moments, a series for the pair."""
        by_field: dict[Label, tuple[sp.Expr, ...]] = {}
        for factor, label in (*factors, *self.weight):
            by_field[label] = (*by_field.get(label, ()), factor)
        both = all(label in by_field for label in self.pair)
        value = sp.S.One
        for label, functions in by_field.items():
            if not (both and label in self.pair):
                value *= moment(functions, 0, self.covariance(label, label))
            if value == 0:
                return value
        if not both:
            return value
        series = []
        for n in range(self.order + 1):
            sides = [self.side(by_field[label], n, label) for label in self.pair]
            series.append(mu**n / math.factorial(n) * sides[0] * sides[1])
        return value * sp.Add(*series)

    def side(self, functions: tuple[sp.Expr, ...], n: int, label: Label) -> sp.Expr:
        """One field's coefficient in Mehler's series in the covariance."""
        variance = self.covariance(label, label)
        return moment(functions, n, variance) / sp.sqrt(variance) ** n


@lru_cache(maxsize=4096)
def moment(functions: tuple[sp.Expr, ...], n: int, variance: sp.Expr) -> sp.Expr:
    """E[prod functions(x) He_n(x / sqrt(variance))], x ~ N(0, variance).

    A closed form; where there is none at unit variance, a number to 1e-15.
    """
    factors = [*functions, hermite(n, FIELD / sp.sqrt(variance))]
    try:
        value = product_expectation(factors, ["x"] * len(factors), lambda *_: variance)
    except NotClosed:
        if variance != 1:
            raise
        number = Coefficients(sp.Mul(*functions), (FIELD,))[(n,)].value
        return sp.S.Zero if number.is_Float and abs(number) < ROUNDED else number
    return sp.expand(value)


def _is_field(expr: sp.Indexed) -> bool:
    return base_name(expr) in ("h", "h_star", "lambda")

"""`Expectation`: the one node for an average in equations, an integrand under a law.

How an average is computed stands nowhere in it: `dmft.equations.averages.passes` asks for a closed
form, then for tables, and leaves the rest to nodes (`dmft.equations.averages.nodes`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import base_name
from dmft.gaussian.tables.tabled import PlacedAverage
from dmft.model import FIELD

# Layers as thin as the label's noise.
ROUNDED = 1
# Degree from which on steep functions have layers that rules of three dimensions pass over.
STEEP = 3
Named = tuple[tuple[sp.Symbol, sp.Expr], ...]


class AtNodes(NamedTuple):
    """How the fields of a law that is placed follow from nodes, whose coordinates are `axes`.

    `outside` and `inside` are computed once and at each node, in order; `density` multiplies the
    weight of a node.
    """

    axes: tuple[sp.Symbol, ...]
    outside: Named
    inside: Named
    density: sp.Expr


class At(sp.Expr):
    """Value of a factor (an expression in z) at a local field, kept by name: sigma'(h_j)."""

    is_commutative = True
    is_real = True

    def __new__(cls, factor: sp.Expr, field: sp.Expr) -> At:
        """Keep `factor` and `field` as they are."""
        return sp.Expr.__new__(cls, factor, field)

    @property
    def factor(self) -> sp.Expr:
        """The function, an expression in z."""
        return self.args[0]

    @property
    def field(self) -> sp.Expr:
        """Where it is evaluated."""
        return self.args[1]

    @property
    def expr(self) -> sp.Expr:
        """Plain expression in the field."""
        return self.factor.xreplace({FIELD: self.field})

    def _sympystr(self, printer: Any) -> str:
        return f"({printer.doprint(self.expr)})"


class Law(sp.Basic):
    """Law of the fields of the equations themselves: N(0, Omega), or their effective process."""

    # Whether averages are sums over nodes of Omega where nothing else takes them.
    on_nodes = True
    # Whether the integrand is in random fields that are defined beside the equations; its degree
    # in the Gaussian variables (oo where it is no polynomial, -1 where it has kinks), and whether
    # the noise of the label is among these.
    of_sample = False
    degree: sp.Expr = sp.oo
    noisy = False
    halves = False
    students = False
    # Whether the integrand is known to be the same where all Gaussian variables change their sign.
    even = False
    # Samples whose fields are averaged over together.
    samples = 1
    # Degree of what steep functions turn in, `ROUNDED` where the label's noise rounds kinks off.
    layers = 0
    # Samples over whose averages a product is integrated.
    factors = 0
    # Whether the last coordinate of nodes is integrated in closed form, across a sign.
    solved = False

    # Whether an average is a number at numbers for its symbols, on nodes of a law of its own.
    placed = False

    def number(
        self, average: Expectation, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Any]
    ) -> float:
        """That number."""
        raise NotImplementedError

    def at_nodes(self, averages: Sequence[Expectation]) -> AtNodes:
        """Fields at the nodes that these averages share."""
        raise NotImplementedError

    @property
    def bound(self) -> frozenset[sp.Symbol]:
        """Symbols that stand for fields."""
        return frozenset()

    def covariance(self, first: sp.Expr, second: sp.Expr) -> sp.Expr:
        """Covariance of two fields."""
        return x.covariance(first, second)

    def shown(self, integrand: sp.Expr) -> sp.Expr:
        """The integrand with the fields as they are printed."""
        return integrand


FIELDS = Law()


class Covariances(Law):
    """Law of centred fields by triples (field, field, covariance)."""

    on_nodes = False

    def covariance(self, first: sp.Expr, second: sp.Expr) -> sp.Expr:
        """Covariance of two fields, or of linear combinations of them."""
        table = {frozenset(triple[:2]): triple[2] for triple in self.args}
        parts = [[(u, e.coeff(u)) for u in e.atoms(sp.Indexed)] for e in (first, second)]
        return sp.Add(*(c * e * table[frozenset((u, v))] for u, c in parts[0] for v, e in parts[1]))


def _argument(place: int, kind: Callable[..., Any]) -> Any:
    """An attribute that is an argument of a law; 0 or False where it has fewer."""
    return property(lambda law: kind(law.args[place]) if len(law.args) > place else kind())


class OneSample(Law):
    """Law of the random fields of a sample: degree, then 1 or 0 for noise, halves, students.

    In halves, functions are smooth for either sign of the first field of the teacher, which is the
    first coordinate of nodes. Of students alone, nodes have the first p coordinates, and the fields
    of the teacher, which integrands are linear in at most, their means given those of the student;
    in halves, given the sign of the only field of the teacher, too.
    A fifth argument is the number of independent samples of a batch, whose integrands hold
    `OverSamples`; a sixth says that smooth functions may have thin layers: `ROUNDED`, or the degree
    of what they turn in; a seventh that the integrand is even (`dmft.equations.update.terms`);
    an eighth is the number of samples the product of whose averages is integrated over a scale;
    a ninth says that the sign of the error is averaged over the last coordinate in closed form.
    """

    of_sample = True

    degree = _argument(0, lambda degree: degree)
    noisy = _argument(1, bool)
    halves = _argument(2, bool)
    students = _argument(3, bool)
    layers = _argument(5, int)
    even = _argument(6, bool)
    factors = _argument(7, int)
    solved = _argument(8, bool)

    @property
    def samples(self) -> int:  # type: ignore[override]
        """Number of samples."""
        return int(self.args[4]) if len(self.args) > 4 else 1


class OverSamples(sp.Expr):
    """Sum of a function of one sample over `count` samples of a batch, from number `first` on."""

    is_commutative = True
    is_real = True

    def __new__(cls, body: sp.Expr, first: int, count: int) -> OverSamples:
        """Keep the function; samples are counted from 1."""
        return sp.Expr.__new__(cls, body, sp.Integer(first), sp.Integer(count))

    @property
    def body(self) -> sp.Expr:
        """The function of one sample."""
        return self.args[0]

    @property
    def numbers(self) -> range:
        """Numbers of the samples."""
        first, count = int(self.args[1]), int(self.args[2])
        return range(first, first + count)

    def _sympystr(self, printer: Any) -> str:
        first, last = self.numbers[0], self.numbers[-1]
        return f"sum_{first}..{last}({printer.doprint(self.body)})"

    def _latex(self, printer: Any) -> str:
        first, last = self.numbers[0], self.numbers[-1]
        body = rf"\left[{printer._print(self.body)}\right]_{{\mu}}"
        return rf"\sum_{{\mu={first}}}^{{{last}}} {body}"


class GivenTeachers(Law):
    """Law of the teacher fields; the integrand is a weight and a function of the law given them."""


class Expectation(sp.Expr):
    """Average of an integrand under a law, `FIELDS` where none is given.

    Arguments are the parts of the integrand and the law. A product of functions of single fields
    has one part, an `At`, for each; any other integrand is one part: an expression in `At` nodes,
    fields ``h[.]``, ``h_star[.]``, ``lambda[.]``, coefficients and sums over neurons.
    """

    is_commutative = True
    is_real = True
    claimed = 0.0

    def number(self, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Any]) -> float:
        """Number at numbers for the symbols, under a law that is placed."""
        return self.law.number(self, at, nodes)

    def __new__(cls, *parts: sp.Basic) -> Expectation:
        """Keep the parts; a single product of functions of single fields is taken apart."""
        *inside, law = parts if isinstance(parts[-1], Law) else (*parts, FIELDS)
        if len(inside) == 1 and all(isinstance(f, At) for f in sp.Mul.make_args(inside[0])):
            inside = list(sp.Mul.make_args(inside[0]))
        return sp.Expr.__new__(cls, *inside, law)

    @property
    def law(self) -> Law:
        """Law of the fields."""
        law: Law = self.args[-1]
        return law

    @property
    def parts(self) -> tuple[sp.Expr, ...]:
        """Factors of the integrand as they are kept."""
        return tuple(self.args[:-1])

    @property
    def integrand(self) -> sp.Expr:
        """What is averaged."""
        return sp.Mul(*self.parts)

    @property
    def is_product(self) -> bool:
        """Whether the integrand is a product of functions of single fields."""
        return all(isinstance(a, At) for a in self.parts)

    @property
    def factors(self) -> tuple[sp.Expr, ...]:
        """Functions of such a product, expressions in z."""
        return tuple(a.factor for a in self.parts)

    @property
    def fields(self) -> tuple[sp.Indexed, ...]:
        """Fields of such a product, one for each factor."""
        return tuple(a.field for a in self.parts)

    @property
    def free_symbols(self) -> set[sp.Basic]:
        """Symbols, without those that stand for fields."""
        found: set[sp.Basic] = super().free_symbols - self.law.bound
        return found

    def _sympystr(self, printer: Any) -> str:
        return f"E[{' '.join(printer.doprint(a) for a in self.parts)}]"

    def _latex(self, printer: Any) -> str:
        if all(isinstance(a, At | sp.Symbol) for a in self.parts):
            counted = Counter(map(printer._print, self.parts))
            inside = r"\,".join(map(_powered, counted, counted.values()))
            return rf"\left\langle {inside} \right\rangle"
        number, factors = split_coefficient(self.law.shown(self.integrand))
        front = "" if number == 1 else printer._print(number)
        texts = [] if number in (1, -1) else [front]
        sign = "- " if number == -1 else ""
        for factor in factors:
            base, exponent = factor.as_base_exp()
            text = printer._print(base)
            powered = isinstance(base, OverSamples) and exponent != 1
            if base.is_Add and all(y.as_coeff_Mul()[1].is_Symbol for y in base.args):
                text = f"({text})"
            elif base.is_Add or isinstance(base, sp.Sum) or powered:
                text = rf"\Bigl[{text}\Bigr]"
            elif isinstance(base, sp.Indexed) and exponent != 1:
                # It may have a superscript already: a star, or a cluster.
                text = rf"\left({text}\right)" if "^{" in text else f"{{{text}}}"
            texts.append(text if exponent == 1 else f"{text}^{{{printer._print(exponent)}}}")
        inside = sign + r"\,".join(texts)
        high = any(y in inside for y in (r"\frac", r"\sum", r"\Bigl", r"\left"))
        size = ("\\Bigl", "\\Bigr") if high else ("\\left", "\\right")
        return rf"{size[0]}\langle {inside} {size[1]}\rangle"


def _powered(text: str, count: int) -> str:
    """A printed factor to a power; functions that are no letters are repeated."""
    if count > 1 and (text.endswith(")") or re.fullmatch(r"h(_\{\w+\})?", text)):
        return f"{text}^{{{count}}}"
    return r"\,".join([text] * count)


def split_coefficient(integrand: sp.Expr) -> tuple[sp.Expr, list[sp.Expr]]:
    """Coefficient of an integrand (numbers and powers of widths), and its other factors."""
    factors = named_first(integrand)
    widths = {x.p, x.k}
    plain = [f for f in factors if f.free_symbols <= widths and not f.has(At, sp.Sum)]
    rest = [f for f in factors if f not in plain]
    return (sp.Mul(*plain), rest) if rest else (sp.S.One, factors)


def named_first(integrand: sp.Expr) -> list[sp.Expr]:
    """Factors of an integrand, the named functions of one field before the rest."""
    return sorted(sp.Mul.make_args(integrand), key=lambda f: (not isinstance(f, At), str(f)))


def product_average(
    factors: Sequence[sp.Expr], fields: Sequence[sp.Expr], law: Law = FIELDS
) -> sp.Expr:
    """E[prod factor(field)]: factors free of the field in front, equal ones in order of the fields.

    Equal averages under exchanged fields are then equal expressions; the means of fields in the
    factors of clusters do not count.
    """
    constant = sp.Mul(*(f for f in factors if not f.has_free(FIELD)))
    pairs = [
        (f, y) for f, y in zip(factors, fields, strict=True) if constant != 0 and f.has_free(FIELD)
    ]
    if not pairs:
        return constant
    shapes = {f: f.xreplace(dict.fromkeys(f.atoms(sp.Indexed), sp.S.One)) for f in factors}
    order = list(dict.fromkeys(shapes.values()))
    pairs.sort(key=lambda pair: (order.index(shapes[pair[0]]), sp.default_sort_key(pair[1])))
    return constant * Expectation(*(At(f, y) for f, y in pairs), law)


def free_indices(expr: sp.Basic) -> tuple[sp.Symbol, ...]:
    """Index symbols that an expression depends on, those bound by its sums left out, by name."""
    if isinstance(expr, sp.Sum):
        bound = {limit[0] for limit in expr.limits}
        return tuple(s for s in free_indices(expr.function) if s not in bound)
    if isinstance(expr, sp.Symbol):
        return (expr,) if expr in x.AXES else ()
    if isinstance(expr, sp.Indexed):
        found = {s for i in expr.indices for s in free_indices(i)}
    else:
        found = {s for a in expr.args for s in free_indices(a)}
    return tuple(sorted(found, key=str))


def placed_on_nodes(expr: sp.Expr) -> set[Expectation]:
    """Averages in an expression that are sums over nodes of a law of their own."""
    return {a for a in expr.atoms(Expectation) if a.law.placed}


def is_placed(expr: sp.Expr) -> bool:
    """Whether an average is a number where it stands: those of sequences, by table or on nodes."""
    return isinstance(expr, PlacedAverage) or (isinstance(expr, Expectation) and expr.law.placed)


# Written out ---------------------------------------------------------------------------------


def expanded(
    expr: sp.Expr,
    at: Mapping[Any, Any],
    known: Mapping[sp.Symbol, Any],
    entry: Callable[[str, tuple[sp.Expr, ...]], sp.Expr],
    others: Mapping[type, Callable[[Any, Mapping[Any, Any]], sp.Expr]] = MappingProxyType({}),
) -> sp.Expr:
    """An expression at numbers for its neurons, sums over them written out.

    `known` holds widths and parameters; `entry` gives the entries of arrays, and `others` replaces
    integrals and averages.
    """

    def at_indices(y: sp.Expr, here: Mapping[Any, Any]) -> sp.Expr:
        return expanded(y, here, known, entry, others)

    if type(expr) in others:
        return others[type(expr)](expr, at)
    if isinstance(expr, sp.Sum):
        every = over_neurons(expr.limits, at, known)
        return sp.Add(*(at_indices(expr.function, y) for y in every))
    if isinstance(expr, sp.Indexed):
        return entry(base_name(expr), tuple(at_indices(i, at) for i in expr.indices))
    if isinstance(expr, At):
        return At(at_indices(expr.factor, at), at_indices(expr.field, at)).expr
    if not expr.args:
        return sp.sympify(at.get(expr, known.get(expr, expr)), strict=True)
    return expr.func(*(at_indices(y, at) for y in expr.args))


def over_neurons(
    limits: Iterable[Sequence[Any]], at: Mapping[Any, Any], widths: Mapping[sp.Symbol, Any]
) -> Iterator[dict[Any, Any]]:
    """All values of the indices of a sum."""
    ranges = (range(1, int(high.xreplace(dict(widths))) + 1) for _, _, high in limits)
    for values in product(*ranges):
        yield {**at, **dict(zip((y[0] for y in limits), values, strict=True))}

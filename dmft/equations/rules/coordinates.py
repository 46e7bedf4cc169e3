"""Normal coordinates of averages on nodes, and what is integrated given these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import sympy as sp

from dmft.equations.averages.expectation import Expectation
from dmft.equations.rules.forms import (
    ONE,
    ZERO,
    Opaque,
    moment,
    place_of_uniform,
    quantile_of_normal,
    variables,
)
from dmft.equations.rules.nodes import StepNodes
from dmft.equations.symbols import LEAST_VARIANCE
from dmft.laws import Laplace, Normal
from dmft.model import FIELD
from dmft.rules import Random

Given = tuple[tuple[sp.Symbol, sp.Expr], ...]
# Variance of a field given others at least, as a share of its variance: parallel fields.
SMALLEST_SHARE = sp.Float(1e-18)


class Gaussians(Protocol):
    """Means and covariances of affine expressions in Gaussian variables."""

    def covariance(self, first: sp.Expr, second: sp.Expr, given: Given) -> sp.Expr:
        """Covariance of two of them."""

    def mean_of(self, expr: sp.Expr, given: Given) -> sp.Expr:
        """Mean of one."""

    def linear(self, expr: sp.Expr, given: Given) -> tuple[dict[object, sp.Expr], sp.Expr]:
        """Coefficients of independent noises, and the mean."""

    def named(self, value: sp.Expr, stem: str = "C") -> sp.Expr:
        """A symbol that is defined as a value."""


class StepBuilder:
    """Normal coordinates, in order, of the fields that an average on nodes is over."""

    def __init__(self, moments: Gaussians, given: Given) -> None:
        self.moments, self.given = moments, given
        self.forms: list[sp.Expr] = []  # affine forms of the Gaussian variables
        self.rows: list[list[sp.Expr]] = []  # their rows of the Cholesky factor
        self.normals: list[sp.Symbol] = []  # their coordinates
        self.values: dict[sp.Expr, sp.Expr] = {}  # random numbers that are not normal
        self.coordinates: list[tuple[sp.Symbol, sp.Expr | None]] = []

    def add(self, form: sp.Expr, kink: sp.Expr | None) -> None:
        """Append a form; random numbers that are not normal have a coordinate of their own."""
        m = self.moments
        z = sp.Symbol(f"n_{len(self.coordinates) + 1}", real=True)
        if isinstance(form, Random) and not isinstance(form.law, Normal):
            own = ZERO if isinstance(form.law, Laplace) else place_of_uniform(form, kink)
            self.coordinates.append((z, own))
            self.values[form] = quantile_of_normal(form, z)
            return
        if self.is_known(form):
            return
        row = self.row_of(form)
        variance = m.covariance(form, form, self.given)
        own = variance - sp.Add(*(a**2 for a in row))
        least = SMALLEST_SHARE * variance + LEAST_VARIANCE
        row.append(m.named(sp.sqrt(sp.Max(own, least)), "L"))
        place = None
        if kink is not None:
            before = sp.Add(*(a * n for a, n in zip(row, self.normals, strict=False)))
            fields = variables(kink) - set(self.values)
            kink = kink.xreplace({**self.values, **{f: self.value_of(f) for f in fields}})
            place = (kink - m.mean_of(form, self.given) - before) / row[-1]
        self.forms.append(form)
        self.rows.append(row)
        self.normals.append(z)
        self.coordinates.append((z, place))

    def row_of(self, form: sp.Expr) -> list[sp.Expr]:
        """Coefficients of the coordinates in an affine form, without what is beyond them."""
        m = self.moments
        if form in self.forms:
            own = self.rows[self.forms.index(form)]
            return [*own, *[ZERO] * (len(self.forms) - len(own))]
        row: list[sp.Expr] = []
        for other, own in zip(self.forms, self.rows, strict=True):
            value = m.covariance(other, form, self.given)
            rest = value - sp.Add(*(a * b for a, b in zip(own, row, strict=False)))
            row.append(m.named(rest / own[-1], "L"))
        return row

    def is_known(self, form: sp.Expr) -> bool:
        """Whether a form is a combination of those before it."""
        vectors = [self.moments.linear(y, self.given)[0] for y in (*self.forms, form)]
        keys = list(dict.fromkeys(k for one in vectors for k in one))
        matrix = sp.Matrix([[one.get(k, ZERO) for k in keys] for one in vectors])
        return bool(matrix.rank() == len(self.forms))

    def value_of(self, form: sp.Expr) -> sp.Expr:
        """Mean of a form given the coordinates."""
        row = self.row_of(form)
        mean = self.moments.mean_of(form, self.given)
        return mean + sp.Add(*(a * n for a, n in zip(row, self.normals, strict=True)))

    def average(
        self, functions: Sequence[tuple[sp.Expr, sp.Expr]], joint: sp.Expr, powers: sp.Expr
    ) -> sp.Expr:
        """The average of functions of single forms, of a joint one, and of a polynomial."""
        whole = [f.xreplace({FIELD: self.value_of(form), **self.values}) for f, form in functions]
        known = {
            v: self.values[v] if v in self.values else self.value_of(v) for v in variables(joint)
        }
        joint = self._opened(joint.xreplace({f: f.whole for f in joint.atoms(Opaque)}))
        whole.append(joint.xreplace(known))
        rests: dict[sp.Symbol, sp.Symbol] = {}
        swap = dict(self.values)
        for v in sorted(variables(powers), key=str):
            if v in swap or (isinstance(v, Random) and not isinstance(v.law, Normal)):
                continue
            swap[v] = self.value_of(v)
            if not self.is_known(v):
                rests[v] = sp.Dummy(f"rest_{v}", real=True)
                swap[v] += rests[v]
        free = [v for v in variables(powers) if v not in swap]
        inner = self._without(powers.xreplace(swap), [*rests.values(), *free], rests)
        return over_nodes(sp.Mul(*whole, inner), self.coordinates)

    def _opened(self, joint: sp.Expr) -> sp.Expr:
        """A function of averages on nodes with their coordinates beside the others."""
        powers = {p for p in joint.atoms(sp.Pow) if p.base.has(Expectation)}
        each = {p: sp.Mul(*(self._opened(p.base) for _ in range(int(p.exp)))) for p in powers}
        joint = joint.xreplace(each)
        for average in sorted(joint.atoms(Expectation), key=str):
            count = len(self.coordinates) + 1
            law, swap = average.law, dict[sp.Expr, sp.Expr]()
            for n, (z, place) in enumerate(zip(law.coordinates, law.kinks, strict=True), count):
                swap[z] = sp.Symbol(f"n_{n}", real=True)
                own = None if place is sp.nan else place.xreplace(swap).xreplace(self.values)
                self.coordinates.append((swap[z], own))
            joint = joint.xreplace({average: average.integrand.xreplace(swap)})
        return joint

    def _without(
        self, expr: sp.Expr, inner: Sequence[sp.Symbol], rests: Mapping[sp.Symbol, sp.Symbol]
    ) -> sp.Expr:
        """A polynomial averaged over what is beyond the coordinates."""
        if not inner:
            return expr
        back = {rest: v for v, rest in rests.items()}
        total = ZERO
        for powers, c in sp.Poly(expr, *inner).terms():
            part, normal = c, list[sp.Symbol]()
            for v, n in zip(inner, powers, strict=True):
                if v in back:
                    normal += [back[v]] * n
                else:
                    part *= moment(v, n)
            total += part * self._wick(normal)
        return total

    def _wick(self, fields: Sequence[sp.Symbol]) -> sp.Expr:
        if not fields:
            return ONE
        first, *rest = fields
        total = ZERO
        for n, other in enumerate(rest):
            total += self._residual(first, other) * self._wick([*rest[:n], *rest[n + 1 :]])
        return total

    def _residual(self, a: sp.Symbol, b: sp.Symbol) -> sp.Expr:
        whole = self.moments.covariance(a, b, self.given)
        pairs = zip(self.row_of(a), self.row_of(b), strict=True)
        return self.moments.named(whole - sp.Add(*(x * y for x, y in pairs)))


def over_nodes(
    integrand: sp.Expr, coordinates: Sequence[tuple[sp.Symbol, sp.Expr | None]]
) -> sp.Expr:
    """The average over nodes, with factors that do not vary in front."""
    names = [z for z, _ in coordinates]
    constant, rest = list[sp.Expr](), list[sp.Expr]()
    for factor in sp.Mul.make_args(integrand):
        (rest if factor.has(*names) else constant).append(factor)
    places = sp.Tuple(*(sp.nan if kink is None else kink for _, kink in coordinates))
    return sp.Mul(*constant) * Expectation(sp.Mul(*rest), StepNodes(sp.Tuple(*names), places))

"""Moments of the increments of polynomial models at numeric widths, as polynomials.

The definitions of `dmft.equations.noise.increments` with their indices replaced by numbers; all
averages are then those of polynomials in jointly Gaussian fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition, define
from dmft.equations.noise.increments import Alignment, Increments, bilinear
from dmft.equations.update.optimiser import block_definitions
from dmft.equations.views.explicit import Unroller
from dmft.model import SGD, Model

Entry = tuple[str, tuple[int, ...]]


class PolynomialMoments(Unroller):
    """Unrolls averages of polynomials in the update and the increments of a step."""

    def __init__(
        self, increments: Increments, widths: Mapping[str, int], constants: Mapping[str, Any]
    ) -> None:
        super().__init__(widths, constants)
        self.increments = increments
        for definition in block_definitions():
            self.keep(definition)
        # The update and the increments stay symbols, whose products are averaged once.
        self.bodies: dict[sp.Expr, sp.Expr] = {}
        self.means: dict[sp.Expr, sp.Expr] = {}
        for definition in (*increments.sample, *increments.free):
            for place, body in self.define(definition).items():
                symbol = sp.Dummy(definition.name, real=True)
                self.entries[definition.name, place] = symbol
                self.bodies[symbol] = sp.expand(body.xreplace(self.bodies))
        for definition in increments.constrained:
            self.keep(definition)

    def keep(self, definition: Definition) -> None:
        """Unroll a definition for those that read it."""
        values = self.define(definition)
        self.entries |= {(definition.name, place): value for place, value in values.items()}

    def entry(self, base: str, indices: tuple[int, ...]) -> sp.Expr:
        """Value of an entry; normalised rows have the length 1."""
        if base == "Q" and indices[0] == indices[1] and self.increments.on_sphere:
            return sp.Integer(1)
        return super().entry(base, indices)

    def state(self, base: str, indices: tuple[int, ...]) -> sp.Expr:
        """Symbol of an entry of the state, lengths included."""
        return super().entry(base, indices)

    @property
    def others(self) -> dict[type, Callable[..., sp.Expr]]:
        """Values of averages, and of inner products of mean updates."""
        return {Expectation: self.average, Alignment: self.alignment}

    def average(self, expr: Expectation, at: Mapping[sp.Symbol, int]) -> sp.Expr:
        """Average of a product of increments, or of one times the squared length."""
        inside = self(expr.integrand, at)
        if not inside.has(x.dilation):
            return self.mean(inside)
        body = self.body(inside / x.dilation)  # by Stein's identity E[lambda . grad F]
        return self.expectation(sp.Add(*(y * sp.diff(body, y) for y in self.fields)))

    def body(self, expr: sp.Expr) -> sp.Expr:
        """Polynomial in the fields of a polynomial in increments."""
        return sp.expand(expr.xreplace(self.bodies))

    def mean(self, expr: sp.Expr) -> sp.Expr:
        """Expectation of a product of increments, computed once."""
        if expr not in self.means:
            self.means[expr] = self.expectation(self.body(expr))
        return self.means[expr]

    def alignment(self, expr: Alignment, at: Mapping[sp.Symbol, int]) -> sp.Expr:
        """E[F lambda^T] Omega^+ E[lambda G] by Stein's identity, no inverse needed."""
        one, two = (self.body(self(a, at)) for a in expr.args)
        slopes = [[self.expectation(sp.diff(f, y)) for y in self.fields] for f in (one, two)]
        Omega = self.covariance_of_fields[:-1, :-1]
        return sp.expand((sp.Matrix([slopes[0]]) * Omega * sp.Matrix(slopes[1]))[0])


@dataclass(frozen=True)
class ClosedMoments:
    """Covariance of the increments and rates at order 1/d, written out, at widths p and k."""

    unrolled: PolynomialMoments
    p: int
    k: int

    @cached_property
    def entries(self) -> list[Entry]:
        """Different entries of the state, counted from 1: Q_jl with j <= l, M_jr, readouts."""
        one, two = range(1, self.p + 1), range(1, self.k + 1)
        students = [("Q", (j, n)) for j in one for n in one if j <= n]
        trained = one if self.unrolled.increments.algorithm.trains_readout else ()
        others = [("M", (j, r)) for j in one for r in two]
        return [*students, *others, *(("readout", (j,)) for j in trained)]

    def moves(self, entry: Entry) -> bool:
        """Whether an entry has noise: not a length that the constraint holds."""
        return bool(self.increment(entry) != 0)

    def increment(self, entry: Entry) -> sp.Expr:
        """Increment of an entry, linear in the free ones."""
        name, place = entry
        base = {"Q": "step_u", "M": "step_v", "readout": "step_w"}[name]
        return sp.expand(self.unrolled.entries[base, place])

    def covariance(self, one: Entry, two: Entry) -> sp.Expr:
        """Entry of Sigma."""
        mean = self.unrolled.mean
        product = sp.expand(self.increment(one) * self.increment(two))
        if product == 0:
            return sp.S.Zero
        variables = product.free_symbols & set(self.unrolled.bodies)
        return sp.expand(bilinear(product, variables, lambda a, b: mean(a * b) - mean(a) * mean(b)))

    @cached_property
    def rates(self) -> dict[Entry, dict[str, sp.Expr]]:
        """Rates at order 1/d of every entry, by named term."""
        for definition in self.unrolled.increments.excess:
            self.unrolled.keep(definition)
        result: dict[Entry, dict[str, sp.Expr]] = {}
        for definition in self.unrolled.increments.rates:
            for name, expr in definition.terms:
                part = define(definition.target, {name: expr}, "rate")
                for place, value in self.unrolled.define(part).items():
                    result.setdefault((definition.name, place), {})[name] = sp.expand(value)
        return {e: result.get(e, {}) for e in self.entries}


def closed_moments(
    model: Model, algorithm: SGD, widths: Mapping[str, int], constants: Mapping[str, object]
) -> ClosedMoments:
    """Moments at these widths; `constants` may fix P and the readouts, as for `unroll`."""
    unrolled = PolynomialMoments(Increments(model, algorithm), widths, constants)
    return ClosedMoments(unrolled, widths["p"], widths["k"])

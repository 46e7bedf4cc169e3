r"""Increments at nodes, as ordinary definitions that NumPy evaluates and the generator compiles.

The label noise is integrated exactly: every increment is a polynomial in xi, and its coefficients
along the orthonormal He_n(xi)/sqrt(n!) are its parts. With nodes z_q and weights w_q of the fields,

    E[X Y] = sum_q w_q sum_n X_n(z_q) Y_n(z_q),    E[X] = sum_q w_q X_0(z_q).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.average import Average, free_indices
from dmft.equations.definitions import Definition, base_name, define, live, used_bases
from dmft.equations.increments import Alignment, Dilation, Increments
from dmft.equations.nodes import Discretiser, over_nodes
from dmft.equations.update.overlaps import block_definitions

# Degree of u in the label noise, plus one.
PARTS = 3


def part_name(base: str, number: int) -> str:
    """Name of the array that holds part `number` of a random variable at the nodes."""
    return f"{base}_part_{number}"


def parts(expr: sp.Expr) -> list[sp.Expr]:
    """Coefficients of He_n(xi)/sqrt(n!), n = 0, 1, 2, of a polynomial in the label noise."""
    powers = [sp.diff(expr, x.xi, n).xreplace({x.xi: sp.S.Zero}) for n in range(PARTS)]
    if powers[2] == 0:
        return powers
    return [sp.expand(powers[0] + powers[2] / 2), powers[1], sp.expand(powers[2] / sp.sqrt(2))]


class IncrementsAtNodes:
    """Definitions of the increments over the nodes of the fields."""

    def __init__(self, increments: Increments) -> None:
        self.increments = increments
        self.work = Discretiser([Average(increments.update.expr)])
        self.vanishing: set[str] = set()
        for definition in (increments.update, *increments.free, *increments.constrained):
            self._define(definition)

    def _define(self, definition: Definition) -> None:
        """Add the parts of a random variable."""
        at_nodes = definition.expr.xreplace(
            {e: self._whole(e) for e in definition.expr.atoms(sp.Indexed) if self._is_random(e)}
        )
        for number, part in enumerate(parts(at_nodes)):
            name = part_name(definition.name, number)
            if part == 0:
                self.vanishing.add(name)
            target = sp.IndexedBase(name)[(*definition.target.indices, x.node)]
            terms = define(target, {"part": self.work.at_nodes(part)}, "intermediate").terms
            factor = x.Delta if number > 0 else None
            self.work.definitions.append(Definition(target, terms, "intermediate", factor))

    def _is_random(self, entry: sp.Indexed) -> bool:
        return entry.base in (x.psi, *self.increments.free_bases)

    def _part(self, entry: sp.Indexed, number: int) -> sp.Expr:
        """Part of a random variable at a node."""
        name = part_name(base_name(entry), number)
        if name in self.vanishing:
            return sp.S.Zero
        return sp.IndexedBase(name)[(*entry.indices, x.node)]

    def _whole(self, entry: sp.Indexed) -> sp.Expr:
        """Random variable at a node, as a polynomial in the label noise."""
        hermite = (sp.S.One, x.xi, (x.xi**2 - 1) / sp.sqrt(2))
        return sp.Add(*(h * self._part(entry, n) for n, h in enumerate(hermite)))

    # Averages --------------------------------------------------------------------------------

    def product(self, expr: sp.Expr) -> sp.Expr:
        """Mean over the label noise of one random variable, or of a product of two."""
        factors: list[sp.Indexed] = []
        for factor in sp.Mul.make_args(expr):
            base, power = factor.as_base_exp()
            factors += [base] * int(power)
        if len(factors) == 1:
            return self._part(factors[0], 0)
        one, two = factors
        return sp.Add(*(self._part(one, n) * self._part(two, n) for n in range(PARTS)))

    def average(self, integrand: sp.Expr) -> sp.Expr:
        """Entry of the array of an average over the nodes."""
        free = tuple(s for s in free_indices(integrand) if s != x.node)
        own, left = [], {x.p: [x.j, x.l], x.k: [x.r], x.p + x.k: [x.n]}
        for index in free:
            own.append(left[x.AXES[index]].pop(0))
        total = over_nodes(sp.Mul(x.weight[x.node], integrand))
        return self.work.array("average", total, free, tuple(own), last=())

    def value(self, expr: sp.Expr) -> sp.Expr:
        """Sums over nodes for every average of an expression."""
        found = {a: self.average(self.product(a.integrand)) for a in _ordered(expr, Average)}
        for a in _ordered(expr, Dilation):
            # Coordinates that Omega does not have are independent of F: their part is zero.
            squares = sp.Sum(x.normal[x.n, x.node] ** 2 - 1, (x.n, 1, x.p + x.k))
            length = self.work.array("dilation", squares, (), ())
            found[a] = self.average(length * self.product(a.function))
        for a in _ordered(expr, Alignment):
            pulls = (self.average(self.product(f) * x.normal[x.n, x.node]) for f in a.args)
            found[a] = sp.Sum(sp.Mul(*pulls), (x.n, 1, x.p + x.k))
        return expr.xreplace(found)

    # Systems ---------------------------------------------------------------------------------

    @cached_property
    def arrays(self) -> tuple[Definition, ...]:
        """Definitions whose last ones are the parts of the increments of the overlaps."""
        wanted = {part_name(base, n) for base in ("step_u", "step_v") for n in range(PARTS)}
        own = [
            replace(d, role="observable") if d.name in wanted else d for d in self.work.definitions
        ]
        return self._system(own)

    def rates(self, terms: Iterable[str]) -> tuple[Definition, ...]:
        """Definitions of the rates at order 1/d that keep the named terms."""
        kept = set(terms)
        excess = self.increments.excess
        value = {name: self.value(e) for name, e in excess.terms}
        rates = []
        for d in self.increments.rates:
            named = {name: self.value(e) for name, e in d.terms if name in kept}
            rates.append(define(d.target, named, "rate"))
        return self._system(
            [*self.work.definitions, define(excess.target, value, "intermediate"), *rates]
        )

    def _system(self, own: list[Definition]) -> tuple[Definition, ...]:
        """Blocks and law in front; what nothing reads is left out."""
        whole = live([*block_definitions(), *self.work.law(), *own])
        return tuple(d for d in whole if d.name != "c" or _reads_coefficients(whole))


def _reads_coefficients(definitions: Iterable[Definition]) -> bool:
    return any("c" in used_bases(d.expr) for d in definitions)


def _ordered(expr: sp.Expr, kind: type[sp.Expr]) -> list[Any]:
    """Parts of an expression of one kind, in the same order in every process."""
    return sorted(expr.atoms(kind), key=sp.default_sort_key)

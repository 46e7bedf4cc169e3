r"""Increments at nodes, as ordinary definitions that NumPy evaluates and the generator compiles.

With nodes z_q and weights w_q of the fields,

    E[X Y] = sum_q w_q sum_n X_n(z_q) Y_n(z_q),    E[X] = sum_q w_q X_0(z_q).

An update that is linear in the label's noise xi has that integrated exactly: every increment is a
polynomial in xi, and its coefficients along the orthonormal He_n(xi)/sqrt(n!) are its parts. For
other updates xi is one more variable of the nodes, and each increment is its only part.

Of inputs from clusters an increment is a function of the cluster c as well, which is drawn with the
probabilities w_c. Its parts are those along functions e(c) that are orthonormal under w, the first
of which is one: sum_c w_c e(c) X_n(z_q; c). Only the very first part of all has a mean, as without.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation, free_indices
from dmft.equations.averages.nodes import Discretiser, over_nodes
from dmft.equations.averages.passes import for_students, lower
from dmft.equations.definitions import Definition, base_name, define, live, used_bases
from dmft.equations.noise.increments import Alignment, Increments, Lengths
from dmft.equations.update.law import mean_definitions
from dmft.equations.update.optimiser import block_definitions
from dmft.equations.update.overlaps import Moments

# Degree of u in label noise that psi is linear in, plus one.
PARTS = 3
# Ends of the names of what belongs to samples that are shorter and longer than most.
SIDES = {"short": -1, "long": 1}


def part_name(base: str, number: int) -> str:
    """Name of the array that holds part `number` of a random variable at the nodes."""
    return f"{base}_part_{number}"


def parts_of(expr: sp.Expr) -> list[sp.Expr]:
    """Coefficients of He_n(xi)/sqrt(n!), n = 0, 1, 2, of a polynomial in the label noise."""
    powers = [sp.diff(expr, x.xi, n).xreplace({x.xi: sp.S.Zero}) for n in range(PARTS)]
    if powers[2] == 0:
        return powers
    return [sp.expand(powers[0] + powers[2] / 2), powers[1], sp.expand(powers[2] / sp.sqrt(2))]


def orthonormal(weights: Sequence[sp.Expr]) -> list[list[sp.Expr]]:
    """Entries w_c e(c) of functions e of a cluster that are orthonormal under w, e = 1 first."""
    root, size = [sp.sqrt(w) for w in weights], range(len(weights))
    # The reflection that exchanges the first axis and the unit vector of the roots.
    normal = [sp.Integer(n == 0) - r for n, r in enumerate(root)]
    square = sp.Add(*(v**2 for v in normal))

    def reflection(a: int, b: int) -> sp.Expr:
        twice = 2 * normal[a] * normal[b] / square if len(root) > 1 else sp.S.Zero
        return sp.Integer(a == b) - twice

    return [[sp.radsimp(sp.expand(reflection(a, b) * root[b])) for b in size] for a in size]


class IncrementsAtNodes:
    """Definitions of the increments over the nodes of the fields; each has so many `parts`."""

    def __init__(self, increments: Increments) -> None:
        self.increments = increments
        self.powers = PARTS if increments.noise_apart else 1
        self.cases = increments.moments.cases
        self.parts = self.powers * len(self.cases)
        each = [increments.of_case(case) for case in self.cases]
        self.work = Discretiser([Expectation(d.expr) for sample, _ in each for d in sample])
        self.vanishing: set[str] = set()
        self.sides: dict[str, dict[sp.Expr, sp.Expr]] = {}
        # Bases whose entries have parts.
        self.random = {x.psi, *increments.free_bases}
        if increments.in_clusters:
            numbers = (case.cluster.number for case in self.cases)
            self.random = {x.base_in(b, n) for n in numbers for b in self.random}
        for sample, steps in each:
            for definition in sample:
                if increments.noise_apart:
                    self._define(definition)
                else:
                    self.work.sample(definition)
            for definition in steps:
                self._define(definition)
        if increments.in_clusters:
            self._mix()

    @property
    def names(self) -> list[list[str]]:
        """Names of the arrays of the increments: for each part the blocks of the state."""
        bases = [str(base.label) for base in self.increments.bases]
        return [[part_name(base, n) for base in bases] for n in range(self.parts)]

    def _mix(self) -> None:
        """Parts along functions of the cluster, of the parts in each; those without noise first."""
        count = len(self.cases)
        along = orthonormal([case.cluster.weight for case in self.cases])
        indices = {x.step_u: (x.j, x.l), x.step_v: (x.j, x.r), x.step_w: (x.j,)}
        for base in self.increments.bases:
            for power, row in itertools.product(range(self.powers), range(count)):
                entries = [
                    along[row][c] * self._part(x.base_in(base, c + 1)[indices[base]], power)
                    for c in range(count)
                ]
                target = sp.IndexedBase(part_name(str(base.label), power * count + row))
                terms = {f"cluster_{c}": e for c, e in enumerate(entries, start=1)}
                found = define(target[(*indices[base], x.node)], terms, "intermediate")
                factor = x.Delta if power > 0 else None
                self.work.definitions.append(replace(found, factor=factor))

    def _define(self, definition: Definition) -> None:
        """Add the parts of a random variable."""
        at_nodes = definition.expr.xreplace(
            {e: self._whole(e) for e in definition.expr.atoms(sp.Indexed) if self._is_random(e)}
        )
        found = parts_of(at_nodes) if self.increments.noise_apart else [at_nodes]
        for number, part in enumerate(found):
            name = part_name(definition.name, number)
            if part == 0:
                self.vanishing.add(name)
            target = sp.IndexedBase(name)[(*definition.target.indices, x.node)]
            terms = define(target, {"part": self.work.at_nodes(part)}, "intermediate").terms
            factor = x.Delta if number > 0 else None
            self.work.definitions.append(Definition(target, terms, "intermediate", factor))

    def _is_random(self, entry: sp.Expr) -> bool:
        return isinstance(entry, sp.Indexed) and entry.base in self.random

    def _part(self, entry: sp.Indexed, number: int) -> sp.Expr:
        """Part of a random variable at a node."""
        if (base_name(entry), 1) in self.work.fields:
            return self.work.at_nodes(entry) if number == 0 else sp.S.Zero
        name = part_name(base_name(entry), number)
        if name in self.vanishing or number >= self.powers:
            return sp.S.Zero
        return sp.IndexedBase(name)[(*entry.indices, x.node)]

    def _whole(self, entry: sp.Indexed) -> sp.Expr:
        """Random variable at a node, as a polynomial in the label noise."""
        hermite = (sp.S.One, x.xi, (x.xi**2 - 1) / sp.sqrt(2))
        return sp.Add(*(h * self._part(entry, n) for n, h in enumerate(hermite)))

    # Averages --------------------------------------------------------------------------------

    def product(self, expr: sp.Expr) -> sp.Expr:
        """Mean over the label noise of one random variable, or of a product of two, at a node.

        What else is a factor is a function of the fields.
        """
        factors: list[sp.Indexed] = []
        rest = sp.S.One
        for factor in sp.Mul.make_args(expr):
            base, power = factor.as_base_exp()
            if self._is_random(base):
                factors += [base] * int(power)
            else:
                rest *= self.dilation if factor == x.dilation else self.work.at_nodes(factor)
        if len(factors) == 1:
            return rest * self._part(factors[0], 0)
        one, two = factors
        return rest * sp.Add(*(self._part(one, n) * self._part(two, n) for n in range(self.powers)))

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
        found: dict[sp.Expr, sp.Expr] = {}
        for a in _ordered(expr, Expectation):
            closed = self.dilated if a.integrand.has(x.dilation) else None
            found[a] = closed or self.average(self.product(a.integrand))
        for a in _ordered(expr, Alignment):
            pulls = (self.average(self.product(f) * x.normal[x.n, x.node]) for f in a.args)
            found[a] = sp.Sum(sp.Mul(*pulls), (x.n, 1, x.p + x.k))
        for a in _ordered(expr, Lengths):
            found[a] = self.average(self.of_lengths(a.function))
        return expr.xreplace(found)

    @cached_property
    def dilated(self) -> sp.Expr | None:
        """E[psi_j psi_l (|z|^2 - p - k)] as 2 d/ds E[psi_j psi_l] at s = 1, s Omega for Omega.

        None where the second average is no sum of closed forms of error functions.
        """
        moments, s = Moments(self.increments.model, self.increments.algorithm), sp.Dummy("s")
        square, found = moments.sampled + moments.label_noise, dict[sp.Expr, sp.Expr]()
        for q in square.atoms(Expectation):
            value = lower(q).value if q.is_product and q.has(sp.exp) else None
            if value is None or not {type(f) for f in value.atoms(sp.Function)} <= {sp.asin}:
                return None
            scaled = {e: s * e for e in value.atoms(sp.Indexed) if e.base == x.Omega}
            found[q] = 2 * sp.diff(value.xreplace(scaled), s).xreplace({s: sp.S.One})
        return square.xreplace(found)

    @property
    def dilation(self) -> sp.Expr:
        """Squared length of the input within the span of the weights less its mean, at a node."""
        # Coordinates that Omega does not have are independent of all fields: their part is zero.
        squares = sp.Sum(x.normal[x.n, x.node] ** 2 - 1, (x.n, 1, x.p + x.k))
        return self.work.array("dilation", squares, (), ())

    def of_lengths(self, function: sp.Expr) -> sp.Expr:
        """Mean over the length of a sample, less the value at the length 1, at a node."""
        total = -self.work.at_nodes(function.xreplace({x.stretch: sp.S.One}))
        for side in SIDES:
            total += self.work.at_nodes(function.xreplace(self._of_side(side))) / 2
        return total

    def _of_side(self, side: str) -> dict[sp.Expr, sp.Expr]:
        """New names of what depends on the length of a sample; the first call defines it."""
        if side in self.sides:
            return self.sides[side]
        sigma = sp.sqrt(2 / x.d)
        base = sp.IndexedBase(f"stretch_{side}_at")
        length = {"length": 1 + self.dilation / x.d + SIDES[side] * sigma}
        self.work.definitions.append(define(base[x.node], length, "intermediate"))
        names = {x.stretch: sp.Symbol(f"stretch_{side}", positive=True)}
        self.work.fields[f"stretch_{side}", 1] = base
        for d in self.increments.stretched:
            old, new = getattr(d.target, "base", d.target), f"{d.name}_{side}"
            indexed = isinstance(old, sp.IndexedBase)
            names[old] = sp.IndexedBase(new) if indexed else sp.Symbol(new, real=True)
            terms = {name: e.xreplace(names) for name, e in d.terms}
            self.work.sample(define(d.target.xreplace(names), terms, "sample"))
        self.sides[side] = names
        return names

    # Systems ---------------------------------------------------------------------------------

    @cached_property
    def arrays(self) -> tuple[Definition, ...]:
        """Definitions whose last ones are the parts of the increments of the state."""
        wanted = {name for names in self.names for name in names}
        own = [
            replace(d, role="observable") if d.name in wanted else d for d in self.work.definitions
        ]
        return self._system(own)

    def rates(self, terms: Iterable[str]) -> tuple[Definition, ...]:
        """Definitions of the rates at order 1/d that keep the named terms."""
        kept = set(terms)
        excess = [self._valued(d) for d in self.increments.excess] if kept else []
        rates = [self._valued(d, kept) for d in self.increments.rates]
        return self._system([*self.work.definitions, *excess, *rates])

    def _valued(self, definition: Definition, kept: set[str] | None = None) -> Definition:
        """A definition with its averages as sums over nodes; of its terms the kept ones."""
        terms = {n: self.value(e) for n, e in definition.terms if kept is None or n in kept}
        return define(definition.target, terms, definition.role)

    def _system(self, own: list[Definition]) -> tuple[Definition, ...]:
        """Blocks and law in front; what nothing reads is left out."""
        means = mean_definitions(self.increments.model)
        whole = live([*block_definitions(), *means, *self.work.law(), *own])
        return for_students(d for d in whole if d.name != "c" or _reads_coefficients(whole))


def _reads_coefficients(definitions: Iterable[Definition]) -> bool:
    return any("c" in used_bases(d.expr) for d in definitions)


def _ordered(expr: sp.Expr, kind: type[sp.Expr]) -> list[Any]:
    """Parts of an expression of one kind, in the same order in every process."""
    return sorted(expr.atoms(kind), key=sp.default_sort_key)

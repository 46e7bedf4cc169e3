"""Averages on nodes: what no other pass takes becomes ordinary definitions over a node axis.

With standard normal nodes z_q and weights w_q of `dmft.gaussian.nodes.rules`,

    E[F(lambda)] = sum_q w_q F(root z_q),    root root^T = Omega.

The root has the teacher fields first, so that h* at the nodes depends on P alone. Each activation
is evaluated once for each field and node, each sum over neurons once for each node. Where the
student fields can be integrated out (`dmft.equations.averages.conditioned`), h* alone is on nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.conditioned import (
    conditional_definitions,
    conditioned,
    kinked_students,
    over_teachers,
    plain_weight,
    signed_definitions,
    smooth,
    steepness,
    sums_inside,
    without_jump,
)
from dmft.equations.averages.expectation import (
    ROUNDED,
    STEEP,
    At,
    Expectation,
    OverSamples,
    free_indices,
)
from dmft.equations.averages.neighbour import (
    LEAST,
    mixtures_of,
    neighbours,
    of_neighbour,
    takes_terms,
)
from dmft.equations.averages.passes import averages, for_students
from dmft.equations.averages.tails import has_jumps, rare_laws, root_of
from dmft.equations.definitions import (
    Definition,
    ErfSquare,
    FieldRoot,
    base_name,
    define,
    used_bases,
)
from dmft.equations.parameter_values import NODE_OPTIONS
from dmft.equations.update.optimiser import block_definitions
from dmft.equations.update.terms import Parities
from dmft.errors import NotClosed
from dmft.gaussian.derivative import in_pieces
from dmft.gaussian.nodes import rules
from dmft.gaussian.tables.tabled import TableAverage
from dmft.model import Overlaps

# Points of a replica, and Gauss-Hermite points an axis, where nothing is said.
SOBOL_NODES, HERMITE_POINTS = 4096, 96
# Lattices begin at this dimension, in which steep functions take no rule of smooth ones.
LEAST_LATTICE, MOST_DIMENSIONS = min(rules.LATTICE_POINTS), max(rules.LATTICE_POINTS)
# Deviations of label noise from which on a tensor rule resolves kinks that the noise rounds off, by
# dimension, where residuals have slopes of order one; and the points of an axis that this takes.
THINNEST = {1: 0.05, 2: 0.15, 3: 0.3}
MORE_POINTS = {1: 384, 2: 192}
# Sobol points of a sample lie this much farther out, in dimensions in which unequal weights cost
# little. Repeated steps are polynomials of high degree: squares that look ahead had rates half as
# large as they are, and a ReLU that looks ahead on He3 seven times the error.
WIDER, MOST_WIDENED = 1.5, 6
# Increments that are no polynomials: points of an axis of the tensor rules of smooth ones, by the
# number of fields; points of a Sobol replica; nodes of a tensor rule above which it costs more.
NOISE_POINTS, NOISE_SOBOL_NODES = {1: 64, 2: 32, 3: 20, 4: 12}, 1024
MOST_EXACT = 20_000


def rule_of_averages(
    found: Sequence[Expectation], start: Overlaps, options: Mapping[str, Any]
) -> rules.NodeRule:
    """Nodes in as few dimensions as averages need: k or p + k; rows for all p + k fields.

    Sobol nodes are also put about events that they hardly meet at the start. An average over a
    student field with a kink is smooth only until h* determines that field, one of a kink that
    label noise rounds off (its variance in `options`) as long as there is enough of it.
    """
    p, k = start.p, start.k
    dim = k if over_teachers(found) else p + k
    samples = max((a.law.samples for a in found), default=1)
    if samples > 1:  # a step along a unit vector has no direction where that vector is zero
        noisy = any(a.law.noisy for a in found)
        return node_rule(samples * (p + k + noisy), False, options)
    if not any(a.law.of_sample for a in found):
        near = mixtures_of(found)
        if dim > rules.TENSOR_DIMENSIONS and takes_terms(near, options):
            return rules.mixture_rule(p + k, near, LEAST, options.get("nodes"))
        # Of small differences to a closed neighbour few Sobol points are enough.
        most = rules.TENSOR_DIMENSIONS if near else MOST_DIMENSIONS
        steep = steepness(found)
        is_smooth = smooth(found) and (dim < LEAST_LATTICE or steep < STEEP)
        even = all(Parities({}).of(a.integrand) == 1 for a in found)
        breaks = kinked_students(found) or steep > 0
        rule = node_rule(dim, is_smooth, options, most, breaks, even=even)
        if rule.kind == "sobol":
            if has_jumps(found):
                rule = rule.apart(options.get("seed") or 0)
            rule = rule.with_laws(rare_laws(found, root_of(start)[:, :dim], p))
        rule = rule.padded(p + k)
        return rule.with_mixture(of_neighbour(near)) if near else rule
    noisy = any(a.law.noisy for a in found)
    degrees = [a.law.degree for a in found]
    if all(a.law.students for a in found):
        if not any(a.law.halves for a in found):
            return node_rule(p, smooth(found), options).padded(p + k)
        rule = node_rule(p + noisy, False, options)
        rule = rule.widened(WIDER) if p + noisy <= MOST_WIDENED else rule
        even = all(a.law.even for a in found)
        return rule.with_noise(noisy).with_signs(not even)
    solved = [a.law.solved for a in found if a.law.degree != 0]
    dim += noisy - (any(solved) and all(solved))
    if all(degree.is_Integer and degree >= 0 for degree in degrees):
        largest = int(max(degrees))
        if dim <= rules.exact_dimensions(largest):
            return rules.exact_rule(dim, largest).with_noise(noisy)
    halves, steep = any(a.law.halves for a in found), steepness(found)
    is_smooth = smooth(found) and (dim < LEAST_LATTICE or steep < STEEP)
    rounded = any(a.law.layers == ROUNDED for a in found)
    if is_smooth and rounded and not halves:
        noise = sp.sympify(options.get("label_noise", 0.0), strict=True)
        is_smooth = bool(noise.is_number and noise >= THINNEST.get(dim, THINNEST[3]) ** 2)
    more = (rounded or any(solved)) and not halves and is_smooth and dim in MORE_POINTS
    if more and options.get("nodes") is None:
        options = {**options, "nodes": MORE_POINTS[dim]}
    even, factors = all(a.law.even for a in found), max(a.law.factors for a in found)
    rule = node_rule(dim, is_smooth, options, MOST_DIMENSIONS, steep > 0, halves, even)
    if rule.kind == "sobol" and dim <= MOST_WIDENED:
        rule = rule.widened(WIDER)
    if factors and rule.kind == "gauss-hermite":
        rule = rules.tensor_rule(dim, options.get("nodes") or HERMITE_POINTS, True, even, thin=True)
    rule = rule.padded(p + k)
    return (rule.with_scales(factors) if factors else rule).with_noise(noisy)


def node_rule(
    dim: int,
    is_smooth: bool,
    options: Mapping[str, Any],
    most: int = MOST_DIMENSIONS,
    may_break: bool = False,
    halves: bool = False,
    even: bool = False,
) -> rules.NodeRule:
    """Nodes in `dim` dimensions; of smooth integrands where these have `most` dimensions at most.

    `may_break` says that a smooth integrand has thin layers at some states, `halves` that it is
    smooth for either sign of the first coordinate, `even` that it does not change with the sign of
    all of them.
    """
    points = rules.LATTICE_POINTS.get(dim, HERMITE_POINTS)
    points = points if is_smooth and dim <= most else 0
    return _rule(dim, points, SOBOL_NODES, options, may_break, halves, even)


def noise_rule(
    size: int, smooth: bool, options: Mapping[str, Any], even: bool = False
) -> rules.NodeRule:
    """Nodes in `size` dimensions for increments that are no polynomials; `even` as above.

    Half a lattice of four dimensions has fewer nodes than Sobol points and less error for rows up
    to length 1.5 (more from 2 on; with ten points a diameter its error estimate fails there).
    A whole one takes longer.
    """
    smooth = smooth and (even or size <= LEAST_LATTICE)
    points = NOISE_POINTS.get(size, 0) if smooth else 0
    return _rule(size, points, NOISE_SOBOL_NODES, options, even=even)


def _rule(
    dim: int,
    points: int,
    sobol: int,
    options: Mapping[str, Any],
    may_break: bool = False,
    halves: bool = False,
    even: bool = False,
) -> rules.NodeRule:
    """Rule with this many points an axis, if any; Sobol nodes where options are of those.

    They are, too, where they ask for more points than a lattice has on a diameter.
    """
    chosen = {name: options[name] for name in NODE_OPTIONS if options.get(name) is not None}
    count = chosen.get("nodes", points)
    if points and not {"replicas", "seed"} & set(chosen):
        if halves and dim <= LEAST_LATTICE:
            return rules.halved_rule(dim, count)
        if dim < LEAST_LATTICE:
            return rules.tensor_rule(dim, count, may_break, even)
        if not halves and count <= rules.most_in_lattice(dim):
            return rules.lattice_rule(dim, count, even)
    return rules.normal_rule(dim, chosen.pop("nodes", sobol), **chosen)


def discretise(definitions: Sequence[Definition], alone: bool = False) -> tuple[Definition, ...]:
    """Replace all averages by sums over nodes; a system without averages stays as it is.

    With `alone` those that have a closed neighbour become that, without the small difference.
    """
    if not averages(definitions):
        return tuple(definitions)
    definitions = [
        Definition(d.target, tuple((t, sums_inside(e)) for t, e in d.terms), d.role)
        for d in definitions
    ]
    every = averages(definitions)
    definitions, solved = without_jump(definitions, every)
    every = [solved.get(a, a) for a in every]
    given = {a: c for a in every if (c := conditioned(a)) is not None}
    found = [a for a in every if a not in given]
    head = [d for d in definitions if d.role == "block"]
    near = neighbours(found)
    if near and all(d.name != "c" for d in head):
        head += [d for d in block_definitions() if d.name == "c"]
    found = [a for a in found if not (alone and a in near)]
    work = Discretiser([*found, *([] if alone else near.values())])
    for d in definitions:
        if d.role == "sample":
            work.sample(d)
    given_names = {d.name for d in definitions if d.role == "intermediate" and averages([d])}
    late = [a for a in found if used_bases(a.integrand) & given_names]
    values = {average: work.average(average) for average in found if average not in late}
    if near:
        closed = ErfSquare(x.Omega[x.i, x.n], x.c[x.i], x.mixture)
        head.append(define(x.S_closed[x.j, x.l], {"closed": closed}, "intermediate"))
    for average, other in near.items():
        closed = x.S_closed[x.j, x.l]
        values[average] = closed if alone else values[average] + closed - work.average(other)
    values |= {a: work.conditioned(c) for a, c in given.items()}
    values |= {a: values[b] for a, b in solved.items()}
    tail = [
        Definition(d.target, tuple((t, e.xreplace(values)) for t, e in d.terms), d.role)
        for d in definitions
        if d.role not in ("block", "sample")
    ]
    if not late:
        return for_students((*head, *work.law(), *work.definitions, *tail))
    # These stand behind the averages that they read, in another loop over the nodes.
    first, done = work.law(), len(work.definitions)
    work.again([d for d in definitions if d.role == "sample"])
    again = {average: work.average(average) for average in late}
    tail = [replace(d, terms=tuple((t, e.xreplace(again)) for t, e in d.terms)) for d in tail]
    made = {str(e.base.label) for e in again.values()}
    place = next(n for n, d in enumerate(tail) if used_bases(d.expr) & made)
    second = [d for d in work.law() if d not in first] + work.definitions[done:]
    return for_students(
        (*head, *first, *work.definitions[:done], *tail[:place], *second, *tail[place:])
    )


class Discretiser:
    """Collects the definitions that averages need, in the order in which they are computed."""

    def __init__(self, found: Sequence[Expectation]) -> None:
        self.definitions: list[Definition] = []
        self.known: dict[sp.Expr, sp.Indexed] = {}
        # Arrays of the random fields of a sample at the nodes, by name and number of the sample.
        self.fields: dict[tuple[str, int], sp.IndexedBase] = {}
        # Samples of a batch, and the one whose values are written: nodes have rows for the fields
        # of each, one after the other, and behind these one for the noise of each.
        self.samples = max((average.law.samples for average in found), default=1)
        self.number = 1
        self.numbers = range(1, self.samples + 1)
        # Students first in the root where nodes are for their fields alone.
        self.students = bool(found) and all(average.law.students for average in found)
        self.signed = self.students and any(average.law.halves for average in found)
        self.weight = x.weight[x.node] * (x.chance_at[x.node] if self.signed else 1)
        # Clusters whose covariances the fields at the nodes have, 0 for Omega.
        self.shapes: set[int] = set()
        # Where all fields share an activation, one array holds its values at students and teachers.
        joint = any(
            x.cluster_of(a.field.base)[0] == x.lam for average in found for a in average.atoms(At)
        )
        self.canonical = {x.p: x.i if joint else x.j, x.k: x.r, x.p + x.k: x.i}

    def again(self, samples: Sequence[Definition]) -> None:
        """Start a second pass over the same nodes, with separate arrays."""
        self.known, self.number, self.numbers = {}, 2, range(2, 3)
        for definition in samples:
            self.sample(definition)

    def law(self) -> list[Definition]:
        """Root of the covariance, and what of the fields at the nodes the definitions read."""
        i, n = x.i, x.n
        arrays = dict[sp.Indexed, sp.Expr]()
        for shape in sorted(self.shapes or {0}):
            Omega, root, lam_at = (
                x.base_in(b, shape) if shape else b for b in (x.Omega, x.root, x.lam_at)
            )
            arrays[root[i, n]] = FieldRoot(Omega[i, n], *[sp.true] * self.students)
            arrays |= {} if shape else conditional_definitions()
            if self.signed:
                arrays |= signed_definitions()
                continue
            for number in self.numbers:
                along = sp.Sum(root[i, n] * self.normal(n, number), (n, 1, x.p + x.k))
                arrays[_of_sample(lam_at, number)[i, x.node]] = along
        values = (*(d.expr for d in self.definitions), *arrays.values())
        used = {name for value in values for name in used_bases(value)}
        # Roots first: all that runs over the nodes is one loop, which keeps a few nodes at a time.
        ordered = sorted(arrays.items(), key=lambda item: x.node in item[0].indices)
        return [
            define(
                target, {"root" if isinstance(value, FieldRoot) else "law": value}, "intermediate"
            )
            for target, value in ordered
            if isinstance(value, FieldRoot) or str(target.base.label) in used
        ]

    def normal(self, row: sp.Expr, number: int) -> sp.Indexed:
        """Standard normal variable of a sample at the nodes, in the row of a field."""
        first = (number - 1) * (x.p + x.k) if self.samples > 1 else 0
        return x.normal[row + first, x.node]

    def sample(self, definition: Definition) -> None:
        """Array of a random field at the nodes, for each sample."""
        for number in self.numbers:
            value = self.in_sample(number, definition.expr)
            base = _of_sample(sp.IndexedBase(f"{definition.name}_at"), number)
            target = base[(*definition.indices, x.node)]
            self.definitions.append(define(target, {definition.name: value}, "intermediate"))
            self.fields[definition.name, number] = base

    def in_sample(self, number: int, expr: sp.Expr) -> sp.Expr:
        """Expression at the nodes, in the fields of a sample of a batch."""
        self.number = number
        value = self.at_nodes(expr)
        self.number = self.numbers[0]
        return value

    def conditioned(self, average: Expectation) -> sp.Expr:
        """Sum over the nodes of the teacher fields that stands for an average."""
        self.shapes.add(0)
        weight, inner = average.parts
        at = self.at_nodes(plain_weight(weight))
        weighted = self.array("weighted", x.weight[x.node] * at, (), ())
        total = over_nodes(weighted * self.at_nodes(inner))
        free = tuple(s for s in free_indices(inner) if s != x.node)
        if not free:
            return self.array("average", total, (), (), (sp.Integer(1),))
        return self.array("average", total, free, free, last=())

    def average(self, average: Expectation) -> sp.Expr:
        """Sum over the nodes that stands for an average."""
        if average.has(sp.DiracDelta):
            raise NotClosed(
                f"{average} contains a Dirac delta (the derivative of a jump), which has no value "
                "at a node; use an activation without jumps for the student"
            )
        at_nodes = self.at_nodes(average.integrand)
        free = tuple(s for s in free_indices(average) if s != x.node)
        common, rest = [self.weight], []
        for factor in sp.Mul.make_args(at_nodes):
            if set(free) & set(free_indices(factor)):
                rest.append(self.stored(factor))
            else:
                common.append(factor)
        if not rest:
            return self.array("average", over_nodes(sp.Mul(*common)), (), (), (sp.Integer(1),))
        weighted = self.array("weighted", sp.Mul(*common), (), ())
        total = over_nodes(sp.Mul(weighted, *rest))
        if free == (x.j, x.l):
            swapped = total.xreplace({x.j: x.l, x.l: x.j})
            taken = {d.name for d in self.definitions}
            unused = [base for base in (x.S, x.S_near) if str(base.label) not in taken]
            if swapped == total and unused:
                entry = unused[0][x.j, x.l]
                self.definitions.append(define(entry, {"average": total}, "intermediate"))
                return entry
        return self.array("average", total, free, free, last=())

    def at_nodes(self, expr: sp.Expr) -> sp.Expr:
        """Expression at the nodes; functions and sums that depend on the node become arrays."""
        if isinstance(expr, At):
            # Beside a jump, an exponential may overflow where it counts for nothing.
            return self.at_nodes(At(in_pieces(expr.factor), expr.field).expr)
        if isinstance(expr, OverSamples):
            return self.stored(sp.Add(*(self.in_sample(n, expr.body) for n in expr.numbers)))
        if expr == x.xi:
            noise = x.normal[self.samples * (x.p + x.k) + self.number, x.node]
            return noise if self.samples > 1 else x.noise_at[x.node]
        if isinstance(expr, sp.Symbol) and (expr.name, self.number) in self.fields:
            return self.fields[expr.name, self.number][x.node]
        if isinstance(expr, sp.Indexed):
            place = (base_name(expr), self.number)
            if place in self.fields:
                return self.fields[place][(*expr.indices, x.node)]
            if expr.base == x.coordinate:
                return self.normal(expr.indices[0], self.number)
            if not x.is_field(expr.base):
                return expr
            _, shape = x.cluster_of(expr.base)
            self.shapes.add(shape)
            lam_at = x.base_in(x.lam_at, shape) if shape else x.lam_at
            return _of_sample(lam_at, self.number)[x.position(expr), x.node]
        if isinstance(expr, sp.Sum):
            inner = sp.Sum(self.at_nodes(expr.function), *expr.limits)
            if free_indices(inner) == (x.node,):
                return self.array("sum_at", inner, (), ())
            return inner
        if isinstance(expr, sp.Piecewise):
            inside = expr.atoms(sp.Indexed)
            inside |= {s for s in expr.free_symbols if s == x.xi or (s.name, 1) in self.fields}
            atoms = {a: self.at_nodes(a) for a in inside}
            return self.stored(expr.xreplace(atoms))
        if not expr.args or isinstance(expr, TableAverage):
            return self.stored(expr)
        if isinstance(expr, sp.Pow) and expr.exp.is_Integer and expr.exp < -1:
            return self.at_nodes(1 / expr.base) ** (-expr.exp)
        value = expr.func(*(self.at_nodes(a) for a in expr.args))
        return self.stored(value) if _is_costly(value) else value

    def stored(self, value: sp.Expr) -> sp.Expr:
        """Array entry of a value at the nodes that depends on at most one neuron, else itself."""
        free = [s for s in free_indices(value) if s != x.node]
        at_node, neurons = x.node in free_indices(value), [s for s in free if s != x.angle]
        if isinstance(value, sp.Indexed) or not at_node or len(neurons) > 1:
            return value
        # Arrays of a sample have rows for the students alone.
        names = {base_name(e) for e in value.atoms(sp.Indexed)}
        sample = bool(names & {str(base.label) for base in self.fields.values()})
        axes = {**self.canonical, x.cosines: x.angle, **({x.p: x.j} if sample else {})}
        own = tuple(axes[x.AXES[s]] for s in free)
        return self.array("value", value, tuple(free), own)

    def array(
        self,
        stem: str,
        value: sp.Expr,
        free: tuple[sp.Symbol, ...],
        own: tuple[sp.Symbol, ...],
        last: tuple[sp.Symbol, ...] = (x.node,),
    ) -> sp.Indexed:
        """Entry at the indices `free` of an array defined over the indices `own`."""
        body = value.xreplace(dict(zip(free, own, strict=True)))
        if body not in self.known:
            number = 1 + sum(d.name.startswith(f"{stem}_") for d in self.definitions)
            target = sp.IndexedBase(f"{stem}_{number}")[(*own, *last)]
            self.known[body] = target
            self.definitions.append(define(target, {stem: body}, "intermediate"))
        base = self.known[body].base
        return base[(*free, *last)]


def _of_sample(array: sp.IndexedBase, number: int) -> sp.IndexedBase:
    """Array of one sample of a batch; that of the first has no number."""
    return array if number == 1 else sp.IndexedBase(f"{array.label}_{number}")


def over_nodes(summand: sp.Expr) -> sp.Sum:
    """Sum over all nodes."""
    return sp.Sum(summand, (x.node, 1, x.nodes))


def _is_costly(value: sp.Expr) -> bool:
    """Whether a value is a function, a root or an inverse, worth an array."""
    if isinstance(value, sp.Add | sp.Mul | sp.Indexed):
        return False
    return not (isinstance(value, sp.Pow) and value.exp.is_Integer and value.exp > 0)

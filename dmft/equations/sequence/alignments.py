"""Alignments e and m of a sequence model: symbols, numbers, cone; averages that couple fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.equations.averages.expectation import AtNodes, Expectation, Law
from dmft.equations.definitions import Definition
from dmft.equations.parameter_values import Values, resolve_scalars
from dmft.equations.states import StateSpace
from dmft.errors import BadParameter
from dmft.gaussian.nodes.grid import array_function
from dmft.gaussian.nodes.rules import NodeRule, normal_rule
from dmft.gaussian.tables.tokens import TokenLaw
from dmft.model import Alignment, SequenceModel, token_fields

# Points of a replica where nothing is said.
NODES = 4096


# Names that are no keywords of Python, so that no parameter of a model has them.
def star_fields(length: int) -> tuple[sp.Symbol, ...]:
    """Symbols of the target's fields h*_l in an integrand; those of the student are z1, ..., zL."""
    return tuple(sp.Symbol(f"h^*_{n}", real=True) for n in range(1, length + 1))


def free_fields(length: int) -> tuple[sp.Symbol, ...]:
    """Symbols of eta_l, with h_l = m h*_l + sqrt(1 - m^2) eta_l + e_l."""
    return tuple(sp.Symbol(rf"\eta_{n}", real=True) for n in range(1, length + 1))


class Tokens(Law):
    """Law of h_l = m h*_l + sqrt(1 - m^2) eta_l + e_l, h* and eta ~ N(0, I); arguments (e_l), m."""

    placed = True

    def number(
        self, average: Expectation, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Array]
    ) -> float:
        """Number at numbers for the symbols."""
        return value_at(average, at, nodes)

    def at_nodes(self, averages: Sequence[Expectation]) -> AtNodes:
        """Fields of the student from those of the target and what is orthogonal to it."""
        n, m, rest = self.length, self.overlap, sp.Symbol("rest", real=True)
        star, free = star_fields(n), free_fields(n)
        means = [sp.Symbol(f"mean_{k}", real=True) for k in range(n)]
        outside = [(rest, sp.sqrt(sp.Max(0, 1 - m**2))), *zip(means, self.means, strict=True)]
        inside = tuple(
            (h, m * s + rest * f + mean)
            for h, s, f, mean in zip(token_fields(n), star, free, means, strict=True)
        )
        return AtNodes((*star, *free), tuple(outside), inside, sp.S.One)

    @property
    def means(self) -> tuple[sp.Expr, ...]:
        """Means of the fields of the student."""
        return tuple(self.args[0])

    @property
    def overlap(self) -> sp.Expr:
        """The overlap m."""
        return self.args[1]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.means)

    @property
    def fields(self) -> tuple[sp.Symbol, ...]:
        """Symbols that are averaged over: h, h*, eta."""
        n = self.length
        return (*token_fields(n), *star_fields(n), *free_fields(n))

    @property
    def bound(self) -> frozenset[sp.Symbol]:
        """The same."""
        return frozenset(self.fields)

    def shown(self, integrand: sp.Expr) -> sp.Expr:
        """The integrand with h_1, h_2, ... for the fields of the student."""
        names = {z: sp.Symbol(f"h_{i}") for i, z in enumerate(token_fields(self.length), 1)}
        return integrand.xreplace(names)


def value_at(
    average: Expectation, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Array]
) -> float:
    """Number at numbers for the symbols, on nodes: the arrays of a rule (`joint_rule`)."""
    values = _at_nodes(average, at, nodes)
    # Where f = y the direction of the gradient is not defined and carries no weight.
    return float(nodes["weight"] @ np.where(np.isfinite(values), values, 0.0))


def check_finite(
    average: Expectation, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Array]
) -> None:
    """Refuse an integrand that is not finite at every node, where none is 0/0 by itself."""
    count = int(np.sum(~np.isfinite(_at_nodes(average, at, nodes))))
    if count:
        raise BadParameter(
            f"{average.integrand} is not finite at {count} of {nodes['weight'].size} nodes: "
            "student and target must be defined for all real fields"
        )


def _law(average: Expectation) -> Tokens:
    assert isinstance(average.law, Tokens), average
    return average.law


def _at_nodes(
    average: Expectation, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Array]
) -> Array:
    """Values of the integrand at the nodes."""
    law, integrand = _law(average), average.integrand
    stars, free = np.split(nodes["normal"][: 2 * law.length], 2)
    m = float(law.overlap.subs(at))
    means = np.array([[float(y.subs(at))] for y in law.means])
    h = m * stars + np.sqrt(max(0.0, 1.0 - m**2)) * free + means
    others = sorted(integrand.free_symbols - law.bound, key=str)
    call = _called((*law.fields, *others), integrand)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = call(*h, *stars, *free, *(float(at[s]) for s in others))
    return np.broadcast_to(np.asarray(values, dtype=np.float64), nodes["weight"].shape)


@lru_cache(maxsize=64)
def _called(fields: tuple[sp.Symbol, ...], integrand: sp.Expr) -> Callable[..., Any]:
    """The integrand for arrays, which other nodes and their errors ask for again."""
    return array_function(fields, integrand)


def joint_rule(length: int, nodes: int | None = None, replicas: int = 8, seed: int = 0) -> NodeRule:
    """Scrambled Sobol nodes of (h*, eta), whose replicas tell the error."""
    return normal_rule(2 * length, NODES if nodes is None else nodes, replicas, seed)


INSTEAD = {
    "fixed points": "for a sequence model use dmft.landscape(model), the minima of its risk",
    "linear noise": "for the spread of paths of a sequence model use dmft.solve(equations, "
    "start, t_max, paths=..., dt=...)",
}


def alignment_symbols(model: SequenceModel) -> dict[str, tuple[sp.Symbol, ...]]:
    """Symbols of the components of e and m."""
    return {"e": model.encoding.alignments, "m": TokenLaw.of(model).semantic}


def place(model: SequenceModel, e: ArrayLike, m: ArrayLike) -> dict[sp.Symbol, float]:
    """Numbers of the alignments, checked against the feasible set of the model."""
    position, semantic = model.alignments(e, m)
    symbols = alignment_symbols(model)
    values = dict(zip(symbols["m"], np.atleast_1d(semantic).tolist(), strict=True))
    return {**values, **dict(zip(symbols["e"], position.tolist(), strict=True))}


class Alignments(StateSpace):
    """Alignments e () or (r,) and m () tied or (L,) untied, each a number in the definitions."""

    model: SequenceModel

    start_type = Alignment
    instead = INSTEAD
    sources = ("arnaboldi_2025",)

    @property
    def outputs(self) -> int:
        """Number of outputs, each with a noise of its own."""
        return len(list(self.model.teacher.outputs))

    @cached_property
    def blocks(self) -> dict[str, tuple[sp.Symbol, ...]]:
        """Symbols of the components of e and m."""
        return alignment_symbols(self.model)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """A single alignment is a number."""
        return {n: () if len(s) == 1 else (len(s),) for n, s in self.blocks.items()}

    def random_start(self, rng: np.random.Generator) -> Alignment:
        """Alignments inside the feasible set."""
        scale = 0.5 / max(1, sum(map(len, self.blocks.values()))) ** 0.5
        parts = {
            name: scale * rng.uniform(0.2, 1.0, len(symbols))
            for name, symbols in self.blocks.items()
        }
        e, m = (y if y.size > 1 else float(y.sum()) for y in (parts["e"], parts["m"]))
        return Alignment(e, m)

    @cached_property
    def gram(self) -> sp.ImmutableDenseMatrix:
        """Gram matrix of w and of what it is aligned with: w*, positional vectors."""
        s = sp.Matrix([*self.blocks["m"], *self.blocks["e"]])
        inner = sp.Matrix(self.model.encoding.gram)
        if not self.model.tied:
            s, inner = s / sp.sqrt(self.model.length), sp.eye(self.model.length)
        return sp.ImmutableDenseMatrix(sp.BlockMatrix([[sp.eye(1), s.T], [s, inner]]))

    @property
    def networks(self) -> str:
        """Student and target."""
        return f"student {self.model.student}, target {self.model.teacher}"

    def rule(self, averages: Sequence[Expectation], options: Mapping[str, Any]) -> NodeRule:
        """Sobol nodes of target and student fields."""
        return joint_rule(self.model.length, **options)

    def state(self, start: Alignment) -> dict[str, Array]:
        """Blocks e and m of a start."""
        return self.packed(self.entries(start))

    def entries(self, start: Alignment) -> dict[str, Array]:
        """Each alignment by its own name."""
        if not isinstance(start, Alignment):
            raise BadParameter(
                "the start of a sequence model is a dmft.Alignment(e=..., m=...), got "
                f"{type(start).__name__}"
            )
        values = place(self.model, start.e, start.m)
        return {str(s): np.asarray(value) for s, value in values.items()}

    def packed(self, found: Mapping[str, Array]) -> dict[str, Array]:
        """Blocks of the shapes of a start, from numbers by alignment."""
        tied, single = self.model.tied, self.model.encoding.rank < 2
        result = dict(found)
        for (block, symbols), alone in zip(self.blocks.items(), (single, tied), strict=True):
            rows = [result.pop(str(s)) for s in symbols]
            value = rows if not alone else rows[0] if rows else 0.0
            result[block] = np.array(value, dtype=np.float64)
        return result

    def values(
        self,
        needed: Sequence[str],
        start: Alignment,
        given: Mapping[str, object],
        declared: Mapping[str, sp.Expr],
    ) -> Values:
        """Numbers of a run; p counts the rows of weights, of which a tied student has one."""
        length, rank = self.model.length, self.model.encoding.rank
        rows = 1 if self.model.tied else length
        widths = {"p": rows, "k": 1, "tokens": length, "directions": max(rank, 1)}
        return Values(widths, resolve_scalars(declared, needed, given)[0], {})


def check_observables(
    definitions: Iterable[Definition], entries: Mapping[str, Array], values: Values
) -> None:
    """Refuse averages on nodes whose integrands are not finite at some of them."""
    numbers = {**values.scalars, **entries}
    for d in definitions:
        if d.role == "observable" and isinstance(d.expr, Expectation):
            at = {s: numbers[str(s)] for s in d.expr.free_symbols}
            check_finite(d.expr, at, values.arrays)

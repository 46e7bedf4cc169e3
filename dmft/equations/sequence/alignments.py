"""Alignments e and m of a sequence model: their symbols, their numbers at a start, their cone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.joint_average import check_finite, joint_rule
from dmft.equations.definitions import Definition
from dmft.equations.parameter_values import Values, resolve_scalars
from dmft.equations.states import StateSpace
from dmft.errors import BadParameter
from dmft.gaussian.nodes.rules import NodeRule
from dmft.gaussian.tables.tokens import TokenLaw
from dmft.model import Alignment, SequenceModel

INSTEAD = {
    "fixed points": "for a sequence model use dmft.landscape(model), the minima of its risk",
    "linear noise": "paths of a sequence model spread as dmft.solve(equations, start, t_max, "
    "paths=..., dt=...) says",
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

"""Error rates of students that are not linear: on nodes of their own, after a run.

The average has a jump in the output, which the nodes of a run need not meet well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation, OneSample
from dmft.equations.averages.nodes import discretise
from dmft.equations.definitions import Definition, define, live
from dmft.equations.parameter_values import Values, by_block, with_nodes
from dmft.equations.reference import evaluate
from dmft.equations.update.law import clusters_of, mean_definitions
from dmft.equations.update.optimiser import block_definitions
from dmft.equations.update.overlaps import sign_in
from dmft.equations.update.program import students_at
from dmft.gaussian.nodes.rules import normal_rule
from dmft.model import Model
from dmft.names import BLOCK

# Points of a replica of the nodes.
POINTS = 4096


@lru_cache(maxsize=16)
def definitions_on_nodes(model: Model) -> tuple[Definition, ...]:
    """What the error rate of any student is computed from, on nodes."""
    if model.outputs > 1:
        return _of_classes(model)
    total, samples = sp.S.Zero, []
    for c in clusters_of(model):
        own = (x.label, x.output_pass[0])
        for symbol, value in zip(
            own, (sign_in(model, c), students_at(x.h, model.student.activation)), strict=True
        ):
            seen = c.own(c.shifted(value))
            found = define(c.shifted(symbol, own), {symbol.name: seen}, "sample")
            samples.append(found)
        # Of a label that is drawn its mean stands here.
        wrong = (1 - x.label * sp.sign(x.output_pass[0])) / 2
        law = OneSample(sp.Integer(-1), sp.S.Zero)
        total += c.weight * Expectation(c.shifted(wrong, own), law)
    return _on_nodes(model, samples, total)


def _of_classes(model: Model) -> tuple[Definition, ...]:
    """How often the largest output is not that of the class."""
    from dmft.equations.update.outputs import (
        in_cluster,
        output_definitions,
        risk_definitions,
        wrong_class,
    )

    samples = output_definitions(model)
    each = ((c, wrong_class(model, c)) for c in clusters_of(model))
    total = sp.Add(*(c.weight * in_cluster(model, c, wrong, samples) for c, wrong in each))
    return _on_nodes(model, risk_definitions(model), total)


def _on_nodes(model: Model, samples: list[Definition], total: sp.Expr) -> tuple[Definition, ...]:
    """The error rate `total` of the definitions of a sample, and the law of its fields."""
    rate = define(x.error_rate, {"wrong": total}, "observable")
    blocks = block_definitions(model.blocks is not None)
    return discretise(live([*blocks, *mean_definitions(model), *samples, rate]))


@dataclass(frozen=True)
class ErrorRate:
    """Error rates along a run of a model whose labels are signs, on nodes."""

    model: Model

    def along(
        self, Q: Array, M: Array, constants: Mapping[str, Array], scalars: Mapping[str, float]
    ) -> tuple[Array, Array]:
        """Rates at overlaps with time first, by block if they have any, (T,); errors (99 %).

        Readouts among the constants have time first, too.
        """
        p, k = M.shape[-2:]
        rule = normal_rule(p + k, POINTS)
        front = "" if self.model.blocks is None else BLOCK
        steady = {name: constants[name] for name in (f"{front}P", "teacher_readout")}
        values = Values({"p": p, "k": k}, dict(scalars), steady)
        if front:
            values = by_block(self.model, values, {})
        found = definitions_on_nodes(self.model)

        def at(n: int, here: Values) -> float:
            state = {f"{front}Q": Q[n], f"{front}M": M[n], "readout": constants["readout"][n]}
            return float(np.asarray(evaluate(found, state, here, "observable")["error_rate"]))

        each = [with_nodes(values, group) for group in rule.groups]
        rows = np.array([[at(n, here) for here in each] for n in range(len(Q))])
        mean = rows.mean(axis=1)
        return mean, np.asarray(rule.error(mean, list(rows.T)))

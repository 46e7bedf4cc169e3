"""The population risk from its definition to the closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.passes import averages
from dmft.equations.explained.engine import claim_of, engine_errors, engine_values
from dmft.equations.explained.inputs import average_over_inputs
from dmft.equations.explained.ledger import Account, Part, closed_values
from dmft.equations.explained.scene import Scene, scenes_of, widths_of
from dmft.equations.update.law import Cluster, clusters_of
from dmft.equations.update.overlaps import residual
from dmft.equations.values import declared_parameters
from dmft.explanation.steps import Explanation
from dmft.model import Model

if TYPE_CHECKING:
    from dmft.equations.risk import PopulationRisk

# Formulas in scalars up to this size are shown.
MOST_OPERATIONS = 400


def explain_risk(risk: PopulationRisk) -> Explanation:
    """Definition, local fields, linearity, averages, sum, overlaps.

    Raises
    ------
    BadParameter, UnprovenStep
    """
    model, expr = risk.model, risk.definitions[-1].expr
    scalars = declared_parameters(model, None)
    account = Account(model, scenes_of(model, scalars, risk.definitions[:-1], on_sphere=False))
    f, target = sp.Symbol("f"), sp.Symbol("f_*")
    first = average_over_inputs((target - f) ** 2) / 2
    parts = [_part(model, cluster) for cluster in clusters_of(model)]
    whole = account.from_inputs(first, sp.Rational(1, 2), parts)
    account.add("linearity", whole, expr)
    account.averages(expr, {})
    value = closed_values(expr)
    error, claim = claim_of(risk.definitions)

    def engine(scene: Scene) -> float:
        return float(engine_values(risk.definitions, scene, "observable")["risk"])

    def nodes(scene: Scene) -> float:
        return float(engine_errors(risk.definitions, scene, "observable")["risk"])

    account.add(
        "values", expr, value, claim=10 * error, sides=(None, engine),
        errors=nodes if averages(risk.definitions) else None,
    )  # fmt: skip
    return account.finish("Population risk", (x.risk, _inserted(account, risk, value)), claim)


def _part(model: Model, cluster: Cluster) -> Part:
    """The squared residual in one cluster."""
    square = residual(model, cluster.label) ** 2
    return Part(cluster.weight, cluster, square, Expectation(cluster.shifted(square)))


def _inserted(account: Account, risk: PopulationRisk, value: sp.Expr) -> sp.Expr:
    """Overlaps in the place of Omega, of networks of one unit."""
    p, k = widths_of(risk.model)
    declared = (risk.model.student.width, risk.model.teacher.width)
    if declared != (p, k) or value.has(Expectation) or p + k > 2:
        return value
    written = risk.explicit(p, k).expr
    if sp.count_ops(written) > MOST_OPERATIONS:
        return value

    def at_overlaps(scene: Scene) -> float:
        table = {s: sp.Float(entry(scene, s), 17) for s in written.free_symbols}
        return float(sp.N(written.xreplace(table)))

    expr = risk.definitions[-1].expr
    account.add("insert", value, written, sides=(lambda s: s.value(expr).value, at_overlaps))
    return written


def entry(scene: Scene, symbol: sp.Symbol) -> float:
    """Number of a scalar such as Q_12, or of a parameter."""
    base, _, digits = symbol.name.rpartition("_")
    arrays = {"Q": scene.start.Q, "M": scene.start.M, "P": scene.start.P}
    if base not in arrays:
        return scene.scalars[symbol.name]
    return float(arrays[base][tuple(int(c) - 1 for c in digits)])

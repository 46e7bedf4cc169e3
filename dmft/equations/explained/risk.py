"""The population risk and descents on repeated data, explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.passes import averages
from dmft.equations.definitions import Definition, define
from dmft.equations.explained.ledger import (
    Account,
    Part,
    average_over_inputs,
    bounded,
    closed_values,
)
from dmft.equations.explained.scene import (
    Scene,
    claim_of,
    engine_errors,
    engine_values,
    scenes_of,
    widths_of,
)
from dmft.equations.parameter_values import declared_parameters
from dmft.equations.two_time.descent_process import alpha, eta, g, ridge, zeta
from dmft.equations.update.law import Cluster, clusters_of
from dmft.equations.update.moments import stein
from dmft.equations.update.overlaps import residual
from dmft.errors import BadParameter, NotClosed
from dmft.explanation.steps import Explanation
from dmft.model import Model, Overlaps

if TYPE_CHECKING:
    from dmft.equations.two_time.descent import DescentEquations

# Formulas in scalars up to this size are shown.
MOST_OPERATIONS = 400


def explain_risk(
    model: Model, definitions: Sequence[Definition], written: Callable[[int, int], sp.Expr]
) -> Explanation:
    """Definition, local fields, linearity, averages, sum, overlaps.

    `written` is the risk in the entries of the overlaps, at numeric widths.
    """
    expr = definitions[-1].expr
    scalars = declared_parameters(model, None)
    account = Account(model, scenes_of(model, scalars, definitions[:-1], on_sphere=False))
    f, target = sp.Symbol("f"), sp.Symbol("f_*")
    first = average_over_inputs((target - f) ** 2) / 2
    parts = [_part(model, cluster) for cluster in clusters_of(model)]
    whole = account.from_inputs(first, sp.Rational(1, 2), parts)
    account.add("linearity", whole, expr)
    account.averages(expr, {})
    value = closed_values(expr)
    error, claim = claim_of(definitions)

    def engine(scene: Scene) -> float:
        return float(engine_values(definitions, scene, "observable")["risk"])

    def nodes(scene: Scene) -> float:
        return float(engine_errors(definitions, scene, "observable")["risk"])

    account.add(
        "values", expr, value, claim=10 * error, sides=(None, engine),
        errors=nodes if averages(definitions) else None,
    )  # fmt: skip
    return account.finish(
        "Population risk", (x.risk, _inserted(account, expr, value, written)), claim
    )


def _part(model: Model, cluster: Cluster) -> Part:
    """The squared residual in one cluster."""
    square = residual(model, cluster.label) ** 2
    return Part(cluster.weight, cluster, square, Expectation(cluster.shifted(square)))


def _inserted(
    account: Account, expr: sp.Expr, value: sp.Expr, in_entries: Callable[[int, int], sp.Expr]
) -> sp.Expr:
    """Overlaps in the place of Omega, of networks of one unit."""
    p, k = widths_of(account.model)
    declared = (account.model.student.width, account.model.teacher.width)
    if declared != (p, k) or value.has(Expectation) or p + k > 2:
        return value
    written = in_entries(p, k)
    if sp.count_ops(written) > MOST_OPERATIONS:
        return value

    def at_overlaps(scene: Scene) -> float:
        table = {s: sp.Float(entry(scene, s), 17) for s in written.free_symbols}
        return float(sp.N(written.xreplace(table)))

    account.add("insert", value, written, sides=(lambda s: s.value(expr).value, at_overlaps))
    return written


def entry(scene: Scene, symbol: sp.Symbol) -> float:
    """Number of a scalar such as Q_12, or of a parameter."""
    base, _, digits = symbol.name.rpartition("_")
    arrays = {"Q": scene.start.Q, "M": scene.start.M, "P": scene.start.P}
    if base not in arrays:
        return scene.scalars[symbol.name]
    return float(arrays[base][tuple(int(c) - 1 for c in digits)])


# Error asked of the integrals of the engine.
RTOL = 1e-9


def explain_first_step(
    equations: DescentEquations, moved: Callable[[Overlaps, Mapping[str, float]], float]
) -> Explanation:
    """Mean gradient over the samples, local fields, Stein's identity, averages, the step.

    `moved` is M_11 after one step from a start, at values of the parameters, to `RTOL`.
    """
    _check(equations)
    model = equations.model
    declared = equations.parameters
    numbers = {n: float(v) for n, v in declared.items() if v.is_number}
    scenes = scenes_of(model, declared, (), on_sphere=False)
    account = Account(model, (_with(scenes[0], numbers), _with(scenes[1], numbers)))
    at = {x.j: 1, x.r: 1}
    gradient = _gradient(equations)
    star = x.h_star[x.r]
    whole = Expectation(gradient * star)
    part = Part(sp.S.One, Cluster(), gradient * star, whole)
    first = average_over_inputs(g[x.j] * star)
    account.from_inputs(first, sp.S.One, [part], at, rule="first_step")
    try:
        expr = stein(gradient).xreplace({x.i: x.p + x.r})
    except NotClosed as refusal:
        raise BadParameter(f"the first gradient is not a sum of products: {refusal}") from refusal
    account.add("stein_fields", whole, expr, at)
    account.averages(expr, bounded(expr, at))
    before = (1 - eta * ridge) * x.M[x.j, x.r] - eta * alpha * expr
    if sp.sympify(equations.algorithm.ridge, strict=True) == 0:
        before = x.M[x.j, x.r] - eta * alpha * expr
    value = closed_values(before)
    error, claim = claim_of([define(x.M[x.j, x.r], {"step": before}, "rate")])
    open_names = [n for n, v in declared.items() if not v.is_number]

    def engine(scene: Scene) -> float:
        given = {n: scene.scalars[n] for n in open_names if n in equations.read}
        return moved(scene.start, given)

    account.add("values", before, value, at, claim=10 * error + 10 * RTOL, sides=(None, engine))
    target = sp.Indexed("M^1", x.j, x.r)
    return account.finish("First step of gradient descent", (target, value), claim)


def _check(equations: DescentEquations) -> None:
    model = equations.model
    declared = (model.student.width, model.teacher.width)
    if not equations.samples_as_derived or equations.algorithm.batch is not None:
        raise BadParameter(
            "the first step is explained for full batches and for equations as derived"
        )
    if model.inputs is None and declared != widths_of(model):
        raise BadParameter(
            f"the first step is explained for one or two students and one teacher unit, got "
            f"{declared[0]} and {declared[1]}"
        )


def _with(scene: Scene, numbers: dict[str, float]) -> Scene:
    """Declared numbers in place of random ones."""
    return replace(scene, scalars={**scene.scalars, **numbers}, known={})


def _gradient(equations: DescentEquations) -> sp.Expr:
    """The gradient of a sample's loss by its field j, sums over teachers over s."""
    table: dict[sp.Expr, Definition] = {d.target: d for d in equations.sample}
    found = table[g[x.j]].expr
    for target, d in table.items():
        if d.role == "intermediate":
            found = found.xreplace({target: d.expr.xreplace({x.r: x.s, x.l: x.u})})
    return found.xreplace({zeta: x.xi})

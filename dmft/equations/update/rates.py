"""Rates of the overlaps of one pass: all definitions, the blocks of the covariance first."""

from __future__ import annotations

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, define
from dmft.equations.update.optimiser import motion_of, own_motion, step_size
from dmft.equations.update.overlaps import ON_SPHERE, Moments, risk_expression
from dmft.model import SGD, GradientFlow, Model


def definitions(
    model: Model, algorithm: SGD | GradientFlow, quadratic: bool, step: sp.Expr | None = None
) -> list[Definition]:
    """All definitions of the overlap dynamics, blocks first and rates last.

    `step` is the rate of the steps in the quadratic term; that of the algorithm by default.
    """
    j, l, r, p = x.j, x.l, x.r, x.p  # noqa: E741
    moments = Moments(model, algorithm)
    if model.spectrum is not None or len(motion_of(algorithm).rows) > 1:
        from dmft.equations.update.rows import row_definitions  # loaded by whoever has blocks

        return [*row_definitions(moments, quadratic), *_beside_overlaps(moments)]
    dQ = {name: b[j, l] + b[l, j] for name, b in moments.bases.items()}
    dM = {name: b[j, p + r] for name, b in moments.bases.items()}
    if quadratic and isinstance(algorithm, SGD):
        dQ |= moments.quadratic((step or step_size(algorithm)) / (p * algorithm.batch_size))
    for name, rate in own_motion(algorithm).items():
        dM[name], dQ[name] = rate * x.M[j, r], 2 * rate * x.Q[j, l]
    return [
        *moments.drift_definitions(),
        *rate_definitions(dM, dQ, algorithm),
        *_beside_overlaps(moments),
    ]


def _beside_overlaps(moments: Moments) -> list[Definition]:
    """Rates of trained readouts, and the observables."""
    algorithm, result = moments.algorithm, []
    if isinstance(algorithm, SGD) and algorithm.trains_readout:
        result.append(define(x.a[x.j], moments.readout(x.rho_a), "rate"))
    result.append(define(x.risk, {"risk": risk_expression(moments.model)}, "observable"))
    return [*result, *moments.observables()]


def rate_definitions(
    dM: dict[str, sp.Expr], dQ: dict[str, sp.Expr], algorithm: SGD | GradientFlow
) -> list[Definition]:
    """Rates of M and Q of free rows, or on the sphere."""
    j, l, r = x.j, x.l, x.r  # noqa: E741
    result = []
    if algorithm.on_sphere:
        result.append(define(x.Phi[j, l], dQ, "intermediate"))
        dQ = {"free": x.Phi[j, l], "sphere": ON_SPHERE[x.Q]}
        dM = {**dM, "sphere": ON_SPHERE[x.M]}
    return [*result, define(x.M[j, r], dM, "rate"), define(x.Q[j, l], dQ, "rate")]

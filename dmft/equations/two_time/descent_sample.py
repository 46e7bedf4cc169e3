"""What one sample of a descent computes from its fields, and the slopes of its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At
from dmft.equations.definitions import Definition, define
from dmft.equations.two_time.descent_process import (
    BATCH_LAWS,
    H,
    chosen,
    cluster,
    fraction,
    g,
    label,
    loss,
    output,
    pull,
    s,
    t,
    u,
    zeta,
)
from dmft.equations.update.program import noiseless_label
from dmft.errors import BadParameter
from dmft.gaussian.derivative import derivative
from dmft.model import FIELD, GaussianMixture, Model
from dmft.model.gradient_descent import GradientDescent
from dmft.model.loss import LABEL, PREDICTION


def sample_definitions(model: Model, algorithm: GradientDescent) -> tuple[Definition, ...]:
    """What one sample computes from its fields: output, label, loss, gradient, readout gradient."""
    sigma, p = model.student.activation, x.p
    mixture = model.label_clusters
    labelled = noiseless_label(model) if mixture is None else _label_of_cluster(mixture)
    slope = sp.diff(algorithm.loss_expr, PREDICTION).xreplace({PREDICTION: output, LABEL: label})
    value = algorithm.loss_expr.xreplace({PREDICTION: output, LABEL: label})
    # Parts of the samples move the weights; the loss is that of all.
    share = chosen / fraction if algorithm.batch in BATCH_LAWS else sp.S.One
    f = sp.Sum(x.a[x.l] * At(sigma, x.h[x.l]), (x.l, 1, p)) / p
    first = derivative(sigma)
    if first.has(sp.DiracDelta):
        raise BadParameter(
            f"student activation {sigma} jumps: its derivative {first} is not a function, and no "
            "gradient descent can follow it"
        )
    result = [
        define(output, {"output": f}, "intermediate"),
        define(label, {"target": labelled, "noise": sp.sqrt(x.Delta) * zeta},
               "intermediate"),
        define(loss, {"loss": value}, "observable"),
        define(g[x.j], {"gradient": share * slope * x.a[x.j] * At(first, x.h[x.j]) / p}, "rate"),
    ]  # fmt: skip
    if model.label_noise == 0:
        result[1] = result[1].without("noise")
    if algorithm.readout_rate != 0:
        result.append(define(pull[x.j], {"pull": share * slope * At(sigma, x.h[x.j])}, "rate"))
    return tuple(result)


def scalars_of(definitions: Sequence[Definition]) -> tuple[str, ...]:
    """Names of the parameters that definitions read."""
    known = {x.p, x.k, x.j, x.l, x.r, t, s, u, zeta, cluster, output, label, loss, chosen, FIELD}
    found: set[sp.Symbol] = set()
    for d in definitions:
        arrays = {y.base.label for y in d.expr.atoms(sp.Indexed)}
        found |= {y for y in d.expr.free_symbols if isinstance(y, sp.Symbol)} - known - arrays
    return tuple(sorted(y.name for y in found))


def _label_of_cluster(mixture: GaussianMixture) -> sp.Expr:
    fields = {z: x.h_star[r] for r, z in enumerate(mixture.fields, start=1)}
    labels = [y.xreplace(fields) for y in mixture.labels or ()]
    cases = [(y, sp.Eq(cluster, number)) for number, y in enumerate(labels)]
    return sp.Piecewise(*cases[:-1], (labels[-1], True))


@lru_cache(maxsize=32)
def curvature(sample: tuple[Definition, ...]) -> Definition:
    r"""H_jl = dg_j/dh_l of what a sample computes, the distributional part of kinks included.

    Equation    for the gradient of a loss, H_jl = l'' a_j a_l sigma'_j sigma'_l / p^2
                + delta_jl l' a_j sigma''_j / p
    Source      theory/batch_reuse 0
    """
    slopes: dict[sp.Expr, sp.Expr] = {}

    def slope(expr: sp.Expr) -> sp.Expr:
        """Derivative by h_l of an expression in fields and in scalars of the sample."""
        names = {y: sp.Dummy(real=True) for y in expr.atoms(sp.Sum)}
        plain = expr.xreplace(names)
        names |= {y: sp.Dummy(real=True) for y in plain.atoms(At)}
        plain = plain.xreplace(names)
        names |= {y: sp.Dummy(real=True) for y in plain.atoms(sp.Indexed) if y.base == x.h}
        names |= {y: sp.Dummy(real=True) for y in plain.free_symbols & slopes.keys()}
        plain = plain.xreplace(names)
        back = {dummy: y for y, dummy in names.items()}
        return sp.Add(
            *(sp.diff(plain, dummy).xreplace(back) * inner(y) for y, dummy in names.items())
        )

    def inner(y: sp.Expr) -> sp.Expr:
        if isinstance(y, sp.Sum):
            ((index, low, high),) = y.limits
            running = sp.Dummy(index.name, integer=True)
            body = sp.expand(slope(y.function.xreplace({index: running})))
            delta = sp.KroneckerDelta(running, x.l)
            rest = body.coeff(delta, 0)
            others = sp.Sum(rest, (running, low, high)) if rest != 0 else sp.S.Zero
            return body.coeff(delta).xreplace({running: x.l}) + others
        if isinstance(y, At):
            return At(derivative(y.factor), y.field) * slope(y.field)
        if isinstance(y, sp.Indexed):
            return sp.KroneckerDelta(y.indices[0], x.l)
        return slopes[y]

    for d in sample:
        if isinstance(d.target, sp.Symbol):
            slopes[d.target] = slope(d.expr)
    (gradient,) = (d for d in sample if d.name == "g")
    return define(H[x.j, x.l], {name: slope(e) for name, e in gradient.terms}, "rate")

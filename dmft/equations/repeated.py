r"""Algorithms that use a sample more than once: the update field, sample by sample.

A sample moves its own fields: with |x|^2/d -> 1 a step along psi x^T/sqrt(d) adds psi to h. The
field of the last gradient is therefore a function of (h, h*, xi) alone (batch_reuse.md D.1),

    psi^(i)_j = a_j sigma'(h^(i)_j) e^(i),   e^(i) = y - f(h^(i)),   h^(0) = h,
    h^(1) = h +- rho psi^(0)                                  (displaced, psi = psi^(1)),
    h^(i+1) = h^(i) + gamma/(p n_b) psi^(i)                   (repeated, psi = sum_i psi^(i)),

and the overlaps move by E[psi h*], E[psi h] and E[psi psi] as for every update field. These
averages are polynomials' where activation and target are, and are on nodes for all others.
"""

from __future__ import annotations

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.average import At, SampleAverage
from dmft.equations.definitions import Definition, define
from dmft.equations.derivation import (
    block_definitions,
    has_interaction,
    rate_definitions,
    risk_expression,
)
from dmft.equations.residual import residual_at
from dmft.errors import BadParameter
from dmft.gaussian.switch import SWITCHES, derivative
from dmft.model import FIELD, SGD, Model, Repeat

# Passes over a sample that equations are written for.
MOST_PASSES = len(x.psi_pass)
# Limits in which one sample moves its own fields by a finite amount.
DISPLACED_LIMITS = ("high-dimensional", "gradient-flow")


def check_repeated(
    algorithm: SGD, region: str, dim: int | sp.Expr | None, fluctuations: bool
) -> None:
    """Refuse limits for which there is no derivation with repeated samples."""
    if fluctuations:
        raise BadParameter("fluctuations of repeated gradients (repeat=) are not derived")
    if dim is not None:
        raise BadParameter(
            f"maps of large batches are not derived with repeat = {algorithm.repeat}: leave dim "
            'out for the ode of small batches, or take dmft.simulate(..., method="weights")'
        )
    once = isinstance(algorithm.repeat, Repeat)
    if region not in DISPLACED_LIMITS[: 1 if once else 2]:
        why = "as gamma vanishes every pass sees the same fields: it is SGD" if once else ""
        raise BadParameter(
            f"scaling {region!r} is not derived with repeat = {algorithm.repeat}"
            + (f" ({why})" if why and region == "gradient-flow" else "")
            + "; leave scaling out"
        )


def repeated_definitions(model: Model, algorithm: SGD, quadratic: bool) -> list[Definition]:
    """All definitions of the overlap dynamics, those of one sample behind the blocks."""
    j, l, r, p = x.j, x.l, x.r, x.p  # noqa: E741
    sample = sample_definitions(model, algorithm)

    def average(integrand: sp.Expr) -> SampleAverage:
        degree = degree_of(model, algorithm, integrand)
        return SampleAverage(integrand, degree, sp.Integer(is_noisy(model)))

    entry = define(x.b[j, x.i], {"update": average(x.psi[j] * x.lam[x.i])}, "intermediate")
    dQ = {"update": x.b[j, l] + x.b[l, j]}
    dM = {"update": x.b[j, p + r]}
    if quadratic:
        weight = x.gamma / (p * algorithm.batch_size)
        dQ["sgd_noise"] = weight * average(x.psi[j] * x.psi[l])
    risk = define(x.risk, {"risk": risk_expression(model)}, "observable")
    return [*block_definitions(), *sample, entry, *rate_definitions(dM, dQ, algorithm), risk]


def sample_definitions(model: Model, algorithm: SGD) -> list[Definition]:
    """Label, errors, displaced fields and updates of one sample, in order."""
    repeat, j, u = algorithm.repeat or Repeat(1), x.j, x.u
    sigma = model.student.activation
    slope, own = derivative(sigma), has_interaction(algorithm)
    if slope.has(sp.DiracDelta):
        raise BadParameter(
            f"the student's activation {sigma} jumps: its gradient at displaced fields is no "
            "function; take an activation without jumps"
        )
    noise = sp.sqrt(x.Delta) * x.xi if is_noisy(model) else sp.S.Zero
    result = [define(x.label, {"label": residual_at(model, with_student=False) + noise}, "sample")]

    def gradient(fields: sp.IndexedBase, number: int, target: sp.IndexedBase) -> None:
        error = x.label
        if own:
            network = sp.Sum(x.a[u] * At(sigma, fields[u]), (u, 1, x.p)) / x.p
            error = x.error_pass[number]
            result.append(define(error, {"error": x.label - network}, "sample"))
        body = x.a[j] * At(slope, fields[j]) * error
        result.append(define(target[j], {"gradient": body}, "sample"))

    if isinstance(repeat, Repeat):
        passes = _passes(repeat)
        step = x.gamma / (x.p * algorithm.batch_size)
        fields = x.h
        for number in range(passes):
            gradient(fields, number, x.psi_pass[number])
            if number + 1 < passes:
                moved = fields[j] + step * x.psi_pass[number][j]
                fields = x.h_pass[number + 1]
                result.append(define(fields[j], {"moved": moved}, "sample"))
        total = sp.Add(*(x.psi_pass[number][j] for number in range(passes)))
        return [*result, define(x.psi[j], {"update": total}, "sample")]
    gradient(x.h, 0, x.psi_pass[0])
    scale = repeat.sign * x.rho
    if repeat.normalised:
        square = sp.Sum(x.psi_pass[0][u] ** 2, (u, 1, x.p))
        # Where the gradient vanishes nothing is displaced, whatever stands below.
        length = sp.Piecewise((1, sp.Eq(x.psi_square, 0)), (sp.sqrt(x.psi_square), True))
        result.append(define(x.psi_square, {"square": square}, "sample"))
        result.append(define(x.psi_length, {"length": length}, "sample"))
        scale /= x.psi_length
    moved = x.h[j] + scale * x.psi_pass[0][j]
    result.append(define(x.h_pass[1][j], {"moved": moved}, "sample"))
    gradient(x.h_pass[1], 1, x.psi)
    return result


def is_noisy(model: Model) -> bool:
    """Whether labels are noisy; a symbol may be."""
    return not model.label_noise.is_zero


def _passes(repeat: Repeat) -> int:
    if repeat.times > MOST_PASSES:
        raise BadParameter(
            f"equations are written for at most {MOST_PASSES} passes over a sample, got {repeat}; "
            "dmft.simulate runs any number"
        )
    return repeat.times


def degree_of(model: Model, algorithm: SGD, integrand: sp.Expr) -> sp.Expr:
    """Total degree of an integrand in the fields; oo for smooth functions, -1 for others."""
    update = update_degree(model, algorithm)
    if not update.is_Integer or update < 0:
        return update
    factors = sp.Mul.make_args(integrand)
    return sp.Add(*(update if f.base == x.psi else 1 for f in factors))


def update_degree(model: Model, algorithm: SGD) -> sp.Expr:
    """Total degree of psi in the fields; oo for smooth functions, -1 where there are kinks."""
    student, teacher = model.student, model.teacher
    label = getattr(teacher, "activation", getattr(teacher, "expr", None))
    repeat = algorithm.repeat or Repeat(1)
    assert label is not None
    normalised = not isinstance(repeat, Repeat) and repeat.normalised
    if normalised or student.activation.has(*SWITCHES) or label.has(*SWITCHES):
        return sp.Integer(-1)
    fields = getattr(teacher, "fields", (FIELD,))
    if not (student.activation.is_polynomial(FIELD) and label.is_polynomial(*fields)):
        return sp.oo
    own = sp.Poly(student.activation, FIELD).degree()
    target = max(1, sp.Poly(label, *fields).total_degree())
    passes = repeat.times if isinstance(repeat, Repeat) else 2
    field, update = 1, 0
    for _ in range(passes):
        error = max(target, own * field) if has_interaction(algorithm) else target
        update = max(0, own - 1) * field + error
        field = max(field, update)
    return sp.Integer(update)

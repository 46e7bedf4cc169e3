r"""The map of one step of large-batch SGD, n_b of the order of d or larger (one_pass.md D.1, D.2).

A step adds to the overlaps, with eta = gamma/d of order one,

    dM = (eta/p) B*,   dQ = (eta/p)(B + B^T) + (eta/p)^2 [(d/n_b) S + (1 - 1/n_b) b Omega^+ b^T].

The last matrix is the Gram matrix of the population gradients. By Stein's identity b = K Omega with
K_jn = E[d psi_j / d lambda_n], so that b Omega^+ b^T = b K^T holds whatever the rank of Omega: no
inverse is formed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.average import At, Average
from dmft.equations.definitions import Definition, define
from dmft.equations.derivation import (
    Species,
    drift_definitions,
    has_interaction,
    quadratic_terms,
    readout_terms,
    risk_expression,
    students,
    teachers,
)
from dmft.equations.kernels import kernel
from dmft.equations.multi_index import target_slopes
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.switch import derivative
from dmft.model import SGD, Committee, Model, MultiIndex

# The weights move by this multiple of psi x/sqrt(d), summed over a batch and divided by n_b.
STEP = x.gamma / (x.p * x.d)
# Overlaps follow the map as long as the variance that sampling adds to them, per step and over the
# time in which they change by order one, stays below this (in units of the increments' covariance).
LARGEST_SPREAD = 0.1
# What the derivative of a step or of a kink leaves in an expression.
ON_KINKS = (sp.DiracDelta, sp.Derivative, sp.Subs)


def step_definitions(model: Model, algorithm: SGD) -> list[Definition]:
    """All definitions of the map, blocks first; the "rates" are increments per step."""
    j, l, r, p = x.j, x.l, x.r, x.p  # noqa: E741
    result = drift_definitions(model, algorithm)
    result += gradient_definitions(model, algorithm)
    dM = {name: STEP * e[j, p + r] for name, e in drifts(algorithm).items()}
    dQ = {name: STEP * (e[j, l] + e[l, j]) for name, e in drifts(algorithm).items()}
    dQ |= quadratic_terms(model, algorithm, x.gamma**2 / (x.p**2 * x.d * x.n_b))
    dQ["population_gradient"] = STEP**2 * (1 - 1 / x.n_b) * x.gram[j, l]
    if algorithm.constraint == "sphere-gradient":
        radial = {name: STEP * e[j, j] for name, e in drifts(algorithm).items()}
        result.append(define(x.radial[j], radial, "intermediate"))
        dM["radial"] = -x.radial[j] * x.M[j, r]
        dQ["radial"] = _radial()
    if algorithm.on_sphere:
        result += [
            define(x.step_Q[j, l], dQ, "intermediate"),
            define(x.step_M[j, r], dM, "intermediate"),
        ]
        inverse = {"length": 1 / sp.sqrt(x.Q[j, j] + x.step_Q[j, j])}
        result.append(define(x.inverse_length[j], inverse, "intermediate"))
        dQ, dM = _normalised()
    result += [define(x.M[j, r], dM, "rate"), define(x.Q[j, l], dQ, "rate")]
    if algorithm.trains_readout:
        terms = readout_terms(model, algorithm, STEP * x.rho_a)
        result.append(define(x.a[j], terms, "rate"))
    result.append(define(x.risk, {"risk": risk_expression(model)}, "observable"))
    return result


def check_concentration(scalars: Mapping[str, float], width: int) -> None:
    """Refuse batches so small that overlaps do not concentrate on the map (one_pass.md E.1)."""
    step = scalars["learning_rate"] / (width * scalars["dim"])
    spread = max(step, step**2) / scalars["batch_size"]
    if spread > LARGEST_SPREAD:
        raise BadParameter(
            f"batch_size = {scalars['batch_size']:g} is too small for the map at learning_rate/"
            f"(p dim) = {step:.3g}: sampling moves the overlaps by sqrt({spread:.3g}), they do not "
            f"concentrate. Take batch_size >= {max(step, step**2) / LARGEST_SPREAD:.3g}, a smaller "
            'learning_rate, or dmft.simulate(method="overlaps"), which is exact'
        )


def drifts(algorithm: SGD) -> dict[str, sp.IndexedBase]:
    """Parts of b by name."""
    parts = {"learning": x.learning}
    return parts | {"interaction": x.interaction} if has_interaction(algorithm) else parts


def _radial() -> sp.Expr:
    """Change of Q where the step of neuron j leaves out its part c_j w_j along w_j."""
    j, l, b = x.j, x.l, x.b  # noqa: E741
    cj, cl = x.radial[j], x.radial[l]
    along = -cj * STEP * b[l, j] - cl * STEP * b[j, l]
    return -(cj + cl) * x.Q[j, l] + along + cj * cl * x.Q[j, l]


def _normalised() -> tuple[dict[str, sp.Expr], dict[str, sp.Expr]]:
    """Increments of Q and M where every row is divided by its length after the step."""
    j, l, r = x.j, x.l, x.r  # noqa: E741
    free_Q, free_M = x.step_Q[j, l], x.step_M[j, r]
    new_Q = (x.Q[j, l] + free_Q) * x.inverse_length[j] * x.inverse_length[l]
    new_M = (x.M[j, r] + free_M) * x.inverse_length[j]
    dQ = {"free": free_Q, "sphere": new_Q - x.Q[j, l] - free_Q}
    return dQ, {"free": free_M, "sphere": new_M - x.M[j, r] - free_M}


def gradient_definitions(model: Model, algorithm: SGD) -> list[Definition]:
    """b, its slopes K and the Gram matrix b K^T = b Omega^+ b^T.

    Raises
    ------
    NotClosed
        When slopes that live on kinks have no closed average.
    """
    j, l, r, u, p = x.j, x.l, x.r, x.u, x.p  # noqa: E741
    names = drifts(algorithm)
    result = [define(x.b[j, x.i], {n: e[j, x.i] for n, e in names.items()}, "intermediate")]
    own: dict[str, sp.Expr] = {}
    gram: dict[str, sp.Expr] = {}
    if isinstance(model.teacher, Committee):
        along, cross = committee_slopes(model, teachers(model.teacher))
        own["learning"] = along
        result.append(define(x.K_star[j, r], {"learning": cross}, "intermediate"))
        gram["teachers"] = sp.Sum(x.b[l, p + r] * x.K_star[j, r], (r, 1, x.k))
    else:
        slopes, rest = target_slopes(model, model.teacher)
        for y, value in _open_slopes(model, model.teacher, rest).items():
            slopes[y] = slopes.get(y, sp.S.Zero) + value
        own["learning"] = x.a[j] * slopes.pop(x.h[j], sp.S.Zero)
        fields = (x.a[j] * value * _along(y) for y, value in slopes.items())
        gram["teachers"] = sp.Add(*fields)
    if has_interaction(algorithm):
        f = students(model).renamed(u)
        own["interaction"], cross = committee_slopes(model, f)
        result.append(define(x.K[j, u], {"interaction": cross}, "intermediate"))
        gram["students"] = sp.Sum(x.b[l, u] * x.K[j, u], (u, 1, p))
    result.append(define(x.K_own[j], own, "intermediate"))
    gram["own"] = x.b[l, j] * x.K_own[j]
    result.append(define(x.gram[j, l], gram, "intermediate"))
    return result


def committee_slopes(model: Model, species: Species) -> tuple[sp.Expr, sp.Expr]:
    """E[sigma''(h_j) (part of the residual)] a_j, and E[sigma'(h_j) slope(field)] a_j c_field."""
    sigma = model.student.activation
    first, second = derivative(sigma), derivative(sigma, 2)
    along = kernel([second, species.activation], [x.h[x.j], species.field])
    slope = kernel([first, derivative(species.activation)], [x.h[x.j], species.field])
    scale = x.a[x.j] * species.scale
    total = sp.Sum(species.coefficient * along, species.limits)
    return scale * total, scale * species.coefficient * slope


def _open_slopes(
    model: Model, teacher: MultiIndex, rest: Sequence[sp.Expr]
) -> dict[sp.Expr, sp.Expr]:
    """E[d(sigma'(h_j) g)/dy] on nodes, for the terms of a target without closed averages.

    Raises
    ------
    NotClosed
        Where a derivative has a part on a kink, which nodes never meet.
    """
    if not rest:
        return {}
    g, sigma = sp.Add(*rest), model.student.activation
    first, second = derivative(sigma), derivative(sigma, 2)
    stars = [x.h_star[r] for r in range(1, len(teacher.fields) + 1)]
    inside = {y: sp.diff(g, y) for y in stars}
    if second.has(*ON_KINKS) or any(value.has(*ON_KINKS) for value in inside.values()):
        raise NotClosed(
            f"the Gram matrix of the population gradients needs derivatives of {g} and of the "
            f"student's slope {first} that live on kinks; write the target as a sum of products of "
            "functions of one field, or simulate"
        )
    result = {y: Average(At(first, x.h[x.j]) * value) for y, value in inside.items() if value != 0}
    return result | {x.h[x.j]: Average(At(second, x.h[x.j]) * g)}


def _along(field: sp.Expr) -> sp.Expr:
    """b_l along a teacher field, or along a combination of them."""
    entries = field.atoms(sp.Indexed)
    return sp.Add(*(field.coeff(y) * x.b[x.l, x.position(y)] for y in entries))

r"""The master formula: risk, drift, quadratic term and constraint of a student.

Every one-pass algorithm adds psi_j x / sqrt(d) to neuron j. For the squared loss
psi_j = a_j sigma'(h_j) (g - f + sqrt(Delta) xi), for the correlation loss without f, and
(one_pass.md A.0, A.1, B.2)

    b_ji = E[psi_j lambda_i],   S_jl = E[psi_j psi_l].

The drift is never integrated: by Stein's and Price's identities it is the linear image
2 C_ji dI2/dC_jj + C_im dI2/dC_jm of the pair kernel I2 of the risk, and these derivatives of I2
are the kernels E[sigma'' sigma] / 2 and E[sigma' sigma'].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, define
from dmft.equations.kernels import kernel
from dmft.equations.multi_index import target_drift, target_product, target_square
from dmft.equations.residual import closed_or_average
from dmft.errors import BadParameter
from dmft.gaussian.switch import derivative
from dmft.model import SGD, Committee, GradientFlow, Model, MultiIndex


@dataclass(frozen=True)
class Species:
    """One sum over fields sharing an activation: `scale` times an indexed coefficient each."""

    activation: sp.Expr
    scale: sp.Expr
    coefficient: sp.Expr
    field: sp.Indexed
    index: sp.Symbol

    def renamed(self, index: sp.Symbol) -> Species:
        """Run over another index symbol of the same axis."""
        swap = {self.index: index}
        return replace(
            self,
            coefficient=self.coefficient.xreplace(swap),
            field=self.field.xreplace(swap),
            index=index,
        )

    @property
    def limits(self) -> tuple[sp.Symbol, int, sp.Expr]:
        """Running index and its range."""
        return (self.index, 1, x.AXES[self.index])


def students(model: Model) -> Species:
    """Residual part -f: coefficients -a_l / p."""
    return Species(model.student.activation, -1 / x.p, x.a[x.l], x.h[x.l], x.l)


def teachers(teacher: Committee) -> Species:
    """Residual part +g of a committee: coefficients a*_r / k."""
    return Species(teacher.activation, 1 / x.k, x.a_star[x.r], x.h_star[x.r], x.r)


def everyone(model: Model) -> Species:
    """All fields in one sum, where student and teacher share the activation."""
    return Species(model.student.activation, sp.Integer(1), x.c[x.m], x.lam[x.m], x.m)


def block_definitions() -> list[Definition]:
    """Omega and the residual coefficients c over all fields, by blocks."""
    return [
        define(x.Omega[x.j, x.l], {"students": x.Q[x.j, x.l]}, "block"),
        define(x.Omega[x.j, x.p + x.r], {"overlap": x.M[x.j, x.r]}, "block"),
        define(x.Omega[x.p + x.r, x.j], {"overlap": x.M[x.j, x.r]}, "block"),
        define(x.Omega[x.p + x.r, x.p + x.s], {"teachers": x.P[x.r, x.s]}, "block"),
        define(x.c[x.j], {"student": -x.a[x.j] / x.p}, "block"),
        define(x.c[x.p + x.r], {"teacher": x.a_star[x.r] / x.k}, "block"),
    ]


def residual_square(
    model: Model, weights: list[tuple[sp.Expr, sp.Indexed]], with_student: bool = True
) -> sp.Expr:
    """E[prod_i w_i(field_i) (g - f)^2] as double sums over fields; g^2 without the student.

    One sum over all p + k fields where student and teacher share the activation.
    """
    factors, fields = [w for w, _ in weights], [f for _, f in weights]

    def double(first: Species, second: Species) -> sp.Expr:
        value = kernel(
            [*factors, first.activation, second.activation],
            [*fields, first.field, second.field],
        )
        body = first.coefficient * second.coefficient * value
        return first.scale * second.scale * sp.Sum(body, first.limits, second.limits)

    if not with_student:
        if isinstance(model.teacher, MultiIndex):
            return target_square(model.teacher, weights)
        g = teachers(model.teacher)
        return double(g, g.renamed(x.s))
    if model.matched:
        one = everyone(model)
        return double(one, one.renamed(x.n))
    f = students(model)
    f1, f2 = f.renamed(x.u), f.renamed(x.v)
    if isinstance(model.teacher, MultiIndex):
        one = target_product(model.teacher, [*weights, (f1.activation, f1.field)])
        cross = f1.scale * sp.Sum(f1.coefficient * one, f1.limits)
        return double(f1, f2) + 2 * cross + target_square(model.teacher, weights)
    g = teachers(model.teacher)
    return double(f1, f2) + 2 * double(f1, g) + double(g, g.renamed(x.s))


def risk_expression(model: Model) -> sp.Expr:
    """Population risk E(g - f)^2 / 2, without the noise floor."""
    return residual_square(model, []) / 2


def drift(model: Model, species: Species) -> sp.Expr:
    """E[sigma'(h_j) lambda_i (part of the residual)] a_j, by Stein and Price from I2."""
    sigma = model.student.activation
    first, second = derivative(sigma), derivative(sigma, 2)
    along_self = kernel([second, species.activation], [x.h[x.j], species.field])
    along_other = kernel([first, derivative(species.activation)], [x.h[x.j], species.field])
    body = species.coefficient * (
        x.covariance(x.h[x.j], x.lam[x.i]) * along_self
        + x.covariance(x.lam[x.i], species.field) * along_other
    )
    return x.a[x.j] * species.scale * sp.Sum(body, species.limits)


def learning(model: Model) -> sp.Expr:
    """Drift along the target: E[psi_j lambda_i] of the residual part +g."""
    if isinstance(model.teacher, MultiIndex):
        return target_drift(model, model.teacher)
    return drift(model, teachers(model.teacher))


def noise_kernel(model: Model) -> sp.Expr:
    """E[sigma'(h_j) sigma'(h_l)]."""
    first = derivative(model.student.activation)
    return kernel([first, first], [x.h[x.j], x.h[x.l]])


def has_interaction(algorithm: SGD | GradientFlow) -> bool:
    """Whether the update holds the network's own output: E = y - f, not E = y.

    Raises
    ------
    BadParameter
        For the norm ||f - y|| as a loss, which belongs to sequence models.
    """
    if isinstance(algorithm, SGD) and algorithm.loss == "frobenius":
        raise BadParameter(
            'loss = "frobenius" is the norm of the matrix f - y of a sequence model; a committee '
            'has loss="squared" or "correlation"'
        )
    return not (isinstance(algorithm, SGD) and algorithm.loss == "correlation")


def drift_definitions(model: Model, algorithm: SGD | GradientFlow) -> list[Definition]:
    """Blocks, and the parts of b_ji = E[psi_j lambda_i]."""
    entry = x.learning[x.j, x.i]
    result = [*block_definitions(), define(entry, {"learning": learning(model)}, "intermediate")]
    if has_interaction(algorithm):
        own = {"interaction": drift(model, students(model))}
        result.append(define(x.interaction[x.j, x.i], own, "intermediate"))
    return result


def definitions(model: Model, algorithm: SGD | GradientFlow, quadratic: bool) -> list[Definition]:
    """All definitions of the overlap dynamics, blocks first and rates last."""
    j, l, r, p = x.j, x.l, x.r, x.p  # noqa: E741
    result = drift_definitions(model, algorithm)
    dQ = {"learning": x.learning[j, l] + x.learning[l, j]}
    dM = {"learning": x.learning[j, p + r]}
    if has_interaction(algorithm):
        dQ["interaction"] = x.interaction[j, l] + x.interaction[l, j]
        dM["interaction"] = x.interaction[j, p + r]
    if quadratic and isinstance(algorithm, SGD):
        dQ |= quadratic_terms(model, algorithm, x.gamma / (x.p * algorithm.batch_size))
    result += rate_definitions(dM, dQ, algorithm)
    if isinstance(algorithm, SGD) and algorithm.trains_readout:
        result.append(define(x.a[j], readout_terms(model, algorithm, x.rho_a), "rate"))
    result.append(define(x.risk, {"risk": risk_expression(model)}, "observable"))
    return result


def rate_definitions(
    dM: dict[str, sp.Expr], dQ: dict[str, sp.Expr], algorithm: SGD | GradientFlow
) -> list[Definition]:
    """Rates of M and Q of free rows, or on the sphere."""
    j, l, r = x.j, x.l, x.r  # noqa: E741
    result = []
    if algorithm.on_sphere:
        result.append(define(x.Phi[j, l], dQ, "intermediate"))
        dQ = {
            "free": x.Phi[j, l],
            "sphere": -x.Q[j, l] * (x.Phi[j, j] + x.Phi[l, l]) / 2,
        }
        dM = {**dM, "sphere": -x.M[j, r] * x.Phi[j, j] / 2}
    return [*result, define(x.M[j, r], dM, "rate"), define(x.Q[j, l], dQ, "rate")]


def quadratic_terms(model: Model, algorithm: SGD, prefactor: sp.Expr) -> dict[str, sp.Expr]:
    """Prefactor times S_jl: noise of the sampled gradient, and label noise."""
    sigma_prime = derivative(model.student.activation)
    prefactor = prefactor * x.a[x.j] * x.a[x.l]
    weights = [(sigma_prime, x.h[x.j]), (sigma_prime, x.h[x.l])]
    own = has_interaction(algorithm)
    square = residual_square(model, weights, own)
    return {
        "sgd_noise": prefactor * closed_or_average(square, model, weights, own),
        "label_noise": prefactor * x.Delta * noise_kernel(model),
    }


def readout_terms(model: Model, algorithm: SGD, prefactor: sp.Expr) -> dict[str, sp.Expr]:
    """Prefactor times A_j = E[E sigma(h_j)]."""
    weights = [(model.student.activation, x.h[x.j])]

    def along(species: Species) -> sp.Expr:
        factors = [model.student.activation, species.activation]
        body = species.coefficient * kernel(factors, [x.h[x.j], species.field])
        return prefactor * species.scale * sp.Sum(body, species.limits)

    if isinstance(model.teacher, MultiIndex):
        terms = {"learning": prefactor * target_product(model.teacher, weights)}
    else:
        terms = {"learning": along(teachers(model.teacher))}
    if has_interaction(algorithm):
        terms["interaction"] = along(students(model))
    return terms

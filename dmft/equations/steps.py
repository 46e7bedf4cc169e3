r"""The map of one step of large-batch SGD, n_b of order d or larger (theory/one_pass D.1, D.2).

A step adds to the overlaps, with eta = gamma/d of order one,

    dM = (eta/p) B*,   dQ = (eta/p)(B + B^T) + (eta/p)^2 [(d/n_b) S + (1 - 1/n_b) b Omega^+ b^T].

The last matrix is the Gram matrix of the population gradients. By Stein's identity b = K Omega with
K_jn = E[d psi_j / d lambda_n], so that b Omega^+ b^T = b K^T holds whatever the rank of Omega: no
inverse is formed. Where psi is no sum of products (a general loss, a rule of one's own), the mean
update along orthonormal directions z of the weights, lambda = root z, gives the same matrix:
beta_jn = E[psi_j z_n] on nodes, b Omega^+ b^T = beta beta^T.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation, OneSample
from dmft.equations.definitions import Definition, define
from dmft.equations.update.law import Cluster
from dmft.equations.update.moments import Case, expectation, slopes_by_field
from dmft.equations.update.optimiser import own_motion
from dmft.equations.update.overlaps import Moments
from dmft.equations.update.program import is_linear
from dmft.equations.update.rates import beside_overlaps
from dmft.errors import NotClosed
from dmft.gaussian.derivative import derivative
from dmft.model import SGD, Model

# The weights move by this multiple of psi x/sqrt(d), summed over a batch and divided by n_b.
STEP = x.gamma / (x.p * x.d)
# What the derivative of a step or of a kink leaves in an expression.
ON_KINKS = (sp.DiracDelta, sp.Derivative, sp.Subs)


def step_definitions(model: Model, algorithm: SGD) -> list[Definition]:
    """All definitions of the map, blocks first; the "rates" are increments per step."""
    j, l, r, p = x.j, x.l, x.r, x.p  # noqa: E741
    moments = Moments(model, algorithm)
    drifts = moments.bases
    result = [*moments.drift_definitions(), *gradient_definitions(moments)]
    dM = {name: STEP * e[j, p + r] for name, e in drifts.items()}
    dQ = {name: STEP * (e[j, l] + e[l, j]) for name, e in drifts.items()}
    dQ |= moments.quadratic(x.gamma**2 / (x.p**2 * x.d * x.n_b))
    dQ["population_gradient"] = STEP**2 * (1 - 1 / x.n_b) * x.gram[j, l]
    own = own_motion(algorithm)
    for name, rate in own.items():
        part, whole = STEP * rate, STEP * sp.Add(*own.values())
        dM[name] = part * x.M[j, r]
        dQ[name] = (part * whole + 2 * part) * x.Q[j, l] + part * STEP * (x.b[j, l] + x.b[l, j])
    if algorithm.constraint == "sphere-gradient":
        radial = {name: STEP * e[j, j] for name, e in drifts.items()}
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
    return [*result, *beside_overlaps(moments, STEP)]


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


def gradient_definitions(moments: Moments) -> list[Definition]:
    """b, its slopes K and the Gram matrix b K^T = b Omega^+ b^T, or beta and beta beta^T."""
    parts = {name: e[x.j, x.i] for name, e in moments.bases.items()}
    total = [define(x.b[x.j, x.i], parts, "intermediate")] if moments.parts else []
    if not is_linear(moments.algorithm):
        return [*total, *pull_definitions(moments)]
    return [*total, *slope_definitions(moments)]


def pull_definitions(moments: Moments) -> list[Definition]:
    """The mean update beta along orthonormal directions, and its Gram matrix.

    In clusters beta is that around the means m_c of the inputs. The mean update is then
    beta_j + sum_c w_c E_c[psi_j] m_c, whose inner products with rows of the teacher stand in b.
    """
    j, l, n = x.j, x.l, x.n  # noqa: E741
    psi = x.psi[j]

    def along(case: Case) -> sp.Expr:
        noisy, degree = sp.Integer(case.program.noisy), case.program.degree(psi)
        whole, power = case.named(psi * x.coordinate[n]), degree + 1 if degree >= 0 else degree
        return case.cluster.root * Expectation(whole, OneSample(power, noisy))

    gram = {"update": sp.Sum(x.pull[j, n] * x.pull[l, n], (n, 1, x.p + x.k))}
    result = [define(x.pull[j, n], {"update": moments.over(along)}, "intermediate")]
    shifted = [case for case in moments.cases if not case.cluster.is_centred]
    means = []
    for case in shifted:
        entry = sp.IndexedBase(f"update_{case.cluster.number}")
        mean = moments.average(case, psi, expectation)
        result.append(define(entry[j], {"update": mean}, "intermediate"))
        means.append((case.cluster, entry))
    if means:
        one = sp.Add(*(c.weight * e[j] * _toward(c, x.b, l) for c, e in means))
        two = one.xreplace({j: l, l: j})
        pairs = itertools.product(means, means)
        both = sp.Add(
            *(c.weight * e[j] * o.weight * f[l] * _between(c, o) for (c, e), (o, f) in pairs)
        )
        gram["means"] = one + two - both
    return [*result, define(x.gram[j, l], gram, "intermediate")]


def _toward(law: Cluster, base: sp.IndexedBase, index: sp.Expr) -> sp.Expr:
    """Inner product of the mean of a cluster with what has these with the teacher's rows."""
    return sp.Add(*(m * base[index, x.p + r] for r, m in enumerate(law.mean, start=1)))


def _between(one: Cluster, two: Cluster) -> sp.Expr:
    """Inner product of two means."""
    return sp.Add(*(m * _toward(two, x.Omega, x.p + r) for r, m in enumerate(one.mean, start=1)))


def slope_definitions(moments: Moments) -> list[Definition]:
    """Slopes K and the Gram matrix of a loss that is quadratic in f and y."""
    j, l = x.j, x.l  # noqa: E741
    result: list[Definition] = []
    own: dict[str, sp.Expr] = {}
    gram: dict[str, sp.Expr] = {}
    slopes: dict[sp.Expr, dict[str, sp.Expr]] = {}

    def add(place: dict[str, sp.Expr], name: str, value: sp.Expr) -> None:
        place[name] = place.get(name, sp.S.Zero) + value

    for name in moments.bases:
        along = _slopes(moments, name)
        own[name] = along.pop(x.h[j], sp.S.Zero)
        for y, value in along.items():
            group = "students" if y.has(x.h) else "teachers"
            index = next(iter(y.free_symbols & {x.u, x.r}), None)
            if index is None:
                add(gram, group, value * _along(y))
                continue
            entry = (x.K if y.base == x.h else x.K_star)[j, index]
            add(slopes.setdefault(entry, {}), name, value)
            total = x.b[l, x.position(y)] * entry
            gram[group] = sp.Sum(total, (index, 1, x.AXES[index]))
    result += [define(entry, terms, "intermediate") for entry, terms in slopes.items()]
    result.append(define(x.K_own[j], own, "intermediate"))
    gram["same_unit"] = x.b[l, j] * x.K_own[j]
    for mean, value in _along_means(moments):
        result.append(mean)
        add(gram, "means", value)
    result.append(define(x.gram[j, l], gram, "intermediate"))
    return result


def _slopes(moments: Moments, name: str) -> dict[sp.Expr, sp.Expr]:
    """Coefficients of the population gradient of neuron j along the row of each field."""
    total: dict[sp.Expr, sp.Expr] = {}
    for case in moments.cases:
        law = case.cluster
        along, rest = slopes_by_field(case.inline(x.psi[x.j], name))
        for y, value in _open_slopes(moments.model, law, rest).items():
            along[y] = along.get(y, sp.S.Zero) + value
        for y, value in along.items():
            total[y] = total.get(y, sp.S.Zero) + law.weight * law.root * value
    return total


def _along_means(moments: Moments) -> list[tuple[Definition, sp.Expr]]:
    """Mean update of each cluster, and what it adds to the Gram matrix along the mean input."""
    result = []
    for case in moments.cases:
        law = case.cluster
        if law.is_centred:
            continue
        mean = sp.IndexedBase(f"update_{law.number}")[x.j]
        parts = {name: expectation(case.inline(x.psi[x.j], name)) for name in moments.parts}
        entry = define(mean, parts, "intermediate")
        if entry.terms:
            result.append((entry, law.weight * mean * _toward(law, x.b, x.l)))
    return result


def _open_slopes(model: Model, law: Cluster, rest: Sequence[sp.Expr]) -> dict[sp.Expr, sp.Expr]:
    """E[d(a_j sigma'(h_j) g)/dy] on nodes, for the terms of a target without closed averages."""
    if not rest:
        return {}
    g, sigma = sp.Add(*rest), model.student.activation
    first, second = derivative(sigma), derivative(sigma, 2)
    fields = sorted((y for y in g.atoms(sp.Indexed) if y.base in x.FIELDS), key=str)
    inside = {y: sp.diff(g, y) for y in fields}
    if second.has(*ON_KINKS) or any(value.has(*ON_KINKS) for value in inside.values()):
        raise NotClosed(
            f"the Gram matrix of the population gradients needs derivatives of {g} and of the "
            f"student's slope {first} that are singular at kinks; write the target as a sum of "
            "products of functions of one field, or simulate"
        )
    front, slope = x.a[x.j], law.shifted(At(first, x.h[x.j]))
    bend = law.root * law.shifted(At(second, x.h[x.j]))
    result = {y: front * Expectation(slope * value) for y, value in inside.items() if value != 0}
    return result | {x.h[x.j]: front * Expectation(bend * g)}


def _along(field: sp.Expr) -> sp.Expr:
    """b_l along a teacher field, or along a combination of them."""
    entries = field.atoms(sp.Indexed)
    return sp.Add(*(field.coeff(y) * x.b[x.l, x.position(y)] for y in entries))

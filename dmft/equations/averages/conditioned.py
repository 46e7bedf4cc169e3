r"""Averages with a multi-index target: student fields integrated out, nodes for the target alone.

Given h*, the student fields are Gaussian with means m_j and a covariance R that do not depend on
the nodes of the other directions, so that

    E[w(h_1, h_2, ...) G(h*)] = E[G(h*) W(m, R)],   W(m, R) = E[w(h_1, ...) | h*],

in k dimensions instead of p + k. W is smooth in the overlaps where w jumps. What has no closed W
stays as it is: `conditioned` is a better way to compute a number, never another number.

The sign of an error e = b - a_p sigma(h_p)/p with an invertible sigma is integrated over the last
coordinate z of the nodes, on which h_p alone depends: it jumps at the z_c where h_p is the inverse
of sigma at p b/a_p, and (`without_jump`)

    E sign(z_c - z) = erf(z_c/sqrt(2)),   E z sign(z_c - z) = -sqrt(2/pi) exp(-z_c^2/2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation, GivenTeachers, free_indices
from dmft.equations.averages.passes import needs_nodes, on_nodes
from dmft.equations.definitions import Definition, define
from dmft.equations.update.terms import Degrees
from dmft.errors import NotClosed
from dmft.gaussian.closed.bivariate import BivariateNormalCDF, TwoSigns
from dmft.gaussian.closed.pair import CorrelationRoot
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.closed.switch import SWITCHES, may_hold_branches
from dmft.gaussian.derivative import derivative
from dmft.gaussian.tables.tabled import FieldTable, density, without_dirac
from dmft.model import FIELD

# Means of all fields given h* at the nodes; covariances and variances of the students given h*.
# Added to the variance of a student relative to that of its field: one that the teacher determines
# is a Gaussian narrower than rounding, not a division by zero.
NARROWEST = sp.Float(2.0**-100)


FINITE = frozenset({sp.exp, sp.erf, sp.sin, sp.cos, BivariateNormalCDF, TwoSigns, CorrelationRoot})


@lru_cache(maxsize=256)
def conditioned(average: Expectation) -> Expectation | None:
    """Average over h* alone, where the student fields can be integrated out.

    Its parts are a weight, a function of ``h_star[.]``, and a function of the conditional law:
    of `mean_at`, `rest` and `spread`.
    """
    if average.law.of_sample:  # what is defined beside it may read any field
        return None
    students: list[At] = []
    linear: list[sp.Indexed] = []
    weight: list[sp.Expr] = []
    for factor in sp.Mul.make_args(average.integrand):
        bases = {e.base for e in factor.atoms(sp.Indexed)}
        if isinstance(factor, At) and factor.field.base == x.h:
            students.append(factor)
        elif isinstance(factor, sp.Indexed) and factor.base == x.lam:
            linear.append(factor)
        elif bases <= {x.h_star} and not factor.has(sp.Sum, At):
            weight.append(factor)
        else:
            return None
    outer = sp.Mul(*weight)
    if len(linear) > 1 or not outer.has(x.h_star):
        return None
    inner = _inner(students, linear)
    return None if inner is None else Expectation(outer, inner, GivenTeachers())


def _inner(students: list[At], linear: list[sp.Indexed]) -> sp.Expr | None:
    """Conditional expectation of the student factors times at most one field."""
    if not linear:
        alone = len(students) == 1
        return _one(students[0].factor, students[0].field) if alone else _closed(students)
    if len(students) != 1:
        return None
    (at,), index = students, linear[0].indices[0]
    value = _one(at.factor, at.field)
    slope = _one(derivative(at.factor), at.field)  # Stein's identity
    if value is None or slope is None:
        return None
    return x.mean_at[index, x.node] * value + x.rest[index, at.field.indices[0]] * slope


def _one(factor: sp.Expr, field: sp.Indexed) -> sp.Expr | None:
    """E[factor(h_j) | h*]; None for factors that need a table and hold the means of a cluster."""
    mean, variance = x.mean_at[field.indices[0], x.node], x.spread[field.indices[0]]
    if may_hold_branches(factor):
        from dmft.gaussian.branch_expectation import branch_field_expectation

        whole = branch_field_expectation(factor, mean, variance)
        if whole is not None:
            return whole
    closed = _closed([At(factor, field)])
    if closed is not None or factor.has(sp.Indexed):
        return closed
    regular, spikes = without_dirac(factor)
    return FieldTable(regular, mean, variance) + sp.Add(
        *(w * density(variance, t - mean) for t, w in spikes)
    )


def _closed(students: list[At]) -> sp.Expr | None:
    """E[prod factors | h*] in closed form, if that is finite for all states."""
    if len(students) > 1 and any(may_hold_branches(at.factor) for at in students):
        return None  # it would cancel, then overflow
    fields = [at.field.indices[0] for at in students]
    mean = {j: sp.Dummy(f"m_{j}", real=True) for j in fields}
    own = {j: sp.Dummy(f"s_{j}", positive=True) for j in fields}
    both = {
        (a, b): sp.Dummy(f"c_{a}{b}", real=True) for n, a in enumerate(fields) for b in fields[:n]
    }

    def cov(a: sp.Symbol, b: sp.Symbol) -> sp.Expr:
        return own[a] if a == b else both.get((a, b), both.get((b, a)))

    try:
        value = product_expectation([at.factor for at in students], fields, cov, mean.__getitem__)
    except NotClosed:
        return None
    # Ratios to the root of a covariance are 0/0 for jumps of fields that coincide.
    kinked = len(fields) > 1 and any(at.factor.has(*SWITCHES) for at in students)
    functions = {type(f) for f in value.atoms(sp.Function)}
    if functions - FINITE or (kinked and CorrelationRoot in functions):
        return None
    entries = {m: x.mean_at[j, x.node] for j, m in mean.items()}
    entries |= {s: x.spread[j] for j, s in own.items()}
    entries |= {c: x.rest[b, a] for (a, b), c in both.items()}
    result: sp.Expr = value.xreplace(entries)
    return result


def over_teachers(found: Iterable[Expectation]) -> bool:
    """Whether all averages need nodes for the teacher fields alone."""
    return all(conditioned(average) is not None for average in found)


def conditional_definitions() -> dict[sp.Indexed, sp.Expr]:
    """Arrays of the conditional law, from the root that has the teacher fields first."""
    i, j, n, r, u = x.i, x.j, x.n, x.r, x.u
    along = sp.Sum(x.root[i, r] * x.normal[r, x.node], (r, 1, x.k))
    across = sp.Sum(x.root[i, x.k + u] * x.root[n, x.k + u], (u, 1, x.p))
    own = sp.Sum(x.root[j, x.k + u] ** 2, (u, 1, x.p)) + NARROWEST * x.Omega[j, j]
    return {x.rest[i, n]: across, x.spread[j]: own, x.mean_at[i, x.node]: along}


def signed_definitions() -> dict[sp.Indexed, sp.Expr]:
    """Chance of the sign of h* at a node, and all fields there: h* is its mean given that sign."""
    last, mean, place = x.p + 1, x.mean_at[x.i, x.node], x.place_at[x.node]
    sign, own = x.normal[last, x.node], x.root[last, last]
    width = sp.sqrt(2 * (own**2 + NARROWEST * x.Omega[last, last]))
    pull = sp.exp(-(place**2)) * sign / sp.Max(x.chance_at[x.node], NARROWEST)
    return {
        mean: sp.Sum(x.root[x.i, x.u] * x.normal[x.u, x.node], (x.u, 1, x.p)),
        place: sign * x.mean_at[last, x.node] / width,
        x.chance_at[x.node]: 1 + sp.erf(place),
        x.lam_at[x.i, x.node]: mean + sp.sqrt(2 / sp.pi) * x.root[x.i, last] * pull,
    }


def plain_weight(expr: sp.Expr) -> sp.Expr:
    """Weight at the nodes: teacher fields are their own means."""
    fields = {e: x.mean_at[x.p + e.indices[0], x.node] for e in expr.atoms(sp.Indexed)}
    return expr.xreplace(fields)


def sums_inside(expr: sp.Expr) -> sp.Expr:
    """Take sums over neurons into the averages that they add: one pass over the nodes, not many."""
    if isinstance(expr, Expectation) or not on_nodes(expr):
        return expr
    if not isinstance(expr, sp.Sum):
        return expr.func(*(sums_inside(e) for e in expr.args))
    factors = sp.Mul.make_args(sums_inside(expr.function))
    inside = [f for f in factors if f.has(Expectation)]
    whole = len(inside) == 1 and isinstance(inside[0], Expectation) and _is_whole(inside[0])
    if not whole or len(expr.limits) != 1:
        return expr
    index = expr.limits[0][0]
    bound: list[sp.Expr] = []
    free: list[sp.Expr] = []
    for f in (*(f for f in factors if f is not inside[0]), *sp.Mul.make_args(inside[0].integrand)):
        (bound if index in free_indices(f) else free).append(f)
    return Expectation(sp.Mul(*free, sp.Sum(sp.Mul(*bound), *expr.limits)))


def _is_whole(average: Expectation) -> bool:
    """Whether all fields of an average are on nodes."""
    return needs_nodes(average) and conditioned(average) is None


def smooth(found: Iterable[Expectation]) -> bool:
    """Whether nothing that is evaluated at nodes has a kink or a jump."""
    found = tuple(found)
    if any(a.law.placed for a in found):  # a norm has a cone
        return False
    # Of samples the degree counts kinks, also of named functions; signs of readouts are constants.
    parts = ((average, conditioned(average)) for average in found if not average.law.of_sample)
    kinked = any((c.parts[0] if c else a.integrand).has(*SWITCHES) for a, c in parts)
    return not kinked and all(a.law.degree >= 0 for a in found)


def kinked_students(found: Iterable[Expectation]) -> bool:
    """Whether student fields that are integrated out have kinks."""
    return any(
        conditioned(average) is not None
        and any(a.factor.has(*SWITCHES) for a in average.integrand.atoms(At) if a.field.base == x.h)
        for average in found
    )


def steepness(found: Iterable[Expectation]) -> int:
    """Largest degree of what steep functions turn in; 0 for functions without thin layers."""
    degrees, known = Degrees({}), [0]
    for average in found:
        degrees.of(average.integrand)
        known.append(average.law.layers)
    return max(degrees.steep, *known)


# The sign of an error, over the last field --------------------------------------------------------

# Where a bounded function is one by rounding; how far away the inverse of larger values is.
LARGEST, LAST, FAR = 1 - sp.Rational(1, 2**53), 1 + sp.Rational(1, 2**50), sp.Integer(2) ** 50


class Jump(NamedTuple):
    """psi = front sign(error), error = rest + slope a_p sigma(h_p), sigma with an inverse."""

    psi: Definition
    sign: sp.sign
    slope: sp.Expr
    sigma: sp.Expr


@lru_cache(maxsize=64)
def jump_of(definitions: tuple[Definition, ...]) -> Jump | None:
    """The sign in the last definition of a sample, if it may be averaged over the last field."""
    psi = definitions[-1]
    signs = [s for s in psi.expr.atoms(sp.sign) if s.has(*(d.target for d in definitions))]
    if len(signs) != 1 or any(a.factor.has_free(FIELD) for a in psi.expr.atoms(At)):
        return None
    scalars = {d.target: d.expr for d in definitions if isinstance(d.target, sp.Symbol)}
    error = signs[0].args[0]
    while error.has(*scalars):
        error = sp.expand_mul(error.xreplace(scalars))
    outputs = [s for s in error.atoms(sp.Sum) if s.has(x.h)]
    parts = [a for s in outputs for a in s.atoms(At)]
    if len(outputs) != 1 or len(parts) != 1:
        return None
    slope, plain = error.coeff(outputs[0]), sp.Sum(x.a[x.u] * parts[0], (x.u, 1, x.p))
    rest = sp.expand(error - slope * outputs[0])
    if outputs[0] != plain or sp.Tuple(slope, rest).has(x.h, x.xi) or slope.has(At, sp.Indexed):
        return None
    sigma = parts[0].factor
    return None if inverse(sigma, FIELD) is None else Jump(psi, signs[0], slope, sigma)


def inverse(function: sp.Expr, value: sp.Expr) -> sp.Expr | None:
    """Field at which a rising function has a value; far away beyond the values that it takes."""
    beyond = sp.S.Zero
    while function != FIELD:
        if isinstance(function, sp.Add | sp.Mul):
            is_sum = isinstance(function, sp.Add)
            constant, function = function.as_independent(FIELD, as_Add=is_sum)
            if not (is_sum or constant.is_positive) or constant == (0 if is_sum else 1):
                return None
            value = value - constant if is_sum else value / constant
        elif isinstance(function, sp.tanh | sp.erf):
            beyond += FAR * sp.sign(value) * sp.Heaviside(sp.Abs(value) - LAST)
            v = sp.Max(-LARGEST, sp.Min(LARGEST, value))
            is_tanh, function = isinstance(function, sp.tanh), function.args[0]
            value = (sp.log(1 + v) - sp.log(1 - v)) / 2 if is_tanh else sp.erfinv(v)
        elif isinstance(function, sp.sinh):
            value, function = sp.asinh(value), function.args[0]
        else:
            return None
    return value + beyond


def without_jump(
    definitions: Sequence[Definition], found: Iterable[Expectation]
) -> tuple[list[Definition], dict[Expectation, Expectation]]:
    """Means of psi and of psi z over the last coordinate z, and averages in these."""
    solved = [a for a in found if a.law.solved]
    samples = tuple(d for d in definitions if d.role == "sample")
    jump = jump_of(samples) if solved else None
    if jump is None:
        return list(definitions), {}
    psi, sign, slope, sigma = jump
    last, field, own = x.p + x.k, x.h[x.p], x.a[x.p]
    z, spread = x.normal[last, x.node], x.root[x.p, last] ** 2 + NARROWEST * x.Omega[x.p, x.p]
    at = inverse(sigma, At(sigma, field) - sign.args[0] / (slope * own))
    place = z + (at - field) / sp.sqrt(spread)
    # The sign of a readout, one at zero.
    front = sp.sign(slope) * sp.sign(sp.sign(own) + sp.Rational(1, 2))
    mean = -front * sp.erf(place / sp.sqrt(2))
    pull = front * sp.sqrt(2 / sp.pi) * sp.exp(-(place**2) / 2)
    along = x.psi_pull[psi.indices]
    both = [
        define(target, {"mean": psi.expr.xreplace({sign: value})}, "sample")
        for target, value in ((psi.target, mean), (along, pull))
    ]
    changed = {}
    for average in solved:
        value, bases = average.integrand, (x.lam, x.coordinate)
        fields = [f for f in sp.Mul.make_args(value) if getattr(f, "base", 0) in bases]
        for field in fields:
            (row,) = field.indices
            entry = x.root[row, last] if field.base == x.lam else sp.KroneckerDelta(row, last)
            value = value.xreplace({field: field - entry * z})
            value += average.integrand.xreplace({psi.target: along, field: entry})
        changed[average] = Expectation(value, average.law)
    return [y for d in definitions for y in (both if d == psi else [d])], changed

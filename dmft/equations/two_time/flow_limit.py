r"""Definitions of a descent as its step goes to zero: rates in the time eta * steps.

Equation    X(t + 1) = X(t) + eta rate gives dX/dt; on the sphere, where each row is divided by its
            length 1 + eta nu_j after the step, dX/dt = (rate of free rows) - nu_j X. nu_j is the
            rate of w_j w_j / (2 d) of free rows: the Lagrange multiplier of the length
Source      theory/batch_reuse B.3
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, base_name, define
from dmft.equations.two_time.descent_process import (
    C_free,
    C_l,
    C_theta,
    G_free,
    H_at,
    M,
    M_free,
    P_inverse,
    PathSlope,
    Q_free,
    R_free,
    R_l,
    R_theta,
    driving,
    eta,
    field_at,
    g_at,
    q,
    s,
    t,
    u,
)
from dmft.errors import BadParameter

Process = Mapping[sp.IndexedBase, Definition]

# What is of the order of a step off the diagonal.
DENSITIES = ("R_theta", "R_l")
# R_l at equal times: the average curvature.
drag = sp.IndexedBase("R_l_equal")
# Rate at which free rows would grow.
multiplier = sp.IndexedBase("multiplier")
# What moves freely in a step, before rows are divided by their lengths.
FREE = {M: M_free, R_theta: R_free, C_theta: C_free}
# Kernels of two rows of the same neuron: the later time first, so that equal ones are seen.
OF_PAIRS = (C_theta, C_l)


def flow_definitions(process: Process) -> tuple[Definition, ...]:
    """Field of a sample; rates of M, R_theta and C_theta; what keeps lengths, where that is."""
    field = process[field_at]
    terms = {name: _limit(expr, eta**0) for name, expr in field.terms}
    first = define(field.target, terms, "intermediate")
    if Q_free not in process:
        return first, *(_rate(process[base], base) for base in FREE)
    free = {base: _rate(process[moved], base) for base, moved in FREE.items()}
    length = _growth(process, free)
    return first, length, *(_divided(process[base], free[base]) for base in FREE)


def kick_of(process: Process) -> sp.Expr:
    """R_theta just after s: what a force on the weights does at once."""
    terms = dict(process[FREE[R_theta] if Q_free in process else R_theta].terms)
    return _limit(terms.get("kick", sp.S.Zero), eta).xreplace({sp.KroneckerDelta(s, t): 1})


def equal_response_of(process: Process) -> Definition:
    """R_l at equal times, where the gradient moves with its own field."""
    d = process[R_l]
    slope = PathSlope(g_at[t, x.j], driving[t, x.l])
    terms = {n: e.xreplace({s: t}).xreplace({slope: H_at[t, x.j, x.l]}) for n, e in d.terms}
    return define(drag[t, x.j, x.l], terms, "intermediate")


def _rate(definition: Definition, base: sp.IndexedBase) -> Definition:
    """Rate of X in t from X(t + 1) = X(t) + eta rate; the kick of R_theta is its beginning."""
    assert isinstance(definition.target, sp.Indexed)
    now = base[tuple(y.xreplace({t + 1: t}) for y in definition.target.indices)]
    size = eta if base_name(now) in DENSITIES else sp.S.One
    terms = {name: expr for name, expr in definition.terms if name != "kick"}
    moved = _without_what_stays(definition, terms, now)
    limits = {name: _limit(sp.expand(expr), eta * size) for name, expr in moved.items()}
    return define(now, limits, "rate")


def _without_what_stays(
    definition: Definition, terms: Mapping[str, sp.Expr], now: sp.Expr
) -> dict[str, sp.Expr]:
    """Terms that vanish with the step: one of them holds what is there before it, `now`."""
    stays = {name: expr.subs(eta, 0) for name, expr in terms.items()}
    if sp.Add(*stays.values()) != now:
        raise BadParameter(
            f"{definition.target} is {sp.Add(*stays.values())} after a step of vanishing "
            f"learning_rate, not {now}: there is no limit of small steps; a term is the change "
            "in one step, and a rate must be multiplied by learning_rate"
        )
    return {name: expr - stays[name] for name, expr in terms.items()}


def _growth(process: Process, free: Process) -> Definition:
    """Half the rate of the squared length of each free row, from the overlaps after a step."""
    covariance = _rate_at_equal_times(process[G_free], free[C_theta])
    terms: dict[str, sp.Expr] = {}
    for _, expr in process[Q_free].terms:
        for entry in expr.atoms(sp.Indexed):
            if entry.base == G_free:
                for name, rate in covariance.items():
                    terms[name] = terms.get(name, sp.S.Zero) + expr.coeff(entry) * rate
            elif entry.base == M_free:
                _, j, r = entry.indices
                for name, rate in free[M].terms:
                    moved = _before(expr.xreplace({entry: rate.xreplace({x.j: j, x.r: r})}))
                    terms[name] = terms.get(name, sp.S.Zero) + moved
    found = {name: _sorted(y.xreplace({x.l: x.j})) / 2 for name, y in terms.items()}
    return define(multiplier[t, x.j], found, "intermediate")


def _rate_at_equal_times(step: Definition, earlier: Definition) -> dict[str, sp.Expr]:
    """Rate of the covariance of two free rows: of the first, then of the second, row."""
    now = C_theta[t, t, x.l, x.j]
    moved = _without_what_stays(step, {name: _before(expr) for name, expr in step.terms}, now)
    terms = {name: _limit(sp.expand(expr), eta) for name, expr in moved.items()}
    # What stays of the first row meets the second as it is after the step.
    for name, rate in earlier.terms:
        turned = rate.xreplace({s: t, x.j: x.l, x.l: x.j})
        terms[name] = terms.get(name, sp.S.Zero) + turned
    return terms


def _before(expr: sp.Expr) -> sp.Expr:
    """What the rows of a step are to leading order: those before it."""
    known = {free: base for base, free in FREE.items()}
    entries = {
        e: known[e.base][(t, *e.indices[1:])] for e in expr.atoms(sp.Indexed) if e.base in known
    }
    return expr.xreplace(entries)


def _sorted(expr: sp.Expr) -> sp.Expr:
    """An expression where equal products over kernels and over the teacher read the same."""
    swap: dict[sp.Basic, sp.Basic] = {}
    for e in expr.atoms(sp.Indexed):
        if e.base in OF_PAIRS and e.indices[1] == t:
            pairs = (e.indices[0], e.indices[2]), (e.indices[1], e.indices[3])
            (first, j), (second, l) = sorted(pairs, key=lambda y: (y[0] != t, y[1] != x.j))  # noqa: E741
            swap[e] = e.base[first, second, j, l]
    expr = expr.xreplace(swap)
    for total in expr.atoms(sp.Sum):
        if {y[0] for y in total.limits} == {x.r, q}:
            turned = total.function.xreplace({x.r: q, q: x.r})
            turned = turned.xreplace({P_inverse[q, x.r]: P_inverse[x.r, q]})
            first, _ = sorted((total.function, turned), key=sp.default_sort_key)
            front = sp.Mul(*(y for y in sp.Mul.make_args(first) if not y.has(sp.Indexed)))
            expr = expr.xreplace({total: front * sp.Sum(first / front, *total.limits)})
    return expr


def _divided(definition: Definition, free: Definition) -> Definition:
    """Rate where rows are divided by what they have become, 1 + eta multiplier."""
    rate, known = sp.Dummy("rate"), {free: base for base, free in FREE.items()}
    # Of two times, at s < t.
    apart = (y for y in definition.expr.atoms(sp.KroneckerDelta) if y.has(s))
    swap: dict[sp.Basic, sp.Basic] = dict.fromkeys(apart, sp.S.Zero)
    for e in definition.expr.atoms(sp.Indexed):
        if e.base in known:
            swap[e] = _before(e) + eta * rate
        elif e.base == Q_free:
            swap[e] = 1 + 2 * eta * multiplier[t, e.indices[1]]
    change = sp.expand(sp.diff(definition.expr.xreplace(swap), eta).subs(eta, 0))
    front = change.coeff(rate)
    terms = {name: front * expr for name, expr in free.terms}
    return define(free.target, {**terms, "sphere": change - front * rate}, "rate")


def _limit(expr: sp.Expr, divisor: sp.Expr) -> sp.Expr:
    """Leading order of expr / divisor, sums over times as integrals."""
    return sp.Add(*(_continued(term, divisor) for term in sp.Add.make_args(expr)))


def _continued(term: sp.Expr, divisor: sp.Expr) -> sp.Expr:
    """One product: a coefficient times an entry or a sum."""
    sums = [f for f in sp.Mul.make_args(term) if isinstance(f, sp.Sum)]
    rest = sp.Mul(*(f for f in sp.Mul.make_args(term) if f not in sums))
    densities = {e: eta * e for e in rest.atoms(sp.Indexed) if base_name(e) in DENSITIES}
    whole = rest.xreplace(densities) * sp.Mul(*(_integral(y) for y in sums)) / divisor
    return sp.expand(sp.cancel(sp.expand(whole)) if not whole.has(sp.Integral) else whole).subs(
        eta, 0
    )


def _integral(total: sp.Sum) -> sp.Expr:
    """A sum over a time as an integral, and what the response at equal times adds."""
    times = [y for y in total.limits if y[0] in (s, u)]
    neurons = [y for y in total.limits if y[0] not in (s, u)]
    if not times:
        return total
    ((symbol, low, high),) = times
    body = total.function
    ends = {s + 1: s, t - 1: t, s - 1: s}
    bounds = (symbol, ends.get(low, low), ends.get(high, high))
    power, inside = _power(body)
    result = power / eta * sp.Integral(sp.Sum(inside, *neurons), bounds)
    equal = [e for e in body.atoms(sp.Indexed) if e.base == R_l and symbol in e.indices]
    if equal and high == t:
        (entry,) = equal
        at_end = body.xreplace({entry: drag[(t, *entry.indices[2:])]}).xreplace({symbol: t})
        factor, shown = _power(at_end)
        result += factor * sp.Sum(shown, *neurons)
    return result


def _power(body: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Powers of the step that the densities of a product carry, and the product."""
    factors = [f for f in sp.Mul.make_args(body) if isinstance(f, sp.Indexed)]
    count = sum(base_name(f) in DENSITIES for f in factors)
    return eta**count, body

r"""Closed forms of the time from a small overlap to a larger one, one for each kind of escape.

With u = (1/p) sum_jr M_jr^2 and an information exponent l the overlap obeys

    l = 1   dm/dt = c - b m                      (drift)
    l = 2   du/dt = 2 Lambda u, or 2 u (Lambda - A u) for one neuron on the sphere, or at a rate
            lambda(q(t)) while free lengths relax, dq/dt = q f(q)
    l >= 3  dm/dt = c m^(l-1) - b m              (leading power against the noise)

Each is integrated here, symbolically, and its rates are optimised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.escape.facts import INSTEAD, Facts
from dmft.equations.escape.uninformative import mu, q
from dmft.equations.symbols import gamma
from dmft.errors import BadParameter

u_0, u_1 = sp.symbols("u_0 u_1", positive=True)
RATE, CURVATURE = sp.symbols("Lambda A", positive=True)
SIGNAL, DECAY = sp.Symbol("c", positive=True), sp.Symbol("b", real=True)
q_star, q_plus = sp.symbols("q_* q_+", positive=True)
# Value of widths and noise at which the sign of a symbolic coefficient is tried out.
TRIED = 5


@dataclass(frozen=True)
class Law:
    """Time from u_0 to u_1, and what follows from it.

    `exponent` is the information exponent l, `time` t in u_0, u_1 and the abbreviations `where` in
    gamma, Delta and the widths; `growth` Lambda, the rate of M on the plateau (0 unless l = 2);
    `limit` the largest u that is reached, u_infinity. The learning rates `maximal` and `optimal`
    are in u_0 and u_1 unless l = 2, None for gradient flow and where there is no closed form;
    `direction` is the sign of the overlap that is learned.
    """

    facts: Facts
    kind: str
    exponent: int
    time: sp.Expr
    where: tuple[tuple[sp.Symbol, sp.Expr], ...]
    growth: sp.Expr
    limit: sp.Expr
    maximal: sp.Expr | None
    optimal: sp.Expr | None
    direction: int = 1

    @property
    def expr(self) -> sp.Expr:
        """The time with all abbreviations written out."""
        return self.time.subs(dict(self.where))

    @property
    def exact(self) -> bool:
        """Whether the law is the whole equation of motion."""
        return self.kind == "logistic"


def law_of(facts: Facts, length: sp.Expr = sp.S.One) -> Law:
    """Choose, integrate and optimise the law of these equations; `length` is q at the start."""
    exponent = facts.exponent
    if exponent == 2:
        return _spherical(facts) if facts.sphere else _free(facts, length)
    if not (facts.single and facts.sphere):
        raise BadParameter(
            f"information exponent {exponent} has a formula only for one neuron on the sphere "
            f'(constraint="sphere"); {INSTEAD}'
        )
    return _powered(facts, exponent)


def _between(
    integrand: sp.Expr, y: sp.Symbol, poles: Sequence[sp.Expr], start: sp.Expr, end: sp.Expr
) -> sp.Expr:
    """Integral of a proper rational function with these simple poles; a pole stays on one side."""
    total, fractions = sp.S.Zero, sp.S.Zero
    for pole in poles:
        residue = sp.cancel(integrand * (y - pole)).subs(y, pole)
        fractions += residue / (y - pole)
        ratio = end / start if pole == 0 else (pole - end) / (pole - start)
        total += sp.simplify(residue) * sp.log(ratio)
    assert sp.simplify(integrand - fractions) == 0, f"{integrand} has other poles than {poles}"
    return total


def _spherical(facts: Facts) -> Law:
    """L = 2 at fixed lengths: exponential growth, or the whole logistic equation."""
    drift = sp.Poly(facts.drift, mu)
    growth = sp.factor(drift.coeff_monomial(mu))
    _check_growth(facts, growth)
    rates = _linear_rates(growth)
    if not (facts.ends and set(drift.monoms()) <= {(1,), (3,)}):
        time = sp.log(u_1 / u_0) / (2 * RATE)
        return Law(facts, "linear", 2, time, ((RATE, growth),), growth, sp.oo, *rates)
    curvature = sp.factor(-drift.coeff_monomial(mu**3))
    where = ((RATE, growth), (CURVATURE, curvature))
    return Law(facts, "logistic", 2, _logistic(), where, growth, growth / curvature, *rates)


@lru_cache(maxsize=1)
def _logistic() -> sp.Expr:
    """Time in which u grows from u_0 to u_1 by du/dt = 2 u (RATE - CURVATURE u)."""
    u = sp.Dummy("u", positive=True)
    per_u = 1 / (2 * u * (RATE - CURVATURE * u))
    return _between(per_u, u, (sp.S.Zero, RATE / CURVATURE), u_0, u_1)


@lru_cache(maxsize=64)
def _linear_rates(growth: sp.Expr) -> tuple[sp.Expr | None, sp.Expr | None]:
    """Gamma where the growth ends, and where steps ~ 1 / (gamma growth) are fewest."""
    if not growth.has(x.gamma):
        return None, None
    (maximal,) = sp.solve(growth, x.gamma)
    (optimal,) = sp.solve(sp.diff(x.gamma * growth, x.gamma), x.gamma)
    return sp.factor(maximal), sp.factor(optimal)


def _free(facts: Facts, length: sp.Expr) -> Law:
    """L = 2 while the lengths relax to their plateau q_*: dq/dt = q f(q), dM/dt = lambda(q) M."""
    per_length = sp.cancel(facts.length_rate / q)
    bracket = sp.Poly(per_length, q) if per_length.is_polynomial(q) else None
    rate = sp.expand(facts.drift.coeff(mu, 1))
    linear = rate.is_polynomial(q) and sp.degree(rate, q) == 1
    if bracket is None or not linear or bracket.degree() not in (1, 2):
        raise BadParameter(
            "free lengths relax by a closed form for quadratic activations and the squared loss "
            f'only; put the students on the sphere (constraint="sphere"), or {INSTEAD}'
        )
    low, high = _roots(bracket)
    poles = (sp.S.Zero,) if high == sp.oo else (sp.S.Zero, q_plus)
    # log u grows by 2 lambda(q_*) t and by what the transient adds.
    plateau = rate.subs(q, q_star)
    moving = bracket.LC() * q * (q - q_star) * sp.Mul(*(q - pole for pole in poles[1:]))
    added = sp.cancel(sp.expand(2 * (rate - plateau)) / moving)
    time = (sp.log(u_1 / u_0) - _between(added, q, poles, length, q_star)) / (2 * plateau)
    growth = plateau.subs(q_star, low)
    _check_growth(facts, growth)
    if high == sp.oo:
        return Law(facts, "transient", 2, time, ((q_star, low),), growth, sp.oo, None, None)
    rates = _free_rates(bracket, rate, length)
    where = ((q_star, low), (q_plus, high))
    return Law(facts, "transient", 2, time, where, growth, sp.oo, *rates)


def _roots(bracket: sp.Poly) -> tuple[sp.Expr, sp.Expr]:
    """Stable and unstable length: roots of f, in the form without cancellation for small gamma."""
    coefficients = [sp.factor(c) for c in bracket.all_coeffs()]
    if len(coefficients) == 2:
        return sp.factor(-coefficients[1] / coefficients[0]), sp.oo
    a, b, c = coefficients
    root = sp.sqrt(sp.factor(b**2 - 4 * a * c))
    return 2 * c / (-b + root), (-b + root) / (2 * a)


def _free_rates(bracket: sp.Poly, rate: sp.Expr, length: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    r"""Largest and fastest gamma, along the curve gamma = G(q) on which q is stationary.

    G rises from gradient flow's length to where both lengths meet, and falls beyond. Three things
    end the escape: the plateau vanishes (top of G), it does not feed the overlap (lambda = 0), or
    the run starts above the unstable length. Steps ~ 1 / (G lambda) are fewest where that product
    is largest, between gradient flow's length and lambda = 0.
    """
    still, moved = (sp.factor(bracket.as_expr().expand().coeff(x.gamma, n)) for n in (0, 1))
    G = sp.cancel(-still / moved)
    (no_growth,) = sp.solve(rate, q)
    if sp.simplify(no_growth - length) == 0:
        # Below the top the first limit, above it the second one: both are this.
        maximal = sp.factor(G.subs(q, length))
    else:
        at_top = sp.simplify(_positive_root(sp.discriminant(bracket.as_expr(), q)))
        # The sign of G' says on which side of its top a length lies; its denominator is positive.
        climb = sp.numer(sp.together(sp.diff(G, q)))
        before, beyond = (sp.factor(climb.subs(q, y)) for y in (no_growth, length))
        fed = sp.Piecewise((sp.factor(G.subs(q, no_growth)), before > 0), (at_top, True))
        held = sp.Piecewise((sp.factor(G.subs(q, length)), beyond < 0), (at_top, True))
        maximal = sp.Min(fed, held)
    # Where the slope of G lambda vanishes, with q eliminated.
    slope = sp.numer(sp.together(sp.diff(sp.cancel(G * rate), q)))
    on_curve = sp.numer(sp.together(still + x.gamma * moved))
    eliminated = sp.factor_list(sp.resultant(slope, on_curve, q), x.gamma)[1]
    (condition,) = (part for part, _ in eliminated if part.has(x.gamma))
    return maximal, sp.simplify(_positive_root(condition))


def _positive_root(quadratic: sp.Expr) -> sp.Expr:
    """The positive one of two roots gamma of opposite signs."""
    a, b, c = sp.Poly(quadratic, x.gamma).all_coeffs()
    tried = (c.subs(dict.fromkeys(c.free_symbols, TRIED)) < 0) == True  # noqa: E712
    a, b, c = (sp.factor(-y if tried else y) for y in (a, b, c))  # now c > 0 > a
    return 2 * c / (-b + sp.sqrt(sp.factor(b**2 - 4 * a * c)))


def _powered(facts: Facts, exponent: int) -> Law:
    """L = 1 and l >= 3: with v = m^-(l-2), dv/dt = -(l-2) (c - b v).

    At l = 1 the overlap is pushed from the start on, and a learning rate that adds to b slows it.
    """
    drifts = exponent == 1
    signal = facts.flow.coeff(mu, exponent - 1)
    # An odd power pushes to one side, from which the overlap of that sign is learned.
    direction = -1 if exponent % 2 and signal.is_negative else 1
    signal *= direction
    if signal.is_negative:
        raise BadParameter(_repelled(exponent))
    decay = sp.factor(-sp.expand(facts.drift - (0 if drifts else facts.flow)).coeff(mu, 1))
    v, order = sp.Dummy("v", real=True), exponent - 2
    v_0, v_1 = (u ** -sp.Rational(order, 2) for u in (u_0, u_1))
    where: tuple[tuple[sp.Symbol, sp.Expr], ...] = ((SIGNAL, signal),)
    maximal = optimal = None
    if decay == 0:
        time = ((v_1 - v_0) if drifts else (v_0 - v_1)) / (abs(order) * SIGNAL)
    else:
        time = _between(-1 / (order * (SIGNAL - DECAY * v)), v, (SIGNAL / DECAY,), v_0, v_1)
        where = (*where, (DECAY, decay))
        if decay.has(x.gamma):
            (maximal,) = sp.solve(decay * (v_1 if drifts else v_0) - signal, x.gamma)
            optimal = None if drifts else largest_share() * maximal
    kind = "drift" if drifts else "power"
    return Law(facts, kind, exponent, time, where, sp.S.Zero, sp.oo, maximal, optimal, direction)


@lru_cache(maxsize=1)
def largest_share() -> sp.Expr:
    r"""Y = gamma / gamma_max with the fewest steps to leave for good (l >= 3).

    Steps are proportional to -log(1 - y) / y^2; with 1 - y = e^-s its minimum is at
    e^s = 1 + 2 s, s > 0.
    """
    s = sp.Symbol("s", real=True)
    steps = s / (1 - sp.exp(-s)) ** 2
    condition = sp.expand(sp.simplify(sp.diff(steps, s) * (1 - sp.exp(-s)) ** 3) * sp.exp(s))
    roots = sp.solve(condition, s)
    (root,) = (r for r in roots if sp.N(r) > sp.Rational(1, 2))
    return 1 - sp.exp(-root)


def _check_growth(facts: Facts, growth: sp.Expr) -> None:
    """Refuse a plateau from which even gradient flow does not grow."""
    tried = growth.subs({width: TRIED for width in facts.widths if width.is_Symbol})
    slow = sp.limit(tried, x.gamma, 0, "+") if tried.has(x.gamma) else tried
    if slow.is_number and not sp.N(slow) > 0:
        raise BadParameter(_repelled(2))


def _repelled(exponent: int) -> str:
    return (
        f"the overlap shrinks from a random start (information exponent {exponent}; the deciding "
        "coefficients of student and teacher have opposite signs): nothing is learned; change the "
        "sign of a readout, or the activation"
    )


# The largest gamma that escapes, that with the fewest steps, and the largest one at which the
# perfect solution is stable.
Rates = tuple[sp.Expr, sp.Expr | None, sp.Expr | None]
KINDS = {
    "logistic": "exact in the limit of infinite dimension: the whole equation of the overlap",
    "linear": "leading logarithm: the overlaps grow independently until u is no longer small",
    "transient": "leading logarithm, with the relaxation of the lengths integrated exactly",
    "power": "leading power of the overlap against the noise of the samples",
    "drift": "linear in the overlap, which grows from the start",
}


def validity_text(law: Law, length: sp.Expr, rates: Rates | None) -> str:
    """Sentences, one a line; gradient flow has no rates."""
    lines = [
        "Weak recovery only: the time to leave the uninformative fixed point. "
        f"{KINDS[law.kind].capitalize()}; information exponent {law.exponent}.",
        "Deterministic equations from u_0 = k/d; .mean_time and .std average over random starts "
        "and the noise of the samples, which halves the effective dimension at the optimal rate "
        "of one neuron.",
    ]
    if law.kind in ("linear", "transient"):
        small = "u <= 1e-3 or T <= 0.01" if law.kind == "linear" else "u <= 1e-3"
        lines.append(
            f"Small thresholds: within 1 % of the equations for {small} at d >= 1e6 and gamma/p <= "
            "1/12; 1 to 5 % late at T = 0.1, 6 to 25 % at T = 0.5, less as d grows."
        )
    if law.kind == "transient":
        lines.append(
            "Fractions of the plateau, T <= 0.01: within 1 % for p <= 2, 3 % for p <= 32 at "
            "d >= 1e6 and 1 % at d >= 1e9, where a run reaches its plateau before it escapes."
        )
    if rates is not None:
        lines += _rates(*rates)
    if law.kind == "transient":
        lines += _relaxation(law, length)
    if law.kind == "power":
        lines.append(
            "At more than half of the maximal rate the noise dominates and times are heavy tailed. "
            "At the optimal rate (0.7153 of it), for a matched third Hermite polynomial, the mean "
            "from a fixed m_0 = d^(-1/2) is 1.55 times this time and from random starts 2.3 times "
            "(large d, mean first passage; 1.63 and 2.51 at d = 100, where 400 and 200 overlap "
            "chains gave 1.68 +- 0.09 and 2.51 +- 0.14): use .mean_time or dmft.simulate."
        )
    return "\n".join(lines)


def _rates(maximal: sp.Expr, optimal: sp.Expr | None, perfect: sp.Expr | None) -> list[str]:
    """Both optima: of the escape and of what is learned."""
    lines = [f"Escapes for gamma < {_shown(maximal)}."]
    if optimal is not None:
        lines.append(f"Fastest weak recovery: gamma = {_shown(optimal)}.")
    if perfect is None:
        return lines
    lines.append(
        f"The perfect solution is stable for gamma < {_shown(perfect)} "
        f"(fastest learning near half of it, {_shown(perfect / 2)}): above it, students that "
        "have escaped align with each other, and the risk rises again after a small dip."
    )
    if optimal is not None and (optimal - perfect).is_number and optimal > perfect:
        lines.append(
            "Here the rate of the fastest weak recovery lies above that limit: at this rate "
            "nothing is learned in the end."
        )
    return lines


def _relaxation(law: Law, length: sp.Expr) -> list[str]:
    """How far the risk falls before anything is learned, for gradient flow and here."""
    risk = law.facts.risk.coeff(mu, 0)
    plateau = dict(law.where)[q_star]
    flow = _rooted(plateau.subs(gamma, 0))
    start = risk.subs(q, length)
    drop = sp.factor(sp.simplify(1 - risk.subs(q, flow) / start))
    return [
        f"The risk relaxes by the fraction {_shown(drop)} (gamma -> 0) while the lengths settle, "
        'before anything is learned: a fraction of the start must be larger; reference="plateau" '
        "and overlap= have no such limit."
    ]


def _rooted(expr: sp.Expr) -> sp.Expr:
    """Square roots of squares taken."""
    half = sp.Rational(1, 2)
    return expr.replace(
        lambda e: e.is_Pow and abs(e.exp) == half, lambda e: sp.factor(e.base) ** e.exp
    )


def _shown(value: sp.Expr) -> str:
    """A number to six digits, or the expression."""
    return f"{float(value):.6g}" if value.is_number else str(sp.simplify(value))

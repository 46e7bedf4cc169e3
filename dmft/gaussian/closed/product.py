r"""Closed form of E[prod_i f_i(x_i)] for jointly Gaussian fields, from a covariance function.

Rules (theory/one_pass A.1, A.3, A.4, A.6): a Gaussian factor is tilted out by a rank-one downdate
of the covariance, one field at a time (the determinant form loses digits for large nearly parallel
fields); a Dirac factor conditions the law on its field; a polynomial goes by Wick diagrams, beside
error functions and signs by Stein, whose derivative of a sign is a Dirac factor; what is left are
products of signs and error functions. A sign is the limit of erf(u / (s sqrt 2)) as the scale s
goes to 0, so one table serves both.

====================  =======================================  =========================
average               value                                    source
====================  =======================================  =========================
E[erf_s(x)]           erf(m / sqrt(2 (C + s^2)))               theory/one_pass A.6
E[erf_s(x) erf_t(y)]  (2/pi) arcsin(rho), zero means           theory/one_pass A.2 (arcsine law)
                      TwoSigns(h, k, rho), any means           theory/one_pass A.6
four, zero means      FourSigns(C + diag(s^2))                 theory/one_pass A.3, A.5
odd products          0, zero means                            symmetry
====================  =======================================  =========================

Derived in derivations/erf_integrals.py and derivations/relu_integrals.py;
rho = C_xy / sqrt((C_xx + s^2)(C_yy + t^2)). Orthant probabilities of up to three fields are
sums of these: 8 P_3 = 1 + sum_{i<j} E[sign_i sign_j] (theory/one_pass A.3).

Witnesses, of different kinds for each entry (files of tests/gaussian unless named otherwise):

- one field: split quadrature (`test_gaussian_law`), balls (`test_table_judged_by_certificates`).
- two, zero means: graded quadrature over 24 decades (`test_random_covariances`), balls, Price's
  identity (`test_switching_closed_forms`).
- two, any means: the same quadrature with means, conditioning in 50 digits and Owen's T function
  (`tests/special/test_bivariate_normal`), reference values (`test_gaussian_vectors`).
- four: Price's integral over Gram-Schmidt angles (`test_random_covariances`), balls, samples
  (`tests/special/test_orthant`).
- odd: samples and quadrature (`test_switching_closed_forms`), balls of three ReLUs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations
from itertools import product as cartesian
from typing import Any

import sympy as sp

from dmft.errors import NotClosed, ShapeMismatch
from dmft.gaussian import LISTENER, refuse
from dmft.gaussian.closed.bivariate import TwoSigns
from dmft.gaussian.closed.factor import WAVES, Term, parse_factor
from dmft.gaussian.closed.guard_digits import FLOAT_DIGITS, collapsed, guarded, in_real_form
from dmft.gaussian.closed.orthant import FourSigns, FourSignsMoment, PairOfSignsMoment, signs_moment
from dmft.gaussian.closed.pair import CorrelationAngle
from dmft.gaussian.closed.wick import times, wick_expression
from dmft.gaussian.law import Cov, Law, Mean
from dmft.model import FIELD

# (label, a, c) is erf(a x + c), or sign(x + c) if a is infinite.
Erfs = tuple[tuple[Hashable, sp.Expr, sp.Expr], ...]

HALF = sp.Rational(1, 2)
# Rounding may lift a numeric arcsine argument over 1 by a few ulps of a large covariance.
ARCSINE_BAND = 1e-12


def error_function_product(law: Law, erfs: Erfs) -> sp.Expr:
    """E[prod erf(a x + c)], with sign(x + c) where a is infinite."""
    if not erfs:
        return sp.S.One
    weights = [(sp.sqrt(2) / 2, sp.sqrt(2) * c / 2) if a is sp.oo else (a, c) for _, a, c in erfs]
    shifts = [times(a, law.m(x)) + c for (x, *_), (a, c) in zip(erfs, weights, strict=True)]
    centred = all(s == 0 for s in shifts)
    if centred and len(erfs) % 2:
        return sp.S.Zero
    if centred and len(erfs) == 4:
        return _four(law, erfs)
    if len(erfs) > 2:
        kinds = "sign and error" if any(a is sp.oo for _, a, _ in erfs) else "error"
        raise NotClosed(f"it leaves a product of {len(erfs)} {kinds} functions")
    roots = [
        1 / law.deviation(x)
        if a is sp.oo
        else sp.Pow(
            1 + times(2 * a**2, law.deviation(x) ** 2 if law.conditioned else law.C(x, x)), -HALF
        )
        for x, a, _ in erfs
    ]
    if len(erfs) == 1:
        return sp.erf(times(shifts[0], roots[0]))
    (x, first_scale, _), (y, second_scale, _) = erfs
    if centred and first_scale is sp.oo and second_scale is sp.oo:
        return times(2 / sp.pi, CorrelationAngle(law.C(x, x), law.C(y, y), law.C(x, y)))
    correlation = times(2 * weights[0][0] * weights[1][0], law.C(x, y), *roots)
    if centred:
        return times(2 / sp.pi, _arcsine(correlation))
    first, second = (times(s, r) for s, r in zip(shifts, roots, strict=True))
    if first.has(sp.I) or second.has(sp.I):
        raise NotClosed("it leaves two error functions of complex arguments")
    return TwoSigns(sp.sqrt(2) * first, sp.sqrt(2) * second, _clamped(correlation))


def without_parallel_signs(law: Law, erfs: Erfs) -> tuple[sp.Expr, Erfs]:
    """Cancel two signs that switch together: their product is 1 or -1 almost everywhere."""
    signs = [e for e in erfs if e[1] is sp.oo and law.C(e[0], e[0]) != 0]
    for first, second in combinations(signs, 2):
        (x, _, c), (y, _, d) = first, second
        if not _parallel(law, x, y):
            continue
        gap = times(law.m(x) + c, law.C(x, y)) - times(law.m(y) + d, law.C(x, x))
        if gap == 0 or (gap.is_Float and abs(gap) <= ARCSINE_BAND * abs(law.C(x, y))):
            left = list(erfs)
            left.remove(first)
            left.remove(second)
            side, rest = without_parallel_signs(law, tuple(left))
            return sp.sign(law.C(x, y)) * side, rest
    return sp.S.One, erfs


def ordered_steps(erfs: Erfs) -> list[tuple[sp.Expr, Erfs]] | None:
    """Write two signs of one field as a sum of single ones; None where there are no two.

    sign(x - s) sign(x - t) = 1 - sign(x - s) + sign(x - t) for s < t.
    """
    signs = [e for e in erfs if e[1] is sp.oo]
    for first, second in combinations(signs, 2):
        gap = first[2] - second[2]
        if first[0] == second[0] and (gap.is_positive or gap.is_negative):
            early, late = (first, second) if gap.is_positive else (second, first)
            rest = tuple(e for e in erfs if e not in (first, second))
            one = sp.S.One
            return [(one, rest), (-one, (*rest, early)), (one, (*rest, late))]
    return None


def _parallel(law: Law, x: Hashable, y: Hashable) -> bool:
    first, second, cross = law.C(x, x), law.C(y, y), law.C(x, y)
    if cross.free_symbols or first.free_symbols:
        return bool(sp.expand(first * second - cross**2) == 0)
    return abs(CorrelationAngle(first, second, cross)) == sp.pi / 2


def _four(law: Law, erfs: Erfs) -> sp.Expr:
    """Four centred signs; erf(a x) is the average of sign(a x + noise of variance 1/2)."""
    entries = []
    turn = sp.S.One
    for i, (x, a, _) in enumerate(erfs):
        turn *= 1 if a is sp.oo else sp.sign(a)
        noise = 0 if a is sp.oo else 1 / (2 * a**2)
        entries.append(law.C(x, x) + noise)
        entries += [law.C(x, y) for y, *_ in erfs[i + 1 :]]
    return times(turn, FourSigns(*entries))


def _arcsine(argument: sp.Expr) -> sp.Expr:
    if argument.free_symbols:
        # Evaluation would pull signs out of the argument and hide common covariances.
        return sp.asin(argument, evaluate=False)
    return sp.asin(_clamped(argument))


def _clamped(argument: sp.Expr) -> sp.Expr:
    if argument.is_Float and 1 < abs(argument) < 1 + ARCSINE_BAND:
        return sp.sign(argument)
    return argument


Polynomials = dict[Hashable, dict[int, sp.Expr]]
# E_law[prod p_x(x) prod erf(a y + c)].
State = tuple[Law, Polynomials, Erfs]
# What a rule makes of a state: factors of a coefficient, and the state that they multiply (None
# for a value).
Successor = tuple[tuple[sp.Expr, ...], State | None]


def product_expectation(
    factors: Sequence[sp.Expr],
    fields: Sequence[Any],
    cov: Cov,
    mean: Mean | None = None,
    *,
    whole: bool = False,
    digits: int | None = FLOAT_DIGITS,
) -> sp.Expr:
    """Closed form of E[prod_i factors_i(x_{fields_i})].

    Equation    E[e^{-b q^2/2} F] = (1+b C_qq)^{-1/2} E_T[F], T_xy = C_xy - b C_qx C_qy/(1+b C_qq);
                E[x F] = sum_y C_xy E[d_y F];  E[delta(y - t) F] = p_y(t) E[F | y = t];
                E[erf(x/sqrt 2) erf(y/sqrt 2)] = (2/pi) asin(C_xy/sqrt((1+C_xx)(1+C_yy)))
    Valid for   polynomials, erf, sign, |.|, ReLU, Dirac, sin, cos, sinh, cosh of linear arguments,
                Gaussian factors, their products and sums with at most two signs or error
                functions left (any odd number for zero means); singular covariances included
    Source      theory/one_pass A.1-A.6; derivations/erf_integrals.py

    With `whole`, moments of signs stay in one piece (`SignsMoment`) where their elementary form is
    0/0 for fields that coincide: for code in which they do. `digits` are those of a value of
    floats; None leaves it as it is, for sums that cancel.
    """
    if len(factors) != len(fields):
        raise ShapeMismatch(f"{len(factors)} factors but {len(fields)} fields")
    parsed = [parse_factor(f) for f in factors]
    switching = any(a is sp.oo for terms in parsed for t in terms for a, _ in t.erfs)
    # Differences of exponentials, and roots of nearly parallel fields, cancel digits of floats.
    waves = any(f.has(*WAVES) for f in factors)
    law = Law(_precise(cov) if switching or waves else cov, mean, fields)
    heard = LISTENER.get()
    if heard is not None:
        heard.parsed(law, factors, fields, parsed)
    total = []
    for terms in cartesian(*parsed):
        try:
            total.append(_term_product(law, terms, fields, whole))
        except NotClosed as error:
            if error.reason:
                raise
            raise refuse(_readable(factors, fields), str(error)) from None
    value = sp.Add(*total)
    if heard is not None:
        heard.added(total)
    if waves or value.has(sp.I):
        try:
            value = in_real_form(value, waves, whole)
        except NotClosed as error:
            raise refuse(_readable(factors, fields), str(error)) from None
    if heard is not None:
        heard.finished(value)
    precise = value.is_number and value.has(sp.Float) and (switching or waves)
    return value.n(digits) if precise and digits is not None else value


def _precise(cov: Cov) -> Cov:
    """Floats with guard digits."""
    return lambda x, y: guarded(sp.sympify(cov(x, y), strict=True))


def _readable(factors: Sequence[sp.Expr], fields: Sequence[Any]) -> sp.Expr:
    """Product of the factors with labels for fields, for messages."""
    return sp.Mul(
        *[f.xreplace({FIELD: sp.Symbol(str(x))}) for f, x in zip(factors, fields, strict=True)]
    )


def _term_product(law: Law, terms: Sequence[Term], fields: Sequence[Any], whole: bool) -> sp.Expr:
    """Expectation of a product of parsed terms: tilt and condition first, then go on."""
    heard = LISTENER.get()
    if heard is not None:
        heard.product(law, terms, fields)
    prefactors: list[sp.Expr] = []
    polynomials: Polynomials = {}
    erfs: list[tuple[Hashable, sp.Expr, sp.Expr]] = []
    for term, x in zip(terms, fields, strict=True):
        if term.curvature != 0 or term.slope != 0:
            prefactor, law = law.tilt(x, term.curvature, term.slope)
            prefactors.append(prefactor)
            if heard is not None:
                heard.tilted(x, prefactor, law)
        for a, c in term.erfs:
            # The square of a sign is one almost everywhere.
            if a is sp.oo and (x, a, c) in erfs:
                erfs.remove((x, a, c))
            else:
                erfs.append((x, a, c))
        powers = dict(term.powers)
        if set(powers) == {0}:
            prefactors.append(powers[0])
        elif x in polynomials:
            polynomials[x] = _multiply(polynomials[x], powers)
        else:
            polynomials[x] = powers
    for term, x in zip(terms, fields, strict=True):
        for position in term.deltas:
            if law.C(x, x) == 0:
                raise NotClosed(f"a Dirac factor acts on a field of variance 0 at {position}")
            density = [law.density(x, position), sp.Pow(law.deviation(x), -1)]
            prefactors += density
            law = law.condition(x, position)
            if heard is not None:
                heard.conditioned(x, position, sp.Mul(*density), law)
    signs = any(a is sp.oo for _, a, _ in erfs)
    if whole and signs and polynomials and _moment_of_signs(law, polynomials, tuple(erfs)) is None:
        piece = signs_moment(law, polynomials, tuple(erfs))
        if piece is not None:
            return times(*prefactors, piece)
    return times(*prefactors, _expectation(law, polynomials, tuple(erfs)))


def _multiply(p: dict[int, sp.Expr], q: dict[int, sp.Expr]) -> dict[int, sp.Expr]:
    result: dict[int, sp.Expr] = {}
    for (n, a), (m, b) in cartesian(p.items(), q.items()):
        result[n + m] = result.get(n + m, sp.S.Zero) + a * b
    return {n: a for n, a in result.items() if a != 0}


def _expectation(law: Law, polynomials: Polynomials, erfs: Erfs) -> sp.Expr:
    """E[prod p_x(x) prod erf(a y + c)], once for each: Stein's paths meet in the same averages."""
    key = state_key(polynomials, erfs)
    if key not in law.known:
        heard = LISTENER.get()
        if heard is not None:
            heard.opened(law, polynomials, erfs)
        rule, successors = _successors(law, polynomials, erfs)
        if heard is not None:
            heard.stepped(rule, successors)
        total = [
            times(*parts, _expectation(*state)) if state is not None else times(*parts)
            for parts, state in successors
        ]
        law.known[key] = collapsed(sp.Add(*total) if len(total) != 1 else total[0])
        if heard is not None:
            heard.closed(law.known[key])
    return law.known[key]


def state_key(polynomials: Polynomials, erfs: Erfs) -> Hashable:
    """What a law knows the average of a state by."""
    return (tuple((x, tuple(p.items())) for x, p in polynomials.items()), erfs)


def _successors(law: Law, polynomials: Polynomials, erfs: Erfs) -> tuple[str, Sequence[Successor]]:
    """The rule that takes a state, and what it makes of it."""
    steps = ordered_steps(erfs)
    if steps is not None:
        return "two_jumps", [((k,), (law, polynomials, rest)) for k, rest in steps]
    if len(erfs) > 2:
        side, left = without_parallel_signs(law, erfs)
        if len(left) < len(erfs):
            parts = () if side == 1 else (side,)
            return "parallel_signs", [(parts, (law, polynomials, left))]
    if erfs or law.conditioned:
        labels = dict.fromkeys([*polynomials, *(x for x, *_ in erfs)])
        fixed = [x for x in labels if law.C(x, x) == 0]
        if fixed:
            return "fixed", _fixed(law, polynomials, erfs, fixed)
    if not polynomials:
        return "table", [((error_function_product(law, erfs),), None)]
    if not erfs:
        return "diagrams", [((_wick(law, polynomials),), None)]
    node = _moment_of_signs(law, polynomials, erfs)
    return node if node is not None else ("stein", _stein(law, polynomials, erfs))


def _moment_of_signs(
    law: Law, polynomials: Polynomials, erfs: Erfs
) -> tuple[str, Sequence[Successor]] | None:
    """E[x y prod sign] in one piece, where Stein's form would be 0/0 for coinciding fields."""
    bilinear = len(polynomials) == 2 and all(set(p) == {1} for p in polynomials.values())
    if not bilinear or law.conditioned or not all(a is sp.oo and c == 0 for _, a, c in erfs):
        return None
    (x, p), (y, q) = polynomials.items()
    signs = [u for u, *_ in erfs]
    C = law.C
    centred = all(law.m(u) == 0 for u in (x, y, *signs))
    if not centred or any(C(u, u).is_number for u in signs):
        return None
    if len(signs) == 2 and x not in signs and y not in signs:
        u, v = signs
        entries = (C(u, u), C(v, v), C(u, v), C(x, u), C(x, v), C(y, u), C(y, v), C(x, y))
        return "moment_of_signs", [((p[1], q[1], PairOfSignsMoment(*entries)), None)]
    if len(signs) == 2 and x in signs and y not in signs:
        # Lower the field without a sign first: the other order divides by the pair's root.
        return "stein", _stein(law, {y: q, x: p}, erfs)
    if len(signs) == 4 and x in signs and y in signs:
        order = [*(u for u in signs if u not in (x, y)), x, y]
        upper = [C(order[i], order[j]) for i in range(4) for j in range(i, 4)]
        return "moment_of_signs", [((p[1], q[1], FourSignsMoment(*upper)), None)]
    return None


def _fixed(law: Law, polynomials: Polynomials, erfs: Erfs, fixed: Sequence[Any]) -> list[Successor]:
    """Put the values of fields without variance in their place."""
    values = [
        sp.Add(*[a * law.m(x) ** n for n, a in polynomials[x].items()])
        for x in fixed
        if x in polynomials
    ]
    for x, a, c in erfs:
        if x in fixed:
            values.append(sp.sign(law.m(x) + c) if a is sp.oo else sp.erf(a * law.m(x) + c))
    if any(v == 0 for v in values):
        return [((sp.S.Zero,), None)]
    left = {x: p for x, p in polynomials.items() if x not in fixed}
    return [(tuple(values), (law, left, tuple(e for e in erfs if e[0] not in fixed)))]


def _wick(law: Law, polynomials: Polynomials) -> sp.Expr:
    labels = list(polynomials)
    return wick_expression(
        [sorted(polynomials[x].items()) for x in labels],
        [law.m(x) for x in labels],
        [law.C(x, x) for x in labels],
        [law.C(x, y) for i, x in enumerate(labels) for y in labels[i + 1 :]],
    )


def _stein(law: Law, polynomials: Polynomials, erfs: Erfs) -> list[Successor]:
    """Stein on the first polynomial p = p_0 + x q: E[x q F] = m E[q F] + sum_y C_xy E[d_y(q F)]."""
    x, powers = next(iter(polynomials.items()))
    others = {y: p for y, p in polynomials.items() if y != x}

    def with_power(p: dict[int, sp.Expr]) -> tuple[sp.Expr, Polynomials]:
        """Pull a constant out, so that a polynomial in the state has positive degree."""
        return (p[0], others) if set(p) == {0} else (sp.S.One, {x: p, **others})

    terms: list[Successor] = []
    if 0 in powers:
        terms.append(((powers[0],), (law, others, erfs)))
    quotient = {n - 1: a for n, a in powers.items() if n > 0}
    constant, state = with_power(quotient)
    if law.m(x) != 0:
        terms.append(((constant, law.m(x)), (law, state, erfs)))
    for y, p in others.items():
        slope, rest = _derivative(p)
        lowered = {**state, y: rest} if rest else {k: v for k, v in state.items() if k != y}
        terms.append(((constant, slope, law.C(x, y)), (law, lowered, erfs)))
    slope, rest = _derivative(quotient)
    if slope != 0:
        lowered = {x: rest, **others} if rest else others
        terms.append(((slope, law.C(x, x)), (law, lowered, erfs)))
    for i, (y, a, c) in enumerate(erfs):
        left = erfs[:i] + erfs[i + 1 :]
        if law.C(x, y) == 0:
            continue
        if a is sp.oo:
            inner = (law.condition(y, -c), state, left)
            terms.append(((constant, 2 * law.density(y, -c), _ratio(law, x, y)), inner))
            continue
        prefactor, tilted = law.tilt(y, 2 * a**2, -2 * a * c)
        density = 2 * a / sp.sqrt(sp.pi) * sp.exp(-(c**2))
        terms.append(((constant, density, law.C(x, y), prefactor), (tilted, state, left)))
    return terms


def _ratio(law: Law, x: Any, y: Any) -> sp.Expr:
    """C_xy / sqrt(C_yy), finite on the diagonal."""
    if x == y:
        return law.deviation(y)
    return times(law.C(x, y), sp.Pow(law.deviation(y), -1))


def _derivative(p: dict[int, sp.Expr]) -> tuple[sp.Expr, dict[int, sp.Expr]]:
    """Derivative of a polynomial as (constant, rest): one of (1, p'), (p', {}) and (0, {})."""
    lowered = {n - 1: n * a for n, a in p.items() if n > 0}
    if not lowered:
        return sp.S.Zero, {}
    return (lowered[0], {}) if set(lowered) == {0} else (sp.S.One, lowered)

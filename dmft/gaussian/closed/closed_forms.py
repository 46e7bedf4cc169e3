r"""The irreducible entries of the Gaussian calculus: averages of products of signs and erfs.

Everything else is reduced to these by tilting, Stein's identity and conditioning (`product`).
A sign is the limit of erf(u / (s sqrt 2)) as the scale s goes to 0, so one table serves both.

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

from collections.abc import Hashable
from itertools import combinations

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.closed.bivariate import TwoSigns
from dmft.gaussian.closed.orthant import FourSigns
from dmft.gaussian.closed.pair import CorrelationAngle
from dmft.gaussian.closed.wick import times
from dmft.gaussian.law import Law

# (label, a, c) stands for erf(a x + c), and for sign(x + c) when a is infinite.
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

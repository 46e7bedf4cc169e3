r"""Closed form of E[prod_i f_i(x_i)] for jointly Gaussian fields, from a covariance function.

Three rules (one_pass.md A.1, A.4, A.6): a Gaussian factor is tilted out by a rank-one downdate of
the covariance, one field at a time (the determinant form loses digits for large nearly parallel
fields); a polynomial goes by Wick diagrams, beside error functions by Stein; what is left is a
table of products of error functions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import product as cartesian
from typing import Any

import sympy as sp

from dmft.errors import NotClosed, ShapeMismatch
from dmft.gaussian.bivariate import BivariateNormalCDF
from dmft.gaussian.factor import Term, parse_factor, refuse
from dmft.gaussian.wick import times, wick_expression
from dmft.model import FIELD

Cov = Callable[[Any, Any], sp.Expr]
Mean = Callable[[Any], sp.Expr]
Erfs = tuple[tuple[Hashable, sp.Expr, sp.Expr], ...]
Polynomials = dict[Hashable, dict[int, sp.Expr]]

HALF = sp.Rational(1, 2)
# Rounding may lift a numeric arcsine argument over 1 by a few ulps of a large covariance.
ARCSINE_BAND = 1e-12


def product_expectation(
    factors: Sequence[sp.Expr], fields: Sequence[Any], cov: Cov, mean: Mean | None = None
) -> sp.Expr:
    r"""Closed form of E[prod_i factors_i(x_{fields_i})].

    Equation    E[e^{-b q^2/2} F] = (1+b C_qq)^{-1/2} E_T[F], T_xy = C_xy - b C_qx C_qy/(1+b C_qq);
                E[x F] = sum_y C_xy E[d_y F];
                E[erf(x/sqrt 2) erf(y/sqrt 2)] = (2/pi) asin(C_xy/sqrt((1+C_xx)(1+C_yy)))
    Shapes      n factors, each an expression in `dmft.model.FIELD`; n hashable labels, which may
                repeat; cov(x, y) symmetric, mean(x) zero by default; returns one expression
    Scaling     none: fields of order one
    Valid for   polynomials, erf of a linear argument, Gaussian factors, their products and sums
                with at most two error functions left; exact, singular covariances included
    Source      one_pass.md A.1, A.2, A.4, A.6; derivations/erf_integrals.py

    Raises
    ------
    NotClosed
        Naming the sub-expression and the ways out.

    Examples
    --------
    >>> import sympy as sp
    >>> from dmft.model import FIELD as z
    >>> C = lambda x, y: sp.Symbol("C" + "".join(sorted(x + y)))
    >>> product_expectation([z**2, z**2], ["1", "2"], C)
    C11*C22 + 2*C12**2
    >>> product_expectation([sp.erf(z / sp.sqrt(2)), z], ["1", "2"], C)
    sqrt(2)*C12/(sqrt(pi)*sqrt(C11 + 1))
    """
    if len(factors) != len(fields):
        raise ShapeMismatch(f"{len(factors)} factors but {len(fields)} fields")
    law = _Law(cov, mean, fields)
    total = []
    for terms in cartesian(*[parse_factor(f) for f in factors]):
        try:
            total.append(_term_product(law, terms, fields))
        except NotClosed as error:
            if error.reason:
                raise
            raise refuse(_readable(factors, fields), str(error)) from None
    return sp.Add(*total)


def _readable(factors: Sequence[sp.Expr], fields: Sequence[Any]) -> sp.Expr:
    """Product of the factors with labels for fields, for messages."""
    return sp.Mul(
        *[f.xreplace({FIELD: sp.Symbol(str(x))}) for f, x in zip(factors, fields, strict=True)]
    )


class _Law:
    """Covariance and mean as memoised functions of labels, closed under tilting."""

    def __init__(self, cov: Cov, mean: Mean | None, fields: Sequence[Any]) -> None:
        self._cov, self._mean, self._fields = cov, mean, fields
        self._covs: dict[tuple[Any, Any], sp.Expr] = {}
        self._means: dict[Any, sp.Expr] = {}
        if mean is not None and all(self.m(x) == 0 for x in fields):
            self._mean = None

    def C(self, x: Any, y: Any) -> sp.Expr:
        value = self._covs.get((x, y))
        if value is None:
            value = sp.sympify(self._cov(x, y), strict=True)
            self._covs[x, y] = self._covs[y, x] = value
        return value

    def m(self, x: Any) -> sp.Expr:
        if self._mean is None:
            return sp.S.Zero
        if x not in self._means:
            self._means[x] = sp.sympify(self._mean(x), strict=True)
        return self._means[x]

    def tilt(self, q: Any, b: sp.Expr, slope: sp.Expr) -> tuple[sp.Expr, _Law]:
        """Prefactor and law under the weight exp(-b q^2 / 2 + slope q)."""
        C, m = self.C, self.m
        spread = 1 + times(b, C(q, q))
        if spread.is_number and not spread.is_positive:
            raise NotClosed(
                f"the Gaussian factor grows faster than the law decays (1 + {b} C <= 0)"
            )
        inverse = sp.Pow(spread, -1)
        pull = slope - times(b, m(q))

        def cov(x: Any, y: Any) -> sp.Expr:
            return C(x, y) + times(-b, C(q, x), C(q, y), inverse)

        def mean(x: Any) -> sp.Expr:
            return m(x) + times(C(q, x), pull, inverse)

        prefactor = sp.Pow(spread, -HALF)
        if pull == 0 and self._mean is None:
            return prefactor, _Law(cov, None, self._fields)
        action = slope * m(q) + HALF * slope**2 * C(q, q) - HALF * b * m(q) ** 2
        return times(prefactor, sp.exp(times(action, inverse))), _Law(cov, mean, self._fields)


def _term_product(law: _Law, terms: Sequence[Term], fields: Sequence[Any]) -> sp.Expr:
    """Expectation of a product of parsed terms: tilt out every Gaussian, then go on."""
    prefactors: list[sp.Expr] = []
    polynomials: Polynomials = {}
    erfs: list[tuple[Hashable, sp.Expr, sp.Expr]] = []
    for term, x in zip(terms, fields, strict=True):
        if term.curvature != 0 or term.slope != 0:
            prefactor, law = law.tilt(x, term.curvature, term.slope)
            prefactors.append(prefactor)
        erfs.extend((x, a, c) for a, c in term.erfs)
        powers = dict(term.powers)
        if set(powers) == {0}:
            prefactors.append(powers[0])
        elif x in polynomials:
            polynomials[x] = _multiply(polynomials[x], powers)
        else:
            polynomials[x] = powers
    return times(*prefactors, _expectation(law, polynomials, tuple(erfs)))


def _multiply(p: dict[int, sp.Expr], q: dict[int, sp.Expr]) -> dict[int, sp.Expr]:
    result: dict[int, sp.Expr] = {}
    for (n, a), (m, b) in cartesian(p.items(), q.items()):
        result[n + m] = result.get(n + m, sp.S.Zero) + a * b
    return {n: a for n, a in result.items() if a != 0}


def _expectation(law: _Law, polynomials: Polynomials, erfs: Erfs) -> sp.Expr:
    """E[prod p_x(x) prod erf(a y + c)]."""
    if not polynomials:
        return _erf_product(law, erfs)
    if not erfs:
        return _wick(law, polynomials)
    return _stein(law, polynomials, erfs)


def _wick(law: _Law, polynomials: Polynomials) -> sp.Expr:
    labels = list(polynomials)
    return wick_expression(
        [sorted(polynomials[x].items()) for x in labels],
        [law.m(x) for x in labels],
        [law.C(x, x) for x in labels],
        [law.C(x, y) for i, x in enumerate(labels) for y in labels[i + 1 :]],
    )


def _stein(law: _Law, polynomials: Polynomials, erfs: Erfs) -> sp.Expr:
    """Stein on the first polynomial p = p_0 + x q: E[x q F] = m E[q F] + sum_y C_xy E[d_y(q F)]."""
    x, powers = next(iter(polynomials.items()))
    others = {y: p for y, p in polynomials.items() if y != x}

    def with_power(p: dict[int, sp.Expr]) -> tuple[sp.Expr, Polynomials]:
        """Pull a constant out, so that a polynomial in the state has positive degree."""
        return (p[0], others) if set(p) == {0} else (sp.S.One, {x: p, **others})

    terms = []
    if 0 in powers:
        terms.append(times(powers[0], _expectation(law, others, erfs)))
    quotient = {n - 1: a for n, a in powers.items() if n > 0}
    constant, state = with_power(quotient)
    if law.m(x) != 0:
        terms.append(times(constant, law.m(x), _expectation(law, state, erfs)))
    for y, p in others.items():
        slope, rest = _derivative(p)
        lowered = {**state, y: rest} if rest else {k: v for k, v in state.items() if k != y}
        terms.append(times(constant, slope, law.C(x, y), _expectation(law, lowered, erfs)))
    slope, rest = _derivative(quotient)
    if slope != 0:
        lowered = {x: rest, **others} if rest else others
        terms.append(times(slope, law.C(x, x), _expectation(law, lowered, erfs)))
    for i, (y, a, c) in enumerate(erfs):
        prefactor, tilted = law.tilt(y, 2 * a**2, -2 * a * c)
        density = 2 * a / sp.sqrt(sp.pi) * sp.exp(-(c**2))
        inner = _expectation(tilted, state, erfs[:i] + erfs[i + 1 :])
        terms.append(times(constant, density, law.C(x, y), prefactor, inner))
    return sp.Add(*terms)


def _derivative(p: dict[int, sp.Expr]) -> tuple[sp.Expr, dict[int, sp.Expr]]:
    """Derivative of a polynomial as (constant, rest): one of (1, p'), (p', {}) and (0, {})."""
    lowered = {n - 1: n * a for n, a in p.items() if n > 0}
    if not lowered:
        return sp.S.Zero, {}
    return (lowered[0], {}) if set(lowered) == {0} else (sp.S.One, lowered)


def _erf_product(law: _Law, erfs: Erfs) -> sp.Expr:
    """Table of products of error functions."""
    if not erfs:
        return sp.S.One
    shifts = [times(a, law.m(x)) + c for x, a, c in erfs]
    centred = all(s == 0 for s in shifts)
    if centred and len(erfs) % 2:
        return sp.S.Zero
    if len(erfs) > 2:
        raise NotClosed(f"it leaves a product of {len(erfs)} error functions")
    roots = [sp.Pow(1 + times(2 * a**2, law.C(x, x)), -HALF) for x, a, _ in erfs]
    if len(erfs) == 1:
        return sp.erf(times(shifts[0], roots[0]))
    (x, a, _), (y, b, _) = erfs
    correlation = times(2 * a * b, law.C(x, y), *roots)
    if centred:
        return times(2 / sp.pi, _arcsine(correlation))
    first, second = (times(s, r) for s, r in zip(shifts, roots, strict=True))
    joint = BivariateNormalCDF(sp.sqrt(2) * first, sp.sqrt(2) * second, correlation)
    return 4 * joint - sp.erf(first) - sp.erf(second) - 1


def _arcsine(argument: sp.Expr) -> sp.Expr:
    if argument.free_symbols:
        # Evaluation would pull signs out of the argument and hide common covariances.
        return sp.asin(argument, evaluate=False)
    if argument.is_Float and 1 < abs(argument) < 1 + ARCSINE_BAND:
        argument = sp.sign(argument)
    return sp.asin(argument)

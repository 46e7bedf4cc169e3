r"""Moments of Gaussian fields times signs, exactly reduced to one-dimensional integrals.

E[prod u_i^n_i prod_{j in S} sign(u_j)], u ~ N(m, C) with rational m and C, by identities that hold
term by term (proofs: derivations/certificates.py):

1. two signs that switch together cancel; signs of parallel fields with different thresholds
   s < t obey sign(u-s) sign(u-t) = 1 - sign(u-s) + sign(u-t);
2. Stein: E[u_i F] = m_i E[F] + sum_j C_ij E[d_j F], with d_j sign(u_j) = 2 delta(u_j);
3. a delta conditions the law: E[delta(u_j) F] = p_j(0) E[F | u_j = 0];
4. one sign: erf(m/sqrt(2 C)); two: the integral over the correlation (Plackett), for zero means
   the arcsine; three and four: Price along C(t) = t C + (1 - t) diag C,
   d/dt E prod sign = sum_{i<j} 4 C_ij p_ij(0, 0; t) E_t[the other signs | u_i = u_j = 0].

All decisions (a zero variance, parallel fields) are made in fractions.

Price's identity for three and four signs is one integral of an analytic function. With tau = 1 - t,
all that it needs are minors of C(t): polynomials in tau with rational coefficients,

    D_ij = C_ii C_jj - t^2 C_ij^2,   M_kl = minor of rows i, j, k and columns i, j, l,

so that Cov(u_k, u_l | u_i, u_j) = M_kl / D_ij and, by Sylvester's identity,
M_kk M_ll - M_kl^2 = D_ij det C(t). Where C is singular, det C(t) = tau^r E(tau) with E(0) > 0 in
exact arithmetic, and in s = sqrt(tau) the integrand has no singularity left at s = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

from dmft.errors import NotClosed
from dmft.gaussian.certified.balls import Ball, flint, real_ball

# A polynomial of python-flint with rational coefficients.
Polynomial = Any
Matrix = Sequence[Sequence[Polynomial]]
Function = Callable[[Ball], Ball]


def price_integral(m: Sequence[Fraction], C: Sequence[Sequence[Fraction]], goal: Ball) -> Ball:
    """E[prod sign(u_j)] minus its value for independent fields; three fields, or four centred."""
    module = flint()
    size = range(len(m))
    path = [[_polynomial(C[i][j], *[-C[i][j]] * (i != j)) for j in size] for i in size]
    pairs = [(i, j) for i, j in combinations(size, 2) if C[i][j]]
    terms = [_pair_term(m, C, path, i, j) for i, j in pairs]

    def integrand(s: Ball, analytic: bool) -> Ball:
        tau = s * s
        total = module.acb(0)
        for term in terms:
            total += term(s, tau, analytic)
        return 2 * s * total

    value = module.acb.integral(integrand, 0, 1, abs_tol=goal, rel_tol=goal)
    if not value.is_finite():
        raise NotClosed("Price's integral has no finite enclosure")
    return value.real


def _polynomial(*coefficients: Fraction) -> Polynomial:
    module = flint()
    return module.fmpq_poly([module.fmpq(c.numerator, c.denominator) for c in coefficients])


def _determinant(rows: Matrix) -> Polynomial:
    if len(rows) == 1:
        return rows[0][0]
    rests = ([[*row[:j], *row[j + 1 :]] for row in rows[1:]] for j in range(len(rows)))
    minors = enumerate(map(_determinant, rests))
    return sum(((-1) ** j * rows[0][j] * minor for j, minor in minors), _polynomial())


def _minor(path: Matrix, rows: Sequence[int], columns: Sequence[int]) -> Polynomial:
    return _determinant([[path[i][j] for j in columns] for i in rows])


def _split(p: Polynomial) -> tuple[int, Function]:
    """Order r of the zero at tau = 0, and p / tau^r as a function; r = -1 for p = 0."""
    order = next((i for i, a in enumerate(p) if a), -1)
    coefficients = [flint().arb(a) for a in reversed(p.coeffs()[max(order, 0) :])]

    def evaluate(tau: Ball) -> Ball:
        total = flint().acb(0)
        for a in coefficients:
            total = total * tau + a
        return total

    return order, evaluate


def _pair_term(
    m: Sequence[Fraction], C: Sequence[Sequence[Fraction]], path: Matrix, i: int, j: int
) -> Callable[[Ball, Ball, bool], Ball]:
    """4 C_ij p_ij(0, 0; t) times the average of the other signs given u_i = u_j = 0."""
    module = flint()
    _, spread = _split(_minor(path, (i, j), (i, j)))  # positive up to tau = 0
    weight = real_ball(4 * C[i][j]) / (2 * module.arb.pi())
    rest = [k for k in range(len(m)) if k not in (i, j)]
    other = _one(m, path, i, j, rest[0]) if len(rest) == 1 else _two(path, i, j, *rest)
    # C_jj m_i^2 - 2 t C_ij m_i m_j + C_ii m_j^2, over 2 D_ij the exponent; no zero at tau = 0.
    cross = 2 * C[i][j] * m[i] * m[j]
    numerator = _polynomial(C[j][j] * m[i] ** 2 - cross + C[i][i] * m[j] ** 2, cross)
    action = _split(numerator)[1] if any((m[i], m[j])) else None

    def term(s: Ball, tau: Ball, analytic: bool) -> Ball:
        D = spread(tau)
        value = weight / D.sqrt(analytic=analytic)
        if action is not None:
            value *= (-action(tau) / (2 * D)).exp()
        return value * other(s, tau, analytic)

    return term


def _one(m: Sequence[Fraction], path: Matrix, i: int, j: int, k: int) -> Callable[..., Ball]:
    """erf(center / sqrt(2 variance)) of u_k given u_i = u_j = 0."""
    module = flint()
    order, variance = _split(_minor(path, (i, j, k), (i, j, k)))
    _, spread = _split(_minor(path, (i, j), (i, j)))
    # D_ij times the center: the minor with the means in the place of the last column.
    bordered = [[path[a][i], path[a][j], _polynomial(m[a])] for a in (i, j, k)]
    zeros, center = _split(_determinant(bordered))
    power = 2 * zeros - order
    root = module.arb(2).sqrt()

    def average(s: Ball, tau: Ball, analytic: bool) -> Ball:
        if zeros < 0:
            return module.acb(0)
        scale = (variance(tau) * spread(tau)).sqrt(analytic=analytic) * root
        ratio = center(tau) / scale
        value = (ratio * s**power if power >= 0 else ratio / s**-power).erf()
        if analytic or value.is_finite():
            return value
        return module.acb(module.arb(0, 1))  # |erf| <= 1 on the real line

    return average


def _two(path: Matrix, i: int, j: int, k: int, l: int) -> Callable[..., Ball]:  # noqa: E741
    """(2/pi) atan(M_kl / sqrt(M_kk M_ll - M_kl^2)) of the signs of u_k and u_l."""
    module = flint()
    zeros, cross = _split(_minor(path, (i, j, k), (i, j, l)))
    order, whole = _split(_minor(path, (i, j, k, l), (i, j, k, l)))
    _, spread = _split(_minor(path, (i, j), (i, j)))
    power = 2 * zeros - order
    pi = module.arb.pi()

    def average(s: Ball, tau: Ball, analytic: bool) -> Ball:
        if zeros < 0:
            return module.acb(0)
        root = (whole(tau) * spread(tau)).sqrt(analytic=analytic)
        top = cross(tau)
        if power >= 0:
            top *= s**power
        else:
            root *= s**-power
        value = _arctangent(top, root, analytic)
        if not value.is_finite() and not analytic:
            value = module.acb(module.arb(0, pi / 2))
        return 2 / pi * value

    return average


def _arctangent(top: Ball, root: Ball, analytic: bool) -> Ball:
    """atan(top / root) where Re root >= 0, by the smaller of the two ratios."""
    module = flint()
    ratio = top / root
    turned = not ratio.is_finite() or not abs(ratio) < 1
    offset = module.acb(0)
    if turned and (top.real > 0 or top.real < 0):
        # atan(a/b) = +-pi/2 - atan(b/a).
        offset = module.acb(module.arb.pi() / 2) * (1 if top.real > 0 else -1)
        ratio = -(root / top)
    if analytic and not (1 + ratio * ratio).sqrt(analytic=True).is_finite():
        return module.acb("nan")  # a cut of atan
    return offset + ratio.atan()


Rows = tuple[tuple[Fraction, ...], ...]
MAX_SIGNS = 4


@dataclass(frozen=True)
class RationalLaw:
    """Mean and covariance of jointly Gaussian fields in fractions; singular ones are valid."""

    mean: tuple[Fraction, ...]
    cov: Rows

    def of(self, index: Sequence[int]) -> RationalLaw:
        """Law of some of the fields."""
        rows = (tuple(self.cov[i][j] for j in index) for i in index)
        return RationalLaw(tuple(self.mean[i] for i in index), tuple(rows))

    def given(self, j: int) -> RationalLaw:
        """Law under the condition u_j = 0."""
        C, m = self.cov, self.mean
        row = [c / C[j][j] for c in C[j]]
        size = range(len(m))
        return RationalLaw(
            tuple(m[a] - row[a] * m[j] for a in size),
            tuple(tuple(C[a][b] - row[a] * C[j][b] for b in size) for a in size),
        )

    def shifted(self, j: int, by: Fraction) -> RationalLaw:
        """Law with one more field u_j + by at the end."""
        return self.joined([Fraction(int(i == j)) for i in range(len(self.mean))], by)

    def joined(
        self, weights: Sequence[Fraction], offset: Fraction, noise: Fraction = Fraction(0)
    ) -> RationalLaw:
        """Law with one more field sum_i w_i u_i + offset + independent noise at the end."""
        C, m = self.cov, self.mean
        cross = tuple(
            sum((w * c for w, c in zip(weights, row, strict=True)), Fraction(0)) for row in C
        )
        variance = sum((w * c for w, c in zip(weights, cross, strict=True)), noise)
        shift = sum((w * a for w, a in zip(weights, m, strict=True)), offset)
        rows = [(*row, c) for row, c in zip(C, cross, strict=True)]
        return RationalLaw((*m, shift), (*rows, (*cross, variance)))


class SignedMoments:
    """Evaluates and remembers the moments of one certificate, at the working precision."""

    def __init__(self, goal: Ball) -> None:
        self.goal = goal
        self.memory: dict[object, Ball] = {}
        self.used: set[str] = set()

    def moment(self, law: RationalLaw, powers: dict[int, int], signs: frozenset[int]) -> Ball:
        """E[prod u_i^powers_i prod_{j in signs} sign(u_j)]."""
        powers = {i: n for i, n in powers.items() if n}
        key = (law, tuple(sorted(powers.items())), signs)
        if key not in self.memory:
            self.memory[key] = self._moment(law, powers, signs)
        return self.memory[key]

    def _moment(self, law: RationalLaw, powers: dict[int, int], signs: frozenset[int]) -> Ball:
        C, m = law.cov, law.mean
        for j in signs:
            if C[j][j] == 0:
                side = (m[j] > 0) - (m[j] < 0)
                return side * self.moment(law, powers, signs - {j}) if side else flint().arb(0)
        for i, j in combinations(sorted(signs), 2):
            if C[i][j] ** 2 == C[i][i] * C[j][j]:
                return self._parallel(law, powers, signs, i, j)
        if not powers:
            return self._signs(law, sorted(signs))
        return self._stein(law, powers, signs)

    def _parallel(
        self, law: RationalLaw, powers: dict[int, int], signs: frozenset[int], i: int, j: int
    ) -> Ball:
        """u_j = k u_i + d with certainty."""
        C, m = law.cov, law.mean
        k = C[i][j] / C[i][i]
        # sign(u_j) = side * sign(u_i + gap).
        gap = m[j] / k - m[i]
        side = 1 if k > 0 else -1
        left = signs - {i, j}
        whole = self.moment(law, powers, left)
        if gap == 0:
            return side * whole
        # The sign that switches first (threshold s) and second (t).
        wide = law.shifted(i, gap)
        last = len(m)
        first, second = (last, i) if gap > 0 else (i, last)
        one = self.moment(wide, powers, left | {first})
        two = self.moment(wide, powers, left | {second})
        return side * (whole - one + two)

    def _stein(self, law: RationalLaw, powers: dict[int, int], signs: frozenset[int]) -> Ball:
        self.used.add("Stein")
        C, m = law.cov, law.mean
        i = min(powers)
        lowered = {**powers, i: powers[i] - 1}
        total = flint().arb(0)
        if m[i]:
            total += real_ball(m[i]) * self.moment(law, lowered, signs)
        for j, n in lowered.items():
            if n and C[i][j]:
                rest = self.moment(law, {**lowered, j: n - 1}, signs)
                total += real_ball(n * C[i][j]) * rest
        for j in signs:
            if C[i][j]:
                rest = self.moment(law.given(j), lowered, signs - {j})
                total += real_ball(2 * C[i][j]) * density(m[j], C[j][j]) * rest
        return total

    def _signs(self, law: RationalLaw, signs: list[int]) -> Ball:
        """E[prod sign(u_j)], no two of them parallel and none of variance zero."""
        module = flint()
        m = [law.mean[j] for j in signs]
        C = [[law.cov[i][j] for j in signs] for i in signs]
        centred = not any(m)
        if not signs:
            return module.arb(1)
        if centred and len(signs) % 2:
            return module.arb(0)
        if len(signs) > MAX_SIGNS:
            raise NotClosed(f"it leaves a product of {len(signs)} signs")
        if len(signs) == 1:
            return (real_ball(m[0]) / real_ball(2 * C[0][0]).sqrt()).erf()
        if len(signs) == 2:
            return self._two(m, C)
        self.used.add("Price along t C + (1 - t) diag C")
        total = module.arb(1 if not centred else 0)
        for a, c in zip(m, (C[i][i] for i in range(len(m))), strict=True):
            total *= (real_ball(a) / real_ball(2 * c).sqrt()).erf()
        if len(signs) == 4 and not centred:
            raise NotClosed("it leaves a product of four signs with thresholds")
        return total + price_integral(m, C, self.goal)

    def _two(self, m: list[Fraction], C: list[list[Fraction]]) -> Ball:
        module = flint()
        gap = real_ball(C[0][0] * C[1][1] - C[0][1] ** 2).sqrt()
        angle = module.arb.atan2(real_ball(C[0][1]), gap)
        if not any(m):
            return 2 / module.arb.pi() * angle
        self.used.add("Plackett's integral over the correlation")
        h, k = (real_ball(a) / real_ball(C[i][i]).sqrt() for i, a in enumerate(m))
        root = module.arb(2).sqrt()

        def integrand(s: Ball, analytic: bool) -> Ball:
            theta = angle * s
            sine, cosine = theta.sin(), theta.cos()
            # h^2 - 2 h k sin + k^2 = (h - k)^2 + 2 h k (1 - sin), and 1 - sin = cos^2/(1 + sin).
            if C[0][1] > 0:
                action = (h - k) * (h - k) / (2 * cosine**2) + h * k / (1 + sine)
            else:
                action = (h + k) * (h + k) / (2 * cosine**2) - h * k / (1 - sine)
            value = (-action).exp()
            if value.is_finite() or analytic:
                return value
            # On the real line the density never exceeds that of the origin.
            return module.acb(module.arb(0.5, 0.5))

        part = module.acb.integral(integrand, 0, 1, abs_tol=self.goal, rel_tol=self.goal).real
        return (h / root).erf() * (k / root).erf() + 2 / module.arb.pi() * angle * part


def density(mean: Fraction, variance: Fraction) -> Ball:
    """Density at zero of N(mean, variance)."""
    module = flint()
    size = (2 * module.arb.pi() * real_ball(variance)).sqrt()
    return (-real_ball(mean**2 / (2 * variance))).exp() / size

r"""Price's identity for products of three and four signs, as one integral of an analytic function.

Along C(t) = t C + (1 - t) diag C, with tau = 1 - t, all that the integrand needs are minors of
C(t): polynomials in tau with rational coefficients,

    D_ij = C_ii C_jj - t^2 C_ij^2,   M_kl = minor of rows i, j, k and columns i, j, l,

so that Cov(u_k, u_l | u_i, u_j) = M_kl / D_ij and, by Sylvester's identity,
M_kk M_ll - M_kl^2 = D_ij det C(t). Where C is singular, det C(t) = tau^r E(tau) with E(0) > 0 in
exact arithmetic, and in s = sqrt(tau) the integrand has no singularity left at s = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations

from dmft.errors import NotClosed
from dmft.gaussian.certified.balls import Ball, flint, real_ball

Polynomial = tuple[Fraction, ...]
Matrix = Sequence[Sequence[Polynomial]]
Function = Callable[[Ball], Ball]


def price_integral(m: Sequence[Fraction], C: Sequence[Sequence[Fraction]], goal: Ball) -> Ball:
    """E[prod sign(u_j)] minus its value for independent fields; three fields, or four centred."""
    module = flint()
    size = range(len(m))
    path = [[_entry(C[i][j], i == j) for j in size] for i in size]
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


def _entry(c: Fraction, diagonal: bool) -> Polynomial:
    return (c,) if diagonal else (c, -c)


def _times(p: Polynomial, q: Polynomial) -> Polynomial:
    result = [Fraction(0)] * (len(p) + len(q) - 1)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            result[i + j] += a * b
    return tuple(result)


def _plus(p: Polynomial, q: Polynomial, side: int) -> Polynomial:
    size = max(len(p), len(q))
    wide = [[*r, *[Fraction(0)] * (size - len(r))] for r in (p, q)]
    return tuple(a + side * b for a, b in zip(*wide, strict=True))


def _determinant(rows: Matrix) -> Polynomial:
    if len(rows) == 1:
        return rows[0][0]
    total: Polynomial = (Fraction(0),)
    for j, entry in enumerate(rows[0]):
        rest = [[*row[:j], *row[j + 1 :]] for row in rows[1:]]
        total = _plus(total, _times(entry, _determinant(rest)), -1 if j % 2 else 1)
    return total


def _minor(path: Matrix, rows: Sequence[int], columns: Sequence[int]) -> Polynomial:
    return _determinant([[path[i][j] for j in columns] for i in rows])


def _split(p: Polynomial) -> tuple[int, Function]:
    """Order r of the zero at tau = 0, and p / tau^r as a function; r = -1 for p = 0."""
    order = next((i for i, a in enumerate(p) if a), -1)
    coefficients = [real_ball(a) for a in reversed(p[max(order, 0) :])]

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
    numerator = (C[j][j] * m[i] ** 2 - cross + C[i][i] * m[j] ** 2, cross)
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
    column = [(m[a],) for a in (i, j, k)]
    bordered = [[path[a][i], path[a][j], c] for a, c in zip((i, j, k), column, strict=True)]
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

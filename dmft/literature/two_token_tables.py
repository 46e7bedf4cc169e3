r"""Loss of the two-token attention, and the three functions of the alignments that make it.

With s(h) = sigmoid(h_1 (h_1 - h_2)), the attention of the first token to itself, z ~ N(0, I_2) and
h = z + (e, -e): M(e) = E s(h), V(e) = E s(h)^2 and C(e, m) = E s(h) s(h*), where each component of
h* has correlation m with that of z. All are even in e and in m, so that the variables are y = e^2
and x = m^2; C = sum_j x^j C_2j(y), C_k = sum_{|n|=k} c_n(0) c_n(e) / n! (theory/sequence D.1).

In the eigenvectors of the quadratic form h_1 (h_1 - h_2) the function s is even in both
coordinates: only even Hermite coefficients remain, and they come from a quarter of the plane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.errors import BadParameter

# Largest order of the Hermite series: at the slowest point, e = 0 and m = 1, what is left out is
# below 1e-16 of C, 3e-14 of its first and 3e-11 of its second derivative.
ORDER = 400
# Midpoint sums over a quarter of the plane: Hermite functions of the Gaussian weight are below
# exp(-x^2/4), and their aliases on this step below 1e-16.
STEP, REACH = 0.04, 13.0
# Chebyshev nodes in y: coefficients of entire functions, at 1e-16 from degree 25 on.
NODES = 32
# Coefficients below this multiple of the last ones are rounding: left in, they would grow with the
# square of their degree in each derivative at the ends.
NOISE, LAST = 3.0, 8
# 1 - M(0).
MU = math.sqrt(2) / 4
# sigmoid(l_+ u^2 + l_- v^2) in the coordinates turned by pi/8.
LARGE, SMALL = (1 + math.sqrt(2)) / 2, (1 - math.sqrt(2)) / 2
# The encoding (1, -1) in these coordinates.
SHIFT = (math.sqrt(2) * math.cos(math.pi / 8), -math.sqrt(2) * math.sin(math.pi / 8))


@dataclass(frozen=True, eq=False)
class Tables:
    """Chebyshev coefficients in y = e^2 on [0, 1], and Hermite coefficients at e = 0.

    `square` (NODES,) of V, `series` (NODES, ORDER / 2 + 1) of C_0, C_2, C_4 ..., `hermite` (ORDER /
    2 + 1, ORDER / 2 + 1) E[s He_2i(u) He_2j(v)] / sqrt((2i)! (2j)!) at e = 0, in the turned
    coordinates.
    """

    square: Array
    series: Array
    hermite: Array

    def M(self, y: ArrayLike, order: int = 0) -> Array:
        """Mean of s in closed form (D2), or its derivative of this order in y."""
        excess: Array = -MU * (-0.5) ** order * np.exp(-0.5 * np.asarray(y, dtype=float))
        return excess if order else 1.0 + excess

    def V(self, y: ArrayLike, order: int = 0) -> Array:
        """Mean square of s, or its derivative of this order in y."""
        return _evaluate(self.square, y, order)

    def C(self, y: ArrayLike, x: ArrayLike, y_order: int = 0, x_order: int = 0) -> Array:
        """Mean product of s at two correlated points, or a derivative in y = e^2 and x = m^2."""
        y, x = np.broadcast_arrays(np.asarray(y, dtype=float), np.asarray(x, dtype=float))
        series = self.series if y_order == 0 else chebyshev.chebder(self.series, y_order, scl=2.0)
        powers = np.arange(series.shape[1])
        factors = np.ones(powers.size)
        for lost in range(x_order):
            factors *= powers - lost
        at = chebyshev.chebvander(2.0 * y.ravel() - 1.0, series.shape[0] - 1) @ (series * factors)
        weights = x.reshape(-1, 1) ** np.maximum(powers - x_order, 0)
        value: Array = np.einsum("pk,pk->p", at, weights).reshape(y.shape)
        return value

    def coefficient(self, k: int, y: ArrayLike) -> Array:
        """C_k at y, for even k."""
        return _evaluate(self.series[:, k // 2], y, 0)


@cache
def tables() -> Tables:
    """Return the tables, computed at the first call (a fifth of a second)."""
    u = STEP * (np.arange(round(REACH / STEP), dtype=np.float64) + 0.5)
    s = 1.0 / (1.0 + np.exp(-(LARGE * u[:, None] ** 2 + SMALL * u[None, :] ** 2)))
    y = np.asarray(chebyshev.chebpts1(NODES), dtype=np.float64)
    e = np.zeros(NODES + 1)  # the last one is e = 0
    e[:-1] = np.sqrt((1.0 + y) / 2.0)
    first, second = _even_functions(u, e * SHIFT[0]), _even_functions(u, e * SHIFT[1])
    c = first @ s @ second.transpose(0, 2, 1)
    squares = np.einsum("eu,uv,ev->e", first[:, 0], s * s, second[:, 0])
    product = c[:-1] * c[-1]
    diagonals = [
        product[:, np.arange(k + 1), k - np.arange(k + 1)].sum(axis=1)
        for k in range(ORDER // 2 + 1)
    ]
    fit = chebyshev.chebvander(y, NODES - 1)
    fit = (2.0 / NODES) * fit.T
    fit[0] /= 2.0
    return Tables(_chopped(fit @ squares[:-1]), _chopped(fit @ np.array(diagonals).T), c[-1])


def _even_functions(u: Array, shift: Array) -> Array:
    """Return weights of E[f(z + shift) He_n(z)] / sqrt(n!), n even, for even f on u > 0."""
    centred = np.stack([u[None, :] - shift[:, None], u[None, :] + shift[:, None]])
    before = np.zeros_like(centred)
    now = np.exp(-(centred**2) / 2.0) / np.sqrt(2.0 * np.pi)
    out = np.empty((shift.size, ORDER // 2 + 1, u.size))
    for n in range(ORDER + 1):
        if n % 2 == 0:
            out[:, n // 2] = STEP * now.sum(axis=0)
        before, now = now, (centred * now - np.sqrt(n) * before) / np.sqrt(n + 1.0)
    return out


def _chopped(coefficients: Array) -> Array:
    """Drop what is rounding in each column."""
    noise = NOISE * np.abs(coefficients[-LAST:]).max(axis=0)
    return np.where(np.abs(coefficients) > noise, coefficients, 0.0)


def _evaluate(coefficients: Array, y: ArrayLike, order: int) -> Array:
    slopes = chebyshev.chebder(coefficients, order, scl=2.0) if order else coefficients
    value = chebyshev.chebval(2.0 * np.asarray(y, dtype=float) - 1.0, slopes)
    return np.asarray(value, dtype=np.float64)


# The functions are smooth but not analytic at m = 1; on these nodes they are at 1e-15.
CIRCLE_NODES = 64
LARGEST = 2  # derivatives


@dataclass(frozen=True, eq=False)
class Circle:
    """Chebyshev coefficients in y of A and C and of their derivatives, each fitted by itself."""

    a: tuple[Array, ...]
    c: tuple[Array, ...]

    def A(self, y: ArrayLike, order: int = 0) -> Array:
        """V - 2 C on the circle, or a derivative in y up to the second."""
        return _value(self.a[order], y)

    def C(self, y: ArrayLike, order: int = 0) -> Array:
        """E s(h) s(h*) on the circle, or a derivative in y up to the second."""
        return _value(self.c[order], y)

    def M(self, y: ArrayLike, order: int = 0) -> Array:
        """E s(h), or its derivative in y."""
        return tables().M(y, order)


@cache
def circle() -> Circle:
    """Return the functions of the circle, computed at the first call."""
    table, nodes = tables(), chebyshev.chebpts1(CIRCLE_NODES)
    y = (1.0 + nodes) / 2.0
    x = 1.0 - y
    c = [
        table.C(y, x),
        table.C(y, x, 1, 0) - table.C(y, x, 0, 1),
        table.C(y, x, 2, 0) - 2.0 * table.C(y, x, 1, 1) + table.C(y, x, 0, 2),
    ]
    a = [table.V(y, order) - 2.0 * c[order] for order in range(LARGEST + 1)]

    def fit(values: Array) -> Array:
        return np.asarray(chebyshev.chebfit(nodes, values, CIRCLE_NODES - 1), dtype=np.float64)

    return Circle(tuple(fit(v) for v in a), tuple(fit(v) for v in c))


def alpha_of(a: ArrayLike) -> Array:
    """Weight alpha = sigmoid(2 a^2) that the positional target gives to a token itself."""
    a = np.asarray(a, dtype=float)
    if not np.all(np.isfinite(a)):
        raise BadParameter(f"a must be finite, got {a[~np.isfinite(a)].ravel()[0]}")
    with np.errstate(over="ignore"):  # a^2 = inf: alpha = 1
        alpha: Array = 1.0 / (1.0 + np.exp(-2.0 * a * a))
    return alpha


def a_of(alpha: ArrayLike) -> Array:
    """Return a >= 0 of alpha in [1/2, 1]; nan outside."""
    alpha = np.asarray(alpha, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        a: Array = np.sqrt(0.5 * np.log(alpha / (1.0 - alpha)))
    return a


def _value(coefficients: Array, y: ArrayLike) -> Array:
    value = chebyshev.chebval(2.0 * np.asarray(y, dtype=float) - 1.0, coefficients)
    return np.asarray(value, dtype=np.float64)


# Rounding of e^2 + m^2 on the circle.
ROUNDING = 1e-12
# Points treated at once: the powers of m^2 take 1.6 kB each.
CHUNK = 8192


@dataclass(frozen=True)
class TwoTokenRisk:
    r"""Risk 1/2 E ||T - T*||_F^2 of the two-token attention as a function of (e, m).

    Equation    R = 2 E[(s(h) - (1 - omega) s(h*) - omega alpha)^2]; with y = e^2 and x = m^2,
                R = 2 {V(y) + (1-omega)^2 V(0) + omega^2 alpha^2 - 2 (1-omega) C(y, x)
                - 2 omega alpha M(y) + 2 (1-omega) omega alpha M(0)}
    Source      theory/sequence D.1

    Attributes
    ----------
    a, omega : float
        Target T* = (1 - omega) attention + omega A, A = softmax of [[a^2, -a^2], [-a^2, a^2]].

    Examples
    --------
    >>> from dmft.literature import positional_semantic_risk
    >>> risk = positional_semantic_risk(a=1.0, omega=0.5)
    >>> round(float(risk(e=0.0, m=1.0)), 10), round(float(risk(e=1.0, m=0.0)), 10)
    (0.0460471331, 0.1123633747)
    """

    a: float
    omega: float

    def __post_init__(self) -> None:
        alpha_of(self.a)
        check_omega(self.omega)

    def __call__(self, e: ArrayLike, m: ArrayLike) -> Array:
        """Risk at alignments e and m of one shape."""
        return self._combine(e, m, (0, 0))

    def gradient(self, e: ArrayLike, m: ArrayLike) -> Array:
        """Return (R_e, R_m), shape (..., 2)."""
        e, m = check_disc(e, m)
        return np.stack(
            [2 * e * self._combine(e, m, (1, 0)), 2 * m * self._combine(e, m, (0, 1))], axis=-1
        )

    def hessian(self, e: ArrayLike, m: ArrayLike) -> Array:
        """Second derivatives in (e, m), shape (..., 2, 2)."""
        e, m = check_disc(e, m)
        ee = 2 * self._combine(e, m, (1, 0)) + 4 * e**2 * self._combine(e, m, (2, 0))
        mm = 2 * self._combine(e, m, (0, 1)) + 4 * m**2 * self._combine(e, m, (0, 2))
        em = 4 * e * m * self._combine(e, m, (1, 1))
        return np.stack([np.stack([ee, em], axis=-1), np.stack([em, mm], axis=-1)], axis=-2)

    def _combine(self, e: ArrayLike, m: ArrayLike, orders: tuple[int, int]) -> Array:
        """Derivative of the risk of these orders in y = e^2 and x = m^2."""
        e, m = check_disc(e, m)
        y, x = e.ravel() ** 2, m.ravel() ** 2
        parts = [
            self._part(y[i : i + CHUNK], x[i : i + CHUNK], *orders)
            for i in range(0, max(y.size, 1), CHUNK)
        ]
        return np.concatenate(parts).reshape(e.shape)

    def _part(self, y: Array, x: Array, y_order: int, x_order: int) -> Array:
        t, w, alpha = tables(), self.omega, alpha_of(self.a)
        value: Array = -2 * (1 - w) * t.C(y, x, y_order, x_order)
        if x_order == 0:
            value = value + t.V(y, y_order) - 2 * w * alpha * t.M(y, y_order)
        if x_order == y_order == 0:
            value = value + (1 - w) ** 2 * t.V(0.0) + (w * alpha) ** 2
            value = value + 2 * (1 - w) * w * alpha * t.M(0.0)
        return 2 * value


def check_omega(omega: ArrayLike) -> Array:
    """Return omega as an array, or refuse what lies outside [0, 1]."""
    omega = np.asarray(omega, dtype=float)
    bad = ~((omega >= 0.0) & (omega <= 1.0))
    if np.any(bad):
        raise BadParameter(
            f"omega = {omega[bad].ravel()[0]} is the weight of the positional part of the target: "
            "it must lie in [0, 1]"
        )
    return omega


def check_disc(e: ArrayLike, m: ArrayLike) -> tuple[Array, Array]:
    """Return alignments of one shape inside the feasible disc, or refuse them."""
    e, m = np.broadcast_arrays(np.asarray(e, dtype=float), np.asarray(m, dtype=float))
    bad = ~(e**2 + m**2 <= 1.0 + ROUNDING)
    if np.any(bad):
        i = int(np.flatnonzero(bad.ravel())[0])
        raise BadParameter(
            f"(e, m) = ({e.ravel()[i]:g}, {m.ravel()[i]:g}) is not possible: weights on the sphere "
            "have e^2 + m^2 <= 1"
        )
    return e, m

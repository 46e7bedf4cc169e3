"""Distribution function and signs of two standard normal variables, in compiled code."""

from __future__ import annotations

import math

import numpy as np

from dmft.compiled import njit

# Gauss-Legendre with 20 nodes: absolute error below 1e-15 for all correlations (Genz 2004).
NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)
# From here on the integral over the correlation starts at 1 (or -1) instead of 0.
STRONG = 0.925
# Exponentials below exp(-100) are nothing beside one.
SMALLEST_EXPONENT = -100.0
TWO_PI = 2.0 * math.pi
# Rounding puts the correlation of parallel fields this far beyond 1; farther it is NaN.
BAND = 1e-9


@njit(cache=True, nogil=True, error_model="numpy")
def normal_cdf(h: float) -> float:
    """Distribution function of one standard normal variable."""
    return 0.5 * math.erfc(-h / math.sqrt(2.0))


@njit(cache=True, nogil=True, error_model="numpy")
def bivariate_normal_cdf(h: float, k: float, rho: float) -> float:
    """P(U <= h, V <= k) of standard normal U, V with correlation rho; NaN beyond [-1, 1].

    A. Genz, Statistics and Computing 14, 251 (2004): Plackett's integral over the correlation,
    from 0 where that is smooth and from the degenerate case else, with the singular part of the
    integrand done in closed form.
    """
    if not abs(rho) <= 1.0:
        if not abs(rho) <= 1.0 + BAND:
            return math.nan
        rho = math.copysign(1.0, rho)
    if abs(rho) < STRONG:
        return _change(h, k, rho) + normal_cdf(h) * normal_cdf(k)
    if rho > 0.0:
        return normal_cdf(min(h, k)) - _rest(h, k, rho)
    return max(0.0, normal_cdf(h) - normal_cdf(-k)) + _rest(h, -k, -rho)


@njit(cache=True, nogil=True, error_model="numpy")
def two_signs(h: float, k: float, rho: float) -> float:
    """E[sign(h - U) sign(k - V)], with the digits of its size also where that is tiny."""
    first, second = math.erf(h / math.sqrt(2.0)), math.erf(k / math.sqrt(2.0))
    if abs(rho) < STRONG:
        return first * second + 4.0 * _change(h, k, rho)
    return 4.0 * bivariate_normal_cdf(h, k, rho) - first - second - 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _change(h: float, k: float, rho: float) -> float:
    """Change of the probability from correlation 0 to rho, by Plackett's integral."""
    half, squares = 0.5 * math.asin(rho), 0.5 * (h * h + k * k)
    total = 0.0
    for n in range(NODES.size):
        sine = math.sin(half * (1.0 + NODES[n]))
        total += WEIGHTS[n] * math.exp((sine * h * k - squares) / (1.0 - sine * sine))
    return total * half / TWO_PI


@njit(cache=True, nogil=True, error_model="numpy")
def _rest(h: float, k: float, rho: float) -> float:
    """Change of the probability from correlation 1 down to rho, near 1."""
    if rho == 1.0:
        return 0.0
    product, gap = h * k, (h - k) ** 2
    spread = (1.0 - rho) * (1.0 + rho)
    root = math.sqrt(spread)
    c, d = (4.0 - product) / 8.0, (12.0 - product) / 80.0
    smooth = 0.0
    action = -0.5 * (gap / spread + product)
    if action > SMALLEST_EXPONENT:
        bracket = 1.0 - c * (gap - spread) * (1.0 - d * gap) / 3.0 + c * d * spread * spread
        smooth = root * math.exp(action) * bracket
    if product > SMALLEST_EXPONENT:
        distance = math.sqrt(gap)
        tail = math.sqrt(TWO_PI) * normal_cdf(-distance / root) * distance
        smooth -= math.exp(-0.5 * product) * tail * (1.0 - c * gap * (1.0 - d * gap) / 3.0)
    total = 0.0
    for n in range(NODES.size):
        x = (0.5 * root * (1.0 + NODES[n])) ** 2
        action = -0.5 * (gap / x + product)
        if action > SMALLEST_EXPONENT:
            y = math.sqrt(1.0 - x)
            exact = math.exp(-0.5 * product * x / (1.0 + y) ** 2) / y
            total += WEIGHTS[n] * math.exp(action) * (1.0 + c * x * (1.0 + 5.0 * d * x) - exact)
    return (smooth - 0.5 * root * total) / TWO_PI

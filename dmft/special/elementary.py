"""Elementary functions in compiled code: exp, tanh, erf, and the law of two normal variables.

exp, tanh and erf have no branches, so that compilers vectorise them (those of libm they do not):
exp(x) = 2^k exp(r) with |r| <= log(2)/2; k is read off the bits of x / log(2) + 1.5 * 2^52 and
becomes the exponent bits of the result, so that no conversion between integers and floats is left.
"""

from __future__ import annotations

import math

import numpy as np

from dmft.compiled import njit

# Adding it rounds to an integer, which then stands in the low bits.
ROUNDER = 6755399441055744.0
ROUNDER_BITS = 0x4338000000000000
INVERSE_LOG_2 = 1.0 / math.log(2.0)
# log(2) in two parts: k times the first is exact for |k| < 2^11.
LOG_2_HIGH = 6.93147180369123816490e-01
LOG_2_LOW = 1.90821492927058770002e-10
# Beyond, exp overflows to infinity or is smaller than any normal number.
LOWEST, HIGHEST = -708.0, 709.0
# log(erfc(u) / t) + u^2 as a polynomial in y = 2 t - 1, t = 2 / (2 + u), from its Chebyshev series
# to degree 26 computed in 40 digits; what is left out is below 1e-16.
ERFC = (
    -0.6717940840566923,
    0.672643223977656,
    0.04734330684190443,
    -0.046895610231083025,
    -0.009872689366389959,
    0.008824938553738764,
    0.001758933557799016,
    -0.002345812444802156,
    -0.00014624686337800336,
    0.0006736782697069831,
    -9.37350311709817e-05,
    -0.00017429984933155644,
    7.14010141275703e-05,
    3.173310599377061e-05,
    -3.0187884551394243e-05,
    1.699233231227702e-07,
    8.562623420121286e-06,
    -3.007645434410669e-06,
    -1.27231190486887e-06,
    1.3267813608518889e-06,
    -1.6849800720653297e-07,
    -3.168341367694147e-07,
    1.5334345920908177e-07,
    3.972203547273795e-08,
    -3.9171820510271855e-08,
    -1.5867042924138042e-09,
    4.06088214696972e-09,
)
# Taylor coefficients 1/n!: the remainder at |r| <= log(2)/2 is below 2^-54.
C = (
    1.0, 1.0, 1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0,
    1.0 / 40320.0, 1.0 / 362880.0, 1.0 / 3628800.0, 1.0 / 39916800.0, 1.0 / 479001600.0,
    1.0 / 6227020800.0,
)  # fmt: skip


# No fastmath here: reassociation would cancel the rounder.
@njit(error_model="numpy", cache=True, nogil=True)
def fast_exp(x: float) -> float:
    """e^x to two units in the last place in [-708, 709]; constant below, inf above, NaN kept."""
    inside = min(max(x, LOWEST), HIGHEST)
    shifted = inside * INVERSE_LOG_2 + ROUNDER
    k = shifted - ROUNDER
    r = (inside - k * LOG_2_HIGH) - k * LOG_2_LOW
    # Even and odd terms apart, here and below: two short chains instead of a long one.
    q = r * r
    even = q * (q * (q * (q * (q * C[12] + C[10]) + C[8]) + C[6]) + C[4]) + C[2]
    odd = q * (q * (q * (q * (q * C[13] + C[11]) + C[9]) + C[7]) + C[5]) + C[3]
    s = q * (r * odd + even) + r + 1.0
    bits = np.float64(shifted).view(np.int64) - ROUNDER_BITS + 1023
    scale = np.int64(bits << 52).view(np.float64)
    value = s * scale
    return x if math.isnan(x) else (math.inf if x > HIGHEST else value)


@njit(error_model="numpy", cache=True, nogil=True)
def fast_tanh(x: float) -> float:
    """Hyperbolic tangent, absolute error below 3e-16; NaN kept."""
    e = fast_exp(-2.0 * abs(x))
    return math.copysign((1.0 - e) / (1.0 + e), x)


@njit(inline="always", error_model="numpy")
def fast_erf(x: float) -> float:
    """Error function, absolute error below 5e-16; NaN kept."""
    u = abs(x)
    t = 2.0 / (2.0 + u)
    y = 2.0 * t - 1.0
    z = y * y
    even = z * (z * (z * (z * ERFC[26] + ERFC[24]) + ERFC[22]) + ERFC[20]) + ERFC[18]
    even = z * (z * (z * (z * (z * even + ERFC[16]) + ERFC[14]) + ERFC[12]) + ERFC[10]) + ERFC[8]
    even = z * (z * (z * (z * even + ERFC[6]) + ERFC[4]) + ERFC[2]) + ERFC[0]
    odd = z * (z * (z * (z * ERFC[25] + ERFC[23]) + ERFC[21]) + ERFC[19]) + ERFC[17]
    odd = z * (z * (z * (z * (z * odd + ERFC[15]) + ERFC[13]) + ERFC[11]) + ERFC[9]) + ERFC[7]
    odd = z * (z * (z * odd + ERFC[5]) + ERFC[3]) + ERFC[1]
    s = y * odd + even
    tail = t * fast_exp(s - u * u)
    return math.copysign(1.0 - tail, x)


# Of the approximation of the inverse of erf that its steps begin with, to 3e-3 (Winitzki).
WINITZKI = 0.14


@njit(inline="always", error_model="numpy")
def inverse_erf(x: float) -> float:
    """Inverse of the error function in (-1, 1), by two of Halley's steps."""
    logarithm = math.log((1.0 - x) * (1.0 + x))
    half = 2.0 / (math.pi * WINITZKI) + 0.5 * logarithm
    root = math.sqrt(half * half - logarithm / WINITZKI) + half
    y = math.copysign(math.sqrt(-logarithm / (WINITZKI * root)), x)
    step = (fast_erf(y) - x) * fast_exp(y * y) * 0.5 * math.sqrt(math.pi)
    y = y - step / (1.0 + y * step)
    step = (fast_erf(y) - x) * fast_exp(y * y) * 0.5 * math.sqrt(math.pi)
    return y - step / (1.0 + y * step)


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

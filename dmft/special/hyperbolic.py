"""Branch-free exp, tanh and erf, which compilers vectorise (those of libm they do not).

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

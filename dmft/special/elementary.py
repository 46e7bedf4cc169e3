"""Elementary functions in compiled code: exp, tanh, erf, arcsine, the law of two normal variables.

exp, tanh and erf have no branches, so that compilers vectorise them (those of libm they do not):
exp(x) = 2^k exp(r) with |r| <= log(2)/2; k is read off the bits of x / log(2) + 1.5 * 2^52 and
becomes the exponent bits of the result, so that no conversion between integers and floats is left.
The arcsine has none either. `erf_mixture_square` is the quadratic term of committees of sums of
error functions: each slope is a sum of Gaussians, which tilts the law by one field; what is left is
the arcsine of a pair (theory/one_pass A.1, A.2). It stands here since cached functions call none of
another file.
"""

from __future__ import annotations

import math

import numpy as np

from dmft.arrays import Array
from dmft.compiled import njit
from dmft.compiled.vectors import fma, select

# Adding it rounds to an integer, which then stands in the low bits.
ROUNDER = 6755399441055744.0
ROUNDER_BITS = 0x4338000000000000
INVERSE_LOG_2 = 1.0 / math.log(2.0)
# log(2) in two parts: k times the first is exact for |k| < 2^11.
LOG_2_HIGH = 6.93147180369123816490e-01
LOG_2_LOW = 1.90821492927058770002e-10
# Beyond, exp overflows to infinity or is smaller than any normal number.
LOWEST, HIGHEST = -708.0, 709.0
# erf and its slope at multiples of 1 / CELLS up to LAST, from where on erf is one by rounding.
CELLS, LAST = 64.0, 6.0
ERF = np.array([math.erf(n / 64.0) for n in range(385)])
ERF_SLOPE = np.array([math.exp(-((n / 64.0) ** 2)) for n in range(385)]) * 2.0 / math.sqrt(math.pi)
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


@njit(error_model="numpy", cache=True, nogil=True)
def fast_erf(x: float) -> float:
    """Error function, absolute error below 5e-16; NaN kept.

    At d from the nearest entry c of a table erf is erf(c) + erf'(c) sum_n (-1)^n H_n(c)
    d^(n+1)/(n+1)!, where |d| <= 1/128 leaves 1e-16 behind n = 5.
    """
    u = min(LAST, abs(x))
    shifted = u * CELLS + ROUNDER
    n = np.float64(shifted).view(np.int64) - ROUNDER_BITS
    c = (shifted - ROUNDER) * (1.0 / CELLS)
    d, q = u - c, c * c
    r, e = c * d, d * d
    second = q * (2.0 / 3.0) - 1.0 / 3.0 - r * (q * (1.0 / 3.0) - 0.5)
    third = q * (q * (2.0 / 15.0) - 0.4) + 0.1
    third -= r * (q * (q * (2.0 / 45.0) - 2.0 / 9.0) + 1.0 / 6.0)
    value = ERF[n] + ERF_SLOPE[n] * (d * (1.0 - r + e * (second + e * third)))
    return x if math.isnan(x) else math.copysign(value, x)


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


HALF_PI = 0.5 * math.pi
# Slope of erf(z / sqrt 2) at zero.
PREFACTOR = math.sqrt(2.0 / math.pi)

# (asin(x) - x) / x^3 in x^2, from 13 Chebyshev points of [0, 1/4]: asin to 5e-18 before rounding.
# No division, which takes as long as all the products.
A0, A1, A2, A3 = 0.16666666666666669, 0.07499999999998433, 0.04464285714635543, 0.030381944138531247
A4, A5, A6 = 0.02237217294214989, 0.017352392720869973, 0.013971212973552933
A7, A8, A9 = 0.011479177415184906, 0.01032281435018578, 0.005457506718640358
A10, A11, A12 = 0.01740087944269402, -0.014851887071247204, 0.028757851367421566


@njit(inline="always", error_model="numpy")
def asin(x: float) -> float:
    """Inverse sine in [-pi/2, pi/2]; NaN outside [-1, 1]."""
    a = abs(x)
    outer = a > 0.5
    z = select(outer, fma(-0.5, a, 0.5), a * a)
    s = select(outer, math.sqrt(z), a)
    # Even and odd terms apart: two short chains instead of a long one.
    w = z * z
    even = fma(w, fma(w, fma(w, fma(w, fma(w, fma(w, A12, A10), A8), A6), A4), A2), A0)
    odd = fma(w, fma(w, fma(w, fma(w, fma(w, A11, A9), A7), A5), A3), A1)
    r = fma(s * z, fma(z, odd, even), s)
    return math.copysign(select(outer, fma(-2.0, r, HALF_PI), r), x)


@njit(error_model="numpy", cache=True, nogil=True)
def tilt(matrix: Array, field: int, scale: float, out: Array) -> float:
    """Write the covariance under exp(-field^2 / (2 scale^2)) and return the mass of that factor."""
    size = matrix.shape[0]
    inverse = 1.0 / (scale * scale + matrix[field, field])
    for a in range(size):
        slope = matrix[a, field] * inverse
        for b in range(size):
            out[a, b] = matrix[a, b] - slope * matrix[field, b]
    # Without the cancellation of the line above at large variances.
    for a in range(size):
        own = matrix[a, field] * (scale * scale) * inverse
        out[a, field], out[field, a] = own, own
    return scale * math.sqrt(inverse)


@njit(error_model="numpy", cache=True, nogil=True, fastmath={"reassoc", "contract"})
def square_of_erfs(
    covariance: Array, pairs: Array, scale: Array, work: Array, sine: Array
) -> float:
    """E[(sum_me w_me erf(lambda_m / (scale_me sqrt 2)))^2]; `work` has two rows of (m, e).

    `pairs` holds the products of weights of all pairs (me, nf), nf up to me, those of two terms
    twice; `sine` takes what the arcsines are of: one long loop, which vectorises.
    """
    size, terms = scale.shape
    length, row = work[0], work[1]
    count = 0
    for m in range(size):
        first, own = m * terms, covariance[m, m]
        for e in range(terms):
            length[first + e] = 1.0 / math.sqrt(scale[m, e] * scale[m, e] + own)
        for n in range(m + 1):
            for f in range(n * terms, (n + 1) * terms):
                row[f] = covariance[m, n] * length[f]
        for e in range(terms):
            here = length[first + e]
            for f in range(first + e + 1):
                sine[count + f] = here * row[f]
            count += first + e + 1
    total = 0.0
    for q in range(count):
        total += pairs[q] * asin(sine[q])
    return 2.0 / math.pi * total


@njit(error_model="numpy", cache=True, nogil=True)
def erf_mixture_square(
    covariance: Array, coefficient: Array, mixture: Array, p: int, out: Array
) -> None:
    """Write E[s(h_j) s(h_l) (b + sum_m c_m sigma_m)^2] for all students j, l to `out` (p, p).

    `covariance` (n, n) and c_m (n,) are those of all fields, students first. `mixture` (4 (K + 1),)
    has weights and scales of sigma = w_0 + sum_k w_k erf(z / (scale_k sqrt 2)) of the students,
    then of the teachers; the first of each is that of w_0.
    """
    size, width = covariance.shape[0], mixture.size // 4
    students = mixture[: 2 * width].reshape((2, width))
    teachers = mixture[2 * width :].reshape((2, width))
    terms = width - 1
    weight, scale = np.empty((size, terms)), np.empty((size, terms))
    work, sine = np.empty((2, size * terms)), np.empty(size * terms * (size * terms + 1) // 2)
    pairs = np.empty_like(sine)
    constant = 0.0
    for m in range(size):
        rows = students if m < p else teachers
        constant += coefficient[m] * rows[0, 0]
        for k in range(terms):
            weight[m, k] = coefficient[m] * rows[0, k + 1]
            scale[m, k] = rows[1, k + 1]
    every, count = weight.ravel(), 0
    for e in range(every.size):
        for f in range(e + 1):
            pairs[count] = every[e] * every[f] * (2.0 if f < e else 1.0)
            count += 1
    once, twice = np.empty((size, size)), np.empty((size, size))
    for j in range(p):
        for i in range(j + 1):
            out[j, i] = 0.0
        for k in range(1, width):
            first = students[0, k] * PREFACTOR / students[1, k]
            first *= tilt(covariance, j, students[1, k], once)
            for i in range(j + 1):
                for n in range(1, k + 1 if i == j else width):
                    both = first * students[0, n] * PREFACTOR / students[1, n]
                    both *= tilt(once, i, students[1, n], twice)
                    both *= 2.0 if i == j and n < k else 1.0
                    square = square_of_erfs(twice, pairs, scale, work, sine)
                    out[j, i] += both * (constant * constant + square)
        for i in range(j):
            out[i, j] = out[j, i]

r"""Averages of functions with exponential branches (ELU, exp(-x) on a half line), compiled.

Closed forms of such averages are exp(q/2) times differences of error functions: they cancel, then
overflow. Here every branch is averaged over its own half line through the scaled complementary
error function, and what vanishes at zero by its Taylor polynomial at small variances. An average
of two fields is one integral over the first of F times the average of G given that field, on
panels that are graded towards all kinks from the finest scale on: a sum of terms of the size of
F G itself, so that its rounding is that of sqrt(E F^2 E G^2).

A factor is a vector that `dmft.gaussian.branch_factors` makes (`branch_vector`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types

from dmft.compiled import njit

# Layout of the vector: counts and scales (WIDTH: how far from 0 it lives, if it decays), kinks,
# Taylor polynomials at 0 from the left and from the right, features (position, width), first row of
# each interval, rows.
KINKS, ROWS, DEGREE, RADIUS, FEATURES, RATE, LEFT_GROWTH, RIGHT_GROWTH, CLOSED, WIDTH = range(10)
HEADER = 10
ORDER = 28
# A row: slope, curvature, error functions (how many, arguments), coefficients of powers of x, of
# x minus the left end and of x minus the right end of its interval.
MOST_ERFS = 4
ROW_HEAD = 3 + 2 * MOST_ERFS

NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)
# Eight nodes of the normal law are exact to degree 15, where a branch is hardly bent.
NORMAL_NODES, NORMAL_WEIGHTS = np.polynomial.hermite_e.hermegauss(8)
NORMAL_WEIGHTS /= NORMAL_WEIGHTS.sum()
ROOT_HALF, ROOT_TWO_PI = math.sqrt(0.5), math.sqrt(2.0 * math.pi)
# From here on the asymptotic series of erfcx has all digits.
ASYMPTOTIC, ASYMPTOTIC_TERMS = 10.0, 18
# Splits a double into two halves whose products are exact.
SPLITTER = 134217729.0
# Beyond this many standard deviations there is nothing; a kink farther out is reached up to LAST.
REACH, BEHIND, LAST = 9.5, 5.0, 37.0
WIDEST = 2.0
# Standard deviations that must lie within the radius of the Taylor polynomials.
WITHIN = 10.0
# Miller's recurrence from the order START / a^2 on has all digits; below a = FORWARD (FEW for a
# line) the forward recurrence loses less than one.
FORWARD, FEW, START = 1.5, 4.0, 400.0
# Relative excess over Cauchy-Schwarz that counts as parallel fields; beyond it NaN.
BAND = 1e-9
# A finite interval shorter than this in standard deviations is integrated by Gauss nodes.
SHORT = 3.0
MOST_CENTRES, MOST_EDGES = 64, 8192

VECTOR = types.Array(types.float64, 1, "C", readonly=True)
CALL: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**CALL)
def _product_error(x: float, y: float) -> float:
    """Rounding error x y - fl(x y) (Dekker 1971)."""
    p = x * y
    a, b = SPLITTER * x, SPLITTER * y
    x1, y1 = a - (a - x), b - (b - y)
    x2, y2 = x - x1, y - y1
    return x2 * y2 - (((p - x1 * y1) - x2 * y1) - x1 * y2)


@njit("float64(float64)", **CALL)
def erfcx(x):  # type: ignore[no-untyped-def]
    """Scaled complementary error function exp(x^2) erfc(x), to a few units in the last place."""
    if x >= ASYMPTOTIC:
        ratio, total = 0.5 / (x * x), 1.0
        for n in range(ASYMPTOTIC_TERMS, 0, -1):
            total = 1.0 - (2 * n - 1) * ratio * total
        return total / (x * math.sqrt(math.pi))
    if x < -27.0:  # beyond the largest double
        return math.inf
    return math.exp(x * x) * (1.0 + _product_error(x, x)) * math.erfc(x)


@njit(**CALL)
def _gap(first: float, second: float, cross: float) -> float:
    """C11 C22 - C12^2 of doubles without cancellation; 0 in the band of rounding, else NaN."""
    size, square = first * second, cross * cross
    gap = (size - square) + (_product_error(first, second) - _product_error(cross, cross))
    if not gap >= 0.0:
        return 0.0 if gap >= -BAND * size else math.nan
    return gap


@njit(**CALL)
def _interval(F: Any, x: float, side: int) -> int:
    """Interval of x; at a kink the one on that side."""
    n = 0
    for k in range(int(F[KINKS])):
        kink = F[HEADER + k]
        if x > kink or (x == kink and side > 0):
            n += 1
    return n


@njit(**CALL)
def one_side(F: Any, x: float, side: int) -> float:
    """F(x), at a kink the limit from one side."""
    count, degree = int(F[KINKS]), int(F[DEGREE])
    if abs(x) < F[RADIUS]:
        right = x > 0.0 or (x == 0.0 and side > 0)
        first = HEADER + count + (ORDER if right else 0)
        total = 0.0
        for n in range(ORDER - 1, -1, -1):
            total = total * x + F[first + n]
        return total
    places = HEADER + count + 2 * ORDER + 2 * int(F[FEATURES])
    rows, size = places + count + 2, ROW_HEAD + 3 * (degree + 1)
    n = _interval(F, x, side)
    total = 0.0
    for row in range(int(F[places + n]), int(F[places + n + 1])):
        at = rows + row * size
        value = 0.0
        for k in range(degree, -1, -1):
            value = value * x + F[at + ROW_HEAD + k]
        if F[at] != 0.0 or F[at + 1] != 0.0:
            value *= math.exp((F[at] - 0.5 * F[at + 1] * x) * x)
        for k in range(int(F[at + 2])):
            value *= math.erf(F[at + 3 + 2 * k] * x + F[at + 4 + 2 * k])
        total += value
    return total


@njit(**CALL)
def _value(F: Any, x: float) -> float:
    """F(x), the mean of both limits at a kink."""
    for k in range(int(F[KINKS])):
        if x == F[HEADER + k]:
            return 0.5 * (one_side(F, x, -1) + one_side(F, x, 1))
    return one_side(F, x, 1)


@njit(**CALL)
def _half_line(
    F: Any, at: int, degree: int, side: float, mean: float, sigma: float, slope: float
) -> float:
    """E[p(side y) exp(slope y) 1(y > 0)] of y ~ N(mean, sigma^2), p from its place `at` in F."""
    a = -(mean / sigma + slope * sigma)
    if a > 0.0:  # exp(-mean^2 / (2 sigma^2)) in front of int y^n exp(-a y - y^2/2) dy
        weight = math.exp(-0.5 * (mean / sigma) ** 2) / ROOT_TWO_PI
        before = math.sqrt(0.5 * math.pi) * erfcx(a * ROOT_HALF)
        now = 1.0 - a * before
    else:
        weight = math.exp(slope * mean + 0.5 * (slope * sigma) ** 2)
        before = 0.5 * math.erfc(a * ROOT_HALF)
        now = math.exp(-0.5 * a * a) / ROOT_TWO_PI - a * before
    total, step = F[at] * before, side * sigma
    if degree > 0 and slope * sigma < -FORWARD and a > (FEW if degree == 1 else FORWARD):
        return weight * before * _by_ratios(F, at, degree, a, step)
    power = 1.0
    for n in range(1, degree + 1):
        power *= step
        total += F[at + n] * power * now
        before, now = now, n * before - a * now
    return weight * total


@njit(**CALL)
def _by_ratios(F: Any, at: int, degree: int, a: float, step: float) -> float:
    """Sum of p_n step^n J_n / J_0, J_n = int y^n exp(-a y - y^2/2) dy, the minimal solution.

    J_{n+1} = n J_{n-1} - a J_n loses digits upwards; the ratios J_n / J_{n-1} = n / (a + r_{n+1})
    downwards do not.
    """
    last = degree + 20 + int(START / (a * a))
    ratio = 0.5 * (math.sqrt(a * a + 4.0 * last) - a)
    for n in range(last, degree, -1):
        ratio = n / (a + ratio)
    total = 0.0
    for n in range(degree, 0, -1):
        ratio = n / (a + ratio)
        total = (F[at + n] + total) * step * ratio
    return F[at] + total


@njit(**CALL)
def _short(
    F: Any, at: int, degree: int, low: float, high: float, mean: float, sigma: float
) -> float:
    """Average of one row over a short interval, by Gauss nodes."""
    slope = F[at]
    count = 1 + int(abs(slope) * (high - low) / 4.0)
    half, total = 0.5 * (high - low) / count, 0.0
    for panel in range(count):
        centre = low + (2 * panel + 1) * half
        for n in range(NODES.size):
            x = centre + half * NODES[n]
            value = 0.0
            for k in range(degree, -1, -1):
                value = value * x + F[at + ROW_HEAD + k]
            z = (x - mean) / sigma
            total += WEIGHTS[n] * value * math.exp(slope * x - 0.5 * z * z)
    return total * half / (sigma * ROOT_TWO_PI)


@njit(**CALL)
def _right(F: Any, at: int, degree: int, end: int, t: float, mean: float, sigma: float) -> float:
    """Average of one row over x > t, from its coefficients about t."""
    first = at + ROW_HEAD + end * (degree + 1)
    weight = math.exp(F[at] * t) if t != 0.0 else 1.0
    return weight * _half_line(F, first, degree, 1.0, mean - t, sigma, F[at])


@njit(**CALL)
def _left(F: Any, at: int, degree: int, end: int, t: float, mean: float, sigma: float) -> float:
    """Average of one row over x < t, that of its mirror image."""
    first = at + ROW_HEAD + end * (degree + 1)
    weight = math.exp(F[at] * t) if t != 0.0 else 1.0
    return weight * _half_line(F, first, degree, -1.0, t - mean, sigma, -F[at])


@njit(**CALL)
def _row(F: Any, at: int, degree: int, low: float, high: float, mean: float, sigma: float) -> float:
    """Average of one row over its interval; ends may be infinite."""
    if low == -math.inf and high == math.inf:  # powers about 0
        return _left(F, at, degree, 0, 0.0, mean, sigma) + _right(
            F, at, degree, 0, 0.0, mean, sigma
        )
    if low == -math.inf:
        return _left(F, at, degree, 2, high, mean, sigma)
    if high == math.inf:
        return _right(F, at, degree, 1, low, mean, sigma)
    if high - low <= SHORT * sigma:
        return _short(F, at, degree, low, high, mean, sigma)
    # Half lines on which the exponential decays: their difference loses little.
    if F[at] > 0.0 or (F[at] == 0.0 and mean > 0.5 * (low + high)):
        near = _left(F, at, degree, 2, high, mean, sigma)
        return near - _left(F, at, degree, 1, low, mean, sigma)
    near = _right(F, at, degree, 1, low, mean, sigma)
    return near - _right(F, at, degree, 2, high, mean, sigma)


@njit(**CALL)
def _smoothed(F: Any, mean: float, sigma: float) -> float:
    """E F(mean + sigma z) of a factor of polynomials times exponentials on intervals."""
    if sigma == 0.0:
        return _value(F, mean)
    count, degree = int(F[KINKS]), int(F[DEGREE])
    taylor = HEADER + count
    if abs(mean) + WITHIN * sigma < F[RADIUS]:
        if abs(mean) > LAST * sigma:  # the other branch is out of reach
            total = 0.0
            for n in range(NORMAL_NODES.size):
                total += NORMAL_WEIGHTS[n] * one_side(F, mean + sigma * NORMAL_NODES[n], 1)
            return total
        left = _half_line(F, taylor, ORDER - 1, -1.0, -mean, sigma, 0.0)
        return left + _half_line(F, taylor + ORDER, ORDER - 1, 1.0, mean, sigma, 0.0)
    places = taylor + 2 * ORDER + 2 * int(F[FEATURES])
    rows, size = places + count + 2, ROW_HEAD + 3 * (degree + 1)
    total = 0.0
    for n in range(count + 1):
        low = F[HEADER + n - 1] if n > 0 else -math.inf
        high = F[HEADER + n] if n < count else math.inf
        for row in range(int(F[places + n]), int(F[places + n + 1])):
            total += _row(F, rows + row * size, degree, low, high, mean, sigma)
    return total


@njit(**CALL)
def _edges(centres: Any, widths: Any, count: int, low: float, high: float) -> Any:
    """Ends of panels on (low, high) whose widths double away from each centre."""
    edges = np.empty(MOST_EDGES)
    edges[0], edges[1], used = low, high, 2
    for n in range(count):
        if low < centres[n] < high:
            edges[used] = centres[n]
            used += 1
        step = widths[n]
        while step < high - low and used < MOST_EDGES // 4:
            for end in (centres[n] - step, centres[n] + step):
                if low < end < high:
                    edges[used] = end
                    used += 1
            if step > WIDEST:
                break
            step *= 2.0
    coarse = np.sort(edges[:used])
    total = 0
    for n in range(used - 1):
        gap = coarse[n + 1] - coarse[n]
        if gap > 0.0:
            pieces = 1 + int(gap / WIDEST)
            for k in range(pieces):
                edges[total] = coarse[n] + gap * k / pieces
                total += 1
    edges[total] = high
    return edges[: total + 1]


@njit(**CALL)
def _marks(
    F: Any, mean: float, scale: float, finest: float, centres: Any, widths: Any, used: int
) -> int:
    """Append where F(mean + scale u) switches or bends, and on which scale, in u."""
    count = int(F[KINKS])
    if scale == 0.0:
        return used
    for k in range(count):
        if used < MOST_CENTRES:
            centres[used], widths[used] = (F[HEADER + k] - mean) / scale, finest
            used += 1
    features = HEADER + count + 2 * ORDER
    for k in range(int(F[FEATURES])):
        if used < MOST_CENTRES:
            centres[used] = (F[features + 2 * k] - mean) / scale
            widths[used] = min(finest, F[features + 2 * k + 1] / abs(scale))
            used += 1
    return used


@njit(**CALL)
def _integral(
    F: Any, mean: float, s: float, G: Any, slope: float, sigma: float, paired: bool
) -> float:
    """E F(mean + s u) H(slope u) of standard normal u, H(m) = E G(m + sigma z) or 1."""
    rate = max(1.0, F[RATE] * s, G[RATE] * abs(slope) if paired else 0.0)
    centres, widths = np.empty(MOST_CENTRES), np.empty(MOST_CENTRES)
    used = _marks(F, mean, s, 1.0 / rate, centres, widths, 0)
    right, left = REACH + F[RIGHT_GROWTH] * s, REACH + F[LEFT_GROWTH] * s
    if paired and slope != 0.0:
        layer = min(1.0 / rate, sigma / abs(slope)) if sigma > 0.0 else 1.0 / rate
        used = _marks(G, 0.0, slope, layer, centres, widths, used)
        growth = max(G[RIGHT_GROWTH], G[LEFT_GROWTH]) * abs(slope)
        right, left = right + growth, left + growth
    for n in range(used):
        if abs(centres[n]) < LAST:
            right, left = max(right, centres[n] + BEHIND), max(left, BEHIND - centres[n])
    edges = _edges(centres, widths, used, -left, right)
    total = 0.0
    for n in range(edges.size - 1):
        centre, half = 0.5 * (edges[n] + edges[n + 1]), 0.5 * (edges[n + 1] - edges[n])
        part = 0.0
        for k in range(NODES.size):
            u = centre + half * NODES[k]
            value = one_side(F, mean + s * u, 1)
            if value != 0.0:
                if paired:
                    value *= _smoothed(G, slope * u, sigma)
                part += WEIGHTS[k] * value * math.exp(-0.5 * u * u)
        total += half * part
    return total / ROOT_TWO_PI


@njit(types.float64(VECTOR, types.float64, types.float64), **CALL)
def branch_field(F, mean, variance):  # type: ignore[no-untyped-def]
    """E F(mean + sqrt(variance) z) of the factor of a vector; NaN for a negative variance."""
    if not (variance >= 0.0 and math.isfinite(mean)):
        return math.nan
    if F[CLOSED] > 0.0 or variance == 0.0:
        return _smoothed(F, mean, math.sqrt(variance))
    return _integral(F, mean, math.sqrt(variance), F, 0.0, 0.0, False)


@njit(types.float64(VECTOR, *(types.float64,) * 4), **CALL)
def branch_given(F, first, cross, second, value):  # type: ignore[no-untyped-def]
    """E[F(v) | u = value] of two centred fields; the conditional variance without cancellation."""
    rest = _gap(first, second, cross) / first
    return branch_field(F, value * cross / first, rest)


@njit(types.float64(VECTOR, VECTOR, types.float64, types.float64, types.float64), **CALL)
def branch_pair(F, G, first, cross, second):  # type: ignore[no-untyped-def]
    """E F(u) G(v) of two centred fields; G holds no error functions. NaN outside the covariances.

    Shapes      vectors of `branch_vector`; variances and covariance
    Valid for   any variances, parallel fields included; to about 1e-14 sqrt(E F^2 E G^2)
    """
    gap = _gap(first, second, cross)
    if not (first >= 0.0 and second >= 0.0 and gap >= 0.0):
        return math.nan
    if first == 0.0:
        return _value(F, 0.0) * _smoothed(G, 0.0, math.sqrt(second))
    s = math.sqrt(first)
    return _integral(F, 0.0, s, G, cross / s, math.sqrt(gap) / s, True)


@njit("float64(float64, float64, float64, float64)", **CALL)
def covariance_given(second, one, variance, two):  # type: ignore[no-untyped-def]
    """Cov(x, v | u) = C_xv - C_xu C_uv / C_uu to a few units of itself, zero where x or v is u."""
    if variance == 0.0:
        return second
    if one == variance and two == second:
        return 0.0
    ratio = two / variance
    left = (two - ratio * variance) - _product_error(ratio, variance)
    return (second - one * ratio) - _product_error(one, ratio) - one * (left / variance)


# Averages of slopes of functions that vanish at both infinities, which integrate to zero: by parts,
# an average E F(u) G'(v) of fields that spread over more than G lives on is a difference of numbers
# that are larger than it by the variance.


@njit(types.float64(*(VECTOR,) * 5, *(types.float64,) * 3), **CALL)
def branch_slope(F, zF, slope, G, zG, first, cross, second):  # type: ignore[no-untyped-def]
    """E F(u) G'(v) of a G that vanishes at both infinities, its jumps included.

    Where v spreads over more than G lives on, G' and its jumps cancel each other: by Stein's
    identity for v given u it is E F(u) (v - E[v | u]) G(v) / Var(v | u).

    Shapes      vectors of F, z F(z), G' between the jumps, G and z G(z); variances and covariance
    Valid for   as `branch_pair`
    """
    ratio = cross / first if first > 0.0 else 0.0
    rest = covariance_given(second, cross, first, cross)
    if rest > G[WIDTH] * G[WIDTH]:
        tilted = branch_pair(F, zG, first, cross, second)
        return (tilted - ratio * branch_pair(zF, G, first, cross, second)) / rest
    total = branch_pair(F, slope, first, cross, second)
    for k in range(int(G[KINKS])):
        t = G[HEADER + k]
        jump = one_side(G, t, 1) - one_side(G, t, -1)
        if jump != 0.0:
            density = math.exp(-0.5 * t * t / second) / (ROOT_TWO_PI * math.sqrt(second))
            total += jump * density * branch_given(F, second, cross, first, t)
    return total


@njit(types.float64(*(VECTOR,) * 9, *(types.float64,) * 3), **CALL)
def branch_slopes(F, zF, slope, G, zG, f, zf, zzf, zzG, first, cross, second):  # type: ignore[no-untyped-def]
    """E f'(u) G'(v) of two that vanish at both infinities, F = f' without jumps.

    Where both fields spread, it is E f G times d^2 p / du dv over the density p.

    Shapes      vectors as in `branch_slope`, then of f, z f, z^2 f and z^2 G
    Valid for   as `branch_pair`
    """
    gap = first * covariance_given(second, cross, first, cross)
    if gap > f[WIDTH] * G[WIDTH] * math.sqrt(first * second):
        total = (first * second + cross * cross) * branch_pair(zf, zG, first, cross, second)
        total -= cross * second * branch_pair(zzf, G, first, cross, second)
        total -= cross * first * branch_pair(f, zzG, first, cross, second)
        return (total / gap + cross * branch_pair(f, G, first, cross, second)) / gap
    return branch_slope(F, zF, slope, G, zG, first, cross, second)

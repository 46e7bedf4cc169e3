r"""Gaussian averages from tables in compiled code: polynomials, sequences, series of two fields.

Products of polynomials are one loop over all linked diagrams,

    E prod_i p_i(x_i) = sum_k weight_k prod_{i<j} C_ij^{k_ij} prod_i E[p_i^{(r_i)}] / r_i!,

with r_i the sum of the links k_ij of a field (`dmft.gaussian.closed.wick`). A table holds the
number of fields, the largest degree and the number of diagrams; for each field and r the point
about which E[p^(r)] / r! is expanded in the variance, and its coefficients; for each diagram the
weight and the links.

A table of a sequence model (`dmft.gaussian.tables.token_table`) holds rows, columns, radius, two
bounds, the powers of m in rising order, then the Chebyshev coefficients in e of each row.

Averages of two fields are series in their correlation,

    E F(u) G(v) = sum_n rho^n a_n(s_1) b_n(s_2),   a_n(s) = E F(s z) he_n(z) / sqrt(n!)

The coefficients are Chebyshev polynomials on strips of s, even and odd orders apart
(`dmft.gaussian.tables.series_strips` writes them), and the Taylor polynomial below. A strip knows
how large the orders are that it leaves out, by Parseval's identity: where the correlation does not
make them small, the result is NaN and the average is left to quadrature.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.compiled import njit


@njit(cache=True, nogil=True, error_model="numpy")
def average_of_polynomials(T: Array, *entries: float) -> float:
    """Sum over the diagrams of a table; `entries` is the upper triangle of the covariance."""
    fields, top, count = int(T[0]), int(T[1]), int(T[2])
    moments = np.empty((fields, top + 1))
    pairs = fields * (fields - 1) // 2
    powers = np.empty((pairs, top + 1))
    block = top + 2
    pair = entry = 0
    for i in range(fields):
        variance = entries[entry]
        for r in range(top + 1):
            start = 3 + (i * (top + 1) + r) * block
            step, value = variance - T[start], 0.0
            for n in range(top, -1, -1):
                value = value * step + T[start + 1 + n]
            moments[i, r] = value
        for j in range(1, fields - i):
            power = 1.0
            for n in range(top + 1):
                powers[pair, n] = power
                power *= entries[entry + j]
            pair += 1
        entry += fields - i
    degrees = np.empty(fields, np.int64)
    total = 0.0
    place = 3 + fields * (top + 1) * block
    for _ in range(count):
        value = T[place]
        degrees[:] = 0
        pair = 0
        for i in range(fields):
            for j in range(i + 1, fields):
                links = int(T[place + 1 + pair])
                degrees[i] += links
                degrees[j] += links
                value *= powers[pair, links]
                pair += 1
        for i in range(fields):
            value *= moments[i, degrees[i]]
        total += value
        place += 1 + pairs
    return total


# Position of the powers.
HEADER = 5


@njit(cache=True, nogil=True, error_model="numpy")
def token_value(table: NDArray[np.float64], e: float, m: float) -> float:
    """sum_r m^p_r sum_c a_rc T_c(e / radius); a polynomial also beyond the radius."""
    rows, columns = int(table[0]), int(table[1])
    x = e / table[2]
    start = HEADER + rows
    total, power, reached = 0.0, 1.0, 0
    for r in range(rows):
        wanted = int(table[HEADER + r])
        while reached < wanted:
            power *= m
            reached += 1
        # Clenshaw's sum of the row.
        last, before = 0.0, 0.0
        for c in range(columns - 1, 0, -1):
            now = table[start + r * columns + c] + 2.0 * x * last - before
            before, last = last, now
        total += power * (table[start + r * columns] + x * last - before)
    return total


# Most coefficients of one parity, and most where they make parallel fields converge; they are taken
# in groups.
TERMS, MOST, GROUP = 96, 192, 8
# Coefficients of a Chebyshev series in s.
ORDER = 12
# What a series may leave out, relative to sqrt(E F^2 E G^2).
LEFT_OUT = 4e-15
# Positions of a table of `dmft.special.averages`, of which SERIES says where the strips begin.
PARITY, SMALL, TAYLOR, TAYLOR_ORDER, SERIES = 0, 2, 10, 16, 9
# Of the strips: how many, parities that have coefficients; then edges, counts, remainders behind
# these counts and behind `TERMS`, places.
STRIPS, PARITIES, EDGES = 0, 1, 2


def _moments() -> Array:
    """E z^j he_n(z) / sqrt(n!) for j, n < TAYLOR_ORDER."""
    moments = np.zeros((TAYLOR_ORDER, TAYLOR_ORDER))
    for j in range(TAYLOR_ORDER):
        for n in range(j % 2, j + 1, 2):
            half = (j - n) // 2
            moments[j, n] = math.factorial(j) / (
                math.factorial(half) * 2.0**half * math.sqrt(math.factorial(n))
            )
    return moments


MOMENTS = _moments()


@njit(cache=True, nogil=True, error_model="numpy")
def _strip(T: Array, s: float) -> int:
    """Strip of a standard deviation; -1 where the Taylor polynomial holds, -2 beyond all."""
    at = int(T[SERIES])
    if s <= T[SMALL]:
        return -1
    low, high = 0, int(T[at + STRIPS])
    if not (T[at + EDGES] <= s <= T[at + EDGES + high]):
        return -2
    while high - low > 1:
        middle = (low + high) // 2
        if T[at + EDGES + middle] <= s:
            low = middle
        else:
            high = middle
    return low


@njit(cache=True, nogil=True, error_model="numpy")
def _count(T: Array, strip: int) -> int:
    """Coefficients of one parity that a strip has."""
    at = int(T[SERIES])
    return GROUP if strip < 0 else int(T[at + EDGES + int(T[at + STRIPS]) + 1 + strip])


@njit(cache=True, nogil=True, error_model="numpy")
def _remainder(T: Array, strip: int, count: int) -> float:
    """Root mean square of what the orders beyond make of F, relative to that of F; 1 if unknown."""
    if strip < 0:
        return 0.0
    at, strips = int(T[SERIES]), int(T[int(T[SERIES]) + STRIPS])
    if count == _count(T, strip):
        return T[at + EDGES + 2 * strips + 1 + strip]
    return T[at + EDGES + 3 * strips + 1 + strip] if count == TERMS else 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def chebyshev_polynomials(x: float, out: Array) -> None:
    """Write T_0(x), T_1(x), ..."""
    out[0], out[1] = 1.0, x
    for i in range(2, out.size):
        out[i] = 2.0 * x * out[i - 1] - out[i - 2]


@njit(cache=True, nogil=True, error_model="numpy")
def _coefficients(
    T: Array, strip: int, s: float, odd: int, count: int, powers: Array, out: Array
) -> None:
    """Write the first `count` coefficients of one parity; `powers` is room for polynomials in s."""
    if strip < 0:
        for n in range(count):
            out[n] = 0.0
            power = s if odd == 1 else 1.0
            for j in range(odd, TAYLOR_ORDER, 2):
                out[n] += T[TAYLOR + j] * power * MOMENTS[j, 2 * n + odd]
                power *= s * s
        return
    at = int(T[SERIES])
    strips, terms = int(T[at + STRIPS]), _count(T, strip)
    lo, hi = T[at + EDGES + strip], T[at + EDGES + strip + 1]
    tau = (2.0 * s - lo - hi) / (hi - lo)
    start = at + int(T[at + EDGES + 4 * strips + 1 + strip])
    if odd == 1 and T[at + PARITIES] == 2.0:
        start += ORDER * terms
    rows = T[start : start + ORDER * terms].reshape(ORDER, terms)
    chebyshev_polynomials(tau, powers)
    for n in range(count):
        total = 0.0
        for i in range(ORDER):  # unrolled, so that the loop around it vectorises
            total += powers[i] * rows[i, n]
        out[n] = total


@njit(cache=True, nogil=True, error_model="numpy")
def series_average(F: Array, G: Array, s1: float, s2: float, rho: float) -> float:
    """E F(u) G(v) at deviations s1, s2 and correlation rho, both tables with strips.

    NaN where the series does not converge.
    """
    at_f, at_g = _strip(F, s1), _strip(G, s2)
    if at_f == -2 or at_g == -2:
        return math.nan
    square = rho * rho
    fourth = square * square
    step = fourth * fourth
    step *= step
    most = min(_count(F, at_f), _count(G, at_g))
    count, left = 0, 1.0
    while count < most and left > LEFT_OUT:
        left *= step
        count += GROUP
    if left > LEFT_OUT:
        left *= _remainder(F, at_f, count) * _remainder(G, at_g, count)
        if left > LEFT_OUT:
            return math.nan
    work = np.empty(2 * count + ORDER)
    f, g, powers = work[:count], work[count : 2 * count], work[2 * count :]
    total = 0.0
    for odd in range(2):
        sign = 1.0 - 2.0 * odd
        if F[PARITY] == -sign or G[PARITY] == -sign:
            continue
        _coefficients(F, at_f, s1, odd, count, powers, f)
        _coefficients(G, at_g, s2, odd, count, powers, g)
        for n in range(count):
            f[n] *= g[n]
        for group in range(count - 2 * GROUP, -1, -GROUP):
            for n in range(GROUP):
                f[group + n] += step * f[group + GROUP + n]
        value = f[GROUP - 1]
        for n in range(GROUP - 2, -1, -1):
            value = value * square + f[n]
        total += value * rho if odd == 1 else value
    return total

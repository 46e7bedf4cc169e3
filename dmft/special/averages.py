"""Gaussian averages of one and two fields from tables of their factors, in compiled code.

A factor F is one float64 vector (`dmft.gaussian.tables.factor_table` writes it): Chebyshev
polynomials of F on panels, of the smoothed factor H(m, sigma) = E F(m + sigma z) on cells where F
is smooth, and Taylor polynomials at 0. An average of two fields is the one-dimensional integral

    E F(u) G(v) = E_z F(s_1 z) H_G(b z, sigma),   b = C_12 / s_1,  sigma^2 = C_22 - b^2

by Gauss nodes on the panels of both tables. Outside the domain of a table the result is NaN.
"""

from __future__ import annotations

import math

import numpy as np

from dmft.arrays import Array
from dmft.compiled import njit
from dmft.compiled.vectors import fma
from dmft.special.elementary import fast_exp
from dmft.special.tables import chebyshev_polynomials, series_average

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.special.elementary": "16e8bd818845",
    "dmft.special.tables": "e7dea1027453",
}

# Coefficients of a polynomial in one variable, and Gauss nodes of a panel.
ORDER = 16
NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
# The normal density is cut here (1e-22), and no panel is wider than this.
REACH = 10.0
WIDEST = 2.0
# Positions of the header.
PARITY, LARGEST, SMALL, PANELS, STRIPS, CELLS, KINKS, ERROR, TABLED, SERIES, HEADER = range(11)
# After it: Taylor polynomials on the right and on the left of 0, edges of the panels of F, ...
TAYLOR, EDGES = HEADER, HEADER + 2 * ORDER
# Overlaps that rounding or an integration step puts this far beyond Cauchy-Schwarz (relative) count
# as parallel; beyond it the result is NaN.
BAND = 1e-9
NORMALISATION = 1.0 / math.sqrt(2.0 * math.pi)
# Exact for a polynomial of degree 15 against the normal density.
HERMITE_NODES, HERMITE_WEIGHTS = np.polynomial.hermite_e.hermegauss(10)
# Beyond a kink that is smoothed over this many widths, panels double.
FIRST_STEP = 3.0


@njit(cache=True, nogil=True, error_model="numpy")
def _line(T: Array) -> int:
    """Where the coefficients of F itself begin."""
    return EDGES + int(T[PANELS]) + 1


@njit(cache=True, nogil=True, error_model="numpy")
def _cells(T: Array) -> tuple[int, int, int, int]:
    """Where strips of sigma, first cell of each strip, edges of cells, coefficients begin."""
    strips = _line(T) + int(T[PANELS]) * ORDER
    first = strips + int(T[STRIPS]) + 1
    sides = first + int(T[STRIPS]) + 1
    return strips, first, sides, sides + int(T[CELLS]) + int(T[STRIPS])


@njit(cache=True, nogil=True, error_model="numpy")
def _find(T: Array, start: int, count: int, x: float) -> int:
    """Panel n of `count` with edges T[start + n] <= x; the first or last one outside."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        if T[start + middle] <= x:
            low = middle
        else:
            high = middle
    return low


# Loops over the coefficients, whose number is fixed, are unrolled: those around them vectorise.


@njit(cache=True, nogil=True, error_model="numpy")
def _chebyshev(c: Array, t: Array, out: Array) -> None:
    """Chebyshev series c[:ORDER] at all t."""
    for i in range(t.size):
        x, new, old = t[i], 0.0, 0.0
        twice = 2.0 * x
        for k in range(ORDER - 1, 0, -1):
            value = fma(twice, new, c[k] - old)
            old = new
            new = value
        out[i] = fma(x, new, c[0] - old)


@njit(cache=True, nogil=True, error_model="numpy")
def _horner(c: Array, x: Array, out: Array) -> None:
    """Polynomial with coefficients c[:ORDER] at all x."""
    for i in range(x.size):
        value = c[ORDER - 1]
        for k in range(ORDER - 2, -1, -1):
            value = fma(value, x[i], c[k])
        out[i] = value


@njit(cache=True, nogil=True, error_model="numpy")
def _scalar_chebyshev(c: Array, at: int, t: float) -> float:
    new, old, twice = 0.0, 0.0, 2.0 * t
    for k in range(ORDER - 1, 0, -1):
        new, old = fma(twice, new, c[at + k] - old), new
    return fma(t, new, c[at] - old)


@njit(cache=True, nogil=True, error_model="numpy")
def factor_value(T: Array, x: float) -> float:
    """F(x) from its table; beyond it, of the last panel."""
    n = _find(T, EDGES, int(T[PANELS]), x)
    a, b = T[EDGES + n], T[EDGES + n + 1]
    return _scalar_chebyshev(T, _line(T) + n * ORDER, (2.0 * x - a - b) / (b - a))


@njit(cache=True, nogil=True, error_model="numpy")
def line_values(T: Array, x: Array) -> Array:
    """F at all x, from the panels of its table."""
    out = np.empty(x.size)
    for i in range(x.size):
        out[i] = factor_value(T, x[i])
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def smoothed_values(T: Array, m: Array, sigma: Array) -> Array:
    """H(m_i, sigma_i) by quadrature over the panels of F."""
    out = np.empty(m.size)
    for i in range(m.size):
        out[i] = _rough_smoothed(T, m[i], sigma[i], False)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _taylor_smoothed(T: Array, sigma: float, out: Array) -> None:
    """Taylor coefficients in m of H(m, sigma) = sum_j a_j E (m + sigma z)^j."""
    for i in range(ORDER):
        total, weight = 0.0, 1.0
        for half in range((ORDER - 1 - i) // 2 + 1):
            j = i + 2 * half
            total += T[TAYLOR + j] * weight
            # binomial(j, i) sigma^(j-i) (j-i-1)!! to the next even j - i
            weight *= sigma * sigma * (j + 1) * (j + 2) / (2.0 * (half + 1))
        out[i] = total


@njit(cache=True, nogil=True, error_model="numpy")
def field_average(T: Array, mean: float, variance: float) -> float:
    """E F(mean + sqrt(variance) z); NaN outside the domain of the table."""
    if not (variance >= 0.0 and math.isfinite(mean)):
        return math.nan
    sigma = math.sqrt(variance)
    if not (sigma <= T[LARGEST] and abs(mean) <= REACH * T[LARGEST]):
        return math.nan
    strips, first, sides, cells = _cells(T)
    small = mean == 0.0 and sigma <= T[SMALL]
    beyond = sigma > T[TABLED] or abs(mean) > REACH * T[TABLED]
    if beyond or sigma < T[strips] or (small and T[KINKS] > 0.0):
        return _rough_smoothed(T, mean, sigma, small)
    if small:
        c = np.empty(ORDER)
        _taylor_smoothed(T, sigma, c)
        return c[0]
    k = _find(T, strips, int(T[STRIPS]), sigma)
    low = int(T[first + k])
    count = int(T[first + k + 1]) - low
    n = _find(T, sides + low + k, count, mean)
    a, b = T[sides + low + k + n], T[sides + low + k + n + 1]
    lo, hi = T[strips + k], T[strips + k + 1]
    u, tau = (2.0 * mean - a - b) / (b - a), (2.0 * sigma - lo - hi) / (hi - lo)
    c = np.empty(ORDER)
    powers = np.empty(ORDER)
    chebyshev_polynomials(tau, powers)
    _collapse(T, cells + (low + n) * ORDER * ORDER, powers, c)
    return _scalar_chebyshev(c, 0, u)


@njit(cache=True, nogil=True, error_model="numpy")
def pair_average(F: Array, G: Array, c11: float, c12: float, c22: float) -> float:
    """E F(u) G(v) of centred fields, all of G tabled; NaN outside the domain of the tables.

    Parallel fields may exceed Cauchy-Schwarz by rounding (`BAND`).
    """
    slope, sigma = _regression(F, G, c11, c12, c22)
    if math.isnan(sigma):
        return math.nan
    s1, s2 = math.sqrt(c11), math.sqrt(c22)
    if F[SERIES] > 0.0 and G[SERIES] > 0.0 and s2 > 0.0:
        value = series_average(F, G, s1, s2, slope / s2)
        if not math.isnan(value):
            return value
    parity = F[PARITY] * G[PARITY]
    start = 0.0 if parity > 0.0 else -REACH
    total = _smooth_integral(F, G, s1, s2, slope, sigma, start)
    return total * NORMALISATION * (1.0 + parity if parity != 0.0 else 1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def kinked_pair_average(F: Array, G: Array, c11: float, c12: float, c22: float) -> float:
    """Like `pair_average` where G has kinks: slower for nearly parallel fields."""
    slope, sigma = _regression(F, G, c11, c12, c22)
    if math.isnan(sigma):
        return math.nan
    s1, s2 = math.sqrt(c11), math.sqrt(c22)
    parity = F[PARITY] * G[PARITY]
    start = 0.0 if parity > 0.0 else -REACH
    if sigma < G[_cells(G)[0]] or s2 > G[TABLED]:
        total = _rough_integral(F, G, s1, s2, slope, sigma, start)
    else:
        total = _smooth_integral(F, G, s1, s2, slope, sigma, start)
    return total * NORMALISATION * (1.0 + parity if parity != 0.0 else 1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _regression(F: Array, G: Array, c11: float, c12: float, c22: float) -> tuple[float, float]:
    """Slope and spread of v = slope z + spread z', u = s_1 z; NaN outside the domain."""
    if not (c11 >= 0.0 and c22 >= 0.0 and math.isfinite(c12)):
        return math.nan, math.nan
    s1, s2 = math.sqrt(c11), math.sqrt(c22)
    if not (s1 <= F[LARGEST] and s2 <= G[LARGEST]):
        return math.nan, math.nan
    size = math.sqrt(c11 * c22)  # equal variances give it without rounding
    gap = (size - c12) * (size + c12)
    if gap < -BAND * size * size:
        return math.nan, math.nan
    if s1 == 0.0:
        return 0.0, s2
    return c12 / s1, min(math.sqrt(max(gap, 0.0)) / s1, s2)


@njit(cache=True, nogil=True, error_model="numpy")
def _smooth_integral(
    F: Array, G: Array, s1: float, s2: float, slope: float, sigma: float, start: float
) -> float:
    """Integral of F(s_1 z) H_G(slope z, sigma) exp(-z^2/2) over z > start."""
    small_f, small_g = s1 <= F[SMALL], s2 <= G[SMALL] and G[KINKS] == 0.0
    n = NODES.size
    z, t, f, g = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    f_line = _line(F)
    strips, first, sides, cells = _cells(G)
    panels = int(F[PANELS])
    pf = _find(F, EDGES, panels, s1 * start)
    k = _find(G, strips, int(G[STRIPS]), sigma)
    low = int(G[first + k])
    count = int(G[first + k + 1]) - low
    sides += low + k
    pg = _find(G, sides, count, slope * start)
    # Cells become series in m at this value of sigma when they are needed.
    lo, hi = G[strips + k], G[strips + k + 1]
    tau = min((2.0 * sigma - lo - hi) / (hi - lo), 1.0)
    powers, series = np.empty(ORDER), np.empty(ORDER)
    chebyshev_polynomials(tau, powers)
    if small_g:
        _taylor_smoothed(G, sigma, series)
    else:
        _collapse(G, cells + (low + pg) * ORDER * ORDER, powers, series)
    here, total = start, 0.0
    while here < REACH:
        end_f, end_g = math.inf, math.inf
        if not small_f and pf + 1 < panels and s1 > 0.0:
            end_f = F[EDGES + pf + 1] / s1
        if not small_g and slope > 0.0 and pg + 1 < count:
            end_g = G[sides + pg + 1] / slope
        elif not small_g and slope < 0.0 and pg > 0:
            end_g = G[sides + pg] / slope
        there = min(min(here + WIDEST, REACH), min(end_f, end_g))
        # Between a switch of F at 0 and Taylor polynomials of both sides.
        if small_f and here < 0.0 < there:
            there = 0.0
        if there > here:
            centre, half = 0.5 * (here + there), 0.5 * (there - here)
            for i in range(n):
                z[i] = centre + half * NODES[i]
            if small_f:
                for i in range(n):
                    t[i] = s1 * z[i]
                at = TAYLOR + (ORDER if centre < 0.0 else 0)
                _horner(F[at : at + ORDER], t, f)
            else:
                a, b = F[EDGES + pf], F[EDGES + pf + 1]
                scale, shift = 2.0 * s1 / (b - a), (a + b) / (b - a)
                for i in range(n):
                    t[i] = scale * z[i] - shift
                at = f_line + pf * ORDER
                _chebyshev(F[at : at + ORDER], t, f)
            if small_g:
                for i in range(n):
                    t[i] = slope * z[i]
                _horner(series, t, g)
            else:
                a, b = G[sides + pg], G[sides + pg + 1]
                scale, shift = 2.0 * slope / (b - a), (a + b) / (b - a)
                for i in range(n):
                    t[i] = scale * z[i] - shift
                _chebyshev(series, t, g)
            part = 0.0
            for i in range(n):
                f[i] *= WEIGHTS[i] * fast_exp(-0.5 * z[i] * z[i]) * g[i]
            for i in range(n):
                part += f[i]
            total += half * part
        if end_f <= there:
            pf += 1
        if end_g <= there:
            pg += 1 if slope > 0.0 else -1
            _collapse(G, cells + (low + pg) * ORDER * ORDER, powers, series)
        here = max(here, there)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _collapse(G: Array, at: int, powers: Array, series: Array) -> None:
    """Series in m of a cell at a value of sigma, whose Chebyshev polynomials are `powers`."""
    for i in range(ORDER):
        series[i] = 0.0
    for j in range(ORDER):
        row, power = G[at + j * ORDER : at + (j + 1) * ORDER], powers[j]
        for i in range(ORDER):
            series[i] = fma(power, row[i], series[i])


# Factors with kinks: the smoothed factor has a layer of width sigma at each kink -----------------


@njit(cache=True, nogil=True, error_model="numpy")
def _rough_integral(
    F: Array, G: Array, s1: float, s2: float, slope: float, sigma: float, start: float
) -> float:
    """Like `_smooth_integral` for a factor G with kinks: the inner average is an integral too."""
    small_f, small_g = s1 <= F[SMALL], s2 <= G[SMALL]
    edges = _outer_edges(F, G, s1, slope, sigma, start, small_f, small_g)
    n = NODES.size
    z, t, f = np.empty(n), np.empty(n), np.empty(n)
    total = 0.0
    for p in range(edges.size - 1):
        centre, half = 0.5 * (edges[p] + edges[p + 1]), 0.5 * (edges[p + 1] - edges[p])
        if half <= 0.0:
            continue
        for i in range(n):
            z[i] = centre + half * NODES[i]
            t[i] = s1 * z[i]
        pf = int(centre >= 0.0) if small_f else _find(F, EDGES, int(F[PANELS]), s1 * centre)
        _pieces(F, small_f, pf, t, f)
        part = 0.0
        for i in range(n):
            if f[i] != 0.0:
                inner = _rough_smoothed(G, slope * z[i], sigma, small_g)
                part += WEIGHTS[i] * math.exp(-0.5 * z[i] * z[i]) * f[i] * inner
        total += half * part
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _outer_edges(
    F: Array,
    G: Array,
    s1: float,
    slope: float,
    sigma: float,
    start: float,
    small_f: bool,
    small_g: bool,
) -> Array:
    """Edges of the panels in z: of both tables, and doubling away from the kinks of G."""
    kinks = int(G[KINKS])
    found = [start, REACH, 0.0]
    for i in range(1, int((REACH - start) / WIDEST)):
        found.append(start + WIDEST * i)
    if not small_f:
        for i in range(int(F[PANELS]) + 1):
            found.append(F[EDGES + i] / s1)
    if slope != 0.0:
        if not small_g:
            for i in range(int(G[PANELS]) + 1):
                found.append(G[EDGES + i] / slope)
        for i in range(kinks):
            centre = G[G.size - kinks + i] / slope
            found.append(centre)
            width = FIRST_STEP * sigma / abs(slope)
            while 0.0 < width < REACH - start:
                found.append(centre - width)
                found.append(centre + width)
                width *= 2.0
    edges = np.sort(np.array(found))
    return edges[(edges >= start) & (edges <= REACH)]


@njit(cache=True, nogil=True, error_model="numpy")
def _rough_smoothed(G: Array, m: float, sigma: float, small: bool) -> float:
    """E G(m + sigma z) of a factor with kinks; `small` takes the Taylor polynomials at 0."""
    panels = int(G[PANELS])
    low, high = m - REACH * sigma, m + REACH * sigma
    if small:
        first, last = (0 if low < 0.0 else 1), (1 if high >= 0.0 else 0)
    else:
        first, last = _find(G, EDGES, panels, low), _find(G, EDGES, panels, high)
    n = HERMITE_NODES.size
    if first == last:  # one polynomial
        if sigma == 0.0:
            value = _piece(G, small, first, m)
            if first > 0 and m == (0.0 if small else G[EDGES + first]):  # halfway at a jump
                value = 0.5 * (value + _piece(G, small, first - 1, m))
            return value
        total = 0.0
        for i in range(n):
            x = m + sigma * HERMITE_NODES[i]
            total += HERMITE_WEIGHTS[i] * _piece(G, small, first, x)
        return total * NORMALISATION
    total, here = 0.0, -REACH
    t, f, weight = np.empty(NODES.size), np.empty(NODES.size), np.empty(NODES.size)
    for p in range(first, last + 1):
        end = REACH
        if p < last:
            end = ((0.0 if small else G[EDGES + p + 1]) - m) / sigma
        pieces = math.ceil((end - here) / WIDEST)
        half = 0.5 * (end - here) / max(pieces, 1)
        for q in range(pieces):
            centre, part = here + half * (2 * q + 1), 0.0
            for i in range(NODES.size):
                z = centre + half * NODES[i]
                t[i] = m + sigma * z
                weight[i] = WEIGHTS[i] * fast_exp(-0.5 * z * z)
            _pieces(G, small, p, t, f)
            for i in range(NODES.size):
                part += weight[i] * f[i]
            total += half * part
        here = end
    return total * NORMALISATION


@njit(cache=True, nogil=True, error_model="numpy")
def _pieces(G: Array, small: bool, p: int, x: Array, out: Array) -> None:
    """`_piece` at all x, which are overwritten."""
    if small:
        at = TAYLOR + (ORDER if p == 0 else 0)
        _horner(G[at : at + ORDER], x, out)
        return
    a, b, at = G[EDGES + p], G[EDGES + p + 1], _line(G) + p * ORDER
    for i in range(x.size):
        x[i] = (2.0 * x[i] - a - b) / (b - a)
    _chebyshev(G[at : at + ORDER], x, out)


@njit(cache=True, nogil=True, error_model="numpy")
def _piece(G: Array, small: bool, p: int, x: float) -> float:
    """Polynomial p of a factor at x: on a panel, or at the left or the right of 0."""
    if small:
        at = TAYLOR + (ORDER if p == 0 else 0)
        total = G[at + ORDER - 1]
        for k in range(ORDER - 2, -1, -1):
            total = total * x + G[at + k]
        return total
    a, b = G[EDGES + p], G[EDGES + p + 1]
    return _scalar_chebyshev(G, _line(G) + p * ORDER, (2.0 * x - a - b) / (b - a))

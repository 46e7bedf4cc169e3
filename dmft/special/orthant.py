"""Angles of pairs, and averages of products of two and four signs, in compiled code.

The average of four signs is the only integral of piecewise linear activations that is not
elementary (theory/one_pass A.3). One file: Numba's cache notices changes of its own file only.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dmft.compiled import njit

Matrix = NDArray[np.float64]
Four = tuple[float, float, float, float]

# Overlaps that rounding or an integration step puts this far beyond Cauchy-Schwarz (relative) count
# as parallel; beyond it the result is NaN and the step is rejected.
BAND = 1e-9
# Squared sines of angles below this are rounding: the fields are parallel.
PARALLEL = 1e-14
# Distance of a kink from a field without variance, relative to the fields, that is rounding.
SAME = 1e-9
# Least conditional variance of a unit field. What it adds to a field is independent of the others,
# so that averages move by about this much; without it a singular covariance has no inverse.
LEAST_PIVOT = 1e-17

# Halves of symmetric Gauss-Legendre rules, one after the other.
SIZES = (8, 12, 16, 24, 32, 48)
_RULES = [np.polynomial.legendre.leggauss(2 * n) for n in SIZES]
NODES = np.concatenate([x[n:] for n, (x, _) in zip(SIZES, _RULES, strict=True)])
WEIGHTS = np.concatenate([w[n:] for n, (_, w) in zip(SIZES, _RULES, strict=True)])
# A rule of 2 n nodes errs by about rho^(-4 n), rho the Bernstein ellipse where the integrand is
# analytic (Trefethen, Approximation Theory, 19.3): log(10^14.5), tried on 10^5 covariances.
DIGITS = 33.5
# Tanh-sinh nodes on [0, 1]: they resolve the edge at 1, where nearly parallel fields change fast.
STEP, REACH = 0.035, 3.15
_S = np.arange(-REACH, REACH + STEP / 2, STEP)
BELOW_ONE = 1.0 / (1.0 + np.exp(math.pi * np.sinh(_S)))
EDGE_WEIGHTS = STEP * math.pi * np.cosh(_S) * BELOW_ONE * (1.0 - BELOW_ONE)

# (atan(x) - x) / x^3 in x^2, from 11 Chebyshev points of [0, tan(pi/8)^2]: atan to 7e-18.
T1, T2, T3, T4 = -0.3333333333333333, 0.1999999999999552, -0.14285714284666542, 0.11111111015256361
T5, T6, T7 = -0.09090904578123903, 0.07692183190826087, -0.06664511447381948
T8, T9, T10, T11 = (
    0.0585814891280221,
    -0.0508544973794026,
    0.03923165829558719,
    -0.01917688711906226,
)
TAN_EIGHTH = math.sqrt(2.0) - 1.0
LEAST = 1e-300  # makes the angle of two zeros 0

# Pairs (i, j) of the four fields and the two others.
PAIRS = ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2), (1, 2, 0, 3), (1, 3, 0, 2), (2, 3, 0, 1))
# Sums over nodes vectorise only where they may be reordered.
SUMMING = {"reassoc", "contract"}


@njit(cache=True, nogil=True, error_model="numpy")
def correlation_root(first: float, second: float, cross: float) -> float:
    """Evaluate sqrt(first * second - cross^2); 0 within the band of parallel fields, else NaN."""
    size = math.sqrt(first * second)
    gap = (size - cross) * (size + cross)
    beyond = 0.0 if gap >= -BAND * size * size else math.nan
    return math.sqrt(gap if gap >= 0.0 else beyond)


@njit(cache=True, nogil=True, error_model="numpy")
def _angle(cross: float, root: float) -> float:
    """atan2(cross, root) for root >= 0, without branches that keep loops from vectorising."""
    size = abs(cross)
    steep = size > root
    low = root if steep else size
    high = size if steep else root
    shifted = low > TAN_EIGHTH * high
    x = (low - high if shifted else low) / (low + high if shifted else high + LEAST)
    z = x * x
    tail = T5 + z * (T6 + z * (T7 + z * (T8 + z * (T9 + z * (T10 + z * T11)))))
    angle = x + x * z * (T1 + z * (T2 + z * (T3 + z * (T4 + z * tail))))
    angle = angle + 0.25 * math.pi if shifted else angle
    angle = 0.5 * math.pi - angle if steep else angle
    return math.copysign(angle, cross)


@njit(cache=True, nogil=True, error_model="numpy")
def correlation_angle(first: float, second: float, cross: float) -> float:
    """Evaluate asin(cross / sqrt(first * second)), accurate near +-1; 0 for vanishing variance."""
    return _angle(cross, correlation_root(first, second, cross))


@njit(cache=True, nogil=True, error_model="numpy")
def inverse_correlation_root(first: float, second: float, cross: float) -> float:
    """Evaluate 1 / sqrt(first * second - cross^2), and 0 for parallel fields.

    For factors that vanish faster than the root as fields become parallel.
    """
    root = correlation_root(first, second, cross)
    return 0.0 if root * root <= PARALLEL * first * second else 1.0 / root


@njit(cache=True, nogil=True, error_model="numpy")
def half_tangent(first: float, second: float, cross: float) -> float:
    """Tangent of half the angle between two fields, and 0 for antiparallel ones."""
    beyond = math.sqrt(first * second) + cross
    root = correlation_root(first, second, cross)
    return root / beyond if beyond > 0.0 else root * 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _correlations(C: Matrix, R: Matrix, G: Matrix) -> int:
    """Fill correlations R and squared sines G = 1 - R^2; row of PAIRS that is parallel, or -1."""
    found = -1
    for n in range(6):
        i, j, _, _ = PAIRS[n]
        size = C[i, i] * C[j, j]
        root = correlation_root(C[i, i], C[j, j], C[i, j])
        R[i, j] = R[j, i] = C[i, j] / math.sqrt(size)
        G[i, j] = G[j, i] = root * root / size
        if root * root <= PARALLEL * size:
            found = n
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _most_singular_three(R: Matrix, G: Matrix) -> int:
    """Field without which the other three are nearest to coplanar."""
    found, least = 0, 2.0
    for f in range(4):
        i, j, k = (1 if f == 0 else 0), (1 if f > 1 else 2), (2 if f == 3 else 3)
        rest = R[j, k] - R[i, j] * R[i, k]
        det = G[i, j] * G[i, k] - rest * rest
        if det < least:
            found, least = f, det
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _factor(R: Matrix, G: Matrix, f: int, P: Matrix) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Fill the inverse P of the correlations, by a Cholesky factor with field f last.

    P is then the inverse of a matrix next to R, and the conditional angles of nearly coplanar
    fields fit together, although each alone is known to few digits. Also the other fields a, b, c
    and det R, det R_abc, Cov(b, c | a), Cov(a, c | b), Cov(a, b | c).
    """
    a, b, c = (1 if f == 0 else 0), (1 if f > 1 else 2), (2 if f == 3 else 3)
    if G[a, c] > G[a, b]:
        b, c = c, b
    bb = math.sqrt(G[a, b])
    cb, fb = (R[b, c] - R[a, b] * R[a, c]) / bb, (R[b, f] - R[a, b] * R[a, f]) / bb
    cc = math.sqrt(max(G[a, c] - cb * cb, LEAST_PIVOT))
    fc = (R[c, f] - R[a, c] * R[a, f] - cb * fb) / cc
    ff = math.sqrt(max(G[a, f] - fb * fb - fc * fc, LEAST_PIVOT))
    # Rows of the inverse factor.
    ba, bi, ci, fi = -R[a, b] / bb, 1.0 / bb, 1.0 / cc, 1.0 / ff
    ca, cb = -(R[a, c] + cb * ba) * ci, -cb * bi * ci
    fa, fb, fc = -(R[a, f] + fb * ba + fc * ca) * fi, -(fb * bi + fc * cb) * fi, -fc * ci * fi
    ab, ac, bc = ba * bi + ca * cb, ca * ci, cb * ci
    P[a, b] = P[b, a] = ab + fa * fb
    P[a, c] = P[c, a] = ac + fa * fc
    P[b, c] = P[c, b] = bc + fb * fc
    P[a, f] = P[f, a] = fa * fi
    P[b, f] = P[f, b] = fb * fi
    P[c, f] = P[f, c] = fc * fi
    det = (bb * cc) ** 2
    return (a, b, c, f), (det * ff * ff, det, -det * bc, -det * ac, -det * ab)


@njit(cache=True, nogil=True, error_model="numpy")
def _four(
    R: Matrix, G: Matrix, P: Matrix, fields: tuple[int, ...], parts: tuple[float, ...]
) -> float:
    """E[sign(x1) sign(x2) sign(x3) sign(x4)] of four fields without parallel pairs.

    Plackett's identity on the way R(t) where field f is correlated t times as much: at t = 0 the
    average is 0, and only three pairs change. All is a function of s = 1 - t^2: with v the
    variance of f given the others, det R(t) = det R_abc (v + (1 - v) s), and
    Cov(b, c | a, f) (1 - t^2 R_af^2) is linear.
    """
    a, b, c, f = fields
    det, det_abc, start_bc, start_ac, start_ab = parts
    v = det / det_abc
    lines = (
        (R[f, a], G[f, a], start_bc, -det * P[b, c]),
        (R[f, b], G[f, b], start_ac, -det * P[a, c]),
        (R[f, c], G[f, c], start_ab, -det * P[a, b]),
    )
    # The integrand is singular where f is fixed by two others.
    two = min(_given(R, G, f, a, b), min(_given(R, G, f, a, c), _given(R, G, f, b, c)))
    at, n = _rule(v, max(two, v))
    root = math.sqrt(det_abc)
    total = _inside(at, n, v, root, lines) if n > 0 else _to_edge(v, root, lines)
    return 4.0 / math.pi**2 * total


@njit(cache=True, nogil=True, error_model="numpy")
def _given(R: Matrix, G: Matrix, f: int, j: int, k: int) -> float:
    """Variance of field f given fields j and k."""
    rest = R[f, k] - R[f, j] * R[j, k]
    return G[f, j] - rest * rest / G[j, k]


@njit(cache=True, nogil=True, error_model="numpy")
def _rule(v: float, two: float) -> tuple[int, int]:
    """Offset and number of the Gauss nodes that suffice; 0 nodes where none of the rules does.

    In u of t sqrt(1 - v) = 2 u / (1 + u^2) all singularities lie on the unit circle, the next one
    at the angle with cosine sqrt((1 - two) / (1 - v)).
    """
    end = math.sqrt(1.0 - v) / (1.0 + math.sqrt(v))
    cosine = math.sqrt((1.0 - two) / (1.0 - v))
    near = math.sqrt((1.0 - end) ** 2 + 2.0 * end * (1.0 - cosine))
    foci = (near + math.sqrt(1.0 + end * end + 2.0 * end * cosine)) / (2.0 * end)
    needed = 0.25 * DIGITS / math.log(foci + math.sqrt(max(foci * foci - 1.0, 0.0)))
    at = 0
    for n in SIZES:
        if needed <= n:
            return at, n
        at += n
    return 0, 0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMMING)
def _inside(at: int, n: int, v: float, root: float, lines: tuple[Four, ...]) -> float:
    """Gauss-Legendre in u, where sqrt(det R(t)) is rational."""
    size = math.sqrt(1.0 - v)
    end = size / (1.0 + math.sqrt(v))
    total = 0.0
    for i in range(at, at + n):
        u = end * NODES[i]
        inverse = 1.0 / (1.0 + u * u)
        t, cosine = 2.0 * u * inverse / size, (1.0 - u * u) * inverse
        total += WEIGHTS[i] * inverse * cosine * _slope(1.0 - t * t, root * cosine, lines)
    return 2.0 * end / size * total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMMING)
def _to_edge(v: float, root: float, lines: tuple[Four, ...]) -> float:
    """Tanh-sinh in t: every field is nearly fixed by one or two others."""
    total = 0.0
    for i in range(BELOW_ONE.size):
        s = BELOW_ONE[i] * (2.0 - BELOW_ONE[i])
        total += EDGE_WEIGHTS[i] * _slope(s, root * math.sqrt(v + (1.0 - v) * s), lines)
    return total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMMING)
def _slope(s: float, edge: float, lines: tuple[Four, ...]) -> float:
    """d/dt of the average: three pairs, each with its correlation, gap, start and end."""
    (ra, ga, sa, ea), (rb, gb, sb, eb), (rc, gc, sc, ec) = lines
    wa, wb = math.sqrt(ga + ra * ra * s), math.sqrt(gb + rb * rb * s)
    wc = math.sqrt(gc + rc * rc * s)
    row = ra / wa * _angle(sa * s + ea * (1.0 - s), edge * wa)
    row += rb / wb * _angle(sb * s + eb * (1.0 - s), edge * wb)
    return row + rc / wc * _angle(sc * s + ec * (1.0 - s), edge * wc)


@njit(cache=True, nogil=True, error_model="numpy")
def _averages(C: Matrix, moments: int, work: Matrix, out: Matrix) -> float:
    """E[sign(x1) sign(x2) sign(x3) sign(x4)]; `work` (4, 4, 4) receives R, G, P, E.

    With `moments`, fill out[x, y] = E[x y sign(x1) sign(x2) sign(x3) sign(x4)] for the six pairs
    x, y of them: Stein's identity, theory/one_pass A.3, where
    E_ab = (2/pi) sqrt(G_ab) E[sign_c sign_d | a = b = 0].
    """
    R, G, P, E = work[0], work[1], work[2], work[3]
    parallel = _correlations(C, R, G)
    if parallel >= 0:
        i, j, k, l = PAIRS[parallel]  # noqa: E741
        side = math.copysign(1.0, C[i, j])
        for n in range(6 if moments else 0):
            a, b, _, _ = PAIRS[n]
            rest = C[k, k], C[l, l], C[k, l], C[a, k], C[a, l], C[b, k], C[b, l], C[a, b]
            out[a, b] = side * pair_of_signs_moment(*rest)
        return side * 2.0 / math.pi * correlation_angle(C[k, k], C[l, l], C[k, l])
    fields, parts = _factor(R, G, _most_singular_three(R, G), P)
    four, scale = _four(R, G, P, fields, parts), math.sqrt(parts[0])
    for n in range(6 if moments else 0):
        a, b, c, d = PAIRS[n]
        root = math.sqrt(G[a, b])
        E[a, b] = E[b, a] = 4.0 / math.pi**2 * root * _angle(-P[c, d] * scale, root)
    for n in range(6 if moments else 0):
        a, b, c, d = PAIRS[n]
        cross = R[a, c] * R[b, d] + R[a, d] * R[b, c]
        cross -= R[c, d] * (R[a, c] * R[b, c] + R[a, d] * R[b, d])
        value = R[a, b] * four + E[a, b] + E[c, d] * cross / G[c, d]
        value += R[b, c] * E[a, c] + R[b, d] * E[a, d] + R[a, c] * E[b, c] + R[a, d] * E[b, d]
        out[a, b] = math.sqrt(C[a, a] * C[b, b]) * value
    return four


@njit(cache=True, nogil=True, error_model="numpy")
def four_signs_of(C: Matrix) -> float:
    """E[sign(x1) sign(x2) sign(x3) sign(x4)] of centred fields with covariance C (4, 4)."""
    return _averages(C, 0, np.empty((4, 4, 4)), C)


@njit(cache=True, nogil=True, error_model="numpy")
def pair_of_signs_moment(
    uu: float, vv: float, uv: float, xu: float, xv: float, yu: float, yv: float, xy: float
) -> float:
    """E[x y sign(u) sign(v)] from the covariances."""
    # Sums and differences of unit fields: no digits are lost to their angle.
    one, two, near = 1.0 / math.sqrt(uu), 1.0 / math.sqrt(vv), half_tangent(uu, vv, uv)
    value = (xu * one + xv * two) * (yu * one + yv * two) * near
    value -= (xu * one - xv * two) * (yu * one - yv * two) * half_tangent(uu, vv, -uv)
    return 2.0 / math.pi * xy * correlation_angle(uu, vv, uv) + value / math.pi


@njit(cache=True, nogil=True, error_model="numpy")
def four_signs_moment(
    c11: float, c12: float, c13: float, c14: float, c22: float,
    c23: float, c24: float, c33: float, c34: float, c44: float,
) -> float:  # fmt: skip
    """E[|x3| |x4| sign(x1) sign(x2)], the core of E[sigma' sigma' sigma sigma] of ReLU networks."""
    work = np.empty((6, 4, 4))
    _fill((c11, c12, c13, c14, c22, c23, c24, c33, c34, c44), work[0])
    _averages(work[0], 1, work[2:], work[1])
    return work[1, 2, 3]


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(upper: tuple[float, ...], C: Matrix) -> None:
    """Write a symmetric matrix (4, 4) from its upper triangle."""
    n = 0
    for i in range(4):
        for j in range(i, 4):
            C[i, j] = C[j, i] = upper[n]
            n += 1


@njit(cache=True, nogil=True, error_model="numpy")
def four_signs(
    c11: float, c12: float, c13: float, c14: float, c22: float,
    c23: float, c24: float, c33: float, c34: float, c44: float,
) -> float:  # fmt: skip
    """E[sign(x1) sign(x2) sign(x3) sign(x4)] from the ten covariances."""
    work = np.empty((5, 4, 4))
    _fill((c11, c12, c13, c14, c22, c23, c24, c33, c34, c44), work[0])
    return _averages(work[0], 0, work[1:], work[0])


@njit(cache=True, nogil=True, error_model="numpy")
def four_signs_table(C: Matrix, p: int, moments: int, table: NDArray[np.float64]) -> None:
    """Write E[sign(x_a) sign(x_b) sign(x_c) sign(x_d)] for a, b < p and any c, d to (p, p, N, N).

    With `moments`, E[sign(x_a) sign(x_b) |x_c| |x_d|]. Each set of four fields is integrated once,
    where theory/one_pass A.0 needs it for six pairs.
    """
    N = C.shape[0]
    angle, near, far = np.empty((N, N)), np.empty((N, N)), np.empty((N, N))
    for a in range(N):
        for b in range(a + 1):
            entries = C[a, a], C[b, b], C[a, b]
            angle[a, b] = angle[b, a] = correlation_angle(*entries)
            near[a, b] = near[b, a] = half_tangent(*entries)
            far[a, b] = far[b, a] = half_tangent(C[a, a], C[b, b], -C[a, b])
    _coinciding(C, angle, near, far, moments, table)
    S, work, values = np.empty((4, 4)), np.empty((4, 4, 4)), np.empty((4, 4))
    for d in range(N):
        for c in range(d):
            for b in range(min(c, p)):
                for a in range(b):
                    four = (a, b, c, d)
                    for m in range(4):
                        for n in range(4):
                            S[m, n] = C[four[m], four[n]]
                    average = _averages(S, moments, work, values)
                    for n in range(6):
                        i, j, k, l = PAIRS[n]  # noqa: E741
                        if four[j] < p:
                            value = values[k, l] if moments else average
                            _put(table, four[i], four[j], four[k], four[l], value)


@njit(cache=True, nogil=True, error_model="numpy")
def _coinciding(
    C: Matrix, angle: Matrix, near: Matrix, far: Matrix, moments: int, table: NDArray[np.float64]
) -> None:
    """Fill the entries where two indices coincide: two signs are left."""
    p, N = table.shape[0], C.shape[0]
    unit = 1.0 / np.sqrt(np.diag(C))
    for a in range(p):
        for b in range(a + 1):
            for c in range(N):
                for d in range(c + 1):
                    four, u, v = (a, b, c, d), -1, -1
                    for n in range(6):
                        i, j, k, l = PAIRS[n]  # noqa: E741
                        if four[i] == four[j]:
                            u, v = four[k], four[l]
                    if u < 0:
                        continue
                    value = angle[u, v]
                    if moments:
                        cu, cv = C[c, u] * unit[u], C[c, v] * unit[v]
                        du, dv = C[d, u] * unit[u], C[d, v] * unit[v]
                        terms = (cu + cv) * (du + dv) * near[u, v]
                        terms -= (cu - cv) * (du - dv) * far[u, v]
                        value = C[c, d] * value + 0.5 * terms
                    _put(table, a, b, c, d, 2.0 / math.pi * value)


@njit(cache=True, nogil=True, error_model="numpy")
def _put(table: NDArray[np.float64], a: int, b: int, c: int, d: int, value: float) -> None:
    table[a, b, c, d] = table[a, b, d, c] = table[b, a, c, d] = table[b, a, d, c] = value


# Ratios of the covariances of two fields that are exact where the fields coincide -----------------


@njit(cache=True, nogil=True, error_model="numpy")
def correlation(first: float, second: float, cross: float) -> float:
    """Evaluate cross / sqrt(first * second)."""
    return cross / math.sqrt(first * second)


@njit(cache=True, nogil=True, error_model="numpy")
def root_ratio(y: float, first: float, second: float, cross: float, power: float) -> float:
    """Evaluate y / sqrt(first * second - cross^2)^power, and 0 for 0/0; `power` is 1 or 2.

    Over a root of zero, y is zero up to the rounding of fields that coincide (`SAME`).
    """
    root = correlation_root(first, second, cross)
    nothing = SAME * math.sqrt(first * second)
    if power == 1.0:
        return 0.0 if root == 0.0 and abs(y) <= nothing else y / root
    return 0.0 if root == 0.0 and abs(y) <= nothing * nothing else y / (root * root)

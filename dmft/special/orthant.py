"""Angles of pairs, and averages of products of two and four signs, in compiled code.

The average of four signs is the only integral of piecewise linear activations that is not
elementary (one_pass.md A.3); parallel and coplanar fields are exact cases.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Overlaps that rounding or an integration step puts this far beyond Cauchy-Schwarz (relative) count
# as parallel; beyond it the result is NaN and the step is rejected.
BAND = 1e-9
# Conditional variances below this fraction are rounding: the field is fixed by the others.
PARALLEL = 1e-14
FIXED = 1e-13
# Tanh-sinh nodes on [0, 1]: they resolve the edge at 1, where nearly parallel fields change fast.
STEP, REACH = 0.07, 3.15
_S = np.arange(-REACH, REACH + STEP / 2, STEP)
BELOW_ONE = 1.0 / (1.0 + np.exp(math.pi * np.sinh(_S)))
WEIGHTS = STEP * math.pi * np.cosh(_S) * BELOW_ONE * (1.0 - BELOW_ONE)
# Pairs (i, j) of the four fields and the two others.
PAIRS = np.array(
    [(0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2), (1, 2, 0, 3), (1, 3, 0, 2), (2, 3, 0, 1)]
)


@njit(cache=True, nogil=True, error_model="numpy")
def correlation_root(first: float, second: float, cross: float) -> float:
    """Evaluate sqrt(first * second - cross^2); 0 within the band of parallel fields, else NaN.

    Examples
    --------
    >>> correlation_root(2.0, 0.5, 0.0), correlation_root(0.1, 0.1, 0.1)
    (1.0, 0.0)
    """
    size = math.sqrt(first * second)
    gap = (size - cross) * (size + cross)
    if gap >= 0.0:
        return math.sqrt(gap)
    return 0.0 if gap >= -BAND * size * size else math.nan


@njit(cache=True, nogil=True, error_model="numpy")
def correlation_angle(first: float, second: float, cross: float) -> float:
    """Evaluate asin(cross / sqrt(first * second)), accurate near +-1; 0 for vanishing variance.

    Examples
    --------
    >>> correlation_angle(0.1, 0.1, -0.1) == -math.pi / 2
    True
    """
    root = correlation_root(first, second, cross)
    return math.atan2(cross, root)


@njit(cache=True, nogil=True, error_model="numpy")
def four_signs_of(C: NDArray[np.float64]) -> float:
    """E[sign(x1) sign(x2) sign(x3) sign(x4)] of centred fields with covariance C (4, 4).

    Plackett's identity along R(t) = t R + (1 - t) I, one_pass.md A.3.

    Examples
    --------
    >>> round(four_signs_of(np.eye(4) + 1.0), 12)
    0.2
    """
    R = np.empty((4, 4))
    for i in range(4):
        for j in range(4):
            R[i, j] = C[i, j] / math.sqrt(C[i, i] * C[j, j])
    for n in range(6):
        i, j, k, l = PAIRS[n]  # noqa: E741
        side = _side(C, i, j)
        if side != 0.0:
            return side * 2.0 / math.pi * correlation_angle(C[k, k], C[l, l], C[k, l])
    # 1 - |R_ij| without cancellation.
    gaps = np.empty((4, 4))
    for i in range(4):
        for j in range(4):
            root = correlation_root(C[i, i], C[j, j], C[i, j])
            gaps[i, j] = root * root / (C[i, i] * C[j, j]) / (1.0 + abs(R[i, j]))
    total = 0.0
    for n in range(6):
        i, j, k, l = PAIRS[n]  # noqa: E741
        row = 0.0
        for s in range(WEIGHTS.size):
            spread = _variance_given(R[i, j], gaps[i, j], BELOW_ONE[s])
            angle = _angle_given(R, gaps, BELOW_ONE[s], i, j, k, l)
            row += WEIGHTS[s] / math.sqrt(spread) * angle
        total += R[i, j] * row
    return 4.0 / math.pi**2 * total


@njit(cache=True, nogil=True, error_model="numpy")
def _side(C: NDArray[np.float64], i: int, j: int) -> float:
    """Product of the signs of two parallel fields, 0 when they are not parallel."""
    root = correlation_root(C[i, i], C[j, j], C[i, j])
    return 0.0 if root * root > PARALLEL * C[i, i] * C[j, j] else math.copysign(1.0, C[i, j])


@njit(cache=True, nogil=True, error_model="numpy")
def _variance_given(rho: float, gap: float, below: float) -> float:
    """1 - t^2 rho^2 at t = 1 - below, from the gap 1 - |rho|."""
    size = abs(rho)
    return (gap + size * below) * (1.0 + (1.0 - below) * size)


@njit(cache=True, nogil=True, error_model="numpy")
def _angle_given(
    R: NDArray[np.float64],
    gaps: NDArray[np.float64],
    below: float,
    i: int,
    j: int,
    k: int,
    l: int,  # noqa: E741
) -> float:
    """Angle of fields k and l given that fields i and j vanish, at correlations t R.

    One field at a time: the joint formula loses all digits for nearly parallel fields.
    """
    t = 1.0 - below
    jj = _variance_given(R[i, j], gaps[i, j], below)
    kk = _variance_given(R[i, k], gaps[i, k], below)
    ll = _variance_given(R[i, l], gaps[i, l], below)
    jk = t * (R[j, k] - t * R[i, j] * R[i, k])
    jl = t * (R[j, l] - t * R[i, j] * R[i, l])
    kl = t * (R[k, l] - t * R[i, k] * R[i, l])
    cross = kl - jk * jl / jj
    first, second = kk - jk * jk / jj, ll - jl * jl / jj
    return math.atan2(cross, math.sqrt(max(first * second - cross * cross, 0.0)))


@njit(cache=True, nogil=True, error_model="numpy")
def pair_of_signs_moment(
    uu: float, vv: float, uv: float, xu: float, xv: float, yu: float, yv: float, xy: float
) -> float:
    """E[x y sign(u) sign(v)] from the covariances.

    Examples
    --------
    >>> pair_of_signs_moment(1.0, 1.0, 1.0, 0.5, 0.5, 0.2, 0.2, 0.7)
    0.7
    """
    value = 2.0 / math.pi * xy * correlation_angle(uu, vv, uv)
    root = correlation_root(uu, vv, uv)
    if root * root > PARALLEL * uu * vv:
        terms = xu * (yv - yu * uv / uu) + xv * (yu - yv * uv / vv)
        value += 2.0 / math.pi * terms / root
    return value


@njit(cache=True, nogil=True, error_model="numpy")
def four_signs_moment(
    c11: float, c12: float, c13: float, c14: float, c22: float,
    c23: float, c24: float, c33: float, c34: float, c44: float,
) -> float:  # fmt: skip
    """E[|x3| |x4| sign(x1) sign(x2)], the core of E[sigma' sigma' sigma sigma] of ReLU networks."""
    C = _symmetric(c11, c12, c13, c14, c22, c23, c24, c33, c34, c44)
    for n in range(6):
        i, j, k, l = PAIRS[n]  # noqa: E741
        side = _side(C, i, j)
        if side != 0.0:
            rest = C[k, k], C[l, l], C[k, l], C[2, k], C[2, l], C[3, k], C[3, l], c34
            return side * pair_of_signs_moment(*rest)
    total = c34 * four_signs_of(C)
    D = np.empty((4, 4))
    for j in range(4):
        for a in range(4):
            for b in range(4):
                D[a, b] = C[a, b] - C[a, j] * C[j, b] / C[j, j]
        total += 2.0 / math.pi * C[2, j] / math.sqrt(C[j, j]) * _given_one(D, j)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _given_one(D: NDArray[np.float64], j: int) -> float:
    """sqrt(pi/2) E[x4 sign(x_k) sign(x_l) sign(x_m)] of the three fields beside j, given x_j = 0.

    Signs of fields that are parallel under the condition cancel in pairs.
    """
    total = 0.0
    for k in range(4):
        if k == j:
            continue
        others = [a for a in range(4) if a not in (j, k)]
        l, m = others[0], others[1]  # noqa: E741
        root = correlation_root(D[l, l], D[m, m], D[l, m])
        if root * root <= FIXED * D[l, l] * D[m, m]:
            return math.copysign(1.0, D[l, m]) * D[3, k] / math.sqrt(D[k, k])
        first = D[l, l] - D[l, k] ** 2 / D[k, k]
        second = D[m, m] - D[m, k] ** 2 / D[k, k]
        cross = D[l, m] - D[l, k] * D[k, m] / D[k, k]
        angle = math.atan2(cross, math.sqrt(max(first * second - cross * cross, 0.0)))
        total += D[3, k] / math.sqrt(D[k, k]) * 2.0 / math.pi * angle
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _symmetric(
    c11: float, c12: float, c13: float, c14: float, c22: float,
    c23: float, c24: float, c33: float, c34: float, c44: float,
) -> NDArray[np.float64]:  # fmt: skip
    C = np.empty((4, 4))
    C[0, 0], C[0, 1], C[0, 2], C[0, 3] = c11, c12, c13, c14
    C[1, 1], C[1, 2], C[1, 3] = c22, c23, c24
    C[2, 2], C[2, 3], C[3, 3] = c33, c34, c44
    for i in range(4):
        for j in range(i):
            C[i, j] = C[j, i]
    return C


@njit(cache=True, nogil=True, error_model="numpy")
def four_signs(
    c11: float, c12: float, c13: float, c14: float, c22: float,
    c23: float, c24: float, c33: float, c34: float, c44: float,
) -> float:  # fmt: skip
    """E[sign(x1) sign(x2) sign(x3) sign(x4)] from the ten covariances."""
    return four_signs_of(_symmetric(c11, c12, c13, c14, c22, c23, c24, c33, c34, c44))

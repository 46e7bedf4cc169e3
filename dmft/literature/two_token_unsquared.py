r"""Boundaries of the two-token attention under the unsquared loss E ||T - T*||_F.

Equation    dir, pos and glob: second derivatives and values at m = 0, where h and h* are
            independent, by their score weights: sums over four fields. sem: with delta = s - alpha,
            d^2 R / d phi^2 at (0, 1) is A + B / omega, a plane integral with 1 / |delta| in it,
            hence omega = -B / A
Source      theory/sequence D.8
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numba import prange
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.compiled import njit
from dmft.literature.two_token_curves import Boundaries
from dmft.literature.two_token_tables import alpha_of, check_disc, check_omega

# Midpoint sums over four fields. The distance has a cone where both rows agree, so that they
# converge algebraically: values to 1e-6, roots in omega to 2e-5.
STEP, REACH = 0.125, 7.6
# Step of single values, which are to 1e-4.
WIDE = 0.3
# Roots are found on the coarse step and moved by Newton steps whose slope is the coarse one.
COARSE, ROOT, SLOPE, NEWTON_STEPS = 0.25, 1e-10, 1e-4, 2
# Polar nodes around the two points where delta = 0, and step of the rest of the plane.
RADIAL, ANGULAR, PLANE = 80, 96, 0.04
# Radius of the window around them, relative to their distance, and its power: flat inside.
WINDOW, POWER = 0.3, 10
# Below, all curves lie beyond omega = 1 (at 0.5 the lowest is at 1.15) and the two points merge;
# beyond, they lie where the Gaussian weight is below 1e-27, and where they are does not matter.
SMALLEST, FARTHEST = 0.4, 8.0
# omega is looked for from here: at omega = 0 the loss has a cone at perfect recovery.
LOWEST = 0.02


@dataclass(frozen=True)
class UnsquaredRisk:
    """Risk E ||T - T*||_F of the two-token attention as a function of (e, m), to 1e-4.

    Attributes
    ----------
    a, omega : float

    Examples
    --------
    >>> from dmft.literature import positional_semantic_risk
    >>> risk = positional_semantic_risk(a=1.0, omega=0.5, loss="frobenius")
    >>> round(float(risk(e=0.0, m=1.0)), 3)
    0.282
    """

    a: float
    omega: float

    # Of the sums, as far as it varies with e and m.
    error = 1e-5

    def __post_init__(self) -> None:
        alpha_of(self.a)
        check_omega(self.omega)

    def __call__(self, e: ArrayLike, m: ArrayLike) -> Array:
        """Risk at alignments e and m of one shape."""
        e, m = check_disc(e, m)
        z, inner = _points(0.0, WIDE, "all"), _points(0.0, WIDE, "swapped")
        keep, fixed = 1 - self.omega, self.omega * float(alpha_of(self.a))
        values = [
            math.sqrt(2) * correlated_distance(z, inner, x, y, keep, fixed)
            for x, y in zip(e.ravel().tolist(), m.ravel().tolist(), strict=True)
        ]
        return np.array(values).reshape(e.shape)


def unsquared_boundaries(a: ArrayLike) -> Boundaries:
    """Boundaries of the loss E ||T - T*||_F to 2e-5 in omega; a second for each a."""
    a = np.array(a, dtype=float)
    alpha = alpha_of(a)
    names = ("semantic", "positional", "equal", "direction")
    found = {name: np.full(a.shape, np.nan) for name in names}
    for i, (place, value) in enumerate(zip(np.abs(a).ravel(), alpha.ravel(), strict=True)):
        for name, omega in _at(float(place), float(value)).items():
            found[name].ravel()[i] = omega
    none = np.full(a.shape, np.nan)
    return Boundaries(
        a, found["semantic"], found["positional"], found["equal"], found["direction"],
        none, none, none, none, "frobenius",
    )  # fmt: skip


def _at(a: float, alpha: float) -> dict[str, float]:
    """Return omega on each boundary at one a; infinite where it is not met below 1."""
    if a < SMALLEST:
        return dict.fromkeys(("semantic", "direction", "positional", "equal"), math.inf)
    regular, singular = _plane(a, alpha, _curvature)
    (corner,) = _plane(a, alpha, _distance)  # at (0, 1) the loss is omega times this

    def direction(omega: float, step: float) -> float:
        _, r_mm, _, r_ee = _independent(0.0, omega, alpha, step)
        return r_ee - r_mm

    def positional(omega: float, step: float) -> float:
        _, r_mm, r_e, _ = _independent(1.0, omega, alpha, step)
        return r_mm - r_e

    def equal(omega: float, step: float) -> float:
        return omega * float(corner) - _independent(1.0, omega, alpha, step)[0]

    return {
        "semantic": float(-singular / regular) if regular < 0 else math.inf,
        "direction": _crossing(direction),
        "positional": _crossing(positional),
        "equal": _crossing(equal),
    }


def _crossing(function: Callable[[float, float], float]) -> float:
    from scipy.optimize import brentq

    def coarse(omega: float) -> float:
        return function(omega, COARSE)

    if not coarse(LOWEST) * coarse(1.0) < 0:
        return math.inf
    omega = float(brentq(coarse, LOWEST, 1.0, xtol=ROOT))
    slope = (coarse(omega) - coarse(omega - SLOPE)) / SLOPE
    for _ in range(NEWTON_STEPS):
        omega -= function(omega, STEP) / slope
    return omega


def _independent(e: float, omega: float, alpha: float, step: float) -> tuple[float, ...]:
    """Risk, R_mm, R_e and R_ee at (e, 0), up to the factor sqrt(2) of both entries of a row."""
    outer, inner = _points(e, step, "all"), _points(0.0, step, "signed")
    return tuple(float(x) for x in weighted_distances(outer, inner, 1 - omega, omega * alpha))


@cache
def _points(e: float, step: float, part: str) -> Array:
    """Nodes of the plane as the kernels take them, z + (e, -e) in the attention.

    All of them; or half for twice the weight: z_1 > 0 where the loss is even in these fields
    (signed), z_1 + z_2 >= 0 where tokens and signs are exchanged in all fields (swapped).
    """
    side = (np.arange(-int(REACH / step) - 1, int(REACH / step) + 1) + 0.5) * step
    z1, z2 = (x.ravel() for x in np.meshgrid(side, side, indexing="ij"))
    images = {"all": 1 + 0 * z1, "signed": 1 + np.sign(z1), "swapped": 1 + np.sign(z1 + z2)}[part]
    kept = (z1**2 + z2**2 < REACH**2) & (images > 0)
    z1, z2, images = z1[kept], z2[kept], images[kept]
    weight = images * step**2 * np.exp(-(z1**2 + z2**2) / 2) / (2 * np.pi)
    first, second = _attention(z1 + e, z2 - e)
    order = np.argsort(-weight, kind="stable")
    return np.array([z1, z2, first, second, weight])[:, order]


def _attention(h1: Array, h2: Array) -> tuple[Array, Array]:
    return 1 / (1 + np.exp(h2 * h1 - h1 * h1)), 1 / (1 + np.exp(h1 * h2 - h2 * h2))


def _distance(z1: Array, z2: Array, alpha: float) -> Array:
    first, second = _attention(z1, z2)
    return np.hypot(first - alpha, second - alpha)[None]


def _curvature(z1: Array, z2: Array, alpha: float) -> Array:
    """Trace H + v.H v - z.grad of |s(h) - s(z) + omega delta| at h = z, v = (1, -1)."""
    s = np.array(_attention(z1, z2))
    delta = s - alpha
    size = np.hypot(*delta)
    size = np.where(size > 0, size, 1.0)  # a node on the singular point has no weight
    unit = delta / size
    # s_i is a sigmoid of a quadratic form: gradient along z1 and z2, along v, and second traces.
    slope = s * (1 - s)
    bend = slope * (1 - 2 * s)
    g1, g2 = np.array([2 * z1 - z2, -z2]), np.array([-z1, 2 * z2 - z1])
    gv = g1 - g2
    # tr Q + v.Q v of the forms [[2, -1], [-1, 0]] and [[0, -1], [-1, 2]]: 2 + 4 in both.
    second = bend * (g1**2 + g2**2 + gv**2) + 6 * slope
    radial = slope * (z1 * g1 + z2 * g2)
    regular = (unit * (second - radial)).sum(axis=0)
    across = np.array([-unit[1], unit[0]])
    turned = [((across * slope * g).sum(axis=0)) ** 2 for g in (g1, g2, gv)]
    return np.array([regular, (turned[0] + turned[1] + turned[2]) / size])


def _plane(a: float, alpha: float, function: Callable[[Array, Array, float], Array]) -> Array:
    """Gaussian mean of a function with point singularities where s = alpha: at +-(a, -a)."""
    a = min(a, FARTHEST)
    radius = WINDOW * 2 * math.sqrt(2) * a

    def weighted(z1: Array, z2: Array) -> Array:
        weight = np.exp(-(z1**2 + z2**2) / 2) / (2 * np.pi)
        return function(z1, z2, alpha) * weight

    def window(distance: Array) -> Array:
        near: Array = np.exp(-((distance / radius) ** POWER))
        return near

    # One point suffices: both are images under z -> -z.
    nodes, weights = np.polynomial.legendre.leggauss(RADIAL)
    r = radius * 1.5 * (nodes + 1) / 2
    turn = 2 * np.pi * (np.arange(ANGULAR) + 0.5) / ANGULAR
    R, T = np.meshgrid(r, turn, indexing="ij")
    local = weighted(a + R * np.cos(T), -a + R * np.sin(T)) * window(R) * R
    near = local.sum(axis=-1) @ (weights * radius * 0.75) * 2 * np.pi / ANGULAR
    side = (np.arange(-int(9 / PLANE), int(9 / PLANE)) + 0.5) * PLANE
    z1, z2 = (x.ravel() for x in np.meshgrid(side, side, indexing="ij"))
    rest = 1 - window(np.hypot(z1 - a, z2 + a)) - window(np.hypot(z1 + a, z2 - a))
    far = (weighted(z1, z2) * rest).sum(axis=-1) * PLANE**2
    total: Array = 2 * near + far
    return total


# Pairs of points of this relative weight are left out: beyond radius 7.5 in R^4 (below 1e-7), and
# for single values beyond 6 (below 1e-5).
LEAST, LEAST_OF_VALUES = 7e-13, 1.5e-8
FAST = {"reassoc", "contract"}


@njit(cache=True, parallel=True, error_model="numpy", fastmath=FAST)
def weighted_distances(outer: Array, inner: Array, keep: float, fixed: float) -> Array:
    """Means of d = |s(h) - keep s(h*) - fixed| over independent h and h*, with weights.

    `outer` (5, n) has z_1, z_2, s_1(h), s_2(h) and the Gaussian weight of each point z, heaviest
    first; `inner` (5, k) the same of h*. Returns E d, E d ((z.h*)^2 - |z|^2 - |h*|^2 + 2), E d (z_1
    - z_2) and E d ((z_1 - z_2)^2 - 2).
    """
    n, k = outer.shape[1], inner.shape[1]
    rows = np.zeros((n, 4))
    for p in prange(n):
        z1, z2, weight = outer[0, p], outer[1, p], outer[4, p]
        first, second = outer[2, p] - fixed, outer[3, p] - fixed
        last = np.searchsorted(-inner[4, :k], -LEAST * outer[4, 0] * inner[4, 0] / weight)
        plain, curved = 0.0, 0.0
        for q in range(last):
            x, y = inner[0, q], inner[1, q]
            d1, d2 = first - keep * inner[2, q], second - keep * inner[3, q]
            d = inner[4, q] * math.sqrt(d1 * d1 + d2 * d2)
            along = z1 * x + z2 * y
            plain += d
            curved += d * (along * along - x * x - y * y)
        square = z1 * z1 + z2 * z2
        v = z1 - z2
        rows[p, 0] = weight * plain
        rows[p, 1] = weight * (curved + (2.0 - square) * plain)
        rows[p, 2] = weight * v * plain
        rows[p, 3] = weight * (v * v - 2.0) * plain
    total = np.zeros(4)
    for p in range(n):
        for j in range(4):
            total[j] += rows[p, j]
    return total


@njit(cache=True, parallel=True, error_model="numpy", fastmath=FAST)
def correlated_distance(
    points: Array, inner: Array, e: float, m: float, keep: float, fixed: float
) -> float:
    """Mean of |s(h) - keep s(h*) - fixed| for h = m h* + sqrt(1 - m^2) z + (e, -e).

    `points` (5, n) and `inner` (5, k) are those of z and of h*, as in `weighted_distances`.
    """
    n, k = points.shape[1], inner.shape[1]
    rows = np.zeros(k)
    spread = math.sqrt(max(0.0, 1.0 - m * m))
    for q in prange(k):
        weight = inner[4, q]
        mean1, mean2 = m * inner[0, q] + e, m * inner[1, q] - e
        t1, t2 = keep * inner[2, q] + fixed, keep * inner[3, q] + fixed
        least = LEAST_OF_VALUES * points[4, 0] * inner[4, 0]
        last = np.searchsorted(-points[4, :n], -least / weight)
        total = 0.0
        for p in range(last):
            h1, h2 = mean1 + spread * points[0, p], mean2 + spread * points[1, p]
            # s_2 shares the product of the fields with s_1.
            product = h1 * h2
            d1 = 1.0 / (1.0 + math.exp(product - h1 * h1)) - t1
            d2 = 1.0 / (1.0 + math.exp(product - h2 * h2)) - t2
            total += points[4, p] * math.sqrt(d1 * d1 + d2 * d2)
        rows[q] = weight * total
    return rows.sum()

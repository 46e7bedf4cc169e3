r"""Boundary curves and special points of the phase diagram, all explicit (theory/sequence D.6).

Equation    the ends of the circle: omega = A / (B + C alpha); the fold and the coexistence of the
            semantic and the mixed minimum: alpha and omega as functions of y = e^2
Source      theory/sequence D.5 to D.7
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from dmft.analysis.roots import bracketed_roots
from dmft.arrays import Array
from dmft.literature.two_token_tables import a_of, alpha_of, circle, tables

# e = 1/2: where a minimum counts as positional in the codes of the regions.
MIDDLE = 0.25
# Gauss-Legendre nodes of a mean over [0, y]; the integrand is as smooth as on the whole circle.
MEAN_NODES = 32


@dataclass(frozen=True)
class Curve:
    """omega = A / (B + C alpha) with alpha = sigmoid(2 a^2)."""

    A: float
    B: float
    C: float

    def omega(self, alpha: ArrayLike) -> Array:
        """Mixing weight on the curve; infinite where the curve is not met at any omega > 0."""
        below = self.B + self.C * np.asarray(alpha, dtype=float)
        with np.errstate(divide="ignore"):
            omega: Array = np.where(below > 0.0, self.A / below, np.inf)
        return omega

    def alpha(self, omega: ArrayLike) -> Array:
        """Return alpha at which the curve passes through omega."""
        alpha: Array = (self.A / np.asarray(omega, dtype=float) - self.B) / self.C
        return alpha

    def meets(self, other: Curve) -> float:
        """Return alpha where two curves cross."""
        return float((self.A * other.B - other.A * self.B) / (other.A * self.C - self.A * other.C))


@cache
def curves() -> dict[str, Curve]:
    """Coefficients of the boundaries: glob, sem, pos, dir, middle and the sign of R_ee.

    glob: R(0, 1) = R(1, 0). sem, pos: the semantic minimum is stable below, the positional one
    above. dir: R_ee = R_mm at the origin, SGD starts towards e above. middle: the stationary point
    of the circle is at e = 1/2. curvature: R_ee = 0 at the origin.
    """
    k, t = circle(), tables()
    zero, one = 0.0, 1.0

    def stationary(y: float, scale: float) -> Curve:
        return Curve(
            scale * float(k.A(y, 1)),
            -scale * 2.0 * float(k.C(y, 1)),
            scale * 2.0 * float(k.M(y, 1)),
        )

    m0, m1 = float(t.M(zero)), float(t.M(one))
    v0, v1 = float(t.V(zero)), float(t.V(one))
    bend_v, bend_m = 2.0 * float(t.V(zero, 1)), 2.0 * float(t.M(zero, 1))
    c2 = float(t.coefficient(2, zero))
    curved = bend_v - 2.0 * bend_m * m0
    return {
        "glob": Curve(v1 + v0 - 2.0 * m1 * m0, 2.0 * (v0 - m1 * m0), 2.0 * (m1 - m0)),
        "sem": stationary(0.0, 1.0),
        "pos": stationary(1.0, 2.0),
        "dir": Curve(curved + 4.0 * c2, 4.0 * c2 - 2.0 * bend_m * m0, 2.0 * bend_m),
        "middle": stationary(MIDDLE, 1.0),
        "curvature": Curve(curved, -2.0 * bend_m * m0, 2.0 * bend_m),
    }


def fold_curve(y: ArrayLike) -> tuple[Array, Array]:
    """Return alpha and omega at which a mixed minimum and a maximum meet at y = e^2 (d omega = 0).

    At y = 0 and y = 1 these are the tricritical points.
    """
    k = circle()
    alpha = (k.A(y, 2) * k.C(y, 1) - k.A(y, 1) * k.C(y, 2)) / (
        k.A(y, 2) * k.M(y, 1) - k.A(y, 1) * k.M(y, 2)
    )
    return alpha, k.A(y, 1) / (2.0 * alpha * k.M(y, 1) - 2.0 * k.C(y, 1))


def coexistence_curve(y: ArrayLike) -> tuple[Array, Array]:
    """Return alpha and omega at which the minimum at y has the loss of the semantic one at 0.

    Two equations linear in omega and omega alpha: f'(y) = 0, and (f'(y) - mean of f' over
    [0, y]) / y = 0, whose coefficients are means of second derivatives and stay regular at y = 0.
    """
    k = circle()
    y = np.asarray(y, dtype=float)
    nodes, weights = np.polynomial.legendre.leggauss(MEAN_NODES)
    t, w = (1.0 + nodes) / 2.0, weights / 2.0
    inside = y[..., None] * t
    mean_a, mean_c, mean_m = (f(inside, 2) @ (w * t) for f in (k.A, k.C, k.M))
    a, c, m = k.A(y, 1), k.C(y, 1), k.M(y, 1)
    determinant = 2.0 * (c * mean_m - m * mean_c)
    omega = (m * mean_a - mean_m * a) / determinant
    weighted = (c * mean_a - mean_c * a) / determinant
    return weighted / omega, omega


def invert(curve: str, alpha: ArrayLike) -> tuple[Array, Array]:
    """Return y and omega of the fold or of the coexistence at alpha; nan where it has none."""
    along = {"fold": fold_curve, "coexistence": coexistence_curve}[curve]
    alpha = np.asarray(alpha, dtype=float)
    ends, _ = along(np.array([0.0, 1.0]))
    y, omega = np.full(alpha.shape, np.nan), np.full(alpha.shape, np.nan)
    inside = (alpha >= ends[0]) & (alpha <= ends[1])
    if inside.any():
        wanted = alpha[inside]
        low, high = np.zeros(wanted.shape), np.ones(wanted.shape)
        y[inside] = bracketed_roots(lambda s: along(s)[0] - wanted, low, high)
        omega[inside] = along(y[inside])[1]
    return y, omega


@dataclass(frozen=True, eq=False)
class Boundaries:
    """Mixing weights omega of the boundaries at each a, shape of `a`.

    Values above 1 lie outside the diagram, inf and nan where a curve does not exist at this a.

    Attributes
    ----------
    a : array
    semantic, positional : array
        The semantic minimum (e, m) = (0, 1) is stable below `semantic`, the positional one (1, 0)
        above `positional`.
    equal : array
        R(0, 1) = R(1, 0).
    direction : array
        Steepest direction at the origin: m below, e above.
    fold, coexistence : array
        A mixed minimum appears; it has the loss of the semantic one. They exist between the
        tricritical points.
    middle : array
        A stationary point of the circle is at e = 1/2.
    transition : array
        Where the global minimum leaves the semantic one, whichever way.
    loss : str
    """

    a: Array
    semantic: Array
    positional: Array
    equal: Array
    direction: Array
    fold: Array
    coexistence: Array
    middle: Array
    transition: Array
    loss: str = "squared"

    def __repr__(self) -> str:
        return f"Boundaries({self.a.size} values of a; {self.loss} loss)"


def squared_boundaries(a: ArrayLike) -> Boundaries:
    """Boundaries of the loss E ||T - T*||_F^2 / 2."""
    a = np.array(a, dtype=float)
    alpha, known = alpha_of(a), curves()
    omega = {name: curve.omega(alpha) for name, curve in known.items()}
    _, fold = invert("fold", alpha)
    _, coexistence = invert("coexistence", alpha)
    first, last = coexistence_curve(np.array([0.0, 1.0]))[0]
    transition = np.where(
        alpha < first, omega["sem"], np.where(alpha <= last, coexistence, omega["glob"])
    )
    transition = np.where(transition <= 1.0, transition, np.nan)
    return Boundaries(
        a, omega["sem"], omega["pos"], omega["glob"], omega["dir"], fold, coexistence,
        omega["middle"], transition,
    )  # fmt: skip


def positional_semantic_points() -> dict[str, tuple[float, float]]:
    r"""Special points (a, omega) of the phase diagram of the two-token attention.

    tip (below it the semantic minimum is the only one), positional_end (end of the line at which
    the positional minimum becomes stable, at omega = 1), the two tricritical points,
    coexistence_end, equal_stability (both corners lose their stability), quadruple (the line of the
    first direction crosses the line of the positional minimum).

    Source      theory/sequence D.7

    Examples
    --------
    >>> from dmft.literature import positional_semantic_points
    >>> [round(x, 8) for x in positional_semantic_points()["tricritical_semantic"]]
    [0.74229792, 0.98679726]
    """
    known = curves()

    def end(name: str) -> tuple[float, float]:
        return float(a_of(known[name].alpha(1.0))), 1.0

    def crossing(first: str, second: str) -> tuple[float, float]:
        alpha = known[first].meets(known[second])
        return float(a_of(alpha)), float(known[first].omega(alpha))

    def tricritical(y: float) -> tuple[float, float]:
        alpha, omega = fold_curve(y)
        return float(a_of(alpha)), float(omega)

    return {
        "tip": end("sem"),
        "positional_end": end("pos"),
        "tricritical_semantic": tricritical(0.0),
        "tricritical_positional": tricritical(1.0),
        "coexistence_end": crossing("glob", "pos"),
        "equal_stability": crossing("sem", "pos"),
        "quadruple": crossing("dir", "pos"),
    }

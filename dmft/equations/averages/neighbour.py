r"""Closed-form neighbours of quadratic terms: what nodes average is then only a small difference.

A sigmoid is nearly a sum of error functions, since the logistic distribution is a scale mixture of
normal ones, and the quadratic term of such a sum is closed. With hats for that sum,

    E[s_j s_l r^2] = E[\hat s_j \hat s_l \hat r^2] + E[s_j s_l r^2 - \hat s_j \hat s_l \hat r^2],

the first exactly, the second on nodes: an identity whatever the fit, and far less noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.definitions import ErfSquare
from dmft.equations.update.moments import of_committees
from dmft.gaussian.derivative import derivative
from dmft.model import FIELD

TERMS = 3
# Worse fits do not pay for the second evaluation at the nodes.
WORST_FIT = 3e-2
# The fit runs over this many widths of the sigmoid; erf and tanh are flat beyond.
RANGE, POINTS = 8.0, 2001


@dataclass(frozen=True)
class ErfMixture:
    """w_0 + sum_k w_k erf(z / (s_k sqrt 2))."""

    constant: float
    weights: tuple[float, ...]
    scales: tuple[float, ...]

    @property
    def expr(self) -> sp.Expr:
        """Expression in the canonical field."""
        terms = [
            sp.Float(w) * sp.erf(FIELD * sp.Float(1.0 / (s * np.sqrt(2.0))))
            for w, s in zip(self.weights, self.scales, strict=True)
        ]
        return sp.Float(self.constant) + sp.Add(*terms)


@lru_cache(maxsize=64)
def erf_mixture(activation: sp.Expr) -> ErfMixture | None:
    """Sum of error functions near an activation; None where it is no sigmoid."""
    if activation.free_symbols != {FIELD}:
        return None
    value = sp.lambdify(FIELD, activation, "scipy")
    with np.errstate(all="ignore"):
        ends = np.array([value(-40.0), value(0.0), value(40.0)], dtype=np.float64)
        slope = _slope_at_zero(activation) if np.isfinite(ends).all() else 0.0
    height = 0.5 * (ends[2] - ends[0])
    if not (np.isfinite(slope) and height * slope > 0):
        return None
    width = height / slope
    grid = np.linspace(0.0, RANGE * width, POINTS)
    with np.errstate(all="ignore"):
        right, left = (np.asarray(value(s * grid), dtype=np.float64) for s in (1.0, -1.0))
    even = 0.5 * (right + left)
    if not np.all(np.abs(even - ends[1]) < 1e-12 * abs(height)):
        return None
    return _fit(grid, 0.5 * (right - left), width, float(ends[1]), abs(height))


def _slope_at_zero(activation: sp.Expr) -> float:
    """Derivative at zero; not-a-number where the function jumps there, as a sign does."""
    slope = sp.diff(activation, FIELD).subs(FIELD, 0)
    return float(slope) if slope.is_comparable else float("nan")


def _fit(
    grid: NDArray[np.float64],
    odd: NDArray[np.float64],
    width: float,
    constant: float,
    height: float,
) -> ErfMixture | None:
    from scipy.optimize import least_squares
    from scipy.special import erf

    def weights(logs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        basis = erf(grid[:, None] / (np.exp(logs) * np.sqrt(2.0)))
        found, *_ = np.linalg.lstsq(basis, odd, rcond=None)
        return found, basis @ found - odd

    start = np.log(width * np.geomspace(0.5, 1.5, TERMS))

    def gaps(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        return weights(logs)[1]

    logs = least_squares(gaps, start, xtol=1e-12, ftol=1e-12).x
    found, gap = weights(logs)
    if not np.max(np.abs(gap)) < WORST_FIT * height:
        return None
    return ErfMixture(constant, tuple(map(float, found)), tuple(map(float, np.exp(logs))))


def neighbour(average: Expectation) -> tuple[Expectation, ErfSquare] | None:
    """Expectation of erf mixtures near the activations of a quadratic term, on nodes and closed."""
    factors = sp.Mul.make_args(average.integrand)
    squares = [f.base for f in factors if f.is_Pow and f.exp == 2 and f.has(At)]
    slopes = _slopes(factors)
    if slopes is None or len(squares) != 1:
        return None
    residual = squares[0]
    applied = {a.field.base: a.factor for a in residual.atoms(At)}
    student = applied.get(x.lam, applied.get(x.h))
    teacher = applied.get(x.lam, applied.get(x.h_star))
    if student is None or teacher is None or residual != of_committees(student, teacher):
        return None
    if derivative(student) != slopes:
        return None
    f, g = erf_mixture(student), erf_mixture(teacher)
    if f is None or g is None:
        return None
    slope = sp.diff(f.expr, *f.expr.free_symbols)
    integrand = At(slope, x.h[x.j]) * At(slope, x.h[x.l])
    integrand *= of_committees(f.expr, g.expr) ** 2
    closed = ErfSquare(x.Omega[x.i, x.n], x.c[x.i], _rows(f), _rows(g))
    return Expectation(integrand), closed


def _slopes(factors: tuple[sp.Expr, ...]) -> sp.Expr | None:
    """The function of both slopes at h_j and h_l, if that is what stands before the square."""
    named = [f for f in factors if isinstance(f, At)]
    if len(factors) != 3 or {f.field for f in named} != {x.h[x.j], x.h[x.l]}:
        return None
    return named[0].factor if named[0].factor == named[1].factor else None


def _rows(mixture: ErfMixture) -> sp.Tuple:
    weights = (mixture.constant, *mixture.weights)
    return sp.Tuple(
        sp.Tuple(*map(sp.Float, weights)), sp.Tuple(*map(sp.Float, (1.0, *mixture.scales)))
    )

r"""Closed-form neighbours of quadratic terms: what nodes average is then only a small difference.

A sigmoid is nearly a sum of error functions, since the logistic distribution is a scale mixture of
normal ones, and the quadratic term of such a sum is closed. With hats for that sum,

    E[s_j s_l r^2] = E[\hat s_j \hat s_l \hat r^2] + E[s_j s_l r^2 - \hat s_j \hat s_l \hat r^2],

the first exactly, the second on nodes: an identity whatever the fit, and far less noise. Where the
sums converge geometrically (each term more divides the error of tanh by seven), a few terms more
make the second so small that no nodes are needed: the error is read off sums with fewer terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.update.moments import of_committees
from dmft.gaussian.derivative import derivative
from dmft.model import FIELD

# Terms of the shortest sum, which only tells errors, of a neighbour of what is on nodes, and of the
# longest sum.
LEAST, TERMS, MOST_TERMS = 2, 3, 9
# Terms of the sums that stochastic equations read: the error for tanh, 2e-9 at fields of order one,
# is far below that of the covariance on nodes.
NOISE_TERMS = 5
# Worse fits do not pay for the second evaluation at the nodes.
WORST_FIT = 3e-2
# Sums with a smaller error are exact: those of more terms have weights of zero.
EXACT = 1e-13
# Longest sums with a larger error do not converge: slow tails have no sum of error functions.
CONVERGED = 1e-6
# Points of the fit, in widths of the sigmoid, and those at which its error is measured.
POINTS = 16.0 * np.linspace(0.0, 1.0, 400)[1:] ** 1.5
NEAR, FAR = np.linspace(0.0, 8.0, 2001), np.linspace(0.0, 40.0, 8001)


@dataclass(frozen=True)
class ErfMixture:
    """w_0 + sum_k w_k erf(z / (s_k sqrt 2))."""

    constant: float
    weights: tuple[float, ...]
    scales: tuple[float, ...]

    @property
    def rows(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Weights and scales, the constant first; its scale is 1."""
        return (self.constant, *self.weights), (1.0, *self.scales)

    def with_zeros(self, count: int) -> ErfMixture:
        """The same sum with more terms, of weight zero."""
        zeros, ones = (0.0,) * count, (1.0,) * count
        return ErfMixture(self.constant, self.weights + zeros, self.scales + ones)

    @property
    def expr(self) -> sp.Expr:
        """Expression in the canonical field."""
        terms = [
            sp.Float(w) * sp.erf(FIELD * sp.Float(1.0 / (s * np.sqrt(2.0))))
            for w, s in zip(self.weights, self.scales, strict=True)
        ]
        return sp.Float(self.constant) + sp.Add(*terms)


@lru_cache(maxsize=64)
def erf_mixtures(activation: sp.Expr) -> tuple[ErfMixture, ...]:
    """Sums of `LEAST` error functions and more near an activation; none where it is no sigmoid.

    Only that of `TERMS` where longer sums do not converge.
    """
    if activation.free_symbols != {FIELD}:
        return ()
    value = sp.lambdify(FIELD, activation, "scipy")
    with np.errstate(all="ignore"):
        ends = np.array([value(-40.0), value(0.0), value(40.0)], dtype=np.float64)
        slope = _slope_at_zero(activation) if np.isfinite(ends).all() else 0.0
    height = 0.5 * (ends[2] - ends[0])
    if not (np.isfinite(slope) and height * slope > 0):
        return ()
    width = height / slope

    def sides(points: Array) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            right, left = (np.asarray(value(s * width * points)) / height for s in (1.0, -1.0))
        return 0.5 * (right - left), 0.5 * (right + left) - ends[1] / height

    if not np.all(np.abs(sides(NEAR)[1]) < 1e-12):
        return ()
    found: list[ErfMixture] = []
    logs, gap = np.log(np.geomspace(0.5, 1.5, LEAST)), np.inf
    for terms in range(LEAST, MOST_TERMS + 1):
        weights, logs = _fit(POINTS, sides(POINTS)[0], _with_one_more(logs, terms))
        last, gap = gap, _gap(FAR if terms > TERMS else NEAR, sides, weights, logs)
        if not gap < (WORST_FIT if terms == TERMS else last):
            return tuple(found[1:2])
        scales = width * np.exp(logs)
        found.append(ErfMixture(float(ends[1]), tuple(height * weights), tuple(scales)))
        if gap < EXACT:
            return (*found, *(found[-1].with_zeros(n) for n in range(1, MOST_TERMS - terms + 1)))
    return tuple(found) if gap < CONVERGED else tuple(found[1:2])


def _slope_at_zero(activation: sp.Expr) -> float:
    """Derivative at zero; not-a-number where the function jumps there, as a sign does."""
    slope = sp.diff(activation, FIELD).subs(FIELD, 0)
    return float(slope) if slope.is_comparable else float("nan")


def _with_one_more(logs: Array, terms: int) -> Array:
    """Logarithms of the scales of a shorter sum, drawn apart for one term more."""
    if len(logs) == terms:
        return logs
    places = np.linspace(-0.5, len(logs) - 0.5, terms)
    result: Array = np.interp(places, np.arange(len(logs)), np.sort(logs))
    result[[0, -1]] += (-0.08, 0.08)
    return result


def _basis(points: Array, logs: Array) -> Array:
    from scipy.special import erf

    result: Array = erf(points[:, None] / (np.exp(logs) * np.sqrt(2.0)))
    return result


def _fit(points: Array, odd: Array, logs: Array) -> tuple[Array, Array]:
    """Weights and logarithms of scales; the weights are eliminated (variable projection)."""
    from scipy.optimize import least_squares

    def solved(logs: Array) -> tuple[Array, Array, Array]:
        basis = _basis(points, logs)
        q, r = np.linalg.qr(basis)
        weights = np.linalg.solve(r, q.T @ odd)
        return weights, q, basis @ weights - odd

    def gaps(logs: Array) -> Array:
        return solved(logs)[2]

    def slopes(logs: Array) -> Array:
        weights, q, _ = solved(logs)
        at = points[:, None] / np.exp(logs)
        slope = -np.sqrt(2.0 / np.pi) * at * np.exp(-0.5 * at**2) * weights
        result: Array = slope - q @ (q.T @ slope)
        return result

    found = least_squares(
        gaps, logs, jac=slopes, xtol=1e-13, ftol=1e-13, gtol=1e-15, max_nfev=400
    ).x
    return solved(found)[0], found


def _gap(
    points: Array, sides: Callable[[Array], tuple[Array, Array]], weights: Array, logs: Array
) -> float:
    """Largest error of a sum at some points."""
    return float(np.max(np.abs(_basis(points, logs) @ weights - sides(points)[0])))


def mixtures_of(found: Sequence[Expectation]) -> tuple[Array, ...]:
    """Arrays of longer and longer sums of students and of teachers, as `ErfSquare` reads them.

    None where no average has a neighbour; one, for what is on nodes, where an average has none,
    where averages differ in their activations or where the sums do not converge.
    """
    pairs = [pair for average in found if (pair := activations_of(average)) is not None]
    if not pairs:
        return ()
    sums = [erf_mixtures(activation) for activation in pairs[0]]
    if min(map(len, sums)) == 1:
        sums = [(of_neighbour(some),) for some in sums]
    every = [np.array([*f.rows, *g.rows]).ravel() for f, g in zip(*sums, strict=True)]
    same = len(pairs) == len(found) and len(set(pairs)) == 1
    return tuple(every) if same else (of_neighbour(every),)


def of_neighbour(sums: Sequence[Any]) -> Any:
    """The sum of `TERMS` error functions among those that `erf_mixtures` gives."""
    return sums[min(TERMS - LEAST, len(sums) - 1)]


def sums_alone(found: Sequence[Expectation]) -> tuple[Array, ...]:
    """The sum that stochastic equations read instead of averages, and two shorter ones.

    None where some average needs nodes: those of the covariance are there already.
    """
    every = mixtures_of(found)
    last = NOISE_TERMS - LEAST
    return every[last - 2 : last + 1][::-1] if len(every) > 1 else ()


def takes_terms(mixtures: Sequence[Array], options: Mapping[str, Any]) -> bool:
    """Whether there are longer sums, and options that do not ask for Sobol points."""
    count = options.get("nodes")
    few = count is None or count < LEAST + len(mixtures)
    chosen = [name for name in ("replicas", "seed") if options.get(name) is not None]
    return len(mixtures) > 1 and few and not chosen


def neighbours(found: Sequence[Expectation]) -> dict[Expectation, Expectation]:
    """Quadratic terms of one pair of sigmoids, and those of erf mixtures near them, on nodes."""
    pairs = {average: pair for average in found if (pair := activations_of(average)) is not None}
    pair = next(iter(pairs.values()), None)
    if pair is None:
        return {}
    f, g = (of_neighbour(erf_mixtures(activation)).expr for activation in pair)
    slope = sp.diff(f, *f.free_symbols)
    near = Expectation(At(slope, x.h[x.j]) * At(slope, x.h[x.l]) * of_committees(f, g) ** 2)
    return {average: near for average, other in pairs.items() if other == pair}


@lru_cache(maxsize=64)
def activations_of(average: Expectation) -> tuple[sp.Expr, sp.Expr] | None:
    """Sigmoids of student and teacher whose quadratic term an average is."""
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
    return (student, teacher) if erf_mixtures(student) and erf_mixtures(teacher) else None


def _slopes(factors: tuple[sp.Expr, ...]) -> sp.Expr | None:
    """The function of both slopes at h_j and h_l, if that is what stands before the square."""
    named = [f for f in factors if isinstance(f, At)]
    if len(factors) != 3 or {f.field for f in named} != {x.h[x.j], x.h[x.l]}:
        return None
    return named[0].factor if named[0].factor == named[1].factor else None

r"""Closed-form neighbours of quadratic terms: what nodes average is then only a small difference.

A sigmoid is nearly a sum of error functions (`dmft.gaussian.tables.mixture`), for which the
quadratic term is closed. With hats for that sum,

    E[s_j s_l r^2] = E[\hat s_j \hat s_l \hat r^2] + E[s_j s_l r^2 - \hat s_j \hat s_l \hat r^2],

the first exactly, the second on nodes: an identity whatever the fit, and far less noise.
"""

from __future__ import annotations

import math

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.update.moments import of_committees
from dmft.gaussian.derivative import derivative
from dmft.gaussian.tables.mixture import ErfMixture, erf_mixture

Array = NDArray[np.float64]
Rows = tuple[tuple[float, ...], tuple[float, ...]]


class ErfSquare(sp.Expr):
    """E[s(h_j) s(h_l) (sum_m c_m sigma_m)^2] of committees of erf mixtures, in closed form.

    Compiled by `dmft.special.arcsine`; `plain` is the NumPy reference.
    """

    is_commutative = True
    is_real = True

    def __new__(cls, *args: sp.Basic) -> ErfSquare:
        """Keep Omega, c, and the rows of the students' and of the teachers' mixture."""
        return sp.Expr.__new__(cls, *args)

    @property
    def rows(self) -> tuple[Rows, Rows]:
        """(weights, scales) of students and of teachers, the constant first (its scale is 1)."""
        numbers = [tuple(tuple(float(v) for v in row) for row in part) for part in self.args[2:]]
        return numbers[0], numbers[1]  # type: ignore[return-value]

    def _sympystr(self, printer: object) -> str:
        return "quadratic term of error functions near the activations, in closed form"

    def plain(self, covariance: Array, c: Array, p: int) -> Array:
        """Value for all pairs of students: conditioning on both slopes at once."""
        students, teachers = self.rows
        size = len(c)
        slopes = len(students[0]) - 1
        fields, weights, scales, constant = [], [], [], 0.0
        for m in range(size):
            rows = students if m < p else teachers
            constant += c[m] * rows[0][0]
            for w, s in zip(rows[0][1:], rows[1][1:], strict=True):
                fields.append(m)
                weights.append(c[m] * w)
                scales.append(s)
        where, weight, scale = np.array(fields), np.array(weights), np.array(scales)
        result = np.zeros((p, p))
        for j, i in np.ndindex(p, p):
            for one, two in np.ndindex(slopes, slopes):
                both = np.array([students[1][one + 1], students[1][two + 1]])
                pair = np.array([j, i])
                # Both Gaussians at once: precision 1 / s^2 added to the two fields.
                gain = np.diag(both**2) + covariance[np.ix_(pair, pair)]
                cross = covariance[:, pair]
                law = covariance - cross @ np.linalg.solve(gain, cross.T)
                mass = both.prod() / math.sqrt(np.linalg.det(gain))
                inside = law[np.ix_(where, where)]
                size_of = np.sqrt(scale**2 + np.diag(inside))
                angles = np.arcsin(inside / np.outer(size_of, size_of))
                square = constant**2 + 2 / math.pi * weight @ angles @ weight
                height = 2 / math.pi / both.prod()
                height *= students[0][one + 1] * students[0][two + 1]
                result[j, i] += height * mass * square
        return result


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

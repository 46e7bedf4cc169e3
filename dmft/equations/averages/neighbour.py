r"""Closed-form neighbours of quadratic terms: what nodes average is then only a small difference.

A sigmoid is nearly a sum of error functions (`dmft.gaussian.tables.mixture`), for which the
quadratic term is closed. With hats for that sum,

    E[s_j s_l r^2] = E[\hat s_j \hat s_l \hat r^2] + E[s_j s_l r^2 - \hat s_j \hat s_l \hat r^2],

the first exactly, the second on nodes: an identity whatever the fit, and far less noise.
"""

from __future__ import annotations

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.definitions import ErfSquare
from dmft.equations.update.moments import of_committees
from dmft.gaussian.derivative import derivative
from dmft.gaussian.tables.mixture import ErfMixture, erf_mixture


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

r"""Averages with a multi-index target g(h*): drift by Stein's identity, square, cross term.

With g a sum of products of functions phi of single fields y (`terms`), one_pass.md B.2 needs

    E[sigma'(h_j) lambda_i g] = Omega_ji E[sigma''(h_j) g]
                                + sum_phi Cov(lambda_i, y) E[sigma'(h_j) phi'(y) (rest)],

and E[w g^2], E[w g sigma(h_l)] with weights w = 1 (risk) or sigma'(h_j) sigma'(h_l) (noise).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.average import At, Average
from dmft.equations.kernels import Kernel, kernel
from dmft.equations.residual import is_open
from dmft.equations.terms import Term, squared, target_terms
from dmft.gaussian.switch import derivative
from dmft.model import FIELD, Model, MultiIndex

# Factors beside the target: (function of z, field).
Weights = Sequence[tuple[sp.Expr, sp.Expr]]


def target_drift(model: Model, target: MultiIndex) -> sp.Expr:
    """a_j E[sigma'(h_j) lambda_i g] for all fields i; what stays open becomes one average."""
    along, rest = target_slopes(model, target)
    lam = x.lam[x.i]
    total = [x.covariance(lam, y) * value for y, value in along.items()]
    if rest:  # without Stein's identity: no derivative of a kink has to be averaged
        first = derivative(model.student.activation)
        total.append(Average(At(first, x.h[x.j]) * lam * sp.Add(*rest)))
    return x.a[x.j] * sp.Add(*total)


def target_slopes(model: Model, target: MultiIndex) -> tuple[dict[sp.Expr, sp.Expr], list[sp.Expr]]:
    """E[d(sigma'(h_j) g)/dy] by field y, and the terms of g where one of these is open."""
    sigma, h = model.student.activation, x.h[x.j]
    first, second = derivative(sigma), derivative(sigma, 2)
    along: dict[sp.Expr, sp.Expr] = {}
    rest: list[sp.Expr] = []
    for term in target_terms(target):
        parts = [(h, average(term, [(second, h)]))]
        parts += [(field, average(slope, [(first, h)])) for field, slope in slopes(term)]
        if term.joint != 1 or any(has_open(value) for _, value in parts):
            rest.append(term.expr)
            continue
        for field, value in parts:
            along[field] = along.get(field, sp.S.Zero) + value
    return along, rest


def target_square(target: MultiIndex, weights: Weights) -> sp.Expr:
    """E[prod w g^2]."""
    return _sum_of_averages(squared(target_terms(target)), weights)


def target_product(target: MultiIndex, weights: Weights) -> sp.Expr:
    """E[prod w g]."""
    return _sum_of_averages(target_terms(target), weights)


def _sum_of_averages(terms: Sequence[Term], weights: Weights) -> sp.Expr:
    """Sum of closed averages, and one average of all that has no closed form."""
    closed, rest = [], []
    for term in terms:
        value = average(term, weights) if term.joint == 1 else sp.nan
        if value is sp.nan or has_open(value):
            rest.append(term.expr)
        else:
            closed.append(value)
    if rest:
        closed.append(Average(sp.Mul(*(At(f, y) for f, y in weights), sp.Add(*rest))))
    return sp.Add(*closed)


def has_open(expr: sp.Expr) -> bool:
    """Whether an expression holds a kernel without closed form."""
    return any(is_open(q) for q in expr.atoms(Kernel))


def slopes(term: Term) -> list[tuple[sp.Expr, Term]]:
    """Partial derivatives of a term: each field with the term whose factor is differentiated."""
    result = []
    for n, (field, factor) in enumerate(term.factors):
        slope = derivative(factor)
        rest = term.factors[:n] + term.factors[n + 1 :]
        if slope != 0:
            result.append((field, Term(term.coefficient, ((field, slope), *rest), term.joint)))
    return result


def average(term: Term, weights: Weights) -> sp.Expr:
    """E[prod w * term] of a term without joint part.

    Zero where flipping the signs of all fields flips the product.
    """
    pairs = [*weights, *((factor, field) for field, factor in term.factors)]
    if math.prod(parity(f) for f, _ in pairs) == -1:
        return sp.S.Zero
    return term.coefficient * kernel([f for f, _ in pairs], [y for _, y in pairs])


@lru_cache(maxsize=256)
def parity(factor: sp.Expr) -> int:
    """1 for an even function of z, -1 for an odd one, 0 for neither.

    Examples
    --------
    >>> from dmft.model import FIELD as z
    >>> parity(z**3 - z), parity(sp.exp(-(z**2))), parity(sp.Max(0, z))
    (-1, 1, 0)
    """
    mirrored = factor.xreplace({FIELD: -FIELD})
    for sign in (1, -1):
        if sp.expand(mirrored - sign * factor) == 0:
            return sign
    return 0

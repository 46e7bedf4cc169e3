"""Derivatives of functions of one field in the sense of distributions, jumps included."""

from __future__ import annotations

import sympy as sp

from dmft.gaussian.closed.switch import SWITCHES, linear_in_signs, to_signs
from dmft.model import FIELD


def derivative(expr: sp.Expr, order: int = 1) -> sp.Expr:
    """Derivative of a function of `FIELD` in the sense of distributions, jumps included."""
    for _ in range(order):
        if expr.has(sp.Piecewise, sp.Heaviside, sp.sign):
            signs = linear_in_signs(sp.expand(to_signs(expr, [FIELD])))
            expr = _without_zeros(sp.diff(sp.expand(signs), FIELD))
        else:
            expr = sp.diff(expr, FIELD)
        expr = in_pieces(expr)
    return expr


def in_pieces(expr: sp.Expr) -> sp.Expr:
    """Exponential branches as pieces: exp(z) (1 - sign(z)) / 2 is inf - inf where exp overflows."""
    if not (expr.has(sp.exp) and expr.has(*SWITCHES)):
        return expr
    from dmft.gaussian.branches.factors import canonical, has_branches

    spikes = [t for t in sp.Add.make_args(expr) if t.has(sp.DiracDelta)]
    regular = expr - sp.Add(*spikes)
    if not has_branches(regular):
        return expr
    lead, pieces = canonical(regular)
    return sp.Add(lead * pieces, *spikes)


def _without_zeros(expr: sp.Expr) -> sp.Expr:
    """Replace g(z) delta(z - t) by g(t) delta(z - t); a sign at its own zero is zero."""
    terms = []
    for term in sp.Add.make_args(sp.expand(expr)):
        deltas = [d for d in term.atoms(sp.DiracDelta) if d.has_free(FIELD) and len(d.args) == 1]
        root = sp.solve(deltas[0].args[0], FIELD) if len(deltas) == 1 else []
        if len(root) == 1:
            term = term.coeff(deltas[0]).subs(FIELD, root[0]) * deltas[0]
        terms.append(term)
    return sp.Add(*terms)

"""Derivatives of functions of one field in the sense of distributions, jumps included."""

from __future__ import annotations

import sympy as sp

from dmft.gaussian.closed.switch import SWITCHES, intervals, linear_in_signs, to_signs
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
    """Branches with exponentials or poles as pieces.

    exp(z) (1 - sign(z)) / 2 is inf - inf where exp overflows, and (1 + sign(z)) / (1 + z) at -1.
    """
    poles = has_poles(expr)
    if not (poles or expr.has(sp.exp)) or not expr.has(*SWITCHES):
        return expr
    from dmft.gaussian.branch_factors import canonical, has_branches

    spikes = [t for t in sp.Add.make_args(expr) if t.has(sp.DiracDelta)]
    regular = expr - sp.Add(*spikes)
    if has_branches(regular):
        lead, pieces = canonical(regular)
        return sp.Add(lead * pieces, *spikes)
    read = intervals(to_signs(regular, [FIELD]), FIELD) if poles else None
    if read is None or not read[0]:
        return expr
    values = [sp.factor(v) if v.is_rational_function(FIELD) else v for v in read[1]]
    conditions = [*(k > FIELD for k in read[0]), sp.true]
    return sp.Add(sp.Piecewise(*zip(values, conditions, strict=True)), *spikes)


def has_poles(expr: sp.Expr) -> bool:
    """Whether a function contains negative powers of the field, and may have poles."""
    return any(p.exp.could_extract_minus_sign() and p.has(FIELD) for p in expr.atoms(sp.Pow))


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

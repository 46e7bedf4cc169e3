"""Exact steps before a quadrature: fewer dimensions, no factor that outgrows the density.

A Gaussian factor tilts the law, fields that enter polynomially are integrated out, factors of
independent fields are integrated apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mpmath
import sympy as sp

from dmft.gaussian.closed.factor import expanded_terms
from dmft.gaussian.nodes.forms import (
    DIGITS,
    NOTHING,
    Block,
    Vector,
    factor,
    first_forms,
    number,
    polynomial_forms,
)

# Sums with more terms than this stay whole.
MAX_TERMS = 64
# Functions with poles, as quotients of functions without.
QUOTIENTS = {
    sp.tan: lambda a: sp.sin(a) / sp.cos(a),
    sp.cot: lambda a: sp.cos(a) / sp.sin(a),
    sp.sec: lambda a: 1 / sp.cos(a),
    sp.csc: lambda a: 1 / sp.sin(a),
    sp.coth: lambda a: 1 / sp.tanh(a),
    sp.csch: lambda a: 1 / sp.sinh(a),
    sp.sech: lambda a: 1 / sp.cosh(a),
}


def with_explicit_poles(expr: sp.Expr) -> sp.Expr:
    """Quotients in the place of functions that hide their poles."""
    for hidden, shown in QUOTIENTS.items():
        expr = expr.replace(hidden, shown)
    return expr


def summands(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> list[sp.Expr]:
    """Terms of the expanded sum, with functions of the fields kept whole."""

    def kept(part: sp.Expr) -> sp.Expr:
        if isinstance(part, sp.sinh | sp.cosh) and part.args[0].is_polynomial(*fields):
            return sp.expand(part.rewrite(sp.exp), mul=True)
        return part

    return sorted(expanded_terms(expr, fields, kept), key=sp.default_sort_key)


def reduced(block: Block, tilt: bool = True) -> list[Block]:
    """Independent blocks whose expectations multiply to that of a block.

    Without `tilt`, exponentials stay factors: better where others bound what they do.
    """
    pieces = []
    for part in _independent(_tilted(block) if tilt else block):
        pieces += _independent(_without_polynomials(part))
    return pieces


def _tilted(block: Block) -> Block:
    """Take exponentials of quadratics into the law; it stays as it is where that is no law."""
    factors = sp.Mul.make_args(block.expr)
    chosen = [f for f in factors if isinstance(f, sp.exp) and _is_quadratic(f.exp, block.forms)]
    if not chosen:
        return block
    n, r = len(block.forms), block.dimension
    exponent = sp.Poly(sp.expand(sp.Add(*[f.exp for f in chosen])), *block.forms)
    values = {block.forms[i]: sp.Float(m, DIGITS) for i, m in enumerate(block.shift)}
    slopes = [
        number(sp.N(exponent.diff(x).as_expr().xreplace(values), DIGITS)) for x in block.forms
    ]
    curvature = [
        [number(sp.N(sp.diff(exponent.as_expr(), x, y), DIGITS)) for y in block.forms]
        for x in block.forms
    ]
    rows = mpmath.matrix([list(row) for row in block.rows]) if r else mpmath.matrix(n, 0)
    precision = mpmath.eye(r) - rows.T * mpmath.matrix(curvature) * rows
    try:
        root = mpmath.cholesky(precision)
    except ValueError:
        return block
    # u ~ N(pull, precision^-1) after the tilt, and root^-T makes it of new normal numbers.
    inverse = root**-1
    pull = inverse.T * (inverse * (rows.T * mpmath.matrix(slopes)))
    new_rows = rows * inverse.T
    shift = rows * pull
    constant = number(sp.N(exponent.as_expr().xreplace(values), DIGITS))
    action = constant + mpmath.fdot(rows.T * mpmath.matrix(slopes), pull) / 2
    weight = mpmath.exp(action) * mpmath.fprod(1 / root[k, k] for k in range(r))
    rest = sp.Mul(*[f for f in factors if f not in chosen])
    tilted = replace(
        block,
        expr=rest,
        rows=tuple([new_rows[i, k] for k in range(r)] for i in range(n)),
        shift=[m + shift[i] for i, m in enumerate(block.shift)],
        weight=block.weight * weight,
    )
    kept = [i for i, x in enumerate(block.forms) if rest.has_free(x)]
    return _refactored(tilted.keep(kept, rest))


def _is_quadratic(exponent: sp.Expr, forms: Sequence[sp.Symbol]) -> bool:
    return exponent.is_polynomial(*forms) and sp.Poly(exponent, *forms).total_degree() <= 2


def _refactored(block: Block) -> Block:
    """The same law with as few independent numbers as it has, in the order of `first_forms`."""
    n = len(block.forms)
    matrix = [[block.covariance(i, j) for j in range(n)] for i in range(n)]
    return replace(block, rows=factor(matrix, first_forms(block)))


def _independent(block: Block) -> list[Block]:
    """One block for each group of factors that shares no randomness with the others."""
    factors = sp.Mul.make_args(block.expr)
    n = len(block.forms)
    group = list(range(n))

    def merge(i: int, j: int) -> None:
        old, new = group[j], group[i]
        for k in range(n):
            group[k] = new if group[k] == old else group[k]

    members = [[i for i, x in enumerate(block.forms) if f.has_free(x)] for f in factors]
    for inside in members:
        for i in inside[1:]:
            merge(inside[0], i)
    for i in range(n):
        for j in range(i):
            if _dependent(block, i, j):
                merge(i, j)
    constant = sp.Mul(*[f for f, inside in zip(factors, members, strict=True) if not inside])
    weight = block.weight * number(sp.N(constant, DIGITS))
    result = []
    for name in dict.fromkeys(group):
        kept = [i for i in range(n) if group[i] == name]
        own = sp.Mul(*[f for f, m in zip(factors, members, strict=True) if m and m[0] in kept])
        if own.has_free(*[block.forms[i] for i in kept]):
            result.append(replace(_refactored(block.keep(kept, own)), weight=mpmath.mpf(1)))
    if not result:
        return [Block(sp.S.One, (), (), [], weight, ())]
    return [replace(result[0], weight=weight), *result[1:]]


def _dependent(block: Block, i: int, j: int) -> bool:
    scale = block.covariance(i, i) * block.covariance(j, j)
    return bool(block.covariance(i, j) ** 2 > NOTHING**2 * scale)


def _without_polynomials(block: Block) -> Block:
    """Average over the numbers that only polynomial forms hold."""
    soft = polynomial_forms(block)
    hard = [i for i in range(len(block.forms)) if i not in soft]
    used = [k for k in range(block.dimension) if any(block.rows[i][k] for i in hard)]
    free = [k for k in range(block.dimension) if k not in used]
    if not free:
        return block
    u = [sp.Symbol(f"_v{k}", real=True) for k in range(block.dimension)]
    images = {block.forms[i]: _affine(block.shift[i], block.rows[i], u) for i in soft}
    polynomial = sp.Poly(block.expr.xreplace(images), *u)
    total = []
    for powers, coefficient in polynomial.terms():
        moments = [_moment(powers[k]) for k in free]
        left = [u[k] ** powers[k] for k in used]
        total.append(coefficient * sp.Mul(*moments, *left))
    expr = sp.Add(*total)
    forms = (*[block.forms[i] for i in hard], *[u[k] for k in used])
    rows: list[Vector] = [[block.rows[i][k] for k in used] for i in hard]
    rows += [[mpmath.mpf(int(k == j)) for j in used] for k in used]
    shift = [*[block.shift[i] for i in hard], *[mpmath.mpf(0)] * len(used)]
    meaning = (*[block.meaning[i] for i in hard], *[sp.Symbol(f"u_{k}") for k in used])
    averaged = Block(expr, forms, tuple(rows), shift, block.weight, meaning)
    kept = [i for i, x in enumerate(forms) if expr.has_free(x)]
    return _refactored(averaged.keep(kept, expr))


def _affine(shift: mpmath.mpf, row: Vector, u: Sequence[sp.Symbol]) -> sp.Expr:
    terms = [sp.Float(a, DIGITS) * x for a, x in zip(row, u, strict=True) if a]
    return sp.Float(shift, DIGITS) + sp.Add(*terms)


def _moment(power: int) -> sp.Integer:
    """E v^n of a standard normal number."""
    return sp.factorial2(power - 1) if power % 2 == 0 else sp.S.Zero

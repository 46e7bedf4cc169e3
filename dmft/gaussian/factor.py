"""Parsing of one factor f(z) into a sum of polynomial times Gaussian times error functions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from dmft.errors import NotClosed
from dmft.model import FIELD

FAMILIES = (
    "polynomials (Hermite included), erf(a*z + c), exp(-b*z**2 + l*z), their products, sums and "
    "derivatives, with coefficients free of the fields"
)
WAYS_OUT = (
    f"closed families are: {FAMILIES}. Ways out: rewrite the expression into these families, or "
    "integrate numerically (scipy.integrate.quad over one field after conditioning, split at kinks)"
)


@dataclass(frozen=True)
class Term:
    """Polynomial(z) * exp(-curvature z^2 / 2 + slope z) * prod erf(a z + c).

    Attributes
    ----------
    powers : ((n, coefficient), ...)
        Polynomial in z by ascending degree.
    curvature, slope : sympy.Expr
        Exponent of the Gaussian factor; both 0 when there is none.
    erfs : ((a, c), ...)
        Arguments of the error functions.
    """

    powers: tuple[tuple[int, sp.Expr], ...]
    curvature: sp.Expr = sp.S.Zero
    slope: sp.Expr = sp.S.Zero
    erfs: tuple[tuple[sp.Expr, sp.Expr], ...] = ()

    @property
    def is_polynomial(self) -> bool:
        """Whether no Gaussian and no error function is left."""
        return not self.erfs and self.curvature == 0 and self.slope == 0


def refuse(expr: sp.Expr, reason: str) -> NotClosed:
    """Error that names the sub-expression, the reason and the ways out."""
    error = NotClosed(
        f"no closed form for the Gaussian expectation of {expr}: {reason}; {WAYS_OUT}"
    )
    error.expression, error.reason = expr, reason
    return error


@lru_cache(maxsize=1024)
def parse_factor(expr: sp.Expr) -> tuple[Term, ...]:
    """Write a factor in the symbol `FIELD` as a sum of terms, equal non-polynomial parts merged.

    Raises
    ------
    NotClosed
        Naming the first sub-expression outside the closed families.

    Examples
    --------
    >>> import sympy as sp
    >>> from dmft.model import FIELD as z
    >>> parse_factor(z**3 - 3*z)[0].powers
    ((1, -3), (3, 1))
    >>> parse_factor(sp.diff(sp.erf(z / sp.sqrt(2)), z))[0].curvature
    1
    """
    expr = sp.sympify(expr, strict=True)
    if expr.has(sp.erfc):
        expr = expr.replace(sp.erfc, lambda a: 1 - sp.erf(a))
    merged: dict[tuple[sp.Expr, sp.Expr, tuple[tuple[sp.Expr, sp.Expr], ...]], dict[int, sp.Expr]]
    merged = {}
    for summand in sp.Add.make_args(sp.expand(expr, func=False)):
        coefficient, degree, rest = _parse_product(summand)
        powers = merged.setdefault(rest, {})
        powers[degree] = powers.get(degree, sp.S.Zero) + coefficient
    terms = []
    for (curvature, slope, erfs), powers in merged.items():
        kept = tuple((n, c) for n, c in sorted(powers.items()) if c != 0)
        if kept:
            terms.append(Term(kept, curvature, slope, erfs))
    return tuple(terms)


def _parse_product(
    summand: sp.Expr,
) -> tuple[sp.Expr, int, tuple[sp.Expr, sp.Expr, tuple[tuple[sp.Expr, sp.Expr], ...]]]:
    """Split c * z^n * exp(...) * prod erf(...) into (c, n, (curvature, slope, erfs))."""
    coefficients: list[sp.Expr] = []
    degree, curvature, slope = 0, sp.S.Zero, sp.S.Zero
    erfs: list[tuple[sp.Expr, sp.Expr]] = []
    for part in sp.Mul.make_args(summand):
        if not part.has_free(FIELD):
            coefficients.append(part)
            continue
        if isinstance(part, sp.exp):
            quadratic, linear, constant = _quadratic(part.exp, part, order=2)
            curvature, slope = curvature - 2 * quadratic, slope + linear
            if constant != 0:
                coefficients.append(sp.exp(constant))
            continue
        base, exponent = part.as_base_exp()
        if not (exponent.is_Integer and exponent > 0):
            raise refuse(part, "not a positive integer power of the field or of erf")
        if base == FIELD:
            degree += int(exponent)
        elif isinstance(base, sp.erf):
            _, a, c = _quadratic(base.args[0], base, order=1)
            erfs.extend([(a, c)] * int(exponent))
        else:
            raise refuse(base, "the function is not in the table")
    erfs.sort(key=lambda pair: (sp.default_sort_key(pair[0]), sp.default_sort_key(pair[1])))
    return sp.Mul(*coefficients), degree, (curvature, slope, tuple(erfs))


def _quadratic(argument: sp.Expr, owner: sp.Expr, order: int) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """Coefficients (z^2, z, 1) of the argument of `owner`, of degree at most `order`."""
    if not argument.is_polynomial(FIELD):
        raise refuse(owner, f"its argument {argument} is not a polynomial in the field")
    coefficients = sp.Poly(argument, FIELD).all_coeffs()[::-1]
    if len(coefficients) > order + 1:
        wanted = "linear" if order == 1 else "quadratic"
        raise refuse(owner, f"its argument {argument} is not {wanted} in the field")
    padded = coefficients + [sp.S.Zero] * (3 - len(coefficients))
    return padded[2], padded[1], padded[0]

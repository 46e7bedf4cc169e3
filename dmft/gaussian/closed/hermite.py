"""Probabilists' Hermite polynomials."""

from __future__ import annotations

import sympy as sp
from sympy.functions.special.polynomials import hermite_prob

from dmft.errors import BadParameter
from dmft.validation import checked, shown

# Beyond, the coefficients have thousands of digits, and the polynomial takes seconds.
LARGEST_DEGREE = 1000


@checked
def hermite(n: int, x: sp.Expr) -> sp.Expr:
    """Return the probabilists' Hermite polynomial He_n(x), expanded.

    Parameters
    ----------
    n : int
        Degree, n >= 0.
    x : sympy.Expr

    Returns
    -------
    sympy.Expr
        Polynomial with leading coefficient 1.

    Examples
    --------
    >>> import sympy as sp
    >>> hermite(3, sp.Symbol("z"))
    z**3 - 3*z
    """
    order = sp.sympify(n, strict=True)
    if not (order.is_Integer and 0 <= order <= LARGEST_DEGREE):
        raise BadParameter(
            f"the degree n = {shown(n)} of a Hermite polynomial is an integer from 0 to "
            f"{LARGEST_DEGREE}"
        )
    return sp.expand(hermite_prob(order, sp.sympify(x, strict=True)))

"""Distribution function of two standard normal variables as a SymPy function."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mpmath
import sympy as sp


def normal_cdf(h: sp.Expr) -> sp.Expr:
    """Standard normal distribution function, written with erf."""
    return (1 + sp.erf(h / sp.sqrt(2))) / 2


class BivariateNormalCDF(sp.Function):
    r"""Phi_2(h, k; rho) = P(U <= h, V <= k) for standard normal U, V with correlation rho.

    Equation    d Phi_2/d rho = exp(-(h^2 - 2 rho h k + k^2)/(2 c^2)) / (2 pi c), c^2 = 1 - rho^2
    Shapes      scalars
    Valid for   -1 <= rho <= 1; exact, evalf to any precision
    Source      one_pass.md A.6

    Examples
    --------
    >>> import sympy as sp
    >>> BivariateNormalCDF(0, 0, sp.Rational(1, 2))
    1/3
    >>> BivariateNormalCDF(sp.Rational(3, 10), 1, sp.Rational(-4, 10)).evalf(12)
    0.485408422840
    """

    nargs = 3

    @classmethod
    def eval(cls, h: sp.Expr, k: sp.Expr, rho: sp.Expr) -> sp.Expr | None:
        """Exact special values."""
        if rho == 0:
            return normal_cdf(h) * normal_cdf(k)
        if h == 0 and k == 0:
            return sp.Rational(1, 4) + sp.asin(rho) / (2 * sp.pi)
        if h is sp.S.NegativeInfinity or k is sp.S.NegativeInfinity:
            return sp.S.Zero
        if h is sp.S.Infinity:
            return normal_cdf(k)
        if k is sp.S.Infinity:
            return normal_cdf(h)
        return _degenerate(h, k, rho) if rho in (1, -1) else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Partial derivative with respect to one argument."""
        h, k, rho = self.args
        rest = sp.sqrt(1 - rho**2)
        if argindex == 3:
            action = (h**2 - 2 * rho * h * k + k**2) / (2 * (1 - rho**2))
            return sp.exp(-action) / (2 * sp.pi * rest)
        if argindex == 2:
            h, k = k, h
        return sp.exp(-(h**2) / 2) / sp.sqrt(2 * sp.pi) * normal_cdf((k - rho * h) / rest)

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        values = [a.evalf(n=int(prec / 3.33) + 3) for a in self.args]
        if not all(v.is_Float or v.is_Integer for v in values):
            return None
        with mpmath.workprec(prec + 10):
            h, k, rho = (v._to_mpmath(prec + 10) for v in values)
            return sp.Float._new(_remembered_cdf(h, k, rho, prec)._mpf_, prec)

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        h, k, rho = (printer._print(a) for a in self.args)
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"\Phi_{{2}}{power}\left({h}, {k}; {rho}\right)"


def _degenerate(h: sp.Expr, k: sp.Expr, rho: sp.Expr) -> sp.Expr | None:
    """Perfect correlation, where the order of h and rho k is known."""
    gap = h - rho * k
    if rho == 1 and (gap.is_nonnegative or gap.is_nonpositive):
        return normal_cdf(k if gap.is_nonnegative else h)
    if rho == -1 and (gap.is_nonnegative or gap.is_nonpositive):
        return normal_cdf(h) - normal_cdf(-k) if gap.is_nonnegative else sp.S.Zero
    return None


@lru_cache(maxsize=4096)
def _remembered_cdf(h: Any, k: Any, rho: Any, prec: int) -> Any:
    """Value at a precision (that of mpmath's context, which is not part of its numbers).

    A closed form repeats few distinct arguments hundreds of times.
    """
    return _bivariate_cdf(h, k, rho)


def _bivariate_cdf(h: Any, k: Any, rho: Any) -> Any:
    """Integrate d Phi_2/d rho from 0 with rho = sin(theta), at the working precision of mpmath."""
    mp = mpmath.mp
    if rho >= 1:
        return mp.ncdf(min(h, k))
    if rho <= -1:
        return max(mp.mpf(0), mp.ncdf(h) - mp.ncdf(-k))

    def density(theta: Any) -> Any:
        return mp.exp(-(h * h - 2 * h * k * mp.sin(theta) + k * k) / (2 * mp.cos(theta) ** 2))

    return mp.ncdf(h) * mp.ncdf(k) + mp.quad(density, [0, mp.asin(rho)]) / (2 * mp.pi)

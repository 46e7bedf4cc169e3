"""Functions of one and two standard normal variables that SymPy does not have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mpmath
import sympy as sp


def normal_cdf(h: sp.Expr) -> sp.Expr:
    """Standard normal distribution function, written with erf."""
    return (1 + sp.erf(h / sp.sqrt(2))) / 2


def mpmath_numbers(args: Sequence[sp.Expr], prec: int, working: int) -> list[Any] | None:
    """Arguments at a working precision, for a value at `prec`; None where one is no number."""
    values = [a.evalf(n=int(prec / 3.33) + 3) for a in args]
    if not all(v.is_Float or v.is_Integer for v in values):
        return None
    return [v._to_mpmath(working) for v in values]


class BivariateNormalCDF(sp.Function):
    """Phi_2(h, k; rho) = P(U <= h, V <= k) for standard normal U, V with correlation rho.

    Equation    d Phi_2/d rho = exp(-(h^2 - 2 rho h k + k^2)/(2 c^2)) / (2 pi c), c^2 = 1 - rho^2
    Valid for   -1 <= rho <= 1; exact, evalf to any precision
    Source      theory/one_pass A.6
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
        numbers = mpmath_numbers(self.args, prec, prec + 10)
        if numbers is None:
            return None
        with mpmath.workprec(prec + 10):
            return sp.Float._new(_remembered_cdf(*numbers, prec)._mpf_, prec)

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        h, k, rho = (printer._print(a) for a in self.args)
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"\Phi_{{2}}{power}\left({h}, {k}; {rho}\right)"


class NormalCDF(sp.Function):
    """Phi(h) = (1 + erf(h/sqrt(2)))/2, for print next to Phi_2."""

    nargs = 1

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"\Phi{power}\left({printer._print(self.args[0])}\right)"


class TwoSigns(sp.Function):
    """E[sign(h - U) sign(k - V)] of standard normal U, V with correlation rho.

    Equation    4 Phi_2(h, k; rho) - erf(h/sqrt 2) - erf(k/sqrt 2) - 1
                = erf(h/sqrt 2) erf(k/sqrt 2) + 4 int_0^rho (d Phi_2/d rho) d rho
    Valid for   -1 <= rho <= 1; exact, evalf to any precision. Kept in one piece, because the
                terms of the first line cancel where all three arguments are small
    Source      theory/one_pass A.6
    """

    nargs = 3
    is_real = True

    @classmethod
    def eval(cls, h: sp.Expr, k: sp.Expr, rho: sp.Expr) -> sp.Expr | None:
        """Exact where the distribution function is."""
        if rho == 0:
            return sp.erf(h / sp.sqrt(2)) * sp.erf(k / sp.sqrt(2))
        if h == 0 and k == 0:
            return 2 / sp.pi * sp.asin(rho)
        if (h, k) != (-h, -k) and all(y == 0 or y.could_extract_minus_sign() for y in (h, k)):
            return cls(-h, -k, rho)  # U and V are as likely as -U and -V
        if h.is_infinite or k.is_infinite or rho in (1, -1):
            joint = BivariateNormalCDF(h, k, rho)
            return None if isinstance(joint, BivariateNormalCDF) else _from_cdf(joint, h, k)
        return None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Partial derivative with respect to one argument."""
        h, k, rho = self.args
        if argindex == 3:
            return 4 * BivariateNormalCDF(h, k, rho).fdiff(3)
        if argindex == 2:
            h, k = k, h
        slope = (k - rho * h) / sp.sqrt(1 - rho**2) / sp.sqrt(2)
        return 2 * sp.exp(-(h**2) / 2) / sp.sqrt(2 * sp.pi) * sp.erf(slope)

    def formula(self) -> sp.Expr:
        """The same with the distribution function."""
        h, k, rho = self.args
        return _from_cdf(BivariateNormalCDF(h, k, rho), h, k)

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        numbers = mpmath_numbers(self.args, prec, prec + 10)
        if numbers is None:
            return None
        with mpmath.workprec(prec + 10):
            return sp.Float._new(_remembered_signs(*numbers, prec)._mpf_, prec)

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        text = printer._print(self.formula())
        return rf"\left({text}\right)" + ("" if exp is None else f"^{{{exp}}}")


def _from_cdf(joint: sp.Expr, h: sp.Expr, k: sp.Expr) -> sp.Expr:
    return 4 * joint - sp.erf(h / sp.sqrt(2)) - sp.erf(k / sp.sqrt(2)) - 1


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


@lru_cache(maxsize=4096)
def _remembered_signs(h: Any, k: Any, rho: Any, prec: int) -> Any:
    """Average of two signs at a precision, like the distribution function."""
    mp = mpmath.mp
    if abs(rho) >= 1:
        return 4 * _bivariate_cdf(h, k, rho) - 2 * mp.ncdf(h) - 2 * mp.ncdf(k) + 1
    root = mp.sqrt(2)
    return mp.erf(h / root) * mp.erf(k / root) + 4 * _change(h, k, rho)


def _bivariate_cdf(h: Any, k: Any, rho: Any) -> Any:
    """Distribution function at the working precision of mpmath."""
    mp = mpmath.mp
    if rho >= 1:
        return mp.ncdf(min(h, k))
    if rho <= -1:
        return max(mp.mpf(0), mp.ncdf(h) - mp.ncdf(-k))
    return mp.ncdf(h) * mp.ncdf(k) + _change(h, k, rho)


def _change(h: Any, k: Any, rho: Any) -> Any:
    """Integral of d Phi_2/d rho from 0 with rho = sin(theta)."""
    mp = mpmath.mp
    angle = mp.asin(rho)

    def density(share: Any) -> Any:
        theta = share * angle
        return mp.exp(-(h * h - 2 * h * k * mp.sin(theta) + k * k) / (2 * mp.cos(theta) ** 2))

    # The tolerance of mpmath is absolute: the angle, which may be tiny, stands in front.
    return mp.quad(density, [0, 1]) * angle / (2 * mp.pi)


class erfcx(sp.Function):  # noqa: N801 - named as in SciPy
    """exp(x^2) erfc(x), which neither overflows nor vanishes where its two factors do.

    Equation    d erfcx/dx = 2 x erfcx(x) - 2 / sqrt(pi);  erfcx(x) -> 1 / (x sqrt(pi))
    Valid for   real x; evalf to any precision; SciPy's `erfcx` under `lambdify`, and
                `dmft.special.branches.erfcx` in compiled code
    """

    nargs = 1
    is_real = True
    is_positive = True

    @classmethod
    def eval(cls, x: sp.Expr) -> sp.Expr | None:
        """Exact special values."""
        if x == 0:
            return sp.S.One
        return sp.S.Zero if x is sp.S.Infinity else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Derivative."""
        x = self.args[0]
        return 2 * x * self - 2 / sp.sqrt(sp.pi)

    def _eval_rewrite_as_erfc(self, x: sp.Expr, **_: Any) -> sp.Expr:
        return sp.exp(x**2) * sp.erfc(x)

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        value = self.args[0].evalf(int(prec / 3.3) + 10)
        if not (value.is_Float or value.is_Rational):
            return None
        with mpmath.workprec(prec + 30):
            x = value._to_mpmath(prec + 30)
            with mpmath.workprec(prec + 30 + 2 * max(0, int(mpmath.log(abs(x) + 1, 2)))):
                return sp.Float._new((mpmath.exp(x * x) * mpmath.erfc(x))._mpf_, prec)

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"\operatorname{{erfcx}}{power}\left({printer._print(self.args[0])}\right)"

    def _numpycode(self, printer: Any) -> str:
        name = printer._module_format("scipy.special.erfcx")
        return f"{name}({printer._print(self.args[0])})"

    _scipycode = _numpycode

    def _mpmathcode(self, printer: Any) -> str:
        x = printer._print(self.args[0])
        exp, erfc = (printer._module_format(f"mpmath.{f}") for f in ("exp", "erfc"))
        return f"({exp}(({x})**2)*{erfc}({x}))"

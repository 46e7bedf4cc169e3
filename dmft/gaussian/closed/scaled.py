"""The scaled complementary error function as a SymPy function."""

from __future__ import annotations

from typing import Any

import mpmath
import sympy as sp


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

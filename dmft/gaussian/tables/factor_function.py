"""A factor of one field as a numerical function: values, kinks, parity and Taylor polynomials."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.gaussian import refuse
from dmft.gaussian.closed.switch import SWITCHES, to_signs
from dmft.gaussian.nodes.kinks import switches, zeros
from dmft.model import FIELD

ORDER = 16
DIGITS = 34
# Points at which the parity of an analytic factor is judged.
PARITY_POINTS = (0.0917, 0.3713, 0.881, 1.377, 2.219, 3.733, 5.119, 9.071)
# Radii and points of Cauchy's integrals; how far two radii agree, and what is zero then.
AGREEMENT, NOTHING = 1e-22, 1e-20
RADII = tuple(0.5**n for n in range(9))
CIRCLE = 64


class FactorFunction:
    """Values of a factor of `FIELD`, computed in multiprecision."""

    def __init__(self, factor: sp.Expr) -> None:
        extra = factor.free_symbols - {FIELD}
        if extra:
            names = ", ".join(sorted(map(str, extra)))
            raise refuse(factor, f"a table needs numbers: substitute a number for {names}")
        self.factor = factor
        smooth = factor.rewrite(sp.Piecewise) if factor.has(sp.Heaviside) else factor
        self._f = sp.lambdify(FIELD, smooth, "mpmath")

    def __call__(self, x: Array) -> Array:
        """F(x), an array like x; infinite where it overflows."""
        flat = np.asarray(x, dtype=np.float64)
        with mpmath.workdps(DIGITS):
            return np.array([self._value(t) for t in flat.ravel()]).reshape(flat.shape)

    def _value(self, x: float) -> float:
        try:
            value = self._f(mpmath.mpf(float(x)))
        except (ZeroDivisionError, OverflowError, ValueError):
            return float("inf")
        value = mpmath.mpmathify(value)
        if mpmath.im(value) != 0:
            raise refuse(self.factor, f"it is not real at {x:.6g}")
        return float(mpmath.re(value))

    def kinks(self, end: float) -> list[float]:
        """Zeros of the switching functions inside (-end, end)."""
        return sorted({float(k) for k in zeros(_vanishing(self.factor), FIELD, end)})

    @property
    def parity(self) -> int:
        """1 for an even factor, -1 for an odd one, 0 otherwise or where that is not seen."""
        if not is_smooth(self.factor):  # it may vanish at all points
            image = self.factor.xreplace({FIELD: -FIELD})
            return next((s for s in (1, -1) if sp.expand(image - s * self.factor) == 0), 0)
        points = np.array(PARITY_POINTS)
        up, down = self(points), self(-points)
        for sign in (1, -1):
            if np.all(np.abs(up - sign * down) <= 1e-15 * np.abs(up)):
                return sign
        return 0

    @property
    def analytic(self) -> bool:
        """Whether nothing switches."""
        return not self.factor.has(*SWITCHES)

    def taylor(self, side: int) -> Array:
        """Taylor coefficients a_0..a_15 at 0 of the branch on one side (1 or -1); NaN if none.

        By Cauchy's integral on the largest circle on which two radii agree: exact zeros are zeros.
        """
        branch = self._branch(side)
        f = sp.lambdify(FIELD, branch, "mpmath")
        with mpmath.workdps(DIGITS):
            for radius in RADII:
                try:
                    one, two = (_cauchy(f, mpmath.mpf(radius) * q) for q in (1, 0.75))
                except (ZeroDivisionError, OverflowError, ValueError, TypeError):
                    continue
                scaled = [a * mpmath.mpf(radius) ** n for n, a in enumerate(two)]
                gaps = [
                    abs(s - a * mpmath.mpf(radius) ** n)
                    for n, (s, a) in enumerate(zip(scaled, one, strict=True))
                ]
                size = max(map(abs, scaled))
                if max(gaps) <= AGREEMENT * size:
                    pairs = zip(scaled, two, strict=True)
                    return np.array(
                        [float(a) if abs(s) > NOTHING * size else 0.0 for s, a in pairs]
                    )
        return np.full(ORDER, np.nan)

    def _branch(self, side: int) -> sp.Expr:
        if self.analytic:
            return self.factor
        half = sp.Dummy("x", positive=True)
        signs = to_signs(self.factor, [FIELD]).xreplace({FIELD: side * half})
        near = sp.Rational(1, 10**30)
        fixed = signs.replace(sp.sign, lambda a: sp.sign(a.subs(half, near).evalf(40)))
        return fixed.xreplace({half: side * FIELD})


def is_smooth(factor: sp.Expr) -> bool:
    """Whether no function at which the factor switches can be seen to vanish."""
    return not _vanishing(factor)


def _vanishing(factor: sp.Expr) -> list[sp.Expr]:
    """Switching functions without a definite sign."""
    found = switches(factor, (FIELD,))
    return [s for s in found if not (s.is_positive or s.is_negative or s.is_nonzero)]


def _cauchy(f: Any, radius: mpmath.mpf) -> list[mpmath.mpf]:
    """Coefficients from values on a circle."""
    roots = [mpmath.expjpi(mpmath.mpf(2 * k) / CIRCLE) for k in range(CIRCLE)]
    values = [f(radius * r) for r in roots]
    return [
        mpmath.re(sum(v * mpmath.conj(r) ** n for v, r in zip(values, roots, strict=True)))
        / CIRCLE
        / radius**n
        for n in range(ORDER)
    ]

"""Branch-free arcsine that LLVM can vectorise (libm's call blocks vectorisation)."""

from __future__ import annotations

import math

from numba import njit

HALF_PI = 0.5 * math.pi

# Rational minimax approximation of (asin(x) - x) / x^3 on |x| <= 1/2, the one used by the
# C libraries that descend from Sun's fdlibm (e_asin.c); error below one unit in the last place.
P0, P1, P2 = 1.66666666666666657415e-01, -3.25565818622400915405e-01, 2.01212532134862925881e-01
P3, P4, P5 = -4.00555345006794114027e-02, 7.91534994289814532176e-04, 3.47933107596021167570e-05
Q1, Q2 = -2.40339491173441421878e00, 2.02094576023350569471e00
Q3, Q4 = -6.88283971605453293030e-01, 7.70381505559019352791e-02


@njit(inline="always", error_model="numpy")
def asin(x: float) -> float:
    """Inverse sine in [-pi/2, pi/2]; NaN outside [-1, 1]."""
    a = abs(x)
    outer = a > 0.5
    z = (1.0 - a) * 0.5 if outer else a * a
    s = math.sqrt(z) if outer else a
    top = z * (P0 + z * (P1 + z * (P2 + z * (P3 + z * (P4 + z * P5)))))
    bottom = 1.0 + z * (Q1 + z * (Q2 + z * (Q3 + z * Q4)))
    r = s + s * (top / bottom)
    r = HALF_PI - 2.0 * r if outer else r
    return math.copysign(r, x)

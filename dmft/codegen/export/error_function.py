"""Error functions in plain Python, for languages that have none; printers translate them."""

from __future__ import annotations

import math

from dmft.special.hyperbolic import ERFC

ROOT_PI = math.sqrt(math.pi)
# Below, a power series has all digits of small values.
SMALL, TERMS = 0.5, 16


def erfc(x: float) -> float:
    """Complementary error function."""
    u = abs(x)
    t = 2.0 / (2.0 + u)
    y = 2.0 * t - 1.0
    s = 0.0
    for n in range(26, -1, -1):
        s = s * y + ERFC[n]
    tail = t * math.exp(s - u * u)
    return 2.0 - tail if x < 0.0 else tail


def erf(x: float) -> float:
    """Error function."""
    if not abs(x) < SMALL:
        return 1.0 - erfc(x)
    total, power = 0.0, 1.0
    for n in range(TERMS):
        total += power / (2 * n + 1)
        power *= -x * x / (n + 1)
    return 2.0 * x * total / ROOT_PI

r"""Moments of a step that is divided by the root of its own second moment at fixed beta_2.

With y = e z, independent standard normals, and V = (1 - b) sum_n b^n y_n^2 of the samples before,

    u = y/sqrt((1 - b) y^2 + b V),   a = E[y u],   s = E[u^2].

1/sqrt(A) = 2/sqrt(pi) int exp(-A t^2) dt and 1/A = int exp(-A t) dt make both integrals of the
Laplace transform l(t) = E exp(-t y^2) = exp(v) K_0(v)/sqrt(4 pi t), v = 1/(8 t), of one sample:

    a = 2/sqrt(pi) int -l'((1 - b) t^2) L(b t^2) dt,   s = int -l'((1 - b) t) L(b t) dt,

L(t) = prod_n l((1 - b) b^n t) (theory/structured_inputs 4.5).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.special import kve

from dmft.arrays import Array

# Below, l(t) = 1 - t + 9/2 t^2 ...: factors of the product from there on are one integral.
SMALL = 1e-6
# The integrals are sums over log t, which converge exponentially in the step, up to where the
# memory leaves nothing.
LOW, HIGH, STEP = -80.0, 200.0, 0.1
NOTHING = 1e-20


def transform(t: Array) -> Array:
    """l(t) = E exp(-t y^2)."""
    found: Array = kve(0, 1 / (8 * t)) / np.sqrt(4 * np.pi * t)
    return found


def slope(t: float) -> float:
    """-l'(t) = E[y^2 exp(-t y^2)]."""
    v = 1 / (8 * t)
    if v > 1e4:  # the two terms cancel: moments E y^2 = 1, E y^4 = 9, E y^6 = 225
        return 1 - 9 * t + 225 * t * t / 2
    # d/dv of sqrt(v) exp(v) K_0(v), and v' = -v/t.
    bend = kve(0, v) / (2 * v) + kve(0, v) - kve(1, v)
    return float(math.sqrt(2 * v / np.pi) * bend * v / t)


def product(t: float, beta: float) -> float:
    """L(t), the transform of the memory."""
    first = (1 - beta) * t
    count = max(math.ceil(math.log(SMALL / first) / math.log(beta)), 0) if first > SMALL else 0
    parts: Array = first * beta ** np.arange(count, dtype=np.float64)
    rest = first * beta**count
    # log l(t) = -t + 4 t^2 + ..., summed over a geometric series.
    tail = -rest / (1 - beta) + 4 * rest * rest / (1 - beta * beta)
    return math.exp(float(np.log(transform(parts)).sum()) + tail)


@lru_cache(maxsize=64)
def constants(beta: float) -> tuple[float, float]:
    """(a, s)."""
    values = np.exp(np.arange(LOW, HIGH, STEP))
    a, s = 0.0, 0.0
    for t in values:
        memory = product(beta * t, beta)
        if memory < NOTHING:
            break
        s += STEP * t * slope((1 - beta) * t) * memory
        # Of t^2 in the place of t: d log t is half as long.
        a += STEP * math.sqrt(t / math.pi) * slope((1 - beta) * t) * memory
    return float(a), float(s)

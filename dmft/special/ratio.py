"""Ratios of the covariances of two fields that are exact where the fields coincide."""

from __future__ import annotations

import math

from dmft.compiled import njit
from dmft.special.orthant import correlation_root

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.special.orthant": "003174f09de2",
}

# Distance of a kink from a field without variance, relative to the fields, that is rounding.
SAME = 1e-9


@njit(cache=True, nogil=True, error_model="numpy")
def correlation(first: float, second: float, cross: float) -> float:
    """Evaluate cross / sqrt(first * second)."""
    return cross / math.sqrt(first * second)


@njit(cache=True, nogil=True, error_model="numpy")
def root_ratio(y: float, first: float, second: float, cross: float, power: float) -> float:
    """Evaluate y / sqrt(first * second - cross^2)^power, and 0 for 0/0; `power` is 1 or 2.

    Over a root of zero, y is zero up to the rounding of fields that coincide (`SAME`).
    """
    root = correlation_root(first, second, cross)
    nothing = SAME * math.sqrt(first * second)
    if power == 1.0:
        return 0.0 if root == 0.0 and abs(y) <= nothing else y / root
    return 0.0 if root == 0.0 and abs(y) <= nothing * nothing else y / (root * root)

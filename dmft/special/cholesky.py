"""Positive definiteness of small matrices in compiled code."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(error_model="numpy", cache=True, nogil=True)
def lowest_pivot(matrix: NDArray[np.float64], shift: float) -> float:
    """Lowest pivot of the Cholesky factorisation of `matrix + shift I`, overwriting `matrix`.

    Stops at the first pivot that is not positive and finite, and returns it (-inf for inf, NaN).
    """
    size = matrix.shape[0]
    lowest = math.inf
    for a in range(size):
        pivot = matrix[a, a] + shift
        for b in range(a):
            pivot -= matrix[a, b] * matrix[a, b]
        if not 0.0 < pivot < math.inf:
            return pivot if pivot <= 0.0 else -math.inf
        lowest = min(lowest, pivot)
        root = math.sqrt(pivot)
        for row in range(a + 1, size):
            value = matrix[row, a]
            for b in range(a):
                value -= matrix[row, b] * matrix[a, b]
            matrix[row, a] = value / root
    return lowest

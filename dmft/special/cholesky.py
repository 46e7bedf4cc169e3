"""Positive definiteness of small matrices in compiled code."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dmft.compiled import njit

# A pivot this small against its variance is rounding: the field is determined by earlier ones.
SMALLEST_PIVOT = 1e-15
# Near perfect recovery the covariance dips below zero by what the integrator's tolerances explain.
PIVOT_BAND = 1e-6


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


@njit(error_model="numpy", cache=True, nogil=True)
def field_root(matrix: NDArray[np.float64], first: int, root: NDArray[np.float64]) -> None:
    """Write a root R of the covariance of h and h*, R R^T = matrix, the teacher fields first.

    Rows are the fields in the order of `matrix`, students before teachers, of which the first is at
    `first` = p; column c belongs to teacher c below k, then to student c - k, and R is lower
    triangular in that order: h* depends on the first k columns only. A pivot within `PIVOT_BAND` of
    zero gives a column of zeros (a field that the others determine); one below gives NaN.
    """
    size = matrix.shape[0]
    teachers = size - first
    for c in range(size):
        field = first + c if c < teachers else c - teachers
        pivot = matrix[field, field]
        for b in range(c):
            pivot -= root[field, b] * root[field, b]
        scale = matrix[field, field]
        if pivot > SMALLEST_PIVOT * scale:
            inverse = 1.0 / math.sqrt(pivot)
        elif pivot >= -PIVOT_BAND * scale:
            inverse = 0.0
        else:
            inverse = math.nan
        for later in range(size):
            row = first + later if later < teachers else later - teachers
            if later < c:
                root[row, c] = 0.0
                continue
            value = matrix[row, field]
            for b in range(c):
                value -= root[row, b] * root[field, b]
            root[row, c] = value * inverse


@njit(error_model="numpy", cache=True, nogil=True)
def mean_slopes(
    pull: NDArray[np.float64], root: NDArray[np.float64], first: int, slopes: NDArray[np.float64]
) -> None:
    """Write the slopes D (m, n) with D root = pull, for a root of `field_root`.

    With pull_jn = E[psi_j z_n] and lambda = root z, D is E[psi lambda^T] Omega^+ in what it
    multiplies: a field that the others determine has the slope zero, and theirs hold its own.
    """
    size = root.shape[0]
    teachers = size - first
    for c in range(size - 1, -1, -1):
        field = first + c if c < teachers else c - teachers
        inverse = 1.0 / root[field, c] if root[field, c] != 0.0 else 0.0
        for j in range(pull.shape[0]):
            value = pull[j, c]
            for later in range(c + 1, size):
                row = first + later if later < teachers else later - teachers
                value -= slopes[j, row] * root[row, c]
            slopes[j, field] = value * inverse

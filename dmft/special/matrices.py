"""Cholesky roots of small matrices, and covariances of values at nodes, in compiled code."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
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


# Sums over nodes may be reordered, so that they vectorise.
OPTIONS = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract"},
}


@njit(**OPTIONS)
def inner(x: Array, y: Array) -> float:
    """Sum of x_i y_i."""
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@njit(**OPTIONS)
def packed_covariance(rows: Array, weight: Array, p: int, out: Array) -> None:
    """Write the covariance of a symmetric (p, p) and a (p, k) block of variables.

    A Gram matrix, positive semidefinite whatever the nodes, whose `weight` adds up to 1. `rows`
    (parts, p p + p k, nodes) are orthogonal parts of the variables in C order, whose products add
    up; the first has a mean. Those of the upper triangle of the symmetric block are not read, all
    others are overwritten.
    """
    parts, size, nodes = rows.shape
    root = np.sqrt(weight)
    first, second = np.empty(size, np.int64), np.empty(size, np.int64)
    count = 0
    for a in range(size):
        symmetric = a < p * p
        j, l = (a // p, a % p) if symmetric else (a, 0)  # noqa: E741
        if symmetric and l > j:
            continue
        first[count], second[count] = a, l * p + j if symmetric else a
        count += 1
        for part in range(parts):
            row = rows[part, a]
            mean = inner(row, weight) if part == 0 else 0.0
            for q in range(nodes):
                row[q] = root[q] * (row[q] - mean)
    for a in range(count):
        for b in range(a + 1):
            value = 0.0
            for part in range(parts):
                value += inner(rows[part, first[a]], rows[part, first[b]])
            for x in (first[a], second[a]):
                for y in (first[b], second[b]):
                    out[x, y] = value
                    out[y, x] = value

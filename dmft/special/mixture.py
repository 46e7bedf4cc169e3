"""Square of an erf network's residual under two erf slopes, in compiled code.

E[s(h_j) s(h_l) (b + sum_m c_m sigma_m(lambda_m))^2] with sigma a sum of error functions and s =
sigma' of the students. Each slope is a sum of Gaussians, which tilts the law by one field; what is
left is the arcsine of a pair (one_pass.md A.1, A.2).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dmft.special.arcsine import asin

Array = NDArray[np.float64]
PREFACTOR = math.sqrt(2.0 / math.pi)


@njit(error_model="numpy", cache=True, nogil=True)
def tilt(matrix: Array, field: int, scale: float, out: Array) -> float:
    """Write the covariance under exp(-field^2 / (2 scale^2)) and return the mass of that factor."""
    size = matrix.shape[0]
    inverse = 1.0 / (scale * scale + matrix[field, field])
    for a in range(size):
        slope = matrix[a, field] * inverse
        for b in range(size):
            out[a, b] = matrix[a, b] - slope * matrix[field, b]
    return scale * math.sqrt(inverse)


@njit(error_model="numpy", cache=True, nogil=True, fastmath={"reassoc", "contract"})
def square_of_erfs(
    covariance: Array, field: NDArray[np.int64], weight: Array, scale: Array, work: Array
) -> float:
    """E[(sum_e weight_e erf(lambda_field_e / (scale_e sqrt 2)))^2]."""
    count = field.size
    for e in range(count):
        own = covariance[field[e], field[e]]
        work[e] = 1.0 / math.sqrt(scale[e] * scale[e] + own)
    total = 0.0
    for e in range(count):
        m = field[e]
        row = 0.0
        for f in range(e):
            row += weight[f] * asin(covariance[m, field[f]] * work[e] * work[f])
        own = weight[e] * asin(covariance[m, m] * work[e] * work[e])
        total += weight[e] * (2.0 * row + own)
    return 2.0 / math.pi * total


@njit(error_model="numpy", cache=True, nogil=True)
def erf_mixture_square(
    covariance: Array, coefficient: Array, students: Array, teachers: Array, p: int, out: Array
) -> None:
    """Write E[s(h_j) s(h_l) (b + sum_m c_m sigma_m)^2] for all students j, l.

    Parameters
    ----------
    covariance, coefficient : (n, n), (n,)
        Of all fields, students first; coefficient c_m.
    students, teachers : (2, K + 1) and (2, K* + 1)
        Weights (row 0) and scales (row 1) of sigma = w_0 + sum_k w_k erf(z / (scale_k sqrt 2)); the
        first column is the constant w_0.
    p : int
    out : (p, p), written
    """
    size = covariance.shape[0]
    inner, outer = students.shape[1] - 1, teachers.shape[1] - 1
    count = p * inner + (size - p) * outer
    field, weight = np.empty(count, dtype=np.int64), np.empty(count)
    scale, work = np.empty(count), np.empty(count)
    constant, e = 0.0, 0
    for m in range(size):
        terms = students if m < p else teachers
        constant += coefficient[m] * terms[0, 0]
        for k in range(1, terms.shape[1]):
            field[e], weight[e] = m, coefficient[m] * terms[0, k]
            scale[e] = terms[1, k]
            e += 1
    once, twice = np.empty((size, size)), np.empty((size, size))
    for j in range(p):
        for i in range(j + 1):
            out[j, i] = 0.0
        for k in range(1, inner + 1):
            first = students[0, k] * PREFACTOR / students[1, k]
            first *= tilt(covariance, j, students[1, k], once)
            for i in range(j + 1):
                for n in range(1, inner + 1):
                    both = first * students[0, n] * PREFACTOR / students[1, n]
                    both *= tilt(once, i, students[1, n], twice)
                    square = square_of_erfs(twice, field, weight, scale, work)
                    out[j, i] += both * (constant * constant + square)
        for i in range(j):
            out[i, j] = out[j, i]

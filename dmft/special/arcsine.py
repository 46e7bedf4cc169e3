"""Branch-free arcsine that LLVM can vectorise (libm's call blocks vectorisation), and its sums.

`erf_mixture_square` is the quadratic term of committees of sums of error functions: each slope is a
sum of Gaussians, which tilts the law by one field; what is left is the arcsine of a pair
(theory/one_pass A.1, A.2). It stands here since cached functions call none of another file.
"""

from __future__ import annotations

import math

import numpy as np

from dmft.arrays import Array
from dmft.compiled import njit
from dmft.compiled.vectors import fma, select

HALF_PI = 0.5 * math.pi
# Slope of erf(z / sqrt 2) at zero.
PREFACTOR = math.sqrt(2.0 / math.pi)

# (asin(x) - x) / x^3 in x^2, from 13 Chebyshev points of [0, 1/4]: asin to 5e-18 before rounding.
# No division, which takes as long as all the products.
A0, A1, A2, A3 = 0.16666666666666669, 0.07499999999998433, 0.04464285714635543, 0.030381944138531247
A4, A5, A6 = 0.02237217294214989, 0.017352392720869973, 0.013971212973552933
A7, A8, A9 = 0.011479177415184906, 0.01032281435018578, 0.005457506718640358
A10, A11, A12 = 0.01740087944269402, -0.014851887071247204, 0.028757851367421566


@njit(inline="always", error_model="numpy")
def asin(x: float) -> float:
    """Inverse sine in [-pi/2, pi/2]; NaN outside [-1, 1]."""
    a = abs(x)
    outer = a > 0.5
    z = select(outer, fma(-0.5, a, 0.5), a * a)
    s = select(outer, math.sqrt(z), a)
    # Even and odd terms apart: two short chains instead of a long one.
    w = z * z
    even = fma(w, fma(w, fma(w, fma(w, fma(w, fma(w, A12, A10), A8), A6), A4), A2), A0)
    odd = fma(w, fma(w, fma(w, fma(w, fma(w, A11, A9), A7), A5), A3), A1)
    r = fma(s * z, fma(z, odd, even), s)
    return math.copysign(select(outer, fma(-2.0, r, HALF_PI), r), x)


@njit(error_model="numpy", cache=True, nogil=True)
def tilt(matrix: Array, field: int, scale: float, out: Array) -> float:
    """Write the covariance under exp(-field^2 / (2 scale^2)) and return the mass of that factor."""
    size = matrix.shape[0]
    inverse = 1.0 / (scale * scale + matrix[field, field])
    for a in range(size):
        slope = matrix[a, field] * inverse
        for b in range(size):
            out[a, b] = matrix[a, b] - slope * matrix[field, b]
    # Without the cancellation of the line above at large variances.
    for a in range(size):
        own = matrix[a, field] * (scale * scale) * inverse
        out[a, field], out[field, a] = own, own
    return scale * math.sqrt(inverse)


@njit(error_model="numpy", cache=True, nogil=True, fastmath={"reassoc", "contract"})
def square_of_erfs(
    covariance: Array, pairs: Array, scale: Array, work: Array, sine: Array
) -> float:
    """E[(sum_me w_me erf(lambda_m / (scale_me sqrt 2)))^2]; `work` has two rows of (m, e).

    `pairs` holds the products of weights of all pairs (me, nf), nf up to me, those of two terms
    twice; `sine` takes what the arcsines are of: one long loop, which vectorises.
    """
    size, terms = scale.shape
    length, row = work[0], work[1]
    count = 0
    for m in range(size):
        first, own = m * terms, covariance[m, m]
        for e in range(terms):
            length[first + e] = 1.0 / math.sqrt(scale[m, e] * scale[m, e] + own)
        for n in range(m + 1):
            for f in range(n * terms, (n + 1) * terms):
                row[f] = covariance[m, n] * length[f]
        for e in range(terms):
            here = length[first + e]
            for f in range(first + e + 1):
                sine[count + f] = here * row[f]
            count += first + e + 1
    total = 0.0
    for q in range(count):
        total += pairs[q] * asin(sine[q])
    return 2.0 / math.pi * total


@njit(error_model="numpy", cache=True, nogil=True)
def erf_mixture_square(
    covariance: Array, coefficient: Array, mixture: Array, p: int, out: Array
) -> None:
    """Write E[s(h_j) s(h_l) (b + sum_m c_m sigma_m)^2] for all students j, l to `out` (p, p).

    `covariance` (n, n) and c_m (n,) are those of all fields, students first. `mixture` (4 (K + 1),)
    has weights and scales of sigma = w_0 + sum_k w_k erf(z / (scale_k sqrt 2)) of the students,
    then of the teachers; the first of each is that of w_0.
    """
    size, width = covariance.shape[0], mixture.size // 4
    students = mixture[: 2 * width].reshape((2, width))
    teachers = mixture[2 * width :].reshape((2, width))
    terms = width - 1
    weight, scale = np.empty((size, terms)), np.empty((size, terms))
    work, sine = np.empty((2, size * terms)), np.empty(size * terms * (size * terms + 1) // 2)
    pairs = np.empty_like(sine)
    constant = 0.0
    for m in range(size):
        rows = students if m < p else teachers
        constant += coefficient[m] * rows[0, 0]
        for k in range(terms):
            weight[m, k] = coefficient[m] * rows[0, k + 1]
            scale[m, k] = rows[1, k + 1]
    every, count = weight.ravel(), 0
    for e in range(every.size):
        for f in range(e + 1):
            pairs[count] = every[e] * every[f] * (2.0 if f < e else 1.0)
            count += 1
    once, twice = np.empty((size, size)), np.empty((size, size))
    for j in range(p):
        for i in range(j + 1):
            out[j, i] = 0.0
        for k in range(1, width):
            first = students[0, k] * PREFACTOR / students[1, k]
            first *= tilt(covariance, j, students[1, k], once)
            for i in range(j + 1):
                for n in range(1, k + 1 if i == j else width):
                    both = first * students[0, n] * PREFACTOR / students[1, n]
                    both *= tilt(once, i, students[1, n], twice)
                    both *= 2.0 if i == j and n < k else 1.0
                    square = square_of_erfs(twice, pairs, scale, work, sine)
                    out[j, i] += both * (constant * constant + square)
        for i in range(j):
            out[i, j] = out[j, i]

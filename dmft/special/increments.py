"""Moments of the increments of one step, from values at nodes, in compiled code.

One step of one-pass SGD moves the overlaps by gamma/(p d) times the mean over its batch of

    u_jl = psi_j h_l + psi_l h_j + (gamma/(p n_b)) psi_j psi_l,    v_jr = psi_j h*_r,

psi_j = s_j (E + sqrt(Delta) xi). The label noise xi is integrated exactly: u and v are written in
its Hermite polynomials, whose coefficients are the three parts of a row below. Rows carry the root
of the weight, so that second moments are inner products of rows and every covariance is a Gram
matrix: positive semidefinite whatever the nodes.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
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
def pair_row(j: int, l: int) -> int:  # noqa: E741
    """Row of the pair j, l of students."""
    return j * (j + 1) // 2 + l if j >= l else l * (l + 1) // 2 + j


@njit(**OPTIONS)
def increment_rows(
    fields: Array, slope: Array, residual: Array, weight: Array, gain: float, noise: float
) -> Array:
    """Rows of u_jl (j >= l), then of v_jr, over the nodes.

    Parameters
    ----------
    fields : (p + k, n)
        Local fields at the nodes, students first.
    slope : (p, n)
        s_j = a_j sigma'(h_j).
    residual : (n,)
        E without label noise.
    weight : (n,)
        Weights, which add up to 1.
    gain, noise : float
        gamma/(p n_b) and Delta.

    Returns
    -------
    (p (p + 1)/2 + p k, n) array, or three times as many columns with label noise
        Coefficients of 1, He_1(xi) and He_2(xi), times the root of weight and of n!.
    """
    (p, n), total = slope.shape, fields.shape[0]
    k, pairs = total - p, p * (p + 1) // 2
    parts, deviation = (3 if noise > 0.0 else 1), math.sqrt(noise)
    rows = np.zeros((pairs + p * k, parts * n))
    root = np.sqrt(weight)
    for j in range(p):
        for l in range(j + 1):  # noqa: E741
            row = rows[j * (j + 1) // 2 + l]
            for q in range(n):
                both = slope[j, q] * fields[l, q] + slope[l, q] * fields[j, q]
                product, error = gain * slope[j, q] * slope[l, q], residual[q]
                row[q] = root[q] * (both * error + product * (error * error + noise))
                if parts == 3:
                    row[n + q] = root[q] * deviation * (both + 2.0 * product * error)
                    row[2 * n + q] = root[q] * math.sqrt(2.0) * noise * product
        for r in range(k):
            row = rows[pairs + j * k + r]
            for q in range(n):
                value = root[q] * slope[j, q] * fields[p + r, q]
                row[q] = value * residual[q]
                if parts == 3:
                    row[n + q] = value * deviation
    return rows


@njit(**OPTIONS)
def row_means(rows: Array, weight: Array) -> Array:
    """Means of all rows."""
    means = np.empty(rows.shape[0])
    root = np.sqrt(weight)
    for a in range(rows.shape[0]):
        means[a] = inner(rows[a, : weight.size], root)
    return means


@njit(**OPTIONS)
def project_rows(rows: Array, Q: Array, M: Array) -> None:
    """Increments of normalised weights: u_jl - Q_jl (u_jj + u_ll)/2, v_jr - M_jr u_jj/2."""
    p, k = M.shape
    pairs = p * (p + 1) // 2
    for j in range(p):
        own = rows[pair_row(j, j)]
        for r in range(k):
            row = rows[pairs + j * k + r]
            for q in range(row.size):
                row[q] -= 0.5 * M[j, r] * own[q]
        for l in range(j):  # noqa: E741
            row, other = rows[pair_row(j, l)], rows[pair_row(l, l)]
            for q in range(row.size):
                row[q] -= 0.5 * Q[j, l] * (own[q] + other[q])
    for j in range(p):
        rows[pair_row(j, j)] = 0.0


@njit(**OPTIONS)
def increment_covariance(
    rows: Array, weight: Array, Q: Array, M: Array, sphere: bool, out: Array
) -> None:
    """Write Cov[(u, v)] over the packed state (Q, M) into `out`; rows are overwritten."""
    p, k = M.shape
    pairs, n = p * (p + 1) // 2, weight.size
    means, root = row_means(rows, weight), np.sqrt(weight)
    for a in range(rows.shape[0]):
        for q in range(n):
            rows[a, q] -= means[a] * root[q]
    if sphere:
        project_rows(rows, Q, M)
    first, second = np.empty(rows.shape[0], np.int64), np.empty(rows.shape[0], np.int64)
    for j in range(p):
        for l in range(j + 1):  # noqa: E741
            first[pair_row(j, l)], second[pair_row(j, l)] = j * p + l, l * p + j
        for r in range(k):
            first[pairs + j * k + r] = p * p + j * k + r
            second[pairs + j * k + r] = p * p + j * k + r
    for a in range(rows.shape[0]):
        for b in range(a + 1):
            value = inner(rows[a], rows[b])
            for x in (first[a], second[a]):
                for y in (first[b], second[b]):
                    out[x, y] = value
                    out[y, x] = value


@njit(**OPTIONS)
def dilation(
    slope: Array, residual: Array, weight: Array, normal: Array, active: Array, noise: float
) -> Array:
    """E[psi_j psi_l (|z|^2 - rank)], z the coordinates of the fields that are `active`."""
    p, n = slope.shape
    heavy, result = np.empty(n), np.empty((p, p))
    rank = 0.0
    for c in range(active.size):
        rank += active[c]
    for q in range(n):
        length = -rank
        for c in range(active.size):
            length += active[c] * normal[c, q] * normal[c, q]
        heavy[q] = weight[q] * length * (residual[q] * residual[q] + noise)
    for j in range(p):
        for l in range(j + 1):  # noqa: E741
            value = 0.0
            for q in range(n):
                value += heavy[q] * slope[j, q] * slope[l, q]
            result[j, l] = value
            result[l, j] = value
    return result


@njit(**OPTIONS)
def gradient_gram(
    slope: Array, residual: Array, weight: Array, normal: Array, active: Array
) -> Array:
    """Return the Gram matrix b Omega^+ b^T of the mean updates: sum_c E[psi_j z_c] E[psi_l z_c]."""
    p, n = slope.shape
    means, result = np.zeros((p, active.size)), np.empty((p, p))
    for j in range(p):
        for c in range(active.size):
            value = 0.0
            for q in range(n):
                value += weight[q] * slope[j, q] * residual[q] * normal[c, q]
            means[j, c] = active[c] * value
    for j in range(p):
        for l in range(p):  # noqa: E741
            result[j, l] = inner(means[j], means[l])
    return result


@njit(**OPTIONS)
def batch_moment(rows: Array, means: Array, a: int, b: int, share: float) -> float:
    """Second moment of the batch means of rows a and b; `share` is 1/n_b."""
    return share * inner(rows[a], rows[b]) + (1.0 - share) * means[a] * means[b]


@njit(**OPTIONS)
def add_finite_size(excess: Array, Q: Array, M: Array, sphere: bool, dQ: Array, dM: Array) -> None:
    """Add a rate `excess` of Q, and on the sphere what the constraint makes of it."""
    p, k = M.shape
    for j in range(p):
        for l in range(p):  # noqa: E741
            dQ[j, l] += excess[j, l]
            if sphere:
                dQ[j, l] -= 0.5 * Q[j, l] * (excess[j, j] + excess[l, l])
        for r in range(k):
            if sphere:
                dM[j, r] -= 0.5 * M[j, r] * excess[j, j]


@njit(**OPTIONS)
def add_curvature(
    rows: Array, weight: Array, Q: Array, M: Array, step: float, share: float,
    dQ: Array, dM: Array,
) -> None:  # fmt: skip
    """Add the second-order part of the normalisation on the sphere (its Ito term).

    `step` is gamma/(p d). To second order in the increments of one step, dividing by the lengths
    changes M_jr by step^2 (3/8 M_jr u_jj^2 - u_jj v_jr/2), and Q_jl likewise.
    """
    p, k = M.shape
    pairs, means = p * (p + 1) // 2, row_means(rows, weight)
    for j in range(p):
        own = pair_row(j, j)
        square = batch_moment(rows, means, own, own, share)
        for r in range(k):
            cross = batch_moment(rows, means, own, pairs + j * k + r, share)
            dM[j, r] += step * (0.375 * M[j, r] * square - 0.5 * cross)
        for l in range(j):  # noqa: E741
            other, both = pair_row(l, l), pair_row(j, l)
            lengths = 0.375 * square + 0.375 * batch_moment(rows, means, other, other, share)
            lengths += 0.25 * batch_moment(rows, means, own, other, share)
            mixed = batch_moment(rows, means, both, own, share)
            mixed += batch_moment(rows, means, both, other, share)
            change = step * (Q[j, l] * lengths - 0.5 * mixed)
            dQ[j, l] += change
            dQ[l, j] += change

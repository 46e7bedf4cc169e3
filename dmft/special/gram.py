"""Covariance of random variables from their values at nodes, in compiled code."""

from __future__ import annotations

import numpy as np

from dmft.arrays import Array
from dmft.compiled import njit

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

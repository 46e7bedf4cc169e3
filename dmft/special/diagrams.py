r"""Averages of products of polynomials in compiled code: one loop over all linked diagrams.

    E prod_i p_i(x_i) = sum_k weight_k prod_{i<j} C_ij^{k_ij} prod_i E[p_i^{(r_i)}] / r_i!,

with r_i the sum of the links k_ij of a field (`dmft.gaussian.closed.wick`). A table holds the
number of fields, the largest degree and the number of diagrams; for each field and r the point
about which E[p^(r)] / r! is expanded in the variance, and its coefficients; for each diagram the
weight and the links.
"""

from __future__ import annotations

import numpy as np

from dmft.arrays import Array
from dmft.compiled import njit


@njit(cache=True, nogil=True, error_model="numpy")
def average_of_polynomials(T: Array, *entries: float) -> float:
    """Sum over the diagrams of a table; `entries` is the upper triangle of the covariance."""
    fields, top, count = int(T[0]), int(T[1]), int(T[2])
    moments = np.empty((fields, top + 1))
    pairs = fields * (fields - 1) // 2
    powers = np.empty((pairs, top + 1))
    block = top + 2
    pair = entry = 0
    for i in range(fields):
        variance = entries[entry]
        for r in range(top + 1):
            start = 3 + (i * (top + 1) + r) * block
            step, value = variance - T[start], 0.0
            for n in range(top, -1, -1):
                value = value * step + T[start + 1 + n]
            moments[i, r] = value
        for j in range(1, fields - i):
            power = 1.0
            for n in range(top + 1):
                powers[pair, n] = power
                power *= entries[entry + j]
            pair += 1
        entry += fields - i
    degrees = np.empty(fields, np.int64)
    total = 0.0
    place = 3 + fields * (top + 1) * block
    for _ in range(count):
        value = T[place]
        degrees[:] = 0
        pair = 0
        for i in range(fields):
            for j in range(i + 1, fields):
                links = int(T[place + 1 + pair])
                degrees[i] += links
                degrees[j] += links
                value *= powers[pair, links]
                pair += 1
        for i in range(fields):
            value *= moments[i, degrees[i]]
        total += value
        place += 1 + pairs
    return total

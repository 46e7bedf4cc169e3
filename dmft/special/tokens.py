"""Averages of sequence models from tables, in compiled code.

A table is one float64 vector (`dmft.gaussian.tables.token_table` writes it): rows, columns,
radius, two bounds, the powers of m in rising order, then the Chebyshev coefficients in e of each
row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmft.compiled import njit

# Position of the powers.
HEADER = 5


@njit(cache=True, nogil=True, error_model="numpy")
def token_value(table: NDArray[np.float64], e: float, m: float) -> float:
    """sum_r m^p_r sum_c a_rc T_c(e / radius); a polynomial also beyond the radius."""
    rows, columns = int(table[0]), int(table[1])
    x = e / table[2]
    start = HEADER + rows
    total, power, reached = 0.0, 1.0, 0
    for r in range(rows):
        wanted = int(table[HEADER + r])
        while reached < wanted:
            power *= m
            reached += 1
        # Clenshaw's sum of the row.
        last, before = 0.0, 0.0
        for c in range(columns - 1, 0, -1):
            now = table[start + r * columns + c] + 2.0 * x * last - before
            before, last = last, now
        total += power * (table[start + r * columns] + x * last - before)
    return total

"""Rank-revealing factors of covariances that may be singular."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

# A pivot below this fraction of the largest diagonal entry is rounding, not variance: the rank
# ends there. About 60 units in the last place, what a few subtractions of order one leave.
RANK_TOLERANCE = 1.4e-14


@njit(nogil=True, cache=True, error_model="numpy")
def semidefinite_factor(
    S: NDArray[np.float64], L: NDArray[np.float64], pivots: NDArray[np.int64], threshold: float
) -> int:
    """Pivoted Cholesky: S = L[:, :rank] L[:, :rank]^T, with the rank returned.

    S is overwritten. Rows of L keep their order; row pivots[c] of L is zero right of column c.
    Pivots up to `threshold` count as zero, and so does a NaN.
    """
    n = S.shape[0]
    for c in range(n):
        at, best = -1, threshold
        for i in range(n):
            if S[i, i] > best:
                at, best = i, S[i, i]
        if at < 0:
            return c
        pivots[c] = at
        root = math.sqrt(best)
        for i in range(n):
            L[i, c] = S[i, at] / root
        for i in range(n):
            for j in range(i + 1):
                S[i, j] -= L[i, c] * L[j, c]
                S[j, i] = S[i, j]
        # Exactly zero, so that no later column sees the rounding of this one.
        for i in range(n):
            S[i, at] = 0.0
            S[at, i] = 0.0
    return n


def factor(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Factor A (n, r) with A A^T = matrix, and its pivot rows (r,).

    Examples
    --------
    >>> import numpy as np
    >>> from dmft.simulation.factor import factor
    >>> A, pivots = factor(np.ones((2, 2)))
    >>> A.tolist(), pivots.tolist()
    ([[1.0], [1.0]], [0])
    """
    n = matrix.shape[0]
    L, pivots = np.zeros((n, n)), np.zeros(n, dtype=np.int64)
    threshold = RANK_TOLERANCE * float(np.max(np.diag(matrix), initial=0.0))
    rank = semidefinite_factor(np.array(matrix, dtype=np.float64), L, pivots, threshold)
    return np.ascontiguousarray(L[:, :rank]), pivots[:rank].copy()

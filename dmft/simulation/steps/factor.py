"""Rank-revealing factor of a covariance that may be singular."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmft.simulation.steps.common import RANK_TOLERANCE, semidefinite_factor


def factor(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Factor A (n, r) with A A^T = matrix, and its pivot rows (r,).

    Examples
    --------
    >>> import numpy as np
    >>> from dmft.simulation.steps.factor import factor
    >>> A, pivots = factor(np.ones((2, 2)))
    >>> A.tolist(), pivots.tolist()
    ([[1.0], [1.0]], [0])
    """
    n = matrix.shape[0]
    L, pivots = np.zeros((n, n)), np.zeros(n, dtype=np.int64)
    threshold = RANK_TOLERANCE * float(np.max(np.diag(matrix), initial=0.0))
    rank = semidefinite_factor(np.array(matrix, dtype=np.float64), L, pivots, threshold)
    return np.ascontiguousarray(L[:, :rank]), pivots[:rank].copy()

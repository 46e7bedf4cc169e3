"""Types of arrays, and cosines of rows from their overlaps."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cosines(M: Array, Q: Array, P: Array) -> Array:
    """|M_jr| / sqrt(Q_jj P_rr), (..., p, k); 0 for rows without length."""
    own, other = (np.diagonal(y, axis1=-2, axis2=-1) for y in (Q, P))
    norm = np.sqrt(own[..., :, None] * other[..., None, :])
    return np.divide(np.abs(M), norm, out=np.zeros_like(norm), where=norm > 0.0)

"""Averages of functions with exponential branches on arrays of covariances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dmft.special.branch_slopes import branch_slope, branch_slopes
from dmft.special.branches import branch_field, branch_given, branch_pair

# Average of two fields by the number of vectors that it reads.
OF_TWO = {2: branch_pair, 5: branch_slope, 9: branch_slopes}


def branch_on_arrays(vectors: Sequence[Any], numbers: Sequence[Any]) -> Any:
    """`branch_field`, `branch_given`, `branch_pair`, `branch_slope` or `branch_slopes`."""
    read = [np.array(v, dtype=np.float64) for v in vectors]
    for vector in read:
        vector.flags.writeable = False
    arrays = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in numbers))
    alone = branch_field if len(numbers) == 2 else branch_given
    call = OF_TWO.get(len(vectors), alone)
    points = zip(*(a.ravel().tolist() for a in arrays), strict=True)
    return np.array([call(*read, *p) for p in points]).reshape(arrays[0].shape)

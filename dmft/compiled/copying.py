"""Copies between arrays in compiled code.

For `target[:n] = source` Numba compiles a comparison of shapes and the text of its error: strings,
numbers as strings, their lists, two seconds of each process that compiles such a line.
"""

from __future__ import annotations

import numpy as np

from dmft.compiled.functions import njit


@njit(inner=True, nogil=True, error_model="numpy")
def copy_into(target, source):  # type: ignore[no-untyped-def]
    """Copy the elements of `source` in their order; `target` is as large or larger."""
    for index in np.ndindex(source.shape):
        target[index] = source[index]

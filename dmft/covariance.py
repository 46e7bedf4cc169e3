"""Validation of covariance matrices: one place where an indefinite one is refused."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.errors import InvalidCovariance, ShapeMismatch

# A rank-deficient covariance computed in float64 dips below zero by a few ulps of its trace.
PSD_TOLERANCE = 1e-10
SYMMETRY_TOLERANCE = 1e-10


def check_shape(value: ArrayLike, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return `value` as a float64 array of exactly this shape, or raise `ShapeMismatch`."""
    try:
        array = np.array(value)
        if np.iscomplexobj(array):
            raise TypeError("it is complex")
        array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ShapeMismatch(f"{name} is not an array of numbers: {error}") from error
    if array.shape != shape:
        raise ShapeMismatch(f"{name} has shape {array.shape}, expected {shape}")
    if not np.all(np.isfinite(array)):
        raise InvalidCovariance(f"{name} holds a value that is not finite: {array.tolist()}")
    return array


def check_covariance(value: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return a symmetric positive semi-definite copy, or raise `InvalidCovariance`.

    Singular matrices are valid; the message names the asymmetric pair or the lowest eigenvalue.
    """
    try:
        shape = np.shape(value)
    except ValueError as error:
        raise ShapeMismatch(f"{name} is not an array of numbers: {error}") from error
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ShapeMismatch(f"{name} has shape {shape}, expected a square matrix")
    array = check_shape(value, name, shape)
    scale = max(float(np.max(np.abs(array), initial=0.0)), 1e-300)
    gap = np.abs(array - array.T)
    if float(gap.max(initial=0.0)) > SYMMETRY_TOLERANCE * scale:
        i, j = (int(x) for x in np.unravel_index(int(gap.argmax()), gap.shape))
        raise InvalidCovariance(
            f"{name} is not symmetric: {name}[{i},{j}] = {float(array[i, j])!r} but "
            f"{name}[{j},{i}] = {float(array[j, i])!r}; "
            f"pass ({name} + {name}.T) / 2 if that is meant"
        )
    array = 0.5 * (array + array.T)
    if array.size:
        lowest = float(np.linalg.eigvalsh(array)[0])
        if lowest < -PSD_TOLERANCE * max(float(np.trace(array)), scale):
            raise InvalidCovariance(
                f"{name} is not positive semi-definite: smallest eigenvalue {lowest:.6g}; "
                "no vectors have these overlaps"
            )
    return array

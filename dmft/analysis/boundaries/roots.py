"""Roots of smooth systems with a Jacobian, and branches of roots in a parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmft.names import Status

Array = NDArray[np.float64]
# Singular values below this fraction of the largest are flat directions: no step goes there.
FLAT = 1e-10


@dataclass(frozen=True)
class Root:
    """Where Newton's method ended: point, largest residual, status."""

    y: Array
    residual: float
    steps: int
    status: Status


def newton(
    function: Callable[[Array], Array],
    jacobian: Callable[[Array], Array],
    start: Array,
    *,
    tolerance: float,
    max_steps: int,
) -> Root:
    """Newton's method with steps of least norm and halving, so that flat directions do no harm.

    A start with a symmetry of the system keeps it.

    Parameters
    ----------
    function, jacobian
        F(y) of shape (m,) and dF/dy of shape (m, n) at y (n,).
    tolerance
        Largest component of F at a root.
    """
    y, value = start, function(start)
    size = _size(value)
    for step in range(max_steps):
        if not np.isfinite(size):
            return Root(y, size, step, Status.NONFINITE)
        if size <= tolerance:
            # One more step costs little and gives the last digits where the root is simple.
            last = y - _move(jacobian(y), value)
            better = _size(function(last))
            return (
                Root(last, better, step + 1, Status.OK)
                if better < size
                else Root(y, size, step, Status.OK)
            )
        move = _move(jacobian(y), value)
        fraction = 1.0
        while True:
            trial = y - fraction * move
            trial_value = function(trial)
            trial_size = _size(trial_value)
            if trial_size < size or fraction < 1e-4:
                break
            fraction /= 2
        if not trial_size < size:
            return Root(y, size, step, Status.NOT_CONVERGED)
        y, value, size = trial, trial_value, trial_size
    return Root(y, size, max_steps, Status.NOT_CONVERGED)


def _move(jacobian: Array, value: Array) -> Array:
    """The least step to where the linear function is zero; nan where there is no such function."""
    if not np.all(np.isfinite(jacobian)):
        return np.full(jacobian.shape[1], np.nan)
    return np.asarray(np.linalg.lstsq(jacobian, value, rcond=FLAT)[0], dtype=np.float64)


def _size(value: Array) -> float:
    return float(np.abs(value).max(initial=0.0))

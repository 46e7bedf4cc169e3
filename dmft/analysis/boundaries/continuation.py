"""Branches of roots in one parameter by pseudo-arclength, through folds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dmft.arrays import Array
from dmft.names import Status

CORRECTOR_STEPS = 8
# The step grows after easy corrections and halves after failed ones.
EASY = 3
GROWTH = 1.4


@dataclass(frozen=True)
class Branch:
    """Points of a branch: parameter (n,), y (n, m), parameter at the folds, how it ended."""

    parameter: Array
    y: Array
    folds: Array
    status: Status
    message: str


def follow(
    function: Callable[[Array, float], Array],
    jacobian: Callable[[Array, float], Array],
    start: Array,
    parameter: tuple[float, float],
    *,
    step: float,
    tolerance: float,
    max_points: int,
) -> Branch:
    """Follow the root `start` from parameter[0] until it passes parameter[1], or turns back.

    `step` is the first and largest arclength of a step, as a fraction of the range of the
    parameter.
    """
    first, last = parameter
    span = last - first
    points = [np.append(start, 0.0)]  # the parameter is scaled to run from 0 to 1
    tangent = np.append(np.zeros(start.size), 1.0)

    def scaled(u: Array) -> tuple[Array, float]:
        return u[:-1], first + span * float(u[-1])

    def rows(u: Array) -> Array:
        y, s = scaled(u)
        h = 1e-6 * max(1.0, abs(span))
        slope = (function(y, s + h) - function(y, s - h)) / (2 * h) * span
        return np.column_stack([jacobian(y, s), slope])

    def correct(guess: Array, tangent: Array) -> tuple[Array | None, int]:
        """Newton's method in the plane through the guess across the branch."""
        u = guess
        for count in range(CORRECTOR_STEPS):
            value = function(*scaled(u))
            if not np.all(np.isfinite(value)):
                return None, count
            if np.abs(value).max() <= tolerance and count > 0:
                return u, count
            matrix = np.vstack([rows(u), tangent])
            u = u - np.linalg.lstsq(matrix, np.append(value, tangent @ (u - guess)), rcond=1e-12)[0]
        return None, CORRECTOR_STEPS

    length, status, message = step, Status.MAX_STEPS, f"{max_points} points"
    while len(points) < max_points:
        here = points[-1]
        tangent = _tangent(rows(here), tangent)
        corrected, count = correct(here + length * tangent, tangent)
        if corrected is None:
            length /= 2
            if length < 1e-6 * step:
                status, message = Status.NOT_CONVERGED, "the corrector fails at the smallest step"
                break
            continue
        points.append(corrected)
        if count <= EASY:
            length = min(step, GROWTH * length)
        if not 0.0 <= corrected[-1] <= 1.0:
            end = float(corrected[-1] > 1.0)
            part = (end - here[-1]) / (corrected[-1] - here[-1])
            across = np.append(np.zeros(start.size), 1.0)
            guess = here + part * (corrected - here)
            at_end, _ = correct(guess, across)
            points[-1] = corrected if at_end is None else at_end
            edge = "reached" if end else "turned back to the start of"
            status, message = Status.OK, f"{edge} the range of the parameter"
            break
    u = np.array(points)
    folds = np.empty(0)
    if len(points) > 1:
        folds = first + span * _folds(correct, rows, points)
    return Branch(first + span * u[:, -1], u[:, :-1], folds, status, message)


def _tangent(rows: Array, previous: Array) -> Array:
    """Unit null vector of the rows, in the direction of the previous one."""
    null = np.linalg.svd(rows)[2][-1]
    return null if null @ previous >= 0 else -null


def _folds(
    correct: Callable[[Array, Array], tuple[Array | None, int]],
    rows: Callable[[Array], Array],
    points: list[Array],
) -> Array:
    """Scaled parameters where the branch turns: the tangent has no component along it there."""
    from scipy.optimize import brentq

    tangents = [_tangent(rows(points[0]), points[1] - points[0])]
    for point in points[1:]:
        tangents.append(_tangent(rows(point), tangents[-1]))
    found = []
    for here, after, tangent, end in zip(
        points[:-1], points[1:], tangents[:-1], tangents[1:], strict=True
    ):
        if tangent[-1] * end[-1] >= 0:
            continue

        def along(length: float, here: Array = here, tangent: Array = tangent) -> Array:
            point, _ = correct(here + length * tangent, tangent)
            return here if point is None else point

        def turn(
            length: float, tangent: Array = tangent, along: Callable[..., Array] = along
        ) -> float:
            return float(_tangent(rows(along(length)), tangent)[-1])

        reach = float((after - here) @ tangent)
        found.append(float(along(brentq(turn, 0.0, reach, xtol=1e-10))[-1]))
    return np.array(found)

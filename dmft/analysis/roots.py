"""Roots of many functions, each inside its bracket; branches in one parameter, through folds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.names import Status

# Bisection alone needs 52 steps for the last bit; inverse interpolation about eight.
MAX_STEPS = 100
# Width of the last brackets.
WIDTH = 1e-15


def bracketed_roots(function: Callable[[Array], Array], low: ArrayLike, high: ArrayLike) -> Array:
    """Return x with function(x) = 0 in every bracket, by Chandrupatla's method.

    `function` acts on each component by itself and has opposite signs (or a zero) at both ends.
    """
    first, second = np.broadcast_arrays(np.asarray(low, dtype=float), np.asarray(high, dtype=float))
    first, second = first.copy(), second.copy()
    f_first, f_second = function(first), function(second)
    bad = ~(np.sign(f_first) * np.sign(f_second) <= 0)
    if np.any(bad):
        i = int(np.flatnonzero(bad.ravel())[0])
        raise BadParameter(
            f"no sign change between {first.ravel()[i]:g} and {second.ravel()[i]:g}: the values "
            f"are {f_first.ravel()[i]:g} and {f_second.ravel()[i]:g}"
        )
    best = np.where(np.abs(f_first) < np.abs(f_second), first, second)
    f_best = np.where(np.abs(f_first) < np.abs(f_second), f_first, f_second)
    fraction = np.full(first.shape, 0.5)
    for _ in range(MAX_STEPS):
        width = np.abs(second - first)
        if not np.any((f_best != 0) & (width > WIDTH)):
            break
        x = first + fraction * (second - first)
        f = function(x)
        better = np.abs(f) < np.abs(f_best)
        best, f_best = np.where(better, x, best), np.where(better, f, f_best)
        same = np.sign(f) == np.sign(f_first)
        third, f_third = np.where(same, first, second), np.where(same, f_first, f_second)
        second, f_second = np.where(same, second, first), np.where(same, f_second, f_first)
        first, f_first = x, f
        fraction = _next(first, second, third, f_first, f_second, f_third)
    return best


def _next(a: Array, b: Array, c: Array, fa: Array, fb: Array, fc: Array) -> Array:
    """Fraction of the way from a to b: inverse quadratic interpolation where it is safe."""
    with np.errstate(divide="ignore", invalid="ignore"):
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        safe = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        t = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        least = np.minimum(0.5, 0.5 * WIDTH / np.abs(b - a))
    t = np.where(safe & np.isfinite(t), t, 0.5)
    least = np.where(np.isfinite(least), least, 0.5)
    chosen: Array = np.minimum(np.maximum(t, least), 1 - least)
    return chosen


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
    reach: float = np.inf,
) -> Root:
    """Newton's method with steps of least norm and halving, so that flat directions do no harm.

    F (m,) and dF/dy (m, n) are functions of y (n,); the largest component of F at a root is below
    `tolerance`, that of a step below `reach`. A start with a symmetry of the system keeps it.
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
        fraction = min(1.0, reach / _size(move)) if _size(move) > 0.0 else 1.0
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


# Step of differences, relative to the sizes of entries: the formula has the error step^4.
STEP = 2e-3


def differences(function: Callable[[Array], Array], y: Array, scale: Array) -> Array:
    """Jacobian by central differences of fourth order with one extrapolation, about 1e-11."""
    columns = []
    for n in range(y.size):
        unit = np.zeros(y.size)
        unit[n] = STEP * scale[n]

        def slope(part: float, unit: Array = unit, n: int = n) -> Array:
            found: Array = (function(y + part * unit) - function(y - part * unit)) / (
                2.0 * part * unit[n]
            )
            return found

        fine, middle, coarse = slope(0.25), slope(0.5), slope(1.0)
        second, first = (4.0 * fine - middle) / 3.0, (4.0 * middle - coarse) / 3.0
        columns.append((16.0 * second - first) / 15.0)
    return np.stack(columns, axis=1) if columns else np.zeros((0, 0))


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

"""Axes of a boundary: which ranges, scales and accuracies go together."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from dmft.errors import BadParameter

Axis = tuple[str, float, float]
# Of a grid whose labels are held at once.
MOST_POINTS = 10**7
# Steps in units of the tolerance.
LEAST_STEP = 200
# Least tolerance in spacings of doubles.
ROUNDINGS = 16


def check_options(
    x: Axis, y: Axis, *, tol: float, grid: Any, step: float, log: Any
) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Refuse axes and accuracies that do not go together; return grid and names of log axes."""
    for axis in (x, y):
        to_parameter(axis, ())
    if x[0] == y[0]:
        raise BadParameter(f"both axes are {x[0]!r}: a boundary lies between two parameters")
    names = (log,) if isinstance(log, str) else tuple(log)
    unknown = [name for name in names if name not in (x[0], y[0])]
    if unknown:
        raise BadParameter(
            f"log = {log!r}: {unknown[0]!r} is neither of the axes {x[0]!r}, {y[0]!r}"
        )
    try:
        fits = 0.0 < LEAST_STEP * tol <= step <= 0.25
    except TypeError:
        fits = False
    if not fits:
        raise BadParameter(
            f"tol = {tol!r} and step = {step!r}: 0 < {LEAST_STEP} tol <= step <= 1/4 is needed, so "
            "that points show the direction of their curve"
        )
    for name, low, high in (x, y):
        width = math.log(high / low) if name in names and low > 0 else high - low
        largest = 1.0 if name in names else max(abs(low), abs(high))
        finest = ROUNDINGS * np.finfo(float).eps * max(largest / width, 1.0)
        if tol < finest:
            raise BadParameter(
                f"tol = {tol!r} is finer than doubles tell points of the axis {name!r} apart: at "
                f"least {finest:.1g}"
            )
    try:
        columns, rows = (operator.index(n) for n in grid)
    except (TypeError, ValueError) as error:
        raise BadParameter(f"grid = {grid!r}: two whole numbers of points, (nx, ny)") from error
    if min(columns, rows) < 2:
        raise BadParameter(f"grid = {grid!r} needs at least two points a side")
    if columns * rows > MOST_POINTS:
        raise BadParameter(f"grid = {grid!r:.80} has more than {MOST_POINTS:,} points to evaluate")
    return (columns, rows), names


def to_parameter(axis: Axis, log: tuple[str, ...]) -> Callable[[float], float]:
    """Parameter at a coordinate in [0, 1]."""
    try:
        name, low, high = axis
        low, high = float(low), float(high)
    except (TypeError, ValueError) as error:
        raise BadParameter(f"an axis is (name, lowest, highest), got {axis!r}") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise BadParameter(f"axis {name!r} runs from {low!r} to {high!r}: lowest < highest")
    if name not in log:
        return lambda u: high if u == 1.0 else low + u * (high - low)
    if not low > 0.0:
        raise BadParameter(f"axis {name!r} is logarithmic and starts at {low!r}: it must be > 0")
    return lambda u: high if u == 1.0 else low * (high / low) ** u

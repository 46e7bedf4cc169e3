"""Roots of many scalar functions at once, each inside its own bracket."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter

Array = NDArray[np.float64]
# Bisection alone needs 52 steps for the last bit; inverse interpolation about eight.
MAX_STEPS = 100


def bracketed_roots(
    function: Callable[[Array], Array], low: ArrayLike, high: ArrayLike, *, xtol: float = 1e-15
) -> Array:
    """Return x with function(x) = 0 in every bracket, by Chandrupatla's method.

    Parameters
    ----------
    function : callable
        Takes the shape of the brackets and acts on each component by itself.
    low, high : arrays of one shape
        The function has opposite signs there (or a zero at an end).
    xtol : float
        Width of the last brackets.

    Raises
    ------
    BadParameter
        Where the signs agree or a value is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> squares = np.array([2.0, 9.0])
    >>> bracketed_roots(lambda x: x**2 - squares, [1.0, 1.0], [2.0, 5.0]).round(12).tolist()
    [1.414213562373, 3.0]
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
        if not np.any((f_best != 0) & (width > xtol)):
            break
        x = first + fraction * (second - first)
        f = function(x)
        better = np.abs(f) < np.abs(f_best)
        best, f_best = np.where(better, x, best), np.where(better, f, f_best)
        same = np.sign(f) == np.sign(f_first)
        third, f_third = np.where(same, first, second), np.where(same, f_first, f_second)
        second, f_second = np.where(same, second, first), np.where(same, f_second, f_first)
        first, f_first = x, f
        fraction = _next(first, second, third, f_first, f_second, f_third, xtol)
    return best


def _next(a: Array, b: Array, c: Array, fa: Array, fb: Array, fc: Array, xtol: float) -> Array:
    """Fraction of the way from a to b: inverse quadratic interpolation where it is safe."""
    with np.errstate(divide="ignore", invalid="ignore"):
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        safe = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        t = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        least = np.minimum(0.5, 0.5 * xtol / np.abs(b - a))
    t = np.where(safe & np.isfinite(t), t, 0.5)
    least = np.where(np.isfinite(least), least, 0.5)
    chosen: Array = np.minimum(np.maximum(t, least), 1 - least)
    return chosen

"""Rules of rounding: values with the error that floats leave in them, operation by operation.

Each value travels with a bound of its error and with the sum of the sizes of its terms. Bounds are
those of a running analysis (Wilkinson): an operation adds a unit of what it adds up, a function
passes the errors of its arguments on. A function without a rule of its own is evaluated at moved
arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.equations.array_functions import FUNCTIONS
from dmft.equations.averages.expectation import Expectation
from dmft.equations.reference import truth
from dmft.gaussian.tables.tabled import PlacedAverage, TableAverage

# Error of one operation relative to what it rounds: twice the unit roundoff, as exponents and roots
# of libraries are right to a unit in the last place.
UNIT = float(np.finfo(float).eps)
# The same of a function, and of the value of an angle or a root of a pair.
OF_FUNCTION = 4 * UNIT
# Arguments are moved by this many times their error where a function has no rule.
MOVED = 2.0
# Largest absolute error of functions that add up parts of order one: the distribution function of
# two variables and averages of signs (`dmft.special`, their tests).
ABSOLUTE = {"BivariateNormalCDF": 8 * UNIT, "TwoSigns": 32 * UNIT, "FourSigns": 64 * UNIT}
# Functions that move by at most as much as their argument does.
CONTRACTING = frozenset({"sin", "cos", "tanh", "atan", "asinh", "Abs", "Max", "Min"})
# Largest differences of two values of bounded ones.
SPAN = {"sin": 2.0, "cos": 2.0, "tanh": 2.0, "atan": np.pi}
# Where an overflow leaves no bound: states moved by this much, how much more than what that changes
# is claimed, and what else relative to the largest entry.
MOVES, OF_MOVED, WITHOUT_BOUND = (1.0 - 16 * UNIT, 1.0 + 16 * UNIT), 10.0, 1e-10


class Bounded(NamedTuple):
    """Values, bounds of their errors, and the sums of the sizes of the terms they are made of.

    Arrays that broadcast; the first axis holds the value and the same with moved pairs
    (`dmft.equations.rounding.bounds`), bounds and sizes are those of the value alone.
    """

    value: Any
    error: Any
    size: Any


def first(values: Any) -> Any:
    """The value itself, without those of moved pairs."""
    return values[:1] if np.ndim(values) and np.shape(values)[0] > 1 else values


def number(value: float, exact: bool) -> Bounded:
    """A constant of an expression."""
    return Bounded(value, 0.0 if exact else UNIT * abs(value), abs(value))


def placed(
    average: Expectation | PlacedAverage,
    places: Sequence[sp.Symbol],
    parts: Sequence[Bounded],
    count: int,
    nodes: Mapping[str, NDArray[Any]],
) -> Bounded:
    """An average at `count` states: tables add what they claim, nodes tell their error themselves.

    What it reads are numbers without indices; so is it.
    """
    columns = [np.broadcast_to(np.ravel(first(y.value)), count) for y in parts]
    rows = zip(*columns, strict=True) if columns else [()]
    found = [average.number(dict(zip(places, row, strict=True)), nodes) for row in rows]
    axes = max((np.ndim(y.value) for y in parts), default=2)
    value = np.reshape(found, (1, len(found), *(1,) * (axes - 2)))
    return Bounded(value, average.claimed + 0.0 * value, np.abs(value))


def added(parts: Sequence[Bounded]) -> Bounded:
    """Sum, in any order: a unit of all that is added up, not of what is left."""
    value = reduce(np.add, (part.value for part in parts))
    sizes = reduce(np.add, (np.abs(first(part.value)) for part in parts))
    error = reduce(np.add, (part.error for part in parts)) + UNIT * sizes
    return Bounded(value, error, reduce(np.add, (part.size for part in parts)))


def times(one: Any, other: Any) -> Any:
    """Product of bounds: nothing times no bound is nothing."""
    product = np.multiply(one, other)
    if np.all(np.isfinite(product)):
        return product
    return np.where(np.equal(one, 0.0) | np.equal(other, 0.0), 0.0, product)


def multiplied(parts: Sequence[Bounded]) -> Bounded:
    """Product."""
    value, error, size = parts[0]
    for part in parts[1:]:
        here, there = np.abs(first(value)), np.abs(first(part.value))
        passed = times(here, part.error) + times(there, error) + times(error, part.error)
        error = passed + UNIT * here * there
        value, size = value * part.value, size * part.size
    return Bounded(value, error, size)


def summed(part: Bounded, axis: int, count: int) -> Bounded:
    """Sum over an axis of `count` entries, in any order."""

    def along(values: Any) -> Any:
        if np.ndim(values) and np.shape(values)[axis] > 1:
            return np.sum(values, axis=axis, keepdims=True)
        return count * values

    sizes = along(np.abs(first(part.value)))
    error = along(part.error) + UNIT * (1.0 + np.sqrt(count)) * sizes
    return Bounded(along(part.value), error, along(part.size))


def raised(part: Bounded, exponent: float) -> Bounded:
    """Power with a constant exponent."""
    value = np.power(part.value, exponent)
    result = np.abs(first(value))
    size = np.abs(first(part.value))
    relative = ratio(part.error, size)
    if exponent < 0:  # beyond the largest double: what is left of its inverse is nothing
        relative = np.where(np.isinf(size), 0.0, relative)
    up = np.abs(np.expm1(exponent * np.log1p(relative)))
    down = np.abs(np.expm1(exponent * np.log1p(-np.minimum(relative, 1.0))))
    moved = result * np.maximum(up, down)
    at_zero = np.power(part.error, exponent) if exponent > 0 else np.inf
    error = np.where(size == 0.0, np.where(np.equal(part.error, 0.0), 0.0, at_zero), moved)
    whole = exponent > 0 and float(exponent).is_integer()
    return Bounded(value, error + UNIT * result, part.size**exponent if whole else result)


def applied(name: str, arguments: Sequence[Bounded]) -> Bounded:
    """A function of FUNCTIONS by its name."""
    function = FUNCTIONS[name]
    value = function(*(a.value for a in arguments))
    size = np.abs(first(value))
    if not any(np.any(a.error) for a in arguments):
        moved: Any = 0.0
    elif name in CONTRACTING:
        moved = reduce(np.maximum, (a.error for a in arguments))
        moved = np.minimum(moved, SPAN.get(name, np.inf))
    elif name in PASSED_ON:
        moved = PASSED_ON[name](first(arguments[0].value), arguments[0].error, first(value))
    else:
        moved = at_moved_arguments(function, arguments, first(value))
    local = OF_FUNCTION * size + ABSOLUTE.get(name, 0.0)
    return Bounded(value, moved + local, size)


def at_moved_arguments(
    function: Callable[..., Any], arguments: Sequence[Bounded], value: Any, only: Any = None
) -> Any:
    """Changes of a function as each argument moves by its error, added up; `only` some of them."""
    total: Any = 0.0
    points = [first(a.value) for a in arguments]
    for n, argument in enumerate(arguments):
        if not np.any(argument.error) or (only is not None and n not in only):
            continue
        changes: Any = 0.0
        for side in (-MOVED, MOVED):
            moved = points[n] + side * argument.error
            there = function(*points[:n], moved, *points[n + 1 :])
            # Outside of its domain a function has no value to compare with.
            changes = np.fmax(changes, np.abs(there - value))
        total = total + changes
    return total


def _asin(x: Any, error: Any, value: Any) -> Any:
    """Slope of the arcsine, at most the whole way to +-pi/2."""
    outer, inner = np.abs(x) + error, np.maximum(np.abs(x) - error, 0.0)
    room = (1.0 - outer) * (1.0 + outer)
    slope = np.divide(error, np.sqrt(np.where(room > 0.0, room, np.nan)))
    to_one = 2.0 * np.arcsin(np.sqrt(np.clip(0.5 * (1.0 - inner), 0.0, 1.0)))
    return np.fmin(slope, to_one)


def _bell(x: Any, error: Any, value: Any) -> Any:
    """Slope of the error function at the near end; none at infinity."""
    inner = np.where(np.isinf(x), np.inf, np.maximum(np.abs(x) - error, 0.0))
    return np.minimum(times(error, 2.0 / np.sqrt(np.pi) * np.exp(-(inner**2))), 2.0)


def _growth(x: Any, error: Any, value: Any) -> Any:
    """What the exponential gains at the far end; no bound beyond the largest double."""
    near = np.abs(value) * np.expm1(np.minimum(error, 1.0))
    far = np.where(np.isinf(value), np.inf, np.exp(x + error) - value)
    return np.where(np.less(error, 1.0), near, far)


# Error that a function of one argument passes on: of the argument, its error and the value.
PASSED_ON: dict[str, Callable[[Any, Any, Any], Any]] = {
    "exp": _growth,
    "erf": _bell,
    "erfc": _bell,
    "asin": _asin,
}


def piecewise(expr: sp.Piecewise, value: Callable[[sp.Expr], Bounded]) -> Bounded:
    """A Piecewise with the bounds of the piece that applies."""
    result = Bounded(np.nan, np.nan, np.nan)
    for piece, condition in reversed(expr.args):
        here = value(piece)
        holds = truth(condition, lambda e: value(e).value)
        plain = first(holds)
        result = Bounded(
            np.where(holds, here.value, result.value),
            np.where(plain, here.error, result.error),
            np.where(plain, here.size, result.size),
        )
    return result


def tabled(average: TableAverage, numbers: Sequence[Bounded]) -> Bounded:
    """An average with the error that it claims, of sqrt(E F^2 E G^2)."""
    value = average.on_arrays(*(a.value for a in numbers))
    norm = average.norm(*(first(a.value) for a in numbers))
    moved = at_moved_arguments(average.on_arrays, numbers, first(value))
    return Bounded(value, moved + average.rounding * norm, np.abs(first(value)))


def ratio(error: Any, size: Any) -> Any:
    """Relative error; nothing is a part of anything."""
    return np.where(np.equal(error, 0.0), 0.0, np.divide(error, size))


def measured(found: Bounded, moved: Any) -> Bounded:
    """Bounds at one state (1, ...), where there are none what the values at moved states tell."""
    value, error, size = (part[0] for part in found)
    held = np.isfinite(value)
    with np.errstate(all="ignore"):
        change = np.abs(moved - value).max(axis=0)
    told = OF_MOVED * change + WITHOUT_BOUND * np.abs(value[held]).max(initial=0.0)
    told = np.where(held & np.isfinite(told), told, np.inf)
    return Bounded(value, np.where(np.isfinite(error), error, told), size)


def relative_rounding(found: Mapping[str, Bounded]) -> Array:
    """Rounding relative to the size of the terms, the largest of all blocks at each state (T,).

    Of a block it is the largest bound over the largest sum of |terms|: entries that vanish by
    symmetry are no loss.
    """
    with np.errstate(all="ignore"):
        rows = [ratio(_largest(part.error), _largest(part.size)) for part in found.values()]
    worst: Array = np.max(rows, axis=0)
    return worst


def _largest(part: Array) -> Any:
    return part.reshape(len(part), -1).max(axis=1)

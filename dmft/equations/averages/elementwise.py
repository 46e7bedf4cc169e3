"""Functions of one number on NumPy arrays, for what the reference evaluates at nodes."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import sympy as sp


def _erfc(value: Any) -> Any:
    from scipy.special import erfc

    return erfc(value)


def _heaviside(value: Any, at_zero: Any = 0.5) -> Any:
    return np.heaviside(value, at_zero)


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "tanh": np.tanh,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "atan": np.arctan,
    "acos": np.arccos,
    "asinh": np.arcsinh,
    "log": np.log,
    "erfc": _erfc,
    "Abs": np.abs,
    "sign": np.sign,
    "Heaviside": _heaviside,
    "Max": lambda *values: reduce(np.maximum, values),
    "Min": lambda *values: reduce(np.minimum, values),
}
COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    sp.StrictLessThan: np.less,
    sp.LessThan: np.less_equal,
    sp.StrictGreaterThan: np.greater,
    sp.GreaterThan: np.greater_equal,
    sp.Equality: np.equal,
    sp.Unequality: np.not_equal,
}


def piecewise(expr: sp.Piecewise, value: Callable[[sp.Expr], Any]) -> Any:
    """Value of a Piecewise; `value` evaluates its parts. NaN where no condition holds."""
    result: Any = np.nan
    for piece, condition in reversed(expr.args):
        with np.errstate(over="ignore"):  # a piece may overflow where it does not hold
            here = value(piece)
        result = np.where(truth(condition, value), here, result)
    return result


def truth(condition: Any, value: Callable[[sp.Expr], Any]) -> Any:
    """Truth of a condition on arrays."""
    if condition in (sp.true, sp.false):
        return bool(condition)
    if type(condition) in COMPARISONS:
        return COMPARISONS[type(condition)](*(value(a) for a in condition.args))
    parts = [truth(a, value) for a in condition.args]
    if isinstance(condition, sp.Not):
        return np.logical_not(parts[0])
    return reduce(np.logical_and if isinstance(condition, sp.And) else np.logical_or, parts)

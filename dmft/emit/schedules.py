"""Run-time values that follow the time: what a user gives, as a SymPy expression."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy as sp

from dmft.emit.formula import parse_expression
from dmft.errors import BadParameter, ExpressionRefused

TIME, RISK = sp.symbols("t risk", real=True)
KNOWN = {s.name: s for s in (TIME, RISK)}
ONLY_RATES = (
    "expressions in t and risk are supported for learning_rate= of solve, simulate and escape_time "
    "only; dmft.solve also accepts tables, dmft.Schedule(t, value, name), of other parameters"
)


@dataclass(frozen=True)
class Rate:
    """A learning rate as an expression in the time and the population risk."""

    expr: sp.Expr

    @cached_property
    def rate(self) -> Any:
        """Compiled ``rate(t, [risk])``."""
        from dmft.emit import scalar_function

        return scalar_function(self.expr, TIME, [RISK])

    @property
    def reads_risk(self) -> bool:
        """Whether it follows the risk."""
        return bool(self.expr.has(RISK))

    @property
    def reads_time(self) -> bool:
        """Whether it follows the time, and continues at that of a start."""
        return bool(self.expr.has(TIME))


def as_expressions(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Texts and functions of the time among run-time values, as expressions of t and risk.

    A function takes the time, or the time and the risk; it is called once, with symbols. Values
    whose names are not in `names` do not follow the time and stay as they are.
    """
    return {
        name: as_expression(name, value) if name in names else value
        for name, value in values.items()
    }


def as_expression(name: str, value: Any) -> Any:
    """A text or a function as an expression; any other value as it is."""
    if isinstance(value, str):
        try:
            return parse_expression(value, KNOWN)
        except ExpressionRefused as error:
            raise BadParameter(f"{name} = {value!r}: {error}") from None
    if isinstance(value, sp.Basic | type) or not callable(value):
        return value
    return _followed(name, value)


def _followed(name: str, function: Callable[..., Any]) -> sp.Expr:
    """What a function makes of the symbols of time and risk."""
    try:
        found = sp.sympify(function(*(TIME, RISK)[: _count(function)]), strict=True)
    except Exception as error:
        raise BadParameter(
            f"{name} is a function that does not accept symbols ({error}): use SymPy, as lambda t: "
            'sp.exp(-t) or sp.Piecewise((1, t < 5), (0.1, True)), or a string, "exp(-t)"'
        ) from error
    if not isinstance(found, sp.Expr):
        raise BadParameter(f"{name} is a function that returns {found!r:.80}, not a number")
    return found


def _count(function: Callable[..., Any]) -> int:
    """Number of arguments that a function wants, 1 or 2."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    wanted = [p for p in parameters if p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD]
    return 2 if len(wanted) > 1 else 1

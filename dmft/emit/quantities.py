"""Expressions that a user gives: watched quantities of a run, values that follow the time."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp

from dmft.emit.formula import parse_expression
from dmft.errors import BadParameter, ExpressionRefused

_SPACES = re.compile(r"\s+")
# Names that a refusal lists.
LISTED = 20


def entry_name(name: str, index: tuple[int, ...]) -> str:
    """Name of an entry, counted from 0; that of the array where it is a number."""
    return f"{name}[{','.join(map(str, index))}]" if index else name


def quantity_expression(
    quantity: str | sp.Expr,
    shapes: Mapping[str, tuple[int, ...]],
    scalars: Iterable[str],
    labels: Mapping[str, str],
) -> sp.Expr:
    """The quantity in real symbols named like ``M[0,1]``, ``risk`` and ``t``.

    It is a text or an expression in symbols of these names, in entries of `sympy.IndexedBase`
    (counted from 0), or in the symbols of `Equations.explicit` (counted from 1: ``M_12``), where
    `labels` are the names of arrays that differ. Raises `BadParameter` for other names, and for
    numbers.
    """
    entries = [entry_name(n, i) for n, shape in shapes.items() for i in np.ndindex(shape)]
    known = {name: sp.Symbol(name, real=True) for name in (*scalars, *entries)}
    if isinstance(quantity, str):
        counted = {
            name: sp.Symbol(name, real=True)
            for name in _from_one(shapes, labels)
            if name.isidentifier()  # others are for LaTeX, nobody can write them
        }
        try:
            expr = parse_expression(_SPACES.sub(" ", quantity), {**known, **counted})
        except ExpressionRefused as error:
            # The parser lists entries where there are arrays.
            there = "" if entries and any(shapes.values()) else f"; available: {', '.join(known)}"
            raise BadParameter(f"event on {quantity!r}: {error}{there}") from None
    else:
        expr = sp.sympify(quantity, strict=True)
    expr = _renamed(expr, shapes, known, labels)
    if not expr.free_symbols:
        raise BadParameter(f"event on {quantity}: a constant does not cross a threshold")
    return expr


def _from_one(shapes: Mapping[str, tuple[int, ...]], labels: Mapping[str, str]) -> dict[str, str]:
    """Names of `Equations.explicit`, whose numbers count from 1, and those of the entries."""
    return {
        f"{labels.get(name, name)}_{''.join(str(i + 1) for i in index)}": entry_name(name, index)
        for name, shape in shapes.items()
        for index in np.ndindex(shape)
        if index and max(index) < 9
    }


def _renamed(
    expr: sp.Expr,
    shapes: Mapping[str, tuple[int, ...]],
    known: Mapping[str, sp.Symbol],
    labels: Mapping[str, str],
) -> sp.Expr:
    """An expression of a user's own in our symbols, by their names."""
    alias = _from_one(shapes, labels)
    indexed = {
        entry: sp.Symbol(entry_name(str(entry.base.label), tuple(map(int, entry.indices))))
        for entry in expr.atoms(sp.Indexed)
        if all(i.is_Integer for i in entry.indices)
    }
    expr = expr.xreplace(indexed)
    given = {s: _SPACES.sub("", s.name) for s in expr.free_symbols}
    taken = {s: alias.get(name, name) for s, name in given.items()}
    unknown = sorted(given[s] for s, name in taken.items() if name not in known)
    if unknown:
        raise BadParameter(
            f"event on {expr}: no {', '.join(unknown)} here; available: "
            f"{', '.join(list(known)[:LISTED])}"
        )
    return expr.xreplace({s: known[name] for s, name in taken.items()})


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

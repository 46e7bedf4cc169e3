"""Quantities that are watched: a text or a SymPy expression in entries of a run's arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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

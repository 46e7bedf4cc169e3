"""Losses of a sample, expressions in the output of the student and the label."""

from __future__ import annotations

import sympy as sp

from dmft.checks import shown
from dmft.errors import BadParameter

# A general loss is an expression in these two: the output of the student and the label.
PREDICTION, LABEL = sp.symbols("f y", real=True)
# Losses that have a name.
NAMED = {"squared": (PREDICTION - LABEL) ** 2 / 2, "correlation": 1 - LABEL * PREDICTION}


def as_loss(given: object, names: tuple[str, ...]) -> str | sp.Expr:
    """Return a loss in the two canonical symbols, whatever the assumptions of the user's.

    Raises
    ------
    BadParameter
        For other names than these, and for expressions in other symbols than f and y.
    """
    if isinstance(given, str) and given in names:
        return given
    known = ", ".join(f'"{name}"' for name in names)
    if not isinstance(given, sp.Expr):
        raise BadParameter(f"loss must be {known} or an expression in f and y, got {shown(given)}")
    found = {s: s.name for s in given.free_symbols}
    if not set(found.values()) <= {"f", "y"} or "f" not in found.values():
        raise BadParameter(f"loss = {given} must be an expression in the symbols f and y alone")
    return given.xreplace({s: PREDICTION if n == "f" else LABEL for s, n in found.items()})


def loss_expr(loss: str | sp.Expr) -> sp.Expr:
    """A loss in `PREDICTION` and `LABEL`."""
    return NAMED[loss] if isinstance(loss, str) else loss

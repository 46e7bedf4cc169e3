"""Losses of a sample, expressions in the output of the student and the label."""

from __future__ import annotations

import sympy as sp

from dmft.checks import shown
from dmft.errors import BadParameter

# A general loss is an expression in these two: the output of the student and the label.
PREDICTION, LABEL = sp.symbols("f y", real=True)
# Losses that have a name. Declarations keep the two that sequence models and wide limits know, and
# the norm of matrices; any other name stands for its expression.
NAMED = {"squared": (PREDICTION - LABEL) ** 2 / 2, "correlation": 1 - LABEL * PREDICTION}
KEPT = ("squared", "correlation", "frobenius")


def as_loss(given: object, kept: tuple[str, ...] = KEPT) -> str | sp.Expr:
    """Return a name that is kept, or a loss in the two canonical symbols.

    Raises
    ------
    BadParameter
        For other names, and for expressions in other symbols than f and y.
    """
    if isinstance(given, str) and given in kept:
        return given
    others = {name: loss for name, loss in NAMED.items() if name not in KEPT}
    if isinstance(given, str) and given in others:
        return others[given]
    known = ", ".join(f'"{name}"' for name in (*kept, *others))
    if not isinstance(given, sp.Expr):
        raise BadParameter(f"loss must be {known} or an expression in f and y, got {shown(given)}")
    found = {s: s.name for s in given.free_symbols}
    if not set(found.values()) <= {"f", "y"} or "f" not in found.values():
        raise BadParameter(f"loss = {given} must be an expression in the symbols f and y alone")
    return given.xreplace({s: PREDICTION if n == "f" else LABEL for s, n in found.items()})


def loss_expr(loss: str | sp.Expr) -> sp.Expr:
    """A loss in `PREDICTION` and `LABEL`."""
    return NAMED[loss] if isinstance(loss, str) else loss

"""Which models and algorithms escape formulas and largest learning rates are for."""

from __future__ import annotations

from dataclasses import replace

from dmft.errors import BadParameter
from dmft.model import (
    FIELD,
    SGD,
    Committee,
    GradientFlow,
    Model,
    MultiIndex,
    check_identity,
)

INSTEAD = "integrate the equations instead: dmft.escape_time(dmft.derive(model, algorithm), ...)"


def check_plain(algorithm: SGD | GradientFlow, what: str) -> None:
    """Refuse losses and decays for which there is no closed form.

    Raises
    ------
    BadParameter
    """
    if getattr(algorithm, "momentum", 0) != 0:
        raise BadParameter(
            f"{what} are those of plain SGD, got momentum = {algorithm.momentum}: take "  # type: ignore[union-attr]
            "SGD(learning_rate / (1 - momentum)), which has the same equations"
        )
    loss = getattr(algorithm, "loss", "squared")
    named = isinstance(loss, str)
    if not named or not algorithm.weight_decay.is_zero:
        found = f"weight_decay = {algorithm.weight_decay}" if named else f"loss = {loss}"
        raise BadParameter(
            f"{what} know the squared and the correlation loss without weight decay, got {found}; "
            "solve the equations: dmft.solve(dmft.derive(model, algorithm), ...)"
        )


def as_committees(model: Model) -> Model:
    """A teacher that is a function of one field, as a committee of one unit."""
    if not isinstance(model, Model):
        raise BadParameter(f"model must be a dmft.Model, got {model!r}")
    if model.reads_sequences:
        raise BadParameter(f"escape formulas are those of committees, not of sequences; {INSTEAD}")
    check_identity(model, "escape formulas are derived")
    teacher = model.teacher
    if not isinstance(teacher, MultiIndex):
        return model
    if len(teacher.fields) > 1:
        raise BadParameter(
            f"an escape formula needs a committee or one teacher field, the target has "
            f"{list(teacher.fields)}; {INSTEAD}"
        )
    link = teacher.expr.xreplace({teacher.fields[0]: FIELD})
    return replace(model, teacher=Committee(link, 1, field=FIELD))

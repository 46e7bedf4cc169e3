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
    check_unflipped,
)
from dmft.model.algorithm import refuse

INSTEAD = "integrate the equations instead: dmft.escape_time(dmft.derive(model, algorithm), ...)"


def check_plain(algorithm: SGD | GradientFlow, what: str) -> None:
    """Refuse losses and optimisers for which there is no closed form.

    Raises
    ------
    BadParameter
    """
    refuse(algorithm, "escape")
    loss = getattr(algorithm, "loss", "squared")
    if not isinstance(loss, str):
        raise BadParameter(
            f"{what} know the squared and the correlation loss, got loss = {loss}; "
            "solve the equations: dmft.solve(dmft.derive(model, algorithm), ...)"
        )
    if not algorithm.is_plain:
        raise BadParameter(f"{what} know plain SGD and its flow, got {algorithm.rule!r}; {INSTEAD}")


def as_committees(model: Model) -> Model:
    """A teacher that is a function of one field, as a committee of one unit."""
    if not isinstance(model, Model):
        raise BadParameter(f"model must be a dmft.Model, got {model!r}")
    if model.reads_sequences:
        raise BadParameter(f"escape formulas are those of committees, not of sequences; {INSTEAD}")
    check_identity(model, "escape formulas are derived")
    check_unflipped(model, "escape formulas are derived")
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

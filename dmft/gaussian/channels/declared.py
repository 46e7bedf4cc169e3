"""The label of a declared model: its expression, fields, noise and flips, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.gaussian.channels.channel import Channel
from dmft.model.inputs.spectrum import Spectrum
from dmft.model.model import Model
from dmft.model.multi_index import MultiIndex, teacher_fields
from dmft.model.network import Committee


@dataclass(frozen=True)
class Label:
    """y = g(h*) with flips and noise; `drawn` where g is the mean of labels +1 and -1."""

    expr: sp.Expr
    fields: tuple[sp.Symbol, ...]
    noise: sp.Expr
    flip: sp.Expr
    drawn: bool

    @property
    def width(self) -> int:
        """Number of teacher fields."""
        return len(self.fields)

    def channel(self, prior_variance: float = 1.0) -> Channel:
        """The channel of a label of one field."""
        if self.width > 1:
            raise BadParameter(
                f"{self.expr} is a function of {self.width} fields: this needs a label of one"
            )
        self.check_numbers()
        noise, flip = float(self.noise), float(self.flip)
        return Channel(self.expr, self.fields[0], noise, flip, self.drawn, prior_variance)

    def of_mixed_fields(self, mixing: NDArray[np.float64]) -> Label:
        """The label in normal fields z where its own are mixing @ z."""
        own = sp.Matrix(mixing) * sp.Matrix(self.fields)
        images = dict(zip(self.fields, own, strict=True))
        return replace(self, expr=self.expr.xreplace(images))

    def check_numbers(self) -> None:
        """Refuse symbols beside the fields."""
        free = self.expr.free_symbols | self.noise.free_symbols | self.flip.free_symbols
        if missing := sorted(free - set(self.fields), key=str):
            raise BadParameter(
                f"{missing[0]} has no value: static limits are numbers, so write values into the "
                f"teacher, label_noise and label_flip (expr.subs({missing[0]}, ...))"
            )


def label_of(model: Model, what: str, spectrum: bool = False) -> Label:
    """The label that a model's teacher writes, for inputs x ~ N(0, I_d) or with a spectrum."""
    if not isinstance(model, Model):
        raise BadParameter(f"{what} takes a dmft.Model, got {model!r:.80}")
    if model.reads_sequences:
        raise BadParameter(f"{what} is defined for dmft.Model, not for sequence models")
    teacher = model.teacher
    known = model.inputs is None or (spectrum and isinstance(model.inputs, Spectrum))
    if not (isinstance(teacher, Committee | MultiIndex) and known):
        raise BadParameter(
            f"{what} is derived for inputs x ~ N(0, I_d), the model has {model.inputs!r:.80}: "
            "leave inputs out; dmft.population_risk, dmft.derive and dmft.simulate take them"
        )
    if isinstance(teacher, Committee) and teacher.outputs > 1:
        raise BadParameter(
            f"{what} is derived for teachers of one output, this one has {teacher.outputs}"
        )
    if not teacher.width.is_Integer:
        raise BadParameter(f"{what} needs a numeric teacher width, got {teacher.width}")
    fields = teacher_fields(int(teacher.width))
    expr = sp.sympify(teacher.outputs_at(fields)[0], strict=True)
    return Label(expr, fields, model.label_noise, model.label_flip, model.draws_labels)

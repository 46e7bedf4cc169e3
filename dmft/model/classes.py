"""Models of several outputs: which class a sample has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import sympy as sp

from dmft.errors import BadParameter, ShapeMismatch
from dmft.model.multi_index import MultiIndex
from dmft.model.network import Committee

if TYPE_CHECKING:
    from dmft.model.model import Model

# Samples of the teacher's fields at which its largest output must be one alone.
SAMPLES = 32


def check_classes(model: Model) -> None:
    """Refuse models of several outputs whose samples have no class 0, ..., outputs - 1.

    Raises
    ------
    BadParameter, ShapeMismatch
    """
    count, teacher = model.outputs, model.teacher
    for name in ("label_noise", "label_flip"):
        if not getattr(model, name).is_zero:
            raise BadParameter(
                f"{name} = {getattr(model, name)} belongs to labels that are numbers, classes are "
                "never wrong here: leave it out"
            )
    if model.clusters is not None and model.blocks is not None:
        raise BadParameter(
            f"several outputs are derived for clusters without blocks of a spectrum, got "
            f"{model.inputs}: leave fractions out"
        )
    if model.label_channel is not None:
        raise BadParameter(
            "label_channel draws labels +1 and -1, for students of one output: leave it out"
        )
    if isinstance(teacher, MultiIndex):
        raise BadParameter(
            f"the class of a sample is that of the largest output of a dmft.Committee with "
            f"{count} rows of readout, or that of its cluster; {teacher!r} has neither"
        )
    if isinstance(teacher, Committee):
        if teacher.outputs != count:
            raise ShapeMismatch(
                f"the student has {count} outputs, the teacher {teacher.outputs}: classes are "
                "those of the teacher's largest output, give both a row of readout for each"
            )
        _check_ties(teacher)
        return
    known = {str(n) for n in range(count)}
    wrong = [y for y in teacher.labels or () if str(y) not in known]
    if wrong:
        raise BadParameter(
            f"label {wrong[0]} of a cluster is no class: with {count} outputs labels are the "
            f"integers 0 to {count - 1}"
        )


def _check_ties(teacher: Committee) -> None:
    """Refuse teachers whose largest outputs are equal with a positive probability.

    Raises
    ------
    BadParameter
    """
    if not teacher.activation.has(sp.Max, sp.Min, sp.Heaviside, sp.sign, sp.Piecewise):
        return
    for point in np.random.default_rng(0).standard_normal((SAMPLES, int(teacher.width))):
        values = teacher.outputs_at([sp.Float(z) for z in point])
        if all(v.is_number for v in values) and sorted(values)[-1] == sorted(values)[-2]:
            raise BadParameter(
                f"{teacher!r} has no class where its largest outputs are equal, as at the fields "
                f"{point.round(2).tolist()}: take an activation without flat parts, or write the "
                "classes as the numbers of clusters (dmft.GaussianMixture)"
            )

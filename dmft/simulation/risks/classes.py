"""Experiments with several outputs: classes, their updates, and the risk by output."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.model import SGD, Committee, GaussianMixture, Model, MultiIndex
from dmft.model.loss import NAMED, check_one_output, loss_of_outputs
from dmft.model.network import teacher_fields
from dmft.simulation.declaration import Experiment, Filler


def check_loss(model: Model, algorithm: SGD) -> None:
    """Refuse losses of other networks than committees of this many outputs."""
    if model.outputs == 1:
        check_one_output(algorithm.loss)
    if algorithm.loss == "frobenius":
        raise BadParameter(
            'loss = "frobenius" is the norm of the matrix f - y of a sequence model; a committee '
            'has loss="squared", "correlation" or an expression in f and y'
        )


def class_teacher(model: Model) -> MultiIndex | GaussianMixture:
    """What writes the class of a sample as a number."""
    teacher = model.teacher
    if isinstance(teacher, GaussianMixture):
        return teacher
    numbers = (o * own for o, own in enumerate(_indicators(teacher)))
    return MultiIndex(sp.Add(*numbers), teacher_fields(int(teacher.width)))


def _indicators(teacher: Committee | MultiIndex) -> list[sp.Expr]:
    """1 where an output is the largest, else 0, in symbols of the fields."""
    assert isinstance(teacher, Committee)
    values = teacher.outputs_at(teacher_fields(int(teacher.width)))
    return [sp.Mul(*(sp.Heaviside(f - g, 0) for g in values if g is not f)) for f in values]


def with_outputs(
    experiment: Experiment, model: Model, algorithm: SGD, filler: Filler
) -> Experiment:
    """The experiment with updates of several outputs, and its outputs one by one."""
    if not (algorithm.is_plain or hasattr(algorithm, "scale")):
        raise BadParameter(
            "students of several outputs are simulated under plain SGD, Adam, RMSProp, AdaGrad, "
            f"AdaGradNorm and SignSGD, got {algorithm!r}: use one of them"
        )
    from dmft.simulation.steps.sample import of_outputs

    loss_of_outputs(algorithm.loss, model.outputs)
    found = replace(experiment, update=of_outputs, loss=algorithm.loss)
    rows = enumerate(found.readout)
    return replace(found, parts=tuple(_part(found, model, filler, o, row) for o, row in rows))


def _part(
    experiment: Experiment, model: Model, filler: Filler, number: int, row: NDArray[np.float64]
) -> Experiment:
    """One output: its readouts, and labels 1 for its class and 0 for others."""
    teacher, inputs = model.teacher, model.clusters
    if isinstance(teacher, GaussianMixture):
        own = [sp.Integer(int(y == number)) for y in teacher.labels or ()]
        inputs = teacher.relabelled(own)
        target: MultiIndex | GaussianMixture = inputs
    else:
        fields = teacher_fields(int(teacher.width))
        target = MultiIndex(_indicators(teacher)[number], fields)
    activation = filler.teacher(target)
    return replace(
        experiment, teacher=activation, readout=row, inputs=inputs, rules={},
        loss=NAMED["squared"], update=None,
    )  # fmt: skip

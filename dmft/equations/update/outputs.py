r"""Students with several outputs: f_o = (1/p) sum_j a_oj sigma(h_j), classes by softmax.

    psi_j = sigma'(h_j) sum_o a_oj e_o,   e_o = -dl/df_o,   of the cross-entropy
    e_o = y_o - exp(f_o)/sum_q exp(f_q)

(theory/structured_inputs (14)), y_o = 1 for the class of the sample and 0 for others: that of its
cluster, or that of the teacher's largest output. Averages are over the fields
of one sample, on nodes; where the class is that of the cluster psi is a function of the student
fields alone, whose p coordinates come first in the root of Omega.
"""

from __future__ import annotations

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation, OneSample
from dmft.equations.definitions import Definition, define
from dmft.equations.restrict.admissible import slope_of
from dmft.equations.update.law import Cluster, by_target, clusters_of
from dmft.equations.update.optimiser import WEIGHTS, motion_of
from dmft.equations.update.terms import Degrees
from dmft.errors import BadParameter
from dmft.model import SGD, Committee, GradientFlow, Model
from dmft.model.loss import errors_of_outputs, loss_of_outputs, numbered


def targets(model: Model, cluster: Cluster) -> list[sp.Expr]:
    """y_o: 1 for the class of the sample, else 0."""
    if cluster.label is not None:
        return [sp.Integer(int(cluster.label == o)) for o in range(model.outputs)]
    teacher = model.teacher
    assert isinstance(teacher, Committee)
    values = teacher.outputs_at([x.h_star[r + 1] for r in range(teacher.width)])
    return [sp.Mul(*(sp.Heaviside(sp.expand(f - g)) for g in values if g is not f)) for f in values]


def output_definitions(model: Model) -> list[Definition]:
    """The outputs f_o of a sample."""
    sigma = model.student.activation

    def value(o: int) -> sp.Expr:
        return sp.Sum(x.a[o + 1, x.u] * At(sigma, x.h[x.u]), (x.u, 1, x.p)) / x.p

    found = {x.output_of_class(o): value(o) for o in range(model.outputs)}
    return [define(f, {"output": e}, "sample") for f, e in found.items()]


def gradient_definitions(
    model: Model, algorithm: SGD | GradientFlow, cluster: Cluster
) -> list[Definition]:
    """Outputs, errors and psi of a sample, in order."""
    names = range(model.outputs)
    errors = errors_of_outputs(algorithm.loss, model.outputs)
    seen = [at_sample(model, cluster, e) for e in errors]
    found = output_definitions(model)
    if any(e.has(x.softmax_sum) for e in [*seen, loss_value(model, algorithm, cluster)]):
        found.append(define(x.softmax_sum, {"softmax": _softmax_sum(model)}, "sample"))
    found += [define(x.error_of_class(o), {"error": e}, "sample") for o, e in enumerate(seen)]
    slope = At(slope_of(model.student.activation), x.h[x.j])
    pull = sp.Add(*(x.a[o + 1, x.j] * x.error_of_class(o) for o in names))
    return [*found, define(x.psi[x.j], {"gradient": slope * pull}, "sample")]


def at_sample(model: Model, cluster: Cluster, value: sp.Expr) -> sp.Expr:
    """A function of f1, ... and y1, ... in the names of a sample."""
    count = model.outputs
    own = [x.output_of_class(o) for o in range(count)]
    table = dict(zip(numbered("f", count), own, strict=True))
    table |= dict(zip(numbered("y", count), targets(model, cluster), strict=True))
    return value.xreplace(table).xreplace({_softmax_sum(model): x.softmax_sum})


def _softmax_sum(model: Model) -> sp.Expr:
    return sp.Add(*(sp.exp(x.output_of_class(o)) for o in range(model.outputs)))


def check_loss(model: Model, algorithm: SGD | GradientFlow) -> None:
    """Refuse losses and rows of students of several outputs that are not derived."""
    loss_of_outputs(algorithm.loss, model.outputs)
    rows = motion_of(algorithm).rows
    if rows != (WEIGHTS,):
        raise BadParameter(
            f"{algorithm!r} has additional rows ({', '.join(rows[1:])}), which are not derived "
            "for several outputs: leave average= and dmft.Momentum out; a number instead of "
            "dmft.Momentum is equivalent to a larger learning rate"
        )


def loss_value(model: Model, algorithm: SGD | GradientFlow, cluster: Cluster) -> sp.Expr:
    """The loss of a sample."""
    return at_sample(model, cluster, loss_of_outputs(algorithm.loss, model.outputs))


def wrong_class(model: Model, cluster: Cluster) -> sp.Expr:
    """Probability that a class drawn among the largest outputs is not that of the sample."""
    outputs = [x.output_of_class(o) for o in range(model.outputs)]
    largest = [sp.Mul(*(_not_below(f, g) for g in outputs if g != f)) for f in outputs]
    right = sp.Add(*(t * e for t, e in zip(targets(model, cluster), largest, strict=True)))
    return 1 - right / sp.Add(*largest)


def _not_below(first: sp.Expr, second: sp.Expr) -> sp.Expr:
    """1 where a number is at least another one, else 0."""
    sign = sp.sign(first - second)
    return 1 + sign * (1 - sign) / 2


def in_cluster(
    model: Model, cluster: Cluster, value: sp.Expr, samples: list[Definition]
) -> Expectation:
    """E[value] over the samples of one cluster, whose definitions have names of their own there."""
    own = by_target(samples)
    degree = Degrees(own).of(value)
    law = OneSample(degree, sp.S.Zero, sp.S.Zero, sp.Integer(of_students(model)))
    return Expectation(cluster.shifted(value, own), law)


def of_students(model: Model) -> bool:
    """Whether samples are functions of the student fields alone: the class is the cluster's.

    Blocks of a spectrum take mean slopes, from a root with the fields of the teacher first.
    """
    return model.blocks is None and model.teacher.activation is None


def risk_of_classes(model: Model) -> sp.Expr:
    """E sum_o (t_o - f_o)^2 / 2."""
    total, samples = sp.S.Zero, output_definitions(model)
    for c in clusters_of(model):
        pairs = enumerate(targets(model, c))
        square = sp.Add(*((t - x.output_of_class(o)) ** 2 for o, t in pairs))
        total += c.weight * in_cluster(model, c, square, samples) / 2
    return total


def risk_definitions(model: Model) -> list[Definition]:
    """What `risk_of_classes` is computed from."""
    samples = output_definitions(model)
    return [d for c in clusters_of(model) for d in c.named(samples)]

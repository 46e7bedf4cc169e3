"""The quadrature of the risk of an experiment: its function, its nodes, its value."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dmft.arrays import Array
from dmft.simulation.declaration import Experiment
from dmft.simulation.risks.measures import normal_nodes
from dmft.simulation.risks.risk import (
    KINKED,
    Function,
    Rule,
    choose_rule,
    find_kinks,
    polynomial_risk_at,
    risk_at,
    target_square,
)

# Analytic targets of up to two fields: trapezoidal rule, whose error falls like exp(-const/h).
TRAPEZOID_FIELDS = 2
SPACING, REACH = 0.4, 8.5
# Others: points of a Sobol sequence and their mirror images. The average over the student's field
# smooths along one direction more.
POINTS = 2048
# E g^2 is computed once and may cost more.
FINER = 0.25


def risk_function(experiment: Experiment) -> Function:
    """Compiled risk for this kind of teacher."""
    clustered, student, teacher = experiment.inputs, experiment.student, experiment.teacher
    powers = None not in (student.degree, teacher.degree)
    plain = clustered is None and not teacher.fields
    return polynomial_risk_at if plain and powers else risk_at


def rule_of(experiment: Experiment, P: Array, refinement: float = 1.0) -> Rule:
    """Rule for the risk of this experiment; a smaller `refinement` takes more nodes.

    The overlaps P of the teacher are constant in a run.
    """
    student, target = experiment.student, experiment.teacher
    if not target.fields and experiment.inputs is None:
        return choose_rule(student, target, refinement)
    nodes, weights = np.empty(0), np.empty(0)
    if student.degree is not None and target.degree is not None:
        # Pairs of teachers are on these nodes too; the square of a multi-index target is not.
        largest = max(student.degree, target.degree)
        nodes, weights = _hermite(largest + (student.degree if target.fields else largest))
    kinks = find_kinks(student)
    if not target.fields:
        return nodes, weights, kinks, find_kinks(target), np.array([refinement])
    if experiment.inputs is not None:
        settings = np.array([refinement, np.nan, *([1.0] if experiment.by_cluster else [])])
        return nodes, weights, kinks, _packed(experiment, 2, refinement), settings
    P = np.ascontiguousarray(P)
    square = target_square(
        P, _packed(experiment, 2, FINER * refinement), target.value, target.parameters
    )
    settings = np.array([refinement, square])
    return nodes, weights, kinks, _packed(experiment, 1, refinement), settings


def rule_of_part(part: Experiment, P: Array) -> Rule:
    """Rule of one of several outputs, kept with it."""
    key = P.tobytes()
    if key not in part.rules:
        part.rules[key] = rule_of(part, P)
    return part.rules[key]


def _packed(experiment: Experiment, power: int, refinement: float) -> Array:
    """Nodes z (k of them) and weight, one after the other, for the mean of g^power."""
    target, k = experiment.teacher, experiment.k
    inputs = experiment.inputs
    labels = inputs.labels if inputs is not None and experiment.by_cluster else None
    branches = labels or (target.expr,)
    if target.degree is not None:
        return _tensor(*_hermite(power * target.degree), k)
    if k <= TRAPEZOID_FIELDS and not any(y.has(*KINKED) for y in branches):
        return _tensor(*_trapezoid(SPACING * max(refinement, 0.25)), k)
    return _mirrored(round(POINTS / refinement**2), k)


def _hermite(degree: int) -> tuple[Array, Array]:
    """Gauss-Hermite rule that is exact for polynomials of this degree."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(degree // 2 + 1)
    return nodes, weights / np.sqrt(2 * np.pi)


def _trapezoid(spacing: float) -> tuple[Array, Array]:
    nodes = np.arange(-np.ceil(REACH / spacing), np.ceil(REACH / spacing) + 1) * spacing
    return nodes, spacing * np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi)


def _tensor(nodes: Array, weights: Array, k: int) -> Array:
    points = np.stack(np.meshgrid(*[nodes] * k, indexing="ij"), axis=-1).reshape(-1, k)
    mass = np.stack(np.meshgrid(*[weights] * k, indexing="ij"), axis=-1).reshape(-1, k)
    return np.column_stack([points, mass.prod(axis=1)]).ravel()


def _mirrored(count: int, k: int) -> Array:
    """Sobol points of k normal fields and their mirror images, with equal weights."""
    points = normal_nodes(k, 0, 2 ** round(math.log2(count)))
    both = np.concatenate([points, -points])
    return np.column_stack([both, np.full(len(both), 1.0 / len(both))]).ravel()


def quadrature_risk(experiment: Experiment, Q: Array, M: Array, P: Array, rule: Rule) -> float:
    """Population risk (1/2) E(f* - f)^2 at overlaps Q (p, p), M (p, k), P (k, k).

    Of an experiment that is watched for something else, that.
    """
    if experiment.parts:
        pairs = zip(experiment.parts, experiment.readout, strict=True)
        each = (replace(part, readout=row) for part, row in pairs)
        return sum(
            quadrature_risk(part, Q, M, P, rule_of_part(part, _contiguous(P))) for part in each
        )
    student, teacher = experiment.student, experiment.teacher
    value = experiment.watched or risk_function(experiment)
    return float(
        value(
            _contiguous(Q), _contiguous(M), _contiguous(P),
            experiment.readout, experiment.teacher_readout, student.value, teacher.value,
            student.parameters, teacher.parameters, rule, experiment.clusters,
        )
    )  # fmt: skip


def _contiguous(matrix: Array) -> Array:
    return np.ascontiguousarray(matrix, dtype=np.float64)

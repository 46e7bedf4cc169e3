"""Expected loss and error rate at overlaps, on nodes in all fields, from their definitions.

Fields are lambda = mean + L z with L L^T their covariance, in each cluster; a label y is g(h*), or
1 and -1 with the mean g(h*), then flipped with its chance, then noise is added. Then

    loss = E loss(f, y),  error_rate = P(y sign f < 0) before flips and noise, f = 0 half of it,

and of several outputs E loss(f, e_y), and how often a class drawn uniformly among the largest ones
is not y. Experiments with several outputs have their classes and updates here too.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import sympy as sp
from numba import types
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.compiled import njit
from dmft.emit import scalar_function
from dmft.errors import BadParameter
from dmft.model import SGD, Committee, GaussianMixture, Model, MultiIndex
from dmft.model.loss import LABEL, NAMED, PREDICTION, check_one_output, loss_of_outputs, numbered
from dmft.model.network import teacher_fields
from dmft.simulation.declaration import Experiment, Filler, without_overflow
from dmft.simulation.risk import (
    FUNCTION,
    KINKED,
    MATRIX,
    VECTOR,
    Function,
    Rule,
    choose_rule,
    find_kinks,
    polynomial_risk_at,
    risk_at,
    semidefinite_root,
    target_square,
)
from dmft.simulation.risk_arguments import Compiled

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.simulation.risk": "301c126e1afe",
}

# Sobol points: of one or two units 1e-4 of the loss and 1e-3 of the error rate.
POINTS = 4096


@njit(
    types.UniTuple(types.float64, 3)(
        MATRIX, VECTOR, MATRIX, MATRIX, VECTOR, VECTOR, FUNCTION, FUNCTION, FUNCTION, VECTOR, VECTOR
    ),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def measures_in_cluster(  # type: ignore[no-untyped-def]
    covariance, mean, nodes, rows, a_star, how, sigma, sigma_star, cost, par, par_star
):
    """Loss, error rate and the largest distance of labels from 1 and -1.

    Fields are those of the teacher, then of the student: a label that jumps in its first field does
    so along an axis of the nodes, normal (N, p + k), with one more for noise. Rows (O, p) are the
    readouts; how = [standard deviation of the noise, chance of a flip (negative: labels are drawn),
    fields of the target, cluster].
    """
    n, count = covariance.shape[0], nodes.shape[0]
    outputs, p = rows.shape
    k, fields = n - p, int(how[2])
    L, lam, f, star, label = (
        np.empty((n, n)), np.empty(n), np.empty(outputs), par_star.copy(), np.empty(1),
    )  # fmt: skip
    seen = np.empty(2 * outputs)
    semidefinite_root(covariance.copy(), L)
    if fields > k:
        star[k - 1] = how[3]
    loss, wrong, off = 0.0, 0.0, 0.0
    for i in range(count):
        for m in range(n):
            lam[m] = mean[m]
            for c in range(m + 1):
                lam[m] += L[m, c] * nodes[i, c]
        for o in range(outputs):
            f[o] = 0.0
        for j in range(p):
            unit = sigma(lam[k + j], par) / p
            for o in range(outputs):
                f[o] += rows[o, j] * unit
        for r in range(1, min(fields, k)):
            star[r - 1] = lam[r]
        y = 0.0
        for r in range(a_star.size):
            y += a_star[r] * sigma_star(lam[r], star) / a_star.size
        if outputs > 1:
            for o in range(outputs):
                seen[o] = f[o]
                seen[outputs + o] = 1.0 if y == o else 0.0
            loss += cost(0.0, seen)
            tied, top = 0, f.max()
            for o in range(outputs):
                tied += f[o] == top
            wrong += 1.0 - 1.0 / tied if f[int(y)] == top else 1.0
            continue
        off = max(off, abs(y * y - 1.0))
        wrong += 0.5 * (1.0 - y * np.sign(f[0]))
        noise = how[0] * nodes[i, n] if how[0] > 0.0 else 0.0
        chance, sign = how[1], y
        if chance < 0.0:  # of two drawn labels this is the chance of the other one
            chance, sign = 0.5 * (1.0 - y), 1.0
        label[0] = sign + noise
        loss += (1.0 - chance) * cost(f[0], label)
        if chance > 0.0:
            label[0] = noise - sign
            loss += chance * cost(f[0], label)
    return loss / count, wrong / count, off


def measures_at(
    e: Experiment, Q: Array, M: Array, P: Array, seed: int = 0
) -> tuple[float, float, float]:
    """Loss, error rate and how far labels are from signs, at overlaps as the fields see them."""
    p, k = M.shape
    gram = np.block([[P, M.T], [M, Q]])
    order = [*range(p, p + k), *range(p)]  # of laws, which begin with the students
    laws, before, found = e.clusters, 0.0, np.zeros(3)
    rows = np.atleast_2d(e.readout)
    a_star = e.teacher_readout[:1] if e.teacher.fields else e.teacher_readout
    chance = -1.0 if e.draws_labels else e.label_flip
    cost = compiled_loss(sp.S.Zero if e.loss is None else e.loss, len(e.parts))
    nodes = normal_nodes(p + k + (e.label_noise > 0.0), seed)
    for number, law in enumerate(laws if len(laws) else np.array([[1.0, 1.0, *np.zeros(k)]])):
        mean, covariance = gram[:, :k] @ law[2 : 2 + k], law[1] ** 2 * gram
        if law.size > 2 + k:
            mean, flat = np.split(law[2 + k :], [p + k])
            mean, covariance = mean[order], flat.reshape(p + k, p + k)[np.ix_(order, order)]
        how = np.array([math.sqrt(e.label_noise), chance, e.teacher.fields, number])
        loss, wrong, off = measures_in_cluster(
            np.ascontiguousarray(covariance), np.ascontiguousarray(mean), nodes,
            np.ascontiguousarray(rows), a_star, how, e.student.value, e.teacher.value, cost,
            e.student.parameters, e.teacher.parameters,
        )  # fmt: skip
        weight, before = law[0] - before, law[0]
        found[:2] += weight * np.array([loss, wrong])
        found[2] = max(found[2], off)
    return float(found[0]), float(found[1]), float(found[2])


def loss_above_risk(e: Experiment) -> float | None:
    """What the loss is above the risk where that is a constant: no labels are random."""
    random = e.label_flip != 0.0 or e.draws_labels
    is_squared = not e.parts and e.loss == NAMED["squared"]
    return e.label_noise / 2 if is_squared and not random else None


@lru_cache(maxsize=16)
def compiled_loss(loss: str | sp.Expr, outputs: int) -> Compiled:
    """A loss as a function of the output and the label, or of [outputs, labels] of several."""
    if not outputs:
        return scalar_function(loss, PREDICTION, [LABEL])
    whole = without_overflow(loss_of_outputs(loss, outputs), loss, outputs)
    seen = [*numbered("f", outputs), *numbered("y", outputs)]
    return scalar_function(whole, sp.Dummy(real=True), seen)


def measured(e: Experiment) -> dict[str, float]:
    """What runs of this experiment take from nodes, with the spread of two sets of nodes.

    The loss may be the risk and a constant; only of labels that are signs or classes are any wrong.
    """
    names = [] if e.loss is None or loss_above_risk(e) is not None else ["loss"]
    typical = np.eye(e.p), np.zeros((e.p, e.k)), np.eye(e.k)
    may_be_signs = e.teacher.expr.has(sp.sign, sp.Heaviside, sp.Piecewise)
    if e.draws_labels or e.parts or (may_be_signs and measures_at(e, *typical)[2] == 0.0):
        names.append("error_rate")
    if not names:
        return {}
    pair = np.array([measures_at(e, *typical, seed=seed) for seed in (0, 1)])
    spread = dict(zip(("loss", "error_rate"), np.abs(pair[0] - pair[1]), strict=False))
    return {name: float(spread[name]) for name in names}


@lru_cache(maxsize=8)
def normal_nodes(n: int, seed: int, count: int = POINTS) -> Array:
    """Nodes of n standard normal variables (count, n); count is a power of two."""
    from scipy.special import ndtri
    from scipy.stats import qmc  # slow to import

    return np.ascontiguousarray(ndtri(qmc.Sobol(n, seed=seed).random(count)))


# Analytic targets of up to two fields: trapezoidal rule, whose error falls like exp(-const/h).
TRAPEZOID_FIELDS = 2
SPACING, REACH = 0.4, 8.5
# Others: points of a Sobol sequence and their mirror images. The average over the student's field
# smooths along one direction more.
TARGET_POINTS = 2048
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
    return _mirrored(round(TARGET_POINTS / refinement**2), k)


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
    from dmft.simulation.steps.weights import of_outputs

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

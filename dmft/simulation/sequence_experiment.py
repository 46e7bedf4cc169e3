r"""A sequence model with every number filled in, its compiled steps, and what its runs watch.

Student and target read their tokens along a few orthonormal directions u_1 = w*/sqrt(D), u_2, ...
(encodings, or the copies of w* in the blocks of an untied network), where D is the dimension of the
weights. With w = sqrt(D) (sum_b v_b u_b + rho u), |v|^2 + rho^2 = 1, a sample moves

    w <- sqrt(D) (w - gamma G) / |w - gamma G|,   G = sum_t g_t (x_t + p_t) / sqrt(D),

and what x_t has outside the span of the u_b and u enters through its squared norm only, which is
chi-square (theory/sequence C.5): the chain of v is exact in law at a cost independent of D.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import sympy as sp
from numba import typeof, types
from numpy.typing import NDArray
from scipy.special import ndtri

from dmft.arrays import Array
from dmft.compiled import njit
from dmft.compiled.vectors import copy_into
from dmft.emit.expression import vector_function
from dmft.emit.quantities import entry_name
from dmft.errors import BadParameter
from dmft.initial_conditions import Alignment
from dmft.model import FIELD, SGD, as_count
from dmft.model.algorithm import refuse
from dmft.model.sequence import SequenceModel, SequenceNetwork
from dmft.simulation.clock import Clock, Schedule, Tabled
from dmft.simulation.declaration import Filler
from dmft.simulation.ensemble import FirstPassage
from dmft.simulation.watched import RISK, Watch, one_event, watched_expression
from dmft.solvers.events import TIME, Event

# Hashes of the files whose compiled functions are called here (tests/emit).
COMPILED_WITH = {
    "dmft.compiled.vectors": "ad8a71f6d01c",
}

GENERATOR = typeof(np.random.default_rng(0))
VECTOR = types.float64[::1]
MATRIX = types.float64[:, ::1]
CUBE = types.float64[:, :, ::1]
INTEGERS = types.int64[::1]
UPDATE = types.FunctionType(types.void(VECTOR, VECTOR, VECTOR))
PLAIN = {"nogil": True, "cache": True, "error_model": "numpy"}

# How a call ended.
REACHED, PASSED, NONFINITE = 0, 1, 3  # as in `kernels`
# Columns of `watch`.
SIDE, LEVEL, EVERY = range(3)

# counts = [steps, batch, D, tokens of the student, of the target, outputs, tied, first step];
# gammas = the learning rate of each step, or one for all; noise is a standard deviation.
# After every `every`-th step side * quantity is compared with side * level from above, where `side`
# is not zero, quantity(alignments of v, risk): alignments = `directions` v, and the mean of `loss`
# over `nodes`, where there are any, is the risk.
WATCHED = (VECTOR, UPDATE, MATRIX, CUBE, UPDATE)
COMMON = (MATRIX, VECTOR, types.float64, INTEGERS, UPDATE, VECTOR, *WATCHED, GENERATOR)
CHAIN = types.UniTuple(types.int64, 2)(VECTOR, *COMMON)
WEIGHTS = types.UniTuple(types.int64, 2)(VECTOR, MATRIX, *COMMON)


@njit(VECTOR(VECTOR, MATRIX, INTEGERS, CUBE, UPDATE, VECTOR), **PLAIN)
def mean_loss(v, shift, counts, nodes, loss, par):  # type: ignore[no-untyped-def]
    """Mean of the loss without noise at coordinates v, over each set of normal points."""
    tokens, targets, outputs, tied = counts[3:7]
    x, out = np.zeros(tokens + targets + outputs), np.empty(1)
    found = np.zeros(nodes.shape[0])
    rho = math.sqrt(max(0.0, 1.0 - np.dot(v, v)))
    spread = math.sqrt(max(0.0, 1.0 - v[0] * v[0]))
    positions = np.dot(shift, v)
    for n in range(nodes.shape[0]):
        for i in range(nodes.shape[1]):
            z = nodes[n, i]
            for t in range(targets):
                x[tokens + t] = z[t]
            if tied:
                for t in range(tokens):
                    x[t] = v[0] * z[t] + spread * z[targets + t] + positions[t]
            else:
                x[0] = np.dot(z[:targets], v) + rho * z[targets]
            loss(x, par, out)
            found[n] += out[0] / nodes.shape[1]
    return found


@njit(types.float64(VECTOR, MATRIX, INTEGERS, VECTOR, UPDATE, MATRIX, CUBE, UPDATE), **PLAIN)
def quantity_at(v, shift, counts, par, quantity, directions, nodes, loss):  # type: ignore[no-untyped-def]
    """What is watched, at coordinates v."""
    n = directions.shape[0]
    x, out = np.zeros(n + 1), np.empty(1)
    copy_into(x, np.dot(directions, v))
    if nodes.shape[0] > 0:
        x[n] = mean_loss(v, shift, counts, nodes, loss, par).mean()
    quantity(x, par, out)
    return out[0]


@njit(CHAIN, **PLAIN)
def chain_steps(  # type: ignore[no-untyped-def]
    v, shift, gammas, noise, counts, update, par, watch, quantity, directions, nodes, loss, rng
):
    """Move v (r,) by steps of the chain; shift (T, r) holds the encodings."""
    steps, batch, dim, tokens, targets, outputs, tied, first = counts
    r = v.size
    root = math.sqrt(dim)
    x, g = np.empty(tokens + targets + outputs), np.empty(tokens)
    a, c, W = np.empty((tokens, r)), np.empty(tokens), np.empty(r)
    for n in range(steps):
        size = gammas[min(n, gammas.size - 1)] / (batch * root)
        rho = math.sqrt(max(0.0, 1.0 - np.sum(v * v)))
        for b in range(r):
            W[b] = root * v[b]
        along, spread = root * rho, 0.0
        for _ in range(batch):
            for t in range(tokens):
                c[t] = rng.standard_normal()
                field = rho * c[t]
                for b in range(r):
                    a[t, b] = rng.standard_normal()
                    field += v[b] * (a[t, b] + shift[t, b])
                x[t] = field
            for t in range(targets):
                x[tokens + t] = a[t, 0] if tied else a[0, t]
            for o in range(outputs):
                x[tokens + targets + o] = noise * rng.standard_normal()
            update(x, par, g)
            for t in range(tokens):
                for b in range(r):
                    W[b] -= size * g[t] * (a[t, b] + shift[t, b])
                along -= size * g[t] * c[t]
                spread += g[t] * g[t]
        if dim > r + 1:
            spread *= size * size * rng.chisquare(dim - r - 1)
        else:
            spread = 0.0
        length = math.sqrt(np.sum(W * W) + along * along + spread)
        if not length < math.inf:
            return NONFINITE, n
        copy_into(v, W / length)
        if watch[SIDE] != 0.0 and (first + n + 1) % watch[EVERY] == 0.0:
            found = quantity_at(v, shift, counts, par, quantity, directions, nodes, loss)
            if watch[SIDE] * found <= watch[SIDE] * watch[LEVEL]:
                return PASSED, n + 1
    return REACHED, steps


@njit(WEIGHTS, **PLAIN)
def weight_steps(  # type: ignore[no-untyped-def]
    w,
    basis,
    shift,
    gammas,
    noise,
    counts,
    update,
    par,
    watch,
    quantity,
    directions,
    nodes,
    loss,
    rng,
):
    """Move w (D,) by steps of SGD; basis (r, D) is orthonormal."""
    steps, batch, dim, tokens, targets, outputs, tied, first = counts
    r = basis.shape[0]
    root = math.sqrt(dim)
    x, g = np.empty(tokens + targets + outputs), np.empty(tokens)
    inputs, change = np.empty((tokens, dim)), np.empty(dim)
    for n in range(steps):
        size = gammas[min(n, gammas.size - 1)] / (batch * root)
        change[:] = 0.0
        for _ in range(batch):
            for t in range(tokens):
                for i in range(dim):
                    inputs[t, i] = rng.standard_normal()
            for t in range(targets):
                row, column = (t, 0) if tied else (0, t)
                x[tokens + t] = np.dot(inputs[row], basis[column])
            for t in range(tokens):
                for b in range(r):
                    if shift[t, b] != 0.0:
                        inputs[t] += shift[t, b] * basis[b]
                x[t] = np.dot(w, inputs[t]) / root
            for o in range(outputs):
                x[tokens + targets + o] = noise * rng.standard_normal()
            update(x, par, g)
            for t in range(tokens):
                change += size * g[t] * inputs[t]
        w -= change
        length = math.sqrt(np.dot(w, w))
        if not length < math.inf:
            return NONFINITE, n
        w *= root / length
        if watch[SIDE] != 0.0 and (first + n + 1) % watch[EVERY] == 0.0:
            v = np.dot(basis, w) / root
            found = quantity_at(v, shift, counts, par, quantity, directions, nodes, loss)
            if watch[SIDE] * found <= watch[SIDE] * watch[LEVEL]:
                return PASSED, n + 1
    return REACHED, steps


# Points of each of two scrambled Sobol sequences that average the risk.
RISK_POINTS = 4096
OVERLAP = "overlap"


@dataclass(frozen=True)
class SequenceExperiment:
    """A sequence model with every number filled in; directions as in `sequence_kernels`."""

    model: SequenceModel
    # Encodings (tokens, r) of the student along the directions, and b_a (1 + rank, r) in them.
    shift: Array
    vectors: Array
    update: Any
    value: Any
    parameters: Array
    learning_rate: float
    noise: float
    batch_size: int
    dim: int
    # What the learning rate follows; that above is of the first step.
    schedule: Schedule | Tabled | None = None
    # Time at the start.
    begin: float = 0.0

    @property
    def weight_dim(self) -> int:
        """Dimension D of all weights together."""
        return self.dim if self.model.tied else self.dim * self.model.length

    @property
    def time_step(self) -> float:
        """Time of one step."""
        return self.learning_rate / self.weight_dim

    def clock(self, t_max: float) -> Clock:
        """Times of the steps up to `t_max`."""
        if self.schedule is None:
            return Clock(self.time_step, begin=self.begin)
        return self.schedule.clock(1.0 / self.weight_dim, t_max, self.begin)

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return int(sp.prod(self.model.student.shape))

    def counts(self, steps: int, first: int = 0) -> NDArray[np.int64]:
        """Numbers of `kernels.COMMON`, for steps after step `first`."""
        tokens, tied = self.shift.shape[0], int(self.model.tied)
        own = (self.batch_size, self.weight_dim, tokens, self.model.length, self.outputs, tied)
        return np.array([steps, *own, first])

    @property
    def directions(self) -> Array:
        """Alignments e, then m, along the directions (n, r)."""
        if not self.model.tied:
            return np.eye(self.model.length) * math.sqrt(self.model.length)
        rows = [*self.vectors[1:], np.eye(1, self.shift.shape[1])[0]]
        return np.ascontiguousarray(rows)

    def alignment(self, v: Array) -> tuple[Array, Array]:
        """Alignments e (..., rank) and m (...) or (..., L) of coordinates (..., r)."""
        if not self.model.tied:
            return np.zeros((*v.shape[:-1], 0)), v * math.sqrt(self.model.length)
        return v @ self.vectors[1:].T, v[..., 0]

    def coordinates(self, start: Alignment) -> Array:
        """Coordinates v (r,) of a start."""
        e, m = self.model.alignments(start.e, start.m)
        if not self.model.tied:
            return np.ascontiguousarray(m / math.sqrt(self.model.length))
        found, *_ = np.linalg.lstsq(self.vectors, np.concatenate([[m], e]), rcond=None)
        return np.ascontiguousarray(found)


def declare_sequence(
    model: SequenceModel,
    algorithm: SGD,
    dim: int,
    parameters: Mapping[str, Any],
    start: Alignment | None,
    t_start: float | None,
) -> SequenceExperiment:
    """Fill in every symbol; refuse what cannot be simulated."""
    if not isinstance(algorithm, SGD):
        raise BadParameter(f"sequence models are simulated under dmft.SGD, got {algorithm!r}")
    unknown = algorithm.loss not in ("squared", "frobenius")
    if unknown or not algorithm.is_plain or algorithm.trains_readout:
        raise BadParameter(
            'sequence models have loss="squared" or "frobenius", no repeat, no custom update '
            "and no readout"
        )
    refuse(algorithm, "sequence")
    dim = as_count(dim, "dim")
    filler = Filler(parameters, dim)
    rate, schedule, begin = filler.rate(algorithm.learning_rate, start, t_start)
    if schedule is not None and schedule.reads_risk:
        raise BadParameter(
            f"learning_rate = {schedule.expr} depends on the risk, which is not available in "
            "simulated steps of sequence models: pass an expression in sympy.Symbol('t'); "
            "dmft.solve supports both"
        )
    noise = filler.scalar(model.label_noise, "label_noise")
    if noise < 0.0:
        raise BadParameter(f"label_noise = {noise:g} must be non-negative")
    symbols = sorted(model.parameters, key=str)
    values = np.array([filler.symbol(s, "model") for s in symbols])
    update, value = _compiled(model, algorithm.loss, symbols)
    shift, vectors = _directions(model)
    experiment = SequenceExperiment(
        model, shift, vectors, update, value, values, rate, math.sqrt(noise),
        filler.batch(algorithm.batch_size, dim), dim, schedule, begin,
    )  # fmt: skip
    filler.check_all_used()
    if experiment.weight_dim <= shift.shape[1]:
        raise BadParameter(
            f"dim = {dim} is too small for the target and {shift.shape[1] - 1} more directions"
        )
    return experiment


def _compiled(model: SequenceModel, loss: str, symbols: Sequence[sp.Symbol]) -> tuple[Any, Any]:
    """Gradients g_t of the loss, and the loss without noise, of (h, h*, noise)."""
    student, target = list(model.student.outputs), list(model.teacher.outputs)
    # Names that are no keywords of Python, so that no parameter of the model has them.
    h = sp.symbols(f"h_[1:{model.length + 1}]", real=True)
    stars = sp.symbols(f"h^*_[1:{model.length + 1}]", real=True)
    noises = sp.symbols(f"noise_[1:{len(target) + 1}]", real=True)
    if not model.tied:  # one field for all tokens
        assert isinstance(model.student, SequenceNetwork)
        h = h[:1]
        student = [model.student.activation.xreplace({FIELD: h[0]})]
    else:
        student = [y.xreplace(dict(zip(model.student.fields, h, strict=True))) for y in student]
    target = [y.xreplace(dict(zip(model.teacher.fields, stars, strict=True))) for y in target]
    gaps = [f - y for f, y in zip(student, target, strict=True)]
    noisy = [gap - n for gap, n in zip(gaps, noises, strict=True)]
    slopes = [sp.Add(*(n * sp.diff(f, x) for n, f in zip(noisy, student, strict=True))) for x in h]
    if any(y.has(sp.DiracDelta) for y in slopes):
        raise BadParameter(f"student {model.student} jumps: SGD cannot train it")
    total = sp.Add(*(gap**2 for gap in gaps)) / 2
    if loss == "frobenius":
        length = sp.sqrt(sp.Add(*(n**2 for n in noisy)))
        slopes = [y / length for y in slopes]
        total = sp.sqrt(2 * total)
    fields = [*h, *stars, *noises]
    return vector_function(slopes, fields, symbols), vector_function([total], fields, symbols)


def _directions(model: SequenceModel) -> tuple[Array, Array]:
    """Encodings (tokens, r) along orthonormal directions, and w*, b_a (1 + rank, r) in them."""
    if not model.tied:
        return np.zeros((1, model.length)), np.eye(model.length)
    gram = np.array(model.encoding.gram.tolist(), dtype=float)
    rest = gram[1:, 1:] - np.outer(gram[1:, 0], gram[0, 1:])
    values, columns = np.linalg.eigh(rest)
    kept = values > 1e-13 * max(1.0, float(np.max(values, initial=0.0)))
    inside = columns[:, kept] * np.sqrt(values[kept])
    vectors = np.zeros((gram.shape[0], 1 + inside.shape[1]))
    vectors[:, 0], vectors[1:, 1:] = gram[:, 0], inside
    pattern = np.array(model.encoding.pattern.tolist(), dtype=float)
    pattern = pattern.reshape(model.length, model.encoding.rank)
    return np.ascontiguousarray(pattern @ vectors[1:]), vectors


def risk_of(e: SequenceExperiment, v: Array) -> Array:
    """Population loss without noise at coordinates v, by each of two scrambled point sets (2,)."""
    found: Array = mean_loss(v, e.shift, e.counts(0), risk_nodes(e), e.value, e.parameters)
    return found


def risk_nodes(e: SequenceExperiment) -> Array:
    """Normal points (2, RISK_POINTS, n) that average the risk."""
    return _risk_nodes(e.model.length + e.shift.shape[0])


@cache
def _risk_nodes(dim: int) -> Array:
    """Two scrambled Sobol sets of normal points, (2, RISK_POINTS, dim)."""
    from scipy.stats import qmc  # slow to import

    streams = [np.random.default_rng(seed) for seed in (0, 1)]
    sets = [qmc.Sobol(dim, scramble=True, seed=s).random(RISK_POINTS) for s in streams]
    # Scrambled points may be 0, which has no normal value.
    nodes: Array = ndtri(np.clip(sets, 1e-16, 1 - 1e-16))
    return nodes


def watch_of_alignments(
    e: SequenceExperiment, first_passage: FirstPassage | None, events: Event | Sequence[Event]
) -> tuple[Watch | None, bool]:
    """What runs are watched for, a function of all alignments and the risk; whether it reads that.

    The names are those of `dmft.solve`: ``e`` and ``m`` (``m[0]`` untied), ``overlap`` for the
    largest |m|, ``risk``. `BadParameter` refuses several events, and quantities that no step knows.
    """
    event, every = one_event(events), 1
    if first_passage is not None:
        if first_passage.observable != OVERLAP:
            raise BadParameter(
                'first_passage= of sequence models is an "overlap", the largest |m|; for the risk '
                f'pass events=dmft.Event("risk", {first_passage.level:g}, -1)'
            )
        event = Event(OVERLAP, first_passage.level, 1, first_passage.stop)
        every = first_passage.every
    if event is None or event.quantity == TIME:
        return None if event is None else Watch(event, None), False
    shapes = alignment_shapes(e)
    expr = watched_expression(event, shapes, (RISK, OVERLAP))
    order = [
        sp.Symbol(entry_name(n, i), real=True)
        for n, shape in shapes.items()
        for i in np.ndindex(shape)
    ]
    largest = sp.Max(*(sp.Abs(s) for s in order if s.name[0] == "m"))
    expr = expr.xreplace({sp.Symbol(OVERLAP, real=True): largest})
    risk = sp.Symbol(RISK, real=True)
    value = vector_function([expr], [*order, risk])
    return Watch(event, value, every), risk in expr.free_symbols


def alignment_shapes(e: SequenceExperiment) -> dict[str, tuple[int, ...]]:
    """Shapes of the alignments that a model has, numbers where there is one of them."""
    rank = e.model.encoding.rank
    shapes: dict[str, tuple[int, ...]] = {"e": () if rank == 1 else (rank,)} if rank else {}
    return shapes | {"m": () if e.model.tied else (e.model.length,)}

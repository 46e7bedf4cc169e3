"""Gradient descent on fixed samples in R^d over seeds: the witness of the two-time equations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import sympy as sp
from numba import types

from dmft.arrays import Array
from dmft.compiled import njit
from dmft.emit import scalar_function
from dmft.errors import BadParameter
from dmft.model import (
    GaussianMixture,
    Model,
    Overlaps,
    as_count,
    check_isotropic,
    check_labels,
    check_unflipped,
)
from dmft.model.algorithm import OF_A_STEP, GradientDescent, at_each_step
from dmft.model.loss import LABEL, PREDICTION
from dmft.model.model import FLIPS_AS_CLUSTERS
from dmft.model.overlaps import check_start
from dmft.names import VERSION, Status
from dmft.progress import ProgressOption
from dmft.simulation.clock import Clock
from dmft.simulation.declaration import Filler
from dmft.simulation.ensemble import Ensemble, SeedRun, averaged, ends_of, passages
from dmft.simulation.jobs import run_seeds
from dmft.simulation.plan import random_weights, weights_with_overlaps
from dmft.simulation.risk import FUNCTION, VECTOR
from dmft.simulation.risk_arguments import Activation
from dmft.simulation.watched import Lookout, Watch, Watching, watch_of_python
from dmft.solvers.events import Event
from dmft.solvers.jobs import Job
from dmft.solvers.two_time.run import AXES
from dmft.special.sampling import as_seeds, random_stream

START_STREAM, SAMPLE_STREAM = 0, 3
ROWS = types.float64[:, ::1]


@njit(types.void(FUNCTION, ROWS, VECTOR, VECTOR), cache=True, nogil=True, error_model="numpy")
def apply(function, rows, par, out):  # type: ignore[no-untyped-def]
    """Value at each column; rows behind the first one go to the beginning of `par`."""
    values = par.copy()
    for i in range(out.size):
        for r in range(1, rows.shape[0]):
            values[r - 1] = rows[r, i]
        out[i] = function(rows[0, i], values)


def evaluate(function: Any, rows: Array, par: Array) -> Array:
    """Function of one or several fields (rows) at all samples."""
    out = np.empty(rows.shape[1])
    apply(function, np.ascontiguousarray(rows), par, out)
    return out


@dataclass(frozen=True)
class DescentExperiment:
    """Gradient descent with every number filled in."""

    model: Model
    algorithm: GradientDescent
    student: Activation
    # One function of the teacher's fields for each cluster, or the teacher's own.
    teachers: tuple[Activation, ...]
    readout: Array
    teacher_readout: Array
    loss: Any
    loss_slope: Any
    numbers: dict[str, float]
    schedules: dict[str, Array]  # what follows the time, at each step
    expressions: dict[str, sp.Expr]  # and as it was given
    dim: int
    samples: int
    steps: int
    start: Overlaps | None

    @property
    def p(self) -> int:
        """Student width."""
        return int(self.readout.size)

    @property
    def k(self) -> int:
        """Number of teacher fields."""
        return self.teachers[0].fields or int(self.teacher_readout.size)

    @property
    def teacher_overlaps(self) -> Array:
        """P (k, k)."""
        return np.eye(self.k) if self.start is None else self.start.P

    def at(self, t: int) -> dict[str, float]:
        """Numbers of the step that begins at t."""
        return self.numbers | {name: float(y[t]) for name, y in self.schedules.items()}

    def draw(self, W_star: Array, stream: np.random.Generator) -> tuple[Array, Array]:
        """Inputs (n, d) and labels (n,)."""
        n, root = self.samples, np.sqrt(self.dim)
        X, noise = stream.standard_normal((n, self.dim)), stream.standard_normal(n)
        cluster = np.zeros(n, dtype=np.int64)
        mixture = self.model.clusters
        if mixture is not None:
            cluster = stream.choice(len(mixture.weights), size=n, p=mixture.weights)
            X += (mixture.means @ W_star / root)[cluster]
        clean, star = np.zeros(n), (X @ W_star.T).T / root
        if len(self.teachers) == 1:
            clean[:] = self.labels(self.teachers[0], star)
        else:
            for number, teacher in enumerate(self.teachers):
                clean[cluster == number] = self.labels(teacher, star[:, cluster == number])
        return X, clean + np.sqrt(self.numbers["label_noise"]) * noise

    def labels(self, teacher: Activation, star: Array) -> Array:
        """Labels of samples with teacher fields (k, n)."""
        if teacher.fields:
            return evaluate(teacher.value, star, teacher.parameters)
        values = [evaluate(teacher.value, row[None], teacher.parameters) for row in star]
        return np.asarray(self.teacher_readout @ np.stack(values) / self.k)


@dataclass(frozen=True, eq=False, repr=False)
class DescentEnsemble(Ensemble):
    """Finite-dimensional runs of gradient descent over seeds.

    The values are M (T+1, p, k), Q (T+1, p, p), Q2 (T+1, T+1, p, p), corr (T, T, p, p), readout
    (T+1, p) and train_loss (T,), as in `DescentRun`.

    Attributes
    ----------
    t : (T,)
        Saved times, steps 0..T.
    mean, std, stderr : Values
        Mean, standard deviation and standard error of the mean over the seeds.
    seeds : tuple of int
    seed_status : tuple of Status
        How each run ended; failed runs are excluded from the means.
    status, message
        Summary of all runs.
    dim : int
        Input dimension d.
    runs : Values or None
        Values of the single runs, (S, ...), if they were kept.
    first_passage : PassageTimes or None
        First times of the event, if the simulation had `events`.
    ends : Values or None
        Final state of each run, if an event ends the runs.
    statistics, parameters, provenance
        As in `Trajectory`.
    constants : mapping of str to arrays
        P (k, k), and readouts that are not trained.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
    >>> descent = dmft.GradientDescent(0.2, samples_per_dim=2)
    >>> start = dmft.Overlaps([[1.0]], [[0.0]])
    >>> runs = dmft.simulate(dmft.Model(line, line), descent, 100, 3, 4, start)
    >>> runs.mean["corr"].shape, runs.stderr.M.shape, str(runs.status)
    ((3, 3, 1, 1), (4, 1, 1), 'ok')
    """

    KIND = "dmft descent ensemble"
    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = AXES
    STATE: ClassVar[tuple[str, ...]] = ("Q", "M", "readout")

    def samples(self, dim: int | None = None) -> Array:
        """Samples used up to each time: n after the first step, or n per step for fresh batches."""
        size = self.dim if dim is None else dim
        used = float(self.parameters["samples_per_dim"]) * size
        return used * (self.t if self.provenance["fresh"] else np.minimum(self.t, 1.0))


def simulate_descent(
    model: Model,
    algorithm: GradientDescent,
    dim: int,
    t_max: int,
    seeds: int | Sequence[int],
    start: Overlaps | None = None,
    *,
    events: Event | Sequence[Event] = (),
    threads: int | None = None,
    progress: ProgressOption = None,
    **parameters: Any,
) -> DescentEnsemble:
    r"""Run gradient descent on n = round(samples_per_dim * dim) samples in R^d, seed by seed.

    Equation    W <- W - eta (sum_mu g^mu x^mu / sqrt(d) + ridge W) + momentum (W - W_before)
                + sqrt(2 eta temperature) N(0, 1), g_j = (a_j / p) sigma'(h_j) l'(f, y); then on the
                sphere W_j <- sqrt(d) W_j / |W_j|
    Shapes      see `DescentEnsemble`; corr[t, s] = sum_mu g^t g^s / d
    Scaling     t counts steps; parameters of a step may be expressions in ``sympy.Symbol("t")``
    Source      theory/batch_reuse 0, A.4
    """
    numbers = as_seeds(seeds)
    experiment = _declare(model, algorithm, dim, t_max, start, parameters)
    watching = Watching(_watch(experiment, events), Clock(1.0), experiment.steps)
    run = partial(_run, experiment, watching)
    results = run_seeds(run, numbers, experiment.steps, threads, progress)
    return _summary(experiment, watching, numbers, results)


def _watch(e: DescentExperiment, events: Event | Sequence[Event]) -> Watch | None:
    """What runs are watched for: overlaps, readouts and the training loss."""
    shapes = {"Q": (e.p, e.p), "M": (e.p, e.k), "readout": (e.p,)}
    return watch_of_python(events, shapes, ("train_loss",), {"P": e.teacher_overlaps})


def _declare(
    model: Model,
    algorithm: GradientDescent,
    dim: int,
    t_max: int,
    start: Overlaps | None,
    parameters: dict[str, Any],
) -> DescentExperiment:
    if start is not None:
        check_start(start, model, algorithm.constraint)
    check_isotropic(model, "repeated data are simulated")
    check_labels(model, "repeated data are simulated")
    check_unflipped(model, "repeated data are simulated", FLIPS_AS_CLUSTERS)
    if model.clusters is not None and not model.clusters.isotropic:
        raise BadParameter(
            f"repeated data are simulated for clusters of unit variance, got {model.clusters}"
        )
    steps = as_count(t_max, "t_max (the number of steps)")
    schedules = {
        name: at_each_step(name, parameters[name], steps)
        for name in OF_A_STEP
        if isinstance(parameters.get(name), sp.Expr) and parameters[name].free_symbols
    }
    filler = Filler({**parameters, **{n: float(y[0]) for n, y in schedules.items()}}, dim)
    declared = {name: getattr(algorithm, name) for name in (*OF_A_STEP, "samples_per_dim")}
    declared["label_noise"] = model.label_noise
    filler.known |= set(declared)
    numbers = {name: filler.scalar(value, name) for name, value in declared.items()}
    dim = as_count(dim, "dim")
    readout = filler.readout(model.student, "student", None if start is None else start.p)
    if start is not None and start.readout is not None:
        readout = start.readout.copy()
    loss = algorithm.loss_expr
    clusters = model.teacher
    if isinstance(clusters, GaussianMixture):
        teachers = tuple(
            filler.function(y, clusters.fields, "label") for y in clusters.labels or ()
        )
        teacher_readout = np.ones(len(clusters.fields))
    else:
        teachers = (filler.teacher(model.teacher),)
        width = None if start is None else start.k
        teacher_readout = filler.readout(model.teacher, "teacher", width)
    experiment = DescentExperiment(
        model, algorithm, filler.activation(model.student, "student"),
        teachers, readout, teacher_readout,
        scalar_function(loss, PREDICTION, [LABEL]),
        scalar_function(sp.diff(loss, PREDICTION), PREDICTION, [LABEL]),
        numbers, schedules, {n: parameters[n] for n in schedules}, dim,
        round(numbers["samples_per_dim"] * dim), steps, start,
    )  # fmt: skip
    filler.check_all_used()
    if experiment.samples < 1:
        raise BadParameter(
            f"samples_per_dim * dim = {experiment.samples} samples: there are no data"
        )
    return experiment


def _run(e: DescentExperiment, watching: Watching, seed: int, job: Job) -> SeedRun:
    """What one seed did, from the definition; steps that were not taken are not-a-numbers."""
    draw, stream = random_stream(seed, START_STREAM), random_stream(seed, SAMPLE_STREAM)
    if e.start is None:
        W, W_star = random_weights(e.p, e.k, e.dim, e.algorithm.on_sphere, draw)
    else:
        W, W_star = weights_with_overlaps(e.start, e.dim, draw)
    T, p, n = e.steps, e.p, e.samples
    X = np.empty((0, e.dim))
    weights = np.full((T + 1, p, e.dim), np.nan)
    readout, train = np.full((T + 1, p), np.nan), np.full(T + 1, np.nan)
    gradients = np.full((T, p, n), np.nan)
    before, y = W.copy(), np.empty(0)
    masks = _masks(e, stream)
    readout[0] = e.readout
    lookout, status = Lookout(watching), Status.OK

    def state() -> dict[str, Any]:
        """Of the step t that the loop is at."""
        overlaps = {"Q": W @ W.T / e.dim, "M": W @ W_star.T / e.dim}
        return {**overlaps, "readout": readout[t].copy(), "train_loss": train[t : t + 1]}

    for t in range(T):
        if job.cancelled():
            status = Status.INTERRUPTED
            break
        weights[t], x = W, e.at(t)
        if t == 0 or e.algorithm.batch == "fresh":
            X, y = e.draw(W_star, stream)
        h = np.ascontiguousarray((X @ W.T).T / np.sqrt(e.dim))
        par = e.student.parameters
        values = np.stack([evaluate(e.student.value, h[j : j + 1], par) for j in range(p)])
        slopes = np.stack([evaluate(e.student.slope, h[j : j + 1], par) for j in range(p)])
        f = readout[t] @ values / p
        both = np.stack([f, y])
        train[t] = evaluate(e.loss, both, np.zeros(1)).mean()
        if lookout.ends(t, state):
            status = Status.EVENT
            break
        pull = evaluate(e.loss_slope, both, np.zeros(1))
        pull = pull * masks(t)
        g = (readout[t][:, None] / p) * slopes * pull
        gradients[t] = g
        step = x["learning_rate"] * (g @ X / np.sqrt(e.dim) + x["ridge"] * W)
        moved = x["momentum"] * (W - before) if t else 0.0
        before, W = W, W - step + moved
        if x["temperature"]:
            heat = np.sqrt(2 * x["learning_rate"] * x["temperature"])
            W = W + heat * stream.standard_normal(W.shape)
        if e.algorithm.on_sphere:
            W = W * np.sqrt(e.dim) / np.linalg.norm(W, axis=1, keepdims=True)
        readout[t + 1] = readout[t] - x["readout_rate"] * (values @ pull) / n
        job.add(1)
    else:
        t, weights[T] = T, W
        if lookout.ends(T, state):
            status = Status.EVENT
    if status is not Status.INTERRUPTED and not np.isfinite(weights[: t + 1]).all():
        status = Status.NONFINITE
    flat = gradients.reshape(T * p, n)
    corr = (flat @ flat.T / e.dim).reshape(T, p, T, p).transpose(0, 2, 1, 3)
    if e.algorithm.batch == "fresh":
        corr = corr * np.eye(T)[:, :, None, None]
    rows = weights.reshape((T + 1) * p, e.dim)
    Q2 = (rows @ rows.T / e.dim).reshape(T + 1, p, T + 1, p).transpose(0, 2, 1, 3)
    found = {
        "M": weights @ W_star.T / e.dim,
        "Q": Q2[np.arange(T + 1), np.arange(T + 1)],
        "Q2": Q2,
        "corr": corr,
        "readout": readout,
        "train_loss": train[:T],
    }
    end = {name: found[name][t] for name in DescentEnsemble.STATE}
    return SeedRun(found, status, t, lookout.passage, np.arange(T + 1.0), None, end)


def _masks(e: DescentExperiment, stream: np.random.Generator) -> Any:
    """Weight of each sample in step t."""
    n, b = e.samples, e.algorithm.batch_fraction
    parts = round(1.0 / b)
    if e.algorithm.batch == "bernoulli":
        return lambda t: (stream.random(n) < b) / b
    if e.algorithm.batch == "replacement":  # round(b n) draws, as the algorithm is
        drawn = round(b * n)
        return lambda t: np.bincount(stream.integers(n, size=drawn), minlength=n) / b
    if e.algorithm.batch == "reshuffle":
        slots = np.empty(n, dtype=np.int64)

        def slice_of(t: int) -> Array:
            if t % parts == 0:
                slots[stream.permutation(n)] = np.arange(n) * parts // n
            return np.asarray((slots == t % parts) * float(parts))

        return slice_of
    return lambda t: 1.0


def _summary(
    e: DescentExperiment, watching: Watching, seeds: tuple[int, ...], results: list[SeedRun]
) -> DescentEnsemble:
    runs = {name: np.stack([r.values[name] for r in results]) for name in results[0].values}
    return DescentEnsemble(
        t=np.arange(e.steps + 1.0),
        **averaged(runs, seeds, tuple(r.status for r in results)),
        dim=e.dim,
        first_passage=passages(results, watching.clock) if watching.watch else None,
        ends=ends_of(results, watching.stops),
        provenance={
            "version": VERSION, "model": str(e.model), "algorithm": str(e.algorithm),
            "samples": e.samples, "time_unit": "steps", "fresh": e.algorithm.batch == "fresh",
            "start": "random" if e.start is None else "given overlaps",
            "event": watching.event_name,
            **{f"{name}_schedule": str(y) for name, y in e.expressions.items()},
        },
        parameters=dict(e.numbers),
        constants={"P": e.teacher_overlaps},
    )  # fmt: skip

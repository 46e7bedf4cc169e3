"""Arrays and compiled steps of a process in two times, as its generated code sees them.

The recursions of a descent (`dmft.equations.two_time.descent_process`) are compiled from their
symbols; what is here is where their arrays live and what the steps are called. Kernels are stored
by (time, neuron) twice, so that each is a matrix as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.compiled.machine_code import native_of
from dmft.record import Short
from dmft.solvers.two_time.descent_sampled import PARTNERS, mean_losses


class Arrays(NamedTuple):
    """Everything that the steps read and write; T steps, p students, k rows of the teacher.

    M_at (T + 1, p, k), readout_at (T + 1, p), P_inverse (k, k); C_theta, R_theta, Q_at, C_r (T + 1,
    p, T + 1, p); C_l, R_l (T, p, T, p); g_star (T, p, k), mean_pull (T, p). Averages over the
    samples at the time of the step: gradient_pairs <g_j g_l^s> and slopes <dg_j / dr_l^s> (p, T,
    p), gradient_stars <g_j h*_r> (p, k), pulls (p,) of the gradients of the readouts. What the
    field at a time takes of h*, of r at that time and of earlier gradients: to_star (T, p, k),
    to_driving (T, p, p), to_past (T, p, T, p). Of the step that is taken, before its rows are put
    back on the sphere: M_free (p, k), R_free and C_free (p, T + 1, p), G_free (p, p), and the
    overlaps Q_free (T + 1, p, p), zero where rows are free.
    """

    M_at: Array
    readout_at: Array
    P_inverse: Array
    C_theta: Array
    R_theta: Array
    Q_at: Array
    C_r: Array
    C_l: Array
    R_l: Array
    g_star: Array
    mean_pull: Array
    gradient_pairs: Array
    slopes: Array
    gradient_stars: Array
    pulls: Array
    to_star: Array
    to_driving: Array
    to_past: Array
    M_free: Array
    R_free: Array
    C_free: Array
    G_free: Array
    Q_free: Array

    @classmethod
    def zeros(cls, steps: int, p: int, k: int) -> Arrays:
        """Arrays of a descent before its start."""
        T, big = steps, steps + 1
        shapes = {
            "M_at": (big, p, k), "readout_at": (big, p), "P_inverse": (k, k),
            **dict.fromkeys(("C_theta", "R_theta", "Q_at", "C_r"), (big, p, big, p)),
            **dict.fromkeys(("C_l", "R_l", "to_past"), (T, p, T, p)),
            "g_star": (T, p, k), "mean_pull": (T, p),
            "gradient_pairs": (p, T, p), "slopes": (p, T, p),
            "gradient_stars": (p, k), "pulls": (p,),
            "to_star": (T, p, k), "to_driving": (T, p, p),
            "M_free": (p, k), "R_free": (p, big, p), "C_free": (p, big, p), "G_free": (p, p),
            "Q_free": (big, p, p),
        }  # fmt: skip
        return cls(**{name: np.zeros(shape) for name, shape in shapes.items()})


# Of each array its number of axes.
AXES = {name: array.ndim for name, array in Arrays.zeros(1, 1, 1)._asdict().items()}


@dataclass(frozen=True, eq=False)
class Step:
    """A compiled step: it is called with t, the parameters, and the arrays of these names."""

    function: Any
    names: tuple[str, ...]

    def __call__(self, t: int, par: Array, arrays: Arrays) -> None:
        """Take the step."""
        function = native_of(self.function) or self.function
        function(t, par, *(getattr(arrays, name) for name in self.names))


@dataclass(frozen=True, eq=False)
class Process:
    """Compiled steps of a process; each fills arrays from those that are known at its time t.

    Attributes
    ----------
    begin : C_theta at (0, 0) from Q there
    fields : to_star, to_driving and to_past at t
    averages : C_l, g_star and mean_pull at t, from averages over the samples
    respond : R_l at t from their slopes, then R_theta at t + 1 (R_free where rows are put back)
    advance : M, C_theta and the readout at t + 1, and Q_free on the sphere
    overlaps : Q at (t, s <= t)
    drive : C_r, the covariance of the driving process, at (t, s <= t)
    answer : R_theta at t + 1, where the step put rows back on the sphere; else None
    parameters : tuple of str
        Order of ``par``.
    source : str
        Text of the compiled functions.
    """

    begin: Step
    fields: Step
    averages: Step
    respond: Step
    advance: Step
    overlaps: Step
    drive: Step
    parameters: tuple[str, ...]
    source: str = field(repr=False, default="")
    answer: Step | None = None

    def par(self, values: Mapping[str, float]) -> Array:
        """Parameters as the steps take them."""
        return np.array([float(values[name]) for name in self.parameters])


@dataclass(frozen=True, eq=False, repr=False)
class DescentProblem(Short):
    """A descent without symbols: what `dmft.build` makes of its equations, its `origin`.

    `labels` and `sample` have the signatures in `descent_sampled`; `scalars` are those
    of the `parameters` that a sample takes, in their order.
    """

    labels: Any
    sample: Any
    process: Process
    parameters: tuple[str, ...]
    scalars: tuple[str, ...]
    source: str = field(repr=False)
    time_unit: str
    origin: Any = field(repr=False)
    kind: str = field(default="two-time", init=False)

    def _in_words(self) -> str:
        return f"descent: parameters {', '.join(self.parameters)}"


@dataclass(frozen=True)
class DescentTask:
    """Numbers of one descent.

    `labels` and `sample` have the signatures of `descent_sampled`. Fields are at times
    0..steps - 1, overlaps at 0..steps; `Q` (p, p), `M` (p, k), `P` (k, k), `readout`,
    `teacher_readout` and `scalars` (the variance of the label noise first) are those of the start.
    The compiled steps `process` take row t of `par` (steps + 1, any), which follows the `schedules`
    (texts). `trained`: whether `sample` also gives the gradients of the readouts; `fraction`:
    share of the samples in a batch; `means` (clusters, k): means of the clusters in the teacher's
    rows, (0, 0) without clusters.

    `bend`, a function like `sample` or None, writes dg_j/dh_l in row p j + l: the response is then
    that of each sample's path. `slopes` is the same without what kinks add: with it the response is
    measured after the sweep. `knots` are where the slope of an activation jumps whose pieces are
    straight; none for smooth ones.
    """

    labels: Any
    sample: Any
    steps: int
    Q: Array
    M: Array
    P: Array
    readout: Array
    teacher_readout: Array
    scalars: Array
    process: Process
    par: Array
    trained: bool = False
    fraction: float = 1.0
    means: Array = field(default_factory=lambda: np.empty((0, 0)))
    bend: Any = None
    slopes: Any = None
    knots: Array = field(default_factory=lambda: np.empty(0))
    schedules: Mapping[str, str] = field(default_factory=dict)

    @property
    def p(self) -> int:
        """Student width."""
        return int(self.M.shape[0])

    @property
    def k(self) -> int:
        """Teacher width."""
        return int(self.M.shape[1])

    @property
    def dimension(self) -> int:
        """Standard normals that a sample needs, label noise included."""
        return self.k + self.p * self.steps + self.noisy

    @cached_property
    def inverse_P(self) -> Array:
        """Inverse of P, where P has one."""
        return np.asarray(np.linalg.pinv(self.P))

    @property
    def near(self) -> int:
        """Numbers of a sample that are kept: gradients, and slopes of a pathwise response."""
        return self.steps * self.p * (1 if self.bend is None else 1 + self.p)

    @property
    def kept(self) -> int:
        """The same, and gradients of the partners at two times behind them."""
        return self.near + 2 * (PARTNERS - 1) * self.p

    @property
    def noisy(self) -> bool:
        """Whether labels have noise."""
        return bool(self.scalars[0] > 0.0)


@dataclass(frozen=True)
class Nodes:
    """Points of the samples: normal (k + p T, S), or one row more where labels are noisy.

    `mask` is (T, S) or (0, 0), `cluster` (S,) or (0,). With `scrambled`, coordinates are
    independent of each other (cubature nodes are not).
    """

    normal: Array
    mask: Array
    cluster: NDArray[np.int64]
    scrambled: bool = True


def teacher_fields(task: DescentTask, nodes: Nodes) -> Array:
    """Fields h* of the samples (k, S); with clusters one more row, the number of each."""
    star = psd_root(task.P) @ nodes.normal[: task.k]
    if nodes.cluster.size == 0:
        return np.ascontiguousarray(star)
    star += (task.means @ task.P).T[:, nodes.cluster]
    return np.concatenate([star, nodes.cluster[None].astype(np.float64)])


def labels_of(task: DescentTask, star: Array, noise: Array | None) -> Array:
    """Labels of samples at their teacher's fields, without noise where there is none."""
    size = star.shape[1]
    label = np.empty(size)
    par = np.concatenate([task.readout, task.teacher_readout, task.scalars])
    task.labels(task.p, star, np.zeros(size) if noise is None else noise, par, label)
    return label


def fresh_losses(task: DescentTask, nodes: Nodes, states: Iterable[tuple[Array, ...]]) -> Array:
    """Mean losses without label noise over samples that were never learned.

    `states` are overlaps and readouts (Q, M, a), one after the other.
    """
    p, k = task.p, task.k
    star = teacher_fields(task, nodes)
    label = labels_of(task, star, None)
    rows = np.concatenate([star[:k], nodes.normal[k : k + p]])
    weights, pars = [], []
    for Q, M, readout in states:
        pull = M @ task.inverse_P
        weights.append(np.hstack([pull, psd_root(Q - pull @ M.T)]))
        pars.append(np.concatenate([readout, task.teacher_readout, task.scalars]))
    return np.asarray(
        mean_losses(task.sample, task.trained, np.array(weights), rows, star, label, np.array(pars))
    )


def psd_root(P: Array) -> Array:
    """A root of P, singular ones included."""
    values, vectors = np.linalg.eigh(P)
    result: Array = vectors * np.sqrt(np.maximum(values, 0.0))
    return result

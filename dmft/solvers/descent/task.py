"""Numbers of a descent, and the fields of its samples at the start and after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.solvers.descent.process import Process
from dmft.solvers.descent.sampled import PARTNERS, mean_losses

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DescentTask:
    """Numbers of one descent.

    Attributes
    ----------
    labels, sample : compiled functions of the signatures in `dmft.solvers.descent.sampled`
    steps : int
        T; fields are at times 0..T-1, overlaps at 0..T.
    Q, M, P : (p, p), (p, k), (k, k)
        Overlaps at the start.
    readout, teacher_readout, scalars : vectors of ``par``
        The first scalar is the variance of the label noise.
    process : Process
        Compiled steps of the overlaps and kernels.
    par : (T + 1, any)
        Parameters that they take at each time.
    trained : bool
        Whether `sample` also gives the gradients of the readouts.
    fraction : float
        Share of the samples in the batch of a step.
    means : (clusters, k), or (0, 0) where inputs have mean zero
        The mean of a cluster in the teacher's rows.
    bend : compiled function of the signature of `sample`, or None
        Writes dg_j/dh_l in row p j + l: the response is then that of each sample's path.
    slopes : compiled function like `bend`, or None
        Without what kinks add: the response is measured with it after the sweep.
    knots : (any,)
        Where the slope of an activation jumps whose pieces are straight; none for smooth ones.
    schedules : mapping of str to str
        What `par` follows over time, in words.
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
    """Points of the samples.

    Attributes
    ----------
    normal : (k + p T, S), or one row more where labels are noisy
    mask : (T, S) or (0, 0)
    cluster : (S,) or (0,)
    scrambled : bool
        Whether coordinates are independent of each other (cubature nodes are not).
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

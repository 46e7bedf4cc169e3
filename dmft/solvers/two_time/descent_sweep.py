r"""The causal sweep of a process in two times: one pass over time, no iteration.

What is computed at each step is compiled from the equations (`descent_process`). What
is here is how: C_theta as a matrix over (time, neuron), earlier times first, has the root L, and

Equation    r = L z, z standard normal; E[dg/dr] L = E[g z^T] (Stein: kinks need no derivative)
Source      theory/batch_reuse A.1, C
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.linalg.lapack import dtrtrs

from dmft.arrays import Array
from dmft.names import Status
from dmft.solvers.checkpoint import Stepper, march
from dmft.solvers.two_time.descent_process import (
    Arrays,
    DescentTask,
    Nodes,
    labels_of,
    teacher_fields,
)
from dmft.solvers.two_time.descent_sampled import BLOCK, PARTNERS, advance, respond


@dataclass(frozen=True)
class Samples:
    """Samples with their points, and what they have done so far.

    `normal` (T p, S) of the driving process, `star` (k, S) and `label` (S,) of the teacher, `mask`
    (T, S) or (0, 0) weights in each step, `past` (`DescentTask.kept`, S); each history meets the
    latest innovations of `partners`.
    """

    task: DescentTask
    normal: Array
    star: Array
    label: Array
    mask: Array
    past: Array
    partners: int
    pool: Executor
    threads: int

    @classmethod
    def of(
        cls, task: DescentTask, nodes: Nodes, past: Array, pool: Executor, threads: int
    ) -> Samples:
        """Samples at these nodes."""
        star = teacher_fields(task, nodes)
        end = task.k + task.p * task.steps
        noise = nodes.normal[end] if task.noisy else None
        label = labels_of(task, star, noise)
        normal = np.ascontiguousarray(nodes.normal[task.k : end])
        partners = min(PARTNERS, label.size) if nodes.scrambled else 1
        return cls(task, normal, star, label, nodes.mask, past, partners, pool, threads)

    def averages(self, t: int, readout: Array, weights: tuple[Array, Array, Array]) -> Array:
        """Averages at time t, rows as `dmft.solvers.two_time.descent_sampled.advance` has them.

        `weights` are those of the fields at t (`Sweep.field_weights`).
        """
        task, rows = self.task, (t + 1) * self.task.p
        extra = 1 + (task.p if task.trained else 0)
        sums = np.zeros((self.blocks, task.p + extra, 2 * rows + task.k))
        par = self._par(readout)

        def work(first: int, last: int) -> None:
            advance(
                task.sample, t, first, last, self.partners, task.near, self.normal, self.star,
                self.label, self._mask(t), par, self.past, *weights, sums,
            )  # fmt: skip

        return self._over_blocks(work, sums)

    def slopes(
        self, t: int, bend: Any, kept: int, readout: Array, weights: tuple[Array, Array, Array],
        answers: Arrays,
    ) -> Array:  # fmt: skip
        """E[dg^t / dr^s] (p, (t + 1) p) along the path of each sample, by the slopes `bend`.

        Slopes stand in rows of `past` from `kept` on. `answers` holds what fields take of earlier
        gradients in the derivative, which may be another one than in `weights`.
        """
        p, rows = self.task.p, (t + 1) * self.task.p
        sums = np.zeros((self.blocks, p, rows))
        par = self._par(readout)
        to_past = np.ascontiguousarray(answers.to_past[: t + 1, :, : t + 1]).reshape(rows, rows)

        def work(first: int, last: int) -> None:
            respond(
                bend, t, first, last, kept, self.normal, self.star, self.label,
                self._mask(t), par, self.past, *weights, to_past, sums,
            )  # fmt: skip

        by_fields = self._over_blocks(work, sums).reshape(p, t + 1, p)
        by_driving = np.einsum("jsm,sml->jsl", by_fields, answers.to_driving[: t + 1])
        return np.asarray(by_driving.reshape(p, rows))

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.star.shape[1] // BLOCK)

    def _mask(self, t: int) -> Array:
        return self.mask[t] if self.mask.size else np.empty(0)

    def _par(self, readout: Array) -> Array:
        """Parameters of the sample."""
        return np.concatenate([readout, self.task.teacher_readout, self.task.scalars])

    def _over_blocks(self, work: Callable[[int, int], None], sums: Array) -> Array:
        """Do all blocks and average them in their order."""
        if self.threads == 1:
            work(0, self.blocks)
        else:
            cuts = np.linspace(0, self.blocks, self.threads + 1).astype(int)
            list(self.pool.map(work, cuts[:-1], cuts[1:]))
        return np.asarray(sums.sum(axis=0) / self.star.shape[1])


# Added to the diagonal of what a new time adds to C_theta, relative to its trace: 100 times less
# changes nothing, and linear students at long times are singular without it.
JITTER = 1e-12
# The same relative to the squared lengths: what rounding leaves of students that the teacher spans.
ROUNDING = 1e-15
# Students of no length move as they are: a root of this is far below what they become.
LEAST = 1e-40
# Mean squared length of a student, in units of d, beyond which a descent counts as diverged.
LARGEST_LENGTH = 1e8
# What rounding and averages over finite samples may take below zero, relative to squared lengths.
PIVOT_BAND = 1e-9
# What a checkpoint keeps of the steps that are done: arrays, and numbers of a sweep.
KERNELS = (
    "M_at", "readout_at", "C_theta", "R_theta", "C_l", "R_l", "g_star", "mean_pull", "Q_free",
)  # fmt: skip
SCALARS = ("train_loss", "root", "done", "lowest")


@dataclass
class Sweep(Stepper):
    """Overlaps and kernels of one set of nodes, filled step by step; `done` steps are complete.

    `root` is L (T + 1) p square over (time, neuron), `lowest` the least pivot of C_r relative to
    its trace; the next steps average over `samples`.
    """

    task: DescentTask
    arrays: Arrays
    train_loss: Array
    root: Array
    done: int = 0
    status: Status = Status.OK
    message: str = ""
    lowest: float = field(default=math.inf)
    samples: Samples | None = None

    @property
    def M(self) -> Array:
        """Overlaps (T + 1, p, k) with the teacher."""
        return self.arrays.M_at

    @property
    def readout(self) -> Array:
        """Readouts (T + 1, p)."""
        return self.arrays.readout_at

    def take(self, step: Callable[..., None], t: int) -> None:
        """Do one compiled step at time t."""
        step(t, self.task.par[t], self.arrays)

    def answer(self, t: int, arrays: Arrays) -> None:
        """Responses of a step at time t that has its lengths, from slopes in other arrays."""
        process = self.task.process
        process.respond(t, self.task.par[t], arrays)
        if process.answer is not None:
            process.answer(t, self.task.par[t], arrays)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.done >= self.task.steps

    def step(self) -> None:
        """Average over the samples at the next time, and close the equations."""
        task, samples, t = self.task, self.samples, self.done
        assert samples is not None
        self.take(task.process.fields, t)
        state = (self.readout[t], self.field_weights(t))
        means, slopes = samples.averages(t, *state), None
        if task.bend is not None:
            kept = task.steps * task.p
            slopes = samples.slopes(t, task.bend, kept, *state, self.arrays)
        if not np.all(np.isfinite(means)):
            self.status = Status.NONFINITE
            self.message = f"averages over the samples are not finite at step {t}"
            return
        with np.errstate(all="ignore"):  # what overflows is told by the status
            _close(self, t, means, slopes)
        if self.status == Status.OK:  # else what this step led to is no state
            self.done += 1

    def where(self, status: Status) -> str:
        """The message of a sweep that was stopped here."""
        return f"interrupted after {self.done} of {self.task.steps} steps"

    def stored(self) -> dict[str, Any]:
        """Kernels of the steps that are done; gradients are written already."""
        arrays = {name: getattr(self.arrays, name) for name in KERNELS}
        return arrays | {name: getattr(self, name) for name in SCALARS}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take over what `stored` gave; fields and overlaps follow from it."""
        for name in KERNELS:
            getattr(self.arrays, name)[...] = data[name]
        self.train_loss[...], self.root[...] = data["train_loss"], data["root"]
        self.done, self.lowest = int(data["done"]), float(data["lowest"])
        process = self.task.process
        for t in range(self.done + 1):
            self.take(process.overlaps, t)
            self.take(process.drive, t)
        for t in range(self.done):
            self.take(process.fields, t)

    def field_weights(self, t: int) -> tuple[Array, Array, Array]:
        """What the fields at t take of h* (p, k), of z (p, (t + 1) p) and of gradients (p, t p)."""
        arrays, p = self.arrays, self.task.p
        rows = self.root[t * p : (t + 1) * p, : (t + 1) * p]
        to_past = arrays.to_past[t, :, :t].reshape(p, t * p)
        return arrays.to_star[t], arrays.to_driving[t] @ rows, np.ascontiguousarray(to_past)


def begin(task: DescentTask) -> Sweep:
    """Sweep before its first step."""
    T, p, k = task.steps, task.p, task.k
    big = (T + 1) * p
    sweep = Sweep(task, Arrays.zeros(T, p, k), np.zeros(T), np.zeros((big, big)))
    arrays = sweep.arrays
    arrays.P_inverse[...], arrays.Q_at[0, :, 0] = task.inverse_P, task.Q
    # Readouts that are not trained stay at all times.
    arrays.M_at[0], arrays.readout_at[...] = task.M, task.readout
    sweep.take(task.process.begin, 0)
    _extend_root(sweep, 0)
    return sweep


def march_on(
    sweep: Sweep,
    nodes: Nodes,
    past: Array,
    threads: int = 1,
    after: Callable[[Sweep], Status] = lambda sweep: Status.OK,
) -> Sweep:
    """Take the steps that are left, over samples at these nodes.

    Rows of `past` (`DescentTask.kept`, S), the gradients of the samples, must hold what the steps
    done wrote. The number of threads never changes a result.
    """
    with ThreadPoolExecutor(threads) as pool:
        sweep.samples = Samples.of(sweep.task, nodes, past, pool, threads)
        march(sweep, after)
    sweep.samples = None  # results keep their sweep, and samples take most of the memory
    return sweep


def _close(sweep: Sweep, t: int, means: Array, slopes: Array | None) -> None:
    """Close the equations: kernels of the samples at t, then overlaps and weights at t + 1.

    `slopes` (p, (t + 1) p) are E[dg^t / dr^s] along paths; without them those of Stein are taken.
    """
    task, arrays, process = sweep.task, sweep.arrays, sweep.task.process
    p, rows = task.p, (t + 1) * task.p
    if slopes is None:
        slopes = _solved(sweep.root[:rows, :rows], means[:p, :rows], transposed=True)
    by_time = (p, t + 1, p)
    arrays.slopes[:, : t + 1] = slopes.reshape(by_time)
    arrays.gradient_pairs[:, : t + 1] = means[:p, rows : 2 * rows].reshape(by_time)
    arrays.gradient_stars[...] = means[:p, 2 * rows :]
    if task.trained:
        arrays.pulls[...] = means[p + 1 :, 0]
    sweep.train_loss[t] = means[p, 0]
    for step in (process.averages, process.respond, process.advance):
        sweep.take(step, t)
    if process.answer is not None:
        lengths = np.diagonal(arrays.Q_free[t + 1])
        if not np.all(lengths > 0.0):
            sweep.status = Status.LEFT_DOMAIN
            sweep.message = (
                f"step {t} leads to rows of squared lengths {lengths.tolist()}, which cannot be "
                "normalised"
            )
            return
        sweep.take(process.answer, t)
    sweep.take(process.overlaps, t + 1)
    _extend_root(sweep, t + 1)


def _solved(root: Array, right: Array, transposed: bool = False) -> Array:
    """X with X root^T = right, or X root = right, for the lower triangular root.

    LAPACK at once: SciPy's checks take longer than the steps of a short descent.
    """
    solution, info = dtrtrs(root.T, right.T, lower=0, trans=0 if transposed else 1)
    assert info == 0, "the root has a positive diagonal"
    result: Array = solution.T
    return result


def _extend_root(sweep: Sweep, t: int) -> None:
    """Rows of L at time t; the sweep ends where C_r is no covariance."""
    task, p = sweep.task, sweep.task.p
    new, seen = slice(t * p, (t + 1) * p), slice(0, t * p)
    sweep.take(task.process.drive, t)
    C_r = sweep.arrays.C_r.reshape(sweep.root.shape)  # over (time, neuron)
    own = C_r[new, new]
    row: Array = np.zeros((p, t * p))
    if t > 0:
        root = sweep.root[seen, seen]
        row = _solved(root, C_r[new, seen])
    left = own - row @ row.T
    # Squared lengths: students that the teacher spans have nothing but rounding outside of it.
    scale = float(max(np.trace(own), np.trace(sweep.arrays.Q_at[t, :, t])))
    if not np.trace(own) <= LARGEST_LENGTH * p:
        sweep.status = Status.DIVERGED
        sweep.message = f"the descent diverges at step {t}; use a smaller learning_rate"
        return
    lowest = float(np.linalg.eigvalsh(left)[0])
    if not lowest >= -PIVOT_BAND * scale:
        sweep.status = Status.LEFT_DOMAIN
        sweep.message = (
            f"the covariance of the noise of the samples is not positive at step {t}: its new "
            f"eigenvalue is {lowest:.3g} (squared lengths {scale:.3g}); use more samples or a "
            "smaller step"
        )
        return
    if scale > 0.0:
        sweep.lowest = min(sweep.lowest, lowest / scale)
    jitter = JITTER * max(float(np.trace(own)), 0.0) + ROUNDING * scale + LEAST
    raised = left + (jitter + max(0.0, -lowest)) * np.eye(p)
    sweep.root[new, seen], sweep.root[new, new] = row, np.linalg.cholesky(raised)


def overlaps(sweep: Sweep) -> tuple[Array, Array]:
    """Q (n, p, p) and the two-time Q2 (n, n, p, p) at the times that were reached."""
    n = sweep.done + 1
    Q2 = by_time(sweep.arrays.Q_at, n)
    return Q2[np.arange(n), np.arange(n)], Q2


def by_time(kernel: Array, n: int) -> Array:
    """The first n times of a kernel, stored by (time, neuron) twice, as (n, n, p, p)."""
    return np.ascontiguousarray(kernel[:n, :, :n].transpose(0, 2, 1, 3))


def result_of(sweep: Sweep) -> Mapping[str, Array]:
    """Named arrays of what a sweep reached, time first."""
    n = sweep.done
    Q, Q2 = overlaps(sweep)
    return {
        "M": sweep.M[: n + 1],
        "Q": Q,
        "Q2": Q2,
        "corr": by_time(sweep.arrays.C_l, n),
        "resp": by_time(sweep.arrays.R_l, n),
        "readout": sweep.readout[: n + 1],
        "train_loss": sweep.train_loss[:n],
    }

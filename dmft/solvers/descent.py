r"""The causal sweep of gradient descent on repeated data: one pass over time, no iteration.

Equation    batch_reuse.md A.1; kernels as matrices over (time, neuron), earlier times first:
            C_theta = L L^T, h^t = M^t P^+ h* + (L z)^t + sum_s R_theta(t, s) g^s
            R_l L = alpha E[g z^T] (Stein: kinks need no derivative)
            A = (1 - eta ridge) 1 - eta R_l (+ momentum), R_theta <- A R_theta - eta 1,
            C_theta <- A C_theta - eta C_l R_theta^T
Source      batch_reuse.md A.1, A.4, C
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dtrtrs

from dmft.names import Status
from dmft.solvers.descent_samples import Samples
from dmft.solvers.descent_task import DescentTask, Nodes

Array = NDArray[np.float64]
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


@dataclass
class Sweep:
    """Overlaps and kernels of one set of nodes, filled step by step.

    Kernels are matrices over (time, neuron). `done` steps are complete; `status` says how it ended.
    """

    task: DescentTask
    M: Array
    readout: Array
    train_loss: Array
    C_theta: Array
    R_theta: Array
    C_l: Array
    R_l: Array
    root: Array
    done: int = 0
    status: Status = Status.OK
    message: str = ""
    lowest: float = field(default=math.inf)


def begin(task: DescentTask) -> Sweep:
    """Sweep before its first step."""
    T, p, k = task.steps, task.p, task.k
    big, small = (T + 1) * p, T * p
    sweep = Sweep(
        task, M=np.zeros((T + 1, p, k)), readout=np.zeros((T + 1, p)), train_loss=np.zeros(T),
        C_theta=np.zeros((big, big)), R_theta=np.zeros((big, big)), C_l=np.zeros((small, small)),
        R_l=np.zeros((small, small)), root=np.zeros((big, big)),
    )  # fmt: skip
    sweep.M[0], sweep.readout[0] = task.M, task.readout
    sweep.C_theta[:p, :p] = task.Q - task.M @ task.inverse_P @ task.M.T
    _extend_root(sweep, 0)
    return sweep


def march(
    sweep: Sweep,
    nodes: Nodes,
    past: Array,
    threads: int = 1,
    after: Callable[[Sweep], bool] | None = None,
) -> Sweep:
    """Take the steps that are left.

    Parameters
    ----------
    sweep : Sweep
        From `begin`, or one that was stopped.
    nodes : Nodes
    past : (`DescentTask.kept`, S)
        Gradients of the samples; rows of the steps done must hold what those steps wrote.
    threads : int
        The number never changes a result.
    after : callable(sweep) -> bool, optional
        Asked after each step; the sweep stops (as "interrupted") where it returns False.
    """
    task = sweep.task
    with ThreadPoolExecutor(threads) as pool:
        samples = Samples.of(task, nodes, past, pool, threads)
        while sweep.status == Status.OK and sweep.done < task.steps:
            t = sweep.done
            state = (sweep.M[t], sweep.readout[t], sweep.root, sweep.R_theta)
            means = samples.averages(t, *state)
            response = None
            if task.bend is not None:
                kept = task.steps * task.p
                response = samples.response(t, task.bend, kept, state, sweep.R_theta)
            if not np.all(np.isfinite(means)):
                sweep.status = Status.NONFINITE
                sweep.message = f"averages over the samples are not finite at step {t}"
                break
            with np.errstate(all="ignore"):  # what overflows is told by the status
                _close(sweep, t, means, response)
            if sweep.status != Status.OK:
                break  # what this step led to is no state
            sweep.done += 1
            if after is not None and not after(sweep) and sweep.done < task.steps:
                interrupt(sweep)
    return sweep


def interrupt(sweep: Sweep) -> None:
    """Stop a sweep where it is."""
    sweep.status = Status.INTERRUPTED
    sweep.message = f"interrupted after {sweep.done} of {sweep.task.steps} steps"


def _close(sweep: Sweep, t: int, means: Array, response: Array | None) -> None:
    """Close the equations: kernels of the samples at t, then overlaps and weights at t + 1.

    `response` is the pathwise one; without it that of Stein is taken.
    """
    task = sweep.task
    p, eta = task.p, task.learning_rate
    rows = (t + 1) * p
    now, later, seen = slice(t * p, rows), slice(rows, rows + p), slice(0, rows)
    if response is None:
        response = _stein(sweep, means[:p, :rows])
    row = task.samples_per_dim * means[:p, rows : 2 * rows]
    if task.fresh:
        response[:, : t * p] = 0.0
        row[:, : t * p] = 0.0
    sweep.C_l[now, seen], sweep.C_l[seen, now] = row, row.T
    sweep.R_l[now, seen] = task.samples_per_dim * response
    sweep.train_loss[t] = means[p, 0]
    decay = 1.0 - eta * task.ridge
    beta = task.momentum if t > 0 else 0.0
    A = propagator(task, t, sweep.R_l[now, seen])
    drag = beta * (sweep.M[t] - sweep.M[t - 1]) if t > 0 else 0.0
    learned = means[:p, 2 * rows :]
    sweep.M[t + 1] = decay * sweep.M[t] - eta * task.samples_per_dim * learned + drag
    sweep.readout[t + 1] = sweep.readout[t]
    if task.trained:
        sweep.readout[t + 1] -= task.readout_rate * means[p + 1 :, 0]
    R, C = sweep.R_theta, sweep.C_theta
    respond_later(task, t, A, R)
    cross = A @ C[seen, seen] - eta * row @ R[seen, seen].T
    C[later, seen], C[seen, later] = cross, cross.T
    own = A @ cross.T - eta * row @ R[later, seen].T
    C[later, later] = (own + own.T) / 2.0
    _extend_root(sweep, t + 1)


def propagator(task: DescentTask, t: int, response: Array) -> Array:
    """A (p, (t + 1) p): weights at t + 1 by those at 0..t, for the row of R_l at t."""
    p, one = task.p, np.eye(task.p)
    A = -task.learning_rate * response
    beta = task.momentum if t > 0 else 0.0  # w^{-1} = w^0: the first step has none
    A[:, t * p :] += (1.0 - task.learning_rate * task.ridge + beta) * one
    if beta:
        A[:, (t - 1) * p : t * p] -= beta * one
    return A


def respond_later(task: DescentTask, t: int, A: Array, R_theta: Array) -> None:
    """Write R_theta at t + 1 from its earlier rows."""
    p, seen = task.p, (t + 1) * task.p
    R_theta[seen : seen + p, :seen] = A @ R_theta[:seen, :seen]
    R_theta[seen : seen + p, seen - p : seen] -= task.learning_rate * np.eye(p)


def _stein(sweep: Sweep, with_normal: Array) -> Array:
    """R_l / alpha from E[g z^T] = (R_l / alpha) L, by substitution from the latest time on."""
    rows = with_normal.shape[1]
    root = sweep.root[:rows, :rows]
    return _solved(root, with_normal, transposed=True)


def _solved(root: Array, right: Array, transposed: bool = False) -> Array:
    """X with X root^T = right, or X root = right, for the lower triangular root.

    LAPACK at once: SciPy's checks take longer than the steps of a short descent.
    """
    solution, info = dtrtrs(root.T, right.T, lower=0, trans=0 if transposed else 1)
    assert info == 0, "the root has a positive diagonal"
    result: Array = solution.T
    return result


def _extend_root(sweep: Sweep, t: int) -> None:
    """Rows of L at time t; the sweep ends where C_theta is no covariance."""
    task, p = sweep.task, sweep.task.p
    new, seen = slice(t * p, (t + 1) * p), slice(0, t * p)
    own = sweep.C_theta[new, new]
    row: Array = np.zeros((p, t * p))
    if t > 0 and not task.fresh:
        root = sweep.root[seen, seen]
        row = _solved(root, sweep.C_theta[new, seen])
    left = own - row @ row.T
    # Squared lengths: students that the teacher spans have nothing but rounding outside of it.
    scale = float(np.trace(own) + np.trace(sweep.M[t] @ task.inverse_P @ sweep.M[t].T))
    if not np.trace(own) <= LARGEST_LENGTH * p:
        sweep.status = Status.DIVERGED
        sweep.message = f"the descent diverges at step {t}; take a smaller learning_rate"
        return
    lowest = float(np.linalg.eigvalsh(left)[0])
    if not lowest >= -PIVOT_BAND * scale:
        sweep.status = Status.LEFT_DOMAIN
        sweep.message = (
            f"the covariance of the weights is not positive at step {t}: eigenvalue {lowest:.3g} "
            f"of what this time adds (squared lengths {scale:.3g}); take more samples or a "
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
    n, p = sweep.done + 1, sweep.task.p
    M = sweep.M[:n]
    kernel = by_time(sweep.C_theta[: n * p, : n * p], p)
    Q2 = kernel + np.einsum("tjr,rq,slq->tsjl", M, sweep.task.inverse_P, M)
    return Q2[np.arange(n), np.arange(n)], Q2


def by_time(matrix: Array, p: int) -> Array:
    """From a matrix over (time, neuron) to (time, time, neuron, neuron)."""
    n = matrix.shape[0] // p
    return np.ascontiguousarray(matrix.reshape(n, p, n, p).transpose(0, 2, 1, 3))


def result_of(sweep: Sweep) -> Mapping[str, Array]:
    """Named arrays of what a sweep reached, time first."""
    n, p = sweep.done, sweep.task.p
    Q, Q2 = overlaps(sweep)
    return {
        "M": sweep.M[: n + 1],
        "Q": Q,
        "Q2": Q2,
        "corr": by_time(sweep.C_l[: n * p, : n * p], p),
        "resp": by_time(sweep.R_l[: n * p, : n * p], p),
        "readout": sweep.readout[: n + 1],
        "train_loss": sweep.train_loss[:n],
    }

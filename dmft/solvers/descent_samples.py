"""Averages over the samples of a descent at one time, over threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.solvers.descent_task import DescentTask, Nodes, labels_of, teacher_fields
from dmft.solvers.pathwise import respond
from dmft.solvers.sampled import BLOCK, PARTNERS, advance

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """Samples with their points, and what they have done so far.

    Attributes
    ----------
    normal, star, label, mask : (T p, S), (k, S), (S,), (T, S) or (0, 0)
        Normals of the driving process, teacher's fields, labels, weights in each step.
    past : (`DescentTask.kept`, S)
    partners : int
        Latest innovations that each history meets.
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

    def averages(self, t: int, M: Array, readout: Array, root: Array, R_theta: Array) -> Array:
        """Averages at time t, rows as `dmft.solvers.sampled.advance` has them."""
        task, rows = self.task, (t + 1) * self.task.p
        extra = 1 + (task.p if task.trained else 0)
        sums = np.zeros((self.blocks, task.p + extra, 2 * rows + task.k))
        par, weights = self._weights(t, M, readout, root, R_theta)

        def work(first: int, last: int) -> None:
            advance(
                task.sample, t, first, last, self.partners, task.near, self.normal, self.star,
                self.label, self._mask(t), par, self.past, *weights, sums,
            )  # fmt: skip

        return self._over_blocks(work, sums)

    def response(
        self, t: int, bend: Any, kept: int, state: tuple[Array, ...], answers: Array
    ) -> Array:
        """E[dg^t / dr^s] (p, (t + 1) p) along the path of each sample, by the slopes `bend`.

        Slopes stand in rows of `past` from `kept` on. `state` is that of `averages`; `answers` is
        R_theta in the derivative, which may be another one than in the fields.
        """
        task, rows = self.task, (t + 1) * self.task.p
        sums = np.zeros((self.blocks, task.p, rows))
        par, weights = self._weights(t, *state)
        so_far = np.ascontiguousarray(answers[:rows, :rows])

        def work(first: int, last: int) -> None:
            respond(
                bend, t, first, last, kept, self.normal, self.star, self.label,
                self._mask(t), par, self.past, *weights, so_far, sums,
            )  # fmt: skip

        return self._over_blocks(work, sums)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.star.shape[1] // BLOCK)

    def _mask(self, t: int) -> Array:
        return self.mask[t] if self.mask.size else np.empty(0)

    def _weights(
        self, t: int, M: Array, readout: Array, root: Array, R_theta: Array
    ) -> tuple[Array, tuple[Array, Array, Array]]:
        """Parameters of the sample, and what the fields at t take of h*, of z and of gradients."""
        task, p = self.task, self.task.p
        now = slice(t * p, (t + 1) * p)
        to_past = np.ascontiguousarray(R_theta[now, : t * p])
        if task.fresh:
            to_past = np.zeros_like(to_past)
        par = np.concatenate([readout, task.teacher_readout, task.scalars])
        to_star = np.ascontiguousarray(M @ task.inverse_P)
        return par, (to_star, np.ascontiguousarray(root[now, : (t + 1) * p]), to_past)

    def _over_blocks(self, work: Callable[[int, int], None], sums: Array) -> Array:
        """Do all blocks and average them in their order."""
        if self.threads == 1:
            work(0, self.blocks)
        else:
            cuts = np.linspace(0, self.blocks, self.threads + 1).astype(int)
            list(self.pool.map(work, cuts[:-1], cuts[1:]))
        return np.asarray(sums.sum(axis=0) / self.star.shape[1])

"""Averages over the samples of a descent at one time, over threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.solvers.descent.pathwise import respond
from dmft.solvers.descent.process import Arrays
from dmft.solvers.descent.sampled import BLOCK, PARTNERS, advance
from dmft.solvers.descent.task import DescentTask, Nodes, labels_of, teacher_fields

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

    def averages(self, t: int, readout: Array, weights: tuple[Array, Array, Array]) -> Array:
        """Averages at time t, rows as `dmft.solvers.descent.sampled.advance` has them.

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

"""Points of the samples of a descent: which, how many, how much memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import pdtr

from dmft.arrays import Array
from dmft.equations.two_time.descent import DescentEquations
from dmft.equations.two_time.descent_process import BATCH_LAWS
from dmft.errors import BadParameter
from dmft.gaussian.nodes.rules import sobol_engine
from dmft.model import as_count
from dmft.progress import ProgressOption
from dmft.solvers.two_time.descent_process import DescentTask, Nodes
from dmft.solvers.two_time.descent_response import pieces, sample_count
from dmft.solvers.two_time.descent_sampled import BLOCK, PARTNERS
from dmft.special.sampling import sobol_rows
from dmft.validation import checked

GIB = 2**30
# Matrices over (time, neuron) of a scramble: eight of its sweep, seven in results and means.
MATRICES = 15
# Bytes of what does not grow: records, modules that a run imports.
SMALL = 2**17
# A batch with replacement holds a sample less often: 1e-18 is the chance of more.
MOST_TIMES = 20


@checked
@dataclass(frozen=True)
class DescentOptions:
    """How a descent is solved.

    Attributes
    ----------
    samples : int
        Points of one scramble, a power of two.
    scrambles : int
        Independent scrambles of the Sobol points, each a solution of its own: their mean is the
        result and their spread its error.
    nodes : "sobol", "cubature" or None
        "cubature" is exact for affine students of affine targets (the default there).
    method : None, "stein" or "pathwise"
        How the response of the gradients is estimated. "stein": by Stein's identity, for any
        activation; its error grows like learning_rate^-T for small rates (only R_l C_theta enters
        the overlaps, which do not feel it). "pathwise": along the path of each sample in each step,
        for smooth activations, at more cost (T^3 instead of T^2). None: the descent is closed by
        Stein's identity, and its response is measured afterwards on a part of the samples: along
        their paths, or along lines of samples where gradients are piecewise linear (ReLU; kinks
        count). Curved pieces between kinks (SELU) leave that of Stein.
    seed : int
    threads : int, optional
        All cores by default; the number never changes a result.
    memory : float
        Bytes that samples may take.
    checkpoint : path, optional
        A folder that keeps every step; the same call continues what was interrupted.
    timeout : float, optional
    progress : None, bool or callable
    """

    samples: int = 2**14
    scrambles: int = 8
    nodes: str | None = None
    method: str | None = None
    seed: int = 0
    threads: int | None = None
    memory: float = 2 * GIB
    checkpoint: str | Path | None = None
    timeout: float | None = None
    progress: ProgressOption = None


@dataclass(frozen=True)
class Layout:
    """Points of a scramble: standard normals, then uniforms for the masks and for the clusters."""

    kind: str
    normals: int
    uniforms: int
    samples: int
    scrambles: int
    batch: str | None
    parts: int
    fraction: float
    steps: int
    weights: tuple[float, ...]

    @classmethod
    def of(cls, equations: DescentEquations, task: DescentTask, options: DescentOptions) -> Layout:
        """Points that these equations and options ask for, or a refusal."""
        algorithm = equations.algorithm
        exact = is_affine(equations)
        kind = options.nodes or ("cubature" if exact and algorithm.batch is None else "sobol")
        if kind not in ("sobol", "cubature"):
            raise BadParameter(f'nodes must be "sobol" or "cubature", got {options.nodes!r}')
        if kind == "cubature" and not (exact and algorithm.batch is None):
            raise BadParameter(
                'nodes="cubature" is exact for affine activations and targets with the squared '
                'loss and the whole sample only; use "sobol"'
            )
        samples = as_count(options.samples, "samples")
        if kind == "sobol" and samples & (samples - 1):
            raise BadParameter(
                f"samples = {samples} must be a power of two (Sobol points are balanced only "
                f"then); use {1 << samples.bit_length()}"
            )
        parts = round(1.0 / task.fraction)
        epochs = -(-task.steps // parts)
        uniforms = {"bernoulli": task.steps, "replacement": task.steps, "reshuffle": epochs}.get(
            algorithm.batch or "", 0
        )
        model = equations.model
        weights = () if model.clusters is None else tuple(model.clusters.weights)
        uniforms += bool(weights)
        layout = cls(
            kind, task.dimension, uniforms, samples if kind == "sobol" else 2 * task.dimension,
            as_count(options.scrambles, "scrambles") if kind == "sobol" else 1, algorithm.batch,
            parts, task.fraction, task.steps, weights,
        )  # fmt: skip
        layout.check_memory(task, options)
        return layout

    def points(self, task: DescentTask) -> int:
        """Bytes of one scramble: points, masks, gradients, fields of teacher and new samples."""
        rows = self.normals + self.uniforms + task.kept + 2 * task.k + task.p + 4
        if self.batch in BATCH_LAWS:
            rows += 2 * self.steps
        return 8 * (rows * self.samples + self._measured(task))

    def _measured(self, task: DescentTask) -> int:
        """Numbers that the response takes which is measured afterwards."""
        if task.slopes is None:
            return 0
        big = task.steps * task.p
        count = sample_count(task, self.samples, self.kind == "sobol")
        rows = self.normals + self.uniforms + self.steps + 2 * task.k + 4 + (2 + task.p) * big
        lines = pieces(task) * big * (big + 4) * task.knots.size
        # R_l, R_theta and what fields take of the past; lines keep slopes of two passes too.
        matrices = 6 if task.knots.size else 3
        return rows * count + lines + matrices * big**2

    def kernels(self, task: DescentTask) -> int:
        """Bytes of the kernels of all scrambles, of their means, and of what does not grow."""
        return SMALL + 8 * MATRICES * self.scrambles * ((self.steps + 1) * task.p) ** 2

    def at_once(self, task: DescentTask, memory: float) -> int:
        """Number of scrambles that fit at once."""
        return max(1, int((memory - self.kernels(task)) // self.points(task)))

    def check_memory(self, task: DescentTask, options: DescentOptions) -> None:
        """Refuse what would not fit."""
        points, kernels = self.points(task), self.kernels(task)
        needed = points + kernels
        if needed <= options.memory:
            return
        fewer = int((options.memory - kernels) * self.samples / points)
        hint = ""
        if fewer >= 1 and self.kind == "sobol":
            fits = 1 << (fewer.bit_length() - 1)
            hint = f"samples={fits} would fit (more scrambles make up for it), or "
        raise BadParameter(
            f"{self.samples} samples of {task.steps} steps take {needed / GIB:.2f} GiB, and memory "
            f"allows {options.memory / GIB:.2f}: {hint}memory={math.ceil(needed)}"
        )

    def nodes(self, seed: int, number: int) -> Nodes:
        """Points of one scramble."""
        if self.kind == "cubature":
            points = math.sqrt(self.normals) * np.eye(self.normals)
            nodes = np.concatenate([points, -points], axis=1)
            return Nodes(nodes, np.empty((0, 0)), np.empty(0, dtype=np.int64), scrambled=False)
        stream = np.random.SeedSequence(seed, spawn_key=(number,))
        normal, uniform = (np.empty((n, self.samples)) for n in (self.normals, self.uniforms))
        engine = sobol_engine(self.normals + self.uniforms, stream)
        # Directions (dim, bits) and shift (dim,) of the scramble, for `special.quantile`.
        words = np.ascontiguousarray(engine._sv), np.ascontiguousarray(engine._quasi)
        sobol_rows(*words, BLOCK, PARTNERS, normal, uniform)
        cluster = np.empty(0, dtype=np.int64)
        if self.weights:
            cluster = np.searchsorted(np.cumsum(self.weights)[:-1], uniform[-1], side="right")
        return Nodes(normal, self._mask(uniform), cluster)

    def _mask(self, uniform: Array) -> Array:
        """How often the batch of each step holds each sample."""
        if self.batch == "bernoulli":
            return (uniform < self.fraction).astype(np.float64)
        if self.batch == "replacement":
            below = pdtr(np.arange(MOST_TIMES), self.fraction)
            return np.searchsorted(below, uniform).astype(np.float64)
        if self.batch == "reshuffle":
            slots = np.minimum((uniform * self.parts).astype(int), self.parts - 1)
            rows = [slots[t // self.parts] == t % self.parts for t in range(self.steps)]
            return np.stack(rows).astype(np.float64)
        return np.empty((0, 0))


def is_affine(equations: DescentEquations) -> bool:
    """Whether all averages are those of quadratic forms, which the cubature takes exactly."""
    model = equations.model
    squared = equations.algorithm.loss == "squared" and equations.samples_as_derived
    if not squared or model.clusters is not None:
        return False
    return all(
        f.is_polynomial(*z) and f.as_poly(*z).total_degree() <= 1
        for f, z in (*model.student.functions, *model.teacher.functions)
    )

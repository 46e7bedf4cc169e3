"""Solve the two-time equations of gradient descent: nodes, scrambles, memory, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.codegen.sample import build_sample, parameter_order
from dmft.equations.descent import DescentEquations
from dmft.equations.nodes import averages
from dmft.equations.risk import population_risk
from dmft.equations.values import check_widths, readout_arrays, resolve_scalars
from dmft.errors import BadParameter
from dmft.model import FIELD, Committee, Overlaps, as_count
from dmft.names import VERSION, Status
from dmft.progress import Progress, ProgressOption
from dmft.solvers.descent import (
    DescentTask,
    Nodes,
    Sweep,
    begin,
    fresh_loss,
    march,
    result_of,
)
from dmft.solvers.descent_run import DescentRun
from dmft.solvers.descent_store import Store
from dmft.solvers.path_request import thread_count

Array = NDArray[np.float64]
GIB = 2**30
# Half of the resolution of Sobol points: a point of the grid at zero would be at minus infinity.
HALF_STEP = 2.0**-31
# From the worst: the first of these that some scramble has is the status of the run.
SEVERITY = (
    Status.INTERRUPTED, Status.TIMEOUT, Status.NONFINITE, Status.DIVERGED, Status.LEFT_DOMAIN,
    Status.OK,
)  # fmt: skip


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
    seed : int
    threads : int, optional
        All cores by default; the number never changes a result.
    memory : float
        Bytes that samples may take.
    checkpoint : path, optional
        A folder that keeps every step; the same call continues what was interrupted.
    timeout : float, optional
    """

    samples: int = 2**14
    scrambles: int = 8
    nodes: str | None = None
    seed: int = 0
    threads: int | None = None
    memory: float = 2 * GIB
    checkpoint: str | Path | None = None
    timeout: float | None = None


OPTIONS = tuple(DescentOptions.__dataclass_fields__)


def solve_descent(
    equations: DescentEquations,
    start: Overlaps,
    t_max: int,
    *,
    progress: ProgressOption = None,
    **given: Any,
) -> DescentRun:
    r"""Solve the self-consistent equations of gradient descent for `t_max` steps.

    Shapes      start Q (p, p), M (p, k), P (k, k); see `DescentRun` for the result
    Scaling     t counts steps; n = samples_per_dim * d samples, learning rate of order one
    Valid for   d -> infinity; kinked activations included (the response is Stein's)
    Source      batch_reuse.md A.1, C

    Parameters
    ----------
    equations : DescentEquations
    start : Overlaps
    t_max : int
        Number of steps T.
    progress : None, bool or callable
    **given
        Fields of `DescentOptions`, and run-time values: ``learning_rate=``, ``samples_per_dim=``,
        ``ridge=``, ``momentum=``, ``readout_rate=``, ``label_noise=``, the model's own symbols.

    Raises
    ------
    BadParameter, ShapeMismatch
        Also when the samples would not fit into `memory`; the message says what would.

    Examples
    --------
    >>> import numpy as np, sympy as sp, dmft
    >>> line = dmft.Committee(sp.Symbol("z", real=True), width=1)
    >>> eqs = dmft.derive(dmft.Model(line, line), dmft.GradientDescent(0.2, samples_per_dim=2))
    >>> run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.0]]), 3)
    >>> run.M[:, 0, 0].round(12).tolist()  # 1 - <(1 - eta mu)^t> over Marchenko-Pastur
    [0.0, 0.4, 0.56, 0.656]
    """
    options = DescentOptions(**{n: v for n, v in given.items() if n in OPTIONS})
    values = {n: v for n, v in given.items() if n not in OPTIONS}
    steps = as_count(t_max, "t_max")
    task, parameters = descent_task(equations, start, steps, values)
    layout = _Layout.of(equations, task, options)
    began = time.monotonic()
    with Progress(progress, "descent") as bar:
        sweeps = _sweep_all(task, layout, options, parameters, equations, bar, began)
    return _assemble(equations, sweeps, layout, options, parameters, time.monotonic() - began)


def descent_task(
    equations: DescentEquations, start: Overlaps, steps: int, values: Mapping[str, Any]
) -> tuple[DescentTask, dict[str, float]]:
    """Numbers of a run, and its scalar parameters by name."""
    if not isinstance(start, Overlaps):
        raise BadParameter(f"start must be a dmft.Overlaps, got {type(start).__name__}")
    check_widths(equations.model, start)
    scalars, symbols = resolve_scalars(equations.parameters, equations.parameters, values)
    arrays = readout_arrays(equations.model, start, symbols)
    for name, top in (("momentum", 1.0),):
        if not scalars[name] < top:
            raise BadParameter(f"{name} must be below {top}, got {scalars[name]!r}")
    trained = equations.algorithm.readout_rate != 0
    if scalars["readout_rate"] and not trained:
        raise BadParameter(
            "these equations have fixed readouts: derive with GradientDescent(readout_rate=...)"
        )
    task = DescentTask(
        sample=_built(equations.fingerprint, equations), steps=steps, Q=start.Q, M=start.M,
        P=start.P, readout=arrays["readout"], teacher_readout=arrays["teacher_readout"],
        scalars=np.array([scalars[name] for name in parameter_order(equations)]),
        learning_rate=scalars["learning_rate"], samples_per_dim=scalars["samples_per_dim"],
        ridge=scalars["ridge"], momentum=scalars["momentum"], readout_rate=scalars["readout_rate"],
        trained=trained, fresh=equations.algorithm.batch == "fresh",
    )  # fmt: skip
    return task, scalars


@lru_cache(maxsize=32)
def _built(fingerprint: str, equations: DescentEquations) -> Any:
    return build_sample(equations)


@dataclass(frozen=True)
class _Layout:
    """Points of a scramble: standard normals, then uniforms for the masks."""

    kind: str
    normals: int
    uniforms: int
    samples: int
    scrambles: int
    batch: str | None
    parts: int
    fraction: float
    steps: int

    @classmethod
    def of(cls, equations: DescentEquations, task: DescentTask, options: DescentOptions) -> _Layout:
        algorithm = equations.algorithm
        exact = is_affine(equations)
        kind = options.nodes or ("cubature" if exact and algorithm.batch is None else "sobol")
        if kind not in ("sobol", "cubature"):
            raise BadParameter(f'nodes must be "sobol" or "cubature", got {options.nodes!r}')
        if kind == "cubature" and not (exact and algorithm.batch is None):
            raise BadParameter(
                'nodes="cubature" is exact for affine activations and targets with the squared '
                'loss and the whole sample only; take "sobol"'
            )
        samples = as_count(options.samples, "samples")
        if kind == "sobol" and samples & (samples - 1):
            raise BadParameter(
                f"samples = {samples} must be a power of two (Sobol points are balanced only "
                f"then); take {1 << samples.bit_length()}"
            )
        parts = round(1.0 / algorithm.batch_fraction)
        epochs = -(-task.steps // parts)
        uniforms = {"bernoulli": task.steps, "reshuffle": epochs}.get(algorithm.batch or "", 0)
        layout = cls(
            kind, task.dimension, uniforms, samples if kind == "sobol" else 2 * task.dimension,
            as_count(options.scrambles, "scrambles") if kind == "sobol" else 1, algorithm.batch,
            parts, algorithm.batch_fraction, task.steps,
        )  # fmt: skip
        layout.check_memory(task, options)
        return layout

    def bytes(self, task: DescentTask) -> int:
        """Memory of one scramble: points, teacher's fields, gradients, masks and a copy."""
        rows = 2 * (self.normals + self.uniforms) + task.k + task.p * task.steps + self.steps
        return 8 * rows * self.samples

    def check_memory(self, task: DescentTask, options: DescentOptions) -> None:
        """Refuse what would not fit."""
        needed = self.bytes(task)
        if needed <= options.memory:
            return
        room = int(options.memory * self.samples / needed)
        fits = 1 << max(0, room.bit_length() - 1)
        raise BadParameter(
            f"{self.samples} samples of {task.steps} steps take {needed / GIB:.2f} GiB, and memory "
            f"allows {options.memory / GIB:.2f}: samples={fits} would fit (more scrambles make up "
            f"for it), or memory={needed:.3g}"
        )

    def nodes(self, seed: int, number: int) -> Nodes:
        """Points of one scramble."""
        if self.kind == "cubature":
            points = math.sqrt(self.normals) * np.eye(self.normals)
            return Nodes(np.concatenate([points, -points], axis=1), np.empty((0, 0)))
        from scipy.special import ndtri
        from scipy.stats import qmc

        stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
        engine = qmc.Sobol(self.normals + self.uniforms, scramble=True, seed=stream)
        points = np.ascontiguousarray(engine.random(self.samples).T)
        normal = points[: self.normals]
        np.maximum(normal, HALF_STEP, out=normal)
        ndtri(normal, out=normal)
        return Nodes(normal, self._mask(points[self.normals :]))

    def _mask(self, uniform: Array) -> Array:
        """Weights of the samples in each step."""
        if self.batch == "bernoulli":
            return np.asarray((uniform < self.fraction) / self.fraction)
        if self.batch == "reshuffle":
            slots = np.minimum((uniform * self.parts).astype(int), self.parts - 1)
            rows = [slots[t // self.parts] == t % self.parts for t in range(self.steps)]
            return np.stack(rows) * float(self.parts)
        return np.empty((0, 0))


def is_affine(equations: DescentEquations) -> bool:
    """Whether all averages are those of quadratic forms, which the cubature takes exactly."""
    model, teacher = equations.model, equations.model.teacher
    if equations.algorithm.loss != "squared":
        return False
    fields = (FIELD,) if isinstance(teacher, Committee) else teacher.fields
    target = teacher.activation if isinstance(teacher, Committee) else teacher.expr
    return all(
        f.is_polynomial(*z) and f.as_poly(*z).total_degree() <= 1
        for f, z in ((model.student.activation, (FIELD,)), (target, fields))
    )


def _sweep_all(
    task: DescentTask,
    layout: _Layout,
    options: DescentOptions,
    parameters: Mapping[str, float],
    equations: DescentEquations,
    bar: Progress,
    began: float,
) -> list[Sweep]:
    """Solve each scramble; in parallel where several fit into the memory."""
    threads = thread_count(options.threads)
    fit = max(1, int(options.memory // max(1, layout.bytes(task))))
    workers = max(1, min(threads, layout.scrambles, fit))
    store = None
    if options.checkpoint is not None:
        key = {
            "equations": equations.fingerprint, "version": VERSION, "parameters": dict(parameters),
            "steps": task.steps, "samples": layout.samples, "seed": options.seed,
            "nodes": layout.kind, "start": [a.tolist() for a in (task.Q, task.M, task.P)],
            "readout": [task.readout.tolist(), task.teacher_readout.tolist()],
        }  # fmt: skip
        store = Store(Path(options.checkpoint), key)
    done = [0] * layout.scrambles
    stop = {"asked": False}

    def late() -> bool:
        return options.timeout is not None and time.monotonic() - began > options.timeout

    def stopped(sweep: Sweep) -> None:
        sweep.status = Status.TIMEOUT if late() else Status.INTERRUPTED
        sweep.message = f"interrupted after {sweep.done} of {task.steps} steps"

    def solve_one(number: int) -> Sweep:
        sweep, past = begin(task), None
        if store is not None:
            sweep, past = store.load(number, sweep, (task.steps * task.p, layout.samples))
        if past is None:
            past = np.empty((task.steps * task.p, layout.samples))

        def after(state: Sweep) -> bool:
            done[number] = state.done
            if store is not None:
                store.save(number, state)
            bar.update(
                sum(done) / (len(done) * task.steps), f"scramble {number}, step {state.done}"
            )
            return not (stop["asked"] or late())

        if stop["asked"] or late():
            stopped(sweep)
            return sweep
        try:
            nodes = layout.nodes(options.seed, number)
            march(sweep, nodes, past, max(1, threads // workers), after)
        except KeyboardInterrupt:
            stop["asked"] = True
            stopped(sweep)
        if sweep.status == Status.INTERRUPTED and late():
            sweep.status = Status.TIMEOUT
        return sweep

    if workers == 1:
        return [solve_one(number) for number in range(layout.scrambles)]
    with ThreadPoolExecutor(workers) as pool:
        try:
            return list(pool.map(solve_one, range(layout.scrambles)))
        except KeyboardInterrupt:
            stop["asked"] = True
            raise


def _risk_of(
    equations: DescentEquations,
    task: DescentTask,
    layout: _Layout,
    options: DescentOptions,
    parameters: Mapping[str, float],
) -> Callable[[int, Mapping[str, Array]], Array]:
    """Population risk of the overlaps of a scramble: closed form, or over fresh samples of it."""
    risk = population_risk(equations.model)
    names = {y.name for y in equations.model.parameters}
    values = {n: v for n, v in parameters.items() if n in names}

    def closed(number: int, result: Mapping[str, Array]) -> Array:
        rows = zip(result["Q"], result["M"], result["readout"], strict=True)
        return np.array([risk(Q=Q, M=M, P=task.P, readout=a, **values) for Q, M, a in rows])

    def sampled(number: int, result: Mapping[str, Array]) -> Array:
        normal = layout.nodes(options.seed, number).normal
        rows = zip(result["Q"], result["M"], result["readout"], strict=True)
        return np.array([fresh_loss(task, normal, Q, M, a) for Q, M, a in rows])

    return sampled if averages(risk.definitions) else closed


def _assemble(
    equations: DescentEquations,
    sweeps: list[Sweep],
    layout: _Layout,
    options: DescentOptions,
    parameters: Mapping[str, float],
    seconds: float,
) -> DescentRun:
    """Mean over the scrambles, its standard error, and how they ended."""
    status = next(y for y in SEVERITY if any(s.status == y for s in sweeps))
    reached = min(s.done for s in sweeps)
    messages = list(dict.fromkeys(s.message for s in sweeps if s.message))
    for sweep in sweeps:
        sweep.done = reached
    results = [dict(result_of(s)) for s in sweeps]
    if equations.algorithm.loss == "squared":
        risk_of = _risk_of(equations, sweeps[0].task, layout, options, parameters)
        for number, result in enumerate(results):
            result["risk"] = risk_of(number, result)
    arrays = {n: np.mean([r[n] for r in results], axis=0) for n in results[0]}
    count = len(results)
    error = {
        n: np.std([r[n] for r in results], axis=0, ddof=1) / math.sqrt(count)
        if count > 1
        else np.full(a.shape, 0.0 if layout.kind == "cubature" else np.nan)
        for n, a in arrays.items()
    }
    how = (
        f"{layout.samples} cubature nodes, exact"
        if layout.kind == "cubature"
        else f"{count} x {layout.samples} scrambled Sobol samples"
    )
    return DescentRun(
        t=np.arange(reached + 1.0),
        arrays=arrays,
        error=error,
        status=status,
        message="; ".join([how, *messages]),
        statistics={
            "seconds": seconds,
            "samples": layout.samples,
            "scrambles": count,
            "jitter": 1e-12,
            "lowest_pivot": min(s.lowest for s in sweeps),
        },
        parameters=dict(parameters),
        provenance={
            "equations": equations.fingerprint, "version": VERSION, "kind": "two-time",
            "time_unit": "steps", "method": f"causal sweep, Stein response, {layout.kind}",
            "seed": options.seed, "model": str(equations.model), "fresh": layout.batch == "fresh",
            "algorithm": str(equations.algorithm), "approximation": how,
        },
    )  # fmt: skip

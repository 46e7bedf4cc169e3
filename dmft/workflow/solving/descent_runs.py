"""Solve the two-time equations of gradient descent: nodes, scrambles, memory, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array, half_width
from dmft.codegen.two_time_process import build_descent
from dmft.codegen.two_time_sample import build_bend, build_measure, knots_of
from dmft.equations.averages.passes import averages
from dmft.equations.risk import PopulationRisk, population_risk
from dmft.equations.two_time.descent import DescentEquations
from dmft.equations.two_time.over_time import OverTime, begun
from dmft.equations.update.linear_students import writes_signs
from dmft.equations.update.overlaps import has_signs
from dmft.errors import BadParameter, InvalidCovariance
from dmft.gaussian.tables.tabled import table_averages
from dmft.model import Overlaps, as_count
from dmft.model.algorithm import check_fraction
from dmft.model.loss import LABEL, NAMED, PREDICTION
from dmft.names import VERSION, Status
from dmft.record import in_full
from dmft.solvers.checkpoint import StepFile, array_in, asked, claim
from dmft.solvers.jobs import Job, run_tasks, thread_count
from dmft.solvers.pointers import pointer
from dmft.solvers.solution import SEVERITY, Values
from dmft.solvers.two_time.descent_process import (
    DescentProblem,
    DescentTask,
    Nodes,
    Process,
    fresh_losses,
)
from dmft.solvers.two_time.descent_response import measured
from dmft.solvers.two_time.descent_sampled import SAMPLE
from dmft.solvers.two_time.descent_sweep import JITTER, Sweep, begin, march_on, overlaps, result_of
from dmft.solvers.two_time.run import DescentRun, judged, settled
from dmft.symbolic_lock import once
from dmft.workflow.solve import Solver, declared, equations_of
from dmft.workflow.solving.descent_nodes import DescentOptions, Layout

# What two errors cover, as two standard deviations of a normal variable do.
TWO_ERRORS = 0.9545
METHODS = (None, "stein", "pathwise")
# Of labels +1 and -1; a sign of zero is wrong by half.
WRONG = (1 - LABEL * sp.sign(PREDICTION)) / 2
Measure = Callable[[Sweep, Nodes], Array]
built = once(build_descent)


@dataclass(frozen=True)
class Solved:
    """A scramble's sweep, and at its times what is measured of fresh samples, by name."""

    sweep: Sweep
    measures: Mapping[str, Array]
    response: Array | None = None


def solve_descent(
    system: DescentEquations | DescentProblem,
    start: Overlaps,
    t_max: int,
    options: DescentOptions,
    values: Mapping[str, Any],
) -> DescentRun:
    """Solve the self-consistent equations of gradient descent for `t_max` steps.

    Shapes      start Q (p, p), M (p, k), P (k, k); see `DescentRun` for the result
    Valid for   d -> infinity; kinked activations included. "tolerance_not_met" where the claimed
                error of some entry passes half of its value and a tenth of the largest known entry
                of its block
    Source      theory/batch_reuse A.1, C

    `values` are those at run time. Those that no sample reads may be expressions in
    ``sympy.Symbol("t")``: the step from t to t + 1 takes their value at t.
    """
    return settled(judged(run_descent(equations_of(system), start, t_max, options, values)), t_max)


def run_descent(
    equations: DescentEquations,
    start: Overlaps,
    t_max: int,
    options: DescentOptions,
    values: Mapping[str, Any],
) -> DescentRun:
    """As `solve_descent`, errors unjudged: "ok" means that all steps were done.

    As weights converge, nothing new enters the driving process, by which Stein's identity divides:
    its response grows until rounding leaves no covariance. The response along paths has no such
    division, so smooth gradients whose run ended there are solved again with it.
    """
    steps = as_count(t_max, "t_max (the number of steps)")
    task, parameters = descent_task(equations, start, steps, values, options.method)
    run = _run(equations, task, options, parameters)
    is_smooth = task.slopes is not None and task.knots.size == 0
    if run.status is not Status.LEFT_DOMAIN or not is_smooth:
        return run
    spent = run.statistics["seconds"]
    left = None if options.timeout is None else max(0.0, options.timeout - spent)
    paths = replace(options, method="pathwise", timeout=left)
    try:
        again = _run(equations, replace(task, bend=task.slopes, slopes=None), paths, parameters)
    except BadParameter:  # paths do not fit into the memory
        return run
    seconds = spent + again.statistics["seconds"]
    return replace(again, statistics={**again.statistics, "seconds": seconds})


def _run(
    equations: DescentEquations,
    task: DescentTask,
    options: DescentOptions,
    parameters: dict[str, float],
) -> DescentRun:
    """Solve all scrambles by one method."""
    layout = Layout.of(equations, task, options)
    limit = math.inf if options.timeout is None else options.timeout
    job = Job(layout.scrambles * task.steps, limit)
    solved = _sweep_all(task, layout, options, parameters, equations, job)
    return _assemble(equations, solved, layout, options, parameters, job.seconds())


def descent_task(
    equations: DescentEquations,
    start: Overlaps,
    steps: int,
    values: Mapping[str, Any],
    method: str | None = None,
) -> tuple[DescentTask, dict[str, float]]:
    """Numbers of a run, and its scalar parameters by name."""
    if method not in METHODS:
        raise BadParameter(f"method of two-time equations must be one of {METHODS}, got {method!r}")
    given, arrays = begun(equations, start, values, steps)
    scalars = given.scalars
    trained = equations.algorithm.readout_rate != 0
    mixture = equations.model.clusters
    if "batch_fraction" in scalars:
        check_fraction(scalars["batch_fraction"], equations.algorithm.batch)
    problem = built(equations)
    task = DescentTask(
        labels=problem.labels, sample=pointer(problem.sample, SAMPLE), steps=steps,
        Q=start.Q, M=start.M, P=start.P,
        readout=arrays["readout"], teacher_readout=arrays["teacher_readout"],
        scalars=np.array([scalars[name] for name in problem.scalars]),
        process=problem.process, par=_rows(problem.process, given, steps),
        schedules=given.described,
        trained=trained, fraction=scalars.get("batch_fraction", 1.0),
        bend=_bend(equations) if method == "pathwise" else None,
        means=mixture.means if mixture is not None else np.empty((0, 0)),
    )  # fmt: skip
    known = tuple(sorted(scalars.items()))
    knots = _knots(equations, known) if method is None else None
    if knots is not None:
        slopes = _bend(equations, bool(knots))
        task = replace(task, slopes=slopes, knots=np.array(knots))
    return task, scalars


def _rows(process: Process, given: OverTime, steps: int) -> Array:
    """Parameters of each step, and once more the last ones for what stands after it."""
    return np.array([process.par(given.at(min(t, steps - 1))) for t in range(steps + 1)])


@once
def _bend(equations: DescentEquations, kinks: bool = False) -> Any:
    return pointer(build_bend(equations, kinks), SAMPLE)


@once
def _knots(
    equations: DescentEquations, values: tuple[tuple[str, float], ...]
) -> list[float] | None:
    return knots_of(equations, dict(values))


def _sweep_all(
    task: DescentTask,
    layout: Layout,
    options: DescentOptions,
    parameters: Mapping[str, float],
    equations: DescentEquations,
    job: Job,
) -> list[Solved]:
    """Solve each scramble; in parallel where several fit into the memory."""
    measures = _measures_of(equations, task, parameters)
    threads = thread_count(options.threads)
    workers = min(threads, layout.scrambles, layout.at_once(task, options.memory))
    folder = None
    if options.checkpoint is not None:
        key = {
            "equations": equations.fingerprint, "declared": declared(equations),
            "version": VERSION, "parameters": dict(parameters),
            "steps": task.steps, "samples": layout.samples, "seed": options.seed,
            "nodes": layout.kind, "method": options.method,
            **task.schedules,
            "start": [a.tolist() for a in (task.Q, task.M, task.P)],
            "readout": [task.readout.tolist(), task.teacher_readout.tolist()],
        }  # fmt: skip
        folder = claim(Path(options.checkpoint), key)
    shape = (task.kept, layout.samples)

    def solve_one(number: int) -> Solved:
        sweep, past, file = begin(task), None, StepFile(None, every=0.0)
        if folder is not None:
            gradients = folder / f"gradients_{number}.npy"
            file.path = folder / f"kernels_{number}.npz"
            if gradients.exists():
                file.restore(sweep)
            past = array_in(gradients, shape, fresh=sweep.done == 0)
        job.add(sweep.done)

        def after(state: Sweep) -> Status:
            job.add(1)
            file.save(state, at_once=True)
            return asked(job)

        nodes = layout.nodes(options.seed, number)
        if not sweep.finished and job.cancelled():
            sweep.stop(asked(job))
        past = np.empty(shape) if past is None else past
        march_on(sweep, nodes, past, max(1, threads // workers), after)
        seen = {name: measure(sweep, nodes) for name, measure in measures.items()}
        return Solved(sweep, seen, measured(sweep, nodes, past, max(1, threads // workers)))

    tasks = [partial(solve_one, number) for number in range(layout.scrambles)]
    return run_tasks(tasks, job, workers, options.progress, "descent")


def _measures_of(
    equations: DescentEquations, task: DescentTask, parameters: Mapping[str, float]
) -> dict[str, Measure]:
    """What is measured of a scramble's overlaps: the risk, and how often signs are wrong."""
    found = {"risk": _risk_of(equations, task, parameters)}
    model = equations.model
    if has_signs(model) and writes_signs(model):
        found["error_rate"] = _sampled(equations, task, WRONG)
    return found


def _sampled(equations: DescentEquations, task: DescentTask, value: sp.Expr) -> Measure:
    """The mean of a value of output and label over a scramble's points as new samples."""

    def sampled(sweep: Sweep, nodes: Nodes) -> Array:
        sample = _measure(equations, value)
        states = zip(*_states(sweep), strict=True)
        return fresh_losses(replace(task, sample=sample), nodes, states)

    return sampled


@once
def _measure(equations: DescentEquations, value: sp.Expr) -> Any:
    return pointer(build_measure(equations, value), SAMPLE)


def _risk_of(
    equations: DescentEquations, task: DescentTask, parameters: Mapping[str, float]
) -> Measure:
    """Population risk of a scramble's overlaps: in closed form, or over its points as new samples.

    Of the squared loss those have the terms that a user gave it.
    """
    model = equations.model

    def of_loss(sweep: Sweep, nodes: Nodes) -> Array:
        return fresh_losses(task, nodes, zip(*_states(sweep), strict=True))

    squared = equations.algorithm.loss == "squared"
    sampled = of_loss if squared else _sampled(equations, task, NAMED["squared"])
    if model.clusters is not None:
        return sampled
    risk = _risk(equations) if equations.samples_as_derived else None
    if risk is None:
        return sampled
    names = {y.name for y in model.parameters}
    values = {n: v for n, v in parameters.items() if n in names}

    def closed(sweep: Sweep, nodes: Nodes) -> Array:
        rows = list(zip(*_states(sweep), strict=True))
        try:
            return np.array([risk(Q=Q, M=M, P=task.P, readout=a, **values) for Q, M, a in rows])
        except InvalidCovariance as error:  # equations whose terms were changed may lead there
            sweep.status, sweep.message = (
                Status.LEFT_DOMAIN,
                f"overlaps are not a Gram matrix: {error}",
            )
            return np.full(len(rows), np.nan)

    return closed


@once
def _risk(equations: DescentEquations) -> PopulationRisk | None:
    """Closed form of the risk; None where tables or nodes would take longer than the descent."""
    risk = population_risk(equations.model)
    tabled = [t for t in table_averages(risk.expr) if t.has_tables]
    return None if averages(risk.definitions) or tabled else risk


@once
def _names(equations: DescentEquations) -> Mapping[str, str]:
    """Model and algorithm in words: printing takes SymPy as long as a step."""
    return {"model": in_full(equations.model), "algorithm": str(equations.algorithm)}


def _states(sweep: Sweep) -> tuple[Array, Array, Array]:
    """Q, M and readouts of the times that were reached."""
    n = sweep.done + 1
    return overlaps(sweep)[0], sweep.M[:n], sweep.readout[:n]


def _closer(stein: list[Array], solved: list[Solved], steps: int) -> list[Array] | None:
    """Measured responses, where all scrambles have one of a smaller error than that of Stein.

    Errors of the whole block decide: of many entries, so that the choice does not favour those
    that err together.
    """
    found = [one.response for one in solved]
    if steps == 0 or any(y is None for y in found):
        return None
    measured = [y[:steps, :steps] for y in found if y is not None]
    if len(measured) == 1:
        return measured
    own, other = (float(np.sum(np.var(y, axis=0))) for y in (measured, stein))
    return measured if own <= other or not math.isfinite(other) else None


def _assemble(
    equations: DescentEquations,
    solved: list[Solved],
    layout: Layout,
    options: DescentOptions,
    parameters: Mapping[str, float],
    seconds: float,
) -> DescentRun:
    """Mean over the scrambles, its error, and how they ended."""
    sweeps = [one.sweep for one in solved]
    status = next(y for y in SEVERITY if any(s.status == y for s in sweeps))
    reached = min(s.done for s in sweeps)
    messages = list(dict.fromkeys(s.message for s in sweeps if s.message))
    for sweep in sweeps:
        sweep.done = reached
    results = [dict(result_of(s)) for s in sweeps]
    for one, result in zip(solved, results, strict=True):
        result |= {name: values[: reached + 1] for name, values in one.measures.items()}
    count = len(results)
    closer = _closer([r["resp"] for r in results], solved, reached)
    if closer is not None:
        for result, response in zip(results, closer, strict=True):
            result["resp"] = response
    arrays = {n: np.mean([r[n] for r in results], axis=0) for n in results[0]}
    if count > 1:
        error = {n: half_width(np.stack([r[n] for r in results]), TWO_ERRORS) / 2 for n in arrays}
    else:
        nothing = 0.0 if layout.kind == "cubature" else np.nan
        error = {n: np.full(a.shape, nothing) for n, a in arrays.items()}
    how_closed = options.method or ("stein" if closer is None else "stein, response measured")
    how = (
        f"{layout.samples} cubature nodes, exact"
        if layout.kind == "cubature"
        else f"{count} x {layout.samples} scrambled Sobol samples"
    )
    return DescentRun(
        t=np.arange(reached + 1.0),
        arrays=Values(arrays),
        error=Values(error),
        status=status,
        message="; ".join([how, *messages]),
        statistics={
            "seconds": seconds,
            "samples": layout.samples,
            "scrambles": count,
            "jitter": JITTER,
            "lowest_pivot": min(s.lowest for s in sweeps),
        },
        parameters=dict(parameters),
        provenance={
            "equations": equations.fingerprint, "version": VERSION, "kind": "two-time",
            "time_unit": "steps", "method": f"causal sweep, {how_closed}, {layout.kind}",
            "seed": options.seed, "fresh": layout.batch == "fresh", "approximation": how,
            **sweeps[0].task.schedules, **_names(equations),
        },
        constants={"P": sweeps[0].task.P, "teacher_readout": sweeps[0].task.teacher_readout},
    )  # fmt: skip


SOLVER = Solver(
    "equations of descents", DescentOptions, solve_descent,
    ": they take samples= and scrambles=, and keep all steps",
)  # fmt: skip

"""`simulate`: finite-dimensional one-pass SGD over seeds, the witness of the theory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.checks import checked_or
from dmft.emit.schedules import as_expressions
from dmft.errors import BadParameter
from dmft.model import (
    CONSTRAINTS,
    SGD,
    Alignment,
    GradientDescent,
    Model,
    Overlaps,
    SequenceModel,
    random_overlaps,
)
from dmft.model.algorithm import refuse
from dmft.names import VERSION, Status
from dmft.progress import ProgressOption
from dmft.simulation.clock import Clock
from dmft.simulation.declaration import Experiment, declare_experiment
from dmft.simulation.descent import simulate_descent
from dmft.simulation.ensemble import Ensemble, SeedRun, averaged, passages
from dmft.simulation.jobs import March, check_time, run_seeds, save_steps
from dmft.simulation.passage import FirstPassage, watch_nothing
from dmft.simulation.risk import Rule
from dmft.simulation.runner import Runner
from dmft.simulation.sequences.runs import simulate_sequence
from dmft.simulation.steps.chain import chain_runner
from dmft.simulation.steps.factor import factor
from dmft.simulation.steps.optimiser import pace
from dmft.simulation.target_rule import quadrature_risk, risk_function, rule_of
from dmft.simulation.watched import Watch, levels, refuse_both, risen, watch_of
from dmft.simulation.weights import random_weights, weights_runner, weights_with_overlaps
from dmft.solvers.events import Event
from dmft.solvers.jobs import Job
from dmft.solvers.request import check_events
from dmft.special.streams import as_seeds, random_stream

# Streams of one seed: the start, then the steps of either method.
START_STREAM, WEIGHTS_STREAM, CHAIN_STREAM = range(3)
# A larger error of the risk's quadrature is said aloud.
RISK_ERROR_WARNED = 1e-6

Method = Literal["weights", "overlaps"]


@checked_or(
    algorithm="gradient flow has no steps: take its ode (dmft.derive, dmft.solve), or dmft.SGD "
    "with a small learning_rate"
)
def simulate(
    model: Model,
    algorithm: SGD | GradientDescent,
    dim: int,
    t_max: float,
    seeds: int | Sequence[int],
    start: Overlaps | Alignment | None = None,
    method: Method = "weights",
    *,
    save_at: int | ArrayLike | None = None,
    first_passage: FirstPassage | None = None,
    events: Event | Sequence[Event] = (),
    keep_runs: bool = True,
    threads: int | None = None,
    progress: ProgressOption = None,
    **parameters: Any,
) -> Any:
    r"""Run one-pass SGD in R^d for several seeds and average the overlaps.

    Equation    w_j <- w_j + gamma/(p n_b) sum_mu psi_j x/sqrt(d), psi_j = a_j sigma'(h_j) E,
                with `repeat` at the displaced fields or several times on the same batch,
                a_j <- a_j + rho_a gamma/(p d n_b) sum_mu E sigma(h_j); E = y - f, or y
    Shapes      mean.Q (T, p, p); mean.M (T, p, k); mean.risk (T,); runs with the seed first
    Scaling     t = steps * gamma / (p d); saved times are whole steps
    Valid for   any activation that `dmft.emit` can write | any d >= rank of the overlaps; both
                methods are exact in law, the risk is a quadrature at the saved overlaps; inputs
                x ~ N(0, I_d) or from clusters whose means are in the span of the teacher's rows
    Source      one_pass.md sections 0, B.2, B.6, D.2; batch_reuse.md D.1, D.2;
                structured_inputs.md (8)

    Parameters
    ----------
    model : Model
    algorithm : SGD, or GradientDescent on repeated data (by weights; t_max counts steps)
    dim : int
        Input dimension d.
    t_max : float
    seeds : int or sequence of int
        A number n means 0 .. n-1. Each seed has its own random streams.
    start : Overlaps, or Alignment of a sequence model; optional
        Weights are built with exactly these overlaps. Left out: random student rows (on the
        sphere under that constraint), orthonormal teacher rows, drawn anew for each seed.
    method : "weights" or "overlaps"
        Vectors in R^d, or the exact Markov chain of the overlaps, whose cost is independent of d.
    save_at : int or (T,) array, optional
        Number of equidistant times, or times, rounded to whole steps; 101 by default.
    first_passage : FirstPassage, optional
        Record when each run first passes a level, tested after every step.
    events : dmft.Event
        One event as in `dmft.solve`, in place of `first_passage`: on the risk, on a formula of the
        overlaps, or on the time, tested after every step. A quantity that is beyond its threshold
        after the first step has crossed it.
    keep_runs : bool
        Keep every seed's values in `.runs`.
    threads : int, optional
        Seeds run side by side; the number never changes a result. All cores by default.
    progress : None, bool or callable
    **parameters
        Values of symbols by name; ``learning_rate=``, ``label_noise=``, ``readout_rate=`` and
        ``batch_size=`` override. In a declared rate or batch the symbol d is `dim`. An expression
        in ``sympy.Symbol("t")``, a text or a function as ``learning_rate=`` is followed: each step
        takes its value at the time t of its start.

    Returns
    -------
    Ensemble; DescentEnsemble for gradient descent, SequenceEnsemble for sequence models

    Raises
    ------
    BadParameter, ShapeMismatch

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> model, sgd = dmft.Model(square, square), dmft.SGD(0.05, constraint="sphere")
    >>> start = dmft.Overlaps([[1.0]], [[0.5]])
    >>> runs = dmft.simulate(model, sgd, 1000, 1.0, 4, start, "overlaps", save_at=3)
    >>> runs.t.round(3).tolist(), runs.mean.M.shape, str(runs.status)
    ([0.0, 0.5, 1.0], (3, 1, 1), 'ok')
    """
    own_names = {name for name in parameters if hasattr(algorithm, name)}
    parameters = as_expressions(parameters, own_names)
    refuse_both(first_passage, events)
    own = isinstance(model, SequenceModel) or isinstance(algorithm, GradientDescent)
    if own and check_events(events):
        raise BadParameter("events= are for one-pass runs of committees; here: first_passage=")
    if isinstance(model, SequenceModel):
        return simulate_sequence(
            model, algorithm, dim, t_max, seeds, start, method, save_at=save_at,
            first_passage=first_passage, threads=threads, progress=progress, **parameters,
        )  # fmt: skip
    if isinstance(start, Alignment):
        raise BadParameter(f"committees start from dmft.Overlaps, got {start!r}")
    if isinstance(algorithm, GradientDescent):
        if method != "weights" or save_at is not None or first_passage:
            raise BadParameter(
                "gradient descent on repeated data is simulated by its weights, all steps saved"
            )
        return simulate_descent(
            model, algorithm, dim, cast(int, t_max), seeds, start,
            threads=threads, progress=progress, **parameters,
        )  # fmt: skip
    if method not in ("weights", "overlaps"):
        raise BadParameter(f'method must be "weights" or "overlaps", got {method!r}')
    numbers = as_seeds(seeds)
    experiment = declare_experiment(model, algorithm, dim, start, parameters)
    if method == "overlaps" and experiment.repeat and experiment.batch_size > 1:
        raise BadParameter(
            f"repeated batches of {experiment.batch_size} samples see each other's inputs, which "
            'the chain of overlaps does not keep: take method="weights", or batch_size=1'
        )
    if method == "overlaps":
        refuse(algorithm, "chain")
    _check_dimension(experiment, start)
    check_time(t_max)
    clock = experiment.clock(t_max)
    experiment = replace(experiment, step_rates=clock.rates)
    grid, total = save_steps(t_max, clock, save_at), int(clock.nearest(t_max))
    P = np.eye(experiment.k) if start is None else start.P
    rule = rule_of(experiment, P)
    event = watch_of(events, experiment.p, experiment.k, risk_function(experiment))
    plan = _Plan(model, experiment, start, method, clock, grid, total, first_passage, rule, event)
    runs = run_seeds(
        lambda seed, job: _run_seed(plan, seed, job), numbers, total, threads, progress
    )
    return _assemble(plan, numbers, runs, keep_runs)


@dataclass(frozen=True)
class _Plan:
    """Everything that the runs share."""

    model: Model
    experiment: Experiment
    start: Overlaps | None
    method: Method
    clock: Clock
    grid: NDArray[np.int64]
    total: int
    first_passage: FirstPassage | None
    rule: Rule
    event: Watch | None = None

    @property
    def stops(self) -> bool:
        """Whether a first passage ends a run."""
        watched = self.first_passage or self.event
        return watched is not None and watched.stop

    @property
    def last(self) -> int:
        """Step at which an event of the time ends the runs."""
        if (
            self.event is None
            or self.event.end is None
            or self.event.end > self.clock.at(self.total)
        ):
            return self.total + 1
        return int(self.clock.nearest(max(self.event.end, 0.0)))

    def runner(self, seed: int) -> Runner:
        """A run of this seed at its start."""
        chain, e = self.method == "overlaps", self.experiment
        draw = random_stream(seed, START_STREAM)
        steps = random_stream(seed, CHAIN_STREAM if chain else WEIGHTS_STREAM)
        if chain:
            start = self.start
            if start is None:
                start = random_overlaps(self.model, e.dim, seed, normalised=e.sphere)
            e, watch = self.watched(start.Q, start.M, start.P)
            return chain_runner(e, start, self.rule, watch, steps)
        if self.start is None:
            W, W_star = random_weights(e.p, e.k, e.dim, e.sphere, draw)
        else:
            W, W_star = weights_with_overlaps(self.start, e.dim, draw)
        pairs = ((W, W), (W, W_star), (W_star, W_star))
        e, watch = self.watched(*(x @ y.T / e.dim for x, y in pairs))
        return weights_runner(e, (W, W_star), self.rule, watch, steps)

    def watched(
        self, Q: NDArray[np.float64], M: NDArray[np.float64], P: NDArray[np.float64]
    ) -> tuple[Experiment, NDArray[np.float64]]:
        """The experiment as compiled code takes it, and what that watches in a run from here."""
        e = self.experiment
        if self.first_passage is not None:
            relative = self.first_passage.relative
            risk = quadrature_risk(e, Q, M, P, self.rule) if relative else 0.0
            return e, self.first_passage.watch(risk)
        if self.event is None or self.event.value is None:
            return e, watch_nothing()
        value = self.event.value
        side = self.event.side(quadrature_risk(replace(e, watched=value), Q, M, P, self.rule))
        return replace(e, watched=value if side > 0 else risen(value)), levels(self.event, side)


def _run_seed(plan: _Plan, seed: int, job: Job) -> SeedRun:
    e, points = plan.experiment, plan.grid.size
    Q = np.full((points, e.p, e.p), np.nan)
    M = np.full((points, e.p, e.k), np.nan)
    readout = np.full((points, e.p), np.nan)
    risk = np.full(points, np.nan)
    if job.cancelled():
        return SeedRun(Q, M, readout, risk, Status.INTERRUPTED, 0, None)
    runner = plan.runner(seed)
    march = March(runner, job, plan.stops)
    for i, target in enumerate(plan.grid):
        _carry_on(march, plan, int(target))
        if march.status is not Status.OK:
            break
        Q[i], M[i], readout[i] = runner.overlaps()
        here = replace(e, readout=readout[i])
        risk[i] = quadrature_risk(here, Q[i], M[i], runner.P, plan.rule)
    # What is watched for may happen after the last saved time.
    if march.status is Status.OK and (plan.first_passage or plan.event):
        _carry_on(march, plan, plan.total + (plan.stops and march.step == plan.last))
    return SeedRun(Q, M, readout, risk, march.status, march.step, march.passage)


def _carry_on(march: March, plan: _Plan, target: int) -> None:
    """Carry a run on to this step; an event of the time happens before the step after it."""
    march.to(min(target, plan.last))
    if march.status is Status.OK and march.step == plan.last:
        march.passage = plan.last
    if march.status is Status.OK and march.step < target:
        if plan.stops:
            march.status = Status.EVENT
        march.to(target)


def _assemble(
    plan: _Plan, seeds: tuple[int, ...], runs: list[SeedRun], keep_runs: bool
) -> Ensemble:
    e = plan.experiment
    arrays = {name: np.stack([getattr(r, name) for r in runs]) for name in Ensemble.AXES}
    found = averaged(arrays, seeds, tuple(r.status for r in runs))
    if not keep_runs:
        found["runs"] = None
    error = _risk_error(plan)
    provenance = {
        "method": plan.method,
        "time_step_times_dim": e.time_step * e.dim,
        "samples_per_step": e.batch_size,
        "time_unit": "t = steps * learning_rate / (p d)" + _in_words(pace(e.numbers)),
        "approximation": "exact in law; risk by quadrature",
        "risk_quadrature_error": error,
        "start": "random" if plan.start is None else "given overlaps",
        "first_passage": repr(plan.first_passage),
        "watched": None if plan.first_passage is None else asdict(plan.first_passage),
        "event": None if plan.event is None else plan.event.event.name,
        "version": VERSION,
    }
    if e.schedule is not None:  # no constant unit
        provenance |= {"time_step_times_dim": None, "steps_at_saved_times": plan.grid.tolist()}
    return Ensemble(
        t=plan.clock.at(plan.grid),
        **found,
        dim=e.dim,
        first_passage=passages(runs, plan.clock.at) if plan.first_passage or plan.event else None,
        provenance=_described(e, provenance),
        constants={"P": np.eye(e.k) if plan.start is None else plan.start.P},
    )


def _in_words(faster: float) -> str:
    """What the time of a step is multiplied with."""
    return "" if faster == 1.0 else f" * {faster:.6g}"


def _described(experiment: Experiment, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance of a run, as plain values that a file can hold."""
    scheduled = experiment.schedule
    return {
        "student": str(experiment.student.expr),
        "teacher": str(experiment.teacher.expr),
        "readout": experiment.readout.tolist(),
        "teacher_readout": experiment.teacher_readout.tolist(),
        "learning_rate": experiment.learning_rate,
        "label_noise": experiment.label_noise,
        "batch_size": experiment.batch_size,
        "constraint": CONSTRAINTS[experiment.constraint] or "none",
        "readout_rate": experiment.readout_rate,
        **experiment.numbers,
        "loss": "own rule" if experiment.loss is None else str(experiment.loss),
        "dim": experiment.dim,
        **({} if experiment.inputs is None else {"inputs": repr(experiment.inputs)}),
        **({"repeat": list(experiment.repeat)} if experiment.repeat else {}),
        **({"learning_rate_schedule": str(scheduled.expr)} if scheduled else {}),
        **extra,
    }


def _risk_error(plan: _Plan) -> float:
    """Change of the risk under a rule twice as fine, at typical overlaps of this experiment."""
    e = plan.experiment
    start = plan.start
    if start is None:
        start = random_overlaps(plan.model, max(e.dim, e.p + e.k), 0, normalised=e.sphere)
    finer = rule_of(e, start.P, 0.5)
    coarse, fine = (
        quadrature_risk(e, start.Q, start.M, start.P, rule) for rule in (plan.rule, finer)
    )
    error = abs(coarse - fine)
    if error > RISK_ERROR_WARNED:
        warnings.warn(
            f"the quadrature of the risk is off by about {error:.1e} for these activations; "
            "overlaps are not affected",
            UserWarning,
            stacklevel=4,
        )
    return error


def _check_dimension(e: Experiment, start: Overlaps | None) -> None:
    need = e.k if start is None else factor(start.Omega)[0].shape[1]
    if e.dim < need:
        raise BadParameter(
            f"dim = {e.dim} cannot hold these weights: their overlaps have rank {need}"
        )

"""`simulate`: finite-dimensional one-pass SGD over seeds, the witness of the theory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.checks import checked_or
from dmft.errors import BadParameter
from dmft.model import (
    CONSTRAINTS,
    SGD,
    Alignment,
    GradientDescent,
    Model,
    Overlaps,
    SequenceModel,
    check_isotropic,
    random_overlaps,
)
from dmft.model.algorithm import refuse
from dmft.model.loss import NAMED
from dmft.names import BLOCK, BLOCKS, KEPT, VERSION, Status
from dmft.progress import ProgressOption
from dmft.simulation.clock import Clock
from dmft.simulation.declaration import Experiment, declare_experiment
from dmft.simulation.descent import simulate_descent
from dmft.simulation.ensemble import Ensemble, SeedRun, averaged, passages
from dmft.simulation.following import ANEW, UNITS, FollowingMarch, at_own_rates, times_to_save
from dmft.simulation.jobs import March, check_time, run_seeds, save_steps
from dmft.simulation.passage import FirstPassage, watch_nothing
from dmft.simulation.risk import Rule
from dmft.simulation.runner import Runner
from dmft.simulation.sequences.runs import simulate_sequence
from dmft.simulation.steps.chain import chain_runner
from dmft.simulation.steps.factor import factor
from dmft.simulation.steps.optimiser import kept_rows, pace
from dmft.simulation.target_rule import quadrature_risk, rule_of
from dmft.simulation.weights import (
    random_weights,
    weights_by_block,
    weights_runner,
    weights_with_overlaps,
)
from dmft.solvers.jobs import Job
from dmft.solvers.solution import ABOVE, COUNTED
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
    keep_runs : bool
        Keep every seed's values in `.runs`.
    threads : int, optional
        Seeds run side by side; the number never changes a result. All cores by default.
    progress : None, bool or callable
    **parameters
        Values of symbols by name; ``learning_rate=``, ``label_noise=``, ``readout_rate=`` and
        ``batch_size=`` override. In a declared rate or batch the symbol d is `dim`. An expression
        in ``sympy.Symbol("t")`` and ``sympy.Symbol("risk")`` as ``learning_rate=`` is followed:
        each step takes its value at the time of its start, and at the risk, which is measured
        anew every d/200 steps. With the risk each run has steps of its own, whose mean number
        `steps` gives.

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
    if method == "overlaps" and experiment.update and experiment.batch_size > 1:
        raise BadParameter(
            f"repeated batches of {experiment.batch_size} samples see each other's inputs, which "
            "the chain of overlaps does not keep, and other updates of its own are of one sample: "
            'take method="weights", or batch_size=1'
        )
    if method == "overlaps":
        refuse(algorithm, "chain")
        check_isotropic(model, "the chain of overlaps is written")
    _check_dimension(experiment, start)
    check_time(t_max)
    experiment, clock, grid, total = _timed(experiment, t_max, save_at)
    P = _teacher(experiment, start)
    rule = rule_of(experiment, P)
    if experiment.follows_risk:  # single steps from Python: threads would wait for each other
        threads = 1
    plan = _Plan(model, experiment, start, method, clock, grid, total, first_passage, rule)
    counted = UNITS if experiment.follows_risk else total
    runs = run_seeds(
        lambda seed, job: _run_seed(plan, seed, job), numbers, counted, threads, progress
    )
    return _assemble(plan, numbers, runs, keep_runs)


def _timed(
    experiment: Experiment, t_max: float, save_at: int | ArrayLike | None
) -> tuple[Experiment, Clock | None, NDArray[Any], Any]:
    """Steps that are saved and their number; times where each run has a clock of its own."""
    if experiment.follows_risk:
        return experiment, None, times_to_save(t_max, save_at), float(t_max)
    clock = experiment.clock(t_max)
    experiment = replace(experiment, step_rates=clock.rates)
    return experiment, clock, save_steps(t_max, clock, save_at), int(clock.nearest(t_max))


@dataclass(frozen=True)
class _Plan:
    """Everything that the runs share."""

    model: Model
    experiment: Experiment
    start: Overlaps | None
    method: Method
    # Of all runs; None where each has its own, then of times in place of steps.
    clock: Clock | None
    grid: NDArray[Any]
    total: Any
    first_passage: FirstPassage | None
    rule: Rule

    @property
    def stops(self) -> bool:
        """Whether a first passage ends a run."""
        return self.first_passage is not None and self.first_passage.stop

    def runner(self, seed: int, e: Experiment) -> Runner:
        """A run of this seed at its start."""
        chain = self.method == "overlaps"
        draw = random_stream(seed, START_STREAM)
        steps = random_stream(seed, CHAIN_STREAM if chain else WEIGHTS_STREAM)
        if chain:
            start = self.start
            if start is None:
                start = random_overlaps(self.model, e.dim, seed, normalised=e.sphere)
            watch = self.watch(start.Q, start.M, start.P)
            return chain_runner(e, start, self.rule, watch, steps)
        if e.spectrum is not None:
            start = self.start or random_overlaps(self.model, e.dim, seed)
            W, W_star = weights_by_block(start, e.spectrum.counts(e.dim), draw)
        elif self.start is None:
            W, W_star = random_weights(e.p, e.k, e.dim, e.sphere, draw)
        else:
            W, W_star = weights_with_overlaps(self.start, e.dim, draw)
        variances = 1.0 if e.spectrum is None else e.deviations**2
        pairs = ((W, W), (W, W_star), (W_star, W_star))
        watch = self.watch(*(variances * x @ y.T / e.dim for x, y in pairs))
        return weights_runner(e, (W, W_star), self.rule, watch, steps)

    def march(self, seed: int, job: Job) -> tuple[March | FollowingMarch, Runner]:
        """Progress of a run from its start, and the run."""
        e = self.experiment
        if e.schedule is None or not e.follows_risk:
            runner = self.runner(seed, e)
            return March(runner, job, self.stops), runner
        own, rates = at_own_rates(e)
        runner = self.runner(seed, own)
        march = FollowingMarch(
            runner, job, self.stops, e.schedule, e.time_of_rate, rates,
            lambda: self.risk(runner), max(1, round(ANEW * e.dim)), UNITS / self.total,
        )  # fmt: skip
        return march, runner

    def risk(self, runner: Runner) -> float:
        """Population risk of a run where it is."""
        found = runner.overlaps()
        here = replace(self.experiment, readout=found["readout"])
        return quadrature_risk(here, found["Q"], found["M"], runner.P, self.rule)

    def watch(
        self, Q: NDArray[np.float64], M: NDArray[np.float64], P: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What compiled code watches in a run that starts here."""
        if self.first_passage is None:
            return watch_nothing()
        relative = self.first_passage.relative
        risk = quadrature_risk(self.experiment, Q, M, P, self.rule) if relative else 0.0
        return self.first_passage.watch(risk)


def _run_seed(plan: _Plan, seed: int, job: Job) -> SeedRun:
    e, points = plan.experiment, plan.grid.size
    shapes: dict[str, tuple[int, ...]] = {"Q": (e.p, e.p), "M": (e.p, e.k)}
    kept = kept_rows(e.numbers)
    names = [n for n in KEPT if all(part in (*kept, "Q", "M") for part in n.split("_"))]
    shapes |= {n: (e.p, e.k if n[-1] == "M" else e.p) for n in names}
    if e.spectrum is not None:
        shapes |= {f"{BLOCK}{n}": (e.spectrum.blocks, *shape) for n, shape in shapes.items()}
    shapes |= {"readout": (e.p,), "risk": ()}
    values = {name: np.full((points, *shape), np.nan) for name, shape in shapes.items()}
    if job.cancelled():
        return SeedRun(values, Status.INTERRUPTED, 0, None, np.zeros(points))
    march, runner = plan.march(seed, job)
    steps = np.zeros(points)
    for i, target in enumerate(plan.grid):
        march.to(target)
        if march.status is not Status.OK:
            break
        for name, value in runner.overlaps().items():
            values[name][i] = value
        values["risk"][i], steps[i] = plan.risk(runner), march.step
    # What is watched for may happen after the last saved time.
    if march.status is Status.OK and plan.first_passage is not None:
        march.to(plan.total)
    clock = getattr(march, "clock", None)
    return SeedRun(values, march.status, march.step, march.passage, steps, clock)


def _assemble(
    plan: _Plan, seeds: tuple[int, ...], runs: list[SeedRun], keep_runs: bool
) -> Ensemble:
    e = plan.experiment
    arrays = {name: np.stack([r.values[name] for r in runs]) for name in runs[0].values}
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
        "version": VERSION,
    }
    if e.loss == NAMED["squared"]:
        provenance[ABOVE] = e.label_noise / 2
    if e.schedule is not None:  # no constant unit
        counted = [r.steps_saved for r in runs if r.status in COUNTED] or [plan.grid * math.nan]
        steps = plan.grid if plan.clock else np.mean(counted, axis=0)
        provenance |= {"time_step_times_dim": None, "steps_at_saved_times": steps.tolist()}
    return Ensemble(
        t=plan.clock.at(plan.grid) if plan.clock else plan.grid,
        **found,
        dim=e.dim,
        first_passage=None if plan.first_passage is None else passages(runs, plan.clock),
        provenance=_described(e, provenance),
        constants=_constants(plan),
    )


def _teacher(experiment: Experiment, start: Overlaps | None) -> NDArray[np.float64]:
    """Teacher overlaps that the fields see."""
    e = experiment
    if e.spectrum is None:
        return np.eye(e.k) if start is None else start.P
    own = e.spectrum.teacher_blocks(e.k) if start is None else start.P
    P: NDArray[np.float64] = np.einsum("e,eij->ij", e.spectrum.eigenvalues, own)
    return P


def _constants(plan: _Plan) -> dict[str, NDArray[np.float64]]:
    """Overlaps of the teacher, by block where the inputs have a spectrum."""
    e, start = plan.experiment, plan.start
    found = {"P": _teacher(e, start)}
    if e.spectrum is not None:
        found[BLOCKS["P"]] = e.spectrum.teacher_blocks(e.k) if start is None else start.P
        found["eigenvalue"] = e.spectrum.eigenvalues
    return found


def _in_words(faster: float) -> str:
    """What the time of a step is multiplied with."""
    return "" if faster == 1.0 else f" * {faster:.6g}"


def _described(experiment: Experiment, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance of a run, as plain values that a file can hold."""
    scheduled, inputs = experiment.schedule, experiment.inputs or experiment.spectrum
    return {
        "student": str(experiment.student.expr),
        "teacher": str(experiment.teacher.expr),
        "readout": experiment.readout.tolist(),
        "teacher_readout": experiment.teacher_readout.tolist(),
        "learning_rate": None if experiment.follows_risk else experiment.learning_rate,
        "label_noise": experiment.label_noise,
        "batch_size": experiment.batch_size,
        "constraint": CONSTRAINTS[experiment.constraint] or "none",
        "readout_rate": experiment.readout_rate,
        **experiment.numbers,
        "loss": "own rule" if experiment.loss is None else str(experiment.loss),
        "dim": experiment.dim,
        **({} if inputs is None else {"inputs": repr(inputs)}),
        **({"update": experiment.update.__name__} if experiment.update else {}),
        **({"scalars": dict(experiment.scalars)} if experiment.scalars else {}),
        **({"passes": experiment.passes} if experiment.passes > 1 else {}),
        **({"learning_rate_schedule": str(scheduled.expr)} if scheduled else {}),
        **extra,
    }


def _risk_error(plan: _Plan) -> float:
    """Change of the risk under a rule twice as fine, at typical overlaps of this experiment."""
    e = plan.experiment
    start = plan.start
    if start is None:
        start = random_overlaps(plan.model, max(e.dim, e.p + e.k), 0, normalised=e.sphere)
    if e.spectrum is not None:
        start = e.spectrum.seen(start)
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
    if e.spectrum is not None:  # judged block by block
        return
    need = e.k if start is None else factor(start.Omega)[0].shape[1]
    if e.dim < need:
        raise BadParameter(
            f"dim = {e.dim} cannot hold these weights: their overlaps have rank {need}"
        )

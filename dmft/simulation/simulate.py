"""`simulate`: finite-dimensional one-pass SGD over seeds, the witness of the theory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.emit.quantities import as_expressions
from dmft.errors import BadParameter
from dmft.initial_conditions import steps_before
from dmft.laws import Law
from dmft.model import (
    CONSTRAINTS,
    SGD,
    Alignment,
    GradientDescent,
    Model,
    Overlaps,
    SequenceModel,
    as_count,
    check_isotropic,
    random_overlaps,
)
from dmft.model.algorithm import places, refuse
from dmft.model.loss import loss_expr
from dmft.model.overlaps import check_start
from dmft.model.random_network import RandomNetwork
from dmft.model.rule import update_of
from dmft.model.update import UpdateField, VectorRule
from dmft.names import BLOCKS, VERSION
from dmft.progress import ProgressOption
from dmft.simulation.clock import Tabled
from dmft.simulation.declaration import Experiment, Filler
from dmft.simulation.descent_runs import simulate_descent
from dmft.simulation.ensemble import Ensemble, FirstPassage, SeedRun, averaged, ends_of, passages
from dmft.simulation.jobs import UNITS, run_seeds
from dmft.simulation.networks import refuse_options, simulate_network
from dmft.simulation.plan import Method, Plan, block_teacher, run_seed, timed
from dmft.simulation.risk_arguments import laws_at
from dmft.simulation.risk_measures import (
    check_loss,
    class_teacher,
    loss_above_risk,
    quadrature_risk,
    risk_function,
    rule_of,
    with_outputs,
)
from dmft.simulation.sequence_runs import simulate_sequence
from dmft.simulation.steps.common import factor
from dmft.simulation.steps.optimiser import kept_rows, pace
from dmft.simulation.steps.rule_runs import simulate_rule
from dmft.simulation.watched import refuse_both, watch_of
from dmft.solvers.events import Event
from dmft.solvers.run import check_events
from dmft.solvers.solution import ABOVE, COUNTED
from dmft.special.sampling import as_seeds
from dmft.validation import checked_or

# A larger error of the risk's quadrature is said aloud.
RISK_ERROR_WARNED = 1e-6


@checked_or(
    algorithm="gradient flow has no steps: use its ode (dmft.derive, dmft.solve), or dmft.SGD "
    "with a small learning_rate"
)
def simulate(
    model: Model | RandomNetwork | VectorRule,
    algorithm: SGD | GradientDescent | None = None,
    dim: int = 0,
    t_max: float = 0.0,
    seeds: int | Sequence[int] = 1,
    start: Overlaps | Alignment | Law | float | Sequence[Law | float] | None = None,
    method: Method = "weights",
    *,
    save_at: int | ArrayLike | None = None,
    first_passage: FirstPassage | None = None,
    events: Event | Sequence[Event] = (),
    keep_runs: bool = True,
    threads: int | None = None,
    progress: ProgressOption = None,
    t_start: float | None = None,
    **parameters: Any,
) -> Any:
    r"""Simulate an algorithm in finite dimension for several seeds and average the overlaps.

    Equation    w_j <- w_j + gamma/(p n_b) sum_mu psi_j x/sqrt(d), psi_j = a_j sigma'(h_j) E;
                a_j <- a_j + rho_a gamma/(p d n_b) sum_mu E sigma(h_j); E = -dl/df
    Shapes      mean.Q (T, p, p); mean.M (T, p, k); mean.risk (T,); runs with the seed first
    Scaling     t = steps * gamma / (p d); saved times are whole steps
    Valid for   any activation that can be compiled; any d >= rank of the overlaps; both methods
                are exact in law. Inputs are x ~ N(0, I_d), x ~ N(0, Sigma) of a `Spectrum`, or
                from clusters with means in the span of the teacher's rows
    Source      theory/one_pass 0, B.2, B.6, D.2; theory/batch_reuse D.1, D.2;
                theory/structured_inputs (8)

    Parameters
    ----------
    model : Model, RandomNetwork, or UpdateField that declares a rule of vectors
    algorithm : SGD, UpdateField with an expression psi, or GradientDescent; optional
        Only for a `Model`. `GradientDescent` requires method "weights"; t_max then counts steps.
    dim : int
        Input dimension d, or the number N of sites of a `RandomNetwork`.
    t_max : float
        Final time of the runs (not their length).
    seeds : int or sequence of int
        Seeds; an integer n denotes the seeds 0, ..., n - 1. Each seed has separate random streams.
    start : Overlaps, Alignment (sequence models), law or number (RandomNetwork); optional
        Initial overlaps, from which weights are constructed exactly. By default student rows are
        random (on the sphere under that constraint) and teacher rows orthonormal, for each seed.
        A `RandomNetwork` requires a start.
    method : "weights" or "overlaps"
        Whether to simulate the weight vectors in R^d or the exact Markov chain of the overlaps,
        whose cost per step does not depend on d.
    save_at : int or (T,) array, optional
        Number of equidistant times (101 by default), or an array of times, which are rounded to
        whole steps.
    first_passage : FirstPassage, optional
        Level whose first passage is recorded for each run of an `SGD` or a sequence model. It is
        tested after every step.
    events : dmft.Event
        An event as in `dmft.solve`. It is tested after every step, and cannot be combined with
        `first_passage`. Its quantity may be the time, the risk or a formula in the overlaps; for
        sequence models a formula in ``e``, ``m`` and ``overlap``; for gradient descent also
        ``train_loss``, but not the risk. A quantity that is beyond its threshold after the first
        step counts as crossed. A risk that is not a polynomial requires one quadrature per step.
    keep_runs : bool
        Whether to keep the values for every seed in `.runs`. A `NetworkEnsemble` always does.
    threads : int, optional
        Number of threads, by default all cores. Results do not depend on it.
    progress, t_start
        As in `dmft.solve`.
    **parameters
        Values of symbols by name. ``learning_rate=``, ``label_noise=``, ``readout_rate=`` and
        ``batch_size=`` replace the declared values. In a declared rate or batch size, the symbol d
        is replaced by `dim`. ``learning_rate=`` may be a schedule as in `dmft.solve`. Each step
        uses its value at the start of the step; a risk in the rate is updated every d/200 steps.

    Returns
    -------
    Ensemble
        Means and errors over the seeds. For gradient descent a `DescentEnsemble`, and for sequence
        models a `SequenceEnsemble`.
    NetworkEnsemble
        For a `RandomNetwork`, with the options ``dt=``, ``lyapunov=``, ``jacobian=``.

    Raises
    ------
    BadParameter, ShapeMismatch

    Notes
    -----
    - The risk is computed by quadrature at the saved overlaps. It is NaN if a field of a smooth
      activation has a variance above 1e4.
    - With `repeat`, psi_j is evaluated at the fields after the extra step, or several times on one
      batch.
    - If a schedule depends on the risk, runs have different numbers of steps, and `steps` returns
      the mean.

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
    common: dict[str, Any] = {"save_at": save_at, "progress": progress, **parameters}
    if isinstance(model, RandomNetwork):
        refuse_options(algorithm or first_passage or events or t_start or method != "weights")
        return simulate_network(model, dim, t_max, seeds, start, threads=threads, **common)
    if method not in ("weights", "overlaps"):
        raise BadParameter(f'method must be "weights" or "overlaps", got {method!r}')
    if isinstance(model, VectorRule):
        _refuse_for_rules(algorithm or first_passage or events)
        common |= {"keep_runs": keep_runs, "t_start": t_start}
        return simulate_rule(model, dim, t_max, seeds, start, method, **common)
    algorithm, start = _checked(algorithm, start)
    parameters = as_expressions(parameters, {n for n in parameters if hasattr(algorithm, n)})
    refuse_both(first_passage, events)
    if isinstance(model, SequenceModel):
        alignments = simulate_sequence(
            model, algorithm, dim, t_max, seeds, start, method, save_at=save_at,
            first_passage=first_passage, events=events, threads=threads, progress=progress,
            t_start=t_start, **parameters,
        )  # fmt: skip
        return alignments if keep_runs else replace(alignments, runs=None)
    start = _of_rows(start)
    if isinstance(algorithm, GradientDescent):
        _check_descent(method != "weights" or save_at is not None or first_passage or t_start)
        descents = simulate_descent(
            model, algorithm, dim, cast(int, t_max), seeds, start,
            events=events, threads=threads, progress=progress, **parameters,
        )  # fmt: skip
        return descents if keep_runs else replace(descents, runs=None)
    numbers = as_seeds(seeds)
    experiment = declare_experiment(model, algorithm, dim, start, parameters, t_start)
    if method == "overlaps" and experiment.update and experiment.batch_size > 1:
        raise BadParameter(
            f'method="overlaps" supports this update for one sample per step only, not for '
            f"{experiment.batch_size}: repeated steps depend on the inputs of the other samples, "
            'which the chain of overlaps does not contain; use method="weights", or batch_size=1'
        )
    if experiment.parts and (first_passage or check_events(events)):
        raise BadParameter(
            f"runs with {model.outputs} outputs do not support first_passage= and events=: use the "
            "saved overlaps"
        )
    if method == "overlaps":
        refuse(algorithm, "chain", numbers=experiment.numbers)
        check_isotropic(model, "the chain of overlaps is written")
    _check_dimension(experiment, start)
    experiment, clock, grid, total = timed(experiment, t_max, save_at)
    rule = rule_of(experiment, _teacher(experiment, start))
    if experiment.follows_risk:  # single steps from Python: threads would wait for each other
        threads = 1
    _check_watched(model, first_passage, events)
    event = watch_of(events, experiment.p, experiment.k, risk_function(experiment))
    if event is not None and event.end is not None and clock is None:
        raise BadParameter(
            "events on the time are not supported if the learning rate depends on the risk: pass "
            "t_max"
        )
    plan = Plan(model, experiment, start, method, clock, grid, total, first_passage, rule, event)
    own = UNITS if experiment.follows_risk else total
    runs = run_seeds(lambda seed, job: run_seed(plan, seed, job), numbers, own, threads, progress)
    return _assemble(plan, numbers, runs, keep_runs)


def _refuse_for_rules(given: object) -> None:
    if given:
        raise BadParameter(
            "rules of vectors have no algorithm=, first_passage= or events=: "
            "simulate(rule, dim=, t_max=, seeds=, start=, method=, save_at=, t_start=)"
        )


def _of_rows(start: Overlaps | Alignment | None) -> Overlaps | None:
    if isinstance(start, Alignment):
        raise BadParameter(f"committees start from dmft.Overlaps, got {start!r}")
    return start


def _check_descent(given: Any) -> None:
    if given:
        raise BadParameter(
            'gradient descent on repeated data is simulated with method="weights" from step 0 and '
            "saves all steps: leave out save_at=, t_start= and first_passage= (use events=)"
        )


def _checked(algorithm: Any, start: Any) -> tuple[Any, Overlaps | Alignment | None]:
    """Algorithm and start of a model, refused where either is not one."""
    if algorithm is None:
        raise BadParameter("simulate needs an algorithm: dmft.SGD or dmft.GradientDescent")
    if not isinstance(start, Overlaps | Alignment | None):
        raise BadParameter(f"models start from dmft.Overlaps or dmft.Alignment, got {start!r}")
    return algorithm, start


def declare_experiment(
    model: Model,
    algorithm: SGD,
    dim: int,
    start: Overlaps | None,
    values: Mapping[str, float],
    t_start: float | None = None,
) -> Experiment:
    """Fill in every symbol of model and algorithm; refuse what cannot be simulated.

    `values` maps names of symbols to numbers; "learning_rate" and "label_noise" override what is
    declared.
    """
    if not isinstance(model, Model):
        raise BadParameter(f"simulate needs a dmft.Model, got {model!r}")
    if not isinstance(algorithm, SGD):
        raise BadParameter(
            f"simulate runs dmft.SGD, got {algorithm!r}; gradient flow has no steps: use SGD "
            "with a small learning_rate, or dmft.solve"
        )
    check_loss(model, algorithm)
    dim = as_count(dim, "dim")
    if algorithm.constraint is not None:
        check_isotropic(model, "rows on the sphere are simulated")
    filler = Filler(values, dim)
    readout_rate = filler.scalar(algorithm.readout_rate, "readout_rate")
    rate, schedule, begin = filler.rate(algorithm.learning_rate, start, t_start)
    noise = filler.scalar(model.label_noise, "label_noise")
    flip = filler.scalar(model.label_flip, "label_flip")
    if not 0.0 <= flip <= 1.0:
        raise BadParameter(f"label_flip = {flip:g} is a probability: it must lie in [0, 1]")
    for name, value in (("label_noise", noise), ("readout_rate", readout_rate)):
        if value < 0.0:
            raise BadParameter(f"{name} = {value:g} must be non-negative")
    if start is not None:
        check_start(start, model, algorithm.constraint)
    a = filler.readout(model.student, "student", None if start is None else start.p)
    a_star = filler.readout(model.teacher, "teacher", None if start is None else start.k)
    if start is not None and start.readout is not None:
        a = start.readout.copy()
    numbers = filler.numbers(algorithm)
    trained = ("readout",) if readout_rate else ()
    refuse(algorithm, *places(algorithm), *trained, numbers=numbers)
    own_rule, several = isinstance(algorithm, UpdateField), model.outputs > 1
    if isinstance(algorithm, UpdateField):
        student = filler.rule(model, algorithm, a)
    else:
        student = filler.activation(model.student, "student")
    experiment = Experiment(
        student=student,
        teacher=filler.teacher(class_teacher(model) if several else model.teacher),
        readout=a,
        teacher_readout=a_star,
        learning_rate=rate,
        label_noise=noise,
        batch_size=filler.batch(algorithm.batch_size, dim),
        constraint=CONSTRAINTS.index(algorithm.constraint),
        dim=dim,
        readout_rate=readout_rate,
        label_flip=flip,
        draws_labels=model.draws_labels,
        shortened=filler.shortening(algorithm),
        numbers=numbers,
        loss=None if own_rule else loss_expr("squared" if several else algorithm.loss),
        update=None if own_rule or hasattr(algorithm, "scale") else update_of(algorithm.rule),
        scalars=filler.scalars(algorithm),
        passes=algorithm.rule.passes,
        inputs=model.clusters,
        spectrum=model.spectrum,
        schedule=schedule,
        begin=begin,
    )
    if several:
        experiment = with_outputs(experiment, model, algorithm, filler)
    if hasattr(algorithm, "scale"):
        from dmft.simulation.plan import with_scaled_steps

        experiment = with_scaled_steps(experiment, algorithm, start, filler)
    filler.check_all_used()
    return experiment


def _check_rows(experiment: Experiment, start: Overlaps | None) -> None:
    """Refuse velocities and averages of a start, which simulations begin with zero and w."""
    memory = {} if start is None else start.memory or {}
    held = [row for row in kept_rows(experiment.numbers) if np.any(memory.get(row, 0.0))]
    if held:
        raise BadParameter(
            f"the start has rows of an earlier run ({', '.join(held)}), but simulations begin with "
            "zero velocities and with averages at the weights: simulate from the start of that "
            "run, or leave memory= out of the start"
        )


def _check_watched(
    model: Model, first_passage: FirstPassage | None, events: Event | Sequence[Event]
) -> None:
    """Refuse to watch in single steps what these do not know."""
    watches_risk = events or getattr(first_passage, "observable", "") == "risk"
    if watches_risk and None not in (model.clusters, model.blocks):
        raise BadParameter(
            "single steps provide overlaps averaged over clusters, not by cluster and block: "
            "for clusters with different covariances use FirstPassage('overlap', ...), or "
            "save often"
        )


def _assemble(plan: Plan, seeds: tuple[int, ...], runs: list[SeedRun], keep_runs: bool) -> Ensemble:
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
        "time_unit": _unit(e),
        "approximation": "exact in law; risk by quadrature",
        "risk_quadrature_error": error,
        **{f"{name}_quadrature_error": spread for name, spread in plan.measured.items()},
        "start": "random" if plan.start is None else "given overlaps",
        "first_passage": repr(plan.first_passage),
        "watched": None if plan.first_passage is None else asdict(plan.first_passage),
        "event": None if plan.event is None else plan.event.event.name,
        "version": VERSION,
    }
    above = loss_above_risk(e)
    if above is not None:
        provenance[ABOVE] = above
    if isinstance(e.schedule, Tabled):
        provenance["time_step_times_dim"] = 1.0
    elif e.schedule is not None:  # no constant unit
        counted = [r.steps_saved for r in runs if r.status in COUNTED] or [plan.grid * math.nan]
        steps = plan.grid if plan.clock else np.mean(counted, axis=0)
        steps = steps + e.dim * steps_before(plan.start, e.begin)
        provenance |= {"time_step_times_dim": None, "steps_at_saved_times": steps.tolist()}
    return Ensemble(
        t=plan.clock.at(plan.grid) if plan.clock else plan.grid,
        **found,
        dim=e.dim,
        first_passage=passages(runs, plan.clock) if plan.first_passage or plan.event else None,
        ends=ends_of(runs, plan.stops),
        provenance=_described(e, provenance),
        constants=_constants(plan),
    )


def _teacher(experiment: Experiment, start: Overlaps | None) -> NDArray[np.float64]:
    e = experiment
    if e.spectrum is None:
        return np.eye(e.k) if start is None else start.P
    own = block_teacher(e, start)
    P: NDArray[np.float64] = np.einsum("e,eij->ij", e.spectrum.eigenvalues, own)
    return P


def _constants(plan: Plan) -> dict[str, NDArray[np.float64]]:
    """Overlaps of the teacher, by block where the inputs have a spectrum."""
    e, start = plan.experiment, plan.start
    found = {"P": _teacher(e, start)}
    if e.spectrum is not None:
        found[BLOCKS["P"]] = block_teacher(e, start)
        found["eigenvalue"] = e.spectrum.eigenvalues
    return found


def _unit(experiment: Experiment) -> str:
    if isinstance(experiment.schedule, Tabled):
        return "t = steps / d"
    faster = pace(experiment.numbers)
    return "t = steps * learning_rate / (p d)" + ("" if faster == 1.0 else f" * {faster:.6g}")


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
        **({"label_flip": experiment.label_flip} if experiment.label_flip else {}),
        **({"labels": "drawn about the teacher"} if experiment.draws_labels else {}),
        "batch_size": experiment.batch_size,
        "constraint": CONSTRAINTS[experiment.constraint] or "none",
        "readout_rate": experiment.readout_rate,
        **experiment.numbers,
        "loss": "own rule" if experiment.rule else str(experiment.loss),
        "dim": experiment.dim,
        **({} if inputs is None else {"inputs": str(inputs)}),
        **({"update": experiment.update.__name__} if experiment.update else {}),
        **({"scalars": dict(experiment.scalars)} if experiment.scalars else {}),
        **({"passes": experiment.passes} if experiment.passes > 1 else {}),
        **({"learning_rate_schedule": str(scheduled.expr)} if scheduled else {}),
        **extra,
    }


def _risk_error(plan: Plan) -> float:
    """Change of the risk under a rule twice as fine, at typical overlaps of this experiment."""
    e = plan.experiment
    start = plan.start
    if e.parts:  # each output has a rule of its own, which is not refined
        return math.nan
    if start is None:
        start = random_overlaps(plan.model, max(e.dim, e.p + e.k), 0, normalised=e.sphere)
    spectrum = e.spectrum
    if spectrum is not None:
        if e.inputs is not None:
            e = replace(e, laws=laws_at(e.inputs, start.Q, start.M, start.P))
        start = spectrum.seen(start)
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
    _check_rows(e, start)
    if e.spectrum is not None:  # judged block by block
        return
    need = e.k if start is None else factor(start.Omega)[0].shape[1]
    if e.dim < need:
        raise BadParameter(
            f"dim = {e.dim} is too small for these weights: their overlaps have rank {need}"
        )

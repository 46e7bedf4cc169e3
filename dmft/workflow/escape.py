"""`escape_time`: when a run, or equations from a start, escape; `batch_exponents`.

Number of steps against batch size (theory/one_pass D.3): with n_b = d^mu samples a step and
overlaps m_0 ~ d^(-1/2) at the start, weak recovery of a target of information exponent l takes of
the order of d^theta steps. The learning rate eta = gamma/d is limited by the noise of the sampled
gradient (it inflates the rows by eta^2 (d/n_b) V m / 2 a step, which must not beat eta c m^(l-1))
and, where the update holds the network's own output, by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import sympy as sp

from dmft.analysis.escape import escape_time_of, escape_time_of_problem
from dmft.equations.averages.conditioned import smooth
from dmft.equations.equations import Equations
from dmft.errors import BadParameter
from dmft.gaussian.exponents.record import Exponent
from dmft.initial_conditions import check_end
from dmft.model import Alignment, Overlaps, as_count
from dmft.record import InLatex, Shown
from dmft.solvers.problem import Problem
from dmft.solvers.trajectory import Trajectory
from dmft.summary import Summary
from dmft.typeset.fragment import align
from dmft.validation import checked
from dmft.workflow.solve import as_expressions
from dmft.workflow.solving.inputs import problem_of, split_options
from dmft.workflow.solving.one_pass import check_start, prepared

if TYPE_CHECKING:
    from dmft.analysis.escape_paths import EscapeTimes
    from dmft.simulation.ensemble import Ensemble
    from dmft.simulation.sequence_runs import SequenceEnsemble
    from dmft.solvers.stochastic.ensemble import PathEnsemble

# Tolerances where rates jump when a kink passes a node: finer steps would follow the nodes.
KINKED = {"rtol": 1e-6, "atol": 1e-8, "default": "rk5"}


@checked
def escape_time(
    run_or_equations: (
        Trajectory | PathEnsemble | Ensemble | SequenceEnsemble | Equations | Problem
    ),
    start: Overlaps | Alignment | Sequence[Overlaps] | None = None,
    t_max: float | None = None,
    *,
    fraction: float = 0.5,
    reference: str = "start",
    overlap: float | None = None,
    observable: str = "risk",
    threshold: float | None = None,
    **options: Any,
) -> Any:
    r"""Compute the first time at which the risk falls by a fraction or an overlap reaches a value.

    Equation    first t with risk(t) <= (1 - fraction) * reference risk; with `overlap=c`, the
                first t with max_jr |M_jr| / sqrt(Q_jj P_rr) >= c (for a sequence model |m| >= c)
    Scaling     t of the equations; `.steps(dim)` converts to steps
    Valid for   a threshold that is crossed within the run; otherwise the result is a `Censored`
                record with the final time
    Source      theory/one_pass F

    Parameters
    ----------
    run_or_equations : Trajectory, PathEnsemble, Ensemble, Equations or Problem
        A solved run (or its paths, with the same noise) is integrated again up to its last time.
        Equations require `start` and `t_max`, and an sde also `paths` and `dt`. A simulation must
        have been run with ``first_passage=dmft.FirstPassage("risk", 1 - fraction, relative=True)``.
    start : Overlaps
        Initial overlaps. For an sde also a list with one start per path, or None for random starts.
    t_max : float
        Final time. A schedule in time continues at the time of `start`, as in `dmft.solve`.
    fraction : float in (0, 1)
        Fraction of the reference risk by which the risk must fall.
    reference : {"start", "plateau"}
        Whether the reference is the risk at the start or on the plateau. The plateau is where
        |d log risk / d log t| is smallest.
    overlap : float in (0, 1], optional
        Threshold on the largest cosine between a student and a teacher direction, instead of the
        risk.
    observable : str
        Quantity used instead of the risk: a measure of a rule (`dmft.UpdateField`).
    threshold : float, optional
        Value that the observable crosses, in either direction, instead of `fraction`.
    **options
        Solver options and run-time parameters, as for `dmft.solve`.

    Returns
    -------
    EscapeTime or Censored
    EscapeTimes
        Distribution of escape times, for the paths of an sde and for simulations. The reference is
        the risk at the start of each run.

    Warns
    -----
    EscapeWarning
        If the threshold is crossed during the initial relaxation, before anything is learned.

    Notes
    -----
    The crossing is located on the dense output of a run of order 8 with rtol = 1e-10 and
    atol = 1e-15. If averages are computed by quadrature and have kinks, the run has order 5,
    rtol = 1e-6 and atol = 1e-8. Tolerances that are passed replace these values.

    Examples
    --------
    >>> import dmft
    >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), dmft.SGD(0.05, constraint="sphere"))
    >>> run = dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.1]], [[1.0]]), t_max=3.0)
    >>> round(dmft.escape_time(run, fraction=0.5).value, 6)
    0.824129
    """
    run = cast(Any, run_or_equations)
    how: dict[str, Any] = {
        "fraction": fraction, "reference": reference, "overlap": overlap,
        "observable": observable, "threshold": threshold,
    }  # fmt: skip
    of_paths, simulated = hasattr(run, "path_status"), hasattr(run, "first_passage")
    if isinstance(run, Trajectory) or of_paths or simulated:
        if start is not None or t_max is not None or options:
            raise BadParameter(
                "a solved run has its own start, horizon and options; pass the equations to "
                "change them"
            )
        if isinstance(run, Trajectory):
            return escape_time_of(run, **how)
        _check_noisy(reference, observable, threshold)
        if of_paths:
            from dmft.workflow.solving.paths import escape_times_of_ensemble

            return escape_times_of_ensemble(run, fraction, overlap)
        return _of_simulation(run, fraction, overlap)
    problem, options = problem_of(run), dict(as_expressions(run, options))
    if problem.kind == "sde" and problem.origin is not None:
        _check_noisy(reference, observable, threshold)
        return _of_equations(problem, cast(Any, start), t_max, fraction, overlap, options)
    if start is None or t_max is None:
        raise BadParameter("escape_time of equations needs start= and t_max=")
    check_start(problem.origin, start)
    solver, parameters = split_options(options)
    t_start = solver.pop("t_start", None)
    problem, inputs, _ = prepared(run, start, parameters, t_start, t_max)
    origin = problem.origin
    kinked = isinstance(origin, Equations) and origin.averages and not smooth(origin.averages)
    if kinked:
        solver = {**KINKED, **solver}
    return escape_time_of_problem(problem, inputs.pop("state"), t_max, **how, **inputs, **solver)


def _check_noisy(reference: str, observable: str, threshold: float | None) -> None:
    """Refuse what is not watched of noisy runs, and the plateau, which is found on a smooth run."""
    if reference != "start":
        raise BadParameter(
            f"reference = {reference!r}: the escape of noisy runs is measured relative to their "
            "start, or by an overlap (overlap=)"
        )
    if observable != "risk" or threshold is not None:
        raise BadParameter(
            "the escape of noisy runs is defined by the risk or an overlap; for other thresholds "
            "pass events= to dmft.solve"
        )


def _of_equations(
    problem: Problem,
    start: Overlaps | Sequence[Overlaps] | None,
    t_max: float | None,
    fraction: float,
    overlap: float | None,
    options: Mapping[str, Any],
) -> EscapeTimes:
    """Escape times of the paths of an sde."""
    from dmft.analysis.escape_paths import escape_of_paths
    from dmft.workflow.solving.paths import SOLVER, at_schedule, path_inputs

    if t_max is None:
        raise BadParameter("escape_time of equations needs t_max=")
    solver, given = split_options(options)
    refused = sorted({"events", "save_at", "rtol", "atol", "max_steps"} & set(solver))
    if refused:
        raise BadParameter(f"{', '.join(refused)} do not apply to the escape of paths")
    own, values = SOLVER.read(solver, given)
    problem, at_start, begin = at_schedule(problem, start, own, values)
    check_end(t_max, begin)
    state, inputs = path_inputs(problem, start, replace(own, t_start=begin), at_start)
    rows = [np.reshape(state[b.name], (-1, b.size(inputs["widths"]))) for b in problem.state]
    return escape_of_paths(problem, np.concatenate(rows, axis=1), t_max, fraction, overlap, inputs)


def _of_simulation(
    run: Ensemble | SequenceEnsemble, fraction: float, overlap: float | None
) -> EscapeTimes:
    from dmft.analysis.escape_paths import escape_of_runs

    if "risk" not in run.mean:
        raise BadParameter(
            "runs of descents record no escape times: pass events=, for example "
            'dmft.simulate(..., events=dmft.Event("M[0,0]", 0.5, 1)), and read .first_passage'
        )
    values = run.runs if run.runs is not None else None
    count = len(run.seeds)
    risk = values.risk[:, 0] if values is not None else np.full(count, run.mean.risk[0])
    unit = run.provenance.get("time_step_times_dim")
    watched = run.provenance.get("watched")
    return escape_of_runs(run.first_passage, watched, risk, fraction, overlap, unit)


MU = sp.Symbol("mu", nonnegative=True)


@dataclass(frozen=True, repr=False)
class BatchExponents(InLatex, Shown):
    r"""Exponents of steps and samples as piecewise linear functions of mu = log_d n_b.

    Equation    steps ~ d^steps, samples ~ d^samples, eta_max = gamma_max / d ~ d^learning_rate
    Scaling     n_b = d^mu; m_0 ~ d^(-1/2); rows on the sphere; logarithms of d left out (l = 2)
    Valid for   weak recovery of one direction of information exponent l (leap l of a step) at the
                largest admissible learning rate; derived, and checked by iterating the maps
    Source      theory/one_pass D.3; derivations/large_batches.py

    Attributes
    ----------
    exponent : int
        Information exponent l.
    loss : "squared" or "correlation"
    mu : sympy.Symbol
    steps, samples, learning_rate : sympy.Expr
        Exponents as functions of mu.
    optimal_batch : sympy.Rational
        Largest mu for which the number of samples is as small as with small batches.
    one_step : sympy.Integer
        Value of mu above which one step suffices under the correlation loss, because its signal
        exceeds the noise.
    regions : tuple of ((mu_low, mu_high), str)
        Limiting factor of the number of steps in each interval of mu.

    Examples
    --------
    >>> import dmft
    >>> found = dmft.batch_exponents(3)
    >>> found.samples, found.regions[0][0]
    (mu + Max(1/2, 2 - mu), (0, 3/2))
    """

    source = "arnaboldi_2024"  # key of the bibliography

    exponent: int
    loss: str
    mu: sp.Symbol
    steps: sp.Expr
    samples: sp.Expr
    learning_rate: sp.Expr
    optimal_batch: sp.Expr
    one_step: sp.Expr
    regions: tuple[tuple[tuple[sp.Expr, sp.Expr], str], ...]

    def _summary(self) -> Summary:
        def power(value: sp.Expr) -> str:
            return f"$d^{{{sp.latex(value)}}}$"

        optimal = rf"$\mu = {sp.latex(self.optimal_batch)}$"
        regions = (
            (rf"${sp.latex(a)} \le \mu < {sp.latex(b)}$", "", text) for (a, b), text in self.regions
        )
        return Summary(
            f"Weak recovery at information exponent {self.exponent} with the {self.loss} loss and "
            r"batches of $n_b = d^\mu$ samples",
            (
                ("steps", power(self.steps), ""),
                ("samples", power(self.samples), "steps times $n_b$"),
                (r"$\eta_{max}$", power(self.learning_rate), r"largest $\eta = \gamma/d$"),
                ("largest batch", optimal, "that wastes no sample"),
                *regions,
            ),
        )

    def at(self, mu: Any) -> tuple[sp.Expr, sp.Expr]:
        """Return the exponents of steps and of samples at one mu.

        Parameters
        ----------
        mu : number
            Exponent mu >= 0 of the batch size n_b = d^mu.

        Returns
        -------
        (sympy.Expr, sympy.Expr)
            Powers of d of steps and of samples.

        Examples
        --------
        >>> import dmft
        >>> dmft.batch_exponents(3).at(1)
        (1, 2)
        """
        value = sp.nsimplify(sp.sympify(mu, strict=True))
        if value.is_number and not value >= 0:
            raise BadParameter(f"mu = log_d n_b must not be negative, got {mu!r}")
        return self.steps.subs(self.mu, value), self.samples.subs(self.mu, value)

    def latex(self) -> str:
        """LaTeX of the exponents (an amsmath `align*` environment)."""
        rows = [
            (r"\log_d(\text{steps})", self.steps),
            (r"\log_d(\text{samples})", self.samples),
            (r"\log_d \eta_{\max}", self.learning_rate),
            (r"\mu_{\mathrm{opt}}", self.optimal_batch),
        ]
        return align([f"{name} &= {sp.latex(value)}" for name, value in rows])


@checked
def batch_exponents(
    exponent: int | Exponent, loss: Literal["squared", "correlation"] = "squared"
) -> BatchExponents:
    r"""Compute the exponents of steps and samples as functions of the batch size n_b = d^mu.

    Equation    steps: max(l - 1 - mu, l/2 - 1) for the squared loss, max(l - 1 - mu, 0) for the
                correlation loss; max(1 - mu, 0) at l = 1
    Scaling     as in `BatchExponents`
    Source      theory/one_pass D.3

    Parameters
    ----------
    exponent : int or Exponent
        Information exponent l >= 1 (`dmft.information_exponent`), or the leap of a step.
    loss : "squared" or "correlation"

    Returns
    -------
    BatchExponents
        Exponents as functions of mu, the optimal batch size, and the regions of mu.

    Examples
    --------
    >>> import dmft
    >>> plain, correlation = dmft.batch_exponents(3), dmft.batch_exponents(3, "correlation")
    >>> plain.steps, plain.optimal_batch
    (Max(1/2, 2 - mu), 3/2)
    >>> correlation.steps, correlation.optimal_batch
    (Max(0, 2 - mu), 2)
    """
    order = sp.Integer(as_count(getattr(exponent, "value", exponent), "exponent"))
    if loss not in ("squared", "correlation"):
        raise BadParameter(f'loss must be "squared" or "correlation", got {loss!r}')
    own = loss == "squared"
    noise = MU - sp.Max(order / 2, 1)
    floor = sp.Max(order / 2 - 1, 0) if own else sp.S.Zero
    small = sp.Max(order - 1, 1)
    steps = sp.Max(small - MU, floor)
    best = small - floor
    return BatchExponents(
        exponent=int(order),
        loss=loss,
        mu=MU,
        steps=steps,
        samples=steps + MU,
        learning_rate=sp.Min(noise, 0) if own else noise,
        optimal_batch=best,
        one_step=order,
        regions=_regions(order, own, best),
    )


def _regions(
    order: sp.Integer, own: bool, best: sp.Expr
) -> tuple[tuple[tuple[sp.Expr, sp.Expr], str], ...]:
    noisy = ((sp.S.Zero, best), "gradient noise limits the rate: fewer steps, as many samples")
    if own and order > 2:
        return (noisy, ((best, sp.oo), "the network's own output limits the rate: samples wasted"))
    if own:
        return (noisy, ((best, sp.oo), "a number of steps of order one (log d): samples wasted"))
    last = ((order, sp.oo), "one step is enough")
    few = ((best, order), "a number of steps that grows slower than any power: samples wasted")
    return (noisy, few, last) if best < order else (noisy, last)

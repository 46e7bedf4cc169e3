"""What a run says about its learning rate: at or over the largest stable one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from dmft.equations.equations import Equations
from dmft.equations.update.optimiser import own_motion
from dmft.model import SGD, Committee, Model
from dmft.model.loss import LABEL, PREDICTION, error_expr
from dmft.names import Status
from dmft.solvers.trajectory import Trajectory, with_readout
from dmft.symbolic_lock import in_turn, once


def rate_message(equations: Equations, inputs: Mapping[str, Any]) -> str:
    """Words on a learning rate at which the perfect solution is not stable; empty below it.

    Said of what `dmft.maximal_learning_rate` is known for: flows of one-pass SGD with matched
    committees, orthonormal teachers and unit readouts.
    """
    algorithm = equations.algorithm
    reads = "learning_rate" in equations.parameters and equations.scaling == "high-dimensional"
    overlaps = equations.family == "overlaps"
    if not (reads and overlaps) or algorithm.is_flow or equations.is_changed:
        return ""
    if equations.kind == "map" or algorithm.trains_readout or equations.model.inputs is not None:
        return ""
    if equations.model.outputs > 1:
        return ""
    constants, widths = inputs["constants"], inputs["widths"]
    units = all(np.all(constants[name] == 1.0) for name in ("readout", "teacher_readout"))
    if not (units and np.array_equal(constants["P"], np.eye(widths["k"]))):
        return ""
    rate = inputs["parameters"]["learning_rate"]
    noise = inputs["parameters"].get("label_noise", 0.0)
    limit = _limit(equations.model, algorithm, widths["p"], widths["k"], noise)
    if limit is None or rate < limit:
        return ""
    return (
        f"; learning_rate = {rate:.6g} is not below the maximal learning rate {limit:.6g} "
        "(dmft.maximal_learning_rate): the perfect solution is not stable"
    )


RUNS_AWAY = (
    "; running away: for noiseless sign labels no weights are optimal. Lengths grow as t^(1/3) "
    "without bound, and the error rate falls as t^(-1/3)"
)

# A run ends this part of a table's largest deviation before it, or later.
NEARLY = 0.98
# Lengths that diverge grow faster than any power of the time; those that run away as t^(1/3).
SLOW_GROWTH = 1.0


def with_runaway(run: Trajectory, equations: Equations) -> Trajectory:
    """A run whose lengths grow for ever says so, with its power; others as they are.

    Averages are tabled up to a standard deviation; where such a run passes it, it has ended, which
    is no divergence: lengths grow as a power of the time.
    """
    if not run.t.size or not runs_away(equations, run.parameters):
        return run
    size = np.trace(with_readout(run).Q, axis1=1, axis2=2)
    if not size[-1] > size[0]:
        return run
    message = f"{run.message}{RUNS_AWAY}; tr Q = {size[-1]:.4g} at the end"
    half = int(np.searchsorted(run.t, run.t[-1] / 2.0))
    if half == 0 or half >= run.t.size - 1:
        return replace(run, message=message)
    power = float(np.log(size[-1] / size[half]) / np.log(run.t[-1] / run.t[half]) / 2.0)
    message += f", lengths as t^{power:.3f} over the last half of the time"
    if run.status in (Status.DIVERGED, Status.NONFINITE) and power < SLOW_GROWTH:
        message = (
            f"ended at t = {run.t[-1]:.6g}, where the output reaches the largest standard "
            "deviation of the tables of its averages; it does not "
            f"diverge{message[len(run.message) :]}"
        )
        return replace(run, status=Status.EVENT, message=message)
    return replace(run, message=message)


def beyond_tables(run: Trajectory, equations: Equations) -> Trajectory:
    """A run that ended where a field is wider than the tables of its averages says so.

    There compiled code has no number, which the integrator takes for a divergence.
    """
    if run.status not in (Status.DIVERGED, Status.NONFINITE) or not run.t.size:
        return run
    widest = _widest(equations)
    if widest is None or not {"Q", "readout"} <= set(with_readout(run).names):
        return run
    Q, a = (np.asarray(with_readout(run)[name])[-1] for name in ("Q", "readout"))
    rows = np.atleast_2d(a) / a.shape[-1]
    squares = [
        *np.diagonal(Q),
        *np.diagonal(rows @ Q @ rows.T),
        *np.diagonal(run.constants.get("P", Q)),
    ]
    deviation = float(np.sqrt(max(squares)))
    if deviation < NEARLY * widest:
        return run
    message = (
        f"ended at t = {run.t[-1]:.6g}, where a field reaches the standard deviation "
        f"{deviation:.4g}: the averages are tabulated up to {widest:g}, and the run stops there; "
        "it need not diverge. dmft.simulate can continue from here (run.final)"
    )
    return replace(run, status=Status.LEFT_DOMAIN, message=message)


@once
def _widest(equations: Equations) -> float | None:
    """Largest standard deviation that all tables of these equations hold; None without tables."""
    from dmft.gaussian.tables.factor_table import factor_table
    from dmft.gaussian.tables.tabled import TableAverage

    values = [one.value for one in equations.lowered if one.value is not None]
    tables = {q for value in values for q in value.atoms(TableAverage)}
    factors = {f for q in tables for f in q.factors}
    return min((factor_table(f).largest_deviation for f in factors), default=None)


def runs_away(equations: Equations, parameters: Mapping[str, float]) -> bool:
    """Whether lengths grow for ever: linear students of sign labels that are never wrong.

    Under losses whose error has the sign of the label for every output, as the logistic and the
    hinge loss (theory/structured_inputs (17a)).
    """
    algorithm, model = equations.algorithm, equations.model
    given = algorithm.loss
    if not isinstance(given, sp.Expr) or equations.kind == "map" or equations.is_changed:
        return False
    noisy = any(parameters.get(name, 0.0) > 0.0 for name in ("label_flip", "label_noise"))
    noisy |= model.draws_labels
    kept = algorithm.on_sphere or own_motion(algorithm)
    return not (noisy or kept) and _always_pulls(model, given)


@in_turn
@lru_cache(maxsize=64)
def _always_pulls(model: Model, loss: sp.Expr) -> bool:
    """Whether a linear student of one sign is pulled along the label whatever its output."""
    from dmft.equations.update.law import Cluster
    from dmft.equations.update.linear_students import line_of
    from dmft.equations.update.overlaps import sign_in

    if model.label_clusters is not None:
        return False
    label = sign_in(model, Cluster())
    line = line_of(model, label, False, False)
    if line is None or line.values[1] != -1 or not label.has(sp.sign):
        return False
    pull = error_expr(loss).xreplace({LABEL: sp.S.One})
    tried = (pull.subs(PREDICTION, f).evalf(30) for f in (-50, -5, -1, 0, 1, 5, 50))
    return all(value.is_number and value >= 0 for value in tried)


def _limit(model: Model, algorithm: SGD, p: int, k: int, noise: float) -> float | None:
    limit = _limit_of_noise(model, algorithm, p, k, noise != 0.0)
    return limit(noise) if callable(limit) else limit


@in_turn
@lru_cache(maxsize=64)
def _limit_of_noise(
    model: Model, algorithm: SGD, p: int, k: int, noisy: bool
) -> Callable[[float], float] | float | None:
    """The limit, where it depends on the label noise as a function for all points of a diagram."""
    if not isinstance(model.teacher, Committee):
        return None
    from dmft.equations.escape.recovery import perfect_limit  # for words, which few runs print

    noise = sp.Symbol("noise", positive=True)
    here = replace(
        model,
        student=replace(model.student, width=p),
        teacher=replace(model.teacher, width=k),
        label_noise=noise if noisy else 0,
    )
    limit = perfect_limit(here, algorithm, exact=False)
    if limit is None or limit.free_symbols - {noise}:
        return None
    if limit.is_number:
        return float(limit)
    function: Callable[[float], float] = sp.lambdify([noise], limit, "math")
    return function

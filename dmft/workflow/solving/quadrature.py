"""Runs whose averages are computed on nodes: how many nodes, and the error that they leave.

The error of a run is measured on the run itself: it is repeated with each group of nodes alone
(the replicas of a Sobol rule, the coarser Gauss-Hermite rule), and the spread of these
trajectories is the error at each saved time, amplified by the dynamics as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.gaussian.nodes.rules import MOST_TRAPEZOIDS, NodeRule
from dmft.names import Status
from dmft.solvers.trajectory import Trajectory

Array = NDArray[np.float64]
Solver = Callable[..., Trajectory]

# After such a run, one on more nodes would only be cut earlier.
CUT = (Status.TIMEOUT, Status.INTERRUPTED)
# The search for the number of nodes begins here and ends at this many in all.
FIRST_NODES, MOST_NODES = 512, 2**20
FIRST_POINTS = 24
# How the error of a rule falls with its nodes (measured: Sobol N^-1 to N^-1.5), to aim the search.
SOBOL_RATE = 1.1
# The measured error is uncertain itself: aim this much below the tolerance.
MARGIN = 1.5


def solve_on_nodes(
    solver: Solver, rule_of: Callable[[int | None], NodeRule], fixed: int | None, tolerance: float
) -> Trajectory:
    """Solve with enough nodes that the error of every overlap and of the risk meets a tolerance.

    Parameters
    ----------
    solver : function
        ``solver(rule, **changes)`` runs with the nodes of a rule and changed solver options.
    rule_of : function from a number of nodes (None: the default) to a rule
    fixed : int or None
        The number of nodes where the user chose it.
    tolerance : float
        Absolute, of overlaps of order one; relative where they are larger.
    """
    if not 0.0 < tolerance < 1.0:
        raise BadParameter(f"quadrature_tol = {tolerance!r} must lie in (0, 1)")
    first = {"gauss-hermite": FIRST_POINTS, "sobol": FIRST_NODES}
    count = fixed or first[rule_of(None).kind]
    while True:
        rule = rule_of(count)
        run = with_error(solver(rule), solver, rule)
        worst = relative_error(run)
        more = count if fixed else next_count(rule, count, worst / tolerance)
        if worst <= tolerance or more <= count or run.status in CUT:
            return described(run, rule, worst, tolerance)
        count = more


def on_nodes(inputs: Mapping[str, Any], rule: NodeRule) -> dict[str, Any]:
    """Inputs of a run with the nodes of another rule."""
    return {
        **inputs,
        "widths": {**inputs["widths"], "nodes": rule.weight.size},
        "constants": {**inputs["constants"], **rule.arrays},
    }


def next_count(rule: NodeRule, count: int, excess: float) -> int:
    """Nodes that should meet the tolerance; not more than the budget allows."""
    if rule.kind == "gauss-hermite":
        return min(2 * count, MOST_TRAPEZOIDS)
    if not np.isfinite(excess):
        excess = 64.0
    wanted = count * max((MARGIN * excess) ** (1.0 / SOBOL_RATE), 2.0)
    budget = MOST_NODES // len(rule.groups)
    return int(min(2 ** int(np.ceil(np.log2(wanted))), budget))


# A time that is over at once.
NO_TIME = 1e-9


def with_error(run: Trajectory, solver: Solver, rule: NodeRule) -> Trajectory:
    """Repeat a run with each group of nodes and keep the spread as its error."""
    names = (*run.blocks, *run.observables)
    if run.t.size == 0:
        return replace(run, error={name: np.zeros_like(run[name]) for name in names})
    # Observables have an error at the start too, where nothing has to be integrated.
    begin = float(run.provenance["t_start"])
    end = max(run.t[-1], begin + NO_TIME * max(1.0, begin))

    def repeat(group: NodeRule) -> dict[str, Array]:
        other = solver(group, save_at=run.t, t_max=end, events=(), progress=False)
        return {name: _padded(other[name], run[name].shape) for name in names}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        groups = list(pool.map(repeat, rule.groups))
    error = {name: rule.error(run[name], [g[name] for g in groups]) for name in names}
    return replace(run, error={n: np.where(np.isnan(e), np.inf, e) for n, e in error.items()})


def _padded(values: Array, shape: tuple[int, ...]) -> Array:
    """Rows of a run that ended early, infinite where it has none."""
    if values.shape == shape:
        return values
    full = np.full(shape, np.inf)
    rows = min(len(values) - 1, shape[0])  # the last row is where it ended, at no saved time
    full[:rows] = values[:rows]
    return full


def relative_error(run: Trajectory) -> float:
    """Largest error of a run over times and entries, relative to values larger than one."""
    assert run.error is not None
    return max(
        float(np.max(e / np.maximum(1.0, np.abs(run[name])), initial=0.0))
        for name, e in run.error.items()
    )


def described(run: Trajectory, rule: NodeRule, worst: float, tolerance: float) -> Trajectory:
    """Say in the record how its averages were computed and how well."""
    met = worst <= tolerance
    text = f"quadrature error {worst:.1e} (99 %), {rule.label}"
    message = run.message
    if not met:
        message += (
            f"; the quadrature error {worst:.1e} exceeds quadrature_tol = {tolerance:g}: "
            "pass more nodes= or a larger tolerance"
        )
    provenance: Mapping[str, Any] = {
        **run.provenance,
        "approximation": f"{run.provenance.get('approximation', '')}; {text}",
        "quadrature_error": worst,
        "quadrature_tol": tolerance,
        "quadrature_rule": rule.label,
        "quadrature_tol_met": met,
    }
    return replace(run, message=message, provenance=provenance)

"""Runs whose averages are computed on nodes: how many nodes, and the error that they leave.

The error of a run is measured on the run itself: it is repeated with each group of nodes alone
(the replicas of a Sobol rule, the coarser Gauss-Hermite rule), and the spread of these
trajectories is the error at each saved time, amplified by the dynamics as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from dmft.arrays import Array
from dmft.equations.averages.neighbour import MOST_TERMS
from dmft.equations.averages.tails import check_tails, outgrows
from dmft.equations.equations import Equations
from dmft.equations.parameter_values import Values
from dmft.errors import BadParameter
from dmft.gaussian.nodes.rules import NodeRule, most_in_lattice, most_points
from dmft.names import Status
from dmft.progress import stage
from dmft.solvers.trajectory import Trajectory

Solver = Callable[..., Trajectory]

# After such a run, one on more nodes would only be cut earlier.
CUT = (Status.TIMEOUT, Status.INTERRUPTED)
# The search for the number of nodes begins here and ends at this many in all.
FIRST_NODES, MOST_NODES = 512, 2**20
FIRST_POINTS = {"gauss-hermite": 24, "lattice": 8, "sobol": FIRST_NODES, "mixture": 4}
# How the error of Sobol points falls with their number, by dimension (measured; N^-1 beyond), to
# aim the search.
SOBOL_RATES = {1: 1.6, 2: 1.5, 3: 1.15}
# That of tensor rules falls with the points of an axis like the inverse of the first power;
# where it fell by less than the second, it is not exponential: the search takes longer steps.
TENSOR_RATE, ALGEBRAIC_RATE = 4.0, 5.0
LONGEST_STEP, LONGEST_ALGEBRAIC = 2.0, 6.0
# That of sums of error functions falls so with each term.
PER_TERM = 8.0
# Those of lattices are about this times an exponential of the points of a diameter.
LARGEST = 0.1
# The measured error is uncertain itself: aim this much below the tolerance.
MARGIN = 1.5
# Saved states at which averages are asked whether they are finite.
LOOKED_AT = 16


def solve_on_nodes(
    solver: Solver, rule_of: Callable[[int | None], NodeRule], fixed: int | None, tolerance: float
) -> Trajectory:
    """Solve with enough nodes that the error of every overlap and of the risk meets a tolerance.

    ``solver(rule, **changes)`` runs with the nodes of a rule and changed options of the solver;
    `rule_of` makes a rule of a number of nodes (None: the default), which is `fixed` where the user
    chose it. The tolerance is absolute, of overlaps of order one, and relative where they are
    larger.
    """
    if not 0.0 < tolerance < 1.0:
        raise BadParameter(f"quadrature_tol = {tolerance!r} must lie in (0, 1)")
    count, known = fixed or FIRST_POINTS[rule_of(None).kind], dict[Any, Any]()
    before: tuple[int, float] | None = None
    at: dict[str, Any] = {}
    while True:
        rule = rule_of(count)
        run = None if fixed else mean_of_replicas(solver, rule)
        run = run or with_error(solver(rule, **at), solver, rule, known)
        worst = relative_error(run)
        more = count if fixed else next_count(rule, count, worst, tolerance, before)
        if worst <= tolerance or more <= count or run.status in CUT:
            return described(run, rule, worst, tolerance)
        if rule.kind == "mixture" and run.status is Status.OK and not run.events:
            at = {"save_at": run.t}  # where this run is known as one with fewer terms
        count, before = more, (count, worst)


def on_nodes(inputs: Mapping[str, Any], rule: NodeRule) -> dict[str, Any]:
    """Inputs of a run with the nodes of another rule."""
    return {
        **inputs,
        "widths": {**inputs["widths"], **rule.widths},
        "constants": {**inputs["constants"], **rule.arrays},
    }


def next_count(
    rule: NodeRule,
    count: int,
    worst: float,
    tolerance: float,
    before: tuple[int, float] | None = None,
) -> int:
    """Nodes that should meet the tolerance; not more than the budget allows.

    `before` is a smaller number of nodes and its error.
    """
    excess = worst / tolerance if np.isfinite(worst) else 64.0
    dim = int(np.any(rule.normal, axis=1).sum())
    if rule.kind == "gauss-hermite":
        slow = before and before[1] < worst * (count / before[0]) ** ALGEBRAIC_RATE < np.inf
        longest = LONGEST_ALGEBRAIC if slow else LONGEST_STEP
        factor = np.clip((MARGIN * excess) ** (1.0 / TENSOR_RATE), 1.25, longest)
        return min(int(np.ceil(count * factor)), most_points(dim))
    if rule.kind == "mixture":  # beyond the longest sum, nodes
        more = count + max(1, int(np.ceil(np.log(worst / tolerance) / np.log(PER_TERM))))
        return more if more <= MOST_TERMS else MOST_TERMS if count < MOST_TERMS else FIRST_NODES
    if rule.kind == "lattice":
        ratio = np.log(tolerance / MARGIN / LARGEST) / np.log(worst / LARGEST)
        wanted = count * min(ratio if worst < LARGEST else 2.0, 2.0)
        return min(max(count + 2, int(np.ceil(wanted))), most_in_lattice(dim))
    wanted = count * max((MARGIN * excess) ** (1.0 / SOBOL_RATES.get(dim, 1.0)), 2.0)
    budget = MOST_NODES // len(rule.groups)
    return int(min(2 ** int(np.ceil(np.log2(wanted))), budget))


# A time that is over at once.
NO_TIME = 1e-9


def with_error(
    run: Trajectory, solver: Solver, rule: NodeRule, known: dict[Any, Any], mean: bool = False
) -> Trajectory:
    """Repeat a run with each group of nodes and keep the spread as its error.

    Of sums of error functions, what is `known` at the same times is not repeated. With `mean` the
    values are the means over the groups.
    """
    names = (*run.blocks, *run.observables)
    if run.t.size == 0:
        return replace(run, error={name: np.zeros_like(run[name]) for name in names})
    # Observables have an error at the start too, where nothing has to be integrated.
    begin = float(run.provenance["t_start"])
    end = max(run.t[-1], begin + NO_TIME * max(1.0, begin))

    def repeat(group: NodeRule) -> dict[str, Array]:
        key = group.label, run.t.tobytes()
        if group.kind == "mixture" and key in known:
            return known[key]
        other = solver(group, save_at=run.t, t_max=end, events=(), progress=False)
        known[key] = {name: _padded(other[name], run[name].shape) for name in names}
        return known[key]

    known[rule.label, run.t.tobytes()] = {name: run[name] for name in names}
    told = stage("estimating the error of averages on nodes")
    with told, ThreadPoolExecutor(os.cpu_count()) as pool:
        groups = list(pool.map(repeat, rule.groups))
    if mean:
        run = _with_mean(run, groups)
    error = {name: rule.error(run[name], [g[name] for g in groups]) for name in names}
    return replace(run, error={n: np.where(np.isnan(e), np.inf, e) for n, e in error.items()})


def mean_of_replicas(solver: Solver, rule: NodeRule) -> Trajectory | None:
    """Mean of the runs with each replica of Sobol points, and its error.

    It differs from the run with all points by the order of the square of the error, and takes half
    of the time. None for other rules, and where replicas end early or meet an event.
    """
    if rule.kind != "sobol":
        return None
    run = solver(rule.groups[0])
    if run.events or run.status is not Status.OK or not run.t.size:
        return None
    run = with_error(run, solver, rule, {}, mean=True)
    if not all(np.all(np.isfinite(y)) for y in run.blocks.values()):
        return None
    inputs = on_nodes({"widths": run.widths, "constants": run.constants}, rule)
    return replace(run, **inputs)


def _with_mean(run: Trajectory, groups: Sequence[Mapping[str, Array]]) -> Trajectory:
    """A run with the mean of the values that others have at its times."""

    def mean(name: str) -> Array:
        first = groups[0][name]  # equal values stay as they are
        return first + np.mean([g[name] - first for g in groups], axis=0)

    blocks, observables = ({n: mean(n) for n in old} for old in (run.blocks, run.observables))
    return replace(run, blocks=blocks, observables=observables)


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


def within_tails(run: Trajectory, equations: Equations, start: Any) -> Trajectory:
    """A run up to where an average on nodes becomes infinite; a start beyond is refused."""
    values = Values(dict(run.widths), dict(run.parameters), dict(run.constants))
    system, rule = equations.on_nodes, equations.rule(start, {})
    first = {name: y[0] for name, y in run.blocks.items() if run.t.size}  # trained readouts, too
    begin = {**equations.space.entries(start), **first}
    check_tails(equations.definitions, system, begin, values, rule)
    known = -1
    for n in np.unique(np.linspace(0, run.t.size - 1, LOOKED_AT).astype(int)) if run.t.size else ():
        if outgrows(system, {name: y[n] for name, y in run.blocks.items()}, values, rule):
            break
        known = int(n)
    else:
        return run
    beyond = {name: np.array(run[name]) for name in (*run.blocks, *run.observables)}
    for value in beyond.values():
        value[known + 1 :] = np.nan
    message = (
        f"ended after t = {run.t[max(known, 0)]:.6g}: beyond, an average over samples is "
        "infinite, because the integrand grows faster than the normal density of the fields "
        "decays"
    )
    return replace(
        run, status=Status.NONFINITE, message=message,
        blocks={name: beyond[name] for name in run.blocks},
        observables={name: beyond[name] for name in run.observables},
    )  # fmt: skip


def fixed_beyond_tails(
    solver: Callable[..., Trajectory],
    rule_of: Callable[[int | None], NodeRule],
    equations: Equations,
    start: Any,
) -> int | None:
    """Number of nodes of a run that comes to an infinite average, which no number resolves."""
    count = FIRST_POINTS[rule_of(None).kind]
    run = within_tails(solver(rule_of(count)), equations, start)
    return count if run.status is Status.NONFINITE else None

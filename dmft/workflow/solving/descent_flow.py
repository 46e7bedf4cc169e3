"""Solve gradient flow on repeated data: descents with smaller and smaller steps, extrapolated."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy as sp

from dmft.arrays import Array, extrapolation
from dmft.equations.two_time.descent import DescentEquations
from dmft.equations.two_time.over_time import with_step
from dmft.errors import BadParameter
from dmft.gaussian.closed.switch import SWITCHES
from dmft.model import Overlaps, as_count
from dmft.names import VERSION, Status
from dmft.solvers.solution import Values
from dmft.solvers.two_time.run import DescentRun, judged, settled
from dmft.validation import checked
from dmft.workflow.solve import Solver
from dmft.workflow.solving.descent_nodes import DescentOptions, is_affine
from dmft.workflow.solving.descent_runs import run_descent

TWO_TIMES = ("Q2", "corr", "resp")
MOST_LEVELS = 6


@checked
@dataclass(frozen=True)
class FlowOptions(DescentOptions):
    """How gradient flow on repeated data is solved.

    Attributes
    ----------
    points : int
        Steps of the coarsest descent, which must be stable.
    levels : int
        Number of step sizes, at least 2.
    method : None, "stein" or "pathwise"
        How the response is estimated; pathwise for smooth students by default: weights move little
        in a small step, and Stein's identity divides by what they move.
    """

    points: int = 8
    levels: int = 3

    def __post_init__(self) -> None:
        as_count(self.points, "points")
        levels = as_count(self.levels, "levels")
        if not 2 <= levels <= MOST_LEVELS:
            raise BadParameter(f"levels must lie in [2, {MOST_LEVELS}] (step sizes), got {levels}")
        if self.checkpoint is not None:
            raise BadParameter(
                "a flow consists of several descents, and a checkpoint folder belongs to one: "
                "solve them one by one"
            )


def solve_flow(
    flow: DescentEquations,
    start: Overlaps,
    t_max: float,
    options: FlowOptions,
    given: Mapping[str, Any],
) -> DescentRun:
    """Solve gradient flow on repeated data up to time `t_max` = learning_rate * steps.

    Equation    descent with the step h is the Euler scheme, error c_1 h + c_2 h^2 + ...: solved
                with t_max / points, half of it, ... and extrapolated (Richardson) to h = 0
    Shapes      as for a `DescentRun` at points + 1 equal times; `resp` is the density R_l(t, s) of
                s < t, `drag` (points + 1, p, p) the response at equal times, alpha E[H^t]
    Valid for   d -> infinity; smooth and kinked activations. The error claimed of each entry is
                that of the samples, amplified by the extrapolation, and what leaving out the
                coarsest or the finest step changes, at the worst time
    Source      theory/batch_reuse B.3

    Expressions in ``sympy.Symbol("t")`` among the values `given` follow the time of the flow.
    """
    if not (isinstance(t_max, int | float | np.number) and 0 < t_max < math.inf):
        raise BadParameter(f"t_max must be a positive time, got {t_max!r}")
    points, levels = options.points, options.levels
    began = time.monotonic()
    steps = [float(t_max) / (points * 2**level) for level in range(levels)]
    own: DescentOptions = replace(options, method=options.method or response_method(flow))
    runs = []
    for level, step in enumerate(steps):
        # One step more, for the gradients at t_max.
        count = points * 2**level + 1
        if options.timeout is not None:
            own = replace(own, timeout=max(0.0, options.timeout - (time.monotonic() - began)))
        here = with_step(given, step)
        run = run_descent(flow.equations, start, count, own, here)
        if run.status is not Status.OK:
            return _stopped(flow, run, step)
        runs.append(run)
    found = [_at_points(run, points, 2**level, steps[level]) for level, run in enumerate(runs)]
    weights = extrapolation(levels)
    values, errors, changes = {}, {}, {}
    for name in found[0]["values"]:
        stack = np.stack([f["values"][name] for f in found])
        spread = np.stack([f["errors"][name] for f in found])
        values[name] = np.tensordot(weights, stack, axes=1)
        # Without the finest step, and without the coarsest.
        others = (np.append(extrapolation(levels - 1), 0.0), extrapolation(levels, levels - 1))
        change = np.max(
            [np.abs(values[name] - np.tensordot(w, stack, axes=1)) for w in others], axis=0
        )
        # The change of one entry crosses zero where its error does not: the worst time counts.
        times = (0, 1) if name in TWO_TIMES else (0,)
        change = np.where(change > 0, change.max(axis=times, keepdims=True), 0.0)
        noise = np.sqrt(np.tensordot(weights**2, spread**2, axes=1))
        errors[name], changes[name] = noise + change, float(change.max(initial=0.0))
    worst = max(changes[n] for n in ("M", "Q", "train_loss"))
    how = f"{levels} steps from {steps[0]:.3g} to {steps[-1]:.3g}, extrapolated; {runs[-1].message}"
    result = replace(
        runs[-1],
        t=np.linspace(0.0, float(t_max), points + 1),
        arrays=Values(values),
        error=Values(errors),
        message=f"{how}; step error {worst:.1e}",
        statistics={
            "seconds": time.monotonic() - began, "steps": steps, "step_error": changes,
            "samples": runs[-1].statistics["samples"],
        },
        parameters={n: v for n, v in runs[-1].parameters.items() if n != "learning_rate"},
        provenance={
            **runs[-1].provenance, **_names(flow), "approximation": how,
            **{f"{name}_schedule": str(y) for name, y in given.items() if isinstance(y, sp.Expr)},
        },
    )  # fmt: skip
    # The claim is that of the worst time for all entries: the message names those below it, and
    # the status stays with the descents.
    return settled(replace(judged(result), status=Status.OK), points)


def response_method(flow: DescentEquations) -> str | None:
    """Pathwise where gradients have no kinks or jumps, exact cubature aside; else measured."""
    sigma = flow.model.student.activation
    return None if sigma.has(*SWITCHES) or is_affine(flow.equations) else "pathwise"


def _at_points(run: DescentRun, points: int, stride: int, step: float) -> Mapping[str, Any]:
    """Values and errors of one descent at the common times, densities in place of responses."""
    picked = np.arange(points + 1) * stride
    result: dict[str, dict[str, Array]] = {"values": {}, "errors": {}}
    for into, arrays in (("values", run.arrays), ("errors", run.error)):
        for name, a in arrays.items():
            chosen = a[picked][:, picked] if name in TWO_TIMES else a[picked]
            if name == "resp":
                result[into]["drag"] = chosen[np.arange(points + 1), np.arange(points + 1)]
                past = np.tri(points + 1, k=-1)[:, :, None, None]
                chosen = past * chosen / step
            result[into][name] = np.array(chosen)
    return result


def _names(flow: DescentEquations) -> dict[str, Any]:
    return {
        "equations": flow.fingerprint, "version": VERSION, "kind": "two-time",
        "time_unit": flow.time_unit, "flow": True,
        "method": "causal sweeps, extrapolated to vanishing steps",
    }  # fmt: skip


def _stopped(flow: DescentEquations, run: DescentRun, step: float) -> DescentRun:
    """What one descent reached before it ended; no extrapolation."""
    hint = "; use more points" if run.status in _TOO_LONG else ""
    message = f"with the step {step:.3g}: {run.message}{hint}"
    provenance = {**run.provenance, **_names(flow)}
    return replace(run, t=run.t * step, message=message, provenance=provenance)


_TOO_LONG: Sequence[Status] = (Status.DIVERGED, Status.LEFT_DOMAIN, Status.NONFINITE)


SOLVER = Solver(
    "equations of descents", FlowOptions, solve_flow,
    ": they take samples= and scrambles=, and keep all steps",
)  # fmt: skip

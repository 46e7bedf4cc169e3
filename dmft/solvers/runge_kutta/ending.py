"""From the codes of an integrator to a status and a sentence that says what happened."""

from __future__ import annotations

import math

import numpy as np

from dmft.names import Status
from dmft.solvers.events import TIME
from dmft.solvers.problem import covariance_at
from dmft.solvers.run import Raw, Setup, Vector
from dmft.solvers.runge_kutta.layout import (
    BOUND,
    BY_DOMAIN,
    BY_NONFINITE,
    DOMAIN_BAND,
    EVENT,
    REACHED,
)

# A step that collapses while the state has grown this much beyond its start is a divergence.
CLEAR_GROWTH = 100.0
# Slower blow-ups (y' = y^10, y' = exp(y)) count when they extrapolate to a pole this close.
SOME_GROWTH, POLE_DISTANCE = 3.0, 1e-6
# Relative displacement that measures the degree of growth d log|f| / d log|y|.
PROBE = 1e-6


def describe(setup: Setup, raw: Raw) -> tuple[Status, str]:
    """Status and message of a finished run."""
    if raw.stopped is not None:
        return raw.stopped, _stopped(setup, raw)
    if raw.outcome == REACHED:
        return Status.OK, f"reached t = {raw.t:.10g}"
    if raw.outcome == EVENT:
        event = setup.events[raw.event_id[-1]]
        if event.quantity == TIME:
            return Status.EVENT, f"ended by the event {event.name}"
        return Status.EVENT, f"{event.name} at t = {raw.t:.10g}"
    if setup.problem.kind == "map":
        return _describe_map(setup, raw)
    pole = _pole(setup, raw)
    if raw.outcome == BOUND or _grew(setup, raw, pole):
        return Status.DIVERGED, _diverged(raw, pole)
    if raw.reason == BY_DOMAIN or (raw.reason == BY_NONFINITE and _is_outside(setup, raw.trial)):
        where = f"at t = {raw.t:.10g}, at the smallest step"
        return Status.LEFT_DOMAIN, _left(setup, raw, where)
    if raw.reason == BY_NONFINITE:
        name = component_name(setup, raw.component)
        return Status.NONFINITE, (
            f"the right-hand side d{name}/dt is not finite just after t = {raw.t:.10g}, "
            "however small the step"
        )
    return Status.TOLERANCE_NOT_MET, (
        f"the step fell to the spacing of floating-point numbers at t = {raw.t:.10g} without "
        f"meeting rtol = {setup.rtol:g}, atol = {setup.atol:g}: a singular right-hand side, or "
        "tolerances below its rounding"
    )


def _describe_map(setup: Setup, raw: Raw) -> tuple[Status, str]:
    """A map has no shorter step to try and no pole: it fails at a step."""
    if raw.outcome == BOUND:
        return Status.DIVERGED, _diverged(raw, math.inf)
    if raw.reason == BY_DOMAIN:
        return Status.LEFT_DOMAIN, _left(setup, raw, f"with the step after t = {raw.t:.10g}")
    name = component_name(setup, raw.component)
    return Status.NONFINITE, f"the increment of {name} after step t = {raw.t:.10g} is not finite"


def component_name(setup: Setup, i: int) -> str:
    """Entry `i` of the packed state by its block, as Q[0, 1]."""
    widths = dict(zip(setup.problem.widths, (int(w) for w in setup.widths), strict=True))
    for block in setup.problem.state:
        size = block.size(widths)
        if i < size:
            index = np.unravel_index(i, block.shape(widths)) if block.axes else ()
            return f"{block.name}[{', '.join(str(int(x)) for x in index)}]" if index else block.name
        i -= size
    return f"entry {i}"


def _stopped(setup: Setup, raw: Raw) -> str:
    where = f"at t = {raw.t:.10g} of {setup.t_end:.10g}; the results up to this time are kept"
    if raw.stopped is Status.MAX_STEPS:
        return f"max_steps = {setup.max_steps} attempts reached {where}"
    if raw.stopped is Status.TIMEOUT:
        return f"timeout = {setup.timeout:g} s reached {where}"
    return f"interrupted {where}"


def _norm(y: Vector) -> float:
    return float(np.abs(y).max(initial=0.0))


def _pole(setup: Setup, raw: Raw) -> float:
    """Time at which the growth y' ~ |y|^m of the last state extrapolates to a pole; inf if none."""
    with np.errstate(all="ignore"):
        y = raw.y / _norm(raw.y)
        slope = setup.rhs(raw.t, raw.y)
        ahead = setup.rhs(raw.t, raw.y * (1.0 + PROBE))
        rate = float(y @ slope / (y @ y)) / _norm(raw.y)
        degree = float(np.log((y @ ahead) / (y @ slope))) / PROBE
    if not (rate > 0.0 and math.isfinite(degree) and degree > 1.01):
        return math.inf
    return raw.t + 1.0 / (rate * (degree - 1.0))


def _grew(setup: Setup, raw: Raw, pole: float) -> bool:
    growth = _norm(raw.y) / max(_norm(setup.start), 1.0)
    near = pole - raw.t <= POLE_DISTANCE * max(abs(raw.t), raw.t - setup.t_start)
    slope = setup.rhs(raw.t, raw.y)
    rising = float(slope @ raw.y) > 0.0
    return rising and (growth > CLEAR_GROWTH or (growth > SOME_GROWTH and near))


def _diverged(raw: Raw, pole: float) -> str:
    text = f"diverged: the largest entry is {_norm(raw.y):.3g} at t = {raw.t:.10g}"
    if math.isfinite(pole):
        text += f"; its growth extrapolates to a pole at t = {pole:.10g}"
    return text


def _is_outside(setup: Setup, y: Vector) -> bool:
    if setup.problem.domain is None:
        return False
    return not setup.problem.domain(y, setup.widths, setup.par, band(setup, y)) >= 0.0


def band(setup: Setup, y: Vector) -> float:
    """Depth below zero that tolerances explain: the shift used by the compiled domain test."""
    return DOMAIN_BAND * (setup.atol + setup.rtol * max(setup.trace, _norm(y)))


def lowest_eigenvalue(setup: Setup, y: Vector) -> float | None:
    """Smallest eigenvalue of the covariance at `y`, if the problem can tell."""
    matrix = covariance_at(setup.problem, y, setup.widths, setup.par)
    return float(np.linalg.eigvalsh(matrix)[0]) if matrix.size else None


def _left(setup: Setup, raw: Raw, where: str) -> str:
    text = f"the overlaps leave the domain (no vectors have them) {where}"
    inside, beyond = lowest_eigenvalue(setup, raw.y), lowest_eigenvalue(setup, raw.trial)
    if inside is not None:
        text += f"; smallest eigenvalue of the covariance {inside:.3g} there, {beyond:.3g} beyond"
    return text

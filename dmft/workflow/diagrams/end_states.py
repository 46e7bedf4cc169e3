"""Which fixed point a run has reached, and one fixed point followed over the parameters.

Newton's method from one start may find different fixed points at neighbouring parameters; what is
measured of them jumps. A followed point is found at one reference only. From there it is followed
along the straight line to any other parameters: predicted by the implicit function theorem,
corrected by Newton's method. A correction that is not small beside the prediction may belong to
another branch: the step is halved. Where no step is small enough the branch folds back, or meets
another, and that is what is returned. The line depends on the two points alone, so that neither
the order of points nor the number of threads changes a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dmft.analysis.roots import FLAT, newton
from dmft.arrays import Array, cosines
from dmft.equations.equations import Equations
from dmft.equations.parameter_values import seen_by
from dmft.model import Overlaps
from dmft.names import Status
from dmft.solvers.trajectory import Trajectory
from dmft.workflow.fixed_points import (
    FixedPoint,
    check_equations,
    fixed_points,
    point_of,
    unit_of_rates,
)
from dmft.workflow.stationary_system import StationarySystem

# Shares of teacher directions below this are none: a fixed point has none to rounding.
NOTHING = 1e-3
# A student belongs to a direction of which it has this many times as large a share as of any other.
PREFERENCE = 2.0
# Students whose shares differ by less than this are alike.
ALIKE = 1e-3
# Newton's root counts where no overlap moved further than this, in units of the largest ...
NEAR = 0.1
# ... and where the rates there are below this (in singular roots they do not reach rounding).
RESIDUAL = 1e-9
# Without a root, a state whose rates are below this, in the same units, is a fixed point itself.
STILL = 1e-6


@dataclass(frozen=True)
class EndState:
    """What a run has come to: overlaps of the fixed point where there is one, else of its end.

    The status is "ok", "not_converged" where the run is on its way, or how it failed.
    """

    overlaps: Overlaps
    status: Status

    @property
    def kind(self) -> str:
        """One of `FIXED_POINTS`."""
        return kind_of(self.overlaps)


def kind_of(overlaps: Overlaps) -> str:
    """Name of a fixed point, from the shares that students have of teacher directions.

    Equation    w_j = sum_r (M P^+)_jr w*_r + rest; share |(M P^+)_jr| sqrt(P_rr / Q_jj): the
                cosine |M_jr| / sqrt(Q_jj P_rr) where teacher directions are orthogonal
    Valid for   "uninformative": all shares below 1e-3. A student belongs to a direction of which
                it has such a share, and twice as much as of any other: "specialised" where each
                direction has a student; "unspecialised" where none has, or where several students
                have equal shares (within 1e-3); "partly specialised" else
    """
    parts = overlaps.M @ np.linalg.pinv(overlaps.P) * np.diag(overlaps.P)
    shares = cosines(parts, overlaps.Q, overlaps.P)
    if shares.max() < NOTHING:
        return "uninformative"
    ranked = np.sort(shares, axis=1)
    others = ranked[:, -2] if overlaps.k > 1 else np.zeros(overlaps.p)
    decided = (ranked[:, -1] >= NOTHING) & (ranked[:, -1] >= PREFERENCE * others)
    covered = np.unique(shares[decided].argmax(axis=1)) if decided.any() else np.zeros(0)
    if covered.size == overlaps.k:
        return "specialised"
    alike = overlaps.p > 1 and bool(np.ptp(shares, axis=0).max() < ALIKE)
    return "unspecialised" if alike or not covered.size else "partly specialised"


def end_state(equations: Equations, run: Trajectory, parameters: Mapping[str, Any]) -> EndState:
    """The fixed point beside which a run ended, polished by Newton's method."""
    end = end_overlaps(run)
    if run.status not in (Status.OK, Status.EVENT):
        return EndState(seen_by(equations.model, end), run.status)
    scale = float(max(np.abs(end.Q).max(), np.abs(end.P).max()))
    (point,) = fixed_points(equations, end, **parameters)
    moved = max(
        float(np.abs(a - b).max())
        for a, b in ((point.overlaps.Q, end.Q), (point.overlaps.M, end.M))
    )
    root = point.status in (Status.OK, Status.NOT_CONVERGED) and point.residual <= RESIDUAL * scale
    if root and moved <= NEAR * scale:
        return EndState(seen_by(equations.model, point.overlaps), Status.OK)
    system = StationarySystem(equations, end, parameters)
    still = float(np.abs(system.rates(system.free)).max()) <= STILL * scale
    seen = seen_by(equations.model, end)
    return EndState(seen, Status.OK if still else Status.NOT_CONVERGED)


def end_overlaps(run: Trajectory) -> Overlaps:
    """Overlaps at the last saved time."""
    found = run.final
    assert isinstance(found, Overlaps)
    return found


# Parts of the way from the reference: the longest step, and the one below which the branch ends.
LONGEST, SHORTEST = 0.25, 1e-7
# A correction is at most this part of the predicted move, and what rounding leaves in singular
# points, in units of the largest overlap.
TRUST, SLACK = 0.2, 1e-6
# After corrections below this part the step grows.
EASY = 0.04
CORRECTIONS = 5
# Of the derivative along the way, by central differences.
DIFFERENCE = 1e-6


def followed_point(
    equations: Equations,
    start: Overlaps,
    reference: Mapping[str, Any],
    parameters: Mapping[str, Any],
    *,
    tolerance: float = 1e-13,
    max_steps: int = 100,
) -> FixedPoint:
    """The fixed point to which `start` leads at the reference, followed to other parameters.

    Newton's method begins at `start`, which need not be stationary. Where the branch ends on the
    way: the point at the reference, with the status not_converged and a message that names the
    branch.
    """
    check_equations(equations)
    system = StationarySystem(equations, start, reference)
    end = system.packed_parameters(equations.values(start, dict(parameters)))
    least = tolerance * unit_of_rates(system)
    way = _Way(system, system.par.copy(), end, least)
    root = system.root(least, max_steps)
    first = point_of(system, start, root)
    if first.status != Status.OK:
        where = _words(reference, parameters)
        text = f"the start leads to no fixed point at the reference {where}: {first.message}"
        return replace(first, message=text)
    if np.array_equal(way.begin, end):
        return first
    y, part, step = root.y, 0.0, LONGEST
    while part < 1.0:
        after = 1.0 if part + step > 1.0 - SHORTEST else part + step
        moved, easy = way.advance(y, part, after)
        if moved is not None:
            y, part, step = moved, after, min(2.0 * step, LONGEST) if easy else step
        elif step > SHORTEST:
            step /= 2.0
        else:
            return _ended(equations, first, reference, parameters, part)
    root = newton(way.rates(1.0), system.jacobian, y, tolerance=least, max_steps=CORRECTIONS)
    return point_of(system, start, root)


class _Way:
    """Rates along the straight line between two sets of parameters."""

    def __init__(self, system: StationarySystem, begin: Array, end: Array, least: float) -> None:
        self.system, self.begin, self.end, self.least = system, begin, end, least

    def rates(self, part: float) -> Any:
        """Rates as a function of the free coordinates, at a part of the way."""
        self.system.par[:] = (
            self.end if part == 1.0 else self.begin + part * (self.end - self.begin)
        )
        return self.system.rates

    def advance(self, y: Array, part: float, after: float) -> tuple[Array | None, bool]:
        """The same branch further on, and whether a longer step would do.

        None where the correction may lead to another branch.
        """
        slope = self.rates(part + DIFFERENCE)(y) - self.rates(part - DIFFERENCE)(y)
        self.rates(part)
        jacobian = self.system.jacobian(y)
        if not (np.all(np.isfinite(jacobian)) and np.all(np.isfinite(slope))):
            return None, False
        move = -np.linalg.lstsq(jacobian, slope / (2.0 * DIFFERENCE), rcond=FLAT)[0]
        guess = y + (after - part) * move
        root = newton(
            self.rates(after), self.system.jacobian, guess, tolerance=self.least,
            max_steps=CORRECTIONS,
        )  # fmt: skip
        if root.status != Status.OK:
            return None, False
        expected = float(np.abs(guess - y).max(initial=0.0))
        missed = float(np.abs(root.y - guess).max(initial=0.0))
        size = float(np.abs(y).max(initial=0.0))
        slack = SLACK * max(size, 1.0)
        if missed > TRUST * expected + slack:
            return None, False
        return root.y, missed <= EASY * expected + slack


def _ended(
    equations: Equations,
    first: FixedPoint,
    reference: Mapping[str, Any],
    parameters: Mapping[str, Any],
    part: float,
) -> FixedPoint:
    """What is known of a branch that does not reach the parameters."""
    between = {
        name: reference[name] + part * (parameters[name] - reference[name])
        for name in parameters
        if reference[name] != parameters[name]
    }
    message = (
        f"the {kind_of(seen_by(equations.model, first.overlaps))} fixed point followed from "
        f"{_words(reference, parameters)} ends, or meets another, near {_words(between, between)}"
    )
    return replace(first, status=Status.NOT_CONVERGED, message=message)


def _words(values: Mapping[str, Any], names: Mapping[str, Any]) -> str:
    """Parameters by name, those of `names` that are numbers."""
    shown = [n for n in names if isinstance(values.get(n), int | float | np.number)]
    return ", ".join(f"{name} = {float(values[name]):.4g}" for name in shown)

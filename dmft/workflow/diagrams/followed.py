"""One fixed point over the parameters: found once, then followed, never exchanged for another.

Newton's method from one start finds this fixed point at one pair of parameters and that one at the
next; what is measured of them jumps. Here it is asked at one reference point only. From there its
fixed point is followed along the straight line to any other parameters: predicted by the implicit
function theorem, corrected by Newton's method. A correction that is not small beside the prediction
may belong to another branch: the step is halved. Where no step is small enough the branch folds
back, or meets another, and that is what is returned. The line depends on the two points alone, so
that neither the order of points nor the number of threads changes a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.analysis.boundaries.roots import FLAT, newton
from dmft.equations.equations import Equations
from dmft.model import Overlaps
from dmft.names import Status
from dmft.workflow.diagrams.end_states import kind_of
from dmft.workflow.fixed_points import (
    FixedPoint,
    StationarySystem,
    check_equations,
    point_of,
    unit_of_rates,
)

Array = NDArray[np.float64]
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

    Parameters
    ----------
    equations, tolerance, max_steps
        As for `dmft.fixed_points`.
    start : Overlaps
        Newton's method begins here, at the reference; it need not be stationary.
    reference, parameters : mapping
        Run-time values by name, the same names in both.

    Returns
    -------
    FixedPoint
        Where the branch ends on the way: the point at the reference, with the status
        not_converged and a message that names the branch.
    """
    check_equations(equations)
    system = StationarySystem(equations, start, reference)
    end = system.packed_parameters(equations.values(start, dict(parameters)))
    least = tolerance * unit_of_rates(system)
    way = _Way(system, system.par.copy(), end, least)
    root = newton(system.rates, system.jacobian, system.free, tolerance=least, max_steps=max_steps)
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
            return _ended(first, reference, parameters, part)
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
        f"the {kind_of(first.overlaps)} fixed point followed from "
        f"{_words(reference, parameters)} ends, or meets another, near {_words(between, between)}"
    )
    return replace(first, status=Status.NOT_CONVERGED, message=message)


def _words(values: Mapping[str, Any], names: Mapping[str, Any]) -> str:
    """Parameters by name, those of `names` that are numbers."""
    shown = [n for n in names if isinstance(values.get(n), int | float | np.number)]
    return ", ".join(f"{name} = {float(values[name]):.4g}" for name in shown)

"""Which fixed point a run has reached, and how far its students have come along the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.equations.equations import Equations
from dmft.equations.values import seen_by
from dmft.model import Overlaps
from dmft.names import Status
from dmft.solvers.trajectory import Trajectory
from dmft.workflow.fixed_points import StationarySystem, fixed_points

Array = NDArray[np.float64]
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
    """What a run has come to: overlaps, and whether they are those of a fixed point.

    Attributes
    ----------
    overlaps : Overlaps
        Of the fixed point where there is one, else of the end of the run.
    status : Status
        "ok"; "not_converged" where the run is on its way; or how it failed.
    """

    overlaps: Overlaps
    status: Status

    @property
    def kind(self) -> str:
        """One of `FIXED_POINTS`."""
        return kind_of(self.overlaps)


def kind_of(overlaps: Overlaps) -> str:
    r"""Name of a fixed point, from the shares that students have of teacher directions.

    Equation    w_j = sum_r (M P^+)_jr w*_r + rest; share |(M P^+)_jr| sqrt(P_rr / Q_jj): the
                cosine |M_jr| / sqrt(Q_jj P_rr) where teacher directions are orthogonal
    Shapes      Q (p, p), M (p, k), P (k, k)
    Valid for   "uninformative": all shares below 1e-3. A student belongs to a direction of which
                it has such a share, and twice as much as of any other: "specialised" where each
                direction has a student; "unspecialised" where none has, or where several students
                have equal shares (within 1e-3); "partly specialised" else
    """
    shares = _ratio(
        np.abs(overlaps.M @ np.linalg.pinv(overlaps.P)),
        np.sqrt(np.diag(overlaps.Q)),
        1.0 / np.sqrt(np.diag(overlaps.P)),
    )
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


def cosines(Q: Array, M: Array, P: Array) -> Array:
    """|M_jr| / sqrt(Q_jj P_rr), (p, k); 0 for students without length."""
    return _ratio(np.abs(M), np.sqrt(np.diag(Q)), np.sqrt(np.diag(P)))


def _ratio(values: Array, rows: Array, columns: Array) -> Array:
    below = rows[:, None] * columns[None, :]
    return np.divide(values, below, out=np.zeros_like(values), where=below > 0.0)

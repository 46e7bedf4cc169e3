"""The record of a descent: overlaps, two-time kernels, losses, and their errors.

An entry is not known where its error is larger than half of its value (zero is within two errors),
than a tenth of the unit of its block, and than rounding. The unit is the largest entry of the block
whose error is at most half of it: so zeros by symmetry count as known to the error of a block that
is resolved, and nothing does in a block of noise. Overlaps with the teacher may all vanish: their
unit is the largest length of a student.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.initial_conditions import Alignment, Overlaps
from dmft.names import Status
from dmft.solvers.solution import Solution, Values, start_of

# An error passes the signal beyond this share of it.
SIGNAL = 0.5
# Share of the unit of its block up to which an error is small whatever the value.
SMALL = 0.1
# Errors of rounding, for overlaps of order one.
ROUNDING = 1e-9
# Weights that have less of their length left to move have converged.
CONVERGED = 2e-3
# Steps from which the rate of convergence is read.
FEWEST_STEPS = 4
# Axes of each array; times of overlaps run one further than those of gradients.
AXES: dict[str, tuple[str, ...]] = {
    "M": ("t", "p", "k"),
    "Q": ("t", "p", "p_2"),
    "Q2": ("t", "t_2", "p", "p_2"),
    "corr": ("step", "step_2", "p", "p_2"),
    "resp": ("step", "step_2", "p", "p_2"),
    "drag": ("t", "p", "p_2"),
    "readout": ("t", "p"),
    "train_loss": ("step",),
    "risk": ("t",),
    "error_rate": ("t",),
    "t": ("t",),
}


@dataclass(frozen=True, eq=False, repr=False)
class DescentRun(Solution):
    """Solution of the two-time equations of gradient descent.

    Arrays are attributes and can also be read by key.

    Attributes
    ----------
    t : (T + 1,)
        Steps 0..T; overlaps at t are those before step t.
    M, Q : (T + 1, p, k), (T + 1, p, p)
    Q2 : (T + 1, T + 1, p, p)
        Q2[t, s] = W^t W^s / d.
    corr, resp : (T, T, p, p)
        Correlation C_l[t, s] = alpha E[g^t g^s] and response R_l[t, s] = alpha E[dg^t / dr^s] of
        the gradients g (zero for s > t). If the response is measured on samples
        (`provenance["method"]`), the recursions hold only up to its error.
    readout : (T + 1, p)
    train_loss : (T,)
        Mean loss over the training samples at steps 0..T-1, including label noise; that at T is
        computed only in a run to a later step.
    risk : (T + 1,)
        Population risk E(f* - f)^2 / 2 for every loss, without label noise.
    error_rate : (T + 1,)
        Probability that the sign of the output is wrong, without label noise; for sign labels.
    error : Values
        Error of each of these arrays, estimated from the spread over independent sets of points
        (scrambles): the exact value is within two errors with probability 95 %. Errors of one run
        are correlated. Zero for exact results, nan for a single scramble.
    status, message, statistics, parameters, provenance
        As in `Trajectory`.
    constants : mapping of str to arrays
        P (k, k), and readouts that are not trained.
    arrays : Values
        All of these by name.

    Examples
    --------
    >>> run = DescentRun(
    ...     t=np.arange(2.0), arrays=Values({"M": np.zeros((2, 1, 1))}),
    ...     error=Values({"M": np.zeros((2, 1, 1))}),
    ...     status=Status.OK, message="",
    ... )
    >>> run.M.shape
    (2, 1, 1)
    """

    arrays: Values
    error: Values

    constants: Mapping[str, Array] = field(default_factory=dict)

    KIND = "dmft descent"
    AXES = AXES
    NAMES: ClassVar[Mapping[str, str]] = {**Solution.NAMES, "arrays": "{}", "error": "{}_error"}

    def _axes(self, field: str, name: str, values: Array) -> tuple[str, ...]:
        return () if field == "constants" else super()._axes(field, name, values)

    def _groups(self) -> tuple[Mapping[str, Array], ...]:
        return self.arrays, self.constants

    @property
    def final(self) -> Overlaps | Alignment | dict[str, Array]:
        """Final overlaps, as the start of a run on new samples."""
        last = {n: self.arrays[n][-1] for n in ("Q", "M", "readout") if n in self.arrays}
        return start_of(last, self.constants)

    def steps(self, dim: int) -> Array:
        """Numbers of steps at `t`. Raises `BadParameter` for a gradient flow."""
        if self.provenance.get("flow"):
            raise BadParameter("gradient flow has no steps: its time is learning_rate * steps")
        return self.t.copy()

    def samples(self, dim: int) -> Array:
        """Samples used up to each time: n after the first step, or n per step for fresh batches."""
        used = float(self.parameters["samples_per_dim"]) * dim
        fresh = bool(self.provenance.get("fresh", False))
        return used * (self.t if fresh else np.minimum(np.ceil(self.t), 1.0))


def unknown(run: DescentRun, name: str) -> NDArray[np.bool_]:
    """Entries of a block whose error passes the signal, or that are not finite.

    Errors that nothing is known of (nan, from one scramble) accuse nobody.
    """
    values, error = run.arrays[name], run.error[name]
    least = max(SMALL * _unit(run, name), ROUNDING)
    lost: NDArray[np.bool_] = error > np.maximum(SIGNAL * np.abs(values), least)
    return lost | ~np.isfinite(values)


def _unit(run: DescentRun, name: str) -> float:
    if name == "M" and "Q" in run.arrays:
        return math.sqrt(_largest_known(run, "Q"))
    return _largest_known(run, name)


def _largest_known(run: DescentRun, name: str) -> float:
    values, error = np.abs(run.arrays[name]), run.error[name]
    known = np.isfinite(values) & ~(error > SIGNAL * values)
    return float(np.max(values[known], initial=0.0))


def judged(run: DescentRun) -> DescentRun:
    """The same run; one that ended well is "tolerance_not_met" where entries are not known."""
    if run.status is not Status.OK:
        return run
    words = []
    for name, values in run.arrays.items():
        lost = unknown(run, name)
        if np.any(lost):
            error = run.error[name]
            worst = np.unravel_index(np.argmax(np.where(lost, error, -1.0)), error.shape)
            where = ", ".join(str(int(i)) for i in worst)
            words.append(
                f"{name}[{where}] = {values[worst]:.3g} +- {error[worst]:.2g} is not known "
                f"({np.count_nonzero(lost)} of {values.size} entries of {name} lie within two "
                "errors of zero)"
            )
    if not words:
        return run
    message = "; ".join([run.message, *words, "use more samples"])
    return replace(run, status=Status.TOLERANCE_NOT_MET, message=message)


def settled(run: DescentRun, steps: int) -> DescentRun:
    """The same run; where weights have converged, the message says how far they would still move.

    A run that ends early because nothing new enters its driving process any more is then "ok".
    """
    left = left_to_move(run)
    if run.status in (Status.DIVERGED, Status.NONFINITE) or not left < CONVERGED:
        return run
    words = (
        f"converged: the estimated remaining change of the weights is {left:.1e} of their length"
    )
    if run.status is not Status.LEFT_DOMAIN:
        return replace(run, message=f"{run.message}; {words}")
    message = f"{words} after {run.t.size - 1} of {steps} steps, and rounding hides later steps"
    return replace(run, status=Status.OK, message=f"{_how(run)}; {message}")


def _how(run: DescentRun) -> str:
    """The first part of the message: the samples of the run."""
    return run.message.split(";")[0]


def left_to_move(run: DescentRun) -> float:
    """Distance that weights still move, relative to their length, if steps shrink as they have.

    Steps shrink by a constant factor near a minimum; the factor is that of the last half.
    """
    count = run.t.size - 1
    if count < FEWEST_STEPS or "Q2" not in run.arrays:
        return math.inf
    lengths = np.trace(run.Q, axis1=1, axis2=2)
    ahead = np.trace(run.Q2[np.arange(count), np.arange(1, count + 1)], axis1=1, axis2=2)
    squares = lengths[1:] + lengths[:-1] - 2.0 * ahead
    # Squares of small steps are differences of numbers of order one: the largest of a few.
    floor = 4.0 * np.finfo(float).eps * lengths[-1]
    first, last = (
        max(float(np.max(y)), floor)
        for y in (squares[count // 2 - 1 : count // 2 + 1], squares[-2:])
    )
    if not 0.0 < lengths[-1] < math.inf or not last < first:
        return math.inf
    factor = (last / first) ** (0.5 / (count - 1 - count // 2))
    return math.sqrt(last / lengths[-1]) * factor / (1.0 - factor)

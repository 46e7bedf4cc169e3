"""Records of two-time problems, of random networks, and of descents on repeated data.

An entry of a descent is not known where its error is larger than half of its value (zero is within
two errors), than a tenth of the unit of its block, and than rounding. The unit is the largest entry
of the block whose error is at most half of it: so zeros by symmetry count as known to the error of
a block that is resolved, and nothing does in a block of noise. Overlaps with the teacher may all
vanish: their unit is the largest length of a student.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.initial_conditions import Alignment, Overlaps
from dmft.names import Status
from dmft.solvers.solution import Solution, Values, start_of

if TYPE_CHECKING:
    from dmft import netcdf

# Points of the local polynomials, as in the thinning.
STENCIL = 6


@dataclass(frozen=True, eq=False, repr=False)
class TwoTimeRun(Solution):
    """Solution of a two-time problem.

    Signals and functions are attributes and can also be read by key. Signals, which include
    diagonals (``C_diagonal``), are arrays over all steps (T,). A function of two times is a table
    over the saved times, ``run.C[i, j]`` = C(t_i, t_j), which is zero for j > i if the function is
    causal. `row` returns X(t, .) on the grid of the solver.

    Attributes
    ----------
    t : (T,)
        Times of the steps.
    saved : (K,)
        Times of the saved rows.
    signals : Values
    offsets, s, pairs
        Concatenated rows: row i has the times s[offsets[i]:offsets[i + 1]].
    error : Values
        Estimated errors: (T,) for signals, (K,) for functions (the largest over s). The estimate is
        the largest difference in [t/2, t] from a run with steps twice as long on a grid thinned at
        ten times the tolerance, plus a tenth of `tol`; it is mostly ten times the true error. NaN
        without such a run.
    status, message, statistics, parameters, provenance
        As for a `Trajectory`.
    causal : tuple of str
        Functions that vanish for s > t.

    Examples
    --------
    >>> import dmft
    >>> run = dmft.solve(dmft.literature.spherical_p_spin(3), None, 2.0, save_at=[1.0, 2.0])
    >>> run.C.round(3).tolist(), round(run.at("R", 2.0, 1.5), 3)
    ([[1.0, 0.935], [0.935, 1.0]], 0.368)
    >>> bool(abs(run.E[-1] + 0.926219) < run.error.E[-1])
    True
    """

    saved: Array
    signals: Values
    offsets: NDArray[np.int64]
    s: Array
    pairs: Values
    error: Values
    causal: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the signals and of the functions of two times, without diagonals."""
        diagonals = {f"{name}_diagonal" for name in self.pairs}
        return (*(n for n in self.signals if n not in diagonals), *self.pairs)

    KIND = "dmft two-time run"
    _NO_FINAL = (
        "two-time problems start at t = 0: solve with a larger t_max and checkpoint= to resume"
    )
    COORDINATES = ("t", "saved")
    NAMES: ClassVar[Mapping[str, str]] = {
        "signals": "signal_{}", "pairs": "pair_{}", "error": "error_{}",
    }  # fmt: skip

    def _groups(self) -> tuple[Mapping[str, Array], ...]:
        return (self.signals,)

    def _find(self, name: str) -> Array | None:
        return self.table(name) if name in self.pairs else super()._find(name)

    def _shown(self) -> str:
        return (
            f"t = {self.t[-1]:g}, {self.t.size - 1} steps, {self.saved.size} rows; "
            f"{', '.join(self.names)}"
        )

    def row(self, name: str, t: float) -> tuple[Array, Array]:
        """Return times s and values X(t, s) of the row saved at t.

        Parameters
        ----------
        name : str
            Name of a function of two times.
        t : float
            A time with a saved row.

        Returns
        -------
        (ndarray, ndarray)
            Times s up to t, and X(t, s).

        Raises
        ------
        BadParameter
            If no row was saved at t (`save_at`), or if there is no such function.

        Examples
        --------
        >>> import dmft
        >>> run = dmft.solve(dmft.literature.spherical_p_spin(3), None, 2.0, save_at=[1.0, 2.0])
        >>> s, values = run.row("C", 2.0)
        >>> float(s[-1]), float(values[-1])
        (2.0, 1.0)
        """
        number = self._row_number(name, t)
        part = slice(self.offsets[number], self.offsets[number + 1])
        return self.s[part], self.pairs[name][part]

    def at(self, name: str, t: float, s: float) -> float:
        """Return X(t, s) at a saved time t and any s <= t.

        Parameters
        ----------
        name : str
            Name of a function of two times.
        t : float
            A time with a saved row.
        s : float
            Any time from 0 to t.

        Returns
        -------
        float

        Examples
        --------
        >>> import dmft
        >>> run = dmft.solve(dmft.literature.spherical_p_spin(3), None, 2.0, save_at=[1.0, 2.0])
        >>> round(run.at("R", 2.0, 1.5), 3), run.at("R", 1.0, 2.0)  # causal
        (0.368, 0.0)
        """
        if s < 0.0:
            raise BadParameter(f"{name}(t, s) has no value at s = {s:g}: times begin at 0")
        if s > t:
            return 0.0 if name in self.causal else self.at(name, s, t)
        times, values = self.row(name, t)
        return float(interpolate(times, values, np.array([float(s)]))[0])

    def integral(self, name: str, t: float) -> tuple[Array, Array]:
        """Return times s and the integrals of X(t, u) over s < u < t.

        Parameters
        ----------
        name : str
            Name of a function of two times.
        t : float
            A time with a saved row.

        Returns
        -------
        (ndarray, ndarray)
            Times s, and the integral from each to t.

        Examples
        --------
        >>> import dmft
        >>> run = dmft.solve(dmft.literature.spherical_p_spin(3), None, 2.0, save_at=[1.0, 2.0])
        >>> s, susceptibility = run.integral("R", 2.0)
        >>> round(float(susceptibility[0]), 3)
        0.758
        """
        times, values = self.row(name, t)
        return times, integrals(times, values)

    def table(self, name: str) -> Array:
        """Return the table X(t_i, t_j) at the saved times, (K, K).

        Parameters
        ----------
        name : str
            Name of a function of two times.

        Returns
        -------
        (K, K) ndarray
            Table; zero above the diagonal for a causal function.

        Examples
        --------
        >>> import dmft
        >>> run = dmft.solve(dmft.literature.spherical_p_spin(3), None, 2.0, save_at=[1.0, 2.0])
        >>> run.table("C").round(3).tolist()
        [[1.0, 0.935], [0.935, 1.0]]
        """
        size = self.saved.size
        table = np.zeros((size, size))
        for i in range(size):
            part = slice(self.offsets[i], self.offsets[i + 1])
            table[i, : i + 1] = interpolate(
                self.s[part], self.pairs[name][part], self.saved[: i + 1]
            )
        return table if name in self.causal else np.tril(table) + np.tril(table, -1).T

    def _row_number(self, name: str, t: float) -> int:
        if name not in self.pairs:
            raise BadParameter(f"no function {name!r} of two times; available: {list(self.pairs)}")
        if not self.saved.size:
            raise BadParameter("no row was saved")
        number = int(np.argmin(np.abs(self.saved - t)))
        if abs(self.saved[number] - t) > 1e-9 * max(1.0, abs(t)):
            raise BadParameter(
                f"no row was saved at t = {t:g}, the nearest is t = {self.saved[number]:g}; "
                "solve again with this time in save_at"
            )
        return number

    def _displayed(self) -> list[netcdf.Variable]:
        rows: list[netcdf.Variable] = [("t", ("t",), self.t), ("saved", ("saved",), self.saved)]
        rows += [(n, ("t",), values) for n, values in self.signals.items()]
        rows += [(n, ("saved", "saved_2"), self.table(n)) for n in self.pairs]
        errors = self.error.items()
        return rows + [(f"{n}_error", self._axes("error", n, y), y) for n, y in errors]

    def _axes(self, field: str, name: str, values: Array) -> tuple[str, ...]:
        saved = field == "saved" or (field == "error" and name in self.pairs)
        own = {"s": "entry", "pairs": "entry", "offsets": "edge"}.get(field, "t")
        return ("saved",) if saved else (own,)


def interpolate(s: Array, values: Array, at: Array) -> Array:
    """Values of a row at other times within it, by polynomials through six neighbours."""
    count = min(STENCIL, s.size)
    first = np.clip(np.searchsorted(s, at) - count // 2, 0, s.size - count)
    nodes = s[first[:, None] + np.arange(count)]
    result = np.zeros(at.size)
    for k in range(count):
        weight = np.ones(at.size)
        for m in range(count):
            if m != k:
                weight *= (at - nodes[:, m]) / (nodes[:, k] - nodes[:, m])
        result += weight * values[first + k]
    return result


def integrals(s: Array, values: Array) -> Array:
    """Integral of a row from each of its times to its end."""
    x, w = np.polynomial.legendre.leggauss(3)
    half, middle = np.diff(s) / 2.0, (s[1:] + s[:-1]) / 2.0
    points = middle[:, None] + half[:, None] * x
    inner = interpolate(s, values, points.ravel()).reshape(points.shape)
    panels = half * (inner @ w)
    return np.concatenate([np.cumsum(panels[::-1])[::-1], [0.0]])


# Axes of each array; that of the populations comes last where there are several.
NETWORK_AXES: dict[str, tuple[str, ...]] = {
    "mean": ("t",), "corr": ("t", "t_2"), "output_mean": ("t",), "output_corr": ("t", "t_2"),
    "resp": ("t", "t_2"), "multiplier": ("t",), "t": ("t",), "paths": ("sweep", "t", "path"),
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class NetworkRun(Solution):
    """Solution of the equations of a random network.

    Arrays are attributes and can also be read by key. With P > 1 populations each array except
    `multiplier` has a last axis of length P.

    Attributes
    ----------
    t : (T,)
        Times of the steps.
    mean, corr : (T,), (T, T)
        Averages E x(t) and E x(t) x(s) of the state, not centred.
    output_mean, output_corr : (T,), (T, T)
        The same averages of the output phi(x).
    resp : (T, T)
        Response E d phi(x(t)) / d h(s) per unit of the time s (per step of a map); zero for s >= t,
        and nan in sweeps whose rate or output has jumps.
    multiplier : (T,)
        Multiplier of the declared constraint.
    arrays : Values
        All of these by name.
    error : Values
        Half-widths of 95 % intervals (Student's t over independent sweeps), nan for a single sweep.
        For a closed recursion, the bound of its series. The discretisation error of the step `dt`
        is not included: compare with networks that are simulated with the same step.
    paths : (sweeps, T, kept) array or None
        States of the first sites of each sweep, if requested by `keep_paths`.
    status, message, statistics, parameters, provenance
        As in `Trajectory`.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, h = sp.symbols("x h", real=True)
    >>> network = dmft.RandomNetwork(-x + h, x, h, std=0.5)
    >>> run = dmft.solve(dmft.derive(network), dmft.laws.Normal(), 2.0)
    >>> run.corr.shape, str(run.status), bool(run.error.corr.max() < 1e-9)
    ((21, 21), 'ok', True)
    """

    arrays: Values
    error: Values
    paths: Array | None = None

    KIND = "dmft random network"
    _NO_FINAL = "a run with memory cannot be continued: solve again with a larger t_max"
    NAMES: ClassVar[Mapping[str, str]] = {"arrays": "{}", "error": "{}_error"}

    def _groups(self) -> tuple[Mapping[str, Array], ...]:
        return (self.arrays,)

    def _axes(self, field: str, name: str, values: Array) -> tuple[str, ...]:
        return (*NETWORK_AXES[name], "population")[: values.ndim]


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

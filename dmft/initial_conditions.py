"""Where runs start, and where they end: the order parameters at one time.

Floor 0: numbers only; the networks whose order parameters they are stand in `dmft.model`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch
from dmft.record import Record, Short, in_line
from dmft.validation import check_covariance, check_shape, checked, is_number, shown

# e^2/r^2 + m^2 of a start computed in float64 may exceed 1 by rounding.
FEASIBLE_TOLERANCE = 1e-9
# What runs count: the time of the equations, and the times of schedules by control.
TIME, STEPS, SAMPLES = "t", "steps / d", "samples / d"


# In this many dimensions and more, teacher rows of a squared length below the second number are
# taken to have length O(1), not O(sqrt(d)).
SCALED_FROM, UNSCALED = 50, 5.0


class Start(Short, Record):
    """Base of starts. That which a run has reached keeps its clock, as `run.final` does."""

    clock: Mapping[str, float] | None

    @property
    def t(self) -> float:
        """Final time of the run that ended here, in the unit of that run; 0 if there is none."""
        return next(iter((self.clock or {}).values()), 0.0)

    def _in_words(self) -> str:
        return f", t={self.t:g}" if self.clock else ""


@checked
@dataclass(frozen=True, eq=False, repr=False)
class Overlaps(Start):
    """Overlaps Q = W W^T/d, M = W W*^T/d and P = W* W*^T/d of student and teacher weights.

    For inputs with a `Spectrum` the overlaps have a leading axis of B >= 1 blocks: Q (B, p, p),
    M (B, p, k) and P (B, k, k) are the scalar products of the rows within each block divided by d,
    not weighted by the eigenvalues. P is then required.

    Parameters
    ----------
    Q : (p, p) symmetric
    M : (p, k)
    P : (k, k) symmetric; the identity by default
    readout : (p,), or (outputs, p) for several outputs, optional
        Student readouts a_j, which replace those of the model.
    memory : mapping of str to array, optional
        Overlaps of additional rows of an optimiser, such as velocities, by their names in a run
        (velocity_M with the teacher, velocity_Q with the student, velocity with each other); zero
        by default.
    clock : mapping of str to float, optional
        Initial time of schedules: the time "t", and "steps / d" and "samples / d" for a
        `dmft.Schedule`. `run.final` contains these values.
    scalars : mapping of str or sympy.Symbol to float, optional
        Initial values of the scalars of a learning rule (`dmft.UpdateField` with ``scalars=``).

    Raises
    ------
    ShapeMismatch, InvalidCovariance
        Also when [[Q, M], [M^T, P]] is not positive semi-definite.

    Examples
    --------
    >>> import dmft
    >>> dmft.Overlaps(Q=[[1.0]], M=[[0.1]], P=[[1.0]]).Omega.tolist()
    [[1.0, 0.1], [0.1, 1.0]]
    >>> dmft.Overlaps(Q=[[[1.0]], [[2.0]]], M=[[[0.1]], [[0.0]]], P=[[[1.0]], [[1.0]]]).blocks
    2
    """

    Q: Array
    M: Array
    P: Array
    readout: Array | None = None
    memory: Mapping[str, Array] | None = None
    clock: Mapping[str, float] | None = field(default=None, compare=False)
    scalars: Mapping[str, float] | None = None

    def __init__(
        self,
        Q: ArrayLike,
        M: ArrayLike,
        P: ArrayLike | None = None,
        readout: ArrayLike | None = None,
        *,
        memory: Mapping[str, ArrayLike] | None = None,
        clock: Mapping[str, float] | None = None,
        scalars: Mapping[Any, float] | None = None,
    ) -> None:
        object.__setattr__(self, "clock", _clock(clock))
        object.__setattr__(self, "scalars", _scalars(scalars))
        rows = {n: check_shape(y, n, np.shape(y)) for n, y in (memory or {}).items()}
        object.__setattr__(self, "memory", rows or None)
        if np.ndim(M) == 3:
            _of_blocks(self, Q, M, P)
            object.__setattr__(self, "readout", _readout(readout, self.p))
            return
        student = check_covariance(Q, "Q")
        p = student.shape[0]
        shape = np.shape(M)
        if len(shape) != 2 or shape[0] != p:
            raise ShapeMismatch(f"M has shape {shape}, expected (p, k) with p = {p} as in Q")
        cross = check_shape(M, "M", (p, shape[1]))
        teacher = np.eye(shape[1]) if P is None else check_covariance(P, "P")
        if teacher.shape != (shape[1], shape[1]):
            raise ShapeMismatch(
                f"P has shape {teacher.shape}, expected ({shape[1]}, {shape[1]}) as in M"
            )
        object.__setattr__(self, "Q", student)
        object.__setattr__(self, "M", cross)
        object.__setattr__(self, "P", teacher)
        object.__setattr__(self, "readout", _readout(readout, p))
        check_covariance(self.Omega, "Omega = [[Q, M], [M^T, P]]")

    @classmethod
    def from_weights(
        cls, W: ArrayLike, W_star: ArrayLike, readout: ArrayLike | None = None
    ) -> Overlaps:
        """Overlaps of weight vectors, for example of a network trained in PyTorch.

        Rows must have squared length |w|^2 = O(d), so that the fields are h = w.x/sqrt(d).

        Parameters
        ----------
        W : (p, d) array or tensor
            Student weights.
        W_star : (k, d) array or tensor
            Teacher weights.
        readout : (p,), or (outputs, p), optional

        Returns
        -------
        Overlaps
            Q = W W^T/d, M = W W*^T/d and P = W* W*^T/d.

        Raises
        ------
        ShapeMismatch
        BadParameter
            If teacher rows have length O(1), as for fields h = w.x.

        Examples
        --------
        >>> import numpy as np, dmft
        >>> teacher = np.random.default_rng(0).standard_normal((1, 1000))
        >>> start = dmft.Overlaps.from_weights([[0.5], [0.1]] * teacher, teacher)
        >>> (start.M / start.P).round(12).tolist()
        [[0.5], [0.1]]
        """
        rows, teacher = _weights(W, "W"), _weights(W_star, "W_star")
        d = teacher.shape[1]
        if rows.shape[1] != d:
            raise ShapeMismatch(
                f"W has rows of {rows.shape[1]} numbers and W_star of {d}: both are (units, d)"
            )
        P = teacher @ teacher.T / d
        longest = float(np.diag(P).max())
        if d >= SCALED_FROM and 0.0 < longest < UNSCALED / d:
            raise BadParameter(
                f"W_star has rows of length |w|^2 = {longest * d:.3g} in d = {d} dimensions: "
                "overlaps are w.w/d with |w|^2 of the order of d, for fields h = w.x/sqrt(d); for "
                "fields h = w.x pass sqrt(d) W and sqrt(d) W_star"
            )
        return cls(rows @ rows.T / d, rows @ teacher.T / d, P, readout)

    def _in_words(self) -> str:
        arrays = {"Q": self.Q, "M": self.M, "P": self.P, "readout": self.readout}
        text = ", ".join(f"{n}={in_line(a)}" for n, a in arrays.items() if a is not None)
        return text + super()._in_words()

    @property
    def p(self) -> int:
        """Student width."""
        return int(self.M.shape[-2])

    @property
    def k(self) -> int:
        """Teacher width."""
        return int(self.M.shape[-1])

    @property
    def blocks(self) -> int | None:
        """Number of blocks of a spectrum; None if there is no leading axis."""
        return int(self.M.shape[0]) if self.M.ndim == 3 else None

    @property
    def Omega(self) -> Array:
        """Gram matrix (p+k, p+k) of all rows, the covariance of the fields (h, h*); by block."""
        return np.block([[self.Q, self.M], [self.M.swapaxes(-1, -2), self.P]])


def _weights(given: Any, name: str) -> Array:
    """Rows of weights; a tensor of PyTorch is detached."""
    if hasattr(given, "detach"):
        given = given.detach().cpu().numpy()
    try:
        shape = np.shape(given)
    except ValueError:  # rows of different lengths
        shape = ()
    if len(shape) != 2 or not all(shape):
        raise ShapeMismatch(f"{name} has shape {shape}, expected (units, d)")
    return check_shape(given, name, shape)


def _scalars(given: Mapping[Any, float] | None) -> dict[str, float] | None:
    """Learned numbers by the names of their symbols."""
    found = {}
    for name, value in (given or {}).items():
        number = check_shape(value, str(name), ())
        found[str(name)] = float(number)
    return found or None


def _clock(given: Mapping[str, float] | None) -> dict[str, float] | None:
    """Times by what they count, checked."""
    found = {name: check_time(value, f"clock[{name!r}]") for name, value in (given or {}).items()}
    if not found.keys() <= {TIME, STEPS, SAMPLES}:
        raise BadParameter(f"a clock has {[TIME, STEPS, SAMPLES]}, got {list(found)}")
    return found or None


def check_time(value: float, name: str) -> float:
    """A finite time from 0 on."""
    if not (is_number(value) and 0.0 <= float(value) < math.inf):
        raise BadParameter(f"{name} must be finite and not negative, got {shown(value)}")
    return float(value)


def begin_of(start: object, unit: str, t_start: float | None, follows: bool = True) -> float:
    """Time at which a run begins: `t_start`, else that of the start where a schedule continues.

    `unit` is what the time counts, "t", "steps / d" or "samples / d"; only runs that follow a
    schedule in time continue. Refused are a start that has not counted this unit, and starts of
    different times.
    """
    if t_start is not None:
        return check_time(t_start, "t_start")
    starts = start if isinstance(start, list | tuple) else [start]
    clocks = [getattr(one, "clock", None) or {} for one in starts]
    if not (follows and any(clocks)):
        return 0.0
    times = {clock.get(unit, 0.0 if not clock else math.nan) for clock in clocks}
    begin = times.pop()
    if times or math.isnan(begin):
        reached = " and ".join(sorted({f"{n} = {y:g}" for c in clocks for n, y in c.items()}))
        raise BadParameter(
            f"the start was reached at {reached}, which is not a single {unit} for a schedule to "
            "continue from: pass t_start= (0 starts the schedule again)"
        )
    return begin


def steps_before(start: object, begin: float) -> float:
    """Steps over d that the clock of a start counts where a run goes on at its time; else 0."""
    clock = getattr(start, "clock", None) or {}
    return clock.get(STEPS, 0.0) if clock.get(TIME) == begin else 0.0


def check_end(t_max: float, begin: float, unit: str = TIME) -> None:
    """Refuse a run that ends before the time at which its schedule continues."""
    if begin > 0.0 and is_number(t_max) and not float(t_max) > begin:
        raise BadParameter(
            f"t_max = {t_max:g} is not beyond {unit} = {begin:g}, where the run begins: t_max is "
            "the time at which it ends, not its length; t_start=0 starts a schedule again"
        )


def _readout(given: ArrayLike | None, p: int) -> Array | None:
    """Readouts of one output, or a row for each of several."""
    if given is None:
        return None
    try:
        shape = np.shape(given)
    except ValueError:  # rows of different lengths, which are refused below
        shape = ()
    return check_shape(given, "readout", (shape[0], p) if len(shape) == 2 else (p,))


def _of_blocks(start: Overlaps, Q: ArrayLike, M: ArrayLike, P: ArrayLike | None) -> None:
    """Check and keep overlaps with a leading axis of blocks."""
    B, p, k = np.shape(M)
    if P is None:
        raise ShapeMismatch(f"overlaps of {B} blocks need P of the shape ({B}, {k}, {k})")
    for name, value, shape in (("Q", Q, (B, p, p)), ("M", M, (B, p, k)), ("P", P, (B, k, k))):
        found = check_shape(value, name, shape)
        if name != "M":
            found = np.array([check_covariance(y, f"{name}[{e}]") for e, y in enumerate(found)])
        object.__setattr__(start, name, found)
    for e, gram in enumerate(start.Omega):
        check_covariance(gram, f"Omega[{e}] = [[Q, M], [M^T, P]] of block {e}")


@checked
@dataclass(frozen=True, eq=False, repr=False)
class Alignment(Start):
    r"""Start of a sequence model: positional alignment e and semantic alignment m of the student.

    For tied weights e = w.p / sqrt(d) and m = w.w* / d, with |w|^2 = |w*|^2 = d. For untied
    weights m_l = w_l.w* / d, with sum_l |w_l|^2 = L d.

    Parameters
    ----------
    e : float or (L,)
        0 without positional encoding. For an encoding along one direction, one number (the opposite
        pair p_1 = -p_2 = p has e_1 = -e_2 = e). Otherwise the L numbers w.p_l / sqrt(d).
    m : float, or (L,) for untied weights
    radius : float
        Length |p|, if e is one number. The condition e^2 / radius^2 + m^2 <= 1 is checked. The
        feasible set of other encodings is checked when the model is solved.
    clock : mapping of str to float, optional
        Initial time of schedules, as in `Overlaps`.

    Raises
    ------
    InvalidCovariance
        If no vector has these alignments.
    ShapeMismatch

    Examples
    --------
    >>> import dmft
    >>> float(dmft.Alignment(e=0.3, m=0.4).m)
    0.4
    """

    e: Array
    m: Array
    radius: float = 1.0
    clock: Mapping[str, float] | None = field(default=None, compare=False)

    def __init__(
        self,
        e: ArrayLike = 0.0,
        m: ArrayLike = 0.0,
        radius: float = 1.0,
        *,
        clock: Mapping[str, float] | None = None,
    ) -> None:
        object.__setattr__(self, "clock", _clock(clock))
        position = check_shape(e, "e", np.shape(e))
        semantic = check_shape(m, "m", np.shape(m))
        if position.ndim > 1 or semantic.ndim > 1:
            raise ShapeMismatch(
                f"e and m have shapes {position.shape} and {semantic.shape}, expected () or (L,)"
            )
        if not (np.isfinite(float(radius)) and radius > 0):
            raise BadParameter(f"radius must be positive, got {radius!r}")
        if not (position.size and semantic.size):
            raise ShapeMismatch("e and m must contain a number, got an empty array")
        radius = float(radius)
        with np.errstate(over="ignore"):
            square = float(np.mean(np.square(semantic)))
            if position.ndim == 0:
                square += float(np.square(position / radius))
        if square > 1 + FEASIBLE_TOLERANCE:
            raise InvalidCovariance(
                f"e^2/r^2 + m^2 = {square:.6g} exceeds 1 for e = {position.tolist()}, "
                f"m = {semantic.tolist()}, r = {radius:g}: no weight vector of length sqrt(d) has "
                "these alignments (longer positional vectors: radius=)"
            )
        object.__setattr__(self, "e", position)
        object.__setattr__(self, "m", semantic)
        object.__setattr__(self, "radius", float(radius))

    def _in_words(self) -> str:
        radius = "" if self.radius == 1.0 else f", radius={self.radius:.6g}"
        return f"e={in_line(self.e)}, m={in_line(self.m)}{radius}{super()._in_words()}"

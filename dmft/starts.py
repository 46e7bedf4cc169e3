"""Where runs start, and where they end: the order parameters at one time.

Floor 0: numbers only; the networks whose order parameters they are stand in `dmft.model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.checks import checked
from dmft.covariance import check_covariance, check_shape
from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch
from dmft.record import Record, Short, in_line

Array = NDArray[np.float64]
# e^2/r^2 + m^2 of a start computed in float64 may exceed 1 by rounding.
FEASIBLE_TOLERANCE = 1e-9


@checked
@dataclass(frozen=True, eq=False, repr=False)
class Overlaps(Short, Record):
    """Overlaps Q = W W^T/d, M = W W*^T/d and P = W* W*^T/d of student and teacher weights.

    Of a model whose inputs have a `Spectrum` they are the unweighted overlaps of the rows within
    each block, with a leading axis of B blocks, B = 1 included: Q (B, p, p), M (B, p, k) and
    P (B, k, k), which is then not left out.

    Parameters
    ----------
    Q : (p, p) symmetric
    M : (p, k)
    P : (k, k) symmetric; the identity by default
    readout : (p,), or (outputs, p) of several outputs, optional
        Student readouts a_j, in place of those that the model declares.
    memory : mapping of str to array, optional
        Gram matrices of rows that an optimiser keeps beside the weights, by their names in a run
        (velocity_M, velocity_Q, velocity); zero by default.

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

    Q: NDArray[np.float64]
    M: NDArray[np.float64]
    P: NDArray[np.float64]
    readout: NDArray[np.float64] | None = None
    memory: Mapping[str, NDArray[np.float64]] | None = None

    def __init__(
        self,
        Q: ArrayLike,
        M: ArrayLike,
        P: ArrayLike | None = None,
        readout: ArrayLike | None = None,
        *,
        memory: Mapping[str, ArrayLike] | None = None,
    ) -> None:
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

    def _in_words(self) -> str:
        arrays = {"Q": self.Q, "M": self.M, "P": self.P, "readout": self.readout}
        return ", ".join(f"{n}={in_line(a)}" for n, a in arrays.items() if a is not None)

    @property
    def p(self) -> int:
        """Student width.

        Examples
        --------
        >>> import dmft
        >>> start = dmft.Overlaps(Q=[[1.0, 0.2], [0.2, 1.0]], M=[[0.1], [0.0]])
        >>> start.p
        2
        """
        return int(self.M.shape[-2])

    @property
    def k(self) -> int:
        """Teacher width.

        Examples
        --------
        >>> import dmft
        >>> start = dmft.Overlaps(Q=[[1.0, 0.2], [0.2, 1.0]], M=[[0.1], [0.0]])
        >>> start.k
        1
        """
        return int(self.M.shape[-1])

    @property
    def blocks(self) -> int | None:
        """Number of blocks of a spectrum; None where there is no such axis.

        Examples
        --------
        >>> import dmft
        >>> start = dmft.Overlaps(Q=[[1.0, 0.2], [0.2, 1.0]], M=[[0.1], [0.0]])
        >>> start.blocks is None
        True
        """
        return int(self.M.shape[0]) if self.M.ndim == 3 else None

    @property
    def Omega(self) -> NDArray[np.float64]:
        """Gram matrix (p+k, p+k) of all rows, the covariance of the fields (h, h*); by block.

        Examples
        --------
        >>> import dmft
        >>> start = dmft.Overlaps(Q=[[1.0, 0.2], [0.2, 1.0]], M=[[0.1], [0.0]])
        >>> start.Omega.tolist()
        [[1.0, 0.2, 0.1], [0.2, 1.0, 0.0], [0.1, 0.0, 1.0]]
        """
        return np.block([[self.Q, self.M], [self.M.swapaxes(-1, -2), self.P]])


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
class Alignment(Short, Record):
    r"""Start of a sequence model: positional alignment e and semantic alignment m of the student.

    e = w.p / sqrt(d) and m = w.w* / d, with |w|^2 = |w*|^2 = d; untied students have
    m_l = w_l.w* / d, with sum_l |w_l|^2 = L d.

    Parameters
    ----------
    e : float or (L,)
        0 without positional encoding; one number for an encoding along one direction (the opposite
        pair p_1 = -p_2 = p has e_1 = -e_2 = e), else the L numbers w.p_l / sqrt(d).
    m : float, or (L,) untied
    radius : float
        |p|, where e is one number: e^2 / radius^2 + m^2 <= 1 is checked here; with the model the
        feasible set of any encoding is.

    Raises
    ------
    InvalidCovariance
        When no vector has these alignments.
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

    def __init__(self, e: ArrayLike = 0.0, m: ArrayLike = 0.0, radius: float = 1.0) -> None:
        position = check_shape(e, "e", np.shape(e))
        semantic = check_shape(m, "m", np.shape(m))
        if position.ndim > 1 or semantic.ndim > 1:
            raise ShapeMismatch(
                f"e and m have shapes {position.shape} and {semantic.shape}, expected () or (L,)"
            )
        if not (np.isfinite(float(radius)) and radius > 0):
            raise BadParameter(f"radius must be positive, got {radius!r}")
        if not (position.size and semantic.size):
            raise ShapeMismatch("e and m must hold a number, got an empty array")
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
        return f"e={in_line(self.e)}, m={in_line(self.m)}{radius}"

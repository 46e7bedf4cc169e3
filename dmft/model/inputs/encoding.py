"""Positional encodings by their overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch
from dmft.initial_conditions import FEASIBLE_TOLERANCE
from dmft.record import Brief
from dmft.validation import PSD_TOLERANCE, check_covariance, check_shape, is_array, is_number, shown


@dataclass(frozen=True)
class Encoding(Brief):
    r"""Positional vectors p_l = sum_a pattern_la b_a, given by the overlaps of w* and the b_a.

    The alignments of a student are e_a = w.b_a / sqrt(d); token l reads e_l = sum_a pattern_la e_a.

    Parameters
    ----------
    pattern : (L,) or (L, r)
        One column for each vector b_a.
    gram : (1 + r, 1 + r), optional
        Gram matrix of (w*/sqrt(d), b_1, ..., b_r); the identity by default.

    Raises
    ------
    BadParameter, ShapeMismatch, InvalidCovariance
    """

    pattern: sp.ImmutableDenseMatrix
    gram: sp.ImmutableDenseMatrix

    def __init__(self, pattern: ArrayLike, gram: ArrayLike | None = None) -> None:
        rows = sp.ImmutableDenseMatrix(_matrix(pattern, "pattern"))
        size = 1 + rows.cols
        overlaps = sp.eye(size) if gram is None else _matrix(gram, "gram")
        if overlaps.shape != (size, size):
            raise ShapeMismatch(f"gram has shape {overlaps.shape}, expected ({size}, {size})")
        check_covariance(np.array(overlaps.tolist(), dtype=float), "gram")
        if abs(float(overlaps[0, 0]) - 1) > PSD_TOLERANCE:
            raise BadParameter(
                f"gram[0, 0] = {overlaps[0, 0]} is |w*|^2/d, which is 1 on the sphere"
            )
        object.__setattr__(self, "pattern", rows)
        object.__setattr__(self, "gram", sp.ImmutableDenseMatrix(overlaps))

    @property
    def length(self) -> int:
        """Number of tokens."""
        return int(self.pattern.rows)

    @property
    def rank(self) -> int:
        """Number r of alignments e_a: 0 without an encoding, 1 for an opposite pair."""
        return int(self.pattern.cols)

    @property
    def orthogonal(self) -> bool:
        """Whether all p_l are orthogonal to the target."""
        return all(self.gram[0, a] == 0 for a in range(1, self.rank + 1))

    @property
    def radius(self) -> float:
        """Length of the one vector b; the largest |e|."""
        if self.rank != 1:
            raise BadParameter(f"an encoding of {self.rank} vectors has no single radius")
        return float(sp.sqrt(self.gram[1, 1]))

    @property
    def alignments(self) -> tuple[sp.Symbol, ...]:
        """Symbols of e: one called e, or e1, ..., er."""
        if self.rank == 1:
            return (sp.Symbol("e", real=True),)
        return tuple(sp.Symbol(f"e{a}", real=True) for a in range(1, self.rank + 1))

    @property
    def means(self) -> tuple[sp.Expr, ...]:
        """Means e_l of the token fields, in the symbols of `alignments`."""
        return tuple(
            sp.Add(*(self.pattern[n, a] * e for a, e in enumerate(self.alignments)))
            for n in range(self.length)
        )

    def as_array(self, e: ArrayLike) -> Array:
        """Alignments (r,): from a number, r numbers, or the means (L,) of the tokens."""
        given = np.atleast_1d(check_shape(e, "e", np.shape(e)))
        if given.ndim != 1:
            raise ShapeMismatch(f"e has shape {given.shape}, expected () or ({self.length},)")
        if not np.any(given) and given.size in (1, self.length):
            return np.zeros(self.rank)
        if self.rank == 0:
            raise BadParameter(
                f"e = {given.tolist()} without an encoding: declare dmft.Model(..., encoding=...)"
            )
        if given.size == self.rank:
            return given
        pattern = np.array(self.pattern.tolist(), dtype=float)
        if given.size == self.length:
            found = np.linalg.lstsq(pattern, given, rcond=None)[0]
            if np.allclose(pattern @ found, given, atol=FEASIBLE_TOLERANCE):
                return np.asarray(found)
        raise ShapeMismatch(
            f"e = {given.tolist()} is not an alignment with the pattern {pattern.tolist()}"
        )

    def check(self, e: Array, m: float) -> None:
        """Refuse (m, e) that no w of length sqrt(d) has: s in the range of G, s^T G^+ s <= 1."""
        gram = np.array(self.gram.tolist(), dtype=float)
        s = np.concatenate([[m], e])
        inverse = np.linalg.pinv(gram, rcond=PSD_TOLERANCE, hermitian=True)
        with np.errstate(over="ignore", invalid="ignore"):
            outside = s - gram @ (inverse @ s)
        if np.max(np.abs(outside)) > FEASIBLE_TOLERANCE * max(1.0, float(np.max(np.abs(s)))):
            raise InvalidCovariance(
                f"(m, e) = {s.tolist()} is not in the range of the Gram matrix {gram.tolist()}: "
                "linearly dependent positional vectors have linearly dependent alignments"
            )
        with np.errstate(over="ignore"):
            square = float(s @ inverse @ s)
        if square > 1 + FEASIBLE_TOLERANCE:
            name = "e^2/r^2 + m^2" if self.orthogonal and self.rank == 1 else "s^T G^+ s"
            raise InvalidCovariance(
                f"{name} = {square:.6g} exceeds 1 for e = {e.tolist()}, m = {m:g}: no weight "
                "vector of length sqrt(d) has these alignments"
            )


def as_encoding(value: Any, length: int) -> Encoding:
    """Encoding of what `dmft.Model` takes: None, a radius, a pattern (L,), a Gram matrix."""
    if isinstance(value, list | tuple) and not is_array(value):
        raise ShapeMismatch(
            f"encoding = {shown(value)} is not an array: do its rows have equal lengths?"
        )
    if isinstance(value, Encoding):
        encoding = value
    elif value is None:
        encoding = Encoding(sp.zeros(length, 0))
    elif np.ndim(value) == 0:
        encoding = _opposite_pair(value, length)
    elif np.ndim(value) == 1:
        encoding = Encoding(value)
    else:
        encoding = _from_gram(value, length)
    if encoding.length != length:
        raise ShapeMismatch(
            f"the encoding has {encoding.length} tokens, the networks have {length}"
        )
    return encoding


def _opposite_pair(radius: Any, length: int) -> Encoding:
    if length != 2:
        raise BadParameter(
            f"a radius declares the opposite pair p_1 = -p_2 of two tokens, but here L = "
            f"{length}; pass the pattern (c_1, ..., c_L) of p_l = c_l p, or a Gram matrix"
        )
    r = sp.sympify(radius, strict=True) if is_number(radius) else sp.nan
    if not (r.is_number and r.is_positive and r.is_finite):
        raise BadParameter(
            f"the radius |p| of an encoding must be a positive number, got {shown(radius)}"
        )
    return Encoding([1, -1], sp.diag(1, r**2))


def _from_gram(value: Any, length: int) -> Encoding:
    """Encoding of a Gram matrix (1 + L, 1 + L); parallel vectors share one alignment."""
    gram = _matrix(value, "encoding")
    if gram.shape != (length + 1, length + 1):
        raise ShapeMismatch(
            f"encoding has shape {gram.shape}; a Gram matrix of (w*/sqrt(d), p_1, ..., p_L) has "
            f"shape {(length + 1, length + 1)}"
        )
    block = gram[1:, 1:]
    first = next((n for n in range(length) if block[n, n] != 0), None)
    if first is not None:
        column = block[:, first] / block[first, first]
        cross = gram[0, 1 + first]
        parallel = column * column.T * block[first, first] == block
        if parallel and list(gram[0, 1:]) == list((column * cross).T):
            return Encoding(column, [[gram[0, 0], cross], [cross, block[first, first]]])
    return Encoding(sp.eye(length), gram)


def _matrix(value: Any, name: str) -> sp.Matrix:
    """Matrix of numbers; one row of them is a column."""
    if isinstance(value, sp.MatrixBase):
        return sp.Matrix(value)
    try:
        rows = [list(row) if isinstance(row, Sequence | np.ndarray) else [row] for row in value]
        entries = [[sp.sympify(_plain(y), strict=True) for y in row] for row in rows]
        matrix = sp.Matrix(entries)
    except (TypeError, ValueError, sp.SympifyError) as error:
        raise BadParameter(f"{name} must be an array of numbers, got {value!r}") from error
    if not all(y.is_number and y.is_real and y.is_finite for y in matrix):
        raise BadParameter(f"{name} must contain finite real numbers, got {value!r}")
    return matrix


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value

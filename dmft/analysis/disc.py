r"""A risk on the disc of feasible alignments: values, derivatives, and its series on the circle.

With G the Gram matrix of (w*/sqrt(d), p), weights of length sqrt(d) reach s^T G^+ s <= 1 for
s = (m, e). Here s = B u with B B^T = G: the feasible set is the unit disc of u, its border the
weights in the span of w* and p. The flow of population gradients is du/dt = -(I - u u^T) grad f.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter, InvalidCovariance
from dmft.validation import is_number, shown

# Central differences of order 6 of a function of size one: error 1e-11 in second derivatives.
STEP = 0.02
# A risk with errors eps takes the step at which they weigh as much as the eighth derivative,
# within this bound.
WIDEST = 0.15
FIRST = np.array([-1, 9, -45, 0, 45, -9, 1]) / 60
SECOND = np.array([2, -27, 270, -490, 270, -27, 2]) / 180
# One-sided first derivative of order 6 from inside.
INWARD = np.array([147, -360, 450, -400, 225, -72, 10]) / 60
# Fourier coefficients below this part of the largest, and this multiple of the last ones, are
# rounding.
ROUNDING, TAIL = 1e-15, 4.0
PROBES = 5
# Images of one point agree to this many digits.
DIGITS = 14


# Points around the circle: the risk is smooth, more resolve nothing.
MOST_POINTS = 2**20


@dataclass(frozen=True, eq=False)
class Disc:
    """Risk as a function of u in the unit disc; u_1 is along m, u_2 along the encoding."""

    risk: Callable[..., Any]
    basis: Array
    vectorised: bool
    # Components of u in which the risk is even: images are evaluated once.
    even: tuple[bool, bool] = (False, False)
    step: float = STEP

    def alignments(self, u: Array) -> tuple[Array, Array]:
        """Return e and m at points u (..., 2)."""
        s = u @ self.basis.T
        return s[..., 1], s[..., 0]

    def values(self, u: Array) -> Array:
        """Risk at points u (..., 2)."""
        folded = np.where(self.even, np.abs(u), u).reshape(-1, 2)
        _, first, where = np.unique(
            folded.round(DIGITS), axis=0, return_index=True, return_inverse=True
        )
        return self._at(folded[first])[where.ravel()].reshape(u.shape[:-1])

    def _at(self, u: Array) -> Array:
        e, m = self.alignments(u)
        if self.vectorised:
            return np.asarray(self.risk(e=e, m=m), dtype=np.float64)
        pairs = zip(e.ravel().tolist(), m.ravel().tolist(), strict=True)
        return np.array([float(self.risk(e=x, m=y)) for x, y in pairs])

    def hessian(self, u: Array) -> tuple[Array, Array]:
        """Gradient (2,) and Hessian (2, 2) in u at a point well inside."""
        # Along the axes and the two diagonals; a step never leaves the disc.
        step = min(self.step, (1.0 - float(np.hypot(*u))) / 4)
        lines = np.array([[1, 0], [0, 1], [1, 1], [1, -1]]) / np.array([[1, 1, 2**0.5, 2**0.5]]).T
        f = self.values(u + step * np.arange(-3, 4)[None, :, None] * lines[:, None, :])
        slopes, bends = f @ FIRST / step, f @ SECOND / step**2
        cross = (bends[2] - bends[3]) / 2
        return slopes[:2], np.array([[bends[0], cross], [cross, bends[1]]])

    def outward(self, u: Array) -> float:
        """Slope along the radius at a point of the circle, from inside."""
        inner = (1 - self.step * np.arange(7))[:, None] * u
        return float(self.values(inner) @ INWARD / self.step)


def make_disc(risk: Callable[..., Any], gram: ArrayLike | None = None) -> Disc:
    """Return the disc of a risk that is called as ``risk(e=..., m=...)``.

    Its attribute `error`, where it has one, is what its values are known to.
    """
    if not callable(risk):
        raise BadParameter(f"a landscape needs a risk called as risk(e=..., m=...), got {risk!r}")
    matrix = np.eye(2) if gram is None else np.array(gram, dtype=float)
    if matrix.shape != (2, 2) or not np.all(np.isfinite(matrix)) or matrix[0, 0] != 1.0:
        raise BadParameter(
            f"gram = {matrix.tolist()} must be the overlaps [[1, w*.p], [w*.p, |p|^2]] of one "
            "encoding direction p with the target of unit length"
        )
    height = matrix[1, 1] - matrix[0, 1] ** 2
    if matrix[0, 1] != matrix[1, 0] or not height > 0.0:
        raise InvalidCovariance(
            f"gram = {matrix.tolist()} must be symmetric and positive definite: if p is parallel "
            "to the target, e and m are the same alignment"
        )
    basis = np.array([[1.0, 0.0], [matrix[0, 1], np.sqrt(height)]])
    error = float(getattr(risk, "error", 0.0))
    step = min(WIDEST, max(STEP, error ** (1 / 8)))
    return Disc(risk, basis, _takes_arrays(risk, basis), step=step)


def _takes_arrays(risk: Callable[..., Any], basis: Array) -> bool:
    """Whether the risk works on arrays of alignments, pointwise."""
    turns = 0.4 + np.arange(PROBES)
    u = 0.1 * np.stack([np.cos(turns), np.sin(turns)], axis=-1)
    s = u @ basis.T
    alone = [risk(e=float(e), m=float(m)) for m, e in s]
    if not all(is_number(np.asarray(value)) for value in alone):
        raise BadParameter(
            f"the risk returned {shown(alone[0])} at one alignment, which is not a number"
        )
    single = np.array(alone, dtype=float)
    try:
        several = np.asarray(risk(e=s[:, 1], m=s[:, 0]), dtype=float)
    except (TypeError, ValueError, IndexError):
        return False
    return several.shape == single.shape and bool(np.allclose(several, single, rtol=1e-9))


@dataclass(frozen=True, eq=False)
class Around:
    """Fourier series of the risk around the circle, u = (cos, sin), of exp(i k angle), k >= 0."""

    coefficients: NDArray[np.complex128]

    def __call__(self, angle: Array, order: int = 0) -> Array:
        """Risk at angles, or its derivative of this order."""
        k = np.arange(self.coefficients.size)
        terms = self.coefficients * (1j * k) ** order
        value: Array = (np.exp(1j * np.multiply.outer(angle, k)) @ terms).real
        return value


def series_around(disc: Disc, points: int) -> Around:
    """Trigonometric interpolation on equally spaced angles, none of them on an axis."""
    if not 8 <= points <= MOST_POINTS:
        raise BadParameter(f"points = {points!r} must be from 8 to {MOST_POINTS}")
    angles = (np.arange(points) + 0.5) * 2 * np.pi / points
    f = disc.values(np.stack([np.cos(angles), np.sin(angles)], axis=-1))
    if not np.all(np.isfinite(f)):
        i = int(np.flatnonzero(~np.isfinite(f))[0])
        e, m = disc.alignments(np.array([np.cos(angles[i]), np.sin(angles[i])]))
        raise BadParameter(f"the risk is {f[i]} at e = {float(e):g}, m = {float(m):g}")
    c = np.fft.rfft(f) / points
    k = np.arange(c.size)
    c = c * np.exp(-1j * k * angles[0])
    c[1:] *= 2
    # The highest frequency is its own alias; behind the last coefficient above rounding is noise,
    # which derivatives would multiply by their frequency.
    size = np.abs(c[:-1])
    noise = min(ROUNDING * size.max(), TAIL * size[-(size.size // 8) - 1 :].max())
    large = np.flatnonzero(size > noise)
    return Around(c[: int(large[-1]) + 1 if large.size else 1])

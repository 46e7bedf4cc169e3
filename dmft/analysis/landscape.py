r"""Minima of a risk over the feasible alignments, their stability, and where training sets out.

With G the Gram matrix of (w*/sqrt(d), p), weights of length sqrt(d) reach s^T G^+ s <= 1 for
s = (m, e). Here s = B u with B B^T = G: the feasible set is the unit disc of u, its border the
weights in the span of w* and p. The flow of population gradients is du/dt = -(I - u u^T) grad f.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.analysis.roots import bracketed_roots
from dmft.arrays import Array
from dmft.errors import BadParameter, InvalidCovariance
from dmft.record import Record
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


# Nodes on the circle. Risks of the library are at 1e-12 there.
POINTS = 512
# Polar grid on which minima inside are looked for.
RADII, ANGLES = 16, 48
NEWTON_STEPS = 30
# Points closer than this are one; alignments smaller than this are zero (a corner).
SAME = 1e-6
# Signs of (m, e) under which a risk may be even.
FLIPS = ((1, -1), (-1, 1), (-1, -1))
# Slopes and curvatures below this are zero to the accuracy of the differences.
FLAT = 1e-9
# e^2 / r^2 beyond which a minimum counts as positional in the code of the region.
POSITIONAL = 0.25


class NoMinimum(BadParameter):
    """The risk has no strict minimum: it is constant along some direction."""


@dataclass(frozen=True, eq=False)
class Minimum(Record):
    """Strict local minimum of the risk over the feasible alignments, a stable fixed point.

    Attributes
    ----------
    e, m, risk : float
    kind : {"semantic", "positional", "mixed", "uninformative"}
        Only m, only e, both or none differ from zero.
    border : bool
        Whether the weights lie in the span of target and encoding.
    curvature : float
        Smallest second variation: along the circle on the border, of the Hessian inside.
    pressure : float
        Inward slope on the border (positive if the minimum is held at the border); 0 inside.

    Examples
    --------
    >>> import dmft
    >>> found = dmft.landscape(dmft.literature.positional_semantic_risk(1.0, 0.7))
    >>> best = found.best
    >>> best.border, bool(best.curvature > 0)
    (True, True)
    """

    e: float
    m: float
    risk: float
    kind: str
    border: bool
    curvature: float
    pressure: float


@dataclass(frozen=True, eq=False)
class Landscape(Record):
    """Minima of a risk over the feasible alignments, and the initial direction of training.

    Attributes
    ----------
    minima : tuple of Minimum
        Minima in order of the risk. Of minima related by symmetry only the one with e >= 0 and m >=
        0 is listed.
    even : (bool, bool, bool)
        Whether the risk is even in e, in m, and in both at once.
    direction : (float, float) or None
        Unit vector (e, m), in units of the encoding's length, along which the flow leaves the
        start: the negative gradient, or the fastest growing mode. None if no mode grows.
    rates : (2,) array
        Growth rates of e and m at the start, -r^2 R_ee and -R_mm.
    around : Around
        The risk along the circle, m = cos and e / r = sin of the angle for orthogonal encodings.
    disc : Disc

    Examples
    --------
    >>> import dmft
    >>> found = dmft.landscape(dmft.literature.positional_semantic_risk(1.0, 0.7))
    >>> found.name, found.best.kind
    ('semantic over positional, positional start', 'semantic')
    """

    minima: tuple[Minimum, ...]
    even: tuple[bool, bool, bool]
    direction: tuple[float, float] | None
    rates: Array
    around: Around = field(compare=False)
    disc: Disc = field(compare=False)

    @property
    def best(self) -> Minimum:
        """Global minimum."""
        return self.minima[0]

    @property
    def starts_positional(self) -> bool:
        """Whether training moves mainly along e at first."""
        return self.direction is not None and abs(self.direction[0]) > abs(self.direction[1])

    @property
    def code(self) -> int:
        """1 if the best minimum has e > r/2, plus 2 if e grows first, plus 4 for several minima."""
        u = np.linalg.solve(self.disc.basis, [self.best.m, self.best.e])
        return int(u[1] ** 2 > POSITIONAL) + 2 * self.starts_positional + 4 * self.several

    @property
    def several(self) -> bool:
        """Whether there is a minimum besides the global one and its images under symmetry."""
        return len(self.minima) > 1

    @property
    def name(self) -> str:
        """Kinds of the minima, the global one first, and the start if it leads elsewhere."""
        kinds = [x.kind for x in self.minima]
        text = kinds[0] + (" over " + " and ".join(kinds[1:]) if kinds[1:] else "")
        towards = self.starts_positional == (self.best.e != 0.0)
        if self.direction is None:
            return text + ", no start"
        start = "positional" if self.starts_positional else "semantic"
        return text if towards or self.best.kind == "mixed" else f"{text}, {start} start"

    def risk(self, e: float, m: float) -> float:
        """Return the risk at feasible alignments.

        Parameters
        ----------
        e, m : float
            Positional and semantic alignment.

        Returns
        -------
        float

        Examples
        --------
        >>> import dmft
        >>> found = dmft.landscape(dmft.literature.positional_semantic_risk(1.0, 0.7))
        >>> bool(abs(found.risk(found.best.e, found.best.m) - found.best.risk) < 1e-12)
        True
        """
        u = np.asarray(np.linalg.solve(self.disc.basis, [m, e]), dtype=np.float64)
        return float(self.disc.values(u))

    def bend(self, e: float, m: float) -> float:
        """Return the second derivative along the border, at the border point in direction (e, m).

        Parameters
        ----------
        e, m : float
            Positional and semantic alignment, of which only the ratio is used.

        Returns
        -------
        float

        Examples
        --------
        >>> import dmft
        >>> found = dmft.landscape(dmft.literature.positional_semantic_risk(1.0, 0.7))
        >>> found.bend(e=0, m=1) > 0  # the semantic corner is stable
        True
        """
        u = np.linalg.solve(self.disc.basis, [m, e])
        return float(self.around(np.arctan2(u[1], u[0]), 2))

    def __repr__(self) -> str:
        points = ", ".join(f"{x.kind} (e={x.e:.4g}, m={x.m:.4g})" for x in self.minima)
        return f"Landscape({self.name}: {points})"


def landscape(
    risk: Callable[..., Any], gram: ArrayLike | None = None, *, points: int = POINTS
) -> Landscape:
    """Find the minima of a risk over the feasible alignments of a sequence model.

    Equation    strict local minima of R over {s^T G^+ s <= 1}, s = (m, e), with `gram` G (2, 2) of
                (w*/sqrt(d), p): these are the stable fixed points of spherical gradient flow
    Valid for   smooth risks; two minima are resolved if they differ by 2 pi / points on the circle,
                or by a sixteenth of the radius inside. The attribute `error` of a risk,
                if any, is the accuracy of its values and sets the step of finite differences
    Source      theory/sequence A.4, D.4
    """
    if points < 8:
        raise BadParameter(f"points = {points} are too few for a circle: use at least 8")
    disc = make_disc(risk, gram)
    even = _symmetries(disc)
    disc = replace(disc, even=(even[1], even[0]))
    around = series_around(disc, points)
    found = [*_on_border(disc, around, points), *_inside(disc)]
    minima = sorted(_distinct(found, even), key=lambda x: x.risk)
    if not minima:
        raise NoMinimum(
            "the risk has no strict minimum over the feasible alignments: it may be constant "
            "along a line, for example if the target does not depend on its tokens"
        )
    direction, rates = _start(disc)
    return Landscape(tuple(minima), even, direction, rates, around, disc)


def landscape_boundary(
    family: Callable[[float], Callable[..., Any]],
    measure: Callable[[Landscape], Any],
    low: float,
    high: float,
    *,
    gram: ArrayLike | None = None,
    xtol: float = 1e-10,
) -> float:
    """Value of a parameter at which a measure of the landscape of a family of risks changes.

    The boundary is the zero of a measure that returns a number, or the place where a bool or str
    changes.
    """
    from scipy.optimize import bisect, brentq

    if not xtol > 0.0:
        raise BadParameter(f"xtol = {xtol!r} must be positive")

    def measured(x: float) -> Any:
        return measure(landscape(family(x), gram))

    first, last = measured(low), measured(high)
    if isinstance(first, bool | np.bool_ | str):
        if first == last:
            raise BadParameter(f"the landscape is the same at {low:g} and {high:g}: {first!r}")
        return float(bisect(lambda x: 0.5 - (measured(x) != first), low, high, xtol=xtol))
    if not (is_number(first) and is_number(last)):
        raise BadParameter(
            f"the measure returned {shown(first)} at {low:g} and {shown(last)} at {high:g}: a "
            "boundary needs a signed number, a bool or a name"
        )
    if not float(first) * float(last) < 0:
        raise BadParameter(
            f"no sign change between {low:g} and {high:g}: the measure is {first:g} and {last:g}"
        )
    return float(brentq(lambda x: float(measured(x)), low, high, xtol=xtol))


def _symmetries(disc: Disc) -> tuple[bool, bool, bool]:
    """Whether the risk is even in e, in m, in both together: judged at a few points."""
    turns = np.array([0.3, 0.8, 1.2])
    u = np.stack([np.cos(turns), np.sin(turns)], axis=-1) * np.array([[0.9], [0.6], [1.0]])
    f = disc.values(u)
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.ptp(f) + np.abs(f).max() * 1e-6
    if not np.isfinite(size):
        worst = np.argmax(np.where(np.isfinite(f), np.abs(f), np.inf))
        place = u.reshape(-1, 2)[worst].tolist()
        raise BadParameter(f"the risk is {f.ravel()[worst]:.3g} at {place}: it must be finite")
    in_e, in_m, in_both = (
        bool(np.abs(disc.values(u * np.array(flip)) - f).max() < FLAT * size) for flip in FLIPS
    )
    # A tilted disc is not its own image under one sign alone.
    upright = disc.basis[1, 0] == 0.0
    return in_e and upright, in_m and upright, in_both


def _on_border(disc: Disc, around: Around, points: int) -> list[Minimum]:
    """Minima along the circle that the slope across it holds there."""
    corners = np.arange(points) * 2 * np.pi / points
    slope = around(np.append(corners, 2 * np.pi) - np.pi / points, 1)
    turns = np.flatnonzero((slope[:-1] < 0) & (slope[1:] >= 0))
    low = corners[turns] - np.pi / points
    if not turns.size:
        return []
    angles = bracketed_roots(lambda t: around(t, 1), low, low + 2 * np.pi / points)
    found = []
    for angle in angles:
        u = np.array([np.cos(angle), np.sin(angle)])
        pressure = -disc.outward(u)
        curvature = float(around(angle, 2))
        # The slope turns from falling to rising: a minimum, even where the curvature vanishes.
        if pressure > FLAT and curvature > -FLAT:
            found.append(_minimum(disc, u, True, curvature, pressure))
    return found


def _inside(disc: Disc) -> list[Minimum]:
    """Minima inside: points of a polar grid below their neighbours, then Newton's method."""
    radii = np.linspace(0.0, 1.0, RADII + 1)
    turns = 2 * np.pi * np.arange(ANGLES) / ANGLES
    u = radii[:, None, None] * np.stack([np.cos(turns), np.sin(turns)], axis=-1)[None]
    f = disc.values(u)
    near = np.stack([np.roll(f, shift, axis=1) for shift in (-1, 0, 1)])
    neighbours = np.minimum(near.min(axis=0)[:-2], near.min(axis=0)[2:])
    sides = np.minimum(near[0], near[2])[1:-1]
    low = (f[1:-1] <= neighbours) & (f[1:-1] <= sides)
    starts = [u[1 + i, j] for i, j in zip(*np.nonzero(low), strict=True)]
    if f[0, 0] <= f[1].min():
        starts.append(np.zeros(2))
    return [x for x in (_newton(disc, point) for point in starts) if x is not None]


def _newton(disc: Disc, u: Array) -> Minimum | None:
    """Newton's method inside; None where it leaves the disc or meets no minimum."""
    for _ in range(NEWTON_STEPS):
        if np.hypot(*u) >= 1 - SAME:
            return None
        slope, hessian = disc.hessian(u)
        values, vectors = np.linalg.eigh(hessian)
        move = vectors @ (vectors.T @ slope / np.maximum(np.abs(values), FLAT))
        # A move beyond the border stops half-way.
        length = min(1.0, 0.5 * (1 - np.hypot(*u)) / max(float(np.hypot(*move)), 1e-300))
        u = u - length * move
        if np.hypot(*move) < SAME**2:
            break
    if np.hypot(*u) >= 1 - SAME:
        return None
    slope, hessian = disc.hessian(u)
    curvature = float(np.linalg.eigvalsh(hessian)[0])
    if curvature <= FLAT or np.abs(slope).max() > SAME:
        return None
    return _minimum(disc, u, False, curvature, 0.0)


def _minimum(disc: Disc, u: Array, border: bool, curvature: float, pressure: float) -> Minimum:
    semantic, positional = abs(u[0]) > SAME, abs(u[1]) > SAME
    # Exactly at a corner, where a symmetry puts it.
    u = np.where([semantic, positional], u, 0.0)
    if border:
        u = u / np.hypot(*u)
    kind = {
        (True, False): "semantic",
        (False, True): "positional",
        (True, True): "mixed",
        (False, False): "uninformative",
    }[semantic, positional]
    e, m = disc.alignments(u)
    return Minimum(float(e), float(m), float(disc.values(u)), kind, border, curvature, pressure)


def _distinct(found: list[Minimum], even: tuple[bool, bool, bool]) -> list[Minimum]:
    """Drop what is met twice, and all but one of the images under sign changes."""
    flips = [(1, 1), *(flip for flip, holds in zip(FLIPS, even, strict=True) if holds)]
    kept: list[Minimum] = []
    for x in sorted(found, key=lambda x: (x.m < -SAME, x.e < -SAME)):
        images = [(sign_e * x.e, sign_m * x.m) for sign_m, sign_e in flips]
        if all(abs(e - y.e) + abs(m - y.m) > SAME for y in kept for e, m in images):
            kept.append(x)
    return kept


def _start(disc: Disc) -> tuple[tuple[float, float] | None, Array]:
    """Direction in which the flow leaves e = m = 0, and the growth rates of e and m there."""
    slope, hessian = disc.hessian(np.zeros(2))
    rates = -np.diag(hessian)[::-1]
    if np.abs(slope).max() > FLAT:
        way = -slope / np.hypot(*slope)
        return (float(way[1]), float(way[0])), rates
    values, vectors = np.linalg.eigh(hessian)
    if values[0] >= -FLAT:
        return None, rates
    way = vectors[:, 0] * np.sign(vectors[np.argmax(np.abs(vectors[:, 0])), 0])
    return (float(way[1]), float(way[0])), rates

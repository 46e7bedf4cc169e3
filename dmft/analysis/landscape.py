"""Minima of a risk over the feasible alignments, their stability, and where training sets out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dmft.analysis.boundaries.brackets import bracketed_roots
from dmft.analysis.disc import Around, Disc, make_disc, series_around
from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.record import Record
from dmft.validation import is_number, shown

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
    Valid for   smooth risks; minima on the circle are told apart down to 2 pi / points, inside down
                to a sixteenth of the radius. An attribute `error` of the risk widens differences
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

    The measure returns a number whose zero is wanted, or a bool or a str whose change is.
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

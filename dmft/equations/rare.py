r"""Events that nodes hardly meet: kinks of fields that are many standard deviations away.

Nodes drawn from the law of the fields do not meet an event rarer than one in their number; what
happens there is then missing from an average, and from its claimed error too. Nodes are therefore
added around the nearest point of each such event: a field beyond a kink, or two student fields
beyond theirs at once. With z ~ N(0, I) and h = root z, that of h_i >= t is t root_i / |root_i|^2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
from dmft.equations.average import At, Average
from dmft.gaussian.kinks import break_points
from dmft.gaussian.switch import SWITCHES
from dmft.model import FIELD

Array = NDArray[np.float64]

# An event whose nearest point is closer than this to 0 or to a centre is met by some nodes of a
# thousand; beyond the second distance its probability is below 1e-147.
NEAR, FARTHEST = 2.5, 26.0
# A kink counts as reached within this part of its distance.
REACHED = 1e-9
# Each centre costs as many nodes as there were.
MOST_CENTRES = 16
# Kinks are searched for on this interval; fields are no longer than this where they matter.
LARGEST_KINK = 1e3


class Pieces(NamedTuple):
    """Intervals between the kinks of a function of one field; `weights`: its factor stands alone.

    Of a factor of the whole integrand, only intervals count on which it is not zero.
    """

    students: bool
    teachers: bool
    weights: bool
    intervals: tuple[tuple[float, float], ...]


def pieces(found: Iterable[Average]) -> tuple[Pieces, ...]:
    """Functions with kinks that averages evaluate at nodes."""
    result: dict[Pieces, None] = {}
    for average in found:
        factors = (f.as_base_exp()[0] for f in sp.Mul.make_args(average.integrand))
        alone = {a for a in factors if isinstance(a, At)}
        for at in sorted(average.integrand.atoms(At), key=sp.default_sort_key):
            if at.factor.free_symbols == {FIELD} and at.factor.has(*SWITCHES):
                base, weights = at.field.base, at in alone
                intervals = between_kinks(at.factor, weights)
                one = Pieces(base != x.h_star, base != x.h, weights, intervals)
                result.setdefault(one)
    return tuple(result)


@lru_cache(maxsize=64)
def between_kinks(factor: sp.Expr, only_nonzero: bool) -> tuple[tuple[float, float], ...]:
    """Intervals between the kinks of a factor.

    Examples
    --------
    >>> between_kinks(sp.Heaviside(FIELD - 1), True), between_kinks(sp.Abs(FIELD), False)
    (((1.0, inf),), ((-inf, 0.0), (0.0, inf)))
    """
    kinks = [float(t) for t in break_points(factor, FIELD, LARGEST_KINK)]
    ends = [-math.inf, *kinks, math.inf]
    every = list(pairwise(ends))
    if not only_nonzero:
        return tuple(every)
    return tuple(e for e in every if factor.subs(FIELD, sp.Rational(_inside(*e))) != 0)


def _inside(low: float, high: float) -> float:
    """A number between two ends."""
    if math.isinf(low) or math.isinf(high):
        return high - 1.0 if math.isfinite(high) else low + 1.0 if math.isfinite(low) else 0.0
    return 0.5 * (low + high)


def centres(found: Iterable[Average], root: Array, p: int) -> Array:
    """Points (m, dim) about which nodes are needed as well, the nearest first.

    Parameters
    ----------
    found : averages
    root : (p + k, dim)
        Fields as combinations of the variables of the nodes, students first.
    p : int
    """
    sides: dict[tuple[int, float], bool] = {}  # a field beyond a kink, and whether as a weight
    for one in pieces(found):
        first, last = (0 if one.students else p), (len(root) if one.teachers else p)
        for low, high in one.intervals:
            if low <= 0.0 <= high:
                continue
            nearest = low if low > 0.0 else high
            for i in range(first, last):
                sides[i, nearest] = sides.get((i, nearest), False) or one.weights
    events = [[side] for side in sides]
    weights = [side for side, weight in sides.items() if weight]
    events += [[a, b] for a, b in combinations(weights, 2) if a[0] != b[0]]
    points = [point for event in events if (point := nearest_point(event, root)) is not None]
    kept = [np.zeros(root.shape[1])]
    for point in sorted(points, key=lambda v: float(v @ v)):
        apart = min(float(np.linalg.norm(point - other)) for other in kept)
        if apart > NEAR and np.linalg.norm(point) < FARTHEST and len(kept) <= MOST_CENTRES:
            kept.append(point)
    return np.array(kept[1:]).reshape(-1, root.shape[1])


def nearest_point(event: Sequence[tuple[int, float]], root: Array) -> Array | None:
    """Point nearest to 0 at which the fields of an event are at their kinks or beyond.

    Examples
    --------
    >>> nearest_point([(0, 3.0), (1, 3.0)], np.array([[1.0, 0.0], [0.6, 0.8]])).round(6).tolist()
    [3.0, 1.5]
    """
    rows, kinks = np.array([root[i] for i, _ in event]), np.array([t for _, t in event])
    for count in range(1, len(event) + 1):
        for some in combinations(range(len(event)), count):
            point = np.linalg.lstsq(rows[list(some)], kinks[list(some)], rcond=None)[0]
            if np.all((rows @ point) * np.sign(kinks) >= np.abs(kinks) * (1.0 - REACHED)):
                result: Array = point
                return result
    return None

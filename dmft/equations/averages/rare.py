r"""Events that nodes hardly meet: far kinks, and functions that are narrow beside their fields.

Nodes drawn from the law of the fields do not meet an event rarer than one in their number; what
happens there is then missing from an average, and from its claimed error too. Each function of a
field has intervals: between its kinks, and where it is not next to nothing. Nodes are added for
events {h_i in I}, or {h_j in I, h_l in J} of two weights, from the normal law

    mean z_0, nearest to 0 in the event;    precision 1 + sum_i root_i root_i^T / s_i^2,

with z ~ N(0, 1), h = root z, and s_i half the length of a bounded interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations, pairwise, product
from typing import NamedTuple

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.gaussian.closed.switch import SWITCHES
from dmft.gaussian.nodes.kinks import break_points, switches
from dmft.gaussian.nodes.rules import Law
from dmft.gaussian.tables.factor_function import FactorFunction
from dmft.model import FIELD

Interval = tuple[float, float]
Event = Sequence[tuple[int, Interval]]

# Logarithms of probabilities, up to factors of order one: events above the first are met by some
# nodes of a thousand; those below the second are no part of any double.
SELDOM, NEVER = -3.1, -338.0
# An end of an interval counts as reached within this part of its distance.
REACHED = 1e-9
# Sides of a jump, relative to where it is.
BESIDE = 1e-9
# Each law costs as many nodes as there were.
MOST_LAWS = 16
# Kinks are searched for on this interval.
LARGEST_KINK = 1e3
# A function has ended where it stays below this part of its largest value at these points.
ENDED = 1e-3
PROBES: Array = np.ldexp(1.0, np.arange(-2, 13))


class Pieces(NamedTuple):
    """Intervals of a function of one field: of which fields, and whether all else is its factor."""

    students: bool
    teachers: bool
    weights: bool
    intervals: tuple[Interval, ...]


def pieces(found: Iterable[Expectation]) -> tuple[Pieces, ...]:
    """Functions of one field that averages evaluate at nodes."""
    result: dict[Pieces, None] = {}
    for average in found:
        factors = (f.as_base_exp()[0] for f in sp.Mul.make_args(average.integrand))
        alone = {a for a in factors if isinstance(a, At)}
        for at in sorted(average.integrand.atoms(At), key=sp.default_sort_key):
            if at.factor.free_symbols == {FIELD}:
                base, weights = at.field.base, at in alone
                every = intervals(at.factor, weights)
                result.setdefault(Pieces(base != x.h_star, base != x.h, weights, every))
    return tuple(result)


@lru_cache(maxsize=64)
def intervals(factor: sp.Expr, weights: bool) -> tuple[Interval, ...]:
    """Intervals of a function; of a weight those between kinks where it is not next to nothing."""
    low, high = support(factor)
    kinks = break_points(factor, FIELD, LARGEST_KINK) if factor.has(*SWITCHES) else []
    ends = [-math.inf, *map(float, kinks), math.inf]
    if not weights:
        every = [*pairwise(ends), (low, high)]
        return tuple(e for e in dict.fromkeys(every) if e != (-math.inf, math.inf))
    every = [(max(a, low), min(b, high)) for a, b in pairwise(ends)]
    return tuple((a, b) for a, b in every if a < b and not _vanishes(factor, a, b))


def has_jumps(found: Iterable[Expectation]) -> bool:
    """Whether averages evaluate a function that jumps anywhere but at zero.

    Nodes of each field are balanced about zero: nothing is lost by jumps there.
    """
    factors = {at.factor for average in found for at in average.integrand.atoms(At)}
    return any(_jumps(f) for f in factors if f.has(*SWITCHES))


@lru_cache(maxsize=64)
def _jumps(factor: sp.Expr) -> bool:
    if factor.free_symbols != {FIELD}:  # kinks at parameters
        return any(s.subs(FIELD, 0) != 0 for s in switches(factor, (FIELD,)))
    f = FactorFunction(factor)
    for kink in map(float, break_points(factor, FIELD, LARGEST_KINK)):
        step = BESIDE * abs(kink)
        low, high = (float(f(np.array([kink + s]))[0]) for s in (-step, step))
        if abs(high - low) > 1e3 * BESIDE * (1.0 + abs(low) + abs(high)):
            return True
    return False


def _vanishes(factor: sp.Expr, low: float, high: float) -> bool:
    """Whether a function is zero at a number between two ends."""
    if math.isfinite(low) and math.isfinite(high):
        inside = 0.5 * (low + high)
    else:
        inside = low + 1.0 if math.isfinite(low) else high - 1.0 if math.isfinite(high) else 0.5
    return bool(factor.subs(FIELD, sp.Rational(inside)) == 0)


def support(factor: sp.Expr) -> Interval:
    """Where a function is not next to nothing, by its values at `PROBES`."""
    f = FactorFunction(factor)
    sides = [np.abs(f(sign * PROBES)) for sign in (-1.0, 1.0)]
    largest = max(float(np.max(side)) for side in sides)
    if not math.isfinite(largest):
        return -math.inf, math.inf
    ends = []
    for side in sides:
        last = np.flatnonzero(~(side <= ENDED * largest))
        ended = last.size and last[-1] + 1 < PROBES.size
        ends.append(float(PROBES[last[-1] + 1]) if ended else math.inf if last.size else PROBES[0])
    return -float(ends[0]), float(ends[1])


def rare_laws(found: Iterable[Expectation], root: Array, p: int) -> list[Law]:
    """Laws of which nodes are needed as well, of the most frequent events first.

    `root` (p + k, dim) has the fields as combinations of the variables of the nodes, students
    first.
    """
    events: dict[tuple[tuple[int, Interval], ...], None] = {}
    weights: dict[tuple[int, Interval], None] = {}
    for one in pieces(found):
        first, last = (0 if one.students else p), (len(root) if one.teachers else p)
        for side in product(range(first, last), one.intervals):
            events.setdefault((side,))
            if one.weights:
                weights.setdefault(side)
    pairs = ((a, b) for a, b in combinations(weights, 2) if a[0] != b[0])
    laws = [law for event in (*events, *pairs) if (law := law_of(event, root)) is not None]
    own = Law(np.zeros(root.shape[1]), np.eye(root.shape[1]))
    kept = [own]
    for law in sorted(laws, key=lambda law: -chance(law, own)):
        met = max(chance(law, other) for other in kept)
        if met < SELDOM and chance(law, own) > NEVER and len(kept) <= MOST_LAWS:
            kept.append(law)
    return kept[1:]


def chance(law: Law, other: Law) -> float:
    """Logarithm of the probability, under another law, of the event that a law stands for."""
    away = law.mean - other.mean
    narrow = np.linalg.slogdet(law.precision)[1] - np.linalg.slogdet(other.precision)[1]
    return -0.5 * float(away @ other.precision @ away) - 0.5 * max(float(narrow), 0.0)


def law_of(event: Event, root: Array) -> Law | None:
    """Law about an event; None where there are no fields in it (some determine each other)."""
    rows = np.array([root[i] for i, _ in event])
    low, high = (np.array([interval[n] for _, interval in event]) for n in (0, 1))
    point = _nearest(rows, low, high)
    if point is None:
        return None
    half = 0.5 * (high - low)
    bounded = np.isfinite(half)
    scaled = rows[bounded] / half[bounded, None]
    return Law(point, np.eye(root.shape[1]) + scaled.T @ scaled)


def _nearest(rows: Array, low: Array, high: Array) -> Array | None:
    """Point nearest to 0 with low <= rows point <= high: some of the fields are at an end."""
    best: Array | None = None
    for ends in product(*([math.nan, a, b] for a, b in zip(low, high, strict=True))):
        at, active = np.array(ends), np.isfinite(ends)
        if np.isinf(at).any():
            continue
        point = np.linalg.lstsq(rows[active], at[active], rcond=None)[0]
        fields, slack = rows @ point, REACHED * np.where(active, np.abs(at), 0.0)
        inside = np.all((fields >= low - slack) & (fields <= high + slack))
        if inside and (best is None or point @ point < best @ best):
            best = point
    return best

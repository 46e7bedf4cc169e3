r"""What nodes hardly meet: rare events, narrow functions, and integrands without an average.

Nodes drawn from the law of the fields do not meet an event rarer than one in their number; what
happens there is then missing from an average, and from its claimed error too. Each function of a
field has intervals: between its kinks, and where it is not next to nothing. Nodes are added for
events {h_i in I}, or {h_j in I, h_l in J} of two weights, from the normal law

    mean z_0, nearest to 0 in the event;    precision 1 + sum_i root_i root_i^T / s_i^2,

with z ~ N(0, 1), h = root z, and s_i half the length of a bounded interval.

Nodes end some deviations from the origin, and have a number for exp(z^2) as for anything else. An
integrand is summed over directions at growing distances from the origin, times the normal density
there: where the sums grow from one distance to the next, the average is infinite.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, pairwise, product
from typing import NamedTuple

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation
from dmft.equations.definitions import Definition, live
from dmft.equations.parameter_values import Values, with_nodes
from dmft.equations.reference import evaluate
from dmft.errors import BadParameter
from dmft.gaussian.closed.switch import SWITCHES
from dmft.gaussian.nodes.kinks import break_points, switches
from dmft.gaussian.nodes.rules import Law, NodeRule
from dmft.gaussian.tables.factor_function import FactorFunction
from dmft.initial_conditions import Overlaps
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


def root_of(start: Overlaps) -> Array:
    """Root of the covariance of the fields at a start, as `FieldRoot` has it."""
    from dmft.special.matrices import field_root

    root: Array = np.zeros_like(start.Omega)
    field_root(start.Omega, start.p, root)
    return root


def chance(law: Law, other: Law) -> float:
    """Logarithm of the probability, under another law, of the event that a law describes."""
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


# Distances from the origin. What falls like the density is 1e-22 of itself at the last one, so
# that polynomials in use fall from the last but one on, and doubles hold most integrands.
RADII = (3.0, 4.5, 6.75, 10.0)
# Less than this part of the largest sum of all entries grows by rounding, where sums cancel, or by
# directions that were missed.
FELT = 1e-12
GROWING = (sp.exp, sp.cosh, sp.sinh)


@lru_cache(maxsize=64)
def may_outgrow(definitions: tuple[Definition, ...], wanted: str = "rate") -> bool:
    """Whether rates (or observables) read exponentials that are not bounded."""
    return any(_may_grow(d.expr) for d in _read(definitions, wanted))


def told_by_tails(rule: NodeRule, definitions: tuple[Definition, ...], wanted: str) -> NodeRule:
    """A rule with one more to tell its error by, which goes on where a tensor rule ends."""
    if rule.kind in ("sobol", "mixture") or not may_outgrow(definitions, wanted):
        return rule
    return replace(rule, groups=(*rule.groups, rule.with_tails()))


def _may_grow(expr: sp.Basic) -> bool:
    """Whether it holds an exponential that is neither a bell nor inside a fraction or a log."""
    if isinstance(expr, sp.log) or (isinstance(expr, sp.Pow) and expr.exp.is_negative):
        return False
    if isinstance(expr, GROWING) and not (expr.is_number or _is_bell(expr.args[0])):
        return True
    return any(_may_grow(a) for a in expr.args)


def _is_bell(exponent: sp.Expr) -> bool:
    """Whether an exponent is minus a square."""
    number, rest = exponent.as_coeff_Mul()
    return bool(number.is_negative and _is_square(rest))


def _is_square(expr: sp.Expr) -> bool:
    """Whether it is made of squares and positive numbers by sums, products and powers."""
    if expr == x.Delta or expr.is_nonnegative or (expr.is_Pow and expr.exp.is_even):
        return True
    inside = expr.args if expr.is_Add or expr.is_Mul else expr.args[:1] if expr.is_Pow else ()
    return bool(inside) and all(map(_is_square, inside))


def _read(definitions: tuple[Definition, ...], wanted: str) -> tuple[Definition, ...]:
    return live(d for d in definitions if d.role not in {"rate", "observable"} - {wanted})


@lru_cache(maxsize=64)
def _sums(on_nodes: tuple[Definition, ...], wanted: str) -> tuple[Definition, ...]:
    """Sums over nodes that rates (or observables) read, as observables."""
    read = [d for d in _read(on_nodes, wanted) if d.role != wanted]
    return live(replace(d, role="observable") if _is_sum(d.expr) else d for d in read)


def _is_sum(expr: sp.Expr) -> bool:
    return any(limit[0] == x.node for s in expr.atoms(sp.Sum) for limit in s.limits)


def check_tails(
    definitions: tuple[Definition, ...],
    on_nodes: tuple[Definition, ...],
    state: Mapping[str, Array],
    values: Values,
    rule: NodeRule,
    wanted: str = "rate",
) -> None:
    """Refuse a state at which an average that rates (or observables) read is infinite.

    `definitions` are those with averages, `on_nodes` with sums in their place.
    """
    grows = may_outgrow(definitions, wanted)
    if grows and outgrows(on_nodes, state, values, rule, wanted):
        raise BadParameter(
            "an average over samples is infinite or nearly infinite at these overlaps: the "
            "integrand grows faster than the normal density of the fields decays; use a loss "
            "and functions that grow more slowly, or shorter weights"
        )


def outgrows(
    on_nodes: tuple[Definition, ...],
    state: Mapping[str, Array],
    values: Values,
    rule: NodeRule,
    wanted: str = "rate",
) -> bool:
    """Whether an average that rates (or observables) read is infinite at a state."""
    if rule.kind == "mixture":  # sigmoids and their slopes are bounded
        return False
    sums = _sums(on_nodes, wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what overflows is what is looked for
        rings = [
            evaluate(sums, state, with_nodes(values, rule.ring(radius)), "observable")
            for radius in RADII
        ]
    return any(_grown(np.stack([np.abs(ring[name]) for ring in rings])) for name in rings[0])


def _grown(sizes: Array) -> bool:
    """Whether an entry of sums (radius, ...) grows between the last radii at which doubles hold it.

    What they do not hold at the first two is no finite number on nodes either.
    """
    flat = sizes.reshape(len(sizes), -1)
    held = np.isfinite(flat).cumprod(axis=0).sum(axis=0)
    places = np.arange(flat.shape[1])
    last, before = flat[np.maximum(held - 1, 0), places], flat[np.maximum(held - 2, 0), places]
    felt = last > FELT * np.max(flat, where=np.isfinite(flat), initial=0.0)
    return bool(np.any((held > 1) & (last > before) & felt))

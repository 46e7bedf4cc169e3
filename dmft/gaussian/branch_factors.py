"""Factors with exponential branches: polynomials times exponentials on intervals of the field.

The one reading of such a factor serves its exact values (`values`) and the vector from
which compiled code averages it (`dmft.special.branches`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.emit.cache import store_array
from dmft.errors import NotClosed
from dmft.gaussian.closed.factor import Term, parse_factor
from dmft.model import FIELD

# Coefficients of the Taylor polynomials at 0, and points and digits of Cauchy's integrals.
ORDER, CIRCLE, DIGITS = 28, 96, 90
NOTHING = mpmath.mpf(10) ** -60
# What a Taylor polynomial leaves out within its radius, relative to its first term.
LEFT_OUT = 1e-18
RADII = tuple(4.0 * 0.8**n for n in range(60))
# Error functions that a row may hold, as in `dmft.special.branches`.
MOST_ERFS, MOST_KINKS = 4, 20


@dataclass(frozen=True)
class Row:
    """Polynomial times exp(slope z - curvature z^2 / 2) times error functions erf(a z + c)."""

    powers: tuple[tuple[int, sp.Expr], ...]
    slope: sp.Expr
    curvature: sp.Expr
    erfs: tuple[tuple[sp.Expr, sp.Expr], ...]


@dataclass(frozen=True)
class Branches:
    """Rows of each interval between the ascending kinks, from left to right."""

    kinks: tuple[sp.Expr, ...]
    intervals: tuple[tuple[Row, ...], ...]

    @property
    def closed(self) -> bool:
        """Whether it is polynomials times exponentials of linear functions alone."""
        return not any(r.erfs or r.curvature != 0 for rows in self.intervals for r in rows)

    @property
    def slopes(self) -> list[sp.Expr]:
        """Slopes of all exponentials."""
        return [r.slope for rows in self.intervals for r in rows if r.slope != 0]

    @property
    def growth(self) -> float:
        """Largest rate at which an exponential grows towards infinity, on either side."""
        return max(self.growths)

    @property
    def growths(self) -> tuple[float, float]:
        """Rates of growth to the left and to the right."""
        sides = ((-1, self.intervals[0]), (1, self.intervals[-1]))
        left, right = (
            max([0.0, *(side * float(r.slope) for r in rows if r.curvature == 0)])
            for side, rows in sides
        )
        return left, right

    @property
    def width(self) -> float:
        """Distance from zero beyond which it decays exponentially; infinite where it does not."""
        left, right = self.intervals[0], self.intervals[-1]
        if not self.closed or not (
            all(r.slope > 0 for r in left) and all(r.slope < 0 for r in right)
        ):
            return math.inf
        scales = [len(dense(r)) / abs(float(r.slope)) for r in (*left, *right)]
        return max([*scales, *(abs(float(k)) for k in self.kinks)], default=0.0)

    @property
    def features(self) -> list[tuple[sp.Expr, sp.Expr]]:
        """Where error functions and Gaussian factors bend, and over which width."""
        found = set()
        for row in (r for rows in self.intervals for r in rows):
            found |= {(-c / a, 1 / abs(a)) for a, c in row.erfs}
            if row.curvature != 0:
                found.add((row.slope / row.curvature, 1 / sp.sqrt(row.curvature)))
        return sorted(found, key=sp.default_sort_key)


def has_branches(factor: sp.Expr) -> bool:
    """Whether an exponential stands beside a jump or a kink, in a factor that is read here."""
    if not factor.has(sp.exp) or factor.has(sp.DiracDelta) or factor.free_symbols != {FIELD}:
        return False
    read = branches(factor)
    return read is not None and bool(read.kinks and read.slopes)


def decays(factor: sp.Expr) -> bool:
    """Whether a factor with exponential branches vanishes at both infinities."""
    read = branches(factor) if has_branches(factor) else None
    return read is not None and math.isfinite(read.width)


@lru_cache(maxsize=1024)
def branches(factor: sp.Expr) -> Branches | None:
    """Read a factor of numbers; None when it holds anything else."""
    try:
        terms = parse_factor(factor)
    except NotClosed:
        return None
    if not all(map(_numeric, terms)):
        return None
    kinks = sorted({-c for t in terms for a, c in t.erfs if a is sp.oo})
    if len(kinks) > MOST_KINKS:
        return None
    probes = [k - 1 for k in kinks[:1]] or [sp.S.Zero]
    probes += [(a + b) / 2 for a, b in pairwise(kinks)] + [k + 1 for k in kinks[-1:]]
    intervals = [_rows(terms, at) for at in probes]
    real = [n for n in range(len(kinks)) if intervals[n] != intervals[n + 1]]
    read = Branches(
        tuple(kinks[n] for n in real), (intervals[0], *(intervals[n + 1] for n in real))
    )
    return read if _bounded(read) else None


@lru_cache(maxsize=1024)
def canonical(factor: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Write a factor as a number times pieces between its kinks: one form for each function."""
    read = branches(factor)
    assert read is not None
    last = next(rows for rows in reversed(read.intervals) if rows)[-1]
    lead = last.powers[-1][1]
    values = [sp.Add(*(_written(row, lead) for row in rows)) for rows in read.intervals]
    conditions = [*(k > FIELD for k in read.kinks), sp.true]
    pieces = zip(values, conditions, strict=True)
    return lead, sp.Piecewise(*pieces) if read.kinks else values[0]


def _written(row: Row, lead: sp.Expr) -> sp.Expr:
    """A row over a number as an expression."""
    polynomial = sp.Add(*(sp.expand(c / lead) * FIELD**n for n, c in row.powers))
    exponential = sp.exp(row.slope * FIELD - row.curvature * FIELD**2 / 2)
    return sp.Mul(polynomial, exponential, *(sp.erf(a * FIELD + c) for a, c in row.erfs))


def primitive(read: Branches, jumps: dict[sp.Expr, sp.Expr]) -> sp.Expr | None:
    """Exponential branches with this derivative and these jumps that vanish at both infinities."""
    rows = [r for rows in read.intervals for r in rows]
    if math.isinf(read.width) or any(r.slope == 0 for r in rows):
        return None
    if not set(jumps) <= set(read.kinks):
        return None
    values = [sp.Add(*map(_antiderivative, rows)) for rows in read.intervals]
    for k, (before, after) in zip(read.kinks, pairwise(values), strict=True):
        step = (after - before).subs(FIELD, k) - jumps.get(k, sp.S.Zero)
        if sp.simplify(step) != 0:
            return None
    conditions = [*(k > FIELD for k in read.kinks), sp.true]
    return sp.Piecewise(*zip(values, conditions, strict=True))


def _antiderivative(row: Row) -> sp.Expr:
    """Polynomial times the exponential of a row, of which the row is the derivative."""
    p = sp.Add(*(c * FIELD**n for n, c in row.powers))
    total, factor = sp.S.Zero, 1 / row.slope
    while p != 0:
        total, p, factor = total + factor * p, sp.diff(p, FIELD), -factor / row.slope
    return sp.expand(total) * sp.exp(row.slope * FIELD)


def _numeric(term: Term) -> bool:
    """Whether a term holds real numbers alone, and no Dirac factor."""
    numbers = [*(c for _, c in term.powers), term.curvature, term.slope]
    numbers += [a for pair in term.erfs for a in pair if a is not sp.oo]
    plain = all(n.is_number and n.is_real for n in numbers)
    return plain and not term.deltas and bool(term.curvature >= 0)


def _rows(terms: Sequence[Term], at: sp.Expr) -> tuple[Row, ...]:
    """Rows of the interval that holds a point: its signs are numbers there."""
    merged: dict[Any, dict[int, sp.Expr]] = {}
    for term in terms:
        side = sp.Mul(*(sp.sign(at + c) for a, c in term.erfs if a is sp.oo))
        smooth = tuple(pair for pair in term.erfs if pair[0] is not sp.oo)
        powers = merged.setdefault((term.slope, term.curvature, smooth), {})
        for n, c in term.powers:
            powers[n] = powers.get(n, sp.S.Zero) + side * c
    rows = []
    for (slope, curvature, erfs), powers in merged.items():
        kept = tuple((n, c) for n, c in sorted(powers.items()) if sp.expand(c) != 0)
        if kept:
            rows.append(Row(kept, slope, curvature, erfs))
    return tuple(rows)


def _bounded(read: Branches) -> bool:
    """Whether no error functions must cancel an exponential that grows."""
    growing = [r for r in read.intervals[0] if r.slope < 0 and r.curvature == 0]
    growing += [r for r in read.intervals[-1] if r.slope > 0 and r.curvature == 0]
    most = max((len(r.erfs) for rows in read.intervals for r in rows), default=0)
    return most <= MOST_ERFS and not any(r.erfs for r in growing)


# Exact values -----------------------------------------------------------------------------------


def row_value(row: Row, x: Any) -> Any:
    """Value of a row at a number of mpmath, complex ones included."""
    mp = mpmath.mp
    value = mp.polyval([number(c) for c in dense(row)[::-1]], x)
    value *= mp.exp((number(row.slope) - number(row.curvature) * x / 2) * x)
    for a, c in row.erfs:
        value *= mp.erf(number(a) * x + number(c))
    return value


def branch_value(read: Branches, x: Any) -> Any:
    """Value at a number of mpmath off the kinks."""
    place = sum(1 for k in read.kinks if number(k) < x)
    return mpmath.fsum(row_value(r, x) for r in read.intervals[place])


def number(value: sp.Expr) -> Any:
    """Number of mpmath at its working precision."""
    if value.is_Rational:
        return mpmath.mpf(int(value.p)) / int(value.q)
    return value.evalf(mpmath.mp.dps + 5)._to_mpmath(mpmath.mp.prec + 10)


def dense(row: Row) -> list[sp.Expr]:
    """Coefficients by ascending power."""
    powers = dict(row.powers)
    return [powers.get(n, sp.S.Zero) for n in range(max(powers) + 1)]


# The vector of compiled code ----------------------------------------------------------------------


@lru_cache(maxsize=256)
def branch_vector(factor: sp.Expr) -> Array:
    """Vector that `dmft.special.branches` reads, of a factor that `branches` reads."""
    read = branches(factor)
    assert read is not None
    kinks = [float(k) for k in read.kinks]
    degree = max((n for rows in read.intervals for r in rows for n, _ in r.powers), default=0)
    features = [float(a) for pair in read.features for a in pair]
    left, right, radius = _taylor(read)
    head = [len(kinks), sum(map(len, read.intervals)), degree, radius, len(read.features)]
    head.append(max((abs(float(b)) for b in read.slopes), default=0.0))
    head += read.growths
    # Only what decays is asked for its width.
    head += [float(read.closed), read.width if math.isfinite(read.width) else 0.0]
    starts = np.cumsum([0, *map(len, read.intervals)])
    body = [np.array(head), np.array(kinks), left, right, np.array(features)]
    body.append(starts.astype(float))
    ends = [None, *read.kinks, None]
    for rows, low, high in zip(read.intervals, ends[:-1], ends[1:], strict=True):
        body += [_row_vector(row, degree, low, high) for row in rows]
    vector = np.concatenate(body)
    vector.flags.writeable = False
    return vector


def branch_key(factor: sp.Expr) -> str:
    """Name under which generated code loads the vector of a factor."""
    values = branch_vector(factor)
    key = hashlib.blake2b(values.tobytes(), digest_size=10).hexdigest()
    store_array(key, values)
    return key


def _row_vector(row: Row, degree: int, low: sp.Expr | None, high: sp.Expr | None) -> Array:
    """One row: exponent, error functions, coefficients about 0 and about both ends."""
    pairs = [float(a) for pair in row.erfs for a in pair]
    head = [float(row.slope), float(row.curvature), len(row.erfs), *pairs]
    head += [0.0] * (2 * MOST_ERFS - len(pairs))
    polynomial = sp.Poly.from_list(dense(row)[::-1], FIELD)
    for end in (sp.S.Zero, low, high):
        moved = polynomial if not end else polynomial.set_domain("EX").shift(end)
        coefficients = [] if end is None else [float(c) for c in moved.all_coeffs()[::-1]]
        head += coefficients + [0.0] * (degree + 1 - len(coefficients))
    return np.array(head)


def _taylor(read: Branches) -> tuple[Array, Array, float]:
    """Taylor coefficients at 0 of the branches on both sides, and where they have all digits."""
    zero = sum(1 for k in read.kinks if k < 0)
    sides = [read.intervals[zero], read.intervals[zero + (0 in read.kinks)]]
    nearest = min((abs(float(k)) for k in read.kinks if k != 0), default=np.inf)
    left, right = (_cauchy(rows) for rows in sides)
    for radius in RADII:
        if radius <= nearest and all(_resolved(c, radius) for c in (left, right)):
            return left, right, radius
    return left, right, 0.0


def _resolved(coefficients: Array, radius: float) -> bool:
    """Whether the terms left out are nothing beside the first."""
    present = np.flatnonzero(coefficients)
    if present.size == 0:
        return True
    first = abs(coefficients[present[0]]) * radius ** float(present[0])
    last = np.abs(coefficients[-3:]) * radius ** np.arange(ORDER - 3.0, ORDER)
    return bool(present[0] < ORDER - 8 and last.max() <= LEFT_OUT * first)


def _cauchy(rows: Sequence[Row]) -> Array:
    """Taylor coefficients at 0 by Cauchy's integral in multiprecision: exact zeros are zeros."""
    if not rows:
        return np.zeros(ORDER)
    scales = [abs(r.slope) for r in rows] + [sp.sqrt(r.curvature) for r in rows]
    scale = max([sp.Rational(1, 4), *scales, *(abs(a) for r in rows for a, _ in r.erfs)])
    with mpmath.workdps(DIGITS):
        radius = 1 / number(scale)
        circle = [mpmath.expjpi(mpmath.mpf(2 * n) / CIRCLE) for n in range(CIRCLE)]
        values = [mpmath.fsum(row_value(r, radius * w) for r in rows) for w in circle]
        scaled = [
            mpmath.re(mpmath.fsum(v * circle[-n * k % CIRCLE] for k, v in enumerate(values)))
            / CIRCLE
            for n in range(ORDER)
        ]
        size = max(map(abs, values))
        kept = [a if abs(a) > NOTHING * size else mpmath.mpf(0) for a in scaled]
        return np.array([float(a / radius**n) for n, a in enumerate(kept)])

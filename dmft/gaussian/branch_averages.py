"""Averages of factors with exponential branches: at numbers, in multiprecision, and written out.

Shares the reading of a factor with compiled code (`branches`), and no arithmetic: half lines by
error functions with as many digits as cancel, the outer integral on graded panels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import sympy as sp
from mpmath.calculus.quadrature import GaussLegendre

from dmft.gaussian.branch_factors import (
    Branches,
    Row,
    branch_value,
    branch_vector,
    branches,
    dense,
    number,
)
from dmft.gaussian.closed.bivariate import erfcx
from dmft.gaussian.tables.tabled import Dirac

# Gauss nodes of a panel, 3 * 2^(LEVEL - 1), and its largest width: about 30 digits.
LEVEL, WIDEST = 4, 1.0
# Digits of the outer integral; extra ones of the inner averages: what vanishes at zero cancels.
OUTER_DIGITS, EXTRA = 34, 30
REACH, LAST = 13.0, 40.0


def field_value(read: Branches, mean: Any, variance: Any) -> Any:
    """E F(mean + sqrt(variance) z) at numbers of mpmath."""
    sigma = mpmath.sqrt(variance)
    if read.closed:
        return _smoothed(read, mean, sigma)
    return _integral(read, mean, sigma, None, mpmath.mpf(0), mpmath.mpf(0))


def pair_value(F: Branches, G: Branches, first: Any, cross: Any, second: Any) -> Any:
    """E F(u) G(v) of two centred fields at numbers of mpmath; NaN outside the covariances."""
    gap = first * second - cross**2
    if gap < 0 and gap >= -(mpmath.mpf(10) ** -9) * first * second:
        gap = mpmath.mpf(0)
    if first < 0 or second < 0 or gap < 0:
        return mpmath.nan
    if first == 0:
        return _at(F, first) * _smoothed(G, first, mpmath.sqrt(second))
    s = mpmath.sqrt(first)
    return _integral(F, mpmath.mpf(0), s, G, cross / s, mpmath.sqrt(gap) / s)


def _at(read: Branches, x: Any) -> Any:
    """Value, the mean of both limits at a kink."""
    if any(number(k) == x for k in read.kinks):
        tiny = mpmath.mpf(10) ** (-2 * mpmath.mp.dps)
        return (branch_value(read, x - tiny) + branch_value(read, x + tiny)) / 2
    return branch_value(read, x)


def _smoothed(read: Branches, mean: Any, sigma: Any) -> Any:
    """E F(mean + sigma z) of polynomials times exponentials on intervals."""
    if sigma == 0:
        return _at(read, mean)
    degree = max((len(dense(r)) for rows in read.intervals for r in rows), default=1)
    steep = max((abs(float(b)) * float(sigma) for b in read.slopes), default=0.0)
    lost = int(2 * degree * mpmath.log10(2 + steep))
    with mpmath.workdps(mpmath.mp.dps + EXTRA + lost):
        ends = [-mpmath.inf, *map(number, read.kinks), mpmath.inf]
        parts = zip(read.intervals, pairwise(ends), strict=True)
        return mpmath.fsum(
            _row(r, low, high, mean, sigma) for rows, (low, high) in parts for r in rows
        )


def _row(row: Row, low: Any, high: Any, mean: Any, sigma: Any) -> Any:
    """Average of one row over (low, high): moments of a truncated normal variable."""
    slope = number(row.slope)
    shifted = mean + slope * sigma**2
    weight = mpmath.exp(slope * mean + (slope * sigma) ** 2 / 2)
    a, b = ((x - shifted) / sigma for x in (low, high))
    coefficients = [number(c) for c in dense(row)]
    moments = [_probability(a, b)]
    for n in range(1, len(coefficients)):
        before = (n - 1) * sigma**2 * moments[n - 2] if n > 1 else 0
        edge = _edge(high, b, n - 1) - _edge(low, a, n - 1)
        moments.append(shifted * moments[n - 1] + before - sigma * edge)
    return weight * mpmath.fsum(c * m for c, m in zip(coefficients, moments, strict=True))


def _probability(a: Any, b: Any) -> Any:
    """P(a < z < b) of a standard normal z."""
    root = mpmath.sqrt(2)
    if a > 0:
        return (mpmath.erfc(a / root) - mpmath.erfc(b / root)) / 2
    if b < 0:
        return (mpmath.erfc(-b / root) - mpmath.erfc(-a / root)) / 2
    return (mpmath.erf(b / root) - mpmath.erf(a / root)) / 2


def _edge(x: Any, z: Any, power: int) -> Any:
    """Density of z times x^power, at an end."""
    return mpmath.mpf(0) if mpmath.isinf(x) else mpmath.npdf(z) * x**power


def _integral(F: Branches, mean: Any, s: Any, G: Branches | None, slope: Any, sigma: Any) -> Any:
    """E F(mean + s u) H(slope u) of standard normal u, H(m) = E G(m + sigma z) or 1."""
    with mpmath.workdps(OUTER_DIGITS):

        def integrand(u: Any) -> Any:
            with mpmath.workdps(OUTER_DIGITS + EXTRA):
                value = branch_value(F, mean + s * u)
            return value if G is None or value == 0 else value * _smoothed(G, slope * u, sigma)

        ends = _ends(F, mean, s, G, slope, sigma)
        return mpmath.fsum(_panel(integrand, a, b) for a, b in pairwise(ends))


def _panel(function: Callable[[Any], Any], low: Any, high: Any) -> Any:
    """Integral of a function times the normal density over one panel."""
    centre, half = (low + high) / 2, (high - low) / 2
    points = [(centre + half * x, w) for x, w in _nodes()]
    return half * mpmath.fsum(w * function(u) * mpmath.npdf(u) for u, w in points)


@lru_cache(maxsize=1)
def _nodes() -> list[Any]:
    with mpmath.workdps(OUTER_DIGITS + 10):
        found: list[Any] = GaussLegendre(mpmath.mp).calc_nodes(LEVEL, mpmath.mp.prec)
    return found


def _ends(F: Branches, mean: Any, s: Any, G: Branches | None, slope: Any, sigma: Any) -> list[Any]:
    """Ends of panels whose widths double away from each kink, from the finest scale on."""
    steep = max((abs(float(b)) for b in F.slopes), default=0.0) * float(s)
    if G is not None:
        steep = max(steep, max((abs(float(b)) for b in G.slopes), default=0.0) * float(abs(slope)))
    finest = 1 / max(1.0, steep)
    marks = [((number(k) - mean) / s, finest) for k in F.kinks]
    for place, width in F.features:
        marks.append(((number(place) - mean) / s, min(finest, float(number(width) / s))))
    if G is not None and slope != 0:
        layer = min(finest, float(sigma / abs(slope))) if sigma > 0 else finest
        marks += [(number(k) / slope, layer) for k in G.kinks]
    reach = max([REACH, *(abs(float(c)) + 5 for c, _ in marks if abs(c) < LAST)])
    growth = F.growth * float(s) + (0.0 if G is None else G.growth * float(abs(slope)))
    reach += growth
    ends = {mpmath.mpf(-reach), mpmath.mpf(reach)}
    for centre, width in marks:
        steps = [0.0]
        while width < 2 * reach and steps[-1] < 2 * WIDEST:
            steps.append(width)
            width *= 2
        ends |= {centre + k * w for w in steps for k in (-1, 1)}
    kept = sorted(e for e in ends if abs(e) <= reach)
    result = kept[:1]
    for a, b in pairwise(kept):
        pieces = 1 + int((b - a) / WIDEST)
        result += [a + (b - a) * n / pieces for n in range(1, pieces + 1)]
    return result


def as_float(value: Any, prec: int) -> sp.Float:
    """SymPy number of a number of mpmath."""
    return sp.Float._new(mpmath.mpf(value)._mpf_, prec) if mpmath.isfinite(value) else sp.nan


def branch_on_arrays(vectors: Sequence[Any], numbers: Sequence[Any]) -> Any:
    """Compiled average at arrays of covariances, by the numbers of vectors and of covariances."""
    from dmft.special.branches import (
        branch_field,
        branch_given,
        branch_pair,
        branch_slope,
        branch_slopes,
    )

    read = [np.array(v, dtype=np.float64) for v in vectors]
    for vector in read:
        vector.flags.writeable = False
    arrays = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in numbers))
    alone = branch_field if len(numbers) == 2 else branch_given
    of_two = {2: branch_pair, 5: branch_slope, 9: branch_slopes}
    call = of_two.get(len(vectors), alone)
    points = zip(*(a.ravel().tolist() for a in arrays), strict=True)
    return np.array([call(*read, *p) for p in points]).reshape(arrays[0].shape)


def root_mean_square(factor: sp.Expr, *numbers: Any) -> Any:
    """Root of E F^2 at arrays of numbers, those of `BranchField` or `BranchGiven`."""
    square = branch_on_arrays([branch_vector(sp.expand(factor**2))], numbers)
    return np.sqrt(np.abs(square))


# Written with erfcx ------------------------------------------------------------------------------


def field_formula(read: Branches, mean: sp.Expr, variance: sp.Expr) -> sp.Expr:
    """E F(x) of x ~ N(mean, variance), a sum over half lines.

    Equation    E[e^{bx} 1(x > t)] = 1/2 e^{bt - (t-m)^2/(2v)} erfcx((t - m - b v)/sqrt(2 v)), and
                powers of x by Stein's identity
    """
    ends = [-sp.oo, *read.kinks, sp.oo]
    parts = zip(read.intervals, pairwise(ends), strict=True)
    return sp.Add(*(_on_interval(r, *span, mean, variance) for rows, span in parts for r in rows))


def _on_interval(
    row: Row, low: sp.Expr, high: sp.Expr, mean: sp.Expr, variance: sp.Expr
) -> sp.Expr:
    """Average of one row over its interval, by half lines on which its exponential decays."""
    if low is -sp.oo and high is sp.oo:
        return _tail(row, sp.S.Zero, -1, mean, variance) + _tail(row, sp.S.Zero, 1, mean, variance)
    if high is sp.oo or (low is not -sp.oo and row.slope <= 0):
        far = _tail(row, high, 1, mean, variance) if high is not sp.oo else sp.S.Zero
        return _tail(row, low, 1, mean, variance) - far
    far = _tail(row, low, -1, mean, variance) if low is not -sp.oo else sp.S.Zero
    return _tail(row, high, -1, mean, variance) - far


def _tail(row: Row, t: sp.Expr, side: int, mean: sp.Expr, variance: sp.Expr) -> sp.Expr:
    """Average over x > t (side 1) or x < t (side -1)."""
    b, gap = row.slope, t - mean
    weight = sp.exp(b * t - gap**2 / (2 * variance))
    shifted = mean + b * variance
    argument = side * (gap - b * variance) / sp.sqrt(2 * variance)
    moments = [_zeroth(weight, argument, b)]
    edge = side * sp.sqrt(variance) * weight / sp.sqrt(2 * sp.pi)
    coefficients = dense(row)
    for n in range(1, len(coefficients)):
        before = (n - 1) * variance * moments[n - 2] if n > 1 else sp.S.Zero
        moments.append(shifted * moments[n - 1] + before + edge * t ** (n - 1))
    return sp.expand(
        sp.Add(*(c * m for c, m in zip(coefficients, moments, strict=True))), func=False
    )


def _zeroth(weight: sp.Expr, argument: sp.Expr, slope: sp.Expr) -> sp.Expr:
    """Weight of the half line, without an exponential where it has none."""
    if slope == 0:
        return (1 - sp.erf(argument)) / 2
    return weight * erfcx(argument) / 2


def _known(factor: sp.Expr) -> Branches:
    """A factor that is known to have exponential branches, or to be like one."""
    found = branches(factor)
    assert found is not None
    return found


def slope_size(
    functions: Sequence[sp.Expr], spikes: Sequence[Dirac], numbers: Sequence[Any]
) -> Any:
    """Bound of what code adds up for `BranchSlope.read`, by the formula that it takes."""
    from dmft.special.branches import covariance_given

    first, cross, second = numbers
    f, zf, slope, g, zg = functions[:5]
    rest = np.vectorize(covariance_given)(second, cross, first, cross)
    wide = _size(f, first) * _size(zg, second)
    wide = wide + np.abs(cross / first) * _size(zf, first) * _size(g, second)
    narrow = _size(f, first) * _size(slope, second)
    square = [branch_vector(sp.expand(f**2))]
    for place, step in spikes:
        t, weight = float(place), abs(float(step))
        density = np.exp(-(t**2) / (2 * second)) / np.sqrt(2 * np.pi * second)
        given = branch_on_arrays(square, [second, cross, first, t])
        narrow = narrow + weight * density * np.sqrt(np.abs(given))
    return np.where(rest > _known(g).width ** 2, wide / rest, narrow)


def slope_value(
    functions: Sequence[sp.Expr], spikes: Sequence[Dirac], numbers: Sequence[Any]
) -> Any:
    """Value for `BranchSlope.read` at numbers of mpmath."""
    first, cross, second = numbers
    f, zf, slope, g, zg = map(_known, functions[:5])
    ratio = cross / first if first > 0 else mpmath.mpf(0)
    rest = second - ratio * cross
    if rest > g.width**2:
        tilted = pair_value(f, zg, *numbers) - ratio * pair_value(zf, g, *numbers)
        return tilted / rest
    total = pair_value(f, slope, *numbers)
    for place, weight in spikes:
        t, left = number(place), max(first - cross**2 / second, mpmath.mpf(0))
        density = mpmath.npdf(t, 0, mpmath.sqrt(second))
        total += number(weight) * density * field_value(f, t * cross / second, left)
    return total


def slopes_size(
    functions: Sequence[sp.Expr], spikes: Sequence[Dirac], numbers: Sequence[Any]
) -> Any:
    """Bound of what code adds up for `BranchSlopes.read`, by the formula that it takes."""
    from dmft.special.branches import covariance_given

    first, cross, second = numbers
    gap = first * np.vectorize(covariance_given)(second, cross, first, cross)
    *_, g, zg, f, zf, zzf, zzg = functions
    total = (first * second + cross**2) * _size(zf, first) * _size(zg, second)
    total = total + np.abs(cross) * second * _size(zzf, first) * _size(g, second)
    total = total + np.abs(cross) * first * _size(f, first) * _size(zzg, second)
    total = total / gap + np.abs(cross) * _size(f, first) * _size(g, second)
    wide = _both_spread(f, g, gap, np.sqrt(first * second))
    return np.where(wide, total / gap, slope_size(functions, spikes, numbers))


def slopes_value(
    functions: Sequence[sp.Expr], spikes: Sequence[Dirac], numbers: Sequence[Any]
) -> Any:
    """Value for `BranchSlopes.read` at numbers of mpmath."""
    first, cross, second = numbers
    gap = first * second - cross**2
    *_, g, zg, f, zf, zzf, zzg = functions
    if not _both_spread(f, g, gap, mpmath.sqrt(first * second)):
        return slope_value(functions, spikes, numbers)
    g, zg, f, zf, zzf, zzg = map(_known, (g, zg, f, zf, zzf, zzg))
    total = (first * second + cross**2) * pair_value(zf, zg, *numbers)
    total -= cross * second * pair_value(zzf, g, *numbers)
    total -= cross * first * pair_value(f, zzg, *numbers)
    return (total / gap + cross * pair_value(f, g, *numbers)) / gap


def _both_spread(f: sp.Expr, g: sp.Expr, gap: Any, deviations: Any) -> Any:
    """Whether both fields spread over more than f and G live on."""
    return gap > _known(g).width * _known(f).width * deviations


def _size(factor: sp.Expr, variance: Any) -> Any:
    return root_mean_square(factor, 0.0, variance)

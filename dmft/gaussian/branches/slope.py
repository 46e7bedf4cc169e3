"""Numbers of the average of a slope that has jumps and integrates to zero (`BranchSlope`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from dmft.gaussian.branches.factors import Branches, branch_vector, branches, number
from dmft.gaussian.branches.values import field_value, pair_value, root_mean_square
from dmft.gaussian.tables.tabled import Dirac


def read(factor: sp.Expr) -> Branches:
    """A factor that is known to have exponential branches, or to be like one."""
    found = branches(factor)
    assert found is not None
    return found


def slope_size(
    functions: Sequence[sp.Expr], spikes: Sequence[Dirac], numbers: Sequence[Any]
) -> Any:
    """Bound of what code adds up for `BranchSlope.read`, by the formula that it takes."""
    from dmft.gaussian.branches.arrays import branch_on_arrays
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
    return np.where(rest > read(g).width ** 2, wide / rest, narrow)


def slope_value(
    functions: Sequence[sp.Expr], spikes: Sequence[Dirac], numbers: Sequence[Any]
) -> Any:
    """Value for `BranchSlope.read` at numbers of mpmath."""
    first, cross, second = numbers
    f, zf, slope, g, zg = map(read, functions[:5])
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
    g, zg, f, zf, zzf, zzg = map(read, (g, zg, f, zf, zzf, zzg))
    total = (first * second + cross**2) * pair_value(zf, zg, *numbers)
    total -= cross * second * pair_value(zzf, g, *numbers)
    total -= cross * first * pair_value(f, zzg, *numbers)
    return (total / gap + cross * pair_value(f, g, *numbers)) / gap


def _both_spread(f: sp.Expr, g: sp.Expr, gap: Any, deviations: Any) -> Any:
    """Whether both fields spread over more than f and G live on."""
    return gap > read(g).width * read(f).width * deviations


def _size(factor: sp.Expr, variance: Any) -> Any:
    return root_mean_square(factor, 0.0, variance)

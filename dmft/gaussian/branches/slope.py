"""Average of a slope that has jumps and integrates to zero, beside a function of another field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from dmft.gaussian.branches.factors import Branches, branch_vector, branches, number
from dmft.gaussian.branches.nodes import BranchesOfTwo, root_mean_square
from dmft.gaussian.branches.values import field_value, pair_value
from dmft.gaussian.derivative import derivative
from dmft.gaussian.tables.tabled import Dirac, PairTable, without_dirac
from dmft.model import FIELD


class BranchSlope(BranchesOfTwo):
    r"""E F(u) G'(v) of two centred fields, jumps of G included; arguments F, G, C_uu, C_uv, C_vv.

    G vanishes at both infinities: where v spreads over more than G lives on, its slope and its
    jumps cancel each other. By Stein's identity for v given u this is

        E[F(u) (v - E[v | u]) G(v)] / Var(v | u),

    which code takes there, and the average by parts elsewhere.

    Examples
    --------
    >>> import sympy as sp
    >>> from dmft.model import FIELD as z
    >>> step, one = sp.Piecewise((0, z < 0), (sp.exp(-z), True)), sp.Integer(1)
    >>> BranchSlope(step, step, one, sp.S.Half, one).evalf(8)
    0.030048354
    >>> BranchSlope(step, step, 10**12 * one, sp.S.Zero, 10**12 * one).evalf(8)
    1.5915494e-25
    """

    @property
    def read(self) -> Sequence[sp.Expr]:
        """F, z F(z), G' between the jumps, G, z G(z)."""
        f, g = self.factors
        return (f, FIELD * f, self.parts[0], g, FIELD * g)

    @property
    def parts(self) -> tuple[sp.Expr, list[Dirac]]:
        """G' between the jumps, and these: positions and weights."""
        return without_dirac(derivative(self.factors[1]))

    @property
    def width(self) -> float:
        """Deviation of v given u from which on G is narrow."""
        return _read(self.factors[1]).width

    def norm(self, *numbers: Any) -> Any:
        """Bound of what code adds up, by the formula that it takes."""
        from dmft.gaussian.branches.arrays import branch_on_arrays
        from dmft.special.branches import covariance_given

        first, cross, second = numbers
        f, zf, slope, g, zg = self.read[:5]
        rest = np.vectorize(covariance_given)(second, cross, first, cross)
        wide = _size(f, first) * _size(zg, second)
        wide = wide + np.abs(cross / first) * _size(zf, first) * _size(g, second)
        narrow = _size(f, first) * _size(slope, second)
        square = [branch_vector(sp.expand(f**2))]
        for place, step in self.parts[1]:
            t, weight = float(place), abs(float(step))
            density = np.exp(-(t**2) / (2 * second)) / np.sqrt(2 * np.pi * second)
            given = branch_on_arrays(square, [second, cross, first, t])
            narrow = narrow + weight * density * np.sqrt(np.abs(given))
        return np.where(rest > self.width**2, wide / rest, narrow)

    def written_out(self) -> sp.Expr:
        """The average by parts."""
        from dmft.gaussian.branches.average import by_parts

        regular, spikes = self.parts
        slope = [(sp.S.One, regular)], [(weight, t) for t, weight in spikes]
        return by_parts(([(sp.S.One, self.read[0])], []), slope, self.numbers)

    def _bracket(self, printer: Any) -> str:
        slope = derivative(self.factors[1])
        return str(PairTable(self.read[0], slope, *self.numbers)._latex(printer))

    def _exact(self, numbers: list[Any]) -> Any:
        first, cross, second = numbers
        f, zf, slope, g, zg = map(_read, self.read[:5])
        ratio = cross / first if first > 0 else mpmath.mpf(0)
        rest = second - ratio * cross
        if rest > self.width**2:
            tilted = pair_value(f, zg, *numbers) - ratio * pair_value(zf, g, *numbers)
            return tilted / rest
        total = pair_value(f, slope, *numbers)
        for place, weight in self.parts[1]:
            t, left = number(place), max(first - cross**2 / second, mpmath.mpf(0))
            density = mpmath.npdf(t, 0, mpmath.sqrt(second))
            total += number(weight) * density * field_value(f, t * cross / second, left)
        return total

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        return self.price(self.read[0], derivative(self.factors[1]), symbol)


class BranchSlopes(BranchSlope):
    r"""E f'(u) G'(v) of two centred fields, jumps of G included; arguments f, G, C_uu, C_uv, C_vv.

    Both vanish at both infinities, and f has no jumps. Where both fields spread it is an average
    of f G with second derivatives of the density: (p_u p_v + C_uv / D) f G, p = C^-1 (u, v) and
    D the determinant of C.

    Examples
    --------
    >>> import sympy as sp
    >>> from dmft.model import FIELD as z
    >>> step = sp.Piecewise((0, z < 0), (sp.exp(-z), True))
    >>> BranchSlopes(z * step, step, sp.Integer(10**6), sp.S.Zero, sp.Integer(10**6)).evalf(8)
    3.1830702e-19
    """

    @property
    def read(self) -> Sequence[sp.Expr]:
        """F = f', z F(z), G' between the jumps, G, z G(z), f, z f(z), z^2 f(z), z^2 G(z)."""
        f, g = self.factors
        F = derivative(f)
        return (F, FIELD * F, self.parts[0], g, FIELD * g, f, FIELD * f, FIELD**2 * f, FIELD**2 * g)

    def is_wide(self, gap: Any, first: Any, second: Any, root: Any) -> Any:
        """Whether both fields spread over more than f and G live on."""
        return gap > self.width * _read(self.factors[0]).width * root(first * second)

    def norm(self, *numbers: Any) -> Any:
        """Bound of what code adds up, by the formula that it takes."""
        from dmft.special.branches import covariance_given

        first, cross, second = numbers
        gap = first * np.vectorize(covariance_given)(second, cross, first, cross)
        *_, g, zg, f, zf, zzf, zzg = self.read
        total = (first * second + cross**2) * _size(zf, first) * _size(zg, second)
        total = total + np.abs(cross) * second * _size(zzf, first) * _size(g, second)
        total = total + np.abs(cross) * first * _size(f, first) * _size(zzg, second)
        total = total / gap + np.abs(cross) * _size(f, first) * _size(g, second)
        wide = self.is_wide(gap, first, second, np.sqrt)
        return np.where(wide, total / gap, super().norm(*numbers))

    def _exact(self, numbers: list[Any]) -> Any:
        first, cross, second = numbers
        gap = first * second - cross**2
        if not self.is_wide(gap, first, second, mpmath.sqrt):
            return super()._exact(numbers)
        *_, g, zg, f, zf, zzf, zzg = map(_read, self.read)
        total = (first * second + cross**2) * pair_value(zf, zg, *numbers)
        total -= cross * second * pair_value(zzf, g, *numbers)
        total -= cross * first * pair_value(f, zzg, *numbers)
        return (total / gap + cross * pair_value(f, g, *numbers)) / gap


def _read(factor: sp.Expr) -> Branches:
    read = branches(factor)
    assert read is not None
    return read


def _size(factor: sp.Expr, variance: Any) -> Any:
    return root_mean_square(factor, 0.0, variance)

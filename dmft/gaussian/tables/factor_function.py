"""A factor of one field as a numerical function, and averages by plain quadrature in NumPy.

The quadrature is the witness of the tables: F and G are evaluated as they are written, on products
of panels of Gauss nodes that are split where F or G switches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.gaussian import refuse
from dmft.gaussian.closed.switch import SWITCHES, to_signs
from dmft.gaussian.nodes.grid import panels
from dmft.gaussian.nodes.kinks import switches, zeros
from dmft.model import FIELD

ORDER = 16
DIGITS = 34
# Points at which the parity of an analytic factor is judged.
PARITY_POINTS = (0.0917, 0.3713, 0.881, 1.377, 2.219, 3.733, 5.119, 9.071)
# Radii and points of Cauchy's integrals; how far two radii agree, and what is zero then.
AGREEMENT, NOTHING = 1e-22, 1e-20
RADII = tuple(0.5**n for n in range(9))
CIRCLE = 64


class FactorFunction:
    """Values of a factor of `FIELD`, computed in multiprecision."""

    def __init__(self, factor: sp.Expr) -> None:
        extra = factor.free_symbols - {FIELD}
        if extra:
            names = ", ".join(sorted(map(str, extra)))
            raise refuse(factor, f"a table needs numbers: substitute a number for {names}")
        self.factor = factor
        smooth = factor.rewrite(sp.Piecewise) if factor.has(sp.Heaviside) else factor
        self._f = sp.lambdify(FIELD, smooth, "mpmath")

    def __call__(self, x: Array) -> Array:
        """F(x), an array like x; infinite where it overflows."""
        flat = np.asarray(x, dtype=np.float64)
        with mpmath.workdps(DIGITS):
            return np.array([self._value(t) for t in flat.ravel()]).reshape(flat.shape)

    def _value(self, x: float) -> float:
        try:
            value = self._f(mpmath.mpf(float(x)))
        except (ZeroDivisionError, OverflowError, ValueError):
            return float("inf")
        value = mpmath.mpmathify(value)
        if mpmath.im(value) != 0:
            raise refuse(self.factor, f"it is not real at {x:.6g}")
        return float(mpmath.re(value))

    def kinks(self, end: float) -> list[float]:
        """Zeros of the switching functions inside (-end, end)."""
        return sorted({float(k) for k in zeros(_vanishing(self.factor), FIELD, end)})

    @property
    def parity(self) -> int:
        """1 for an even factor, -1 for an odd one, 0 otherwise or where that is not seen."""
        if not is_smooth(self.factor):  # it may vanish at all points
            image = self.factor.xreplace({FIELD: -FIELD})
            return next((s for s in (1, -1) if sp.expand(image - s * self.factor) == 0), 0)
        points = np.array(PARITY_POINTS)
        up, down = self(points), self(-points)
        for sign in (1, -1):
            if np.all(np.abs(up - sign * down) <= 1e-15 * np.abs(up)):
                return sign
        return 0

    @property
    def analytic(self) -> bool:
        """Whether nothing switches."""
        return not self.factor.has(*SWITCHES)

    def taylor(self, side: int) -> Array:
        """Taylor coefficients a_0..a_15 at 0 of the branch on one side (1 or -1); NaN if none.

        By Cauchy's integral on the largest circle on which two radii agree: exact zeros are zeros.
        """
        branch = self._branch(side)
        f = sp.lambdify(FIELD, branch, "mpmath")
        with mpmath.workdps(DIGITS):
            for radius in RADII:
                try:
                    one, two = (_cauchy(f, mpmath.mpf(radius) * q) for q in (1, 0.75))
                except (ZeroDivisionError, OverflowError, ValueError, TypeError):
                    continue
                scaled = [a * mpmath.mpf(radius) ** n for n, a in enumerate(two)]
                gaps = [
                    abs(s - a * mpmath.mpf(radius) ** n)
                    for n, (s, a) in enumerate(zip(scaled, one, strict=True))
                ]
                size = max(map(abs, scaled))
                if max(gaps) <= AGREEMENT * size:
                    pairs = zip(scaled, two, strict=True)
                    return np.array(
                        [float(a) if abs(s) > NOTHING * size else 0.0 for s, a in pairs]
                    )
        return np.full(ORDER, np.nan)

    def _branch(self, side: int) -> sp.Expr:
        if self.analytic:
            return self.factor
        half = sp.Dummy("x", positive=True)
        signs = to_signs(self.factor, [FIELD]).xreplace({FIELD: side * half})
        near = sp.Rational(1, 10**30)
        fixed = signs.replace(sp.sign, lambda a: sp.sign(a.subs(half, near).evalf(40)))
        return fixed.xreplace({half: side * FIELD})


def is_smooth(factor: sp.Expr) -> bool:
    """Whether no function at which the factor switches can be seen to vanish."""
    return not _vanishing(factor)


def _vanishing(factor: sp.Expr) -> list[sp.Expr]:
    """Switching functions without a definite sign."""
    found = switches(factor, (FIELD,))
    return [s for s in found if not (s.is_positive or s.is_negative or s.is_nonzero)]


def _cauchy(f: Any, radius: mpmath.mpf) -> list[mpmath.mpf]:
    """Coefficients from values on a circle."""
    roots = [mpmath.expjpi(mpmath.mpf(2 * k) / CIRCLE) for k in range(CIRCLE)]
    values = [f(radius * r) for r in roots]
    return [
        mpmath.re(sum(v * mpmath.conj(r) ** n for v, r in zip(values, roots, strict=True)))
        / CIRCLE
        / radius**n
        for n in range(ORDER)
    ]


REACH = 10.0
POINTS = 20
# Panels are at most this wide, in standard deviations and in the units of the field.
WIDEST, RESOLVED = 1.5, 1.0
# Relative excess of an overlap over Cauchy-Schwarz that counts as parallel.
PARALLEL = 1e-9


# Widths of panels next to a singular point.
LAYERS = 0.25 ** np.arange(1.0, 27.0)

# Points of one variance that are one product of nodes.
MANY = 32


def direct_averages(factors: Sequence[sp.Expr], numbers: Sequence[Any]) -> Array:
    """Values of an average of one or two factors at arrays of numbers, each distinct point once."""
    arrays = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in numbers))
    if len(factors) == 1 and arrays[0].size > MANY:
        return _many_means(factors[0], *arrays)
    points, places = np.unique(
        np.stack([a.ravel() for a in arrays], axis=1), axis=0, return_inverse=True
    )
    values = np.array([direct_average(factors, point) for point in points.tolist()])
    return values[places.ravel()].reshape(arrays[0].shape)


def direct_average(factors: Sequence[sp.Expr], numbers: Sequence[float]) -> float:
    """Value of a `FieldTable` or a `PairTable` of these factors at numbers."""
    if len(factors) == 1:
        return direct_field(factors[0], *numbers)
    return direct_pair(*factors, *numbers)


def direct_field(factor: sp.Expr, mean: float, variance: float) -> float:
    """E F(mean + sqrt(variance) z); NaN for a negative variance."""
    if not variance >= 0.0:
        return float("nan")
    f, _, kinks = _function(factor)
    return float(_smoothed(f, kinks, np.array([mean]), np.sqrt(variance))[0])


def _many_means(factor: sp.Expr, mean: Array, variance: Array) -> Array:
    """E F(mean + sqrt(variance) z) at arrays that share few variances."""
    f, _, kinks = _function(factor)
    result = np.full(mean.shape, np.nan)
    for value in np.unique(variance[variance >= 0.0]):
        here = variance == value
        result[here] = _smoothed(f, kinks, mean[here], np.sqrt(value))
    return result


def direct_pair(f: sp.Expr, g: sp.Expr, uu: float, uv: float, vv: float) -> float:
    """E F(u) G(v); NaN outside the covariances."""
    size = np.sqrt(uu * vv)
    gap = (size - uv) * (size + uv)
    if not (uu >= 0.0 and vv >= 0.0 and gap >= -PARALLEL * uu * vv):
        return float("nan")
    (first, _, f_marks), (second, g_kinks, g_marks) = _function(f), _function(g)
    if uu == 0.0:
        return float(
            first(np.zeros(1))[0] * _smoothed(second, g_marks, np.zeros(1), np.sqrt(vv))[0]
        )
    s, slope, sigma = np.sqrt(uu), uv / np.sqrt(uu), np.sqrt(max(gap, 0.0) / uu)
    marks = [k / s for k in f_marks]
    for kink in g_kinks if slope != 0.0 else ():
        # The inner average has a layer around its kink.
        layer = sigma / abs(slope) * 2.0 ** np.arange(-1.0, 60.0)
        layer = layer[(layer > 0.0) & (layer < 2 * REACH)]
        marks += [kink / slope, *(kink / slope + layer), *(kink / slope - layer)]
    z, weights = _nodes(marks, max(s, abs(slope)))
    return float(
        weights @ (_valued(first, f_marks, s * z) * _smoothed(second, g_marks, slope * z, sigma))
    )


def _smoothed(g: Any, kinks: Sequence[float], mean: Array, sigma: float) -> Array:
    """E g(mean_i + sigma z)."""
    if sigma == 0.0:
        return np.asarray(g(mean), dtype=np.float64)
    if not kinks:
        z, weights = _nodes([], sigma)
        rows = max(1, 1_000_000 // z.size)
        parts = [mean[i : i + rows, None] for i in range(0, mean.size, rows)]
        return np.concatenate([g(m + sigma * z) @ weights for m in parts])
    result = np.empty(mean.size)
    for i, m in enumerate(mean):
        z, weights = _nodes([(k - m) / sigma for k in kinks], sigma)
        result[i] = weights @ _valued(g, kinks, m + sigma * z)
    return result


def _valued(f: Any, kinks: Sequence[float], x: Array) -> Array:
    """F(x); 0 at nodes next to a singular point that are rounded to it."""
    values = np.asarray(f(x), dtype=np.float64)
    lost = ~np.isfinite(values)
    return np.where(lost & np.isin(x, kinks), 0.0, values) if lost.any() else values


def _nodes(marks: Sequence[float], scale: float) -> tuple[Array, Array]:
    """Nodes and weights of the normal density, panels split at the marks."""
    count = int(np.ceil(2 * REACH / min(WIDEST, RESOLVED / max(scale, 1e-9))))
    inside = [m for m in marks if -REACH < m < REACH]
    edges = np.unique(np.concatenate([np.linspace(-REACH, REACH, count + 1), inside]))
    z, weights = panels(edges, POINTS)
    return z, weights * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


@lru_cache(maxsize=256)
def _function(factor: sp.Expr) -> tuple[Any, list[float], list[float]]:
    """Vectorised factor, in multiprecision where doubles fail; its kinks, and ends of panels."""
    precise = FactorFunction(factor)
    plain = sp.lambdify(FIELD, factor, ["scipy", "numpy"])

    def f(x: Array) -> Array:
        with np.errstate(all="ignore"):
            values = np.array(np.broadcast_to(plain(x), np.shape(x)), dtype=np.float64)
        bad = ~np.isfinite(values)
        if bad.any():
            values[bad] = precise(np.asarray(x)[bad])
        return values

    kinks = precise.kinks(1e3)
    # No polynomials resolve logarithms, roots and poles wider than the way to their singularity.
    powers = (y for y in factor.atoms(sp.Pow) if not (y.exp.is_Integer and y.exp > 0))
    inside = [y.args[0] for y in (*factor.atoms(sp.log), *powers) if y.has(FIELD)]
    layers = list[float]()
    for k in kinks:
        at = [y.subs(FIELD, k) for y in inside]
        near = min((abs(complex(y)) for y in at if y.is_finite), default=1.0)
        layers += [k + side * width for side in (-1.0, 1.0) for width in LAYERS[near / 4 < LAYERS]]
    return f, kinks, [*kinks, *layers]

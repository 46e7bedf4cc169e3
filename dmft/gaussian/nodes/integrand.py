"""Values of an integrand in double precision, with multiprecision where those overflow; samples.

Beyond nested panels it is averaged over a lattice or over randomised Sobol points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.nodes.forms import Block
from dmft.gaussian.nodes.grid import array_function
from dmft.gaussian.nodes.rules import sobol_engine, to_normal

# Points at which doubles overflow are evaluated one by one, at most this many in one call.
MAX_PRECISE = 20_000
# Digits of those, and points at which the rounding of doubles is measured.
PRECISE_DIGITS = 30
NOISE_POINTS = 12
# An odd function sums to less than this part of its size over points and their mirror images.
ODD_TO = 1e-3


def _step(t: mpmath.mpf, middle: float = 0.5) -> mpmath.mpf:
    return mpmath.mpf(int(t > 0)) if t else mpmath.mpf(middle)


class _LogSumExp(sp.Function):
    """log(1 + exp(x)) without overflow; printed for NumPy only."""

    nargs = 1

    def _numpycode(self, printer: Any) -> str:
        return f"{printer._module_format('numpy.logaddexp')}(0, {printer._print(self.args[0])})"


class Integrand:
    """Function of points (r, n) of independent normal numbers, which counts its evaluations.

    Every value is computed in multiprecision where `always_precise` is set.
    """

    def __init__(
        self, block: Block, functions: Mapping[str, Callable[[Array], Array]] | None = None
    ) -> None:
        """Compile; `functions` are values of functions that only NumPy knows."""
        self.functions = dict(functions or {})
        self.block, self.dimension = block, block.dimension
        self.rows = np.array([[float(a) for a in row] for row in block.rows])
        self.shift = np.array([float(a) for a in block.shift])
        self.evaluations = 0
        self._fast = array_function(list(block.forms), stable(block.expr), self.functions)
        self._precise: Callable[..., Any] | None = None
        self.always_precise = False

    def __call__(self, points: Array) -> Array:
        """Values (n,) at points (r, n)."""
        self.evaluations += points.shape[1]
        if self.always_precise:
            return np.array([float(self.precise(p)) for p in points.T])
        fields = self.rows @ points + self.shift[:, None]
        with np.errstate(all="ignore"):
            raw = np.asarray(self._fast(*fields))
        if np.iscomplexobj(raw):
            raise self._complex(points[:, np.argmax(raw.imag != 0)] if raw.shape else points[:, 0])
        values = np.array(np.broadcast_to(raw, points.shape[1:]), dtype=np.float64)
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong) > MAX_PRECISE:
            raise BadParameter(
                f"{self.block.shown()} overflows double precision at {len(wrong)} of "
                f"{len(values)} quadrature points; rescale the fields"
            )
        for i in wrong:
            values[i] = float(self.precise(points[:, i]))
        if len(wrong) and not np.isfinite(values).all():
            first = np.flatnonzero(~np.isfinite(values))[0]
            raise BadParameter(
                f"{self.block.shown()} is not finite in double precision at "
                f"{self._place(points[:, first])}"
            )
        return values

    def precise(self, point: Array) -> mpmath.mpf:
        """Value at one point (r,) in multiprecision, from the exact rows."""
        if self._precise is None:
            self._precise = sp.lambdify(
                list(self.block.forms), self.block.expr, [self._scalar_functions(), "mpmath"]
            )
        with mpmath.workdps(PRECISE_DIGITS):
            u = [mpmath.mpf(float(t)) for t in point]
            fields = [
                mpmath.fdot(row, u) + m
                for row, m in zip(self.block.rows, self.block.shift, strict=True)
            ]
            try:
                value = mpmath.mpmathify(self._precise(*fields))
            except (ZeroDivisionError, ValueError, OverflowError, NotImplementedError) as error:
                raise BadParameter(
                    f"{self.block.shown()} has no finite value at {self._place(point)}: {error}"
                ) from error
            if mpmath.im(value) != 0:
                raise self._complex(point)
            return mpmath.re(value)

    def may_be_odd(self, points: Array) -> bool:
        """Whether doubles at points (r, n) leave open that the function is odd in them.

        Rounding is far from what tells the two apart; where it is not, they leave it open.
        """
        here, there = (self.rows @ u + self.shift[:, None] for u in (points, -points))
        with np.errstate(all="ignore"):
            value, mirrored = (np.asarray(self._fast(*fields)) for fields in (here, there))
        off = np.abs(value + mirrored).sum()
        return not off > ODD_TO * (np.abs(value).sum() + np.abs(mirrored).sum())

    def _scalar_functions(self) -> dict[str, Callable[..., Any]]:
        def scalar(function: Callable[[Array], Array]) -> Callable[..., Any]:
            return lambda t: mpmath.mpf(float(function(np.array([float(t)]))[0]))

        return {"Heaviside": _step, **{k: scalar(f) for k, f in self.functions.items()}}

    def _complex(self, point: Array) -> BadParameter:
        return BadParameter(
            f"{self.block.shown()} is complex or undefined at {self._place(point)}: "
            "expectations are of real functions"
        )

    def _place(self, point: Array) -> str:
        """Where a point lies in the user's fields."""
        values = self.rows @ point + self.shift
        pairs = zip(self.block.meaning, values, strict=True)
        return ", ".join(f"{name} = {value:.6g}" for name, value in pairs)

    def rounding(self, points: Array) -> float:
        """Mean rounding of a value at some of the points (r, n), measured in multiprecision."""
        some = points[:, :: max(1, points.shape[1] // NOISE_POINTS)][:, :NOISE_POINTS]
        doubles = self(some)
        gaps = [
            abs(float(self.precise(some[:, i]) - mpmath.mpf(float(v))))
            for i, v in enumerate(doubles)
        ]
        return float(np.mean(gaps))


def stable(expr: sp.Expr) -> sp.Expr:
    """Softplus in a form that does not overflow, steps in one that takes arrays."""

    def is_softplus(part: sp.Expr) -> bool:
        return isinstance(part, sp.log) and bool(
            part.args[0].is_Add
            and len(part.args[0].args) == 2
            and sp.S.One in part.args[0].args
            and any(isinstance(a, sp.exp) for a in part.args[0].args)
        )

    def softplus(part: sp.Expr) -> sp.Expr:
        return _LogSumExp(next(a.args[0] for a in part.args[0].args if isinstance(a, sp.exp)))

    signs = expr.replace(sp.Heaviside, lambda t, *_: (1 + sp.sign(t)) / 2)
    return signs.replace(is_softplus, softplus)


# Steps of the lattice, and its radius: beyond it the weights are below 1e-18.
STEPS = (0.62, 0.46, 0.34, 0.25, 0.18)
RADIUS = 9.3
# Points of one call.
CHUNK = 200_000
# Randomised copies of the Sobol points, and standard errors that make the claimed error.
COPIES = 16
DEVIATIONS = 4.0
LEAST_POINTS, MOST_DOUBLINGS = 512, 9


def lattice(
    function: Integrand, tolerance: Callable[[float], float], budget: int
) -> tuple[float, float, float]:
    """Value, error and mean size from rectangular sums, which converge exponentially.

    The error is the change between two steps: far above that of the finer one for functions that
    are analytic in a strip.
    """
    value, error, size = np.nan, np.inf, np.nan
    for step in STEPS:
        half = int(RADIUS / step)
        if np.pi * (RADIUS / step) ** function.dimension > budget:
            break
        last = value
        value, size = _lattice_sum(
            function, np.asarray(step * np.arange(-half, half + 1), dtype=np.float64), step
        )
        if np.isfinite(last):
            # Errors exp(-c / step): that of the finer step is a power 1.35 of the change.
            change = abs(value - last)
            error = min(change, 10 * size * (change / size) ** 1.25) if size else change
        if error <= tolerance(value):
            break
    return value, error, size


def _lattice_sum(function: Integrand, axis: Array, step: float) -> tuple[float, float]:
    r = function.dimension
    inner = np.array(list(product(axis, repeat=r - 1))).T.reshape(r - 1, -1)
    radii = (inner**2).sum(axis=0)
    total, size = 0.0, 0.0
    for first in axis:
        kept = radii + first**2 < RADIUS**2
        if not kept.any():
            continue
        points = np.concatenate([np.full((1, int(kept.sum())), first), inner[:, kept]])
        weights = np.exp(-(radii[kept] + first**2) / 2) * (step / np.sqrt(2 * np.pi)) ** r
        values = function(points)
        total += float(weights @ values)
        size += float(weights @ np.abs(values))
    return total, size


def sobol(
    function: Integrand, tolerance: Callable[[float], float], budget: int
) -> tuple[float, float, float]:
    """Value, error (DEVIATIONS standard errors) and mean size from scrambled Sobol points."""
    engines = [sobol_engine(function.dimension, seed) for seed in range(COPIES)]
    sums, sizes, count, new = np.zeros(COPIES), np.zeros(COPIES), 0, LEAST_POINTS
    value, error, size = 0.0, np.inf, 0.0
    for _ in range(MOST_DOUBLINGS):
        for i, engine in enumerate(engines):
            values = function(to_normal(engine.random(new).T))
            sums[i] += values.sum()
            sizes[i] += np.abs(values).sum()
        count += new
        new = count
        value, size = float(sums.mean() / count), float(sizes.mean() / count)
        error = DEVIATIONS * float(sums.std(ddof=1)) / count / np.sqrt(COPIES)
        if error <= tolerance(value) or 2 * count * COPIES > budget:
            break
    return value, error, size

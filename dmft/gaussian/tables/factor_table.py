r"""Tables of one factor F of a Gaussian average: F, its smoothings, and the error that they claim.

    F(x) on panels split at its kinks;  H(m, sigma) = E F(m + sigma z) on cells;  Taylor at 0

All are polynomials of degree 15 fitted at more nodes than they have coefficients, which shows what
is left out. Values of F are computed in multiprecision: no cancellation, no overflow. A table is
made once and kept in the cache directory; `dmft.special.averages` evaluates it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.emit.cache import load_array, store_array
from dmft.gaussian import refuse
from dmft.gaussian.nodes.grid import chebyshev
from dmft.gaussian.tables.factor_function import FactorFunction
from dmft.gaussian.tables.series_strips import series_strips
from dmft.model import FIELD
from dmft.names import VERSION

ORDER = 16
# Nodes of a fit: the coefficients beyond `ORDER` are its error.
FIT = 22
# Largest error of a fit relative to the factor's size there.
FITTED = 8e-15
# Domain of the standard deviations; a factor that grows fast gets less, down to 1.
DEVIATIONS = (32.0, 24.0, 16.0, 12.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.0)
REACH = 10.0
# A field at two standard deviations of REACH each: beyond it nothing is ever evaluated.
LINE = 14.2
# What E F^2 may lose beyond REACH, relative.
LOST = 1e-12
# Smoothings of a factor with kinks are tabled from this sigma; below it they are integrated.
SHARPEST = 2.0**-6
# Where F vanishes, its smoothings are tails of what it is within REACH, which end there: they are
# resolved down to the first share of it. Errors are relative to the second one at least.
FAINT, SEEN = 0.03, 1e-4
# The panels beside 0 double from 1, or from less for a factor that vanishes there like x^2 or
# faster: its values are needed relative to its own size.
SMALLEST_MARK = 0.5**9
# Rounding of the argument x counts like that of the value from here on.
ARGUMENT = 8.0
# Halving a panel that resolves the factor improves the fit more than this.
IMPROVED = 0.1
# Smoothings are tabled up to a smaller deviation for a factor that takes more panels, because it
# oscillates; beyond it they are integrated at every call.
MOST_PANELS, LEAST_DEVIATION = 150, 4.0
# Numba caches no function with a larger constant (a million bytes).
MOST_NUMBERS = 124_000
# Panels are not halved below this width.
NARROWEST = 1e-5
# A strip of sigma is halved this often at most.
STRIP_HALVINGS = 6
# A table that claims more than this is refused.
LARGEST_ERROR = 4.9e-11
# Rounding of an evaluation.
ROUNDING = 2e-14
FEWEST = 1e-4
HEADER = 10
CELL_LIMIT = 20_000


@dataclass(frozen=True)
class FactorTable:
    """Table of one factor: its key in the cache directory, and the vector that code reads."""

    key: str
    values: Array

    @property
    def largest_deviation(self) -> float:
        """Standard deviation up to which averages are numbers; NaN beyond."""
        return float(self.values[1])

    @property
    def smooth(self) -> bool:
        """Whether all smoothings are tabled: no kinks, not too many cells."""
        return bool(self.values[6] == 0 and self.values[8] == self.values[1])

    @property
    def error(self) -> float:
        """Claimed error of averages, relative to sqrt(E F^2), or to `SEEN` of the largest |F|.

        The largest within `REACH` deviations; where F vanishes there, nothing is claimed.
        """
        return float(self.values[7])


@lru_cache(maxsize=256)
def factor_table(factor: sp.Expr) -> FactorTable:
    """Table of a factor in the symbol `FIELD`, from the cache directory or made now."""
    digest = hashlib.blake2b(digest_size=10)
    for part in (sp.srepr(factor), VERSION, _code()):
        digest.update(part.encode())
    key = digest.hexdigest()
    try:
        values = load_array(key)
    except FileNotFoundError:
        values = _Builder(factor).vector()
        store_array(key, values)
        values = load_array(key)
    return FactorTable(key, values)


@lru_cache(maxsize=1)
def _code() -> str:
    package = Path(__file__).parents[2]
    names = (
        "gaussian/tables/factor_table", "gaussian/tables/factor_function", "gaussian/nodes/kinks",
        "gaussian/nodes/grid", "gaussian/closed/switch", "gaussian/tables/series_strips",
        "special/averages", "special/tables",
    )  # fmt: skip
    files = [package / f"{name}.py" for name in names]
    return "".join(file.read_text(encoding="utf-8") for file in files)


def _accepted(left: float, before: float, limit: float, far: float) -> bool:
    """Whether a fit is good: within the limit, or as good as the rounding of far arguments lets."""
    if left <= limit:
        return True
    return left > IMPROVED * before and left <= limit * (1.0 + far / ARGUMENT)


def _order(taylor: Array) -> int:
    """Order of the zero at 0."""
    return int(np.argmax(taylor != 0.0))


def _doubling(first: float, end: float) -> list[float]:
    """Marks 0, first, 2 first, ... end: no panel spans scales on which the factor grows a lot."""
    marks = [0.0]
    while first < end:
        marks.append(float(first))
        first *= 2.0
    return [*marks, end]


UNIT, TO_COEFFICIENTS = chebyshev(FIT)


def _fit(values: Array) -> Array:
    """Chebyshev coefficients along the last axis, from values at the nodes `UNIT`."""
    return values @ TO_COEFFICIENTS.T


class _Builder:
    """Makes the vector of one factor."""

    def __init__(self, factor: sp.Expr) -> None:
        self.factor = factor
        self.f = FactorFunction(factor)
        self.largest = self._domain()
        self.kinks = self.f.kinks(LINE * self.largest)
        self.parity = self.f.parity
        self.left, self.right = self.f.taylor(-1), self.f.taylor(1)
        zeros = min(_order(self.left), _order(self.right))
        self.first = 1.0 if zeros < 2 else max(0.5 ** (2 * zeros), SMALLEST_MARK)
        # Errors on panels: from this sigma on, between these points, at most this.
        self.errors: list[tuple[float, float, float, float]] = []
        self._sizes()

    def _domain(self) -> float:
        """Largest standard deviation at which E F^2 converges well within REACH."""
        if not np.isfinite(self.f(np.zeros(1))).all():
            raise refuse(self.factor, "its formula has no finite value at 0: tables need one")
        z = np.linspace(-REACH, REACH, 109)
        weights = np.exp(-0.5 * z**2)
        for s in DEVIATIONS:
            with np.errstate(all="ignore"):
                mass = weights * self.f(s * z) ** 2
            edge = max(mass[0], mass[-1])
            if np.isfinite(mass).all() and edge <= LOST * mass.sum():
                return s
        raise refuse(self.factor, "it is not square integrable at unit variance, or barely so")

    def _sizes(self) -> None:
        """Largest |F| between -x and x, on a grid of x."""
        end = LINE * self.largest
        grid = np.unique(np.concatenate([np.geomspace(1e-3, end, 160), np.linspace(0, end, 80)]))
        values = np.abs(np.array([self.f(grid), self.f(-grid)])).max(axis=0)
        self.grid, self.envelope = grid, np.maximum.accumulate(values)
        if not np.isfinite(self.envelope).all():
            raise refuse(self.factor, "it is not finite on the line")

    def size(self, x: Array | float) -> Any:
        """Bound of |F| on the grid, at the next grid point beyond |x|."""
        place = np.minimum(np.searchsorted(self.grid, np.abs(x)), len(self.grid) - 1)
        return self.envelope[place]

    def _note(self, sigma: float, a: float, b: float, left: float, largest: float) -> None:
        """Remember the error of a panel, and that of its mirror image."""
        error = float(left + ROUNDING * largest)
        self.errors.append((sigma, a, b, error))
        if self.parity:
            self.errors.append((sigma, -b, -a, error))

    # F on the line --------------------------------------------------------------------------

    def line(self) -> tuple[Array, Array]:
        """Edges (L + 1,) and coefficients (L, ORDER) of F."""
        end = LINE * self.largest
        graded = _doubling(self.first, end)
        marks = sorted({*graded, *(-m for m in graded), *(k for k in self.kinks if abs(k) < end)})
        panels: list[tuple[float, float, Array]] = []
        for a, b in pairwise(marks):
            if self.parity and b <= 0.0:
                continue
            self._halve(a, b, np.inf, panels)
        if self.parity:
            signs = self.parity * (-1.0) ** np.arange(ORDER)
            panels = [(-b, -a, c * signs) for a, b, c in reversed(panels)] + panels
        edges = np.array([panels[0][0], *(b for _, b, _ in panels)])
        return edges, np.array([c for _, _, c in panels])

    def _halve(
        self, a: float, b: float, before: float, panels: list[tuple[float, float, Array]]
    ) -> None:
        c = _fit(self.f(0.5 * (a + b) + 0.5 * (b - a) * UNIT))
        left = np.abs(c[ORDER:]).sum() / max(self.size(max(abs(a), abs(b))), 1e-300)
        if _accepted(left, before, FITTED, max(abs(a), abs(b))):
            self._note(0.0, a, b, np.abs(c[ORDER:]).sum(), np.abs(c).sum())
            panels.append((a, b, c[:ORDER]))
            return
        if b - a < NARROWEST or len(panels) > CELL_LIMIT:
            raise refuse(
                self.factor, f"its values near {a:.6g} are not resolved (a pole or a singularity)"
            )
        middle = 0.5 * (a + b)
        self._halve(a, middle, float(left), panels)
        self._halve(middle, b, float(left), panels)

    # Smoothings -----------------------------------------------------------------------------

    def cells(self, table: Array, narrowest: float) -> tuple[Array, list[Array], Array]:
        """Strips of sigma, edges in m of each strip, and coefficients (P, ORDER, ORDER)."""
        from dmft.special.averages import smoothed_values

        def smoothed(m: Array, sigma: Array) -> Array:
            return smoothed_values(table, m, sigma)

        start = min(2.0 ** np.floor(np.log2(0.5 * narrowest)), self.tabled)
        edges = [SHARPEST] if self.kinks else [0.0]
        # Near a kink H is a function of m / sigma, which a doubling of sigma is too wide for.
        start, ratio = (1.5 * SHARPEST, 1.5) if self.kinks else (start, 2.0)
        while start < self.tabled:
            edges.append(start)
            start *= ratio
        todo = [(*strip, 0) for strip in pairwise([*edges, self.tabled])]
        strips, sides, cells = edges[:1], [], []
        while todo:
            low, high, depth = todo.pop(0)
            found = self._strip(smoothed, low, high, depth < STRIP_HALVINGS)
            if found is None:
                middle = 0.5 * (low + high)
                todo[:0] = [(low, middle, depth + 1), (middle, high, depth + 1)]
                continue
            strips.append(high)
            sides.append(found[0])
            cells.append(found[1])
        return np.array(strips), sides, np.concatenate(cells)

    def _strip(
        self, smoothed: Callable[[Array, Array], Array], low: float, high: float, may_split: bool
    ) -> tuple[Array, Array] | None:
        """Panels in m of one strip; None when they would be narrow because the strip is wide."""
        end = REACH * self.tabled
        sigma = 0.5 * (low + high) + 0.5 * (high - low) * UNIT
        right = list(pairwise(_doubling(2.0 ** np.ceil(np.log2(max(self.first, low))), end)))
        right = right if self.parity else [(-b, -a) for a, b in reversed(right)] + right
        todo = [(a, b, np.inf) for a, b in right]
        panels: list[tuple[float, float, Array]] = []
        while todo:
            a, b, before = todo.pop(0)
            m = 0.5 * (a + b) + 0.5 * (b - a) * UNIT
            grid = np.meshgrid(m, sigma, indexing="ij")
            values = smoothed(grid[0].ravel(), grid[1].ravel()).reshape(FIT, FIT)
            c = _fit(_fit(values).T).T
            near, beyond = self.size(max(abs(a), abs(b)) + np.array([0.0, REACH * high]))
            scale = max(near, FAINT * beyond, np.abs(values).max(), 1e-300)
            in_m = np.abs(c[ORDER:]).sum(axis=0).max() / scale
            in_sigma = np.abs(c[:ORDER, ORDER:]).sum(axis=1).max() / scale
            left, far = in_m + in_sigma, max(abs(a), abs(b)) + high
            settled = in_m <= ROUNDING or b - a < 0.25 * low
            accepted = _accepted(left, before, ROUNDING, far)
            if in_sigma > ROUNDING and settled and may_split and not accepted:
                return None
            if not accepted:
                if b - a < NARROWEST or len(panels) > CELL_LIMIT:
                    raise refuse(self.factor, f"its smoothing near {a:.6g} is not resolved")
                todo[:0] = [(a, 0.5 * (a + b), left), (0.5 * (a + b), b, left)]
                continue
            self._note(low, a, b, left * scale, np.abs(values).max())
            panels.append((a, b, c[:ORDER, :ORDER]))
        if self.parity:
            signs = self.parity * (-1.0) ** np.arange(ORDER)[:, None]
            panels = [(-b, -a, c * signs) for a, b, c in reversed(panels)] + panels
        return np.array([panels[0][0], *(b for _, b, _ in panels)]), np.array(
            [c for *_, c in panels]
        )

    # Together -------------------------------------------------------------------------------

    def vector(self) -> Array:
        """Table with cells up to the largest deviation for which they are few enough."""
        edges, line = self.line()
        line_errors, self.tabled = self.errors, self.largest
        while self.tabled >= LEAST_DEVIATION or self.tabled == self.largest:
            if np.sum(np.abs(edges) < LINE * self.tabled) <= MOST_PANELS:
                self.errors = list(line_errors)
                values = self.table(edges, line)
                if len(values) <= MOST_NUMBERS:
                    return values
            self.tabled /= 2.0
        raise refuse(self.factor, "it varies too fast for a table of a million bytes")

    def table(self, edges: Array, line: Array) -> Array:
        """Header, Taylor polynomials, line, cells and kinks in one vector."""
        small = min(self._small(self.left), self._small(self.right))
        head = np.zeros(HEADER)
        head[:4] = self.parity, self.largest, small, len(line)
        head[6] = len(self.kinks)
        body = [self.right, self.left, edges, line.ravel()]
        rough = np.concatenate([head, *body, np.zeros(2), np.array(self.kinks)])
        rough.flags.writeable = False  # one type of table in compiled code
        strips, sides, cells = self.cells(rough, float(np.diff(edges).min()))
        first = np.concatenate([[0], np.cumsum([len(s) - 1 for s in sides])])
        head[4:6] = len(sides), len(cells)
        # What is read at once stands together: all powers of m at one power of sigma.
        cells = cells.swapaxes(1, 2)
        body += [strips, first.astype(float), *sides, cells.ravel()]
        head[8] = self.tabled
        size = HEADER + sum(len(part) for part in body)
        series, error = self._series(rough, small, MOST_NUMBERS - size - len(self.kinks))
        if len(series):
            head[9] = size
        body += [series, np.array(self.kinks)]
        head[7] = max(self._claim(rough, small), error)
        if head[7] > LARGEST_ERROR:
            raise refuse(self.factor, f"a table of it would have the relative error {head[7]:.1e}")
        return np.concatenate([head, *body])

    def _series(self, table: Array, small: float, room: int) -> tuple[Array, float]:
        """Strips of a smooth factor for `dmft.special.tables`, and their error."""
        from dmft.special.averages import line_values

        if self.kinks:
            return np.empty(0), 0.0
        return series_strips(
            lambda x: line_values(table, x), self.parity, small, self.largest, room
        )

    def _small(self, taylor: Array) -> float:
        """Largest deviation for which the Taylor polynomial is the factor, to rounding."""
        if self.factor.is_polynomial(FIELD) and sp.degree(self.factor, FIELD) < ORDER:
            return self.largest
        n = np.arange(ORDER)
        moments = np.array([float(mpmath.sqrt(mpmath.fac2(2 * k - 1))) for k in n])
        for s in 0.5 ** np.arange(3.0, 12.0, 0.5):
            terms = np.abs(taylor) * s**n * moments
            if terms[-3:].max() <= 1e-16 * terms.max():
                return float(s)
        return 0.0

    def _claim(self, table: Array, small: float) -> float:
        """Error of an average relative to sqrt(E F^2), at the worst deviation of the domain.

        Relative to `SEEN` of what F is within REACH where its mean square is less than that: a kink
        ten deviations away leaves nothing to be relative to.
        """
        from dmft.special.averages import line_values

        # E over z by trapezoidal sums: a per cent is enough.
        z = np.linspace(-REACH, REACH, 2001)
        weights = np.exp(-0.5 * z**2)
        weights /= weights.sum()
        worst = 0.0
        for s in np.geomspace(max(small, FEWEST), self.largest, 25):
            least = SEEN * float(self.size(REACH * s)) if self.kinks else 1e-150
            if least == 0.0:
                continue
            error = np.zeros_like(z)
            for sigma, a, b, size in self.errors:
                if sigma <= s:
                    here = slice(*np.searchsorted(s * z, [a, b]))
                    error[here] = np.maximum(error[here], size)
            scale = max(float(weights @ line_values(table, s * z) ** 2), least**2)
            worst = max(worst, float(weights @ error**2) / scale)
        return 2.0 * float(np.sqrt(worst))

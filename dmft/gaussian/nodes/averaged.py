"""One dimension less for products: a factor of one form, averaged given the other forms.

Given the others, form i is their linear combination plus independent noise: the average of its
factor is a function of one number, smooth by the noise, which a table of Chebyshev pieces holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mpmath
import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.gaussian.nodes.forms import Block, factor
from dmft.gaussian.nodes.integrand import Integrand
from dmft.gaussian.nodes.line import chebyshev
from dmft.gaussian.nodes.nested import Nested

# Lengths of the pieces that are tried, degree, and the error accepted relative to the largest.
PIECES = (0.5, 0.25, 0.125, 0.0625)
DEGREE = 15
ACCEPTED = 2e-13
# Noise thinner than this share of the other part would need a longer table.
LEAST_NOISE = 0.05
BUDGET = 4_000_000

Average = tuple[Block, Callable[[Array], Array], float]


class AveragedFactor(sp.Function):
    """Placeholder of the tabled average in an expression."""

    nargs = 1


def without_one_form(block: Block) -> Average | None:
    """Block of one dimension less, the function for `AveragedFactor`, and its absolute error.

    None where no factor stands alone, or where its average is too steep for a table.
    """
    factors = sp.Mul.make_args(block.expr)
    best: tuple[mpmath.mpf, int, tuple[list[mpmath.mpf], ...]] | None = None
    for i, x in enumerate(block.forms):
        if [f.free_symbols & set(block.forms) for f in factors if f.has_free(x)] != [{x}]:
            continue
        rows = _last(block, i)
        if rows is None:
            continue
        share = rows[i][-1] ** 2 / mpmath.fdot(rows[i], rows[i])
        if best is None or share > best[0]:
            best = (share, i, rows)
    if best is None or best[0] < LEAST_NOISE**2:
        return None
    _, i, rows = best
    own = next(f for f in factors if f.has_free(block.forms[i]))
    spread = mpmath.sqrt(mpmath.fdot(rows[i][:-1], rows[i][:-1]))
    if spread == 0:
        return None
    single = Block(own, (block.forms[i],), ([spread, rows[i][-1]],), [block.shift[i]],
                   mpmath.mpf(1), (block.meaning[i],))  # fmt: skip
    table = _table(single)
    if table is None:
        return None
    others = [j for j in range(len(block.forms)) if j != i]
    centre = sp.Dummy("c", real=True)
    rest = sp.Mul(*[f for f in factors if f is not own], AveragedFactor(centre))
    reduced = replace(
        block.keep(others, rest),
        forms=(*[block.forms[j] for j in others], centre),
        rows=(*[rows[j][:-1] for j in others], [a / spread for a in rows[i][:-1]]),
        shift=[*[block.shift[j] for j in others], mpmath.mpf(0)],
        meaning=(*[block.meaning[j] for j in others], block.meaning[i]),
    )
    return reduced, *table


def _last(block: Block, i: int) -> tuple[list[mpmath.mpf], ...] | None:
    """Factor in which the last number belongs to form i alone."""
    n = len(block.forms)
    matrix = [[block.covariance(j, k) for k in range(n)] for j in range(n)]
    rows = factor(matrix, [[j for j in range(n) if j != i], [i]])
    alone = all(rows[j][-1] == 0 for j in range(n) if j != i)
    return rows if alone and len(rows[i]) == block.dimension and rows[i][-1] > 0 else None


def _table(single: Block) -> tuple[Callable[[Array], Array], float] | None:
    """Average over the second number as a function of the first, and its error."""
    scheme = Nested(Integrand(single), BUDGET)
    end = scheme.end

    def direct(c: Array) -> Array:
        tolerance = np.full(len(c), ACCEPTED / 4 * largest)
        return scheme.line(1, c[None], tolerance).value

    largest = 0.0
    largest = float(np.abs(direct(np.linspace(-6, 6, 49))).max())
    probes = np.random.default_rng(0).uniform(-end, end, 200)
    expected = direct(probes)
    # What counts is the error where the density is.
    weight = np.exp(-(probes**2) / 4)
    nodes, matrix = chebyshev(DEGREE + 1)
    for length in PIECES:
        count = int(np.ceil(2 * end / length))
        left = -end + 2 * end / count * np.arange(count)
        places = left[:, None] + end / count * (1 + nodes)
        values = direct(places.ravel()).reshape(count, -1)
        function = _Pieces(values @ matrix.T, end)
        error = float((np.abs(function(probes) - expected) * weight).max())
        if error <= ACCEPTED * largest:
            return function, max(3 * error, ACCEPTED * largest)
        if scheme.exhausted:
            return None
    return None


class _Pieces:
    """Chebyshev pieces of equal length on [-end, end]; constant beyond, where no weight is."""

    def __init__(self, coefficients: Array, end: float) -> None:
        self.coefficients, self.end = np.ascontiguousarray(coefficients.T), end
        self.count = coefficients.shape[0]

    def __call__(self, c: Array) -> Array:
        place = (np.minimum(np.maximum(c, -self.end), self.end) + self.end) / (2 * self.end)
        place = place * self.count
        piece = np.minimum(place.astype(np.intp), self.count - 1)
        t = 2 * (place - piece) - 1
        ahead = np.zeros_like(t)
        this = self.coefficients[DEGREE][piece]
        for k in range(DEGREE - 1, 0, -1):
            this, ahead = self.coefficients[k][piece] + 2 * t * this - ahead, this
        return np.asarray(self.coefficients[0][piece] + t * this - ahead)

r"""Minima of the loss on a grid of (omega, a), exactly: no grid of alignments, no missed minimum.

All minima lie on the circle for omega < 1. There f'(y) has the sign of alpha_c(y; omega) - alpha,
alpha_c = (A' + 2 omega C') / (2 omega M'), y = e^2: at fixed omega every alpha shares the extrema
of alpha_c, between which it is monotone. Each rising piece that contains alpha holds one minimum;
y = 0 is one where alpha < alpha_c(0), y = 1 where alpha > alpha_c(1). At omega = 1, where the loss
no longer depends on m, this is the limit from below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.analysis.boundaries.brackets import bracketed_roots
from dmft.analysis.diagrams.diagram import read_axis
from dmft.analysis.diagrams.region_diagram import RegionDiagram
from dmft.arrays import Array
from dmft.literature.two_tokens.curves import MIDDLE, Boundaries, curves, squared_boundaries
from dmft.literature.two_tokens.tables import alpha_of, check_omega, circle, tables
from dmft.names import VERSION

Codes = NDArray[np.int64]
# Where the extrema of alpha_c are looked for; it has at most two, of the size of the interval.
SEARCH = 257
KINDS = ("semantic", "mixed", "positional")
# Parts of the code of a region (theory/sequence D.8).
POSITIONAL, STARTS_POSITIONAL, SEVERAL = 1, 2, 4


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PositionalDiagram(RegionDiagram):
    """Minima of the loss over a grid; rows run over `omega`, columns over `a`.

    A `RegionDiagram` of all minima, whose `names` also say the direction at the origin where it
    leads away from the global minimum.

    Attributes
    ----------
    e, m, risk : (nw, na, k)
        Alignments and risk of the minima in order of e >= 0 (and m >= 0: signs are free); nan
        beyond the number of minima.
    best : (nw, na) of int
        Which of them is the global one.
    positional_start : (nw, na) of bool
        Whether R_ee < R_mm at the origin.
    boundaries : Boundaries
        On a fine grid over the range of a.
    """

    KIND = "dmft positional diagram"
    PARTS = (Boundaries,)
    words = ("strength of the positional target", "weight of the positional target")

    best: Codes
    positional_start: NDArray[np.bool_]
    boundaries: Boundaries  # type: ignore[assignment]

    @property
    def a(self) -> Array:
        """Horizontal axis."""
        return self.x

    @property
    def omega(self) -> Array:
        """Vertical axis."""
        return self.y

    def _axes(self, field: str, name: str, values: NDArray[Any]) -> tuple[str, ...]:
        return ("point",) if field == "boundaries" else super()._axes(field, name, values)


def positional_semantic_diagram(a: ArrayLike, omega: ArrayLike) -> PositionalDiagram:
    r"""Minima of the two-token attention at every (omega, a), with regions and boundaries.

    Shapes      a (na,) and omega (nw,); codes, number and best (nw, na), minima (nw, na, k)
    Valid for   as `positional_semantic_regions`
    Source      [arnaboldi_2025]; theory/sequence D.5 to D.8

    Examples
    --------
    >>> from dmft.literature import positional_semantic_diagram
    >>> diagram = positional_semantic_diagram(a=0.755, omega=0.975)
    >>> diagram.names, diagram.e[0, 0].round(6).tolist()
    (('semantic over mixed, positional start',), [0.0, 0.678401])
    """
    a, omega = (read_axis(n, np.atleast_1d(y)) for n, y in (("a", a), ("omega", omega)))
    check_omega(omega)
    alpha = alpha_of(a)
    y = _minima(omega, alpha)
    number: Codes = np.isfinite(y).sum(axis=-1)
    best, risk = _global(y, omega, alpha)
    start = omega[:, None] > curves()["dir"].omega(alpha)[None, :]
    chosen = np.take_along_axis(y, best[..., None], axis=-1)[..., 0]
    codes = POSITIONAL * (chosen > MIDDLE) + STARTS_POSITIONAL * start + SEVERAL * (number > 1)
    labels, names = _label(y, best, start)
    fine = np.linspace(a.min(), a.max(), 801) if a.size > 1 else a
    return PositionalDiagram(
        x_name="a", y_name="omega", x=a, y=omega, codes=codes.astype(np.int64), labels=labels,
        names=names, e=np.sqrt(y), m=np.sqrt(1.0 - y), risk=risk, number=number, best=best,
        positional_start=start, boundaries=squared_boundaries(fine),
        provenance={"dmft": VERSION, "loss": "squared"},
    )  # fmt: skip


def _minima(omega: Array, alpha: Array) -> Array:
    """Return y of the minima in increasing order, (nw, na, k), nan where there are fewer."""
    mixed = [_mixed(w, alpha) if w > 0.0 else np.full((alpha.size, 0), np.nan) for w in omega]
    k = max(row.shape[1] for row in mixed) + 2
    y = np.full((omega.size, alpha.size, k), np.nan)
    for row, found in zip(y, mixed, strict=True):
        row[:, 2 : 2 + found.shape[1]] = found
    limit = [critical_alpha(np.full(omega.shape, end), omega)[:, None] for end in (0.0, 1.0)]
    rising = [(_slope(np.full(omega.shape, end), omega) > 0.0)[:, None] for end in (0.0, 1.0)]
    # On the boundary itself the next order decides.
    y[..., 0][(alpha < limit[0]) | ((alpha == limit[0]) & rising[0])] = 0.0
    y[..., 1][(alpha > limit[1]) | ((alpha == limit[1]) & rising[1])] = 1.0
    y = np.sort(y, axis=-1)  # nan last
    return y[..., : max(1, int(np.isfinite(y).sum(axis=-1).max()))]


def critical_alpha(y: Array, omega: ArrayLike) -> Array:
    """Return alpha at which y = e^2 is stationary on the circle; infinite at omega = 0."""
    k = circle()
    omega = np.asarray(omega, dtype=float)
    with np.errstate(divide="ignore"):
        value: Array = (k.A(y, 1) / (2.0 * omega) + k.C(y, 1)) / k.M(y, 1)
    return value


def _slope(y: Array, omega: ArrayLike) -> Array:
    """Return a positive multiple of d alpha_c / dy; M'' = -M' / 2 is used."""
    k = circle()
    w = 2.0 * np.asarray(omega, dtype=float)
    slope: Array = k.A(y, 2) + w * k.C(y, 2) + 0.5 * (k.A(y, 1) + w * k.C(y, 1))
    return slope


def _mixed(omega: float, alpha: Array) -> Array:
    """Minima inside the circle's quarter at one omega, (na, rising pieces)."""
    grid = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, SEARCH))
    slope = _slope(grid, omega)
    turns = np.flatnonzero(slope[:-1] * slope[1:] < 0.0)
    inner = bracketed_roots(lambda y: _slope(y, omega), grid[turns], grid[turns + 1])
    ends = np.concatenate([[0.0], inner, [1.0]])
    level = critical_alpha(ends, omega)
    rising = np.flatnonzero(np.diff(level) > 0.0)
    found = np.full((alpha.size, rising.size), np.nan)
    for column, i in enumerate(rising):
        inside = (alpha > level[i]) & (alpha < level[i + 1])
        wanted = alpha[inside]
        found[inside, column] = bracketed_roots(
            lambda y, wanted=wanted: critical_alpha(y, omega) - wanted,  # type: ignore[misc]
            np.full(wanted.shape, ends[i]),
            np.full(wanted.shape, ends[i + 1]),
        )
    return found


def _global(y: Array, omega: Array, alpha: Array) -> tuple[Codes, Array]:
    """Return which minimum is the lowest, and the risk of each."""
    k, t = circle(), tables()
    w, al = omega[:, None], alpha[None, :]
    constant = (1 - w) ** 2 * t.V(0.0) + (w * al) ** 2 + 2 * (1 - w) * w * al * t.M(0.0)
    varying = k.A(y) + 2 * w[..., None] * (k.C(y) - al[..., None] * k.M(y))
    return np.nanargmin(varying, axis=-1), 2 * (constant[..., None] + varying)


def _label(y: Array, best: Codes, start: NDArray[np.bool_]) -> tuple[Codes, tuple[str, ...]]:
    """Number each point by the kinds of its minima and its direction, in order of the names."""
    kind = np.where(y == 0.0, 1, np.where(y == 1.0, 3, 2))
    kind = np.where(np.isfinite(y), kind, 0)
    first = np.take_along_axis(kind, best[..., None], axis=-1)[..., 0]
    others = kind.copy()
    np.put_along_axis(others, best[..., None], 0, axis=-1)
    # At most one other minimum occurs; the digits would hold more.
    key = first
    for column in np.moveaxis(-np.sort(-others, axis=-1), -1, 0):
        key = 4 * key + column
    key = 2 * key + start
    found, labels = np.unique(key, return_inverse=True)
    return labels.reshape(key.shape), tuple(_name(int(k), y.shape[-1]) for k in found)


def _name(key: int, digits: int) -> str:
    start, key = key % 2, key // 2
    kinds = []
    for _ in range(digits + 1):
        if key % 4:
            kinds.append(KINDS[key % 4 - 1])
        key //= 4
    kinds.reverse()
    name = " over ".join([kinds[0], " and ".join(kinds[1:])]) if kinds[1:] else kinds[0]
    # Where SGD sets out towards the global minimum, nothing need be said.
    towards = kinds[0] == KINDS[0]
    return name if towards != start else name + f", {KINDS[2 * start]} start"

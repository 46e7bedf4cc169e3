r"""Phase diagram of the two-token attention between positional and semantic learning.

Minima of the loss on a grid of (omega, a) are exact: no grid of alignments, no missed minimum.
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
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from dmft.analysis.diagram import RegionDiagram, read_axis
from dmft.analysis.roots import bracketed_roots
from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.literature.two_token_curves import MIDDLE, Boundaries, curves, squared_boundaries
from dmft.literature.two_token_tables import TwoTokenRisk, alpha_of, check_omega, circle, tables
from dmft.literature.two_token_unsquared import UnsquaredRisk, unsquared_boundaries
from dmft.model import Attention, Encoding, Model, SequenceModel
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
    Valid for   the same losses and parameters as `positional_semantic_regions`
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


def positional_semantic(a: float | sp.Expr, omega: float | sp.Expr) -> Model:
    r"""Attention over two tokens, between attending to content and to position.

    Equation    student T = softmax(h h^T) by rows, h_l = w.(x_l + p_l) / sqrt(d), p_1 = -p_2;
                target (1 - omega) T(h*) + omega softmax([[a^2, -a^2], [-a^2, a^2]])
    Scaling     t = steps * gamma / d; |w|^2 = |w*|^2 = d, |p| = 1, p orthogonal to w*
    Source      [arnaboldi_2025]

    Parameters
    ----------
    a : float or sympy.Symbol
        Strength of the positional target: alpha = 1 / (1 + exp(-2 a^2)) on its diagonal.
    omega : float in [0, 1] or sympy.Symbol
        Its weight.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> from dmft.literature import positional_semantic
    >>> model = positional_semantic(a=1.0, omega=0.5)
    >>> model.encoding.means, model.teacher.shape
    ((e, -e), (2, 2))
    """
    strength, weight = sp.sympify(a, strict=True), sp.sympify(omega, strict=True)
    if strength.is_number:
        alpha_of(float(strength))
    if weight.is_number:
        check_omega(float(weight))
    alpha = 1 / (1 + sp.exp(-2 * strength**2))
    student = Attention(2)
    target = student.mixture(weight, [[alpha, 1 - alpha], [1 - alpha, alpha]])
    return SequenceModel(student, target, encoding=Encoding([1, -1]))


def positional_semantic_risk(
    a: float, omega: float, loss: str = "squared"
) -> TwoTokenRisk | UnsquaredRisk:
    r"""Risk of the two-token attention as a function of the alignments, with its derivatives.

    Equation    R(e, m) = 1/2 E ||T - (1 - omega) T* - omega A||_F^2, T = softmax(h h^T) by rows,
                h = z + (e, -e), A = softmax([[a^2, -a^2], [-a^2, a^2]])
    Shapes      e and m of one shape; `.gradient` (..., 2), `.hessian` (..., 2, 2)
    Valid for   e^2 + m^2 <= 1; Hermite series to order 400, rounding below 1e-14
    Source      [arnaboldi_2025]; theory/sequence D.1

    Parameters
    ----------
    a : float
        Strength of the positional target.
    omega : float in [0, 1]
        Its weight.
    loss : {"squared", "frobenius"}
        With "frobenius" E ||T - (1 - omega) T* - omega A||_F, values only and to 1e-4, by sums over
        four fields (about 5 ms each).

    Examples
    --------
    >>> from dmft.literature import positional_semantic_risk
    >>> risk = positional_semantic_risk(a=1.0, omega=0.6)
    >>> float(risk(e=0.0, m=0.0).round(12)), risk.hessian(0.0, 0.0).round(9).tolist()
    (0.125786470158, [[-0.065592685, 0.0], [0.0, -0.088200935]])
    """
    record = UnsquaredRisk if _unsquared(loss) else TwoTokenRisk
    return record(float(a), float(omega))


def positional_semantic_regions(a: ArrayLike, omega: ArrayLike) -> NDArray[np.int64]:
    r"""Codes of the regions of the two-token attention.

    Equation    1 if the global minimum has e > 1/2, plus 2 if the steepest direction at e = m = 0
                is e, plus 4 if there is more than one minimum
    Shapes      a (na,) and omega (nw,) give (nw, na): rows run over omega
    Valid for   the loss 1/2 E ||T - T*||_F^2; exact minima on the circle, mixed ones included; at
                omega = 1 the limit from below
    Source      [arnaboldi_2025]; theory/sequence D.8

    Raises
    ------
    BadParameter
        For omega outside [0, 1] or a that is not finite.

    Examples
    --------
    >>> from dmft.literature import positional_semantic_regions
    >>> positional_semantic_regions(a=[0.7, 0.85, 1.0], omega=[0.5, 0.6, 0.7, 0.8, 0.9])
    array([[0, 0, 0],
           [0, 0, 4],
           [0, 0, 6],
           [0, 6, 7],
           [0, 7, 3]])
    """
    return positional_semantic_diagram(a, omega).codes


def positional_semantic_boundaries(a: ArrayLike, loss: str = "squared") -> Boundaries:
    r"""Boundary curves omega(a) of the phase diagram of the two-token attention.

    Equation    squared loss: omega = A / (B + C alpha), alpha = sigmoid(2 a^2), for stability,
                equality and direction; fold and coexistence parametric in e^2
    Shapes      a (na,); every curve (na,)
    Source      [arnaboldi_2025]; theory/sequence D.6, D.7

    Parameters
    ----------
    a : array
    loss : {"squared", "frobenius"}
        1/2 E ||T - T*||_F^2, or E ||T - T*||_F, the loss of the published code. The curves of the
        second are sums over four fields, accurate to five digits, and take seconds for each a; its
        fold, coexistence and `transition` are not known (nan).

    Examples
    --------
    >>> from dmft.literature import positional_semantic_boundaries
    >>> curves = positional_semantic_boundaries(1.0)
    >>> [round(float(x), 9) for x in (curves.positional, curves.equal, curves.semantic)]
    [0.508214237, 0.737606829, 0.841605404]
    """
    return unsquared_boundaries(a) if _unsquared(loss) else squared_boundaries(a)


def _unsquared(loss: str) -> bool:
    if loss not in ("squared", "frobenius"):
        raise BadParameter(f"loss = {loss!r} is not known here: use 'squared' or 'frobenius'")
    return loss == "frobenius"

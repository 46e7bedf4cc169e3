"""Places at which a sign changes without a zero, as records and in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dmft.analysis.boundaries.segment import Change


@dataclass(frozen=True)
class Jump:
    """Where a sign changes without a zero.

    Attributes
    ----------
    x, y : float
    kind : str
        "pole" where values grow on both sides, "jump" where they do not: a discontinuity, or a
        step that is steeper than a thousandth of the tolerance.
    before, behind : float
        Values on both sides, along x or y.

    Examples
    --------
    >>> import dmft
    >>> found = dmft.boundary(lambda u, v: 1 / (u - 0.3), ("u", 0, 1), ("v", 0, 1), grid=(3, 3))
    >>> jump = found.jumps[0]
    >>> jump.kind, round(jump.x, 3)
    ('pole', 0.3)
    """

    x: float
    y: float
    kind: str
    before: float
    behind: float


def jump_of(change: Change, axes: Sequence[Callable[[float], float]]) -> Jump:
    """The record of a change, `axes` taking the unit square to parameters."""
    x, y = (axes[i](float(change.point[i])) for i in (0, 1))
    return Jump(x, y, change.kind, *change.values)


def describe_jumps(jumps: tuple[Jump, ...], ends: int) -> str:
    """Changes of sign that are no zeros, in words."""
    if not jumps:
        return f"{ends} ends of curves lie where the measure jumps" if ends else ""
    first, kinds = jumps[0], sorted({jump.kind for jump in jumps})
    return (
        f"on {len(jumps)} edges of the grid the sign changes by a {' or a '.join(kinds)}, without "
        f"a zero, first at ({first.x:.7g}, {first.y:.7g}) from {first.before:.3g} to "
        f"{first.behind:.3g}: not drawn as a border; return a label (a str or bool) where such a "
        "change is one"
    )

"""An ordered definition: one indexed target as a sum of named terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import sympy as sp

Role = Literal["block", "sample", "intermediate", "rate", "observable"]

# A field of variance zero (a unit of length zero) is one of this variance: what is computed is the
# limit of small variances, to its square root, and its inverse powers do not overflow.
LEAST_VARIANCE = 2.0**-200


@dataclass(frozen=True)
class Definition:
    """`target = sum of terms`, for all values of the indices of `target`.

    Attributes
    ----------
    target : sympy.Indexed or sympy.Symbol
    terms : tuple of (name, expression)
    role : "block" (assembles c or Omega), "sample" (a random field of one sample), "intermediate",
        "rate" (d target / dt) or "observable"
    factor : sympy.Symbol or None
        Nonnegative parameter without which it vanishes: code passes over it where that is zero.
    """

    target: sp.Expr
    terms: tuple[tuple[str, sp.Expr], ...]
    role: Role
    factor: sp.Symbol | None = None

    @property
    def name(self) -> str:
        """Name of the base that is defined."""
        return base_name(self.target)

    @property
    def expr(self) -> sp.Expr:
        """Sum of all terms."""
        return sp.Add(*(e for _, e in self.terms))

    @property
    def indices(self) -> tuple[sp.Symbol, ...]:
        """Free index symbols of the target, outermost first."""
        if not isinstance(self.target, sp.Indexed):
            return ()
        running = (running_symbol(x) for x in self.target.indices)
        return tuple(symbol for symbol in running if symbol is not None)

    @property
    def holds_variances(self) -> bool:
        """Whether it writes a diagonal block of the covariance of the fields."""
        if self.role != "block" or self.name != "Omega":
            return False
        first, second = (index - index_symbol(index) for index in self.target.indices)
        return bool(first == second)

    def without(self, name: str) -> Definition:
        """Drop one named term."""
        return replace(self, terms=tuple((t, e) for t, e in self.terms if t != name))


def base_name(target: sp.Expr) -> str:
    """Name of an indexed base or of a symbol."""
    label = target.base.label if isinstance(target, sp.Indexed) else target
    return label.name if isinstance(label, sp.Symbol) else str(label)


def index_symbol(index: sp.Expr) -> sp.Symbol:
    """The running symbol of an index expression: r for p + r, j for j."""
    symbol = running_symbol(index)
    assert symbol is not None, f"{index} does not run"
    return symbol


def running_symbol(index: sp.Expr) -> sp.Symbol | None:
    """The running symbol of an index expression, None for a fixed one such as p + 1."""
    names = {s.name: s for s in index.free_symbols if s.name not in ("p", "k", "nodes")}
    return names[min(names)] if names else None


def define(target: sp.Expr, terms: Mapping[str, sp.Expr], role: Role) -> Definition:
    """Build a definition, leaving out the terms that vanish."""
    return Definition(target, tuple((t, e) for t, e in terms.items() if e != 0), role)


def used_bases(expr: sp.Expr) -> set[str]:
    """Names of all indexed bases and symbols that an expression reads, kernels included."""
    names = {str(b.label) for b in expr.atoms(sp.IndexedBase)}
    return names | {str(x) for x in expr.free_symbols}


def live(definitions: Iterable[Definition]) -> tuple[Definition, ...]:
    """Leave out the blocks and intermediates that nothing reads; the covariance always stays."""
    kept: list[Definition] = []
    needed: set[str] = set()
    for d in reversed(tuple(definitions)):
        if d.role in ("rate", "observable") or d.name in needed or d.name == "Omega":
            kept.append(d)
            needed |= used_bases(d.expr)
    return tuple(reversed(kept))

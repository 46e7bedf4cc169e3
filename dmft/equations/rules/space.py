"""State of a rule that is written with vectors: Gram matrices and learned scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations.parameter_values import Values, resolve_scalars
from dmft.equations.averages.expectation import Expectation
from dmft.equations.rules.moments import entry
from dmft.equations.rules.nodes import rule_of
from dmft.equations.states import StateSpace
from dmft.errors import BadParameter, ShapeMismatch
from dmft.gaussian.nodes.rules import NodeRule
from dmft.initial_conditions import Overlaps
from dmft.model.update import VectorRule

Array = NDArray[np.float64]


class RuleSpace(StateSpace):
    """Overlaps Q of the moving rows, M of moving and fixed rows, and scalars, written one by one.

    P of the fixed rows stays.
    """

    model: VectorRule

    @property
    def widths(self) -> dict[str, int]:
        """Numbers of moving and of fixed rows."""
        return {"p": len(self.model.moving), "k": len(self.model.fixed)}

    @cached_property
    def blocks(self) -> dict[str, tuple[sp.Symbol, ...]]:
        """Symbols of the entries of Q and M, row by row, and of each scalar."""
        p, k = self.widths.values()
        found = {
            "Q": tuple(entry("Q", i, l) for i in range(p) for l in range(p)),
            "M": tuple(entry("M", i, r) for i in range(p) for r in range(k)),
        }
        return found | {s.name: (s,) for s in self.model.learned}

    @cached_property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Axes of the blocks."""
        return {"Q": ("p", "p"), "M": ("p", "k")} | {s.name: () for s in self.model.learned}

    @cached_property
    def fixed_entries(self) -> dict[str, str]:
        """Where code finds the overlaps of the fixed rows."""
        k = self.widths["k"]
        pairs = ((r, s) for r in range(k) for s in range(k))
        return {str(entry("P", r, s)): f"par[P_at + {k * r + s}]" for r, s in pairs}

    @cached_property
    def gram(self) -> sp.ImmutableDenseMatrix:
        """Gram matrix of all rows, which stays positive semidefinite."""
        p, k = self.widths.values()

        def of(i: int, l: int) -> sp.Symbol:
            i, l = min(i, l), max(i, l)
            if l < p:
                return entry("Q", i, l)
            return entry("M", i, l - p) if i < p else entry("P", i - p, l - p)

        return sp.ImmutableDenseMatrix(p + k, p + k, of)

    @property
    def networks(self) -> str:
        """The rows."""
        rule = self.model
        return f"moving rows {', '.join(map(str, rule.moving))}; fixed rows " + (
            ", ".join(map(str, rule.fixed)) or "none"
        )

    def rule(self, averages: Sequence[Expectation], options: Mapping[str, Any]) -> NodeRule:
        """Products of rules, split at kinks; Sobol points of many fields."""
        return rule_of(averages, options)

    def state(self, start: Overlaps) -> dict[str, Array]:
        """Blocks of a start."""
        given = start.scalars or {}
        names = [s.name for s in self.model.learned]
        missing = sorted(set(names) - set(given))
        if missing:
            raise BadParameter(
                f"the start has no {missing[0]}; pass Overlaps(..., scalars={{{missing[0]!r}: 0.0}})"
            )
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise BadParameter(f"the start has {unknown[0]}; this rule learns {names or 'no scalar'}")
        return {"Q": start.Q, "M": start.M} | {n: np.asarray(given[n]) for n in names}

    def entries(self, start: Overlaps) -> dict[str, Array]:
        """Each number by its symbol, those of P included."""
        self.check(start)
        found = {}
        for block, value in {**self.state(start)}.items():
            symbols = self.blocks[block]
            found |= {str(s): y for s, y in zip(symbols, np.ravel(value), strict=True)}
        rows = np.ndindex(start.P.shape)
        return found | {str(entry("P", r, s)): start.P[r, s] for r, s in rows}

    def packed(self, found: Mapping[str, Array]) -> dict[str, Array]:
        """Blocks in their shapes, from numbers by symbol."""
        result = dict(found)
        sizes = self.widths
        for block, symbols in self.blocks.items():
            rows = [result.pop(str(s), 0.0) for s in symbols]
            shape = tuple(sizes[axis] for axis in self.axes[block])
            result[block] = np.array(rows, dtype=np.float64).reshape(shape)
        return result

    def check(self, start: Overlaps) -> None:
        """Refuse a start of other widths."""
        p, k = self.widths.values()
        if start.Q.shape != (p, p) or start.M.shape != (p, k):
            raise ShapeMismatch(
                f"the start has Q {start.Q.shape} and M {start.M.shape}; this rule has "
                f"{p} moving rows ({', '.join(map(str, self.model.moving))}) and {k} fixed rows "
                f"({', '.join(map(str, self.model.fixed)) or 'none'})"
            )

    def values(
        self,
        needed: Sequence[str],
        start: Overlaps,
        given: Mapping[str, object],
        declared: Mapping[str, sp.Expr],
    ) -> Values:
        """Numbers of a run."""
        self.check(start)
        scalars = resolve_scalars(declared, needed, given)[0]
        return Values(self.widths, scalars, {"P": start.P})

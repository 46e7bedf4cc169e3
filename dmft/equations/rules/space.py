"""State of a rule that is written with vectors: Gram matrices, learned scalars, covariances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition
from dmft.equations.parameter_values import Values, resolve_scalars
from dmft.equations.rules.forms import ZERO, origin
from dmft.equations.rules.nodes import rule_of
from dmft.equations.states import StateSpace
from dmft.equations.user_terms import PARAMETERS
from dmft.errors import BadParameter, ShapeMismatch
from dmft.gaussian.nodes.rules import NodeRule
from dmft.initial_conditions import Overlaps
from dmft.model.update import TIME, VectorRule
from dmft.names import BLOCK
from dmft.rules import Row, View


def entry(block: str, *places: int) -> sp.Symbol:
    """Symbol of an entry of Q, M or P, counted from one."""
    return sp.Symbol("_".join([block, *(str(n + 1) for n in places)]), real=True)


class RowOverlaps:
    """Symbols of the overlaps of the rows of a `rule`, and what fields of views are in them.

    `rows` are moving rows, then fixed ones.
    """

    def __init__(self, rule: VectorRule) -> None:
        self.rule = rule
        self.rows: tuple[Row, ...] = (*rule.moving, *rule.fixed)

    @cached_property
    def places(self) -> dict[Row, int]:
        """Place of each row: moving rows, then fixed ones."""
        return {row: n for n, row in enumerate(self.rows)}

    def overlap(self, a: Row, b: Row) -> sp.Expr:
        """The overlap of two rows, in all blocks."""
        return sp.Add(*(self.in_block(a, b, e) for e in range(len(self.rule.fractions))))

    def in_block(self, a: Row, b: Row, block: int) -> sp.Symbol:
        """Symbol of the overlap of two rows in a block of coordinates."""
        count = len(self.rule.moving)
        own = (block,) if len(self.rule.fractions) > 1 else ()
        i, j = sorted((self.places[a], self.places[b]))
        if j < count:
            return entry("Q", *own, i, j)
        if i < count:
            return entry("M", *own, i, j - count)
        return entry("P", *own, i - count, j - count)

    def put_right(self, a: Row, b: Row, block: int, growth: Callable[..., sp.Expr]) -> sp.Expr:
        """(L X)_a . b of the L that renormalises, or orthonormalises, rows after a step.

        `growth` of two moving rows is what their overlap grows by without constraint.
        """
        total = -growth(a, a) / self.overlap(a, a) / 2 * self.in_block(a, b, block)
        if self.rule.orthonormal:
            before = self.rule.moving[: self.places[a]]
            total -= sp.Add(*(growth(a, c) * self.in_block(c, b, block) for c in before))
        return total

    def along(self, row: Row, view: View, block: int | None = None) -> dict[Row, sp.Expr]:
        """K: what the mean of a field holds of each latent coordinate of its view."""
        own = self.overlap if block is None else lambda a, b: self.in_block(a, b, block)
        found = {r: own(row, r) for r in view.adds}
        u = list(view.replaces)
        if row in u:  # it is its coordinate, whatever the others are
            return found | {r: sp.Integer(r == row) for r in u}
        if u:
            inverse = self._inverse(u)
            own = sp.Matrix([[self.overlap(row, r) for r in u]]) * inverse
            found |= dict(zip(u, own, strict=True))
        return found

    def _inverse(self, rows: Sequence[Row]) -> sp.Matrix:
        return sp.Matrix([[self.overlap(a, b) for b in rows] for a in rows]).inv()

    def noise(self, a: View, b: View, block: int) -> sp.Expr:
        """scale_a scale_b cov_ab, the covariance of the noises of two views in a block."""
        a, b = origin(a), origin(b)
        if b not in a.group:
            return ZERO
        cov = a.covs[block][a.group.index(a), a.group.index(b)]
        return cov * a.scales[block] * b.scales[block]

    def across(self, i: Row, a: View, k: Row, b: View, block: int) -> sp.Expr:
        """Covariance of the Gaussian parts of two fields in a block."""
        noise = self.noise(a, b, block)
        if noise == 0 or i in a.replaces or k in b.replaces:
            return ZERO
        found: sp.Expr = self.in_block(i, k, block)
        one, other = list(a.replaces), list(b.replaces)
        for u in (one, other):
            if u:
                left = sp.Matrix([[self.overlap(i, r) for r in u]]) * self._inverse(u)
                found -= (left * sp.Matrix([self.overlap(k, r) for r in u]))[0]
        if one and other:
            left = sp.Matrix([[self.overlap(i, r) for r in one]]) * self._inverse(one)
            middle = sp.Matrix([[self.overlap(r, s) for s in other] for r in one])
            right = self._inverse(other) * sp.Matrix([self.overlap(k, s) for s in other])
            found += (left * middle * right)[0]
        return sp.cancel(found) * noise if one or other else found * noise


Array = NDArray[np.float64]
# Largest distance of Q from 1 in a start of orthonormal rows: ends of runs are starts.
ORTHONORMAL = 1e-4
# Default starts of searches of each kind, and the size of small overlaps.
STARTS, SMALL = 6, 0.01


class RuleSpace(StateSpace):
    """Overlaps Q of the moving rows, M of moving and fixed rows, and scalars, written one by one.

    P of the fixed rows stays.
    """

    model: VectorRule  # type: ignore[assignment]

    conventions = (
        "fields row.x / sqrt(d); overlaps a.b / d: Q of the moving rows, M of moving and",
        "fixed rows, P of the fixed rows; scalars by name.",
    )
    sources = ("docs/theory/update_rules (4)",)

    @property
    def widths(self) -> dict[str, int]:
        """Numbers of moving rows, of fixed rows, and of blocks where there are several."""
        found = {"p": len(self.model.moving), "k": len(self.model.fixed)}
        count = len(self.model.fractions)
        return found | ({"blocks": count} if count > 1 else {})

    @property
    def prefix(self) -> str:
        """What the names of blocks of the state begin with."""
        return BLOCK if "blocks" in self.widths else ""

    @cached_property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Axes of the blocks."""
        front = ("blocks",) if self.prefix else ()
        found = {f"{self.prefix}Q": (*front, "p", "p"), f"{self.prefix}M": (*front, "p", "k")}
        return found | {s.name: () for s in self.model.learned}

    def shape(self, *axes: str) -> tuple[int, ...]:
        """Lengths of axes."""
        return tuple(self.widths[axis] for axis in axes)

    @cached_property
    def blocks(self) -> dict[str, tuple[sp.Symbol, ...]]:
        """Symbols of the entries of Q and M in C order, and of each scalar."""
        found = {s.name: (s,) for s in self.model.learned}
        for name, axes in self.axes.items():
            if axes:
                places = np.ndindex(self.shapes[name])
                found[name] = tuple(entry(name[-1], *place) for place in places)
        return {name: found[name] for name in self.axes}

    @cached_property
    def still(self) -> dict[str, tuple[sp.Symbol, ...]]:
        """Symbols of the overlaps of the fixed rows."""
        name = f"{self.prefix}P"
        return {name: tuple(entry("P", *place) for place in np.ndindex(self.shapes[name]))}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Lengths of the axes of all overlaps and scalars."""
        front = ("blocks",) if self.prefix else ()
        axes = {**self.axes, f"{self.prefix}P": (*front, "k", "k")}
        return {name: self.shape(*own) for name, own in axes.items()}

    @cached_property
    def fixed_entries(self) -> dict[str, str]:
        """Where code finds the overlaps of the fixed rows."""
        ((name, symbols),) = self.still.items()
        return {str(s): f"par[{name}_at + {n}]" for n, s in enumerate(symbols)}

    @property
    def announced(self) -> dict[str, Any]:
        """What an exported file says of the declaration."""
        rule = self.model
        return {
            "Rows": self.networks,
            **{f"Step of {row}": step for row, step in rule.steps},
            **{f"Rate of {s}": rate for s, rate in rule.rates},
            "Inputs": ", ".join(
                f"{view} {view.latents}" if view.latents else str(view) for view in rule.views
            ),
        }

    @property
    def held(self) -> int:
        """Diagonals of Q that a constraint keeps: lengths, or all overlaps of orthonormal rows."""
        if self.prefix:  # only their sums over blocks are kept
            return 0
        return len(self.model.moving) if self.model.orthonormal else int(self.model.on_sphere)

    @cached_property
    def gram(self) -> sp.ImmutableDenseMatrix:
        """Gram matrix of all rows, which stays positive semidefinite."""
        rows, moments = (*self.model.moving, *self.model.fixed), RowOverlaps(self.model)

        def of(i: int, j: int) -> sp.Expr:
            return moments.overlap(rows[i], rows[j])

        return sp.ImmutableDenseMatrix(len(rows), len(rows), of)

    @property
    def networks(self) -> str:
        """The rows, and the names of their overlaps."""
        moving, fixed = (", ".join(map(str, r)) for r in (self.model.moving, self.model.fixed))
        others = f"; fixed rows {fixed} (overlaps M with moving rows, P)" if fixed else ""
        return f"moving rows {moving} (overlaps Q){others}"

    def rule(self, averages: Sequence[Expectation], options: Mapping[str, Any]) -> NodeRule:
        """Products of rules, split at kinks; Sobol points of many fields."""
        return rule_of(averages, options)

    def random_starts(self) -> list[Overlaps]:
        """Random moving rows beside orthonormal fixed ones, near and far from each other."""
        if self.model.learned or self.prefix:
            raise BadParameter("a rule with scalars, or with blocks, needs starts=")
        generators = [
            (size, np.random.default_rng([n, int(1 / size)]))
            for size in (1.0, SMALL)
            for n in range(STARTS)
        ]
        return [self.random_start(rng, size) for size, rng in generators]

    def random_start(self, rng: np.random.Generator, size: float = 1.0) -> Overlaps:
        """Random moving rows, with overlaps of a size with orthonormal fixed ones, and scalars."""
        rule, (p, k) = self.model, (len(self.model.moving), len(self.model.fixed))
        blocks = range(len(rule.fractions))
        rows = [rng.standard_normal((p, p + k)) for _ in blocks]
        M = np.array([size * y[:, :k] for y in rows])
        Q = M @ M.swapaxes(-1, -2) + np.array([y[:, k:] @ y[:, k:].T / p for y in rows])
        root = np.eye(p)
        if rule.orthonormal:
            root = np.linalg.cholesky(Q.sum(axis=0))
        elif rule.on_sphere:
            root = np.diag(np.sqrt(np.diag(Q.sum(axis=0))))
        inverse = np.linalg.inv(root)
        Q, M, P = inverse @ Q @ inverse.T, inverse @ M, np.array([np.eye(k) for _ in blocks])
        scalars = {s.name: float(rng.uniform(0.2, 0.8)) for s in rule.learned}
        if not self.prefix:
            Q, M, P = Q[0], M[0], P[0]
        return Overlaps(Q, M, P, scalars=scalars or None)

    def scheduled(self, equations: Any, values: Mapping[str, sp.Expr]) -> Any:
        """Equations with parameters that are expressions in t, scalars and measures."""
        known = {"t": TIME} | {s.name: s for s in self.model.learned}
        known |= {str(s): s for symbols in self.blocks.values() for s in symbols}
        measures = {d.name: d.expr for d in equations.definitions if d.role == "observable"}
        swap: dict[sp.Expr, sp.Expr] = {}
        for name, value in values.items():
            own = [s for s in equations.all_symbols if s.name == name or PARAMETERS.get(name) == s]
            if not own:
                raise BadParameter(
                    f"unknown parameter {name!r}; this rule has {sorted(equations.parameters)}"
                )
            others = {s.name for s in value.free_symbols} - set(known) - set(measures)
            if others:
                raise BadParameter(
                    f"{name} = {value} contains {sorted(others)[0]}; it may depend on t, on "
                    f"scalars and on measures {sorted(measures)}"
                )
            at = {s: known.get(s.name, measures.get(s.name)) for s in value.free_symbols}
            swap |= dict.fromkeys(own, value.xreplace(at))
        changed = [
            replace(d, terms=tuple((n, e.xreplace(swap)) for n, e in d.terms))
            for d in equations.definitions
        ]
        if x.gamma in swap:  # the first observable, from which a run counts its steps
            now = Definition(sp.Symbol(x.gamma.name), (("rate", swap[x.gamma]),), "observable")
            changed.insert(0, now)
        derived = equations.derived or equations.definitions
        return replace(equations, definitions=tuple(changed), derived=derived)

    def state(self, start: Overlaps) -> dict[str, Array]:
        """Blocks of a start."""
        given = start.scalars or {}
        names = [s.name for s in self.model.learned]
        missing = sorted(set(names) - set(given))
        if missing:
            raise BadParameter(
                f"the start has no {missing[0]}; pass "
                f"Overlaps(..., scalars={{{missing[0]!r}: 0.0}})"
            )
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise BadParameter(
                f"the start has {unknown[0]}; this rule learns {names or 'no scalar'}"
            )
        front = self.prefix
        return {f"{front}Q": start.Q, f"{front}M": start.M} | {
            n: np.asarray(given[n]) for n in names
        }

    def entries(self, start: Overlaps) -> dict[str, Array]:
        """Each number by its symbol, those of P included."""
        self.check(start)
        found = dict[str, Any]()
        for block, value in self.state(start).items():
            symbols = self.blocks[block]
            found |= {str(s): y for s, y in zip(symbols, np.ravel(value), strict=True)}
        return found | {str(entry("P", *place)): y for place, y in np.ndenumerate(start.P)}

    def packed(self, found: Mapping[str, Array]) -> dict[str, Array]:
        """Blocks in their shapes, from numbers by symbol."""
        result = dict(found)
        for block, symbols in self.blocks.items():
            rows = [result.pop(str(s), 0.0) for s in symbols]
            value = np.array(rows, dtype=np.float64).reshape(self.shapes[block])
            result[block.removeprefix(self.prefix)] = value
        return result

    def check(self, start: Overlaps) -> None:
        """Refuse a start of other widths."""
        front = ("blocks",) if self.prefix else ()
        wanted = self.shape(*front, "p", "p"), self.shape(*front, "p", "k")
        if (start.Q.shape, start.M.shape) != wanted:
            raise ShapeMismatch(
                f"the start has Q {start.Q.shape} and M {start.M.shape}; this rule has Q "
                f"{wanted[0]} of the moving rows {list(self.model.moving)} and M {wanted[1]} with "
                f"the fixed rows {list(self.model.fixed)}"
            )
        Q = start.Q.sum(axis=0) if self.prefix else start.Q
        if self.model.on_sphere and not np.all(np.diag(Q) > 0.0):
            row = self.model.moving[int(np.argmin(np.diag(Q)))]
            raise BadParameter(
                f"{row} has length zero at the start: rows on a sphere are divided by their length"
            )
        if self.model.orthonormal and not np.allclose(Q, np.eye(len(Q)), rtol=0, atol=ORTHONORMAL):
            raise BadParameter(
                f"orthonormal rows need a start with Q = 1, got {Q.tolist()}: parallel rows "
                "cannot be made orthonormal"
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
        scalars = {**resolve_scalars(declared, needed, given)[0], "t": start.t}
        return Values(self.widths, scalars, {f"{self.prefix}P": start.P})

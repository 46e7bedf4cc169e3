"""Overlaps of the rows of a rule, and covariances of the fields of its views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import sympy as sp

from dmft.equations.rules.forms import ZERO, origin
from dmft.model.update import VectorRule
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

"""Terms of the rates of a rule: drift, rows that pull, squares of the steps, constraints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, define
from dmft.equations.rules import forms
from dmft.equations.rules.moments import Moments
from dmft.equations.rules.space import entry
from dmft.errors import BadParameter
from dmft.model.update import VectorRule
from dmft.rules import Field, Mean, Row, View

if TYPE_CHECKING:
    from dmft.model import Model

Terms = dict[str, sp.Expr]
# Two rows and a block.
Place = tuple[Row, Row, int]


class Rates:
    """Terms of the rates of a rule, by the symbols of its state."""

    def __init__(self, rule: VectorRule, moments: Any = None) -> None:
        """Average by `moments`, by default exactly."""
        self.rule, self.moments = rule, moments or Moments(rule)
        self.growths: list[Definition] = []
        _check_names(rule)

    @property
    def all_terms(self) -> dict[sp.Symbol, Terms]:
        """Terms of Q, M and the scalars, in the order of the state."""
        m, moving, fixed = self.moments, self.rule.moving, self.rule.fixed
        blocks, free = range(len(self.rule.fractions)), self.every_free
        if self.rule.on_sphere or self.rule.orthonormal:
            free = self._constrained(free)
        found: dict[sp.Symbol, Terms] = {}
        for e in blocks:
            own = (e,) if len(blocks) > 1 else ()
            for a in moving:
                for b in moving:
                    pair = (a, b) if (a, b, e) in free else (b, a)
                    found[entry("Q", *own, m.places[a], m.places[b])] = free[*pair, e]
        for e in blocks:
            for a in moving:
                for b in fixed:
                    found[m.in_block(a, b, e)] = free[a, b, e]
        for symbol, rate in self.rule.rates:
            found[symbol] = {"rate": m(rate)}
        return found

    @property
    def every_free(self) -> dict[Place, Terms]:
        """Rates of all overlaps without constraint, one for each pair of rows."""
        moving, blocks = self.rule.moving, range(len(self.rule.fractions))
        pairs = [(a, b) for n, a in enumerate(moving) for b in (*moving[n:], *self.rule.fixed)]
        return {(a, b, e): self.free(a, b, e) for e in blocks for a, b in pairs}

    def free(self, a: Row, b: Row, block: int) -> Terms:
        """Rate of an overlap in a block without constraint."""
        both = b in self.rule.moving
        learning = self.drift(a, b, block) + (self.drift(b, a, block) if both else 0)
        rows = self.pull(a, b, block) + (self.pull(b, a, block) if both else 0)
        noise = self.noise(a, b, block) if both else sp.S.Zero
        return {"learning": learning, "rows": rows, "sgd_noise": noise}

    def _step(self, row: Row) -> dict[View | Row, sp.Expr]:
        return dict(self.rule.steps)[row].terms  # type: ignore[return-value]

    def drift(self, a: Row, b: Row, block: int) -> sp.Expr:
        """Sum over views of the averages of psi times the field of b."""
        own = block if len(self.rule.fractions) > 1 else None
        parts = ((v, c) for v, c in self._step(a).items() if isinstance(v, View))
        return sp.Add(*(self.moments(c * Field(b, v, own)) for v, c in parts))

    def pull(self, a: Row, b: Row, block: int) -> sp.Expr:
        """Sum over rows of the averages of Phi times their overlap with b."""
        m = self.moments
        parts = ((r, c) for r, c in self._step(a).items() if isinstance(r, Row))
        return sp.Add(*(m(c) * m.in_block(r, b, block) for r, c in parts))

    def noise(self, a: Row, b: Row, block: int) -> sp.Expr:
        """What squares of the steps add."""
        m, total = self.moments, sp.S.Zero
        for v, c in self._step(a).items():
            for u, e in self._step(b).items():
                if not (isinstance(v, View) and isinstance(u, View)) or u not in v.group:
                    continue
                cov = v.covs[block][v.group.index(v), v.group.index(u)]
                if cov != 0:
                    total += cov * m(v.scales[block] * u.scales[block] * c * e)
        return x.gamma / self.rule.batch_size * self.rule.fractions[block] * total

    def _constrained(self, free: dict[Place, Terms]) -> dict[Place, Terms]:
        """Rates of rows that are renormalised, or orthonormalised, after each step."""
        m, moving = self.moments, self.rule.moving
        blocks = range(len(self.rule.fractions))
        own: dict[tuple[Row, Row], sp.Symbol] = {}
        for n, a in enumerate(moving):
            for b in moving[n:] if self.rule.orthonormal else (a,):
                i, k = m.places[a], m.places[b]
                symbol = sp.Symbol(f"growth_{i + 1}_{k + 1}", real=True)
                own[a, b] = own[b, a] = symbol
                terms = {
                    name: sp.Add(*(free[a, b, e][name] for e in blocks)) for name in free[a, b, 0]
                }
                self.growths.append(define(symbol, terms, "intermediate"))

        def growth(a: Row, b: Row) -> sp.Expr:
            return own[a, b]

        found: dict[Place, Terms] = {}
        for (a, b, e), terms in free.items():
            if a is b and len(blocks) == 1:
                found[a, b, e] = {"sphere": sp.S.Zero}
                continue
            both = m.put_right(a, b, e, growth)
            both += m.put_right(b, a, e, growth) if b in moving else 0
            free_rate = {"free": own[a, b]} if (a, b) in own and len(blocks) == 1 else dict(terms)
            found[a, b, e] = {**free_rate, "sphere": both}
        return found


class OpenMoments(Moments):
    """Averages that are left as they are."""

    def __call__(self, expr: sp.Expr) -> sp.Expr:
        """The average of an expression in fields."""
        inside = forms.hidden(forms.plain(self.in_overlaps(expr)))
        return Mean.of(inside.xreplace({f: f.whole for f in inside.atoms(forms.Opaque)}))


def _check_names(rule: VectorRule) -> None:
    """Refuse scalars and parameters that have a name of the equations."""
    from dmft.equations.parameter_values import declared_parameters

    declared_parameters(cast("Model", rule), rule)
    names = {s.name for s in (*rule.learned, *rule.parameters)}
    for name in names:
        stem, _, number = name.partition("_")
        if stem in ("Q", "M", "P", "C", "L", "growth", "n", "s", "cut") and number[:1].isdigit():
            raise BadParameter(f"the symbol {name} is used by the equations; rename it")

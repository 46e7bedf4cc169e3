"""Equations of motion of a rule that is written with vectors."""

from __future__ import annotations

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, define, live
from dmft.equations.equations import Equations
from dmft.equations.rules.moments import Moments
from dmft.errors import BadParameter
from dmft.model.update import VectorRule
from dmft.rules import Row, View, gram

CLOCK = "t = steps * learning_rate / d"
Terms = dict[str, sp.Expr]
HALF = sp.Rational(1, 2)


def derive_rule(rule: VectorRule) -> Equations:
    r"""Equations of the overlaps and scalars of a rule.

    Equation    dG_ji/dt = sum_a <psi_ja lambda^a_i> + sum_l <Phi_jl> G_li + (j <-> i if i moves)
                + (g/n_b) sum_ab cov_ab <scale_a scale_b psi_ja psi_ib> if i moves,
                dtheta/dt = <chi>
    Scaling     t = steps g / d, d -> infinity at fixed g
    Source      docs/theory/update_rules
    """
    rates = Rates(rule)
    definitions: list[Definition] = []
    for target, terms in rates.all_terms.items():
        definitions.append(define(target, terms, "rate"))
    for name, measure in rule.measures:
        value = rates.moments(measure)
        definitions.append(define(sp.Symbol(name, real=True), {"measure": value}, "observable"))
    whole = (*rates.moments.definitions, *rates.growths, *definitions)
    return Equations(
        kind="ode",
        definitions=live(whole),
        model=rule,
        algorithm=rule,
        scaling="high-dimensional",
        time_unit=CLOCK,
    )


class Rates:
    """Terms of the rates of a rule, by the symbols of its state."""

    def __init__(self, rule: VectorRule) -> None:
        self.rule, self.moments = rule, Moments(rule)
        self.growths: list[Definition] = []
        _check_names(rule)

    @property
    def all_terms(self) -> dict[sp.Symbol, Terms]:
        """Terms of Q, M and the scalars, in the order of the state."""
        m, moving, fixed = self.moments, self.rule.moving, self.rule.fixed
        free = {
            (a, b): self.free(a, b)
            for n, a in enumerate(moving)
            for b in (*moving[n:], *fixed)
        }
        if self.rule.on_sphere or self.rule.orthonormal:
            free = self._constrained(free)
        found: dict[sp.Symbol, Terms] = {}
        for a in moving:
            for b in moving:
                own = (a, b) if (a, b) in free else (b, a)
                i, l = m.places[a], m.places[b]
                found[sp.Symbol(f"Q_{i + 1}_{l + 1}", real=True)] = free[own]
        for a in moving:
            for b in fixed:
                found[m.overlap(a, b)] = free[a, b]
        for symbol, rate in self.rule.rates:
            found[symbol] = {"rate": m(rate)}
        return found

    def free(self, a: Row, b: Row) -> Terms:
        """Rate of an overlap without constraint."""
        both = b in self.rule.moving
        learning = self.drift(a, b) + (self.drift(b, a) if both else 0)
        rows = self.pull(a, b) + (self.pull(b, a) if both else 0)
        noise = self.noise(a, b) if both else sp.S.Zero
        return {"learning": learning, "rows": rows, "sgd_noise": noise}

    def _step(self, row: Row) -> dict[View | Row, sp.Expr]:
        return dict(self.rule.steps)[row].terms  # type: ignore[return-value]

    def drift(self, a: Row, b: Row) -> sp.Expr:
        """Sum over views of the averages of psi times the field of b."""
        parts = ((v, c) for v, c in self._step(a).items() if isinstance(v, View))
        return sp.Add(*(self.moments(c * (b @ v)) for v, c in parts))

    def pull(self, a: Row, b: Row) -> sp.Expr:
        """Sum over rows of the averages of Phi times their overlap with b."""
        m = self.moments
        parts = ((r, c) for r, c in self._step(a).items() if isinstance(r, Row))
        return sp.Add(*(m(c) * m.in_overlaps(gram(r, b)) for r, c in parts))

    def noise(self, a: Row, b: Row) -> sp.Expr:
        """What squares of the steps add."""
        m, total = self.moments, sp.S.Zero
        for v, c in self._step(a).items():
            for u, e in self._step(b).items():
                if not (isinstance(v, View) and isinstance(u, View)) or u not in v.group:
                    continue
                cov = v.cov[v.group.index(v), v.group.index(u)]
                if cov != 0:
                    total += cov * m(v.scale * u.scale * c * e)
        return x.gamma / self.rule.batch_size * total

    def _constrained(self, free: dict[tuple[Row, Row], Terms]) -> dict[tuple[Row, Row], Terms]:
        """Rates of rows that are renormalised, or orthonormalised, after each step."""
        m, moving = self.moments, self.rule.moving
        own: dict[tuple[Row, Row], sp.Symbol] = {}
        for n, a in enumerate(moving):
            for b in moving[n:] if self.rule.orthonormal else (a,):
                i, l = m.places[a], m.places[b]
                symbol = sp.Symbol(f"growth_{i + 1}_{l + 1}", real=True)
                own[a, b] = own[b, a] = symbol
                self.growths.append(define(symbol, free[a, b], "intermediate"))

        def added(a: Row, b: Row) -> sp.Expr:
            """(L X)_a . b, with L of the rows that move."""
            total = -HALF * own[a, a] / m.overlap(a, a) * m.overlap(a, b)
            if self.rule.orthonormal:
                before = moving[: m.places[a]]
                total -= sp.Add(*(own[a, c] * m.overlap(c, b) for c in before))
            return total

        found = {}
        for (a, b), terms in free.items():
            if a is b:
                found[a, b] = {"sphere": sp.S.Zero}
                continue
            both = added(a, b) + (added(b, a) if b in moving else 0)
            rate = {"free": own[a, b]} if (a, b) in own else dict(terms)
            found[a, b] = {**rate, "sphere": both}
        return found


def _check_names(rule: VectorRule) -> None:
    """Refuse scalars and parameters that have a name of the equations."""
    from dmft.equations.parameter_values import declared_parameters

    declared_parameters(rule, rule)
    names = {s.name for s in (*rule.learned, *rule.parameters)}
    for name in names:
        stem, _, number = name.partition("_")
        if stem in ("Q", "M", "P", "C", "L", "growth", "n", "s", "cut") and number[:1].isdigit():
            raise BadParameter(f"the symbol {name} is one of the equations; rename it")

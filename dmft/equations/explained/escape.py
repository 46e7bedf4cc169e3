"""Escape formulas: the rates at the uninformative point, and the time that follows."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.derive import derive
from dmft.equations.escape.laws import CURVATURE, DECAY, RATE, SIGNAL, Law, u_0, u_1
from dmft.equations.escape.uninformative import mu, q
from dmft.equations.explained.notation import ESCAPE, StatementPrinter, chosen
from dmft.equations.explained.printed import inlined_rate
from dmft.equations.explained.scene import Scene
from dmft.errors import BadParameter
from dmft.explanation.both_sides import number
from dmft.explanation.paragraphs import TOLERANCE, Judged
from dmft.explanation.steps import Explanation, Ledger, explanation
from dmft.model import Overlaps

# Where the rates are read off: an overlap, where they are a polynomial to its end, the same for
# those that are a series, and the step of a slope.
OVERLAP, SMALL, STEP = 0.3, 0.05, 1e-3
# Numbers of the two cases: learning rate, label noise, squared length of free rows.
NUMBERS = ((0.06, 0.3, 0.8), (0.09, 0.15, 0.7))
LARGEST_WIDTH = 3
# Numbers of the abbreviations in the integral: u_0, u_1, Lambda, A, c, b.
PASSAGES = ((0.04, 0.2, 1.1, 1.3, 1.2, 0.3), (0.02, 0.3, 0.8, 0.9, 0.9, -0.2))


class EscapeExplained:
    """Steps of a formula: rates around M = 0, growth, and the integral.

    `length` is q at the start, `time` the result in the declared parameters.
    """

    def __init__(self, law: Law, length: sp.Expr, time: sp.Expr) -> None:
        self.law, self.length, self.time = law, length, time
        self.facts = self.law.facts
        self.equations = derive(self.facts.model, self.facts.algorithm)
        self.widths = [_narrow(w) for w in self.facts.widths]
        self.ledger = Ledger(StatementPrinter({}).doprint)

    def explained(self) -> Explanation:
        """All steps."""
        facts, add = self.facts, self.ledger.add
        rate = sp.Derivative(mu, sp.Symbol("t"))
        add("uninformative", rate, facts.drift, judge=self._drift)
        if not facts.sphere:
            length = sp.Derivative(q, sp.Symbol("t"))
            add("lengths", length, facts.length_rate, judge=self._lengths)
        for symbol, value in self.law.where:
            if symbol in (RATE, CURVATURE, SIGNAL, DECAY):
                add(
                    "growth",
                    symbol,
                    value,
                    judge=lambda row, s=symbol, v=value: self._named(row, s, v),
                )
        time = sp.Symbol("t")
        if self.law.kind == "transient":
            add("passage", time, self.law.time, judge=self._transient)
        else:
            before = self._integral()
            add("passage", before, self.law.time, judge=lambda row: self._passage(row, before))
        claim = "exact" if self.law.exact else "to the leading order in the overlap"
        sides = (time, self.time)
        return explanation("Escape time", self.ledger, sides, [], claim=claim, cases=[{}, {}],
                           whole=False, notation=chosen(ESCAPE, self.ledger.steps))  # fmt: skip

    # Numbers --------------------------------------------------------------------------------

    def _scene(self, row: int, overlap: float) -> Scene:
        gamma, noise, length = NUMBERS[row]
        p, k = self.widths
        length = 1.0 if self.facts.sphere else length
        M = np.zeros((p, k))
        M[0, 0] = overlap
        start = Overlaps(length * np.eye(p), M, np.eye(k))
        networks = (self.facts.model.student, self.facts.model.teacher)
        ones = [
            np.full(w, float((n.readout or (1,))[0])) for n, w in zip(networks, (p, k), strict=True)
        ]
        scalars = {s.name: 0.4 for s in self.facts.model.parameters}
        scalars |= {"learning_rate": gamma, "label_noise": noise}
        scalars |= {n: float(v) for n, v in self.equations.declared.items()
                    if n not in scalars and v.is_number}  # fmt: skip
        readouts = {"readout": ones[0], "teacher_readout": ones[1]}
        return Scene(p, k, start, readouts, scalars, self.equations.definitions)

    def _rate(self, row: int, overlap: float, block: str = "M") -> float:
        at = {x.j: 1, x.r: 1} if block == "M" else {x.j: 1, x.l: 1}
        return self._scene(row, overlap).value(inlined_rate(self.equations, block), at).value

    def _number(self, row: int, expr: sp.Expr, overlap: float = 0.0) -> float:
        gamma, noise, length = NUMBERS[row]
        p, k = self.widths
        table = {x.gamma: gamma, x.Delta: noise, q: length, mu: overlap, x.p: p, x.k: k}
        for width, value in zip(self.facts.widths, (p, k), strict=True):
            table |= dict.fromkeys(width.free_symbols, value)
        return float(sp.N(expr.xreplace({s: sp.Float(v, 17) for s, v in table.items()})))

    def _drift(self, row: int) -> Judged:
        drift = self.facts.drift
        if self.facts.single:
            at = OVERLAP if self.facts.ends else SMALL
            one, two = self._rate(row, at), self._number(row, drift, at)
            return one, two, TOLERANCE * max(1.0, abs(one))
        one = (self._rate(row, STEP) - self._rate(row, -STEP)) / (2 * STEP)
        two = self._number(row, drift, 1.0) - self._number(row, drift, 0.0)
        return one, two, (TOLERANCE + 20 * STEP**2) * max(1.0, abs(one))

    def _lengths(self, row: int) -> Judged:
        one = self._rate(row, 0.0, "Q")
        return one, self._number(row, self.facts.length_rate), TOLERANCE * max(1.0, abs(one))

    def _named(self, row: int, symbol: sp.Symbol, value: sp.Expr) -> Judged:
        """A named coefficient, as a derivative of the rate by differences."""
        drift, law = self.facts.drift, self.law
        flow = self.facts.flow
        order, source = {
            RATE: (1, drift),
            CURVATURE: (3, -drift),
            SIGNAL: (law.exponent - 1, law.direction * flow),
            DECAY: (1, -drift if law.kind == "drift" else -(drift - flow)),
        }[symbol]
        nodes = np.linspace(-0.4, 0.4, 21)
        values = [self._number(row, sp.expand(source), float(n)) for n in nodes]
        fitted = np.polynomial.polynomial.polyfit(nodes, values, 18)
        scale = max(1.0, float(np.max(np.abs(fitted[: order + 1]))))
        return float(fitted[order]), self._number(row, value), 1e-5 * scale

    def _integral(self) -> sp.Expr:
        """The time as an integral over what is separable."""
        u, m = sp.Symbol("u", positive=True), sp.Symbol("m", positive=True)
        known = dict(self.law.where)
        if self.law.kind in ("logistic", "linear"):
            rate = 2 * u * (RATE - CURVATURE * u if self.law.kind == "logistic" else RATE)
            return sp.Integral(1 / rate, (u, u_0, u_1))
        decay = DECAY if DECAY in known else sp.S.Zero
        rate = SIGNAL * m ** (self.law.exponent - 1) - decay * m
        return sp.Integral(1 / rate, (m, sp.sqrt(u_0), sp.sqrt(u_1)))

    def _passage(self, row: int, before: sp.Expr) -> Judged:
        table = dict(zip((u_0, u_1, RATE, CURVATURE, SIGNAL, DECAY), PASSAGES[row], strict=True))
        if self.law.kind == "power":
            table[DECAY] = 0.1 * table[SIGNAL] * table[u_0] ** (self.law.exponent / 2)
        pieces = _pieces(before, table)
        two = float(sp.N(self.law.time.xreplace({s: sp.Float(v, 17) for s, v in table.items()})))
        return pieces, two, TOLERANCE * max(abs(pieces), 1e-6)

    def _transient(self, row: int) -> Judged:
        """Both equations, of the length and of the overlap, solved numerically."""
        from scipy.integrate import solve_ivp

        facts = self.facts
        growth, relax = (sp.expand(e) for e in (facts.drift.coeff(mu, 1), facts.length_rate))
        start = self._number(row, self.length)
        known = {q: sp.Symbol("q_")}

        def at(expr: sp.Expr) -> Callable[[float], float]:
            plain = expr.xreplace(known)
            gamma, noise, _ = NUMBERS[row]
            fixed = {x.gamma: gamma, x.Delta: noise}
            for width, value in zip(facts.widths, self.widths, strict=True):
                fixed |= dict.fromkeys(width.free_symbols, value)
            f = sp.lambdify(
                [known[q]], plain.xreplace({s: sp.Float(v, 17) for s, v in fixed.items()})
            )
            return lambda length: float(f(length))

        rate, move = at(growth), at(relax)
        time = self._number(row, self.law.expr.subs({u_0: sp.Float(1e-12), u_1: sp.Float(1e-2)}))
        solved = solve_ivp(
            lambda t, y: [move(y[0]), 2 * rate(y[0])], (0.0, time), [start, math.log(1e-12)],
            rtol=1e-10, atol=1e-12,
        )  # fmt: skip
        # The formula is that of the plateau: its error is what is left of the transient.
        return float(solved.y[1, -1]), math.log(1e-2), 1e-4


def _pieces(before: sp.Expr, table: dict[sp.Symbol, float]) -> float:
    """An integral over many short intervals."""
    (variable, low, high), *_ = before.limits
    ends = [number(e, table).value for e in (low, high)]
    low_end, high_end = ends
    cuts = np.geomspace(low_end, high_end, 9)
    return sum(
        number(
            sp.Integral(before.function, (variable, sp.Float(a, 17), sp.Float(b, 17))), table
        ).value
        for a, b in pairwise(cuts)
    )


def _narrow(width: sp.Expr) -> int:
    """Width at which a formula is judged."""
    if not width.is_Integer:
        return 2
    if width > LARGEST_WIDTH:
        raise BadParameter(
            f"a width of {width} has more averages than the numerical check covers; declare it "
            f"as a symbol, or at most {LARGEST_WIDTH}"
        )
    return int(width)

r"""Normal form of a hand-written two-time problem: what the solver's loops need.

Each memory integral becomes a sum of terms A(t, u) * B(u, s): first factors are functions of row t
of the problem, second factors of the pair (u, s); what depends on neither stands in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import mul
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef

from dmft.errors import BadParameter


@dataclass(frozen=True, init=False, eq=False)
class InTimes:
    """Equations of functions of one and of two times: what `TwoTime` holds.

    `rates`, `values` and `start` are expressions by functions of times; `causal` ones vanish before
    their time.
    """

    rates: Mapping[Any, sp.Expr]
    values: Mapping[Any, sp.Expr]
    start: Mapping[Any, sp.Expr]
    causal: tuple[Any, ...]
    name: str
    source: str

    @property
    def times(self) -> tuple[sp.Symbol, sp.Symbol]:
        """The symbols t and s of the equations."""
        for key in (*self.rates, *self.values):
            if len(key.args) == 2 and key.args[0] != key.args[1]:
                return key.args[0], key.args[1]
        for key in (*self.rates, *self.values):  # signals alone: ordinary differential equations
            if len(key.args) == 1:
                return key.args[0], sp.Symbol("s" if str(key.args[0]) != "s" else "s_1")
        raise BadParameter("a two-time problem needs an equation for a function of times")

    @property
    def pairs(self) -> tuple[Any, ...]:
        """Functions of two times, in the order of their equations."""
        return self._functions(2)

    @property
    def signals(self) -> tuple[Any, ...]:
        """Functions of one time, in the order of their equations."""
        return self._functions(1)

    @property
    def parameters(self) -> tuple[sp.Symbol, ...]:
        """Symbols that are neither times nor integrated over, by name."""
        free: set[sp.Symbol] = set()
        for group in (self.rates, self.values, self.start):
            for expr in group.values():
                free |= expr.free_symbols
        return tuple(sorted(free - set(self.times), key=str))

    def _functions(self, times: int) -> tuple[Any, ...]:
        """Functions of one or of two times, in the order of their equations."""
        keys = [k for k in (*self.values, *self.rates) if len(k.args) == times]
        order = [k for k in (*self.rates, *self.values) if len(k.args) == times]
        return tuple(dict.fromkeys(k.func for k in (order if times == 2 else keys)))


@dataclass(frozen=True)
class Memory:
    """One term: integral over u of first(t, u) * second(u, s), in the problem's functions.

    With `late` u runs over s < u < t, with `early` over 0 < u < s; `symbol` is its value in the
    local expressions.
    """

    first: sp.Expr
    second: sp.Expr
    late: bool
    early: bool
    symbol: sp.Symbol


@dataclass(frozen=True)
class NormalForm:
    """A two-time problem without integrals; `u` is the time under them.

    `totals` are integrals over 0 < u < t of functions of (t, u) alone, with their symbols. `pairs`
    give the local expression of each X(t, s), and whether it is a rate; `signals` the same of m(t)
    and the diagonals X(t, t), in the order of the state.
    """

    problem: InTimes
    u: sp.Symbol
    memories: tuple[Memory, ...]
    totals: tuple[tuple[sp.Expr, sp.Symbol], ...]
    pairs: Mapping[Any, tuple[sp.Expr, bool]]
    signals: Mapping[Any, tuple[sp.Expr, bool]]


def normal_form(problem: InTimes) -> NormalForm:
    """Separate the integrals of a problem."""
    return _Reducer(problem).form()


@dataclass
class _Reducer:
    """Collects the integrals of all equations; equal ones are computed once."""

    problem: InTimes
    memories: dict[tuple[Any, ...], Memory] = field(default_factory=dict)
    totals: dict[sp.Expr, sp.Symbol] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.t, self.s = self.problem.times
        self.u = sp.Dummy("u")

    def form(self) -> NormalForm:
        problem, t, s = self.problem, self.t, self.s
        keys = [f(t) for f in problem.signals] + [f(t, t) for f in problem.pairs]
        pairs = {f: self._moved(f(t, s)) for f in problem.pairs}
        signals = {key: self._moved(key) for key in keys}
        memories, totals = tuple(self.memories.values()), tuple(self.totals.items())
        return NormalForm(problem, self.u, memories, totals, pairs, signals)

    def _moved(self, key: sp.Expr) -> tuple[sp.Expr, bool]:
        """Local expression of what is moved, and whether it is a rate."""
        rate = key in self.problem.rates
        return self._local(key, self.problem.rates if rate else self.problem.values), rate

    def _local(self, key: sp.Expr, group: Mapping[sp.Expr, sp.Expr]) -> sp.Expr:
        """Right-hand side of an equation with symbols for its integrals."""
        expr, single = group[key], key.args != (self.t, self.s)
        integrals = sorted(expr.atoms(sp.Integral), key=sp.default_sort_key)
        if any(i is not j and i.has(j) for i in integrals for j in integrals):
            raise BadParameter(
                f"the equation for {key} nests integrals; give the inner one a name: "
                "a function of two times with a value"
            )
        table = {i: self._integral(i, key, single) for i in integrals}
        result: sp.Expr = expr.xreplace(table)
        for f in result.atoms(AppliedUndef):
            self._check_local(f, key, single)
        return result

    def _check_local(self, f: sp.Expr, key: sp.Expr, single: bool) -> None:
        t, s = self.t, self.s
        self._known(f, key)
        allowed = [(t,), (t, t)] if single else [(t,), (s,), (t, t), (s, s), (t, s)]
        if f.func not in self.problem.causal and not single:
            allowed.append((s, t))
        if f.args not in allowed:
            raise BadParameter(
                f"{f} in the equation for {key}: outside integrals only "
                f"{', '.join('X(' + ', '.join(map(str, a)) + ')' for a in allowed)} are known"
            )

    def _known(self, f: sp.Expr, key: sp.Expr) -> None:
        group = self.problem.pairs if len(f.args) == 2 else self.problem.signals
        if f.func not in group:
            raise BadParameter(f"{f} in the equation for {key} has no equation")

    def _integral(self, integral: sp.Integral, key: sp.Expr, single: bool) -> sp.Expr:
        """Sum of symbols of the terms of an integral, each with what stands in front."""
        t, s, u = self.t, self.s, self.u
        if len(integral.limits) != 1 or len(integral.limits[0]) != 3:
            raise BadParameter(f"{integral} in the equation for {key} needs one u and two limits")
        variable, low, high = integral.limits[0]
        allowed = [(0, t)] if single else [(0, t), (0, s), (s, t)]
        if (low, high) not in allowed:
            raise BadParameter(
                f"the integral of {integral.function} over ({low}, {high}) in the equation for "
                f"{key} is not causal or has an unsupported range; "
                f"supported are {', '.join(f'({a}, {b})' for a, b in allowed)}"
            )
        if variable in (t, s):
            raise BadParameter(f"{integral} integrates over {variable}; use another symbol")
        total = sp.S.Zero
        for term in sp.Add.make_args(sp.expand(integral.function.xreplace({variable: u}))):
            front, first, second, causal = self._factors(term, key, single)
            late, early = high == t, low == 0
            late, early = late and causal != "early", early and causal != "late"
            if not (late or early):
                raise BadParameter(
                    f"the term {term.subs(u, variable)} over ({low}, {high}) in the equation for "
                    f"{key} is zero: a causal function vanishes there"
                )
            total += front * self._symbol(first, second, late, early, single)
        return total

    def _symbol(
        self, first: sp.Expr, second: sp.Expr, late: bool, early: bool, single: bool
    ) -> sp.Symbol:
        whole = second == 1 and late and early
        if single or whole:
            return self.totals.setdefault(first * second, sp.Dummy(f"J{len(self.totals)}"))
        known = (first, second, late, early)
        if known not in self.memories:
            symbol = sp.Dummy(f"I{len(self.memories)}")
            self.memories[known] = Memory(first, second, late, early, symbol)
        return self.memories[known].symbol

    def _factors(
        self, term: sp.Expr, key: sp.Expr, single: bool
    ) -> tuple[sp.Expr, sp.Expr, sp.Expr, str]:
        """Front, first and second factor of a term, and the range that causality leaves."""
        t, s, u = self.t, self.s, self.u
        parts: tuple[list[sp.Expr], list[sp.Expr], list[sp.Expr]] = ([], [], [])
        causal = ""
        for factor in sp.Mul.make_args(term):
            functions = factor.atoms(AppliedUndef)
            row = second = False
            for f in functions:
                self._known(f, key)
                times = set(f.args)
                self._check_times(f, key, single)
                row = row or (t in times and u in times)
                second = second or times == {u, s}
                if f.func in self.problem.causal and f.args in ((u, s), (s, u)):
                    side = "late" if f.args == (u, s) else "early"
                    if causal not in ("", side):
                        causal = "none"
                    causal = causal or side
            if not factor.has(u):
                parts[0].append(factor)
            elif second and (row or factor.has(t)):
                raise BadParameter(
                    f"the factor {factor.subs(u, sp.Symbol('u'))} in the equation for {key} is not "
                    "a product A(t, u) * B(u, s): expand it, or give a part of it a name"
                )
            elif second or (factor.has(s) and not factor.has(t)):
                parts[2].append(self._ordered(factor))
            elif factor.has(s):
                raise BadParameter(
                    f"the factor {factor.subs(u, sp.Symbol('u'))} in the equation for {key} mixes "
                    "the three times"
                )
            else:
                parts[1].append(self._ordered(factor))
        front, first, other = (reduce(mul, part, sp.S.One) for part in parts)
        return front, first, other, causal

    def _check_times(self, f: sp.Expr, key: sp.Expr, single: bool) -> None:
        t, s, u = self.t, self.s, self.u
        causal = f.func in self.problem.causal
        known = {t, u} if single else {t, s, u}
        if not set(f.args) <= known:
            raise BadParameter(
                f"{f.subs(u, sp.Symbol('u'))} in the equation for {key} has unknown times"
            )
        if causal and f.args in ((u, t), (s, t)):
            raise BadParameter(
                f"{f.subs(u, sp.Symbol('u'))} in the equation for {key} is zero: {f.func} is causal"
            )

    def _ordered(self, factor: sp.Expr) -> sp.Expr:
        """Symmetric functions with their times as (t, u) and (u, s)."""
        t, s, u = self.t, self.s, self.u
        swap = {}
        for f in factor.atoms(AppliedUndef):
            if f.func not in self.problem.causal and f.args in ((u, t), (s, u)):
                swap[f] = f.func(f.args[1], f.args[0])
        result: sp.Expr = factor.xreplace(swap)
        return result

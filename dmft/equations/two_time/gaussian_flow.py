r"""Gradient flow of affine students as a problem in two times whose averages are closed.

The gradient of a sample is then affine in its fields, so that the fields are a Gaussian process:
averages over it solve integral equations of the second kind, and no sample is drawn. The rates are
those of the flow as they stand; what stands here is the law of the process.

Equation    g_j = sum_m A_jm h_m + sum_r B_jr h*_r + n_j zeta + c_j, D = E[g g], K = the response of
            g without its part at equal times,
            K(t, s) = A [R(t, s) A + \int_s^t R(t, u) K(u, s) du],
            D(t, s) = E[g(t) g(s)] with h = M P^+ h* + r + \int_0^t R(t, u) g(u) du in g(t), and
            E[r(t) g(s)] = C(t, s) A^T + \int_0^s C(t, u) K(s, u)^T du (Novikov)
Source      theory/batch_reuse A.1, B.3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any

import numpy as np
import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation, expanded
from dmft.equations.definitions import Definition, base_name
from dmft.equations.parameter_values import check_bounds, check_lengths, check_widths
from dmft.equations.two_time import descent_process as eq
from dmft.equations.two_time.descent_process import Descent
from dmft.equations.two_time.flow_limit import equal_response_of, flow_definitions, kick_of
from dmft.equations.two_time.over_time import refuse_unread
from dmft.equations.two_time.problem import TwoTime
from dmft.errors import BadParameter
from dmft.model import Overlaps
from dmft.validation import is_expression, shown

t, s, u = sp.symbols("t s u")
TIMES = {eq.t: t, eq.s: s}
# Names of the functions, by array.
NAMES = {"M_at": "M", "C_theta": "C", "R_theta": "R", "multiplier": "nu"}


@dataclass(frozen=True)
class Rows:
    """Overlaps that may hold symbols, as (p, p), (p, k) and (k, k) object arrays."""

    Q: Any
    M: Any
    P: Any
    readout: Any = None

    @property
    def p(self) -> int:
        """Student width."""
        return len(self.M)

    @property
    def k(self) -> int:
        """Teacher width."""
        return len(self.P)


def gaussian_flow(flow: Descent, start: Overlaps | Rows, values: Mapping[str, Any]) -> TwoTime:
    """`DescentEquations.closed`; a start of one unit may hold symbols."""
    if not flow.is_flow:
        raise BadParameter('closed takes a flow: derive with scaling="gradient-flow"')
    if flow.model.inputs is not None:
        raise BadParameter("the fields of a mixture are not Gaussian: dmft.solve samples them")
    if isinstance(start, Overlaps):
        check_widths(flow.model, start)
        if flow.algorithm.on_sphere:
            check_lengths(start)
    elif not isinstance(start, Rows):
        raise BadParameter(f"start must be a dmft.Overlaps, got {shown(start)}")
    return _Closed(flow, start, _numbers(flow, values)).problem()


def _numbers(flow: Descent, values: Mapping[str, Any]) -> dict[str, sp.Expr]:
    """Parameters by name: as given, or as declared."""
    declared = flow.parameters
    unknown = sorted(set(values) - set(declared))
    if unknown:
        raise BadParameter(f"unknown parameter {unknown[0]!r}; parameters are {sorted(declared)}")
    found = {}
    for name, expr in (declared | dict(values)).items():
        if not is_expression(expr):
            raise BadParameter(f"{name} must be a number or an expression, got {shown(expr)}")
        value = sp.sympify(expr, strict=True)
        if value.is_number:
            check_bounds({name: float(value)})
        own = {y: t for y in value.free_symbols if y.name == "t"}
        found[name] = value.xreplace(own)
    refuse_unread(flow, {name: found[name] for name in values})
    return found


@dataclass
class _Closed:
    """Equations of all neurons, one by one."""

    flow: Descent
    start: Overlaps | Rows
    numbers: dict[str, sp.Expr]

    @cached_property
    def limit(self) -> tuple[Definition, ...]:
        """The field of a sample and the rates."""
        return flow_definitions(self.flow.by_base)

    @cached_property
    def known(self) -> dict[sp.Symbol, Any]:
        """Widths and parameters by symbol."""
        free = {y for d in (*self.flow.stored, *self.limit) for y in d.expr.free_symbols}
        found = {y: self.numbers[y.name] for y in free if y.name in self.numbers}
        return {**found, x.p: self.start.p, x.k: self.start.k}

    def problem(self) -> TwoTime:
        """Rates, values and starts by function."""
        p, k = self.start.p, self.start.k
        rates: dict[Any, dict[str, sp.Expr]] = {}
        values: dict[Any, sp.Expr | dict[str, sp.Expr]] = {}
        named = {base_name(d.target): d for d in self.limit}
        for j, r in np.ndindex(p, k):
            rates[self.function("M", j, r)(t)] = self.rate(named["M_at"], {x.j: j + 1, x.r: r + 1})
            values[self.function("N", j, r)(t)] = self.with_teacher(j, r, t)
        for j in range(p) if "multiplier" in named else ():
            values[self.function("nu", j)(t)] = self.rate(named["multiplier"], {x.j: j + 1})
        at_once = kick_of(self.flow.by_base)
        kick = np.array(
            [[self.plain(at_once, {x.j: j + 1, x.l: m + 1}) for m in range(p)] for j in range(p)]
        )
        for j, m in np.ndindex(p, p):
            at = {x.j: j + 1, x.l: m + 1}
            C, R = (self.function(name, j, m) for name in "CR")
            rates[C(t, s)] = self.rate(named["C_theta"], at)
            turned = self.rate(named["C_theta"], {x.j: m + 1, x.l: j + 1})
            rates[C(t, t)] = {
                n: _equal(rates[C(t, s)][n]) + _equal(turned[n]) for n in rates[C(t, s)]
            }
            rates[R(t, s)], values[R(t, t)] = self.rate(named["R_theta"], at), kick[j, m]
            D, K = (self.function(name, j, m) for name in "DK")
            values[D(t, s)] = self.correlation(j, m)
            values[D(t, t)] = _equal(self.correlation(j, m))
            values[K(t, s)], values[K(t, t)] = self.response(j, m), (self.A @ kick @ self.A)[j, m]
        for name, constant in self.constants.items():
            for j in range(p):
                values[self.function(name, j)(t)] = constant[j] + self.past(name, j)
        causal = [self.function(n, j, m) for n in "RK" for j, m in np.ndindex(p, p)]
        return TwoTime(rates, values, self.at_start(), causal, "gradient flow of affine students")

    def at_start(self) -> dict[Any, Any]:
        """M and C at t = 0."""
        Q, M = self.start.Q, self.start.M
        C = Q - M @ self.inverse @ M.T
        found = {self.function("M", *at)(0): y for at, y in np.ndenumerate(M)}
        return found | {self.function("C", *at)(0, 0): y for at, y in np.ndenumerate(C)}

    @cached_property
    def inverse(self) -> Any:
        """P^+."""
        P = self.start.P
        return 1 / P if isinstance(self.start, Rows) else np.linalg.pinv(P)

    def function(self, name: str, *neurons: int) -> Any:
        """C_12 for neurons 0 and 1; C alone of one student and one teacher."""
        if self.start.p == self.start.k == 1:
            return sp.Function(name)
        return sp.Function("_".join([name, *(str(j + 1) for j in neurons)]))

    @cached_property
    def coefficients(self) -> dict[str, Any]:
        """A (p, p), B (p, k), n (p,) and c (p,) of the gradients of a sample."""
        p, k = self.start.p, self.start.k
        h, star = sp.symbols(f"h1:{p + 1}"), sp.symbols(f"u1:{k + 1}")
        fields, rows = [*h, *star, eq.zeta], []
        for j in range(p):
            expr = self.gradient(j, {"h": h, "h_star": star})
            linear = [sp.simplify(sp.diff(expr, y)) for y in fields]
            rest = sp.simplify(expr.xreplace(dict.fromkeys(fields, sp.S.Zero)))
            if any(y.has(*fields) for y in linear):
                raise BadParameter(
                    f"the gradient {expr} of a sample is not affine in its fields, so that they "
                    "are not a Gaussian process: dmft.solve samples them"
                )
            rows.append([*linear, rest])
        table = np.array(rows, dtype=object)
        return {"A": table[:, :p], "B": table[:, p : p + k], "n": table[:, -2], "c": table[:, -1]}

    @property
    def A(self) -> Any:
        """Slopes of the gradients by the fields of the student."""
        return self.coefficients["A"]

    @cached_property
    def constants(self) -> dict[str, Any]:
        """E[zeta g] and E[g]: what they hold of g without its past, where there is any."""
        found = {"Z": self.coefficients["n"], "E": self.coefficients["c"]}
        return {name: y for name, y in found.items() if any(y)}

    def gradient(self, j: int, fields: Mapping[str, Any]) -> sp.Expr:
        """What a sample computes, in its fields."""
        known: dict[sp.Symbol, sp.Expr] = {}
        readouts = self.readouts

        def entry(name: str, places: tuple[int, ...]) -> sp.Expr:
            return sp.sympify({**fields, **readouts}[name][places[0] - 1], strict=True)

        for d in self.flow.sample:
            at = {x.j: j + 1} if isinstance(d.target, sp.Indexed) else {}
            expr = expanded(d.expr, at, self.known, entry).xreplace(known)
            if d.name == "g":
                return expr
            known[d.target] = expr
        raise AssertionError("a sample has a gradient")

    @cached_property
    def readouts(self) -> dict[str, Any]:
        """Readouts of both networks, as declared or as of the start."""
        model, p, k = self.flow.model, self.start.p, self.start.k
        own = self.start.readout if self.start.readout is not None else model.student.readout
        teacher = getattr(model.teacher, "readout", None)
        return {
            "readout": [sp.S.One] * p if own is None else list(own),
            "teacher_readout": [sp.S.One] * k if teacher is None else list(teacher),
        }

    # Averages under the law of the process.

    def past(self, name: str, j: int, *others: int) -> sp.Expr:
        """A times the pull of earlier gradients, in averages of g^t with something fixed."""
        p = self.start.p
        return sp.Add(*(
            self.A[j, m] * sp.Integral(
                self.function("R", m, n)(t, u) * self.function(name, n, *others)(u), (u, 0, t)
            )
            for m, n in np.ndindex(p, p)
        ))  # fmt: skip

    def with_teacher(self, j: int, r: int, time: sp.Symbol) -> sp.Expr:
        """E[g_j h*_r]."""
        P, B = self.start.P, self.coefficients["B"]
        pulled = sum(self.A[j, m] * self.function("M", m, r)(time) for m in range(self.start.p))
        return pulled + (B @ P)[j, r] + self.past("N", j, r)

    def response(self, j: int, m: int) -> sp.Expr:
        """K_jm(t, s)."""
        p, A, total = self.start.p, self.A, sp.S.Zero
        for a, b in np.ndindex(p, p):
            R, K = self.function("R", a, b), self.function("K", b, m)
            total += A[j, a] * (R(t, s) * A[b, m] + sp.Integral(R(t, u) * K(u, s), (u, s, t)))
        return total

    def correlation(self, j: int, m: int) -> sp.Expr:
        """D_jm(t, s), its past in two parts: X_ab(u, s) is X_ba(s, u) for u < s."""
        p, k, A, B = self.start.p, self.start.k, self.A, self.coefficients["B"]
        total = sum(B[j, r] * self.function("N", m, r)(s) for r in range(k))
        total += sum(y[j] * self.function(name, m)(s) for name, y in self.constants.items())
        for a, r, q in product(range(p), range(k), range(k)):
            front = A[j, a] * self.inverse[r, q]
            total += front * self.function("M", a, r)(t) * self.function("N", m, q)(s)
        for a, b in np.ndindex(p, p):
            C, K, R = (self.function("C", a, b), self.function("K", m, b), self.function("R", a, b))
            driven = C(t, s) * A[m, b] + sp.Integral(C(t, u) * K(s, u), (u, 0, s))
            early = sp.Integral(R(t, u) * self.function("D", m, b)(s, u), (u, 0, s))
            late = sp.Integral(R(t, u) * self.function("D", b, m)(u, s), (u, s, t))
            total += A[j, a] * (driven + early + late)
        return total

    # Rates of the flow, neuron by neuron.

    @cached_property
    def averages(self) -> dict[str, Definition]:
        """Definitions of the averages over samples, and of the response at equal times."""
        found = {base_name(d.target): d for d in self.flow.process if d.expr.has(Expectation)}
        return found | {"R_l_equal": equal_response_of(self.flow.by_base)}

    def rate(self, definition: Definition, at: Mapping[sp.Symbol, int]) -> dict[str, sp.Expr]:
        """Terms of the rate of one entry; numbers for the neurons, functions for the arrays."""
        assert isinstance(definition.target, sp.Indexed)
        times = {y: name for y, name in TIMES.items() if y in definition.target.indices}
        return {name: self.plain(expr, {**times, **at}) for name, expr in definition.terms}

    def plain(self, expr: sp.Expr, at: Mapping[Any, Any]) -> sp.Expr:
        """An expression of the flow at these times and neurons."""
        others = {sp.Integral: self.integral, Expectation: self.average}
        return expanded(expr, at, self.known, lambda n, y: self.entry(n, y, at), others)

    def integral(self, expr: sp.Integral, at: Mapping[sp.Symbol, Any]) -> sp.Expr:
        """An integral over the past, cut at s, where kernels of two neurons change their order."""
        ((symbol, low, high),) = expr.limits
        ends = [self.plain(y, at) for y in (low, high)]
        cuts = [0, s, t] if ends == [0, t] and eq.s in at else ends
        return sp.Add(*(
            sp.Integral(
                self.plain(expr.function, {**at, symbol: u, "early": last == s}), (u, first, last)
            )
            for first, last in pairwise(cuts)
        ))  # fmt: skip

    def entry(self, name: str, places: Sequence[Any], at: Mapping[Any, Any]) -> sp.Expr:
        """A function of times, in the order in which they are known."""
        if name == "P_inverse":
            return sp.sympify(self.inverse[tuple(int(y) - 1 for y in places)], strict=True)
        if name in self.averages:
            d = self.averages[name]
            assert isinstance(d.target, sp.Indexed)
            return self.plain(d.expr, {**at, **dict(zip(d.target.indices, places, strict=True))})
        count = 2 if name in eq.TWO_TIMES else 1
        times, neurons = list(places[:count]), [int(y) - 1 for y in places[count:]]
        return self.ordered(NAMES[name], times, neurons, bool(at.get("early")))

    def ordered(self, name: str, times: list[Any], neurons: list[int], early: bool) -> sp.Expr:
        """X_ab(u, s) of correlations as X_ba(s, u) where u < s."""
        rank = {t: 2, s: int(early), u: int(not early)}
        if name in "CD" and rank[times[0]] < rank[times[1]]:
            times, neurons = times[::-1], neurons[::-1]
        return self.function(name, *neurons)(*times)

    def average(self, expr: Expectation, at: Mapping[Any, Any]) -> sp.Expr:
        """An average over samples as a function of times."""
        inside = expr.integrand
        path = isinstance(inside, eq.PathSlope)
        parts = inside.args if path else sp.Mul.make_args(inside)
        places = [[self.plain(i, at) for i in y.indices] for y in parts]
        names = [base_name(y) for y in parts]
        if names == ["H_at"]:
            _, j, m = places[0]
            return sp.sympify(self.A[int(j) - 1, int(m) - 1], strict=True)
        if "h_star" in names:
            (r,), (time, j) = sorted(places, key=len)
            return self.function("N", int(j) - 1, int(r) - 1)(time)
        (first, j), (second, m) = places
        neurons = [int(j) - 1, int(m) - 1]
        return self.ordered("DK"[path], [first, second], neurons, bool(at.get("early")))


def _equal(rate: sp.Expr) -> sp.Expr:
    """Right-hand side at s = t: integrals from s to t vanish."""
    gone = {y: sp.S.Zero for y in rate.atoms(sp.Integral) if y.limits[0][1] == s}
    at_once = rate.xreplace(gone)
    return at_once.subs(s, t)

"""Averages without closed form as symbols that compiled code evaluates from tables of the factors.

One and two fields, any factors: `FieldTable` and `PairTable` stand in an expression like a closed
form does. The tables are made when code is generated, never when an expression is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray
from sympy.printing.precedence import PRECEDENCE

from dmft.errors import NotClosed
from dmft.gaussian import refuse
from dmft.gaussian.closed.pair import CorrelationRoot
from dmft.gaussian.closed.switch import SWITCHES, intervals, to_signs
from dmft.gaussian.derivative import derivative
from dmft.gaussian.law import Cov
from dmft.model import FIELD

# A weighted Dirac factor: position and weight.
Dirac = tuple[sp.Expr, sp.Expr]
# Functions of a factor with their weights, and positions of Dirac factors with theirs.
Weighted = tuple[sp.Expr, sp.Expr]
Parts = tuple[list[Weighted], list[Weighted]]
# Covariances of two fields.
Pair = tuple[sp.Expr, sp.Expr, sp.Expr]
HALF = sp.Rational(1, 2)
# Jumps, and kinks, of a factor whose table has few enough cells about them.
MOST_JUMPS, MOST_KINKS = 2, 3
# Rounding of one evaluation, beside the errors of the tables; relative to sqrt(E F^2 E G^2).
EVALUATION = 2e-14


class PlacedAverage(sp.Expr):
    """An average evaluated from its own table, with the error that the table claims."""

    is_commutative = True
    is_real = True
    claimed = 0.0

    def number(self, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, NDArray[Any]]) -> float:
        """Number at numbers for the symbols; `nodes` are those of averages without tables."""
        raise NotImplementedError


class TableAverage(sp.Expr):
    """Average of factors of `FIELD`, the first of its arguments, at numbers, the rest."""

    is_commutative = True
    is_real = True
    factors_count = 0
    # Whether code has it from tables of its factors.
    has_tables = True

    @property
    def factors(self) -> tuple[sp.Expr, ...]:
        """Factors, expressions in `FIELD`."""
        return tuple(self.args[: self.factors_count])

    @property
    def numbers(self) -> tuple[sp.Expr, ...]:
        """Covariances (and a mean)."""
        return tuple(self.args[self.factors_count :])

    @property
    def free_symbols(self) -> set[sp.Basic]:
        """Symbols of the covariances: the field is integrated out."""
        return set().union(*(a.free_symbols for a in self.numbers))

    @property
    def error(self) -> float:
        """Claimed error of its table relative to sqrt(E F^2 E G^2), for every covariance."""
        from dmft.gaussian.tables.factor_table import factor_table

        return sum(factor_table(f).error for f in self.factors) + EVALUATION

    @property
    def rounding(self) -> float:
        """What the NumPy reference claims, in the same units."""
        return self.error

    @property
    def code(self) -> str:
        """Name of the function in generated code and the keys of what it reads."""
        from dmft.gaussian.tables.factor_table import factor_table

        tables = [factor_table(f) for f in self.factors]
        kinked = "Kinked" * (len(tables) == 2 and not tables[1].smooth)
        return " ".join([kinked + type(self).__name__, *(t.key for t in tables)])

    def on_arrays(self, *numbers: Any) -> Any:
        """Value at arrays of numbers, by the NumPy reference."""
        from dmft.gaussian.tables.factor_function import direct_averages

        return direct_averages(self.factors, numbers)

    def norm(self, *numbers: Any) -> Any:
        """Sqrt(E F^2 E G^2) at arrays of numbers."""
        laws = [numbers] if len(self.factors) == 1 else [(0.0, numbers[0]), (0.0, numbers[2])]
        squares = (FieldTable(f**2, sp.S.Zero, sp.S.One) for f in self.factors)
        return np.sqrt(math.prod(f.on_arrays(*law) for f, law in zip(squares, laws, strict=True)))

    def written_out(self) -> sp.Expr:
        """The same in functions of mathematics where there is such a form; else itself."""
        return self

    def _eval_subs(self, old: sp.Basic, new: sp.Basic) -> sp.Expr | None:
        # The field of the factors is bound.
        numbers = [a._subs(old, new) for a in self.numbers]
        return self.func(*self.factors, *numbers)

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        numbers = [a.evalf(17) for a in self.numbers]
        if not all(a.is_Float or a.is_Integer for a in numbers):
            return None
        from dmft.gaussian.tables.factor_function import direct_average

        return sp.Float(direct_average(self.factors, [float(a) for a in numbers]), 15)


class FieldTable(TableAverage):
    """E F(mean + sqrt(variance) z); arguments F, mean, variance."""

    factors_count = 1

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        factor, mean, variance = self.args
        along_mean = FieldTable(derivative(factor), mean, variance) * mean.diff(symbol)
        heat = HALF * FieldTable(derivative(factor, 2), mean, variance)
        return along_mean + heat * variance.diff(symbol)

    def _latex(self, printer: Any) -> str:
        factor, mean, variance = self.args
        y = sp.Symbol("x")
        law = rf"x \sim \mathcal{{N}}({printer._print(mean)}, {printer._print(variance)})"
        return (
            rf"\left\langle {printer._print(factor.xreplace({FIELD: y}))} \right\rangle_{{{law}}}"
        )


class PairTable(TableAverage):
    """E F(u) G(v) of two centred fields; arguments F, G, C_uu, C_uv, C_vv."""

    factors_count = 2

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        f, g, first, cross, second = self.args
        # Price's identity; Dirac factors of the derivatives are conditioned upon.

        def average(a: sp.Expr, b: sp.Expr) -> sp.Expr:
            return tabled_expectation([a, b], ["u", "v"], of_two((first, cross, second)))

        def of_variance(a: sp.Expr, own: sp.Expr, mean: Callable[..., sp.Expr]) -> sp.Expr:
            """E a''/2, of a jump by Stein's identity E u a' = own E a'' + cross E a' b'."""
            once, twice = derivative(a), derivative(a, 2)
            if not any(len(d.args) > 1 for d in twice.atoms(sp.DiracDelta)):
                return HALF * mean(twice)
            return HALF * (mean(FIELD * once) - cross * average(derivative(f), derivative(g))) / own

        total = sp.S.Zero
        if (change := first.diff(symbol)) != 0:
            total += change * of_variance(f, first, lambda a: average(a, g))
        if (change := cross.diff(symbol)) != 0:
            total += change * average(derivative(f), derivative(g))
        if (change := second.diff(symbol)) != 0:
            total += change * of_variance(g, second, lambda b: average(f, b))
        return total

    def _latex(self, printer: Any) -> str:
        f, g = self.factors
        u, v = sp.symbols("u v")
        inside = r"\,".join(
            printer.parenthesize(e.xreplace({FIELD: s}), PRECEDENCE["Mul"])
            for e, s in ((f, u), (g, v))
        )
        uu, uv, vv = (printer._print(a) for a in self.numbers)
        return rf"\left\langle {inside} \right\rangle_{{{uu},\, {uv},\, {vv}}}"


def tabled_expectation(factors: Sequence[sp.Expr], fields: Sequence[Hashable], cov: Cov) -> sp.Expr:
    """E[prod_i factors_i(x_{fields_i})] of one or two centred fields, from tables of the factors.

    Equation    E[F(u) G(v)] = E_z[F(s_1 z) H_G(b z, sigma)], H_G(m, sigma) = E G(m + sigma z),
                b = C_uv / s_1, sigma^2 = C_vv - b^2; a Dirac factor conditions the law
    Valid for   square-integrable factors, analytic between kinks and jumps, with numbers only;
                |rho| <= 1, standard deviations up to 32 (less for factors that grow fast); error
                below 1e-10 sqrt(E F^2 E G^2), stated by `.error`; NaN outside
    Source      theory/one_pass A.7
    """
    merged: dict[Hashable, sp.Expr] = {}
    for factor, label in zip(factors, fields, strict=True):
        merged[label] = merged.get(label, sp.S.One) * factor
    whole = sp.Mul(*(f.xreplace({FIELD: sp.Symbol(str(x))}) for x, f in merged.items()))
    if len(merged) > 2:
        raise refuse(whole, "tables contain averages of one and two fields")
    for factor in merged.values():
        extra = sorted(map(str, factor.free_symbols - {FIELD}))
        if extra:
            raise refuse(
                whole, f"a table needs numbers: substitute a number for {', '.join(extra)}"
            )
    parts = [(x, *without_dirac(f)) for x, f in merged.items()]
    if len(parts) == 1:
        ((x, regular, spikes),) = parts
        terms = [w * density(cov(x, x), t) for t, w in spikes]
        return sp.Add(_field(regular, sp.S.Zero, cov(x, x)), *terms)
    (x, *_), (y, *_) = parts
    one, two = (([(sp.S.One, f)], [(w, t) for t, w in spikes]) for _, f, spikes in parts)
    return by_parts(one, two, (cov(x, x), cov(x, y), cov(y, y)), _pair, _given)


def of_two(C: Pair) -> Cov:
    """Entries of two fields named u and v."""
    uu, uv, vv = C
    return lambda x, y: uv if x != y else uu if x == "u" else vv


def by_parts(
    one: Parts, two: Parts, C: Pair, pair: Callable[..., sp.Expr], given: Callable[..., sp.Expr]
) -> sp.Expr:
    """Average of two centred fields u and v, part by part; infinite at coinciding Dirac factors.

    `pair` (f, g, *C) is E f(u) g(v), and `given` (g, *C, t) is E[g(v) | u = t].
    """
    uu, uv, vv = C
    terms = [w * v * pair(f, g, *C) for w, f in one[0] for v, g in two[0]]
    for here, there, law in ((one, two, (uu, uv, vv)), (two, one, (vv, uv, uu))):
        for w, t in here[1]:
            terms += [w * v * density(law[0], t) * given(g, *law, t) for v, g in there[0]]
    gap = CorrelationRoot(uu, vv, uv) ** 2
    for w, t in one[1]:
        for v, s in two[1]:
            action = (t**2 * vv - 2 * t * s * uv + s**2 * uu) / (2 * gap)
            terms.append(w * v * sp.exp(-action) / (2 * sp.pi * sp.sqrt(gap)))
    return sp.Add(*terms)


def table_averages(expr: sp.Expr) -> list[TableAverage]:
    """Averages by table that an expression holds, in a fixed order."""
    return sorted(expr.atoms(TableAverage), key=sp.default_sort_key)


def _field(factor: sp.Expr, mean: sp.Expr, variance: sp.Expr) -> sp.Expr:
    return FieldTable(factor, mean, variance) if factor.has_free(FIELD) else factor


def _pair(f: sp.Expr, g: sp.Expr, uu: sp.Expr, uv: sp.Expr, vv: sp.Expr) -> sp.Expr:
    """Average of two factors, constants in front; the smoother factor is the inner one."""
    if not f.has_free(FIELD):
        return f * _field(g, sp.S.Zero, vv)
    if not g.has_free(FIELD):
        return g * _field(f, sp.S.Zero, uu)
    if _switches(g) and not _switches(f):
        f, g, uu, vv = g, f, vv, uu
    parts = pieces(f) if f.has(*SWITCHES) else [f]
    if len(parts) > 1:
        numbers = (part.as_coeff_Mul() for part in parts)
        return sp.Add(*(n * _pair(part, g, uu, uv, vv) for n, part in numbers))
    return PairTable(f, g, uu, uv, vv)


def pieces(factor: sp.Expr) -> list[sp.Expr]:
    """Summands of a function with many kinks and constant beyond them; else itself.

    Steps, where it is constant between its jumps, and else what it is on each of the intervals.
    """
    try:
        signs = to_signs(factor, (FIELD,))
    except NotClosed:  # a condition of another kind: the table says whether it resolves it
        return [factor]
    read = intervals(signs, FIELD)
    if read is None or len(read[0]) <= MOST_JUMPS:
        return [factor]
    edges, parts = read
    changes = [sp.expand(high - low) for low, high in pairwise(parts)]
    above = [sp.Heaviside(FIELD - e) for e in edges]
    if not any(part.has_free(FIELD) for part in parts):
        jumps = [c * step for c, step in zip(changes, above, strict=True) if c != 0]
        return [parts[0], *jumps]
    sharp = sum(_is_sharp(c, e) for c, e in zip(changes, edges, strict=True))
    if sharp <= MOST_KINKS or parts[0].has_free(FIELD) or parts[-1].has_free(FIELD):
        return [factor]
    below = [*(sp.Heaviside(e - FIELD) for e in edges), sp.S.One]
    whole = zip(parts, [sp.S.One, *above], below, strict=True)
    return [part * after * before for part, after, before in whole if part != 0]


def _is_sharp(change: sp.Expr, place: sp.Expr) -> bool:
    """Whether a function that changes by this there jumps, or its slope does."""
    return any(e.xreplace({FIELD: place}) != 0 for e in (change, change.diff(FIELD)))


def _switches(factor: sp.Expr) -> bool:
    from dmft.gaussian.tables.factor_function import is_smooth

    return not is_smooth(factor)


def density(variance: sp.Expr, t: sp.Expr) -> sp.Expr:
    """Density at distance t from the mean of a Gaussian field."""
    return sp.exp(-(t**2) / (2 * variance)) / sp.sqrt(2 * sp.pi * variance)


def _given(factor: sp.Expr, uu: sp.Expr, uv: sp.Expr, vv: sp.Expr, t: sp.Expr) -> sp.Expr:
    """E[factor(v) | u = t]."""
    return _field(factor, t * uv / uu, CorrelationRoot(uu, vv, uv) ** 2 / uu)


def without_dirac(factor: sp.Expr) -> tuple[sp.Expr, list[Dirac]]:
    """Split a factor into a function and its Dirac parts."""
    if not factor.has(sp.DiracDelta):
        return factor, []
    regular, spikes = [], []
    for term in sp.Add.make_args(sp.expand(factor)):
        deltas = [d for d in sp.Mul.make_args(term) if isinstance(d, sp.DiracDelta)]
        if not deltas and not term.has(sp.DiracDelta):
            regular.append(term)
            continue
        roots = sp.solve(deltas[0].args[0], FIELD) if len(deltas) == 1 else []
        if len(roots) != 1 or len(deltas[0].args) != 1:
            raise refuse(factor, f"the Dirac factor of {term} is not one of a linear argument")
        slope = sp.Abs(sp.diff(deltas[0].args[0], FIELD).subs(FIELD, roots[0]))
        weight = (term / deltas[0]).subs(FIELD, roots[0]) / slope
        if weight != 0:
            spikes.append((roots[0], weight))
    return sp.Add(*regular), spikes

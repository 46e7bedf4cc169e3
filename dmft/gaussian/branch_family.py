"""The averages with exponential branches, and the rules by which they are chosen.

They are symbols that keep every branch whole, and stand in an expression like a closed form does.
Written out, they are exponentials exp(q/2) times error functions, which overflow at large variances
and cancel at small ones; in one piece they have all digits in compiled code and the NumPy reference
(`dmft.special.branches`) and in `evalf`. Derivatives of such averages are such averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import NotClosed
from dmft.gaussian import branch_averages, refuse
from dmft.gaussian import branch_factors as factors
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.closed.switch import may_hold_branches, to_signs
from dmft.gaussian.derivative import derivative
from dmft.gaussian.tables import tabled
from dmft.model import FIELD

# Rounding of compiled code, relative to sqrt(E F^2 E G^2).
ROUNDING = 1e-14


class BranchAverage(tabled.TableAverage):
    """Average by one rule for all variances: no table, no domain."""

    # Of compiled code, relative to sqrt(E F^2 E G^2), for every covariance.
    rounding = ROUNDING
    has_tables = False

    @property
    def error(self) -> float:
        """Nothing beside rounding, as for closed forms."""
        return 0.0

    @property
    def read(self) -> Sequence[sp.Expr]:
        """Functions that compiled code reads, as vectors."""
        return self.factors

    @property
    def vectors(self) -> list[NDArray[Any]]:
        """The same as vectors."""
        return [factors.branch_vector(f) for f in self.read]

    @property
    def code(self) -> str:
        """Name of the function in generated code and the keys of what it reads."""
        return " ".join([type(self).__name__, *map(factors.branch_key, self.read)])

    def on_arrays(self, *numbers: Any) -> Any:
        """Value at arrays of numbers, by the same rule."""
        return branch_averages.branch_on_arrays(self.vectors, numbers)

    def norm(self, *numbers: Any) -> Any:
        """Sqrt(E F^2 E G^2) at arrays of numbers, of which compiled code has 14 digits.

        Of a field that another one determines, E F^2 may be below nothing by rounding.
        """
        if len(self.factors) == 1:
            return branch_averages.root_mean_square(self.factors[0], *numbers)
        first, _, second = numbers
        one, two = self.factors
        return branch_averages.root_mean_square(one, 0.0, first) * branch_averages.root_mean_square(
            two, 0.0, second
        )

    @property
    def is_number(self) -> bool:
        """Whether its covariances are numbers."""
        return all(a.is_number for a in self.numbers)

    def _eval_rewrite_as_erfcx(self, *_: Any, **__: Any) -> sp.Expr:
        return self.written_out()

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        try:
            text = printer._print(self.written_out())
        except NotClosed:
            text = self._bracket(printer)
        return str(text) if exp is None else rf"\left({text}\right)^{{{exp}}}"

    def _bracket(self, printer: Any) -> str:
        raise NotImplementedError

    def _numpycode(self, printer: Any) -> str:
        name = printer._module_format("dmft.gaussian.branch_averages.branch_on_arrays")
        vectors = ", ".join(str(tuple(v.tolist())) for v in self.vectors)
        numbers = ", ".join(printer._print(a) for a in self.numbers)
        return f"{name}(({vectors},), ({numbers},))"

    _scipycode = _numpycode

    def _exact(self, numbers: list[Any]) -> Any:
        raise NotImplementedError

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        digits = int(prec / 3.3) + 5
        values = [a.evalf(digits) for a in self.numbers]
        if not all(v.is_Float or v.is_Rational for v in values):
            return None
        with mpmath.workdps(max(digits, 34)):
            numbers = [v._to_mpmath(mpmath.mp.prec) for v in values]
            return branch_averages.as_float(self._exact(numbers), prec)


class BranchField(BranchAverage):
    """E F(mean + sqrt(variance) z); arguments F, mean, variance."""

    factors_count = 1
    _bracket = tabled.FieldTable._latex

    def _exact(self, numbers: list[Any]) -> Any:
        read = factors.branches(self.args[0])
        assert read is not None
        return branch_averages.field_value(read, *numbers) if numbers[1] >= 0 else mpmath.nan

    def written_out(self) -> sp.Expr:
        """The same with the scaled complementary error function `erfcx`."""
        factor, mean, variance = self.args
        read = factors.branches(factor)
        assert read is not None
        if read.closed:
            return branch_averages.field_formula(read, mean, variance)
        return product_expectation([factor], ["u"], lambda *_: variance, lambda _: mean)

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        factor, mean, variance = self.args
        slope, bend = (field_of_any(derivative(factor, n), mean, variance) for n in (1, 2))
        return slope * mean.diff(symbol) + bend * variance.diff(symbol) / 2


class BranchGiven(BranchAverage):
    """E[F(v) | u = t] of two centred fields; arguments F, C_uu, C_uv, C_vv, t.

    The conditional variance of nearly parallel fields is a difference, taken without rounding.
    """

    factors_count = 1

    def _bracket(self, printer: Any) -> str:
        return str(self._plain()._bracket(printer))

    def _plain(self) -> BranchField:
        """The same with the conditional mean and variance."""
        factor, uu, uv, vv, t = self.args
        return BranchField(factor, t * uv / uu, vv - uv**2 / uu)

    def _exact(self, numbers: list[Any]) -> Any:
        read = factors.branches(self.args[0])
        assert read is not None
        uu, uv, vv, t = numbers
        rest = vv - uv**2 / uu
        if -(mpmath.mpf(10) ** -9) * vv <= rest < 0:
            rest = mpmath.mpf(0)
        return branch_averages.field_value(read, t * uv / uu, rest) if rest >= 0 else mpmath.nan

    def written_out(self) -> sp.Expr:
        """The same with the scaled complementary error function `erfcx`."""
        return self._plain().written_out()

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        return self._plain()._eval_derivative(symbol)


class BranchesOfTwo(BranchAverage):
    """Average over two centred fields; arguments F, G, C_uu, C_uv, C_vv."""

    factors_count = 2
    _bracket = tabled.PairTable._latex

    def price(self, f: sp.Expr, g: sp.Expr, symbol: sp.Symbol) -> sp.Expr:
        """Price's identity; Dirac factors of the derivatives are conditioned upon."""
        first, cross, second = (a.diff(symbol) for a in self.numbers)
        changes = (
            (first / 2, derivative(f, 2), g),
            (cross, derivative(f), derivative(g)),
            (second / 2, f, derivative(g, 2)),
        )
        return sp.Add(
            *(
                change * average_of_any(a, b, self.numbers)
                for change, a, b in changes
                if change != 0
            )
        )


class BranchPair(BranchesOfTwo):
    """E F(u) G(v) of two centred fields; arguments F, G, C_uu, C_uv, C_vv; G of closed averages."""

    def _exact(self, numbers: list[Any]) -> Any:
        first, second = (factors.branches(f) for f in self.factors)
        assert first is not None
        assert second is not None
        return branch_averages.pair_value(first, second, *numbers)

    def written_out(self) -> sp.Expr:
        """The same in exponentials, error functions and averages of two signs."""
        return product_expectation(self.factors, ["u", "v"], tabled.of_two(self.numbers))

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        f, g = self.factors
        return self.price(f, g, symbol)


class BranchSlope(BranchesOfTwo):
    """E F(u) G'(v) of two centred fields, jumps of G included; arguments F, G, C_uu, C_uv, C_vv.

    G vanishes at both infinities: where v spreads over more than G lives on, its slope and its
    jumps cancel each other. By Stein's identity for v given u this is

        E[F(u) (v - E[v | u]) G(v)] / Var(v | u),

    which code takes there, and the average by parts elsewhere.
    """

    @property
    def read(self) -> Sequence[sp.Expr]:
        """F, z F(z), G' between the jumps, G, z G(z)."""
        f, g = self.factors
        return (f, FIELD * f, self.parts[0], g, FIELD * g)

    @property
    def parts(self) -> tuple[sp.Expr, list[tabled.Dirac]]:
        """G' between the jumps, and these: positions and weights."""
        return tabled.without_dirac(derivative(self.factors[1]))

    def norm(self, *numbers: Any) -> Any:
        """Bound of what code adds up, by the formula that it takes."""
        return branch_averages.slope_size(self.read, self.parts[1], numbers)

    def _exact(self, numbers: list[Any]) -> Any:
        return branch_averages.slope_value(self.read, self.parts[1], numbers)

    def written_out(self) -> sp.Expr:
        """The average by parts."""
        regular, spikes = self.parts
        slope = [(sp.S.One, regular)], [(weight, t) for t, weight in spikes]
        return tabled.by_parts(([(sp.S.One, self.read[0])], []), slope, self.numbers, _pair, _given)

    def _bracket(self, printer: Any) -> str:
        slope = derivative(self.factors[1])
        return str(tabled.PairTable(self.read[0], slope, *self.numbers)._latex(printer))

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        return self.price(self.read[0], derivative(self.factors[1]), symbol)


class BranchSlopes(BranchSlope):
    """E f'(u) G'(v) of two centred fields, jumps of G included; arguments f, G, C_uu, C_uv, C_vv.

    Both vanish at both infinities, and f has no jumps. Where both fields spread it is an average
    of f G with second derivatives of the density: (p_u p_v + C_uv / D) f G, p = C^-1 (u, v) and
    D the determinant of C.
    """

    @property
    def read(self) -> Sequence[sp.Expr]:
        """F = f', z F(z), G' between the jumps, G, z G(z), f, z f(z), z^2 f(z), z^2 G(z)."""
        f, g = self.factors
        F = derivative(f)
        return (F, FIELD * F, self.parts[0], g, FIELD * g, f, FIELD * f, FIELD**2 * f, FIELD**2 * g)

    def norm(self, *numbers: Any) -> Any:
        """Bound of what code adds up, by the formula that it takes."""
        return branch_averages.slopes_size(self.read, self.parts[1], numbers)

    def _exact(self, numbers: list[Any]) -> Any:
        return branch_averages.slopes_value(self.read, self.parts[1], numbers)


# Which of them stands for given functions ---------------------------------------------------------


def split(factor: sp.Expr) -> tabled.Parts:
    """Parts (weight, function of numbers) and (weight, position) of Dirac factors."""
    if factor.free_symbols <= {FIELD} and not factor.has(sp.DiracDelta):
        return [(sp.S.One, factor)], []
    smooth, spikes = tabled.without_dirac(sp.expand(to_signs(factor, [FIELD])))
    grouped: dict[sp.Expr, list[sp.Expr]] = {}
    for term in sp.Add.make_args(smooth):
        symbols, rest = sp.S.One, sp.S.One
        for part in sp.Mul.make_args(term):
            if part.has_free(FIELD) or not part.free_symbols:
                rest *= part
            else:
                symbols *= part
        if rest.free_symbols - {FIELD}:
            raise refuse(factor, "its functions contain symbols")
        grouped.setdefault(symbols, []).append(rest)
    parts = [(weight, sp.Add(*terms)) for weight, terms in grouped.items()]
    return [p for p in parts if p[1] != 0], [(w, t) for t, w in spikes]


def parts_of(factor: sp.Expr) -> tabled.Parts:
    """Parts of a factor that has an average here."""
    parts = split(factor)
    if not all(f == 1 or factors.branches(f) is not None for _, f in parts[0]):
        raise refuse(factor, "it is not a polynomial times exponentials and error functions")
    return parts


def average_of_one(parts: tabled.Parts, variance: sp.Expr) -> sp.Expr:
    """Average of one centred field; a slope that integrates to zero stays in one piece."""
    whole = _before_derivative(parts) if parts[1] else None
    if whole is not None:
        return average_of_field(FIELD * whole, sp.S.Zero, variance) / variance
    terms = [w * average_of_field(f, sp.S.Zero, variance) for w, f in parts[0]]
    return sp.Add(*terms, *(w * tabled.density(variance, t) for w, t in parts[1]))


def average_of_two(one: tabled.Parts, two: tabled.Parts, C: tabled.Pair) -> sp.Expr:
    """Average of two fields; a slope that integrates to zero stays in one piece."""
    uu, uv, vv = C
    for f, g, numbers in ((one, two, (uu, uv, vv)), (two, one, (vv, uv, uu))):
        whole = None if f[1] else _before_derivative(g)
        if whole is not None:
            return sp.Add(*(w * _slope(h, whole, numbers) for w, h in f[0]))
    return tabled.by_parts(one, two, C, _pair, _given)


def _slope(f: sp.Expr, g: sp.Expr, C: tabled.Pair) -> sp.Expr:
    """E[F(u) G'(v)] of a G that decays."""
    if not f.has_free(FIELD):
        return f * average_of_one(([(sp.S.One, FIELD * g)], []), C[2]) / C[2]
    if f.is_polynomial(FIELD) and sp.degree(f, FIELD) == 1:
        return tabled.by_parts(([(sp.S.One, f)], []), split(derivative(g)), C, _pair, _given)
    (first, f), (second, g) = factors.canonical(f), factors.canonical(g)
    whole = _before_derivative(([(sp.S.One, f)], []))
    if whole is None:
        return first * second * BranchSlope(f, g, *C)
    third, whole = factors.canonical(whole)
    return first * second * third * BranchSlopes(whole, g, *C)


def _before_derivative(parts: tabled.Parts) -> sp.Expr | None:
    """Function that decays and has this derivative, jumps included; None where there is none.

    At large variances its exponentials and its jumps cancel each other.
    """
    regular, spikes = parts
    if len(regular) != 1 or regular[0][0] != 1 or any(t.free_symbols for _, t in spikes):
        return None
    read = factors.branches(regular[0][1]) if factors.has_branches(regular[0][1]) else None
    jumps: dict[sp.Expr, sp.Expr] = {}
    for w, t in spikes:
        jumps[t] = jumps.get(t, sp.S.Zero) + w
    return None if read is None else factors.primitive(read, jumps)


def average_of_field(factor: sp.Expr, mean: sp.Expr, variance: sp.Expr) -> sp.Expr:
    """Average of one field; what has no branches is closed."""
    if not factor.has_free(FIELD):
        return factor
    if factors.has_branches(factor):
        lead, factor = factors.canonical(factor)
        return lead * BranchField(factor, mean, variance)
    return product_expectation([factor], ["u"], lambda *_: variance, lambda _: mean)


def _given(factor: sp.Expr, uu: sp.Expr, uv: sp.Expr, vv: sp.Expr, t: sp.Expr) -> sp.Expr:
    """E[factor(v) | u = t]."""
    if not factor.has_free(FIELD):
        return factor
    lead, factor = factors.canonical(factor)
    return lead * BranchGiven(factor, uu, uv, vv, t)


def _pair(f: sp.Expr, g: sp.Expr, uu: sp.Expr, uv: sp.Expr, vv: sp.Expr) -> sp.Expr:
    """Average of two functions; one that is linear goes by Stein's identity."""
    if not g.has_free(FIELD):
        return g * average_of_field(f, sp.S.Zero, uu)
    if not f.has_free(FIELD):
        return f * average_of_field(g, sp.S.Zero, vv)
    if not (factors.has_branches(f) or factors.has_branches(g)):
        return product_expectation([f, g], ["u", "v"], tabled.of_two((uu, uv, vv)), whole=True)
    for one, two, variance in ((f, g, uu), (g, f, vv)):
        if two.is_polynomial(FIELD) and sp.degree(two, FIELD) == 1:
            slope, offset = sp.Poly(two, FIELD).all_coeffs()
            plain = average_of_field(one, sp.S.Zero, variance) if offset != 0 else sp.S.Zero
            return offset * plain + slope * uv * average_of_one(split(derivative(one)), variance)
    (first, f), (second, g) = factors.canonical(f), factors.canonical(g)
    inner = [factors.branches(g), factors.branches(f)]
    if inner[0] is not None and inner[0].closed:
        return first * second * BranchPair(f, g, uu, uv, vv)
    if inner[1] is not None and inner[1].closed:
        return first * second * BranchPair(g, f, vv, uv, uu)
    return first * second * tabled.PairTable(f, g, uu, uv, vv)


def field_of_any(factor: sp.Expr, mean: sp.Expr, variance: sp.Expr) -> sp.Expr:
    """Average of one field, Dirac factors included."""
    regular, spikes = split(factor)
    terms = [w * average_of_field(f, mean, variance) for w, f in regular]
    return sp.Add(*terms, *(w * tabled.density(variance, t - mean) for w, t in spikes))


def average_of_any(f: sp.Expr, g: sp.Expr, C: tabled.Pair) -> sp.Expr:
    """Average of two functions, by tables where they hold no exponential branches."""
    try:
        if may_hold_branches(f) or may_hold_branches(g):
            one, two = parts_of(f), parts_of(g)
            if any(factors.has_branches(h) for _, h in (*one[0], *two[0])):
                return average_of_two(one, two, C)
    except NotClosed:
        pass
    return tabled.tabled_expectation([f, g], ["u", "v"], tabled.of_two(C))

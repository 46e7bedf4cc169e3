"""The ways from a product of functions of Gaussian fields to integrals that Arb encloses."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from itertools import product as cartesian

import sympy as sp

from dmft.errors import NotClosed
from dmft.gaussian.certified import reduce
from dmft.gaussian.certified.balls import (
    Ball,
    constant,
    exact_fraction,
    flint,
    growth,
    rational,
    real_ball,
)
from dmft.gaussian.certified.integrals import (
    line_expectation,
    nested_expectation,
    series_expectation,
)
from dmft.gaussian.certified.pieces import Average, Wave, conditional_average, pieces, waves
from dmft.gaussian.certified.signed import RationalLaw, SignedMoments

# Signs times erf or exponentials, of one field: coefficient, wave, threshold of a sign or None.
Switched = tuple[sp.Expr, Wave, sp.Expr | None]


class Reduction:
    """One evaluation at a number of working digits; remembers the steps that it took."""

    def __init__(self, digits: int) -> None:
        self.digits = digits
        self.steps: dict[str, None] = {}

    def note(self, step: str) -> None:
        """Remember a step, once."""
        self.steps.setdefault(step)

    def expectation(self, expr: sp.Expr, symbols: list[sp.Symbol], law: RationalLaw) -> Ball:
        """Ball of E[expr]."""
        expr = self._without_constants(expr, symbols, law)
        fields = reduce.Fields(list(symbols), law)
        present = fields.present(expr)
        if not present:
            return constant(expr).real
        if len(present) == 1:
            return self._line(expr, present[0], fields.sub_law(present))
        try:
            parts = reduce.products(expr, fields)
        except reduce.NotSeparable:
            if len(present) != 2:
                raise
            return self._nested(expr, present, fields.sub_law(present))
        total = flint().arb(0)
        for part in parts:
            total += self._product(part, fields)
        return total

    def _without_constants(
        self, expr: sp.Expr, symbols: list[sp.Symbol], law: RationalLaw
    ) -> sp.Expr:
        """Fields of variance zero are their means."""
        fixed = {
            x: rational(m)
            for i, (x, m) in enumerate(zip(symbols, law.mean, strict=True))
            if law.cov[i][i] == 0 and expr.has_free(x)
        }
        if fixed:
            self.note("a field of variance zero is its mean")
        return expr.xreplace(fixed)

    def _line(self, f: sp.Expr, x: sp.Symbol, law: RationalLaw) -> Ball:
        if law.cov[0][0] == 0:
            return constant(f.xreplace({x: rational(law.mean[0])})).real
        self.note("one field: panels between the kinks, and a proven bound of the tails")
        return line_expectation(f, x, law.mean[0], law.cov[0][0], self.digits)

    def _nested(self, expr: sp.Expr, present: list[sp.Symbol], law: RationalLaw) -> Ball:
        C = law.cov
        if C[0][0] * C[1][1] == C[0][1] ** 2:
            self.note("parallel fields are one field")
            y = _parallel(present[0], law, 0, 1)
            return self.expectation(expr.xreplace({present[1]: y}), present, law)
        self.note("two fields: a nested integral")
        return nested_expectation(expr, (present[0], present[1]), law, self.digits)

    def _product(self, part: reduce.Product, fields: reduce.Fields) -> Ball:
        symbols = list(dict.fromkeys([*part.functions, *fields.present(part.joint)]))
        law = fields.sub_law(symbols)
        value = constant(part.coefficient).real
        if part.joint != 0:
            self.note("a Gaussian factor of several fields tilts the law")
            square, slope, size = reduce.quadratic_form(part.joint, symbols)
            prefactor, law = reduce.tilt(law, square, slope)
            value *= prefactor * size
        if not symbols:
            return value
        return value * self._functions(dict(part.functions), symbols, law)

    def _functions(
        self, functions: dict[sp.Symbol, sp.Expr], symbols: list[sp.Symbol], law: RationalLaw
    ) -> Ball:
        """E[prod f_x(x)]: constants, parallel fields and polynomials first."""
        used = [i for i, x in enumerate(symbols) if functions.get(x, sp.S.One).has_free(x)]
        scale = flint().arb(1)
        for x, f in functions.items():
            if not f.has_free(x):
                scale *= constant(f).real
        symbols, law = [symbols[i] for i in used], law.of(used)
        functions = {x: functions[x] for x in symbols}
        for i, x in enumerate(symbols):
            if law.cov[i][i] == 0:
                self.note("a field of variance zero is its mean")
                fixed = functions[x].xreplace({x: rational(law.mean[i])})
                return scale * self._functions({**functions, x: fixed}, symbols, law)
        for i, j in combinations(range(len(symbols)), 2):
            if law.cov[i][j] ** 2 == law.cov[i][i] * law.cov[j][j]:
                self.note("parallel fields are one field")
                x, y = symbols[i], symbols[j]
                merged = functions[x] * functions[y].xreplace({y: _parallel(x, law, i, j)})
                rest = {**functions, x: merged, y: sp.S.One}
                return scale * self._functions(rest, symbols, law)
        if len(symbols) > 1:
            for i, x in enumerate(symbols):
                if functions[x].is_polynomial(x):
                    return scale * self._regressed(functions, symbols, law, i)
        return scale * self._blocks(functions, symbols, law)

    def _regressed(
        self,
        functions: dict[sp.Symbol, sp.Expr],
        symbols: list[sp.Symbol],
        law: RationalLaw,
        i: int,
    ) -> Ball:
        """A field that occurs in a polynomial only is averaged given the others."""
        self.note("a polynomial is averaged over its residual given the other fields (Wick)")
        others, slopes, offset, residual = reduce.without_field(law, i)
        rest = [x for x in symbols if x is not symbols[i]]
        center = sp.Add(
            rational(offset), *[rational(s) * x for s, x in zip(slopes, rest, strict=True)]
        )
        powers = sp.Poly(functions[symbols[i]], symbols[i]).terms()
        average = sp.Add(*[c * reduce.averaged_power(n, center, residual) for (n,), c in powers])
        total = flint().arb(0)
        for summand in sp.Poly(average, *rest).terms():
            exponents, c = summand
            lifted = {x: functions[x] * x**n for x, n in zip(rest, exponents, strict=True)}
            total += constant(c).real * self._functions(lifted, rest, others)
        return total

    def _blocks(
        self, functions: dict[sp.Symbol, sp.Expr], symbols: list[sp.Symbol], law: RationalLaw
    ) -> Ball:
        """Product over groups of independent fields."""
        value = flint().arb(1)
        left = list(range(len(symbols)))
        groups = []
        while left:
            group = [left.pop(0)]
            for i in group:
                linked = [j for j in left if law.cov[i][j] != 0]
                group += linked
                left = [j for j in left if j not in linked]
            groups.append(sorted(group))
        if len(groups) > 1:
            self.note("independent fields factorise")
        for group in groups:
            chosen = [symbols[i] for i in group]
            part = {x: functions[x] for x in chosen}
            value *= self._connected(part, chosen, law.of(group))
        return value

    def _connected(
        self, functions: dict[sp.Symbol, sp.Expr], symbols: list[sp.Symbol], law: RationalLaw
    ) -> Ball:
        if len(symbols) == 1:
            return self._line(functions[symbols[0]], symbols[0], law)
        if len(symbols) == 2:
            return self._pair(functions, symbols, law)
        return self._signed(functions, symbols, law)

    def _pair(
        self, functions: dict[sp.Symbol, sp.Expr], symbols: list[sp.Symbol], law: RationalLaw
    ) -> Ball:
        for i in (1, 0):
            y, x = symbols[i], symbols[1 - i]
            slope = law.cov[0][1] / law.cov[1 - i][1 - i]
            rest = law.cov[i][i] - slope * law.cov[0][1]
            try:
                average = conditional_average(functions[y], y, rest)
            except NotClosed:
                continue
            self.note("two fields: one is averaged given the other in closed form, then one field")
            return self._conditioned(functions, (x, y), law, i, average)
        self.note("two fields: certified Hermite coefficients with Parseval's remainder")
        x, y = symbols
        return series_expectation(functions[x], x, functions[y], y, law, self.digits)

    def _conditioned(
        self,
        functions: dict[sp.Symbol, sp.Expr],
        pair: tuple[sp.Symbol, sp.Symbol],
        law: RationalLaw,
        i: int,
        average: Average,
    ) -> Ball:
        """E[f(x) E[g(y) | x]]; E[|f g|; tail] <= sqrt(E[f^2; tail] E[g^2])."""
        x, y = pair
        m, C = law.mean, law.cov
        slope, start = real_ball(C[0][1] / C[1 - i][1 - i]), real_ball(m[1 - i])
        center, mean = real_ball(m[i]), real_ball(m[1 - i])
        bound = growth(functions[x], x)
        square = bound * bound
        other = growth(functions[y], y)
        second = (other * other).average(center, real_ball(C[i][i]).sqrt())
        deviation = real_ball(C[1 - i][1 - i]).sqrt()

        def tail(end: int) -> Ball | None:
            rest = square.tail(mean, deviation, end)
            return None if rest is None else (rest * second).sqrt().upper()

        def factor(u: Ball, _analytic: bool) -> Ball:
            return average(center + slope * (u - start))

        return line_expectation(
            functions[x], x, m[1 - i], C[1 - i][1 - i], self.digits, factor=factor, tail=tail
        )

    def _signed(
        self, functions: dict[sp.Symbol, sp.Expr], symbols: list[sp.Symbol], law: RationalLaw
    ) -> Ball:
        """Three fields or more: signs, their thresholds and error functions as noisy signs."""
        self.note("kinks are polynomials times signs, erf is the average of a noisy sign")
        engine = SignedMoments(flint().arb(10) ** (-self.digits))
        parts = [switched(functions[x], x) for x in symbols]
        total = flint().arb(0)
        for choice in cartesian(*parts):
            total += _signed_term(engine, choice, law)
        for step in sorted(engine.used):
            self.note(step)
        return total


def switched(f: sp.Expr, x: sp.Symbol) -> list[Switched]:
    """Write f as (p_0 + p_K)/2 + sum_k (p_k - p_(k-1))/2 sign(x - a_k), from its smooth pieces."""
    parts = pieces(f, x)
    values = parts.values
    result: list[Switched] = [
        (sp.S.One, w, None) for w in waves(sp.expand((values[0] + values[-1]) / 2), x)
    ]
    for a, left, right in zip(parts.breaks, values[:-1], values[1:], strict=True):
        jump = sp.expand((right - left) / 2)
        result += [(sp.S.One, w, a) for w in waves(jump, x)] if jump != 0 else []
    return [r for r in result if any(c != 0 for _, c in r[1].powers)]


def _signed_term(engine: SignedMoments, choice: tuple[Switched, ...], law: RationalLaw) -> Ball:
    """One choice of a smooth part and a sign for each field."""
    size = len(choice)
    value = flint().arb(1)
    if any(w.curvature != 0 or w.slope != 0 for _, w, _ in choice):
        square = tuple(
            tuple(_rational(w.curvature) if i == j else Fraction(0) for j in range(size))
            for i, (_, w, _) in enumerate(choice)
        )
        prefactor, law = reduce.tilt(law, square, [_rational(w.slope) for _, w, _ in choice])
        value *= prefactor
    signs: set[int] = set()
    for i, (_, wave, threshold) in enumerate(choice):
        unit = [Fraction(int(k == i)) for k in range(len(law.mean))]
        if threshold is not None:
            signs.add(len(law.mean))
            law = law.joined(unit, -_rational(threshold))
            unit.append(Fraction(0))
        for a, c in wave.erfs:
            # erf(a x + c) is the average of sign(a) sign(x + c/a + noise of variance 1/(2 a^2)).
            if a.is_negative:
                value = -value
            signs.add(len(law.mean))
            law = law.joined(unit, _rational(c / a), _rational(1 / (2 * a**2)))
            unit.append(Fraction(0))
    total = flint().arb(0)
    for powers in cartesian(*[w.powers for _, w, _ in choice]):
        weight = constant(sp.Mul(*[c for _, c in powers])).real
        exponents = {i: n for i, (n, _) in enumerate(powers)}
        total += weight * engine.moment(law, exponents, frozenset(signs))
    return value * total


def _rational(value: sp.Expr) -> Fraction:
    result = exact_fraction(value)
    if result is None:
        result = exact_fraction(sp.radsimp(sp.expand(value)))
    if result is None:
        raise NotClosed(
            f"three and more fields need rational thresholds, rational squares of scales and "
            f"rational exponents, got {value}"
        )
    return result


def _parallel(x: sp.Symbol, law: RationalLaw, i: int, j: int) -> sp.Expr:
    """Field j as a function of field i."""
    ratio = law.cov[i][j] / law.cov[i][i]
    return rational(ratio) * x + rational(law.mean[j] - ratio * law.mean[i])

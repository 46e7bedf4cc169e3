"""Integrands as sums of products of functions of one field, and exact changes of their law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import comb

import sympy as sp
from sympy.core.relational import Relational

from dmft.errors import BadParameter, InvalidCovariance, NotClosed
from dmft.gaussian.certified.balls import (
    Ball,
    as_fraction,
    constant,
    exact_fraction,
    flint,
    rational,
    real_ball,
)
from dmft.gaussian.certified.signed import RationalLaw, Rows


def lowest_pivot(cov: Sequence[Sequence[Fraction]]) -> Fraction:
    """A negative number if the exact matrix is not positive semi-definite, else zero or more.

    Symmetric elimination: a zero pivot needs a zero row.
    """
    C = [list(row) for row in cov]
    lowest = Fraction(1)
    for k in range(len(C)):
        pivot = C[k][k]
        lowest = min(lowest, pivot)
        if pivot < 0:
            return pivot
        if pivot == 0:
            if any(C[k][k + 1 :]):
                return -max(abs(c) for c in C[k][k + 1 :])
            continue
        for i in range(k + 1, len(C)):
            ratio = C[i][k] / pivot
            for j in range(k + 1, len(C)):
                C[i][j] -= ratio * C[k][j]
    return lowest


def solve(matrix: Sequence[Sequence[Fraction]], right: Sequence[Fraction]) -> list[Fraction]:
    """A solution of a consistent linear system, the free unknowns zero."""
    module, size = flint(), len(matrix)
    rows = [[*row, b] for row, b in zip(matrix, right, strict=True)]
    exact = module.fmpq_mat([[module.fmpq(v.numerator, v.denominator) for v in r] for r in rows])
    reduced, rank = exact.rref()
    solution = [Fraction(0)] * size
    for r in range(rank):
        pivot = next(column for column in range(size) if reduced[r, column] != 0)
        solution[pivot] = Fraction(int(reduced[r, size].p), int(reduced[r, size].q))
    return solution


def tilt(law: RationalLaw, square: Rows, slope: Sequence[Fraction]) -> tuple[Ball, RationalLaw]:
    """Prefactor and law under the weight exp(-x'Bx/2 + l'x), B = `square`, l = `slope`.

    The tilted covariance is (I + C B)^-1 C, the mean (I + C B)^-1 (m + C l), the prefactor
    det(I + C B)^(-1/2) exp(l'C~l/2 + l'(I + C B)^-1 m - m'B(I + C B)^-1 m/2).
    """
    size = range(len(law.mean))
    C = sp.Matrix([[rational(c) for c in row] for row in law.cov])
    B = sp.Matrix([[rational(b) for b in row] for row in square])
    m, l = (sp.Matrix([rational(a) for a in v]) for v in (law.mean, slope))  # noqa: E741
    spread = sp.eye(len(law.mean)) + C * B
    det = spread.det()
    if not det > 0:
        raise NotClosed("a Gaussian factor grows faster than the law decays")
    inverse = spread.inv()
    cov, mean = inverse * C, inverse * (m + C * l)
    action = (l.T * cov * l / 2 + l.T * inverse * m - m.T * B * inverse * m / 2)[0]
    rows = tuple(tuple(as_fraction(cov[min(i, j), max(i, j)]) for j in size) for i in size)
    if lowest_pivot(rows) < 0:
        raise NotClosed("a Gaussian factor grows faster than the law decays")
    prefactor = real_ball(as_fraction(action)).exp() / real_ball(as_fraction(det)).sqrt()
    return prefactor, RationalLaw(tuple(as_fraction(a) for a in mean), rows)


def quadratic_form(
    exponent: sp.Expr, symbols: Sequence[sp.Symbol]
) -> tuple[Rows, list[Fraction], Ball]:
    """B, l and exp(constant) of an exponent -x'Bx/2 + l'x + constant."""
    if not exponent.is_polynomial(*symbols):
        raise NotClosed(f"exp({exponent}) is not the exponential of a quadratic form")
    polynomial = sp.Poly(exponent, *symbols)
    if polynomial.total_degree() > 2:
        raise NotClosed(f"exp({exponent}) is not the exponential of a quadratic form")
    n = len(symbols)
    square = [[Fraction(0)] * n for _ in range(n)]
    slope, size = [Fraction(0)] * n, flint().arb(1)
    for powers, c in polynomial.terms():
        where = [i for i, p in enumerate(powers) for _ in range(p)]
        if not where:
            size = constant(c).exp().real
            continue
        value = exact_fraction(c)
        if value is None:
            raise NotClosed(f"exp({exponent}) has the coefficient {c}, which is not rational")
        if len(where) == 1:
            slope[where[0]] += value
        else:
            i, j = where
            square[i][j] -= value
            square[j][i] -= value
    return tuple(tuple(row) for row in square), slope, size


def without_field(
    law: RationalLaw, j: int
) -> tuple[RationalLaw, list[Fraction], Fraction, Fraction]:
    """Regression of field j on the others: their law, the slopes, the offset, the residual.

    u_j = offset + sum_i slopes_i u_i + r, r of this variance and independent of the others.
    """
    rest = [i for i in range(len(law.mean)) if i != j]
    others = law.of(rest)
    cross = [law.cov[i][j] for i in rest]
    slopes = solve(others.cov, cross)
    offset = law.mean[j] - sum(
        (s * law.mean[i] for s, i in zip(slopes, rest, strict=True)), Fraction(0)
    )
    explained = sum((s * c for s, c in zip(slopes, cross, strict=True)), Fraction(0))
    return others, slopes, offset, law.cov[j][j] - explained


def averaged_power(n: int, center: sp.Expr, variance: Fraction) -> sp.Expr:
    """E[(center + r)^n] over a centred Gaussian r of this variance."""
    total = sp.S.Zero
    for k in range(n // 2 + 1):
        pairings = sp.factorial2(2 * k - 1) if k else sp.S.One
        total += comb(n, 2 * k) * pairings * rational(variance) ** k * center ** (n - 2 * k)
    return sp.expand(total)


def checked_law(mean: Sequence[Fraction], cov: Sequence[Sequence[Fraction]]) -> RationalLaw:
    """Law of these exact numbers."""
    lowest = lowest_pivot(cov)
    if lowest < 0:
        pivot = sp.N(rational(lowest), 3)  # which a float may not hold
        raise InvalidCovariance(
            f"the exact covariance is not positive semi-definite: pivot {pivot}. A float is "
            "taken as an exact binary fraction; write singular covariances in "
            "sympy.Rational"
        )
    return RationalLaw(tuple(mean), tuple(tuple(row) for row in cov))


# Functions of one linear combination of fields: that combination becomes a field.
LINEAR = (
    sp.Abs, sp.sign, sp.Heaviside, sp.erf, sp.erfc, sp.sin, sp.cos, sp.sinh, sp.cosh, sp.tanh,
    sp.atan,
)  # fmt: skip


class NotSeparable(NotClosed):
    """An integrand is not a sum of products of functions of one field."""


@dataclass(frozen=True)
class Product:
    """coefficient * exp(joint) * prod functions[x](x)."""

    coefficient: sp.Expr
    functions: dict[sp.Symbol, sp.Expr]
    joint: sp.Expr = sp.S.Zero


@dataclass
class Fields:
    """Fields and their rational law; linear combinations are added as further fields."""

    symbols: list[sp.Symbol]
    law: RationalLaw
    _known: dict[sp.Expr, sp.Symbol] = field(default_factory=dict)

    def present(self, expr: sp.Expr) -> list[sp.Symbol]:
        """Fields that an expression holds."""
        free = expr.free_symbols
        return [x for x in self.symbols if x in free]

    def derived(self, form: sp.Expr) -> sp.Symbol:
        """Field that is this linear combination (without its offset)."""
        if form not in self._known:
            weights = []
            for x in self.symbols:
                slope = sp.expand(form).coeff(x, 1) if form.has_free(x) else sp.S.Zero
                value = exact_fraction(slope)
                if value is None:
                    raise NotSeparable(f"{form} has the coefficient {slope}, which is not rational")
                weights.append(value)
            self.law = self.law.joined(weights, Fraction(0))
            self._known[form] = sp.Dummy("w", real=True)
            self.symbols.append(self._known[form])
        return self._known[form]

    def sub_law(self, chosen: Sequence[sp.Symbol]) -> RationalLaw:
        """Law of some of the fields."""
        return self.law.of([self.symbols.index(x) for x in chosen])


def products(expr: sp.Expr, fields: Fields) -> list[Product]:
    """Split an integrand; what depends on one field alone stays in one piece."""
    atoms: dict[sp.Expr, sp.Dummy] = {}
    joints: dict[sp.Dummy, sp.Expr] = {}

    def freeze(e: sp.Expr) -> sp.Expr:
        present = fields.present(e)
        if not present:
            return e
        if len(present) == 1:
            return atoms.setdefault(e, sp.Dummy())
        if e.is_Add or e.is_Mul or (e.is_Pow and e.exp.is_Integer and e.exp > 0):
            return e.func(*[freeze(a) for a in e.args])
        if isinstance(e, sp.exp):
            key = sp.Dummy()
            joints[key] = sp.expand(e.exp)
            return key
        return freeze(_of_one_field(e, fields))

    flat = sp.expand(freeze(expr))
    owner = {dummy: (fields.present(e)[0], e) for e, dummy in atoms.items()}
    result = []
    for summand in sp.Add.make_args(flat):
        coefficient, joint = sp.S.One, sp.S.Zero
        functions: dict[sp.Symbol, sp.Expr] = {}
        for factor in sp.Mul.make_args(summand):
            base, power = factor.as_base_exp()
            if base in owner:
                x, value = owner[base]
                functions[x] = functions.get(x, sp.S.One) * value**power
            elif base in joints:
                joint += power * joints[base]
            else:
                coefficient *= factor
        result.append(Product(coefficient, functions, joint))
    return result


def _of_one_field(e: sp.Expr, fields: Fields) -> sp.Expr:
    """A function of several fields with a linear combination of them as one derived field."""
    if isinstance(e, sp.Max | sp.Min):
        side = 1 if isinstance(e, sp.Max) else -1
        if len(e.args) == 2:
            first, rest = e.args
            return (first + rest + side * sp.Abs(first - rest)) / 2
        return sp.Add(
            *[
                f * sp.Mul(*[sp.Heaviside(side * (f - g)) for g in e.args if g is not f])
                for f in e.args
            ]
        )
    if isinstance(e, sp.Piecewise):
        return _indicated(e)
    if (isinstance(e, LINEAR) and len(e.args) == 1) or isinstance(e, sp.Heaviside):
        argument = sp.expand(e.args[0])
        present = fields.present(argument)
        if argument.is_polynomial(*present) and sp.Poly(argument, *present).total_degree() == 1:
            offset = argument.as_independent(*present, as_Add=True)[0]
            return e.func(fields.derived(argument - offset) + offset)
    raise NotSeparable(f"{e} is not a function of a linear combination of the fields")


def _indicated(e: sp.Piecewise) -> sp.Expr:
    """Piecewise as a sum of its values times indicators (equal off the boundaries)."""
    total, left = sp.S.Zero, sp.S.One
    for value, condition in e.args:
        if condition == sp.true:
            return total + left * value
        if not isinstance(condition, Relational) or isinstance(condition, sp.Eq | sp.Ne):
            raise NotSeparable(f"the condition {condition} is not an inequality")
        here = sp.Heaviside(condition.gts - condition.lts)
        total, left = total + left * here * value, left * (1 - here)
    raise BadParameter(f"the pieces of {e} do not cover the line")

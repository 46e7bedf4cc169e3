"""Proofs of leaps found numerically: symmetries make the zeros, closed forms the nonzero values.

Where there is no closed form, a certificate (extra `certify`) may show that a value is not zero.

A step of order k is proven when every lower coefficient vanishes by a symmetry for all T and phi
(or exactly, where T = y and phi = 1 are the only ones), the coefficients of order k outside its
span too, and exact coefficients E[y^m He_j(u) He_n(v)] have the rank of its span.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.closed.wick import hermite
from dmft.gaussian.expectation import Gaussian
from dmft.gaussian.exponents.coefficients import Index, indices, reverses, sign_flips
from dmft.gaussian.exponents.leaps import MAX_ORDER, LeapStep, Y

# Directions are recognised as roots of fractions of denominator up to this.
DENOMINATOR = 100
RECOGNISED = 1e-7
# Powers of y tried as a transformation, Hermite orders of learned directions, values per step.
POWERS, FEATURES, ATTEMPTS = 4, 3, 40
# Closed forms below this are not taken for nonzero.
NONZERO = 1e-10
# Singular values of unit columns below this are not taken for full rank.
FULL_RANK = 1e-6
# Digits that tell a value from zero; its relative error stays far below FULL_RANK.
DIGITS = 10


@dataclass(frozen=True)
class Symmetries:
    """Reasons for which E[T(y) phi(U h) He_n(V h)] vanishes for all T (or T = y) and phi.

    Flips of fields under which y is even or odd, and fields of which y sees the sign alone: sizes
    are independent of signs. With `every`, T is any function, and flips that reverse y say nothing.
    """

    flips: list[tuple[Index, int]]
    signs: frozenset[int]
    every: bool

    @classmethod
    def of(cls, expr: sp.Expr, fields: Sequence[sp.Symbol], every: bool) -> Symmetries:
        """Symmetries that SymPy can see."""
        flips = [(e, s) for e, s in sign_flips(expr, fields) if s > 0 or not every]
        doubled = (expr.xreplace({x: 2 * x}) for x in fields)
        signs = frozenset(i for i, image in enumerate(doubled) if image == expr)
        return cls(flips, signs, every)

    def silences(self, n: Index, learned: int) -> bool:
        """Whether the coefficient vanishes for all functions of the first `learned` fields."""
        if any(n[i] and n[i] % 2 == 0 for i in self.signs if i >= learned):
            return True
        return any(
            all(e > 0 for e in flips[:learned]) and reverses(flips, s, n) for flips, s in self.flips
        )


@dataclass(frozen=True)
class Label:
    """y = g(h) + noise, with independent Gaussian noise of this variance."""

    expr: sp.Expr
    fields: tuple[sp.Symbol, ...]
    noise: sp.Expr = sp.S.Zero

    def moment(self, power: int, weight: sp.Expr) -> sp.Expr | None:
        """E[y^power weight(h)] in closed form; None where there is none, or only a float."""
        total = []
        for paired in range(0, power + 1, 2):
            ways = (
                sp.binomial(power, paired) * sp.factorial2(paired - 1) * self.noise ** (paired // 2)
            )
            if ways != 0:
                value = self._noiseless(power - paired, weight)
                if value is None:
                    return None
                total.append(ways * value)
        return sp.Add(*total)

    def _noiseless(self, power: int, weight: sp.Expr) -> sp.Expr | None:
        law = Gaussian(self.fields, sp.eye(len(self.fields)))
        try:
            value = law.expect(self.expr**power * weight)
        except NotClosed:
            return None
        return None if value.has(sp.Float) else value


def deciding_moment(label: Label) -> tuple[Index, sp.Expr, int] | None:
    """Exact E[y^m He_n] != 0 of the lowest order that symmetries allow, as (n, value, m)."""
    symmetries = Symmetries.of(label.expr, label.fields, every=True)
    for order in range(1, MAX_ORDER + 1):
        candidates = [n for n in indices(len(label.fields), order) if not symmetries.silences(n, 0)]
        for power in range(1, POWERS + 1):
            for n in candidates:
                value = label.moment(power, sp.Mul(*map(hermite, n, label.fields)))
                if value is not None and value != 0 and not value.equals(0):
                    return n, value, power
        if candidates:
            return None
    return None


def proven_steps(
    expr: sp.Expr,
    fields: Sequence[sp.Symbol],
    steps: Sequence[LeapStep],
    *,
    every: bool,
    complete: bool = True,
    noise: sp.Expr = sp.S.Zero,
) -> list[LeapStep] | None:
    """The steps with exact witnesses, or None where symmetries and closed forms do not decide.

    `every` for generative leaps (any T); `complete` if nothing may be left after the last step;
    `noise` is the variance of Gaussian label noise.
    """
    basis = _exact_basis(steps, len(fields)) if steps else None
    if basis is None:
        return None
    turned = tuple(sp.Dummy(f"w{i}", real=True) for i in range(len(fields)))
    image = basis.T * sp.Matrix(turned)
    rotated = expr.xreplace(dict(zip(fields, image, strict=True)))
    if rotated.is_polynomial(*turned):
        rotated = sp.expand(rotated)
    count = sum(len(step.directions) for step in steps)
    if complete and count < len(fields) and rotated.has_free(*turned[count:]):
        return None
    prover = _Prover(rotated, turned, every, noise)
    back = dict(zip(turned, basis * sp.Matrix(fields), strict=True))
    proven, learned = [], 0
    for step in steps:
        better = prover.step(step, learned)
        if better is None:
            return None
        rows = np.array(basis[learned:, :].tolist(), dtype=float)
        feature = None if better.feature is None else better.feature.xreplace(back)
        proven.append(replace(better, basis=rows, feature=feature))
        learned += len(step.directions)
    return proven


class _Prover:
    """Proofs for one target in the coordinates w in which its directions are learned."""

    def __init__(
        self, expr: sp.Expr, fields: Sequence[sp.Symbol], every: bool, noise: sp.Expr
    ) -> None:
        self.fields, self.every = tuple(fields), every
        self.symmetries = Symmetries.of(expr, fields, every)
        self.label = Label(expr, self.fields, noise)
        self.flips = sign_flips(expr, fields)
        self.errors: dict[sp.Expr, float] = {}

    def step(self, step: LeapStep, learned: int) -> LeapStep | None:
        """The step with an exact witness, or None."""
        width = len(self.fields)
        found = range(learned, learned + len(step.directions))
        loud: list[Index] = []
        for order in range(1, step.order + 1):
            for n in indices(width - learned, order):
                full = (*([0] * learned), *n)
                if self.symmetries.silences(full, learned) or self.is_zero(full, learned):
                    continue
                if order < step.order or any(m for i, m in enumerate(full) if i not in found):
                    return None
                loud.append(full)
        entries = self.entries(loud, learned, list(found))
        if entries is None:
            return None
        index, value, transformation, feature = entries[0]
        named = tuple((n[learned:], v, t) for n, v, t, _ in entries)
        best = replace(step, index=index[learned:], strength=value, feature=feature)
        best = replace(best, error=max((self.errors.get(v, 0.0) for _, v, *_ in entries)))
        return replace(best, transformation=transformation, coefficients=named)

    def is_zero(self, n: Index, learned: int) -> bool:
        """Whether the one coefficient in question, of T = y and phi = 1, is zero."""
        return not (self.every or learned) and self.value(1, sp.S.One, n) == 0

    def entries(
        self, loud: Sequence[Index], learned: int, found: Sequence[int]
    ) -> list[tuple[Index, sp.Expr, sp.Expr, sp.Expr]] | None:
        """Exact nonzero coefficients whose unfolding has full rank on the directions found."""
        kept: list[tuple[Index, sp.Expr, sp.Expr, sp.Expr]] = []
        columns: dict[tuple[Index, int, Index], Array] = {}
        tried = 0
        for power, orders in self.tests(learned):
            feature = sp.Mul(*map(hermite, orders, self.fields[:learned]))
            for n in loud:
                whole = tuple(a + b for a, b in zip(orders, n[:learned], strict=True))
                if self.vanishes((*whole, *n[learned:]), power):
                    continue
                tried += 1
                if tried > ATTEMPTS:
                    return None
                value = self.value(power, feature, n)
                if value is None and not can_certify():
                    return None
                if value is None:
                    value = self.certified(power, feature * sp.Mul(*map(hermite, n, self.fields)))
                if value is None or abs(sp.N(value, 20)) < NONZERO:
                    continue
                kept.append((n, value, Y**power, feature))
                for i in found:
                    if n[i]:
                        others = tuple(m - (j == i) for j, m in enumerate(n))
                        column = columns.setdefault((others, power, orders), np.zeros(len(found)))
                        column[i - found[0]] = float(value)
            if columns and _rank(list(columns.values())) == len(found):
                return kept
        return None

    def tests(self, learned: int) -> Iterator[tuple[int, Index]]:
        """Powers of y and Hermite orders on what is learned."""
        for power in range(1, (POWERS if self.every else 1) + 1):
            for orders in product(range(FEATURES + 1), repeat=learned):
                if sum(orders) <= FEATURES:
                    yield power, orders

    def vanishes(self, n: Index, power: int) -> bool:
        """Whether a flip reverses y^power He_n."""
        return any(reverses(flips, s**power, n) for flips, s in self.flips)

    def certified(self, power: int, weight: sp.Expr) -> sp.Expr | None:
        """E[y^power weight] as a float that is provably not zero, None where that is open."""
        if self.label.noise != 0:
            return None
        found = enclosed(self.label.expr**power * weight, self.fields)
        if found is None:
            return None
        self.errors[found[0]] = found[1]
        return found[0]

    def value(self, power: int, feature: sp.Expr, n: Index) -> sp.Expr | None:
        """E[y^power feature He_n] in closed form, None where there is none."""
        value = self.label.moment(power, feature * sp.Mul(*map(hermite, n, self.fields)))
        return None if value is None else sp.simplify(value)


def _rank(columns: list[Array]) -> int:
    table = np.array(columns)
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    return int(np.linalg.matrix_rank(unit, tol=FULL_RANK))


def can_certify() -> bool:
    """Whether python-flint is installed."""
    return importlib.util.find_spec("flint") is not None


def enclosed(integrand: sp.Expr, fields: Sequence[sp.Symbol]) -> tuple[sp.Expr, float] | None:
    """E[integrand] != 0 with its error, certified; None without python-flint or a decision.

    Only sums of products of functions of one field each: those take milliseconds.
    """
    flat = sp.expand(integrand, func=False)
    factors = (f for term in sp.Add.make_args(flat) for f in sp.Mul.make_args(term))
    if any(len(f.free_symbols & set(fields)) > 1 for f in factors):
        return None
    if not can_certify():
        return None
    from dmft.gaussian.certified.certificate import certify_expectation

    try:
        law = Gaussian(fields, sp.eye(len(fields)))
        found = certify_expectation(flat, law, digits=DIGITS)
    except (NotClosed, BadParameter):
        return None
    if found.ball.contains(0):
        return None
    return sp.Float(found.mid, 15), found.radius


def _exact_basis(steps: Sequence[LeapStep], width: int) -> sp.Matrix | None:
    """Orthonormal rows: directions in the order of learning, then the rest, in exact numbers."""
    learned = np.concatenate([step.directions for step in steps])
    rows: list[list[sp.Expr]] = []
    for direction in learned:
        row = [_recognised(float(a)) for a in direction]
        if any(a is None for a in row):
            return None
        rows.append([a for a in row if a is not None])
    exact = sp.Matrix(rows)
    if len(rows) < width:
        rest = sp.GramSchmidt([sp.Matrix(v) for v in exact.nullspace()], orthonormal=True)
        exact = sp.Matrix.vstack(exact, *[v.T for v in rest])
    return exact if sp.simplify(exact * exact.T - sp.eye(width)).is_zero_matrix else None


def _recognised(a: float) -> sp.Expr | None:
    """The root of a fraction that is this number, None if there is none."""
    square = Fraction(a * a).limit_denominator(DENOMINATOR)
    if abs(square - a * a) > RECOGNISED:
        return None
    root = sp.sqrt(sp.Rational(square.numerator, square.denominator))
    return root if a >= 0 else -root

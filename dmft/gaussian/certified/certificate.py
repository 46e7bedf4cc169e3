"""Balls that provably contain an expectation or the population risk of a model.

They judge closed forms and are numbers to cite; the risk is taken from its definition.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import sympy as sp

from dmft.errors import BadParameter, NotClosed, ShapeMismatch
from dmft.gaussian.certified.balls import (
    NOT_INTEGRABLE,
    Ball,
    as_fraction,
    constant,
    exact_fraction,
    flint,
    rational,
    real_ball,
)
from dmft.gaussian.certified.reduce import checked_law
from dmft.gaussian.certified.routes import Reduction
from dmft.gaussian.certified.signed import RationalLaw
from dmft.gaussian.closed.wick import hermite
from dmft.gaussian.expectation import Gaussian
from dmft.model import FIELD, Committee, Model, check_identity
from dmft.record import Shown
from dmft.validation import checked, is_array, is_expression, shown

MAX_DIGITS = 100
# Fields in one expression; beyond, no reduction ends.
MAX_FIELDS = 8
# Bits beyond those of the digits, and repetitions with more digits where terms cancel.
GUARD_BITS = 60
ROUNDS = 4


@dataclass(frozen=True)
class Certificate(Shown):
    """An interval that provably contains the exact number.

    Attributes
    ----------
    mid, radius : float
        The number is in [mid - radius, mid + radius]; the radius is rounded up.
    ball : flint.arb
        The interval at the working precision.
    digits : int
        Significant decimal digits that the ball determines; for a ball around zero, decimal places.
    seconds : float
        Computing time.
    steps : tuple of str
        The reductions used; each is proven in derivations/certificates.py.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> law = dmft.Gaussian([z], [[1]])
    >>> dmft.certify(sp.Max(0, z), law).contains(1 / sp.sqrt(2 * sp.pi))
    True
    """

    mid: float
    radius: float
    # Two balls are equal in python-flint only where they are numbers; mid and radius say the same.
    ball: Any = field(compare=False)
    digits: int
    seconds: float
    steps: tuple[str, ...]

    def __getstate__(self) -> dict[str, Any]:
        ball = self.ball
        parts = [[int(n) for n in part.man_exp()] for part in (ball.mid(), ball.rad())]
        return {**self.__dict__, "ball": parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        module = flint()
        (mid, shift), (rad, rad_shift) = state["ball"]
        with module.ctx.workprec(max(200, 2 * mid.bit_length())):
            exact = module.arb(mid) * module.arb(2) ** shift
            ball = module.arb(exact, module.arb(rad) * module.arb(2) ** rad_shift)
        self.__dict__.update({**state, "ball": ball})

    def __float__(self) -> float:
        return self.mid

    def contains(self, value: sp.Expr | float | Fraction, slack: float = 0.0) -> bool:
        """Whether a value is in the interval, widened by `slack` on both sides.

        An exact SymPy number is enclosed in an interval, which must overlap.

        Parameters
        ----------
        value : sympy.Expr, float or Fraction
            Value; a float denotes its exact binary value.
        slack : float
            Width added on both sides.

        Returns
        -------
        bool

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> z = sp.Symbol("z", real=True)
        >>> found = dmft.certify(sp.Max(0, z), dmft.Gaussian([z], [[1]]))
        >>> found.contains(1 / sp.sqrt(2 * sp.pi)), found.contains(0.4)
        (True, False)
        """
        module = flint()
        with module.ctx.workprec(max(200, 2 * self.ball.bits())):
            number = real_ball(value) if isinstance(value, Fraction) else None
            if number is None:
                number = constant(sp.sympify(value, strict=True)).real
            wide = self.ball + module.arb(0, real_ball(Fraction(slack)).upper())
            return bool(wide.overlaps(number))

    def __str__(self) -> str:
        return str(self.ball.str(self.digits + 3))

    def __repr__(self) -> str:
        return f"Certificate({self}, {self.digits} digits, {self.seconds:.3f} s)"


def certify_expectation(
    expr: sp.Expr, law: Gaussian, values: Mapping[sp.Symbol, Any] | None = None, digits: int = 15
) -> Certificate:
    """Enclose E[expr] under a Gaussian law with rational covariance (see `dmft.certify`)."""
    if not isinstance(law, Gaussian):
        raise BadParameter(f"law must be a dmft.Gaussian, got {law!r}")
    given = _exact_values(values or {})
    symbols = [sp.Dummy(x.name, real=True) for x in law.fields]
    clash = set(given) & set(law.fields)
    if clash:
        raise BadParameter(f"values gives {clash}, which are fields of the law")
    cov = [[_entry(law.cov[i, j], given) for j in range(len(symbols))] for i in range(len(symbols))]
    rational = checked_law([_entry(m, given) for m in law.mean], cov)
    integrand = _integrand(expr, given).xreplace(dict(zip(law.fields, symbols, strict=True)))
    return enclose([(sp.S.One, integrand, symbols, rational)], digits)


@checked
def certify_hermite(f: sp.Expr, x: sp.Symbol, n: int, digits: int = 15) -> Certificate:
    """Compute an interval that provably contains E[f(x) He_n(x)] for x ~ N(0, 1).

    Parameters
    ----------
    f : sympy.Expr
        A function of `x`.
    x : sympy.Symbol
        The field.
    n : int
        Order of the coefficient.
    digits : int
        Requested number of digits.

    Returns
    -------
    Certificate
        Interval for E[f He_n], which is not divided by n!.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> dmft.certify_hermite(sp.tanh(z), z, 3).digits >= 15
    True
    """
    if not isinstance(x, sp.Symbol):
        raise BadParameter(f"x must be a SymPy symbol, got {x!r}")
    return certify_expectation(f * hermite(n, x), Gaussian([x], [[1]]), digits=digits)


# coefficient, integrand, its fields, their law.
Term = tuple[sp.Expr, sp.Expr, Sequence[sp.Symbol], RationalLaw]


def enclose(terms: Sequence[Term], digits: int) -> Certificate:
    """Enclose a sum of expectations, with more working digits where they cancel."""
    if not 1 <= digits <= MAX_DIGITS:
        raise BadParameter(f"digits must be 1 to {MAX_DIGITS}, got {digits}")
    module, start = flint(), time.perf_counter()
    working, before = digits + 2, MAX_DIGITS * 10
    for _ in range(ROUNDS):
        bits = int(3.33 * working) + GUARD_BITS + _spread_bits(terms)
        with module.ctx.workprec(bits):
            reduction = Reduction(working)
            ball = module.arb(0)
            for coefficient, integrand, symbols, law in terms:
                value = _value(reduction, integrand, symbols, law)
                ball += constant(coefficient).real * value
            if not ball.is_finite():
                raise NotClosed("no finite enclosure was found")
            missing = _missing_digits(ball, digits)
        # What more digits did not improve, a longer series would not either.
        if missing <= 0 or missing >= before:
            break
        before = missing
        working += missing + 1
    seconds = time.perf_counter() - start
    return _record(ball, seconds, tuple(reduction.steps))


def _value(
    reduction: Reduction, integrand: sp.Expr, symbols: Sequence[sp.Symbol], law: RationalLaw
) -> Ball:
    """The expectation; the refusal of a function that grows too fast names it."""
    try:
        return reduction.expectation(integrand, list(symbols), law)
    except NotClosed as error:
        if str(error) != NOT_INTEGRABLE:
            raise
        named = integrand.xreplace({x: sp.Symbol(x.name) for x in symbols})
        raise NotClosed(
            f"no bound proves that {named} is integrable under this law: it grows faster than "
            "the normal density decays, or contains a function of unknown growth"
        ) from None


def _missing_digits(ball: Ball, digits: int) -> int:
    """Decimal digits by which the radius is too large; 0 where the value may be zero."""
    middle, radius = abs(ball.mid()), ball.rad()
    if radius.is_zero() or not middle > 4 * radius:
        return 0
    ratio = float((radius / middle).log()) / math.log(10) + digits
    return math.ceil(ratio) if ratio > 0 else 0


def _spread_bits(terms: Sequence[Term]) -> int:
    """Bits that nearly parallel fields may cancel."""
    largest = 0
    for *_, law in terms:
        for row in law.cov:
            for c in row:
                largest = max(largest, c.denominator.bit_length(), c.numerator.bit_length())
    return 2 * min(largest, 200)


def _record(ball: Ball, seconds: float, steps: tuple[str, ...]) -> Certificate:
    module = flint()
    with module.ctx.workprec(200):
        mid = float(ball.mid())
        gap = abs(ball.mid() - module.arb(mid)) + ball.rad()
        radius = float(gap.upper())
        if not math.isfinite(mid + radius):
            raise NotClosed(f"the value, {ball.str(5)}, is larger than any float: scale the fields")
        if radius:
            radius = math.nextafter(radius, math.inf)
        rad, middle = float(ball.rad().upper()), abs(mid)
        if rad == 0:
            digits = MAX_DIGITS
        elif middle > 2 * rad:
            digits = int(-math.log10(rad / middle))
        else:
            digits = int(-math.log10(rad))
    return Certificate(mid, radius, ball, digits, seconds, steps)


def _exact_values(values: Mapping[sp.Symbol, Any]) -> dict[sp.Symbol, sp.Expr]:
    return {s: _exact(sp.sympify(v, strict=True)) for s, v in values.items()}


def _exact(expr: sp.Expr) -> sp.Expr:
    """The same with every float as the binary fraction that it holds."""
    return expr.xreplace({n: rational(as_fraction(n)) for n in expr.atoms(sp.Float)})


def _entry(expr: sp.Expr, given: Mapping[sp.Symbol, sp.Expr]) -> Fraction:
    value = _exact(sp.sympify(expr, strict=True).xreplace(dict(given)))
    if value.free_symbols:
        raise BadParameter(
            f"the entry {expr} of the law contains symbols without a value: pass values={{...}}"
        )
    fraction = exact_fraction(value)
    if fraction is None:
        fraction = exact_fraction(sp.expand(value))
    if fraction is None:
        raise BadParameter(
            f"the entry {expr} of the law is not rational: a certificate tests for singularity "
            "in exact fractions; scale the fields so that covariances and means are rational"
        )
    return fraction


def _integrand(expr: sp.Expr, given: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
    integrand = sp.sympify(expr, strict=True)
    if not isinstance(integrand, sp.Expr) or integrand.has(sp.I, sp.nan, sp.oo, -sp.oo, sp.zoo):
        raise BadParameter(f"expr must be a real and finite SymPy expression, got {expr!r}")
    return _exact(integrand.xreplace(dict(given)))


def certify_risk(
    model: Model,
    Q: Any,
    M: Any,
    P: Any = None,
    readout: Sequence[Any] | None = None,
    values: Mapping[sp.Symbol, Any] | None = None,
    digits: int = 15,
) -> Certificate:
    """Enclose E(f* - f)^2 / 2 at rational overlaps: one expectation for each pair of units."""
    check_identity(model, "risks are certified")
    given = _exact_values(values or {})
    student, cross = _matrix(Q, "Q"), _matrix(M, "M")
    p, k = cross.shape
    teacher = sp.eye(k) if P is None else _matrix(P, "P")
    if student.shape != (p, p) or teacher.shape != (k, k):
        raise ShapeMismatch(
            f"Q {student.shape}, M {cross.shape} and P {teacher.shape} do not fit "
            "(p, p), (p, k), (k, k)"
        )
    omega = sp.Matrix([[student, cross], [cross.T, teacher]])
    cov = [[_entry(omega[i, j], given) for j in range(p + k)] for i in range(p + k)]
    if any(cov[i][j] != cov[j][i] for i in range(p + k) for j in range(i)):
        raise BadParameter("Q and P must be symmetric, exactly")
    law = checked_law([_entry(sp.S.Zero, given)] * (p + k), cov)
    symbols = [sp.Dummy(f"lambda_{i}", real=True) for i in range(p + k)]
    a = readout if readout is not None else model.student.readout
    units = _units(model.student, symbols[:p], a, -1)
    if isinstance(model.teacher, Committee):
        units += _units(model.teacher, symbols[p:], model.teacher.readout, 1)
    else:
        ((expr, fields),) = model.teacher.functions
        units.append((sp.S.One, expr.xreplace(dict(zip(fields, symbols[p:], strict=True)))))
    terms = []
    for m, n in combinations_with_replacement(range(len(units)), 2):
        weight = units[m][0] * units[n][0] * (sp.Rational(1, 2) if m == n else 1)
        integrand = units[m][1] * units[n][1]
        exact = [_exact(sp.sympify(e, strict=True).xreplace(given)) for e in (weight, integrand)]
        terms.append((exact[0], exact[1], symbols, law))
    return enclose(terms, digits)


def _matrix(given: Any, name: str) -> sp.Matrix:
    """Overlaps as a matrix; entries are looked at by `_entry`."""
    if is_array(given) and np.ndim(given) == 2:
        with contextlib.suppress(sp.SympifyError, TypeError, ValueError):
            return sp.Matrix(given)
    raise BadParameter(f"{name} must be a matrix of numbers, got {shown(given)}")


def _units(
    network: Committee, symbols: list[sp.Symbol], readout: Sequence[Any] | None, side: int
) -> list[tuple[sp.Expr, sp.Expr]]:
    """Weight and activation of each hidden unit."""
    width = len(symbols)
    if network.width.is_Integer and int(network.width) != width:
        raise ShapeMismatch(f"the overlaps have {width} units, the network has {network.width}")
    if readout is not None and not all(map(is_expression, readout)):
        raise BadParameter(f"readout must be numbers, got {shown(readout)}")
    a = [sp.S.One] * width if readout is None else list(readout)
    if len(a) != width:
        raise ShapeMismatch(f"readout has {len(a)} entries, expected {width}")
    return [
        (side * sp.sympify(v, strict=True) / width, network.activation.xreplace({FIELD: x}))
        for v, x in zip(a, symbols, strict=True)
    ]

"""Hermite coefficients E[f(x) He_n(x)] under N(0, I): closed forms, otherwise quadrature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise, product
from math import factorial, prod
from typing import Any

import mpmath
import numpy as np
import sympy as sp
from numpy.polynomial.hermite_e import hermeval
from sympy.core.function import AppliedUndef

from dmft.arrays import Array
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.closed.law import ClosedLaw
from dmft.gaussian.closed.wick import hermite, power_in_hermite
from dmft.gaussian.nodes.grid import PANELS, Nodes, TooManyNodes, gaussian_nodes
from dmft.gaussian.nodes.kinks import break_points

Index = tuple[int, ...]
Function = Callable[[mpmath.mpf], mpmath.mpf]

# One-dimensional quadrature: working digits, digits kept, largest error accepted relative to
# sqrt(n! E f^2), rounding of the sums likewise, candidate ends of the line and what may be left of
# the integrand there.
WORKING_DIGITS = 30
KEPT_DIGITS = 18
ACCEPTED_ERROR = 1e-15
LINE_ROUNDING = 1e-20
LINE_ENDS = (10, 14, 20, 30, 60, 100)
LINE_TAIL = 1e-25
# Distances from a break point at which poles are looked for.
POLE_DISTANCES = (mpmath.mpf(10) ** -8, mpmath.mpf(10) ** -12)
# Functions of one field without closed form are integrated up to this order: by then what is left
# of any function that the quadrature takes is below its rounding, and a coefficient costs seconds.
MOST_ORDER = 128
# Bits beyond the working precision in which He_n is computed.
GUARD_BITS = 32
# A panel of the line is halved this often at most.
HALVINGS = 5
# Several fields: levels are added until they change by less; rounding of sums, as least error.
SETTLED = 1e-13
# What several fields are refused beyond, relative to sqrt(n! E f^2), and the outer part of an axis
# that says how large f is at its end.
LARGEST_ERROR = 1e-5
RIM_PART = 0.9
ROUNDING = 1e-15
# Signs are flipped in all combinations up to this many fields.
MAX_FLIPPED = 6


@dataclass(frozen=True)
class Coefficient:
    """Hermite coefficient with its error.

    Attributes
    ----------
    value : sympy.Expr
        Coefficient E[f He_n].
    exact : bool
        Whether the value is a closed form.
    error : float
        Absolute error; 0 if the value is exact.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> found = dmft.hermite_expansion(z**3, z, 3).by_index[(1,)]
    >>> found.value, found.exact, found.error
    (3, True, 0.0)
    """

    value: sp.Expr
    exact: bool
    error: float = 0.0


def as_fields(fields: sp.Symbol | Sequence[sp.Symbol]) -> tuple[sp.Symbol, ...]:
    """One symbol or a sequence of distinct symbols, as a tuple."""
    symbols = (fields,) if isinstance(fields, sp.Symbol) else tuple(fields)
    if not symbols or not all(isinstance(x, sp.Symbol) for x in symbols):
        raise BadParameter(f"fields must be a SymPy symbol or a list of them, got {fields!r}")
    if len(set(symbols)) < len(symbols):
        raise BadParameter(f"fields {symbols} must be distinct")
    return symbols


def as_expression(f: sp.Expr | float, fields: Sequence[sp.Symbol]) -> sp.Expr:
    """SymPy expression; text is refused."""
    try:
        expr = sp.sympify(f, strict=True)
    except sp.SympifyError as error:
        raise BadParameter(f"f = {f!r} is not a SymPy expression in {tuple(fields)}") from error
    if not isinstance(expr, sp.Expr):
        raise BadParameter(f"f = {f!r} is not a SymPy expression in {tuple(fields)}")
    if expr.atoms(AppliedUndef):
        raise BadParameter(f"f = {f!r} contains a function that is not defined: write its formula")
    if expr.has(sp.I, sp.nan, sp.oo, -sp.oo, sp.zoo):
        raise BadParameter(f"f = {f!r} is not a finite real function of {tuple(fields)}")
    return expr


def indices(fields: int, order: int) -> list[Index]:
    """Multi-indices n of `fields` entries with n_1 + ... = order, first entries largest first."""
    if fields == 1:
        return [(order,)]
    return [(n, *rest) for n in range(order, -1, -1) for rest in indices(fields - 1, order - n)]


@lru_cache(maxsize=1024)
def polynomial_coefficients(f: sp.Expr, fields: tuple[sp.Symbol, ...]) -> dict[Index, sp.Expr]:
    """E[f He_n] of a polynomial, for the n where it does not vanish."""
    result: dict[Index, sp.Expr] = {}
    for powers, c in sp.Poly(f, *fields).terms():
        terms: dict[Index, sp.Expr] = {(): c}
        for power in powers:
            # c_n is n! times the weight of He_n in z^p.
            line = [(k, int(w) * factorial(k)) for k, _, w in power_in_hermite(power, 0, 1)[::-1]]
            terms = {(*n, k): c * w for n, c in terms.items() for k, w in line}
        for n, value in terms.items():
            result[n] = result.get(n, sp.S.Zero) + value
    return {n: c for n, c in result.items() if sp.expand(c) != 0}


def sign_flips(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> list[tuple[Index, int]]:
    """Flips e in {1, -1}^k of the signs of the fields with g(e x) = s g(x), as (e, s)."""
    found = []
    many = len(fields) > MAX_FLIPPED
    for flips in product((1, -1), repeat=len(fields)):
        turned = flips.count(-1)
        if turned == 0 or (many and turned > 2):
            continue
        image = expr.xreplace({x: e * x for x, e in zip(fields, flips, strict=True)})
        if sp.expand(image - expr) == 0:
            found.append((flips, 1))
        elif sp.expand(image + expr) == 0:
            found.append((flips, -1))
    return found


def reverses(flips: Index, sign: int, n: Index) -> bool:
    """Whether a flip of the fields, under which g has this sign, reverses g He_n."""
    return sign * prod(e**m for e, m in zip(flips, n, strict=True)) < 0


@dataclass
class Coefficients:
    """Coefficients of one function by multi-index, computed at first use."""

    expr: sp.Expr
    fields: tuple[sp.Symbol, ...]
    _known: dict[Index, Coefficient] = field(default_factory=dict)
    _closed: bool = True
    _integrand: dict[mpmath.mpf, mpmath.mpf] = field(default_factory=dict)
    _panels: dict[int, list[mpmath.mpf]] = field(default_factory=dict)
    _grids: dict[int, Nodes] = field(default_factory=dict)

    def __getitem__(self, n: Index) -> Coefficient:
        if n not in self._known:
            self._known[n] = self._compute(n)
        return self._known[n]

    @cached_property
    def flips(self) -> list[tuple[Index, int]]:
        """Sign flips under which f is even (1) or odd (-1)."""
        return sign_flips(self.expr, self.fields)

    def vanishes_by_symmetry(self, n: Index) -> bool:
        """Whether a sign flip of the fields reverses the sign of the integrand."""
        return any(reverses(flips, s, n) for flips, s in self.flips)

    def _compute(self, n: Index) -> Coefficient:
        if self.vanishes_by_symmetry(n):
            self._check_integrable()
            return Coefficient(sp.S.Zero, True)
        refusal = None
        if _has_denominator(self.expr, self.fields):
            self._check_integrable()
        if self._closed and max(n) > MOST_ORDER:
            # A high He_n takes long to write down: a low one of its parity tells what is closed.
            self[tuple(m % 2 for m in n)]
        if self._closed:
            polynomial = sp.Mul(*[hermite(m, x) for m, x in zip(n, self.fields, strict=True)])
            law = ClosedLaw(self.fields, sp.eye(len(self.fields)))
            try:
                value = law.expect(self.expr * polynomial)
                return Coefficient(value, not value.has(sp.Float))
            except NotClosed as error:
                # What is not closed for one polynomial is not closed for the next.
                self._closed, refusal = False, error
        if self.expr.free_symbols - set(self.fields):
            extra = sorted(map(str, self.expr.free_symbols - set(self.fields)))
            raise refusal or BadParameter(f"{self.expr} holds {extra}, which are not fields")
        return self._line(n[0]) if len(self.fields) == 1 else self._tensor(n)

    def _check_integrable(self) -> None:
        """Refuse a function that is not integrable: symmetry makes no zero of its integrals."""
        if self.expr.free_symbols - set(self.fields) or self.expr.is_polynomial(*self.fields):
            return
        if len(self.fields) == 1:
            with mpmath.workdps(WORKING_DIGITS):
                self._line_setup(_line_end(self.expr, self._weighted, 0))
        elif len(self.fields) in PANELS:
            self.grid(0)

    def _line(self, n: int) -> Coefficient:
        """One field: tanh-sinh quadrature in multiprecision, panels split at the kinks."""
        if n > MOST_ORDER:
            raise BadParameter(
                f"the precision runs out at order {n}: coefficients of {self.expr} have no closed "
                f"form and are integrated up to order {MOST_ORDER}"
            )
        with mpmath.workdps(WORKING_DIGITS):
            integrand, panels = self._line_setup(_line_end(self.expr, self._weighted, n))
            size = self.scale * float(mpmath.sqrt(mpmath.factorial(n)))
            limit = ACCEPTED_ERROR * size
            value, error = _bisected(lambda t: integrand(t) * _hermite_number(n, t), panels, limit)
            if error > limit:
                raise BadParameter(
                    f"E[f He_{n}] of f = {self.expr}: the quadrature error {float(error):.1e} "
                    f"exceeds {limit:.1e}; rewrite f with its kinks and poles explicit"
                )
            kept = 5 * float(abs(value)) * 10.0**-KEPT_DIGITS
            return _rounded(value, max(float(error), kept, LINE_ROUNDING * size), KEPT_DIGITS)

    @cached_property
    def _weighted(self) -> Function:
        """Memoised f times the density."""
        smooth = self.expr.rewrite(sp.Piecewise) if self.expr.has(sp.Heaviside) else self.expr
        f = sp.lambdify(self.fields[0], smooth, "mpmath")
        memory = self._integrand

        def integrand(t: mpmath.mpf) -> mpmath.mpf:
            if t not in memory:
                memory[t] = mpmath.re(f(t)) * mpmath.npdf(t)
            return memory[t]

        return integrand

    def _line_setup(self, end: int) -> tuple[Function, list[mpmath.mpf]]:
        """F times the density, and the panels of the line up to this end."""
        if end not in self._panels:
            kinks = break_points(self.expr, self.fields[0], end)
            _check_poles(self.expr, self._weighted, kinks)
            regular = [mpmath.mpf(s * e) for e in range(0, end + 1, 2) for s in (1, -1)]
            self._panels[end] = sorted({*regular, *kinks})
        return self._weighted, self._panels[end]

    def _tensor(self, n: Index) -> Coefficient:
        """Several fields: panels in double precision, the change between levels as the error."""
        stairs = self.expr.atoms(sp.floor, sp.ceiling, sp.frac, sp.Mod)
        if any(len(s.free_symbols & set(self.fields)) > 1 for s in stairs):
            raise BadParameter(
                f"{self.expr} has stairs across several fields, which panels along the axes do not "
                "follow; write the jumps as Heaviside, or expand in one field"
            )
        value, error = self._moment(0, n), float("inf")
        for level in range(1, len(PANELS[len(self.fields)][1])):
            try:
                last, value = value, self._moment(level, n)
            except TooManyNodes:
                break
            error = max(abs(value - last), ROUNDING * self.scale * norm(n))
            if error < SETTLED * self.scale * norm(n):
                break
        error += self._tail(n)
        if error > LARGEST_ERROR * self.scale * norm(n):
            raise BadParameter(
                f"the precision runs out at order {n}: the coefficient of {self.expr} is known to "
                f"{error / (self.scale * norm(n)):.1e} of its largest possible value only"
            )
        return _rounded(value, error, 15)

    def _tail(self, n: Index) -> float:
        """Size of what lies beyond the last panels, where He_n is largest."""
        nodes, end = self.grid(0), PANELS[len(self.fields)][0][-1]
        total = 0.0
        for x, m in zip(nodes.points, n, strict=True):
            rim = np.abs(x) >= RIM_PART * np.abs(x).max()
            weights = nodes.weights[rim]
            height = 2 * float(weights @ np.abs(nodes.values[rim]) / weights.sum())
            t, w = _legendre_tail(end)
            beyond = 2 * float(w @ np.abs(hermeval(t, [0] * m + [1]))) / norm((m,))
            total += height * beyond * norm(n)
        return total

    def _moment(self, level: int, n: Index) -> float:
        nodes = self.grid(level)
        total = nodes.weights * nodes.values
        for x, m in zip(nodes.points, n, strict=True):
            total = total * hermeval(x, [0] * m + [1])
        return float(total.sum())

    def grid(self, level: int) -> Nodes:
        """Quadrature nodes of this function."""
        if level not in self._grids:
            self._grids[level] = gaussian_nodes(self.expr, self.fields, level)
        return self._grids[level]

    @cached_property
    def scale(self) -> float:
        """sqrt(E f^2), to compare coefficients with."""
        nodes = self.grid(0)
        return float(np.sqrt(nodes.weights @ nodes.values**2))


def _check_poles(expr: sp.Expr, integrand: Function, kinks: Sequence[mpmath.mpf]) -> None:
    """Refuse poles: next to an integrable singularity, f times the distance goes to zero."""
    for b in kinks:
        for side in (1, -1):
            near, nearer = (abs(d * integrand(b + side * d)) for d in POLE_DISTANCES)
            if nearer > near / 2 > 0:
                raise BadParameter(f"{expr} is not integrable: it has a pole at {float(b):.6g}")


def _bisected(f: Function, points: list[mpmath.mpf], limit: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Integral and error; panels that are not settled are halved, for poles close to the line."""
    value, error = mpmath.mpf(0), mpmath.mpf(0)
    todo = list(pairwise(points))
    share = limit / (4 * len(todo))
    for halving in range(HALVINGS + 1):
        again = []
        for a, b in todo:
            part, gap = mpmath.quad(f, [a, b], error=True)
            if gap > share and halving < HALVINGS:
                again += [(a, (a + b) / 2), ((a + b) / 2, b)]
            else:
                value, error = value + part, error + gap
        if error > limit:
            break
        todo = again
    return value, error


@lru_cache(maxsize=8)
def _legendre_tail(end: float) -> tuple[Array, Array]:
    """Nodes beyond the end of a panel, with weights that hold the normal density."""
    t, w = np.polynomial.legendre.leggauss(60)
    t = end + 6 * (1 + t)
    return t, np.asarray(6 * w * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi))


def _has_denominator(expr: sp.Expr, fields: Sequence[sp.Symbol]) -> bool:
    powers = expr.atoms(sp.Pow)
    return any(p.exp.is_negative and p.base != sp.E and p.base.has_free(*fields) for p in powers)


def _rounded(value: Any, error: float, digits: int) -> Coefficient:
    """Numerical coefficient; what is within its error of zero is zero, and not exact."""
    small = abs(value) <= error
    return Coefficient(sp.S.Zero if small else sp.Float(value, digits), False, error)


def factorials(n: Index) -> int:
    """E He_n^2 = n_1! n_2! ..."""
    return prod(factorial(m) for m in n)


def norm(n: Index) -> float:
    """sqrt(E He_n^2)."""
    return float(np.sqrt(float(factorials(n))))


def _hermite_number(n: int, t: mpmath.mpf) -> mpmath.mpf:
    """He_n(t) to the working precision, by integers in units of 2^-bits: mpmath takes ten times as
    long.
    """
    bits = mpmath.mp.prec + GUARD_BITS
    x = int(mpmath.ldexp(t, bits))
    last, this = 0, 1 << bits
    for m in range(n):
        last, this = this, (x * this >> bits) - m * last
    return mpmath.ldexp(mpmath.mpf(this), -bits)


def _line_end(expr: sp.Expr, integrand: Function, n: int) -> int:
    """Where f times the density and He_n / sqrt(n!) has died out."""
    for end in LINE_ENDS:
        places = [mpmath.mpf(s * e) for s in (1, -1) for e in (end, 2 * end)]
        if all(abs(integrand(t)) * _hermite_size(n, t) < LINE_TAIL for t in places):
            return end
    if n and all(abs(integrand(mpmath.mpf(s * LINE_ENDS[-1]))) < LINE_TAIL for s in (1, -1)):
        raise BadParameter(
            f"the precision runs out at order {n}: {expr} times He_{n} reaches too far into the "
            "tails of the normal density"
        )
    raise BadParameter(f"{expr} is not integrable against the normal density, or barely so")


def _hermite_size(n: int, t: mpmath.mpf) -> mpmath.mpf:
    """Largest |He_n| / sqrt(n!) near t: Cramer's bound between the zeros, itself beyond them."""
    if t**2 < 4 * n:
        return mpmath.exp(t**2 / 4)
    return abs(_hermite_number(n, t)) / mpmath.sqrt(mpmath.factorial(n))

"""Expectations as Hermite series in the correlation, with a bound of what is left out.

Near correlation 1 and -1 what lies beyond the order is taken from the values there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import factorial

import sympy as sp
from sympy.printing.latex import LatexPrinter

from dmft.errors import BadParameter, NotClosed
from dmft.gaussian import refuse
from dmft.gaussian.closed.factor import Label, split_product, sum_of_products
from dmft.gaussian.closed.law import ClosedLaw
from dmft.gaussian.derivative import derivative
from dmft.gaussian.exponents.coefficients import Coefficient, Coefficients
from dmft.model import FIELD
from dmft.record import InLatex

# The bound takes this many terms beyond the order by value; the rest by Cauchy-Schwarz.
NEXT_TERMS = 8
# Digits of the arithmetic of remainders, and rounding of one coefficient.
DIGITS = 30
ROUNDING = 1e-17
# A remainder of exact numbers below this is rounding of their evaluation.
NOTHING = 1e-25
# One standard normal number for all functions: equal ones share their coefficients.
NORMAL = sp.Dummy("u", real=True)


@lru_cache(maxsize=512)
def remembered(f: sp.Expr) -> Coefficients:
    """Coefficients of a function of `NORMAL`, kept for the session."""
    return Coefficients(f, (NORMAL,))


class Side:
    """One function of one field: Hermite coefficients, and what they leave of E f^2."""

    def __init__(
        self, f: sp.Expr, label: Label, cov: sp.MatrixBase, mean: Sequence[sp.Expr], order: int
    ) -> None:
        self.label, self.function = label, f
        self.variance = covariance(cov, label, label)
        u = NORMAL
        centre = sp.Add(*[a * mean[i] for i, a in label])
        self.field = centre + sp.sqrt(self.variance) * u
        scaled = f.xreplace({FIELD: self.field})
        self.scaled = scaled
        self.polynomial = scaled.is_polynomial(u)
        self.known, self.size = remembered(scaled), remembered(scaled**2)
        # The highest first: an order for which precision runs out is refused at once.
        highest = [self.known[(n,)] for n in range(order + NEXT_TERMS, -1, -1)]
        self.coefficients = highest[::-1]

    def remainder(self) -> sp.Expr:
        """Upper limit of tau = E f^2 - sum c_n^2 / n!, rounding included."""
        return self.beyond(self.size[(0,)], [sp.S.One] * len(self.coefficients))

    def beyond(self, total: Coefficient, weights: Sequence[sp.Expr]) -> sp.Expr:
        """Upper limit of a total less sum_n weights_n c_n^2 / n!, rounding included."""
        parts = [total, *self.coefficients]
        left = total.value - sp.Add(
            *[
                w * c.value**2 / factorial(n)
                for n, (w, c) in enumerate(zip(weights, self.coefficients, strict=True))
            ]
        )
        if not left.is_number:
            return sp.simplify(left) if self.polynomial else left
        value = sp.N(left, DIGITS)
        if all(c.exact for c in parts):
            return sp.S.Zero if abs(value) < NOTHING else value
        noise = total.error + sum(
            float(w) * _noise(c, n)
            for n, (w, c) in enumerate(zip(weights, self.coefficients, strict=True))
        )
        return sp.Max(0, value) + sp.Float(noise, DIGITS)


def _noise(c: Coefficient, n: int) -> float:
    """Uncertainty of c_n^2 / n!."""
    size = abs(float(c.value))
    return 2 * (size + c.error) * (c.error + ROUNDING * size) / factorial(n)


def correlation(one: Side, two: Side, cov: sp.MatrixBase) -> sp.Expr:
    """Correlation of two fields; numbers beyond one by rounding are one."""
    if one.variance == 0 or two.variance == 0:
        return sp.S.Zero
    rho = covariance(cov, one.label, two.label) / sp.sqrt(one.variance * two.variance)
    # `check_covariance` has passed: what lies beyond is the rounding of the entries.
    return sp.sign(rho) if rho.is_number and bool(sp.Abs(rho) > 1) else rho


def rounding(one: Side, two: Side) -> float:
    """Error of the partial sum at |rho| <= 1 from that of numerical coefficients."""
    total = 0.0
    for n, (a, b) in enumerate(zip(one.coefficients, two.coefficients, strict=True)):
        first, second = abs(float(a.value)), abs(float(b.value))
        error = first * b.error + second * a.error + a.error * b.error + ROUNDING * first * second
        total += error / factorial(n)
    return total


def covariance(cov: sp.MatrixBase, x: Label, y: Label) -> sp.Expr:
    """Covariance of two derived fields."""
    return sp.Add(*[a * b * cov[i, j] for i, a in x for j, b in y])


# Digits of results.
KEPT = 18
# A bound is printed with few digits, and never rounded below what it was.
BOUND_DIGITS = 8
ROUND_UP = 1e-7
# Correlations beyond this are tried from the edge too.
CLOSE = 0.4


@dataclass(frozen=True)
class GaussianSeries(InLatex):
    """Truncated series of an expectation, with an error bound.

    Attributes
    ----------
    expr : sympy.Expr
        Partial sum; a number if all covariances are numbers.
    bound : sympy.Expr
        Bound of the error of `expr`; a function of the correlation if it is symbolic.
    order : int
    exact : bool
        Whether the coefficients are closed forms. The sum is truncated unless the bound is zero.
    edge : bool
        Whether the remainder is estimated from the values at correlation 1 and -1, so that the
        bound vanishes there.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, y = sp.symbols("x y", real=True)
    >>> law = dmft.Gaussian([x, y], [[1, 0.5], [0.5, 1]])
    >>> series = law.series(sp.sign(x) * sp.sign(y), 9)
    >>> abs(float(series) - 1/3) < float(series.bound) < 1e-4
    True
    """

    expr: sp.Expr
    bound: sp.Expr
    order: int
    exact: bool
    edge: bool = False

    def __float__(self) -> float:
        return float(self.expr)

    def latex(self) -> str:
        """Return the partial sum and the bound as LaTeX, no bound if the series is finite."""
        text = _latex(self.expr, 6)
        if self.bound == 0:
            return text
        bound = _latex(self.bound, 2)
        return rf"{text} \pm " + (rf"\left[{bound}\right]" if self.bound.is_Add else bound)


class _Printer(LatexPrinter):
    """Absolute values that can be broken into lines."""

    def _print_Abs(self, expr: sp.Abs, exp: str | None = None) -> str:
        text = rf"\left|{self._print(expr.args[0])}\right|"
        return f"{text}^{{{exp}}}" if exp else text


def _latex(expr: sp.Expr, digits: int) -> str:
    """LaTeX of a polynomial, lowest order first, its decimals rounded."""
    short = expr.xreplace({f: sp.Float(f, digits) for f in expr.atoms(sp.Float)})
    return str(_Printer({"order": "rev-lex"}).doprint(short))


def series_expectation(
    expr: sp.Expr,
    fields: Sequence[sp.Symbol],
    cov: sp.MatrixBase,
    mean: Sequence[sp.Expr],
    order: int,
    edge: bool | None = None,
) -> GaussianSeries:
    """Series of E[f(x) g(y)], or of sums of such products, in the correlation of x and y.

    Equation    E[f g] = sum_{n <= N} rho^n c_n d_n / n! + R, c_n = E[f(m + sqrt(C) u) He_n(u)];
                |R| <= |sum_{N < n <= N+J} rho^n c_n d_n / n!| + |rho|^{N+J+1} sqrt(tau_f tau_g),
                tau_f = E f^2 - sum_{n <= N+J} c_n^2 / n!, J = 8; the form at the edge is in `edge`
    Valid for   square-integrable f, g; |rho| <= 1; truncated, with the bound stated
    Source      theory/one_pass A.7
    """
    degree = sp.sympify(order, strict=True)
    if not (degree.is_Integer and degree >= 0):
        raise BadParameter(f"order must be an integer >= 0, got {order!r}")
    # A coefficient may not be mistaken for the symbol of the factors. Floats are taken at their
    # exact value: remainders are differences of nearly equal numbers.
    hidden = {} if FIELD in fields else {FIELD: sp.Dummy("z", real=True)}
    numerical = any(v.has(sp.Float) for v in (expr, cov, *mean))
    expr, cov = _rational(expr.xreplace(hidden)), cov.applyfunc(_rational)
    mean = [_rational(m) for m in mean]
    total, bound, exact, cornered = [], [], True, False
    for summand in sum_of_products(expr, fields):
        weight, factors, labels = split_product(summand, fields)
        functions: dict[Label, sp.Expr] = {}
        for factor, label in zip(factors, labels, strict=True):
            functions[label] = functions.get(label, sp.S.One) * factor
        if len(functions) > 2:
            raise refuse(summand, "a series takes products of functions of two fields")
        sides = [Side(f, x, cov, mean, int(degree)) for x, f in functions.items()]
        value, rest, at_edge = _pair(sides, cov, int(degree), edge)
        cornered = cornered or at_edge
        total.append(weight * value)
        bound.append(sp.Abs(weight) * rest)
        exact = exact and all(c.exact for side in sides for c in side.coefficients)
    back = {dummy: symbol for symbol, dummy in hidden.items()}
    results = [sp.Add(*parts).xreplace(back) for parts in (total, bound)]
    value, rest = results
    if value.is_number and (numerical or value.has(sp.Float)):
        value = sp.N(value, KEPT)
        rest = rest + sp.Abs(value) * ROUNDING
    if rest.is_number and rest != 0:
        rest = sp.N(rest * (1 + ROUND_UP), BOUND_DIGITS)
    return GaussianSeries(value, rest, int(degree), exact, cornered)


def _rational(value: sp.Expr) -> sp.Expr:
    """The same with floats as the fractions that they are."""
    return value.xreplace({f: sp.Rational(float(f)) for f in value.atoms(sp.Float)})


def _pair(
    sides: Sequence[Side], cov: sp.MatrixBase, order: int, edge: bool | None
) -> tuple[sp.Expr, sp.Expr, bool]:
    """Partial sum, bound and form of the mean of a product of at most two functions."""
    if not sides:
        return sp.S.One, sp.S.Zero, False
    if len(sides) == 1:
        mean = sides[0].coefficients[0]
        return mean.value, sp.Float(mean.error) if mean.error else sp.S.Zero, False
    one, two = sides
    rho = correlation(one, two, cov)
    terms = [
        rho**n * a.value * b.value / factorial(n)
        for n, (a, b) in enumerate(zip(one.coefficients, two.coefficients, strict=True))
    ]
    following = sp.Add(*terms[order + 1 :])
    left = one.remainder() * two.remainder()
    beyond = sp.Abs(rho) ** len(terms) * sp.sqrt(left)
    bound = sp.Abs(following) + beyond
    if any(a.error or b.error for a, b in zip(one.coefficients, two.coefficients, strict=True)):
        bound += sp.Float(rounding(one, two))
    plain = sp.Add(*terms[: order + 1]), bound, False
    if edge is False or bound == 0 or (edge is None and not _is_close(rho)):
        return plain
    try:
        value, smaller = edge_pair(one, two, rho, order)
    except (NotClosed, BadParameter):
        if edge:
            raise
        return plain
    if edge or bool(sp.N(smaller, DIGITS) < sp.N(bound, DIGITS)):
        return value, smaller, True
    return plain


def _is_close(rho: sp.Expr) -> bool:
    """Whether the values at correlation 1 and -1 may help."""
    return bool(rho.is_number) and bool(sp.Abs(rho) > CLOSE)


CORRELATION = sp.Dummy("rho", positive=True)


def edge_pair(one: Side, two: Side, rho: sp.Expr, order: int) -> tuple[sp.Expr, sp.Expr]:
    """Series of E[f g] with the values at both edges, and its bound.

    Equation    sum_{n <= N} rho^n a_n + rho^{N+1} T + rho^{N+2} T', a_n = c_n d_n / n!, where T and
                T' hold what the sum of a_n and of (-1)^n a_n lacks of E[f g] at rho = 1 and -1;
                |R| <= |sum_{N < n <= N+J} a_n (rho^n - rho^{N+1 or N+2})|
                + |rho|^{N+1} sqrt(D_f D_g), D_f = sum_{n > N+J} (1 - |rho|^n) c_n^2 / n!
    Valid for   square-integrable f, g; |rho| <= 1; D -> 0 as |rho| -> 1 where f' is square
                integrable or E[f f] is closed
    Source      theory/one_pass A.7
    """
    known = [
        a.value * b.value / factorial(n)
        for n, (a, b) in enumerate(zip(one.coefficients, two.coefficients, strict=True))
    ]
    upper, lower = _edges(one, two)
    inside = range(order + 1)
    first = {n % 2: n for n in (order + 2, order + 1)}
    lacking = {
        0: (upper.value + lower.value) / 2 - sp.Add(*[known[n] for n in inside if n % 2 == 0]),
        1: (upper.value - lower.value) / 2 - sp.Add(*[known[n] for n in inside if n % 2 == 1]),
    }
    value = sp.Add(
        *[known[n] * rho**n for n in inside], *[t * rho ** first[p] for p, t in lacking.items()]
    )
    following = sp.Add(
        *[known[n] * (rho**n - rho ** first[n % 2]) for n in range(order + 1, len(known))]
    )
    size = sp.Abs(rho)
    left = _beyond(one, size) * _beyond(two, size)
    bound = sp.Abs(following) + size ** (order + 1) * sp.sqrt(left)
    numerical = [*one.coefficients, *two.coefficients, upper, lower]
    if any(c.error for c in numerical):
        bound += sp.Float(2 * rounding(one, two) + upper.error + lower.error)
    return value, bound


def _edges(one: Side, two: Side) -> tuple[Coefficient, Coefficient]:
    """E[f g] for coinciding and for opposite fields."""

    def mean(sign: int) -> Coefficient:
        return remembered(one.scaled * two.scaled.xreplace({NORMAL: sign * NORMAL}))[(0,)]

    upper = mean(1)
    for side in (one, two):
        for _, parity in side.known.flips:
            return upper, Coefficient(parity * upper.value, upper.exact, upper.error)
    return upper, mean(-1)


def _beyond(side: Side, size: sp.Expr) -> sp.Expr:
    """Upper limit of sum (1 - |rho|^n) c_n^2 / n! over n beyond those that are known."""
    limits = [side.remainder()]
    slope = _slope_remainder(side)
    if slope is not None:
        limits.append((1 - size) * slope)
    numbers = bool(size.is_number)
    if slope is None or numbers:
        closed = _kernel_remainder(side, size)
        limits += [] if closed is None else [closed]
    return min((sp.N(v, DIGITS) for v in limits), default=limits[0]) if numbers else limits[-1]


def _slope_remainder(side: Side) -> sp.Expr | None:
    """Sum of n c_n^2 / n! beyond, from E[f'^2]; None where f jumps or is too steep."""
    # 1 - r^n <= n (1 - r): the sum of n c_n^2 / n! over all n is E (df/du)^2.
    slope = derivative(side.function)
    if slope.has(sp.DiracDelta):
        return None
    squared = (side.variance * slope**2).xreplace({FIELD: side.field})
    try:
        total = remembered(squared)[(0,)]
    except (NotClosed, BadParameter):
        return None
    return side.beyond(total, [sp.Integer(n) for n in range(len(side.coefficients))])


def _kernel_remainder(side: Side, size: sp.Expr) -> sp.Expr | None:
    """The sum itself, where E[f(u) f(v)] at correlation |rho| is closed."""
    if size == 1:  # there the closed form of a kink off zero is 0/0
        return sp.S.Zero
    total = side.size[(0,)]
    if not (total.exact and all(c.exact for c in side.coefficients)):
        return None
    kernel = _kernel(side.scaled)
    if kernel is None:
        return None
    # A float, not a fraction of long integers, whose roots SymPy would factorise.
    place = sp.N(size, 2 * DIGITS) if size.is_number else size
    gap = Coefficient(total.value - kernel.xreplace({CORRELATION: place}), True)
    if gap.value.is_finite is False or gap.value is sp.nan:
        return None
    return side.beyond(gap, [1 - size**n for n in range(len(side.coefficients))])


@lru_cache(maxsize=256)
def _kernel(scaled: sp.Expr) -> sp.Expr | None:
    """E[f(u) f(v)] as a function of `CORRELATION`, if it is closed."""
    v = sp.Dummy("v", real=True)
    law = ClosedLaw([NORMAL, v], [[1, CORRELATION], [CORRELATION, 1]])
    try:
        return law.expect(scaled * scaled.xreplace({NORMAL: v}))
    except (NotClosed, BadParameter):
        return None

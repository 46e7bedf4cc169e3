"""Expectations as Hermite series in the correlation, with a bound of what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial

import sympy as sp

from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.closed.linear import Label, split_product, sum_of_products
from dmft.gaussian.nodes.sides import DIGITS, ROUNDING, Side, correlation, rounding
from dmft.gaussian.refusal import refuse
from dmft.model import FIELD

# Digits of results.
KEPT = 18
# A bound is printed with few digits, and never rounded below what it was.
BOUND_DIGITS = 8
ROUND_UP = 1e-7
# Correlations beyond this are tried from the edge too.
CLOSE = 0.4


@dataclass(frozen=True)
class GaussianSeries:
    """E[expr] as a truncated series: the true value is within `bound` of `expr`.

    Attributes
    ----------
    expr : sympy.Expr
        Partial sum; a number when all covariances are numbers.
    bound : sympy.Expr
        Largest possible error of `expr`; a function of the correlation when that is symbolic.
    order : int
    exact : bool
        Whether the coefficients are closed forms (the sum is truncated all the same, unless the
        bound is zero).
    edge : bool
        Whether what lies beyond the order is taken from the values at correlation 1 and -1, so
        that the bound goes to zero there too.

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
        """Partial sum and bound; without a bound where the series ends by itself.

        Returns
        -------
        str

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> x, y, m = sp.symbols("x y m", real=True)
        >>> law = dmft.Gaussian([x, y], [[1, m], [m, 1]])
        >>> law.series(x**2 * y**2, 2).latex()
        '2 m^{2} + 1'
        """
        if self.bound == 0:
            return sp.latex(self.expr)
        return rf"{sp.latex(self.expr)} \pm {sp.latex(self.bound)}"

    def _repr_latex_(self) -> str:
        return rf"$\displaystyle {self.latex()}$"


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
        # Only what is near an edge needs its corners.
        from dmft.gaussian.tables.edge import edge_pair

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

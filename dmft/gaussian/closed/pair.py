"""Angle and root of a pair of Gaussian fields, exact where the pair is degenerate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy as sp

from dmft.errors import InvalidCovariance

# Relative size of C11 C22 - C12^2 that is rounding of float64 products, and of what a covariance
# that passed `check_covariance` may fall below zero.
ROUNDING = 4e-15
NEGATIVE_BAND = 1e-9


class Formula(sp.Function):
    """Function that is kept in one piece, with an elementary form: `formula`."""

    is_real = True

    # The same in elementary functions; each function defines its own.
    formula: Callable[[], sp.Expr]

    def _eval_evalf(self, prec: int) -> sp.Expr:
        # Numbers never stay in this form, so the arguments hold symbols.
        return self.formula()._eval_evalf(prec)

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        text = printer._print(self.formula())
        return str(text) if exp is None else rf"\left({text}\right)^{{{exp}}}"


class _PairFunction(Formula):
    """Function of the covariances (C11, C22, C12) of two fields."""

    nargs = 3


class CorrelationRoot(_PairFunction):
    """sqrt(C11 C22 - C12^2), zero for parallel fields whatever the rounding."""

    is_nonnegative = True

    @classmethod
    def eval(cls, first: sp.Expr, second: sp.Expr, cross: sp.Expr) -> sp.Expr | None:
        """Exact special values and numbers."""
        if cross == 0:
            return sp.sqrt(first) * sp.sqrt(second)
        if first == second and cross in (first, -first):
            return sp.S.Zero
        if first.is_number and second.is_number and cross.is_number:
            gap = _gap(first, second, cross)
            return sp.sqrt(gap) if gap != 0 else sp.S.Zero
        return None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Partial derivative with respect to one covariance."""
        first, second, cross = self.args
        return {1: second / 2, 2: first / 2, 3: -cross}[argindex] / self

    def formula(self) -> sp.Expr:
        """The same in elementary functions."""
        first, second, cross = self.args
        return sp.sqrt(first * second - cross**2)


class _ZeroForParallel(_PairFunction):
    """Function of the root that is 0 for parallel fields; made by the code generator only.

    For use beside factors that vanish faster than the root as two fields become parallel.
    """

    is_nonnegative = True

    @staticmethod
    def of_root(root: sp.Expr, first: sp.Expr, second: sp.Expr, cross: sp.Expr) -> sp.Expr:
        """The function, for fields that are not parallel."""
        raise NotImplementedError

    @classmethod
    def eval(cls, first: sp.Expr, second: sp.Expr, cross: sp.Expr) -> sp.Expr | None:
        """Exact where the root is."""
        root = CorrelationRoot(first, second, cross)
        if isinstance(root, CorrelationRoot):
            return None
        return sp.S.Zero if root == 0 else cls.of_root(root, first, second, cross)

    def formula(self) -> sp.Expr:
        """The same in elementary functions, for fields that are not parallel."""
        return self.of_root(CorrelationRoot(*self.args).formula(), *self.args)


class InverseCorrelationRoot(_ZeroForParallel):
    """1 / sqrt(C11 C22 - C12^2), and 0 for parallel fields."""

    @staticmethod
    def of_root(root: sp.Expr, first: sp.Expr, second: sp.Expr, cross: sp.Expr) -> sp.Expr:
        """Its inverse."""
        return 1 / root


class HalfTangent(_ZeroForParallel):
    """Tangent of half the angle of a pair, sqrt(C11 C22 - C12^2) / (sqrt(C11 C22) + C12).

    0 for antiparallel fields too.
    """

    @staticmethod
    def of_root(root: sp.Expr, first: sp.Expr, second: sp.Expr, cross: sp.Expr) -> sp.Expr:
        """Its share of the sum of both products."""
        return root / (sp.sqrt(first) * sp.sqrt(second) + cross)


class CorrelationAngle(_PairFunction):
    """asin(C12 / sqrt(C11 C22)), +-pi/2 for parallel fields, 0 for a field without variance."""

    @classmethod
    def eval(cls, first: sp.Expr, second: sp.Expr, cross: sp.Expr) -> sp.Expr | None:
        """Exact special values and numbers."""
        if cross == 0:
            return sp.S.Zero
        if first == second and cross in (first, -first):
            return sp.pi / 2 if cross == first else -sp.pi / 2
        if first.is_number and second.is_number and cross.is_number:
            if _gap(first, second, cross) == 0:
                return sp.sign(cross) * sp.pi / 2
            return sp.asin(cross / sp.sqrt(first * second))
        return None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Partial derivative with respect to one covariance."""
        root, cross = CorrelationRoot(*self.args), self.args[2]
        if argindex == 3:
            return 1 / root
        return -cross / (2 * self.args[argindex - 1] * root)

    def formula(self) -> sp.Expr:
        """The same in elementary functions."""
        first, second, cross = self.args
        return sp.asin(cross / (sp.sqrt(first) * sp.sqrt(second)), evaluate=False)


class Correlation(_PairFunction):
    """C12 / sqrt(C11 C22), exactly +-1 for equal floats; 1 - 2^-53 would be an angle of 1e-8."""

    @classmethod
    def eval(cls, first: sp.Expr, second: sp.Expr, cross: sp.Expr) -> sp.Expr | None:
        """Exact values of numbers."""
        if first == second and cross in (first, -first):
            return cross / first
        numbers = first.is_number and second.is_number and cross.is_number
        return cross / sp.sqrt(first * second) if numbers else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Partial derivative with respect to one covariance."""
        first, second, cross = self.args
        if argindex == 3:
            return 1 / (sp.sqrt(first) * sp.sqrt(second))
        return -cross / (2 * self.args[argindex - 1] * sp.sqrt(first) * sp.sqrt(second))

    def formula(self) -> sp.Expr:
        """The same in elementary functions."""
        first, second, cross = self.args
        return cross / (sp.sqrt(first) * sp.sqrt(second))


class RootRatio(Formula):
    """Y / (C11 C22 - C12^2)^(n/2) of the arguments (y, C11, C22, C12, n), and 0 for 0/0.

    The distance of a kink from the mean of a field whose conditional variance is that of the pair:
    0/0 for two fields that coincide and share their kink; made for code that meets them.
    """

    nargs = 5

    @classmethod
    def eval(cls, y: sp.Expr, *pair: sp.Expr) -> sp.Expr | None:
        """Exact values of numbers."""
        if y == 0 or not all(a.is_number for a in (y, *pair)):
            return sp.S.Zero if y == 0 else None
        return y / CorrelationRoot(*pair[:3]) ** pair[3]

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Partial derivative; `n` is a number."""
        y, *pair, power = self.args
        root = CorrelationRoot(*pair)
        if argindex == 1:
            return root**-power
        return -power * y * root ** (-power - 1) * root.fdiff(argindex - 1)

    def formula(self) -> sp.Expr:
        """The same in elementary functions."""
        y, *pair, power = self.args
        return y / CorrelationRoot(*pair).formula() ** power


class CovarianceGiven(Formula):
    """Cov(x, v | u) = C_xv - C_xu C_uv / C_uu of the arguments (C_xv, C_xu, C_uu, C_uv).

    Of nearly parallel u and v it is a difference, which code takes without rounding.
    """

    nargs = 4

    @classmethod
    def eval(cls, *args: sp.Expr) -> sp.Expr | None:
        """Exact where u is x or independent of it, and for numbers."""
        second, one, variance, two = args
        if one == 0 or two == 0:
            return second
        if (second, one) == (two, variance):
            return sp.S.Zero
        return second - one * two / variance if all(a.is_number for a in args) else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Partial derivative with respect to one covariance."""
        _, one, variance, two = self.args
        slopes = {1: sp.S.One, 2: -two / variance, 3: one * two / variance**2, 4: -one / variance}
        return slopes[argindex]

    def formula(self) -> sp.Expr:
        """The same in elementary functions."""
        second, one, variance, two = self.args
        return second - one * two / variance

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        text = rf"\left({printer._print(self.formula())}\right)"
        return text if exp is None else rf"{text}^{{{exp}}}"


def with_root_ratios(expr: sp.Expr) -> sp.Expr:
    """Replace y / root^n of a pair in error functions, exponentials, arcsines by `RootRatio`."""
    return expr.replace(
        lambda e: isinstance(e, (sp.erf, sp.exp, sp.asin)),
        lambda e: e.func(e.args[0].replace(_over_root, _as_ratio)),
    )


def finite_for_parallel(expr: sp.Expr) -> sp.Expr:
    """Divide by the root of a pair where its square, b - c^2/a, divides the root.

    Both are 0 for fields that coincide, and what they divide vanishes like their square.
    """
    table: dict[sp.Expr, sp.Expr] = {}
    for root in expr.atoms(CorrelationRoot):
        first, second, cross = root.args
        for one, other in ((first, second), (second, first)):
            left = 1 / (other - cross**2 / one)
            if expr.has(left):
                inverse = InverseCorrelationRoot(*root.args)
                table |= {left: one * inverse**2, 1 / root: inverse}
    return expr.xreplace(table) if table else expr


def with_inverse_roots(expr: sp.Expr) -> sp.Expr:
    """Divide by roots of pairs only where the fields differ.

    For averages of a Dirac delta of one field and the sign of another, whose kinks are both at
    zero: where these are the same field the average is 0, as sign(0) is.
    """
    return expr.replace(is_inverse_root, lambda e: InverseCorrelationRoot(*e.base.args) ** -e.exp)


def with_conditional_covariances(expr: sp.Expr) -> sp.Expr:
    """Keep entries C_xv - C_xu C_uv / C_uu in one piece: exactly 0 where x or v is u."""
    return expr.replace(lambda e: e.is_Add and len(e.args) == 2, _as_covariance_given)


def _as_covariance_given(rest: sp.Expr) -> sp.Expr:
    for second, product in (rest.args, rest.args[::-1]):
        numerator, variance = sp.fraction(-product)
        powers = numerator.as_powers_dict()
        if not all(n.is_Integer for n in powers.values()):  # an exponential is a power, too
            continue
        pair = [base for base, n in powers.items() for _ in range(int(n))]
        if len(pair) == 2 and all(e.is_Indexed for e in (second, variance, *pair)):
            return CovarianceGiven(second, pair[0], variance, pair[1])
    return rest


def as_correlation(rho: sp.Expr) -> sp.Expr:
    """Keep a correlation C12 / (sqrt(C11) sqrt(C22)) in one piece: 1 for fields that coincide."""
    roots = [f for f in sp.Mul.make_args(rho) if f.is_Pow and f.exp == -sp.Rational(1, 2)]
    if len(roots) != 2:
        return rho
    (first, second), rest = (f.base for f in roots), rho / sp.Mul(*roots)
    return Correlation(first, second, rest)


def _over_root(expr: sp.Expr) -> bool:
    return expr.is_Mul and any(is_inverse_root(a) for a in expr.args)


def _as_ratio(product: sp.Expr) -> sp.Expr:
    root = next(a for a in product.args if is_inverse_root(a))
    return RootRatio(product / root, *root.base.args, -root.exp)


def is_inverse_root(expr: sp.Expr) -> bool:
    """Whether an expression is 1 / root^n of a pair."""
    return bool(expr.is_Pow and isinstance(expr.base, CorrelationRoot) and expr.exp.is_negative)


def _gap(first: sp.Expr, second: sp.Expr, cross: sp.Expr) -> sp.Expr:
    """Determinant of a numeric pair; rounding of floats is zero."""
    gap = first * second - cross**2
    scale = first * second
    if not gap.has(sp.Float):
        gap = sp.nsimplify(gap) if gap.is_Rational else sp.simplify(gap)
    if gap.has(sp.Float) and -NEGATIVE_BAND * scale <= gap <= ROUNDING * scale:
        return sp.S.Zero
    if gap.is_negative:
        raise InvalidCovariance(
            f"two fields with variances {first} and {second} cannot have covariance {cross}"
        )
    return gap


def elementary(expr: sp.Expr) -> sp.Expr:
    """Write angles and roots of pairs in elementary functions."""
    while any(hasattr(e, "formula") for e in expr.atoms(sp.Function)):
        expr = expr.replace(lambda e: hasattr(e, "formula"), lambda e: e.formula())
    return expr

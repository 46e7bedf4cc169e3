"""Averages of factors with exponential branches as symbols that keep every branch whole.

`BranchField`, `BranchPair` and `BranchGiven` stand in an expression like a closed form does.
Written out, they are exponentials exp(q/2) times error functions, which overflow at large variances
and cancel at small ones; in one piece they have all digits in compiled code and the NumPy reference
(`dmft.special.branches`) and in `evalf`.
"""

from __future__ import annotations

from typing import Any

import mpmath
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import NotClosed
from dmft.gaussian.branch_formula import field_formula
from dmft.gaussian.branch_values import as_float, field_value, pair_value
from dmft.gaussian.branches import branch_vector, branches
from dmft.gaussian.product import product_expectation
from dmft.gaussian.switch import derivative
from dmft.gaussian.tabled import FieldTable, PairTable, TableAverage

# Rounding of compiled code, relative to sqrt(E F^2 E G^2).
ROUNDING = 1e-14


class BranchAverage(TableAverage):
    """Average by one rule for all variances: no table, no domain."""

    # Of compiled code, relative to sqrt(E F^2 E G^2), for every covariance.
    rounding = ROUNDING

    @property
    def error(self) -> float:
        """Nothing beside rounding, as for closed forms."""
        return 0.0

    @property
    def vectors(self) -> list[NDArray[Any]]:
        """Factors as compiled code reads them."""
        return [branch_vector(f) for f in self.factors]

    @property
    def squares(self) -> list[tuple[NDArray[Any], tuple[int | None, ...]]]:
        """E F^2 of each factor: its vector, and which numbers are its arguments (None is 0)."""
        squared = [branch_vector(sp.expand(f**2)) for f in self.factors]
        if len(squared) == 1:
            return [(squared[0], tuple(range(len(self.numbers))))]
        return [(squared[0], (None, 0)), (squared[1], (None, 2))]

    @property
    def is_number(self) -> bool:
        """Whether its covariances are numbers."""
        return all(a.is_number for a in self.numbers)

    def written_out(self) -> sp.Expr:
        """The same in exponentials and error functions: exact, but not for numbers of 16 digits."""
        raise NotImplementedError

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
        name = printer._module_format("dmft.special.branches.branch_on_arrays")
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
            return as_float(self._exact(numbers), prec)


class BranchField(BranchAverage):
    """E F(mean + sqrt(variance) z); arguments F, mean, variance.

    Examples
    --------
    >>> import sympy as sp
    >>> from dmft.model import FIELD as z
    >>> elu = sp.Piecewise((sp.exp(z) - 1, z < 0), (z, True))
    >>> BranchField(elu, sp.Integer(0), sp.Integer(2000)).evalf(8)
    17.350157
    """

    factors_count = 1
    _bracket = FieldTable._latex

    def _exact(self, numbers: list[Any]) -> Any:
        read = branches(self.args[0])
        assert read is not None
        return field_value(read, *numbers) if numbers[1] >= 0 else mpmath.nan

    def written_out(self) -> sp.Expr:
        """The same with the scaled complementary error function `erfcx`."""
        factor, mean, variance = self.args
        read = branches(factor)
        assert read is not None
        if read.closed:
            return field_formula(read, mean, variance)
        return product_expectation([factor], ["u"], lambda *_: variance, lambda _: mean)

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        factor, mean, variance = self.args
        # The averages of derivatives are written with these classes.
        from dmft.gaussian.branch_average import field_of_any

        slope, bend = (field_of_any(derivative(factor, n), mean, variance) for n in (1, 2))
        return slope * mean.diff(symbol) + bend * variance.diff(symbol) / 2


class BranchGiven(BranchAverage):
    """E[F(v) | u = t] of two centred fields; arguments F, C_uu, C_uv, C_vv, t.

    The conditional variance of nearly parallel fields is a difference, taken without rounding.

    Examples
    --------
    >>> import sympy as sp
    >>> from dmft.model import FIELD as z
    >>> step = sp.Piecewise((0, z < 0), (sp.exp(-z), True))
    >>> BranchGiven(step, sp.Integer(1), sp.S.Half, sp.Integer(1), sp.S.Zero).evalf(8)
    0.28115980
    """

    factors_count = 1

    def _bracket(self, printer: Any) -> str:
        return str(self._plain()._bracket(printer))

    def _plain(self) -> BranchField:
        """The same with the conditional mean and variance."""
        factor, uu, uv, vv, t = self.args
        return BranchField(factor, t * uv / uu, vv - uv**2 / uu)

    def _exact(self, numbers: list[Any]) -> Any:
        read = branches(self.args[0])
        assert read is not None
        uu, uv, vv, t = numbers
        rest = vv - uv**2 / uu
        if -(mpmath.mpf(10) ** -9) * vv <= rest < 0:
            rest = mpmath.mpf(0)
        return field_value(read, t * uv / uu, rest) if rest >= 0 else mpmath.nan

    def written_out(self) -> sp.Expr:
        """The same with the scaled complementary error function `erfcx`."""
        return self._plain().written_out()

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        return self._plain()._eval_derivative(symbol)


class BranchPair(BranchAverage):
    """E F(u) G(v) of two centred fields; arguments F, G, C_uu, C_uv, C_vv; G of closed averages.

    Examples
    --------
    >>> import sympy as sp
    >>> from dmft.model import FIELD as z
    >>> C, elu = sp.Symbol("C"), sp.Piecewise((sp.exp(z) - 1, z < 0), (z, True))
    >>> average = BranchPair(elu, elu, sp.Integer(600), C, sp.Integer(600))
    >>> average.subs(C, 600).evalf(8)
    300.47562
    """

    factors_count = 2
    _bracket = PairTable._latex

    def _exact(self, numbers: list[Any]) -> Any:
        first, second = (branches(f) for f in self.factors)
        assert first is not None
        assert second is not None
        return pair_value(first, second, *numbers)

    def written_out(self) -> sp.Expr:
        """The same in exponentials, error functions and averages of two signs."""
        return product_expectation(self.factors, ["u", "v"], self._covariance)

    def _covariance(self, x: str, y: str) -> sp.Expr:
        first, cross, second = self.numbers
        return cross if x != y else first if x == "u" else second

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        from dmft.gaussian.branch_average import average_of_any

        f, g = self.factors
        first, cross, second = (a.diff(symbol) for a in self.numbers)
        # Price's identity; Dirac factors of the derivatives are conditioned upon.
        changes = (
            (first / 2, derivative(f, 2), g),
            (cross, derivative(f), derivative(g)),
            (second / 2, f, derivative(g, 2)),
        )
        return sp.Add(
            *(
                change * average_of_any([a, b], ["u", "v"], self._covariance)
                for change, a, b in changes
                if change != 0
            )
        )

"""Averages of factors with exponential branches as symbols that keep every branch whole.

`BranchField`, `BranchPair` and `BranchGiven` stand in an expression like a closed form does.
Written out, they are exponentials exp(q/2) times error functions, which overflow at large variances
and cancel at small ones; in one piece they have all digits in compiled code and the NumPy reference
(`dmft.special.branches`) and in `evalf`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath
import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import NotClosed
from dmft.gaussian.branches.factors import branch_key, branch_vector, branches
from dmft.gaussian.branches.formula import field_formula
from dmft.gaussian.branches.values import as_float, field_value, pair_value
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.derivative import derivative
from dmft.gaussian.tables.tabled import FieldTable, PairTable, TableAverage

# Rounding of compiled code, relative to sqrt(E F^2 E G^2).
ROUNDING = 1e-14


class BranchAverage(TableAverage):
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
        return [branch_vector(f) for f in self.read]

    @property
    def code(self) -> str:
        """Name of the function in generated code and the keys of what it reads."""
        return " ".join([type(self).__name__, *map(branch_key, self.read)])

    def on_arrays(self, *numbers: Any) -> Any:
        """Value at arrays of numbers, by the same rule."""
        from dmft.gaussian.branches.arrays import branch_on_arrays

        return branch_on_arrays(self.vectors, numbers)

    def norm(self, *numbers: Any) -> Any:
        """Sqrt(E F^2 E G^2) at arrays of numbers, of which compiled code has 14 digits.

        Of a field that another one determines, E F^2 may be below nothing by rounding.
        """
        if len(self.factors) == 1:
            return root_mean_square(self.factors[0], *numbers)
        first, _, second = numbers
        one, two = self.factors
        return root_mean_square(one, 0.0, first) * root_mean_square(two, 0.0, second)

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
        name = printer._module_format("dmft.gaussian.branches.arrays.branch_on_arrays")
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


def root_mean_square(factor: sp.Expr, *numbers: Any) -> Any:
    """Root of E F^2 at arrays of numbers, those of `BranchField` or `BranchGiven`."""
    from dmft.gaussian.branches.arrays import branch_on_arrays

    square = branch_on_arrays([branch_vector(sp.expand(factor**2))], numbers)
    return np.sqrt(np.abs(square))


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
        from dmft.gaussian.branches.average import field_of_any

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


class BranchesOfTwo(BranchAverage):
    """Average over two centred fields; arguments F, G, C_uu, C_uv, C_vv."""

    factors_count = 2
    _bracket = PairTable._latex

    def covariance(self, x: str, y: str) -> sp.Expr:
        """Entry of two fields named u and v."""
        first, cross, second = self.numbers
        return cross if x != y else first if x == "u" else second

    def price(self, f: sp.Expr, g: sp.Expr, symbol: sp.Symbol) -> sp.Expr:
        """Price's identity; Dirac factors of the derivatives are conditioned upon."""
        from dmft.gaussian.branches.average import average_of_any

        first, cross, second = (a.diff(symbol) for a in self.numbers)
        changes = (
            (first / 2, derivative(f, 2), g),
            (cross, derivative(f), derivative(g)),
            (second / 2, f, derivative(g, 2)),
        )
        return sp.Add(
            *(
                change * average_of_any([a, b], ["u", "v"], self.covariance)
                for change, a, b in changes
                if change != 0
            )
        )


class BranchPair(BranchesOfTwo):
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

    def _exact(self, numbers: list[Any]) -> Any:
        first, second = (branches(f) for f in self.factors)
        assert first is not None
        assert second is not None
        return pair_value(first, second, *numbers)

    def written_out(self) -> sp.Expr:
        """The same in exponentials, error functions and averages of two signs."""
        return product_expectation(self.factors, ["u", "v"], self.covariance)

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        f, g = self.factors
        return self.price(f, g, symbol)

"""Averages of factors with exponential branches as symbols that keep every branch whole.

They stand in an expression like a closed form does. Written out, they are exponentials exp(q/2)
times error functions, which overflow at large variances and cancel at small ones; in one piece they
have all digits in compiled code and the NumPy reference (`dmft.special.branches`) and in `evalf`.
Which there are, and how they differentiate, is in `dmft.gaussian.branches.family`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import NotClosed
from dmft.gaussian.branches.factors import branch_key, branch_vector
from dmft.gaussian.branches.values import as_float, branch_on_arrays, root_mean_square
from dmft.gaussian.tables.tabled import TableAverage

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
        name = printer._module_format("dmft.gaussian.branches.values.branch_on_arrays")
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

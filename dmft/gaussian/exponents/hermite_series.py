"""Hermite expansions of activations and of multi-index targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import overload

import sympy as sp

from dmft.errors import BadParameter
from dmft.gaussian.closed.wick import hermite
from dmft.gaussian.exponents.coefficients import (
    Coefficient,
    Coefficients,
    Index,
    as_expression,
    as_fields,
    factorials,
    indices,
)
from dmft.record import InLatex
from dmft.summary import cut
from dmft.validation import checked, shown

# He_n of higher orders has coefficients beyond 1e300.
MOST_ORDERS = 200


@dataclass(frozen=True)
class HermiteSeries(InLatex, Sequence[sp.Expr]):
    r"""Hermite coefficients E[f He_n] of a function, for n = 0..order.

    The expansion is f = sum_n E[f He_n] He_n / n!. The record is a sequence of length order + 1.
    For one field, entry n is the number E[f He_n]. For several fields, entry k is the symmetric
    tensor E[f H_k] of rank k (a scalar, a vector, a matrix, ...), and `series[n_1, n_2, ...]` is
    the coefficient of one multi-index.

    Attributes
    ----------
    f, fields, order
        The expanded function and the order.
    by_index : dict
        `Coefficient` (value, exact, error) of each multi-index.
    exact : bool
        Whether all coefficients have closed forms. Otherwise some are floats with an error.
    error : float
        Largest error of a coefficient; 0 if all are exact.

    Examples
    --------
    >>> import sympy as sp
    >>> from dmft.gaussian.exponents.hermite_series import hermite_expansion
    >>> x, y = sp.symbols("x y", real=True)
    >>> hermite_expansion(x + x * y**2, [x, y], 3)[1, 2]
    2
    """

    f: sp.Expr
    fields: tuple[sp.Symbol, ...]
    order: int
    by_index: dict[Index, Coefficient]

    def __len__(self) -> int:
        return self.order + 1

    @overload
    def __getitem__(self, n: int | Index) -> sp.Expr: ...
    @overload
    def __getitem__(self, n: slice) -> list[sp.Expr]: ...
    def __getitem__(self, n: int | slice | Index) -> sp.Expr | list[sp.Expr]:
        if isinstance(n, slice):
            return [self[m] for m in range(*n.indices(len(self)))]
        if isinstance(n, tuple):
            if n not in self.by_index:
                raise IndexError(
                    f"{n} is not a multi-index of {len(self.fields)} fields up to order "
                    f"{self.order}"
                )
            return self.by_index[n].value
        if not -len(self) <= n < len(self):
            raise IndexError(f"order {n} is beyond the order {self.order} of the expansion")
        n %= len(self)
        return self.by_index[(n,)].value if len(self.fields) == 1 else self._tensor(n)

    def __iter__(self) -> Iterator[sp.Expr]:
        return (self[n] for n in range(len(self)))

    def _tensor(self, rank: int) -> sp.Expr:
        width = len(self.fields)
        entries = []
        for slots in product(range(width), repeat=rank):
            count = Counter(slots)
            entries.append(self.by_index[tuple(count[i] for i in range(width))].value)
        return entries[0] if rank == 0 else sp.ImmutableDenseNDimArray(entries, (width,) * rank)

    @property
    def exact(self) -> bool:
        """Whether every coefficient has a closed form."""
        return all(c.exact for c in self.by_index.values())

    @property
    def error(self) -> float:
        """Largest error of a coefficient; 0 if all are exact."""
        return max(c.error for c in self.by_index.values())

    @property
    def expr(self) -> sp.Expr:
        """Partial sum as a polynomial in the fields."""
        return sp.expand(
            sp.Add(
                *[
                    self._weight(n) * sp.Mul(*map(hermite, n, self.fields))
                    for n in self.by_index
                    if self.by_index[n].value != 0
                ]
            )
        )

    def _weight(self, n: Index) -> sp.Expr:
        return self.by_index[n].value / sp.Integer(factorials(n))

    def latex(self) -> str:
        """Return the sum in Hermite polynomials as LaTeX; an approximation sign if it is not f."""
        parts = []
        for n in self.by_index:
            weight = self._weight(n)
            if weight == 0:
                continue
            number = sp.latex(weight if self.by_index[n].exact else sp.N(weight, 6))
            names = zip(n, self.fields, strict=True)
            factors = [rf"\mathrm{{He}}_{{{m}}}({sp.latex(x)})" for m, x in names if m]
            if weight.is_Add and factors:
                number = rf"\left({number}\right)"
            kept = [] if factors and number == "1" else ["-" if number == "-1" else number]
            parts.append(r"\,".join([*kept, *factors]) if factors else number)
        polynomial = self.f.is_polynomial(*self.fields)
        complete = polynomial and sp.Poly(self.f, *self.fields).total_degree() <= self.order
        sign = "=" if complete and self.exact else r"\approx"
        total = " + ".join(parts).replace("+ -", "- ") or "0"
        return rf"{sp.latex(self.f)} {sign} {total}"

    def __repr__(self) -> str:
        kind = "exact" if self.exact else f"numerical to {self.error:.0e}"
        return cut(f"HermiteSeries({self.f}, order {self.order}, {kind}: {list(self)})")


@checked
def hermite_expansion(f: sp.Expr, x: sp.Symbol | Sequence[sp.Symbol], order: int) -> HermiteSeries:
    r"""Compute the Hermite coefficients of an activation or of a multi-index target.

    Equation    c_n = E[f(x) He_{n_1}(x_1) He_{n_2}(x_2) ...], x ~ N(0, I);
                f = sum_n c_n He_n / n!
    Shapes      x one symbol or k symbols; entry n of the result is a number, or with k symbols a
                tensor of rank n and shape (k, ..., k)
    Valid for   square-integrable f. Exact where `Gaussian.expect` is closed or a sign flip decides;
                otherwise quadrature split at the kinks: one field to 1e-15, several with the
                error stated
    Source      theory/one_pass A.7

    Parameters
    ----------
    f : sympy.Expr
        Function of the fields.
    x : sympy.Symbol or sequence of them
        The fields, standard normal.
    order : int
        Highest degree |n|.

    Returns
    -------
    HermiteSeries
        Coefficients, indexed by degrees. For one field ``list(...)`` returns all of them.

    Raises
    ------
    BadParameter
        If f is not integrable, or if the required precision is not reached.
    NotClosed
        If there is no closed form, and f contains symbols other than the fields.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> list(dmft.hermite_expansion(z**3, z, 3))
    [0, 3, 0, 6]
    >>> dmft.hermite_expansion(sp.tanh(z), z, 3).exact
    False
    """
    fields = as_fields(x)
    expr = as_expression(f, fields)
    degree = sp.sympify(order, strict=True)
    if not (degree.is_Integer and 0 <= degree <= MOST_ORDERS):
        raise BadParameter(f"order must be an integer from 0 to {MOST_ORDERS}, got {shown(order)}")
    coefficients = Coefficients(expr, fields)
    orders = range(int(degree) + 1)
    # The highest first: an order for which precision runs out is refused at once.
    found = {n: coefficients[n] for k in reversed(orders) for n in indices(len(fields), k)}
    table = {n: found[n] for k in orders for n in indices(len(fields), k)}
    return HermiteSeries(expr, fields, int(degree), table)

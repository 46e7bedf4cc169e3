"""Kernels: Gaussian expectations of local fields, kept unevaluated inside the equations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp

from dmft.equations.symbols import covariance
from dmft.errors import NotClosed
from dmft.gaussian.branches.average import branch_expectation
from dmft.gaussian.closed.bivariate import TwoSigns
from dmft.gaussian.closed.pair import RootRatio, as_correlation, is_inverse_root, with_root_ratios
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.refusal import refuse
from dmft.gaussian.tables.tabled import table_averages, tabled_expectation
from dmft.model import FIELD

# Functions of covariances that the NumPy reference and generated code both have, by name; what
# holds another one (erfi, sin ...) is averaged by tables or on nodes, closed on paper or not.
CODED = frozenset(
    {"exp", "erf", "asin", "tanh", "BivariateNormalCDF", "TwoSigns", "Correlation", "RootRatio"}
    | {"CorrelationRoot", "CorrelationAngle", "FourSigns", "FourSignsMoment"}
    | {"SignsMoment", "PairOfSignsMoment"}
)


class Kernel(sp.Expr):
    """E[factor_1(field_1) factor_2(field_2) ...] under the law of the local fields.

    `args` are a Tuple of factors (expressions in the canonical field symbol z) and a Tuple of
    fields (``h[j]``, ``h_star[r]`` or ``lambda[m]``). Fields of equal factors are sorted, so
    that the permutation symmetry of the expectation is equality of expressions.

    Examples
    --------
    >>> from dmft.equations.averages.kernels import kernel
    >>> from dmft.equations.symbols import h, j, l
    >>> from dmft.model import FIELD
    >>> kernel([FIELD**2, FIELD**2], [h[j], h[l]]) == kernel([FIELD**2, FIELD**2], [h[l], h[j]])
    True
    """

    is_commutative = True
    is_real = True

    def __new__(cls, factors: sp.Tuple, fields: sp.Tuple) -> Kernel:
        """Make the node; `kernel` is the constructor that sorts."""
        return sp.Expr.__new__(cls, factors, fields)

    @property
    def factors(self) -> tuple[sp.Expr, ...]:
        """Factors, expressions in z."""
        return tuple(self.args[0])

    @property
    def fields(self) -> tuple[sp.Indexed, ...]:
        """Fields, one for each factor."""
        return tuple(self.args[1])

    def closed(self, cov: Callable[[Any, Any], sp.Expr] = covariance) -> sp.Expr:
        """Closed form in the entries that `cov` gives to pairs of fields.

        Where there is none, one and two fields are averaged by tables
        (`dmft.gaussian.tables.tabled`).

        Raises
        ------
        NotClosed
            When neither the calculus nor a table holds it.
        """
        branched = branch_expectation(self.factors, self.fields, cov)
        if branched is not None:
            return branched
        few = len(set(self.fields)) <= 2
        try:
            value = product_expectation(self.factors, self.fields, cov, whole=True)
        except NotClosed:
            if not few:
                raise
            return tabled_expectation(self.factors, self.fields, cov)
        # Units with one kink away from zero are 0/0 where their indices are equal.
        value = with_root_ratios(value).replace(
            TwoSigns, lambda u, v, rho: TwoSigns(u, v, as_correlation(rho))
        )
        singular = _is_singular(value)
        if singular and not few:
            raise refuse(self._product(), "its closed form is 0/0 where two of its fields coincide")
        missing = without_code(value)
        if missing and not few:
            names = ", ".join(missing)
            raise refuse(self._product(), f"its closed form holds {names}, which has no code")
        tabled = few and (singular or missing)
        return tabled_expectation(self.factors, self.fields, cov) if tabled else value

    def _product(self) -> sp.Expr:
        """The factors at their fields, for messages."""
        pairs = zip(self.factors, self.fields, strict=True)
        return sp.Mul(*(f.xreplace({FIELD: sp.Symbol(str(y))}) for f, y in pairs))

    def _sympystr(self, printer: Any) -> str:
        inside = " ".join(
            f"{printer.doprint(f)}|{printer.doprint(x)}"
            for f, x in zip(self.factors, self.fields, strict=True)
        )
        return f"E[{inside}]"


def without_code(value: sp.Expr) -> list[str]:
    """Names of what a closed form holds of covariances that code does not have.

    Examples
    --------
    >>> import sympy as sp
    >>> C = sp.Indexed("Omega", 1, 1)
    >>> without_code(sp.erfi(C) + sp.exp(C) * sp.cos(2)), without_code(sp.cbrt(C))
    (['erfi'], ['Omega[1, 1]**(1/3)'])
    """
    found = {
        type(f).__name__
        for f in value.atoms(sp.Function)
        if type(f).__name__ not in CODED and f.has(sp.Indexed)
    }
    powers = (e for e in value.atoms(sp.Pow) if e.base.has(sp.Indexed))
    return sorted(found | {str(e) for e in powers if not (2 * e.exp).is_Integer})


def _is_singular(value: sp.Expr) -> bool:
    """Whether a value with kinks away from zero is 0/0 where its fields coincide."""
    return value.has(RootRatio) and any(is_inverse_root(e) for e in value.atoms(sp.Pow))


def kernel(factors: Sequence[sp.Expr], fields: Sequence[sp.Indexed]) -> sp.Expr:
    """Return the kernel of these factors, with factors free of the field in front of it."""
    constant = sp.Mul(*(f for f in factors if not f.has_free(FIELD)))
    pairs = [
        (f, x) for f, x in zip(factors, fields, strict=True) if constant != 0 and f.has_free(FIELD)
    ]
    if not pairs:
        return constant
    order = list(dict.fromkeys(factors))
    pairs.sort(key=lambda pair: (order.index(pair[0]), sp.default_sort_key(pair[1])))
    average = Kernel(sp.Tuple(*(f for f, _ in pairs)), sp.Tuple(*(x for _, x in pairs)))
    return constant * average


def kernel_error(average: Kernel) -> float:
    """Claimed error of the tables in a kernel, relative to sqrt(E F^2 E G^2).

    Zero for closed forms, whose rounding is bounded beside the values
    (`dmft.equations.rounding.bounds`). For averages by tables, which are made now, the sum of what
    the tables of the factors claim, the largest of those in the kernel: below 1e-10. A factor with
    a kink that is so far away that E F^2 is hardly there is wrong by this share of 1e-4 of its
    size within ten deviations instead. Infinite where no table resolves a factor: the NumPy
    reference integrates it, without a claim.

    Examples
    --------
    >>> import sympy as sp
    >>> from dmft.equations.symbols import h, j, l
    >>> kernel_error(kernel([FIELD**2, FIELD**2], [h[j], h[l]]))
    0.0
    >>> 0 < kernel_error(kernel([sp.tanh(FIELD), sp.tanh(FIELD)], [h[j], h[l]])) < 1e-10
    True
    """
    try:
        return max((t.error for t in table_averages(average.closed())), default=0.0)
    except NotClosed:
        return math.inf

"""Averages over all local fields that have no closed form: one node with everything inside.

A kernel is an expectation of at most four factors of one field each. An `Average` holds a whole
integrand, its sums over neurons included, so that integrating it costs one evaluation of each
activation per node instead of one four-field integral per pair of neurons.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.model import FIELD


class At(sp.Expr):
    """Value of a factor (an expression in z) at a local field, kept by name: sigma'(h_j).

    Examples
    --------
    >>> from dmft.equations.symbols import h, j
    >>> At(FIELD**2, h[j]).expr
    h[j]**2
    """

    is_commutative = True
    is_real = True

    def __new__(cls, factor: sp.Expr, field: sp.Expr) -> At:
        """Keep `factor` and `field` as they are."""
        return sp.Expr.__new__(cls, factor, field)

    @property
    def factor(self) -> sp.Expr:
        """The function, an expression in z."""
        return self.args[0]

    @property
    def field(self) -> sp.Expr:
        """Where it is evaluated."""
        return self.args[1]

    @property
    def expr(self) -> sp.Expr:
        """Plain expression in the field."""
        return self.factor.xreplace({FIELD: self.field})

    def _sympystr(self, printer: Any) -> str:
        return f"({printer.doprint(self.expr)})"


class Average(sp.Expr):
    """Expectation of an integrand under the law N(0, Omega) of the local fields.

    The integrand is an expression in `At` nodes, fields ``h[.]``, ``h_star[.]``, ``lambda[.]``,
    coefficients and sums over neurons; its free indices are those of the average.

    Examples
    --------
    >>> from dmft.equations.symbols import h, j, l
    >>> free_indices(Average(At(FIELD**2, h[j]) * h[l]))
    (j, l)
    """

    is_commutative = True
    is_real = True

    def __new__(cls, integrand: sp.Expr) -> Average:
        """Keep the integrand."""
        return sp.Expr.__new__(cls, integrand)

    @property
    def integrand(self) -> sp.Expr:
        """What is averaged."""
        return self.args[0]

    def _sympystr(self, printer: Any) -> str:
        return f"E[{printer.doprint(self.integrand)}]"


class SampleAverage(Average):
    """Average of products of random fields of one sample, defined beside the equations.

    Attributes
    ----------
    degree : sympy.Expr
        Total degree of the integrand in the Gaussian fields where it is a polynomial; oo for other
        smooth functions, -1 where there are kinks.
    noisy : bool
        Whether the fields depend on the noise of the label.

    Examples
    --------
    >>> from dmft.equations.symbols import psi, lam, i, j
    >>> free_indices(SampleAverage(psi[j] * lam[i], sp.Integer(4), sp.Integer(0)))
    (i, j)
    """

    def __new__(cls, integrand: sp.Expr, degree: sp.Expr, noisy: sp.Expr) -> SampleAverage:
        """Keep all three."""
        return sp.Expr.__new__(cls, integrand, degree, noisy)

    @property
    def degree(self) -> sp.Expr:
        """Total degree, oo or -1."""
        return self.args[1]

    @property
    def noisy(self) -> bool:
        """Whether the noise of the label is among the Gaussian variables."""
        return bool(self.args[2])


def free_indices(expr: sp.Basic) -> tuple[sp.Symbol, ...]:
    """Index symbols that an expression depends on, those bound by its sums left out, by name."""
    if isinstance(expr, sp.Sum):
        bound = {limit[0] for limit in expr.limits}
        return tuple(s for s in free_indices(expr.function) if s not in bound)
    if isinstance(expr, sp.Symbol):
        return (expr,) if expr in x.AXES else ()
    if isinstance(expr, sp.Indexed):
        found = {s for i in expr.indices for s in free_indices(i)}
    else:
        found = {s for a in expr.args for s in free_indices(a)}
    return tuple(sorted(found, key=str))

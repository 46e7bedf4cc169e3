"""The law of jointly Gaussian fields, and closed forms of expectations under it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from dmft.gaussian.closed.law import ClosedLaw
from dmft.validation import checked

if TYPE_CHECKING:
    from dmft.explanation.steps import Explanation
    from dmft.gaussian.nodes.quadrature import Quadrature
    from dmft.gaussian.nodes.series import GaussianSeries


@checked
@dataclass(frozen=True, init=False, repr=False)
class Gaussian(ClosedLaw):
    r"""Multivariate normal distribution N(mean, cov) of fields; the covariance may be singular.

    Parameters
    ----------
    fields : sequence of sympy.Symbol
        n distinct symbols.
    cov : (n, n) numbers or SymPy expressions
        Symmetric; numeric entries are checked to be positive semi-definite.
    mean : (n,), optional
        Zero by default.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, y = sp.symbols("x y", real=True)
    >>> q, m, rho = sp.symbols("q m rho", positive=True)
    >>> law = dmft.Gaussian([x, y], cov=[[q, m], [m, rho]])
    >>> law.expect(sp.erf(x / sp.sqrt(2)) * sp.erf(y / sp.sqrt(2)))
    2*asin(m/(sqrt(q + 1)*sqrt(rho + 1)))/pi
    >>> law.expect(x**2 * y**2)
    2*m**2 + q*rho
    """

    def series(self, expr: sp.Expr, order: int, edge: bool | None = None) -> GaussianSeries:
        r"""Expand E[expr] in the correlations of the fields, with an error bound.

        Equation    E[f(x) g(y)] = sum_n rho^n c_n d_n / n!, c_n and d_n the Hermite coefficients at
                    the variances of x and y; the remainder is bounded by Cauchy-Schwarz
        Valid for   sums of products of at most two functions of one (derived) field each;
                    truncated at `order`, the error is at most `.bound`
        Source      theory/one_pass A.7

        Parameters
        ----------
        expr : sympy.Expr
            A sum of products of at most two functions of one field each.
        order : int
            Last power of the correlation.
        edge : bool, optional
            Approximate the orders above `order` by multiples of rho^(order + 1) and
            rho^(order + 2) that are exact at rho = 1 and -1, so that the error vanishes as
            |rho| -> 1. By default the variant with the smaller bound is used for numbers, and the
            plain sum for symbols.

        Returns
        -------
        GaussianSeries
            Series ``.expr`` and the ``.bound`` of its remainder.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> x, y, m = sp.symbols("x y m", real=True)
        >>> law = dmft.Gaussian([x, y], cov=[[1, m], [m, 1]])
        >>> sp.N(law.series(sp.tanh(x) * sp.tanh(y), 3).expr, 6)
        0.0220336*m**3 + 0.366879*m
        >>> near = dmft.Gaussian([x, y], cov=[[1, 1 - 1e-9], [1 - 1e-9, 1]])
        >>> bool(near.series(sp.tanh(x) * sp.tanh(y), 3).bound < 1e-8)
        True
        """
        # Closed forms do without coefficients of Hermite polynomials.
        from dmft.gaussian.nodes.series import series_expectation

        return series_expectation(
            self._integrand(expr), self.fields, self.cov, self.mean, order, edge
        )

    def quad(
        self, expr: sp.Expr, values: Mapping[Any, Any] | None = None, rtol: float = 1e-10
    ) -> Quadrature:
        r"""Compute E[expr] by quadrature, with an error estimate; intervals are split at kinks.

        Equation    E[f(x)] = integral of f(m + A u) phi(u) du, A A^T = cov, full column rank
        Valid for   any real integrable expr. After exact reductions: adaptive panels in up to three
                    dimensions (four if a factor of one field is separate), otherwise a lattice for
                    smooth functions and quasi-Monte Carlo for others
        Source      theory/one_pass A.3, A.7

        Parameters
        ----------
        expr : sympy.Expr
            A real function of the fields.
        values : mapping, optional
            Values of the symbols in cov, mean and expr, by symbol or name.
        rtol : float
            Requested error relative to the value. A larger error is reported in `.error`, in
            `.status` and by an `AccuracyWarning`.

        Returns
        -------
        Quadrature
            A float with `error`, `status`, `method` and `dimension`.

        Raises
        ------
        BadParameter
            For a symbol without a value, or a function that is not integrable or not real.
        InvalidCovariance
            If an eigenvalue of the covariance is negative at these values.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> x, y, m = sp.symbols("x y m", real=True)
        >>> law = dmft.Gaussian([x, y], cov=[[1, m], [m, 1]])
        >>> result = law.quad(sp.tanh(x) * sp.Max(0, y), {"m": 0.5}, rtol=1e-8)
        >>> round(result, 9), result.error < 1e-8, str(result.status)
        (0.151426377, True, 'ok')
        """
        # The schemes load SciPy, which closed forms do without.
        from dmft.gaussian.nodes.quadrature import quadrature

        integrand = self._integrand(expr)
        self._check_integrand(integrand)
        return quadrature(integrand, self.fields, self.cov, self.mean, values or {}, rtol)

    def explain(self, expr: sp.Expr, depth: int | None = None) -> Explanation:
        r"""Explain the steps from E[expr] to its closed form; each step is checked numerically.

        Equation    each step is `before = after`, both computed at two random covariances by a
                    quadrature that uses no closed forms
        Valid for   expressions that `expect` supports; otherwise a series in the correlation with
                    its bound, or numbers with an error estimate

        Parameters
        ----------
        expr : sympy.Expr
            Integrand.
        depth : int, optional
            Level of detail; all steps by default.

        Returns
        -------
        Explanation

        Raises
        ------
        BadParameter
        UnprovenStep
            If the two sides of a step differ, which indicates a bug.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> x, y, m = sp.symbols("x y m", real=True)
        >>> law = dmft.Gaussian([x, y], cov=[[1, m], [m, 1]])
        >>> for step in law.explain(sp.sign(x) * sp.sign(y)).steps:
        ...     print(step.depth, step.title)
        0 Arcsine law
        1 Price's theorem, from independent fields
        1 Independent fields
        1 Dirac factor: condition the law
        1 Dirac factor: condition the law
        1 The integral
        """
        from dmft.gaussian.explanations import explain_expectation

        found = explain_expectation(self, self._integrand(expr), self.series, self.quad)
        return found.to_depth(depth)

    def _repr_latex_(self) -> str:
        column = sp.latex(sp.Matrix(self.fields))
        law = rf"\mathcal{{N}}\left({sp.latex(sp.Matrix(self.mean))}, {sp.latex(self.cov)}\right)"
        return rf"$\displaystyle {column} \sim {law}$"

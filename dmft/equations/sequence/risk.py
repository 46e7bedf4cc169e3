"""The population risk of a sequence model in its alignments (e, m)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.definitions import define
from dmft.equations.parameter_values import Values, resolve_scalars
from dmft.equations.rounding.bounds import of_one_state
from dmft.equations.sequence.alignments import place
from dmft.equations.sequence.moments import SequenceMoments
from dmft.equations.views.explicit_risk import ExplicitRisk
from dmft.errors import BadParameter
from dmft.explanation.steps import Explained, Explanation
from dmft.gaussian.tables.tokens import TokenAverage
from dmft.model import SequenceModel
from dmft.record import InLatex, Short
from dmft.typeset.plain import TERMINAL, plain_text

if TYPE_CHECKING:
    from dmft.equations.views.printer import Notation


@dataclass(frozen=True, repr=False)
class SequenceRisk(InLatex, Explained, Short):
    r"""Population risk R(e, m) = 1/2 E|g(h) - g*(h*)|^2, a callable function of the alignments.

    Polynomials, and networks that depend on the mean of the fields, have a closed form. For other
    functions the averages are computed by tables (`TokenAverage` in `expr`, with `bound`).

    Attributes
    ----------
    model : SequenceModel
        Model.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> linear = dmft.SequenceNetwork(sp.Symbol("a", real=True), 2)
    >>> risk = dmft.population_risk(dmft.Model(linear, linear))
    >>> risk.expr, risk(m=0.0)
    (1 - m, 1.0)
    """

    model: SequenceModel

    def _in_words(self) -> str:
        return f"{self.model.student!r} against {self.model.teacher!r}"

    @cached_property
    def moments(self) -> SequenceMoments:
        """Averages in the risk."""
        return SequenceMoments(self.model)

    @cached_property
    def expr(self) -> sp.Expr:
        """Risk in e, m and the parameters of the networks."""
        half = sp.Rational(1, 2)
        moments = self.moments
        return half * moments.target_square + half * moments.own_square - moments.cross

    @property
    def alignments(self) -> tuple[sp.Symbol, ...]:
        """Symbols of the state: first m, then e."""
        return (*self.moments.law.semantic, *self.model.encoding.alignments)

    def explicit(self) -> ExplicitRisk:
        """Return the risk as an expression whose `.subs` accepts names.

        Returns
        -------
        ExplicitRisk
            Expression in e, m and the parameters of the networks.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> linear = dmft.SequenceNetwork(sp.Symbol("a", real=True), 2)
        >>> dmft.population_risk(dmft.Model(linear, linear)).explicit().subs({"m": 0})
        1
        """
        named = {s.name: s for s in self.expr.free_symbols}
        return ExplicitRisk(self.expr, dict(sorted(named.items())))

    @cached_property
    def gradient(self) -> dict[sp.Symbol, sp.Expr]:
        """Derivatives with respect to each alignment."""
        return {s: sp.diff(self.expr, s) for s in self.alignments}

    @cached_property
    def hessian(self) -> sp.ImmutableDenseMatrix:
        """Second derivatives, in the order of `alignments`."""
        rows = [[sp.diff(self.gradient[a], b) for b in self.alignments] for a in self.alignments]
        return sp.ImmutableDenseMatrix(rows)

    @cached_property
    def series(self) -> dict[int, sp.Expr]:
        """Coefficients D_k in R = const(e) - sum_k m^k D_k, for tied weights and closed forms.

        Raises
        ------
        BadParameter
            If the coefficients are not symbolic; use `order` at a value of e.
        """
        if self.expr.has(TokenAverage) or not self.model.tied:
            raise BadParameter("the orders of this risk are tables: see order(k, e=...)")
        (m,) = self.moments.law.semantic
        polynomial = sp.Poly(self.expr, m)
        return {k: -c for (k,), c in polynomial.terms() if k > 0}

    def order(self, k: int, e: ArrayLike = 0.0, **parameters: Any) -> float:
        """Return the coefficient D_k(e) of -m^k.

        Parameters
        ----------
        k : int
            Power of m.
        e : float or array_like
            Positional alignment.
        **parameters
            Values of the model's symbols.

        Returns
        -------
        float

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> linear = dmft.SequenceNetwork(sp.Symbol("a", real=True), 2)
        >>> risk = dmft.population_risk(dmft.Model(linear, linear))
        >>> round(risk.order(1), 6)
        1.0
        """
        if not self.model.tied:
            raise BadParameter("an untied risk has a tensor of coefficients in each order of m")
        (m,) = self.moments.law.semantic
        values = self._values(e, 0.0, parameters)
        return -number(sp.diff(self.expr, m, k), values) / float(sp.factorial(k))

    @property
    def bound(self) -> float:
        """Bound of the error of the tables; 0 if the risk is exact."""
        nodes = self.expr.atoms(TokenAverage)
        return float(sum(node.table.bound + node.table.error for node in nodes))

    def __call__(self, e: ArrayLike = 0.0, m: ArrayLike = 0.0, **parameters: Any) -> float:
        """Risk at alignments: e () or (L,), m () tied or (L,) untied.

        Raises `InvalidCovariance` outside the feasible set.
        """
        return number(self.expr, self._values(e, m, parameters))

    def error(self, e: ArrayLike = 0.0, m: ArrayLike = 0.0, **parameters: Any) -> float:
        """Return the absolute error of the risk at a point, a bound of rounding and of tables.

        Parameters
        ----------
        e : float or array_like
            Positional alignment.
        m : float or (L,) array_like
            Semantic alignment.
        **parameters
            Values of the model's symbols.

        Returns
        -------
        float

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> linear = dmft.SequenceNetwork(sp.Symbol("a", real=True), 2)
        >>> risk = dmft.population_risk(dmft.Model(linear, linear))
        >>> risk.error(m=0.5) < 1e-14
        True
        """
        numbers = {s.name: v for s, v in self._values(e, m, parameters).items()}
        state = {s.name: np.asarray(numbers.pop(s.name)) for s in self.alignments}
        definition = define(x.risk, {"risk": self.expr}, "observable")
        found = of_one_state((definition,), state, Values({}, numbers, {}), "observable")
        return float(found["risk"].error)

    def gradient_at(self, e: ArrayLike = 0.0, m: ArrayLike = 0.0, **parameters: Any) -> Array:
        """Return the gradient at a point, in the order of `alignments`.

        Parameters
        ----------
        e, m, **parameters
            As in `error`.

        Returns
        -------
        (n,) ndarray

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> linear = dmft.SequenceNetwork(sp.Symbol("a", real=True), 2)
        >>> risk = dmft.population_risk(dmft.Model(linear, linear))
        >>> risk.gradient_at(m=0.5).round(6).tolist()
        [-1.0]
        """
        values = self._values(e, m, parameters)
        return np.array([number(y, values) for y in self.gradient.values()])

    def hessian_at(self, e: ArrayLike = 0.0, m: ArrayLike = 0.0, **parameters: Any) -> Array:
        """Return the Hessian at a point, in the order of `alignments`.

        Parameters
        ----------
        e, m, **parameters
            As in `error`.

        Returns
        -------
        (n, n) ndarray

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> linear = dmft.SequenceNetwork(sp.Symbol("a", real=True), 2)
        >>> risk = dmft.population_risk(dmft.Model(linear, linear))
        >>> risk.hessian_at(m=0.5).tolist()
        [[0.0]]
        """
        values = self._values(e, m, parameters)
        size = len(self.alignments)
        entries = [number(y, values) for y in self.hessian]
        return np.array(entries).reshape(size, size)

    def _values(
        self, e: ArrayLike, m: ArrayLike, parameters: Mapping[str, Any]
    ) -> dict[sp.Symbol, float]:
        declared = {s.name: s for s in sorted(self.model.parameters, key=str)}
        used = [name for name, s in declared.items() if s in self.expr.free_symbols]
        scalars, _ = resolve_scalars(declared, used, parameters)
        values = {declared[name]: value for name, value in scalars.items()}
        return {**values, **place(self.model, e, m)}

    def _explanation(self) -> Explanation:
        from dmft.equations.explained.sequence import explain_sequence_risk

        return explain_sequence_risk(self.moments, self.expr, self.bound)

    def latex(self, *, width: float = 246.0, notation: Notation = None) -> str:
        """Return the risk as LaTeX, with an approximation sign if tables are truncated.

        Parameters
        ----------
        width : float
            Points that a line may have.
        notation : "saad-solla", "scalar", "krzakala", mapping or None
            Letters, as for `Equations.latex`.
        """
        from dmft.equations.views.latex import Page, sequence_risk_latex

        return sequence_risk_latex(self.model, self.expr, Page(width, notation))

    def _repr_latex_(self) -> str:
        return self.latex(width=560.0)

    def __str__(self) -> str:
        return plain_text(self.latex(width=TERMINAL))


def number(expr: sp.Expr, values: Mapping[sp.Symbol, float]) -> float:
    """Value of an expression in alignments and parameters, its tables included."""
    nodes = {node: sp.Float(node.value(dict(values)), 17) for node in expr.atoms(TokenAverage)}
    return float(expr.xreplace(nodes).xreplace({s: sp.Float(v, 17) for s, v in values.items()}))

"""Equations of a wide student: state M and the squared lengths Q_perp of the residuals."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
from dmft.equations.averages.closure import TWIN, cosine_rule
from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import live
from dmft.equations.equations import Equations, Kernels
from dmft.equations.reference import evaluate
from dmft.equations.restrict.wide import wide_definitions
from dmft.equations.values import Values
from dmft.equations.views.explicit import ExplicitEquations
from dmft.equations.views.latex import align
from dmft.errors import BadParameter, NotClosed
from dmft.model import SGD, GradientFlow, Model, Overlaps
from dmft.typeset.breaking import Names
from dmft.typeset.fragment import COLUMN, fitted

# gamma/(p n_b) from which a run warns: what the closure leaves out is of this relative order.
FINITE_RATE = 0.05


class ClosureWarning(UserWarning):
    """A wide reduction is used where what it leaves out is not small.

    Examples
    --------
    >>> import dmft
    >>> issubclass(dmft.ClosureWarning, UserWarning)
    True
    """


@dataclass(frozen=True, repr=False)
class WideEquations(Equations):
    """Closed equations of M (p, k) and Q_perp (p,); everything else is as in `Equations`.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> eqs = dmft.derive(dmft.Model(square, square), dmft.GradientFlow(), scaling="mean-field")
    >>> sorted(eqs.terms)
    ['M', 'Q_perp']
    """

    @property
    def approximation(self) -> str:
        """What the reduction leaves out, in words, and how the averages are computed."""
        finite = "residuals at random cosines of dimension d - k" if self.dim else "d -> infinity"
        text = f"wide closure Q = M P^+ M^T + diag(Q_perp), {finite}: exact as p -> infinity "
        text += "(error of order 1/p)"
        if isinstance(self.algorithm, SGD):
            text += (
                " and gamma/p -> 0; at finite gamma/p the quadratic term correlates the residuals, "
                "which is left out, an error of relative order gamma/(p n_b)"
            )
        averages = super().approximation
        return text if averages == "exact" else f"{text}; {averages}"

    @cached_property
    def uses_nodes(self) -> bool:
        """Whether cosines of residuals are averaged on nodes."""
        return any(d.expr.has(x.cosine) for d in self.definitions)

    @cached_property
    def parameters(self) -> dict[str, sp.Expr]:
        """Scalar parameters that the equations read; the dimension also where nodes need it."""
        found: dict[str, sp.Expr] = Equations.parameters.func(self)  # type: ignore[attr-defined]
        if self.uses_nodes and self.dim is not None:
            found = {**found, "dim": self.dim}
        return found

    def _places(self, block: str, expr: sp.Expr) -> dict[str, sp.Expr]:
        """On the sphere a term also adds to Phi_jj = dQ_jj/dt, which scales the rows back."""
        found = super()._places(block, expr)
        if any(d.name == "growth" for d in self.definitions):
            inside = 2 * sp.Sum(x.along[x.j, x.r] * expr, (x.r, 1, x.k)) if expr != 0 else expr
            found |= {"growth": {"M": inside, "Q_perp": expr}.get(block, sp.S.Zero)}
        return found

    @property
    def closure(self) -> str:
        """Overlaps that stand for Q, in words."""
        cosine, twin, law = "", "Q∥[j,j]", ""
        if self.dim is not None:
            cosine, twin = " + z*sqrt(Q⊥[j]*Q⊥[l])", "Q∥[j,j] + z*Q⊥[j]"
            law = ", averaged over the cosine z of two residuals in d - k dimensions"
        text = f"closure: Q[j,j] = q[j], Q[j,l] = Σ_r N[j,r]*M[l,r]{cosine}{law}"
        return text + (f"; Cov(h[j], h'[j]) = {twin}" if self._has_twins else "")

    def latex(self, kernels: Kernels = "auto", **page: Any) -> str:
        """LaTeX of the equations, with the overlaps at which the averages are taken."""
        inside = r"Q^{\parallel}_{jl} = \sum_{r=1}^k N_{jr} M_{lr}"
        cosine, twin, law = "", r"Q^{\parallel}_{jj}", ""
        if self.dim is not None:
            cosine = r" + z \sqrt{Q^{\perp}_j Q^{\perp}_l}"
            twin = r"Q^{\parallel}_{jj} + z\,Q^{\perp}_j"
            law = r",\quad z \sim (1 - z^2)^{(d - k - 3)/2}"
        lines = [
            rf"& Q_{{jj}} = q_j,\quad Q_{{jl}} = Q^{{\parallel}}_{{jl}}{cosine},\quad "
            rf"{inside}{law} && \text{{(closure)}}"
        ]
        if self._has_twins:
            lines.append(rf"& \mathrm{{Cov}}(h_j, h'_j) = {twin},\quad \mathrm{{Var}}(h'_j) = q_j")
        text = super().latex(kernels, **page)
        return text + "\n" + fitted(align(lines), page.get("width", COLUMN), Names(text))

    def __str__(self) -> str:
        return f"{super().__str__()}\n  {self.closure}"

    @cached_property
    def _has_twins(self) -> bool:
        """Whether a student is set against another one like it."""
        averages = {q for d in self.definitions for q in d.expr.atoms(Expectation)}
        return any(f.has(TWIN) for q in averages for f in q.fields)

    def state(self, start: Overlaps) -> dict[str, NDArray[np.float64]]:
        """M and the squared lengths of the rows outside the span of the teachers."""
        inside = np.einsum("jr,rs,js->j", start.M, np.linalg.pinv(start.P), start.M)
        return {"M": start.M, "Q_perp": np.diag(start.Q) - inside}

    def values(self, start: Overlaps, parameters: dict[str, Any]) -> Values:
        """Numbers of a run from this start, with P^+ and the nodes of the cosine."""
        values = super().values(start, parameters)
        inverse = np.asarray(np.linalg.pinv(start.P), dtype=np.float64)
        arrays = {**values.arrays, "P_inverse": inverse}
        if "dim" in values.scalars and values.scalars["dim"] - start.k < 2:
            raise BadParameter(
                f"dim = {values.scalars['dim']:g} leaves fewer than two dimensions to the "
                f"residuals of k = {start.k} teachers; use a larger dim, or the full equations"
            )
        widths = values.widths
        if self.uses_nodes:
            nodes, weights = cosine_rule(values.scalars["dim"] - start.k)
            arrays |= {"cosine": nodes, "cosine_weight": weights}
            widths = {**widths, "cosines": nodes.size}
        self._warn(values)
        return Values(widths, values.scalars, arrays)

    def _warn(self, values: Values) -> None:
        """Say where the closure fails."""
        if not isinstance(self.algorithm, SGD) or "learning_rate" not in values.scalars:
            return
        rate = values.scalars["learning_rate"] / values.widths["p"] / int(self.algorithm.batch_size)
        if rate > FINITE_RATE:
            warnings.warn(
                f"gamma/(p n_b) = {rate:.3g} is not small: the quadratic term of SGD correlates "
                "the residuals of the students, which the wide reduction leaves out; expect "
                'relative errors of this order, or use scaling="high-dimensional"',
                ClosureWarning,
                stacklevel=5,
            )

    def evaluate(self, start: Overlaps, **parameters: float) -> dict[str, NDArray[np.float64]]:
        """``{"M": dM/dt (p, k), "Q_perp": dQ_perp/dt (p,)}`` at a start, by the NumPy reference."""
        values = self.values(start, parameters)
        return evaluate(self.on_nodes, self.state(start), values, "rate")

    def explicit(self, *args: Any, **kwargs: Any) -> ExplicitEquations:
        """Refuse: wide students are not unrolled."""
        raise BadParameter(
            "explicit() unrolls p + k <= 5 fields, where a wide reduction is not accurate; unroll "
            'the full equations (scaling="gradient-flow") instead'
        )


def wide_equations(
    model: Model,
    algorithm: SGD | GradientFlow,
    scaling: str,
    time_unit: str,
    dim: sp.Expr | None,
) -> WideEquations:
    """Wide reduction of a model, with the average over cosines of residuals where `dim` is given.

    Raises
    ------
    NotClosed
        When an average of the drift or of the risk has neither closed form nor table.
    """
    equations = WideEquations(
        kind="ode",
        definitions=live(wide_definitions(model, algorithm, finite=dim is not None)),
        model=model,
        algorithm=algorithm,
        scaling=scaling,
        time_unit=time_unit,
        dim=dim,
    )
    if equations.averages:
        raise NotClosed(
            "the wide reduction needs averages with closed forms or tables of one and two fields; "
            f"open is {equations.averages[0]}"
        )
    _ = equations.parameters
    return equations

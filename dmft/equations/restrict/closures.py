"""Closures of wide limits: the overlaps that replace those outside the state."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations.averages.closure import TWIN, cosine_rule
from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition, used_bases
from dmft.equations.parameter_values import Values
from dmft.equations.states import StateSpace
from dmft.errors import BadParameter
from dmft.model import Overlaps

# gamma/(p n_b) from which a run warns: what the closure leaves out is of this relative order.
FINITE_RATE = 0.05
# Mean of Q_jl^2 over pairs from which students count as aligned with each other at the start;
# random ones have 1/d.
LARGEST_ALIGNMENT = 0.1
# Of a length or a readout that is given as a number.
ROUNDING = 1e-9


class ClosureWarning(UserWarning):
    """A reduction for wide networks is used where the neglected terms are not small.

    Examples
    --------
    >>> import dmft
    >>> issubclass(dmft.ClosureWarning, UserWarning)
    True
    """


NOT_EXPORTED = (
    "equations of wide limits are not exported; equations of the overlaps Q, M and of the "
    "alignments e, m are: export those from which they were derived"
)


@dataclass(frozen=True)
class MeanField(StateSpace):
    """Q = M P^+ M^T + diag(Q_perp): the state is M (p, k) and Q_perp (p,).

    With `finite`, residuals meet at the random cosines of a finite dimension.
    """

    finite: bool

    not_unrolled = (
        "explicit() unrolls p + k <= 5 fields, where a wide reduction is not accurate; unroll the "
        'full equations (scaling="gradient-flow") instead'
    )
    not_exported = NOT_EXPORTED

    def approximation(self, averages: str, error: float) -> str:
        """The residuals that are left out, and how the averages are computed."""
        finite = (
            "residuals at random cosines of dimension d - k" if self.finite else "d -> infinity"
        )
        text = f"wide closure Q = M P^+ M^T + diag(Q_perp), {finite}: exact as p -> infinity "
        text += "(error of order 1/p)"
        if not self.algorithm.is_flow:
            text += (
                " and gamma/p -> 0; at finite gamma/p the quadratic term correlates the residuals, "
                "which is left out, an error of relative order gamma/(p n_b)"
            )
        return text if averages == "exact" else f"{text}; {averages}"

    def closure_text(self, definitions: Iterable[Definition]) -> str:
        """Q by M and Q_perp."""
        cosine, twin, law = "", "Q∥[j,j]", ""
        if self.finite:
            cosine, twin = " + z*sqrt(Q⊥[j]*Q⊥[l])", "Q∥[j,j] + z*Q⊥[j]"
            law = ", averaged over the cosine z of two residuals in d - k dimensions"
        text = f"closure: Q[j,j] = q[j], Q[j,l] = Σ_r N[j,r]*M[l,r]{cosine}{law}"
        return text + (f"; Cov(h[j], h'[j]) = {twin}" if _has_twins(definitions) else "")

    def closure_latex(self, definitions: Iterable[Definition]) -> list[str]:
        """The same."""
        cosine, twin, law = "", r"Q^{\parallel}_{jj}", ""
        if self.finite:
            cosine = r" + z \sqrt{Q^{\perp}_j Q^{\perp}_l}"
            twin = r"Q^{\parallel}_{jj} + z\,Q^{\perp}_j"
            law = r",\quad z \sim (1 - z^2)^{(d - k - 3)/2}"
        lines = [
            rf"& Q_{{jj}} = q_j,\quad Q_{{jl}} = Q^{{\parallel}}_{{jl}}{cosine}\ (j \neq l){law}"
        ]
        if _has_twins(definitions):
            lines.append(rf"& \mathrm{{Cov}}(h_j, h'_j) = {twin},\quad \mathrm{{Var}}(h'_j) = q_j")
        return lines

    def state(self, start: Overlaps) -> dict[str, Array]:
        """M and the squared lengths of the rows outside the span of the teachers."""
        inside = np.einsum("jr,rs,js->j", start.M, np.linalg.pinv(start.P), start.M)
        return {"M": start.M, "Q_perp": np.diag(start.Q) - inside}

    def with_constants(
        self, values: Values, definitions: Sequence[Definition], start: Overlaps
    ) -> Values:
        """Values with P^+ and the nodes of the cosine."""
        inverse = np.linalg.pinv(start.P).astype(np.float64)
        arrays = {**values.arrays, "P_inverse": inverse}
        widths, dim = values.widths, values.scalars.get("dim")
        if dim is not None and dim - start.k < 2:
            raise BadParameter(
                f"dim = {dim:g} leaves fewer than two dimensions to the residuals of "
                f"k = {start.k} teachers; use a larger dim, or the full equations"
            )
        if dim is not None and any("cosine" in used_bases(d.expr) for d in definitions):
            arrays["cosine"], arrays["cosine_weight"] = cosine_rule(dim - start.k)
            widths = {**widths, "cosines": arrays["cosine"].size}
        self._warn(values.scalars.get("learning_rate"), start.p)
        return replace(values, widths=widths, arrays=arrays)

    def _warn(self, learning_rate: float | None, width: int) -> None:
        """Say where the closure fails."""
        if learning_rate is None or self.algorithm.is_flow:
            return
        rate = learning_rate / width / int(self.algorithm.batch_size)
        if rate > FINITE_RATE:
            warnings.warn(
                f"gamma/(p n_b) = {rate:.3g} is not small: the quadratic term of SGD correlates "
                "the residuals of the students, which the wide reduction leaves out; expect "
                'relative errors of this order, or use scaling="high-dimensional"',
                ClosureWarning,
                stacklevel=7,
            )


@dataclass(frozen=True)
class InfiniteWidth(StateSpace):
    """M_j^2 = X z^2 / (1 + Y z^2), Q_jl = C M_j M_l: the state is X, Y and C.

    A start gives u_0, the mean of its M_jr^2; its width gives gamma/p. A run has the blocks
    ``variance`` (X), ``saturation`` (Y) and ``coupling`` (C).
    """

    not_unrolled = "these equations are scalar already: see .terms"
    not_exported = NOT_EXPORTED

    def approximation(self, averages: str, error: float) -> str:
        """What the limit leaves out, and the table of the average over the overlaps."""
        return (
            "infinite width at finite gamma/p: Q_jl = C M_j M_l for j != l, exact as p -> infinity "
            "(error of order 1/p); the overlaps start as N(0, u_0); "
            f"average over them by a table (relative error {error:.0e})"
        )

    def closure_text(self, definitions: Iterable[Definition]) -> str:
        """M and Q by X, Y and C."""
        return (
            "closure: M[j]^2 = X z^2/(1 + Y z^2), z ~ N(0, 1), g = sqrt(Y) z; Q[j,j] = 1, "
            "Q[j,l] = C*M[j]*M[l]"
        )

    def closure_latex(self, definitions: Iterable[Definition]) -> list[str]:
        """The same."""
        return [
            r"& M_j^2 = \frac{X z_j^2}{1 + Y z_j^2},\quad z_j \sim \mathcal{N}(0, 1),\quad "
            r"g = \sqrt{Y} z,\quad Q_{jl} = C M_j M_l\ (j \neq l),\quad Q_{jj} = 1"
        ]

    def state(self, start: Overlaps) -> dict[str, Array]:
        """X = u_0, Y = 0, C = 1."""
        spread = float(np.mean(start.M**2))
        if not spread > 0:
            raise BadParameter("all M_jr are zero at the start, and stay so; pass a random start")
        off = start.Q - np.diag(np.diag(start.Q))
        mean = np.sum(off**2) / max(start.p * (start.p - 1), 1)
        if mean > LARGEST_ALIGNMENT:
            raise BadParameter(
                "the students of this start are aligned with each other (mean Q_jl^2 = "
                f"{mean:.3g}), but the infinitely wide limit requires random "
                'ones; use scaling="high-dimensional"'
            )
        return {"variance": np.array([spread]), "saturation": np.zeros(1), "coupling": np.ones(1)}

    def with_constants(
        self, values: Values, definitions: Sequence[Definition], start: Overlaps
    ) -> Values:
        """The same values."""
        if start.k != 1 or abs(float(start.P[0, 0]) - 1) > ROUNDING:
            raise BadParameter(
                f"the infinitely wide limit requires one teacher of unit length, got P = {start.P}"
            )
        given = start.readout
        declared = sp.sympify((self.model.student.readout or (1,))[0], strict=True)
        if given is not None and (
            not declared.is_number or np.any(np.abs(given - float(declared)) > ROUNDING)
        ):
            raise BadParameter(
                f"the infinitely wide limit was derived at the readouts {declared} of the model, "
                f"but the start has {given}: declare them in the model"
            )
        return values


def _has_twins(definitions: Iterable[Definition]) -> bool:
    """Whether a student is set against another one like it."""
    averages = {q for d in definitions for q in d.expr.atoms(Expectation)}
    return any(f.has(TWIN) for q in averages for f in q.fields)

r"""Equations of an infinitely wide student at a finite gamma/p, as numbers instead of overlaps.

The closure of `dmft.equations.restrict.aligned` moves every overlap by dM/dt = M (alpha - beta
M^2). From M = sqrt(u_0) z, z ~ N(0, 1), this is solved by

    M^2 = X z^2 / (1 + Y z^2),   dX/dt = 2 alpha X,   dY/dt = 2 beta X,   X(0) = u_0,  Y(0) = 0,

and with g = sqrt(Y) z the mean is u = <M^2> = X E[(1 - g^2)/(1 + g^2)^2], by Stein's lemma.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Covariances, Expectation
from dmft.equations.definitions import Definition, define
from dmft.equations.equations import Equations, Kernels
from dmft.equations.reference import evaluate
from dmft.equations.restrict.aligned import Reduction, coupling, mean_square, rate, reduce_aligned
from dmft.equations.update.optimiser import step_size
from dmft.equations.update.rates import definitions
from dmft.equations.values import Values
from dmft.equations.views.explicit import ExplicitEquations
from dmft.equations.views.latex import align
from dmft.errors import BadParameter
from dmft.model import FIELD, SGD, Committee, GradientFlow, Model, Overlaps
from dmft.typeset.breaking import Names
from dmft.typeset.fragment import COLUMN, fitted

# The field g = sqrt(Y) z.
SATURATED = sp.IndexedBase("g")
# Mean of Q_jl^2 over pairs from which students count as aligned with each other at the start;
# random ones have 1/d.
LARGEST_ALIGNMENT = 0.1
# Of a length or a readout that is given as a number.
ROUNDING = 1e-9


@dataclass(frozen=True, repr=False)
class AlignedEquations(Equations):
    """Closed equations of X, Y and C; everything else is as in `Equations`.

    A start gives u_0, the mean of its M_jr^2; its width gives gamma/p. A run has the blocks
    ``variance`` (X), ``saturation`` (Y) and ``coupling`` (C).

    Examples
    --------
    >>> import dmft
    >>> model, sgd = dmft.literature.phase_retrieval(100), dmft.SGD(20, constraint="sphere")
    >>> eqs = dmft.derive(model, sgd, scaling="wide-high-dimensional")
    >>> sorted(eqs.terms)
    ['coupling', 'saturation', 'variance']
    """

    @property
    def approximation(self) -> str:
        """What the limit leaves out, in words."""
        return (
            "infinite width at finite gamma/p: Q_jl = C M_j M_l for j != l, exact as p -> infinity "
            "(error of order 1/p); the overlaps start as N(0, u_0); "
            f"average over them by a table (relative error {self.error:.0e})"
        )

    @property
    def closure(self) -> str:
        """Overlaps that the state stands for, in words."""
        return (
            "closure: M[j]^2 = X z^2/(1 + Y z^2), z ~ N(0, 1), g = sqrt(Y) z; Q[j,j] = 1, "
            "Q[j,l] = C*M[j]*M[l]"
        )

    def latex(self, kernels: Kernels = "auto", **page: Any) -> str:
        """LaTeX of the equations, with the overlaps that the state stands for."""
        lines = [
            r"& M_j^2 = \frac{X z_j^2}{1 + Y z_j^2},\quad z_j \sim \mathcal{N}(0, 1),\quad "
            r"g = \sqrt{Y} z,\quad Q_{jl} = C M_j M_l\ (j \neq l),\quad Q_{jj} = 1 "
            r"&& \text{(closure)}"
        ]
        text = super().latex(kernels, **page)
        return text + "\n" + fitted(align(lines), page.get("width", COLUMN), Names(text))

    def __str__(self) -> str:
        return f"{super().__str__()}\n  {self.closure}"

    def state(self, start: Overlaps) -> dict[str, NDArray[np.float64]]:
        """X = u_0, Y = 0, C = 1."""
        spread = float(np.mean(start.M**2))
        if not spread > 0:
            raise BadParameter("all M_jr are zero at the start: nothing grows; give random starts")
        off = start.Q - np.diag(np.diag(start.Q))
        pairs = max(start.p * (start.p - 1), 1)
        if np.sum(off**2) / pairs > LARGEST_ALIGNMENT:
            raise BadParameter(
                "the students of this start are aligned with each other (mean Q_jl^2 = "
                f"{np.sum(off**2) / pairs:.3g}), the infinitely wide limit starts from random "
                'ones; use scaling="high-dimensional"'
            )
        return {"variance": np.array([spread]), "saturation": np.zeros(1), "coupling": np.ones(1)}

    def values(self, start: Overlaps, parameters: dict[str, Any]) -> Values:
        """Numbers of a run from this start."""
        values = super().values(start, parameters)
        if start.k != 1 or abs(float(start.P[0, 0]) - 1) > ROUNDING:
            raise BadParameter(
                f"the infinitely wide limit has one teacher of unit length, the start P = {start.P}"
            )
        given = start.readout
        if given is None:
            return values
        declared = sp.sympify((self.model.student.readout or (1,))[0], strict=True)
        if not declared.is_number or np.any(np.abs(given - float(declared)) > ROUNDING):
            raise BadParameter(
                f"the infinitely wide limit was derived at the readouts {declared} of the model, "
                f"the start has {given}: declare them there"
            )
        return values

    def evaluate(self, start: Overlaps, **parameters: float) -> dict[str, NDArray[np.float64]]:
        """Rates of X, Y and C at a start, by the NumPy reference."""
        values = self.values(start, parameters)
        return evaluate(self.definitions, self.state(start), values, "rate")

    def explicit(self, *args: Any, **kwargs: Any) -> ExplicitEquations:
        """Refuse: the equations are explicit already."""
        raise BadParameter("these equations are scalar already: see .terms")


def aligned_equations(
    model: Model, algorithm: SGD | GradientFlow, scaling: str, time_unit: str
) -> AlignedEquations:
    """Infinitely wide limit at finite gamma/p of quadratic students of one teacher unit.

    Raises
    ------
    BadParameter
        Without the sphere, with several teachers, unequal or trained readouts.
    NotClosed
        Where Q_jl = C M_j M_l does not stay: activations that are not quadratic.
    """
    if not algorithm.on_sphere:
        raise BadParameter(
            f'scaling = "{scaling}" is for students on the sphere (constraint="sphere"): free '
            'lengths are numbers of their own; use scaling="high-dimensional"'
        )
    teacher = model.teacher
    if not isinstance(teacher, Committee) or teacher.width != 1 or algorithm.trains_readout:
        raise BadParameter(
            f'scaling = "{scaling}" is for a dmft.Committee of one teacher unit and fixed '
            'readouts; use scaling="high-dimensional"'
        )
    readouts = [set(c.readout or (sp.S.One,)) for c in (model.student, teacher)]
    if len(readouts[0]) > 1:
        raise BadParameter(f"equal readouts are needed, got {list(model.student.readout or ())}")
    values = (readouts[0].pop(), readouts[1].pop())
    reduced = reduce_aligned(definitions(model, algorithm, True, x.gamma), values)
    step = step_size(algorithm)
    found = {x.risk: reduced.risk} | ({} if reduced.loss is None else {x.loss: reduced.loss})
    seen = [
        define(symbol, {symbol.name: _at(value, sp.S.One, step)}, "observable")
        for symbol, value in found.items()
    ]
    equations = AlignedEquations(
        kind="ode",
        definitions=(*_definitions(reduced, step), *seen),
        model=model,
        algorithm=algorithm,
        scaling=scaling,
        time_unit=time_unit,
    )
    _ = equations.parameters
    return equations


def _definitions(reduced: Reduction, step: sp.Expr) -> list[Definition]:
    """The mean of M^2, and the rates of X, Y and C by what they come from."""
    r = x.r
    field = SATURATED[r]
    law = Covariances(sp.Tuple(field, field, x.saturation[r]))
    falling = (1 - FIELD**2) / (1 + FIELD**2) ** 2
    average = Expectation(At(falling, field), law)
    mean = define(x.mean_square[r], {"average": x.variance[r] * average}, "intermediate")
    rates = (
        (x.variance[r], 2 * x.variance[r], reduced.alpha),
        (x.saturation[r], 2 * x.variance[r], reduced.beta),
        (x.coupling[r], sp.S.One, reduced.coupling_rate),
    )
    return [mean, *(define(y, _terms(factor, e, r, step), "rate") for y, factor, e in rates)]


def _terms(factor: sp.Expr, expr: sp.Expr, index: sp.Expr, step: sp.Expr) -> dict[str, sp.Expr]:
    """Drift, noise of the samples and label noise, each times a factor."""
    drift, quadratic = expr.coeff(rate, 0), expr - expr.coeff(rate, 0)
    label = sp.expand(quadratic).coeff(x.Delta, 1) * x.Delta
    parts = {"drift": drift, "sgd_noise": sp.expand(quadratic - label), "label_noise": label}
    return {name: factor * _at(sp.factor(part), index, step) for name, part in parts.items()}


def _at(expr: sp.Expr, index: sp.Expr, step: sp.Expr) -> sp.Expr:
    """Write C, u and the rate of steps over p in the symbols of the equations."""
    return expr.xreplace(
        {
            coupling: x.coupling[index],
            mean_square: x.mean_square[index],
            rate: step / x.p,
        }
    )

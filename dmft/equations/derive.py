"""`derive`: from a model and an algorithm to the equations of motion of the overlaps."""

from __future__ import annotations

from typing import Literal

import sympy as sp

from dmft.equations.definitions import live
from dmft.equations.derivation import definitions
from dmft.equations.equations import Equations
from dmft.errors import BadParameter
from dmft.model import SGD, GradientFlow, Model

Scaling = Literal["gradient-flow", "high-dimensional"]
TIME_UNITS = {
    "high-dimensional": "t = steps * gamma / (p d); gamma, p, k of order one as d -> infinity",
    "gradient-flow": "t = steps * gamma / (p d) as gamma / p -> 0",
}


def derive(
    model: Model,
    algorithm: SGD | GradientFlow,
    *,
    dim: int | sp.Expr | None = None,
    scaling: Scaling | None = None,
    fluctuations: bool = False,
) -> Equations:
    r"""Derive the equations of motion of M and Q at symbolic widths p and k.

    Equation    dM/dt = B*,  dQ/dt = B + B^T + gamma/(p n_b) S; on the sphere
                dM_jr/dt = B*_jr - M_jr Phi_jj / 2, dQ_jl/dt = Phi_jl - Q_jl (Phi_jj + Phi_ll) / 2
                with Phi = B + B^T + gamma/(p n_b) S
    Shapes      Q (p, p) symmetric; M (p, k); P (k, k) constant
    Scaling     t = steps * gamma / (p d); gamma, p, k, n_b fixed as d -> infinity;
                gradient flow drops S
    Valid for   any activation without free parameters. Exact for polynomials, erf, sign, ReLU,
                sin, cos, Gaussian factors and mixtures; other two-field averages (tanh, sigmoid,
                softplus, SiLU, your own) by tables to 1e-10 of sqrt(E F^2 E G^2), for fields of
                variance up to 1024 (NaN beyond: a run ends as nonfinite);
                `dmft.equations.kernel_error` gives the claimed error of one average
    Source      one_pass.md A.0, A.1, B.2, C; derivations/committee_sgd.py

    Parameters
    ----------
    model : Model
    algorithm : SGD or GradientFlow
    scaling : None, "high-dimensional" or "gradient-flow"
        Which terms survive as d grows: with "high-dimensional" (SGD's default) the learning rate
        stays of order one and the quadratic term stays; with "gradient-flow" it is dropped.

    Raises
    ------
    BadParameter
        For an object that is not an algorithm, an unknown scaling, or a symbol that clashes with
        the equations' own.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> erf = dmft.Committee(sp.erf(z / sp.sqrt(2)), width=2)
    >>> sorted(dmft.derive(dmft.Model(erf, erf), dmft.SGD(0.5)).terms["Q"])
    ['interaction', 'label_noise', 'learning', 'sgd_noise']
    >>> own = dmft.Committee(sp.tanh(z) * sp.exp(-(z**2)), width=2)
    >>> dmft.derive(dmft.Model(own, erf), dmft.GradientFlow()).open_kernels
    ()
    """
    if not isinstance(model, Model):
        raise BadParameter(f"model must be a dmft.Model, got {model!r}")
    if dim is not None or fluctuations:
        raise BadParameter("dim= and fluctuations= are not in this version")
    if not isinstance(algorithm, SGD | GradientFlow):
        raise BadParameter(f"algorithm must be dmft.SGD or dmft.GradientFlow, got {algorithm!r}")
    flow = isinstance(algorithm, GradientFlow)
    natural: Scaling = "gradient-flow" if flow else "high-dimensional"
    scaling = scaling or natural
    if scaling not in TIME_UNITS or (scaling != natural and natural == "gradient-flow"):
        raise BadParameter(
            f"scaling {scaling!r} does not fit {type(algorithm).__name__}; choose one of "
            f"{list(TIME_UNITS)} for SGD, 'gradient-flow' for GradientFlow"
        )
    quadratic = scaling == "high-dimensional"
    equations = Equations(
        kind="ode",
        definitions=live(definitions(model, algorithm, quadratic)),
        model=model,
        algorithm=algorithm,
        scaling=scaling,
        time_unit=TIME_UNITS[scaling],
    )
    _ = equations.parameters  # refuses clashing symbols before anything is computed
    return equations

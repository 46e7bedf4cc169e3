"""`derive`: from a model and an algorithm to the equations of motion of the overlaps."""

from __future__ import annotations

from typing import Literal

import sympy as sp

from dmft.equations.definitions import live
from dmft.equations.derivation import definitions
from dmft.equations.equations import Equations
from dmft.equations.steps import step_definitions
from dmft.errors import BadParameter
from dmft.model import SGD, GradientFlow, Model, as_count

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
                with dim= the map of one step, eta = gamma/d:
                dM = (eta/p) B*, dQ = (eta/p) (B + B^T)
                + (eta/p)^2 [(d/n_b) S + (1 - 1/n_b) b Omega^+ b^T], then divided by the lengths
                a trained readout moves by da_j/dt = rho_a E[E sigma(h_j)]
    Scaling     t = steps * gamma / (p d); gamma, p, k, n_b fixed as d -> infinity;
                gradient flow drops S; a map's t counts steps, n_b of the order of d or larger
    Valid for   any activation without free parameters. Exact for polynomials, erf, sign, ReLU,
                sin, cos, Gaussian factors and mixtures; other two-field averages (tanh, sigmoid,
                softplus, SiLU, your own) by tables to 1e-10 of sqrt(E F^2 E G^2), for fields of
                variance up to 1024 (NaN beyond: a run ends as nonfinite);
                `dmft.equations.kernel_error` gives the claimed error of one average
    Source      one_pass.md A.0, A.1, B.2, C, D.1, D.2; derivations/committee_sgd.py,
                derivations/large_batches.py

    Parameters
    ----------
    model : Model
    algorithm : SGD or GradientFlow
    dim : int or sympy.Symbol, optional
        Input dimension d, for batches of the order of d: the equations are then the map of one
        step (kind "map"); `learning_rate`, `dim` and `batch_size` are run-time values.
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
    >>> steps = dmft.derive(dmft.Model(erf, erf), dmft.SGD(500, batch_size=1000), dim=1000)
    >>> steps.kind, sorted(set(steps.terms["Q"]) - {"learning", "interaction"})
    ('map', ['label_noise', 'population_gradient', 'sgd_noise'])
    >>> own = dmft.Committee(sp.tanh(z) * sp.exp(-(z**2)), width=2)
    >>> dmft.derive(dmft.Model(own, erf), dmft.GradientFlow()).open_kernels
    ()
    """
    if not isinstance(model, Model):
        raise BadParameter(f"model must be a dmft.Model, got {model!r}")
    if not isinstance(algorithm, SGD | GradientFlow):
        raise BadParameter(f"algorithm must be dmft.SGD or dmft.GradientFlow, got {algorithm!r}")
    if dim is not None and not fluctuations:
        return step_equations(model, algorithm, dim, scaling)
    if dim is not None or fluctuations:
        raise BadParameter("fluctuations= is not in this version")
    flow = isinstance(algorithm, GradientFlow)
    natural: Scaling = "gradient-flow" if flow else "high-dimensional"
    scaling = scaling or natural
    if scaling not in TIME_UNITS or (scaling != natural and natural == "gradient-flow"):
        raise BadParameter(
            f"scaling {scaling!r} does not fit {type(algorithm).__name__}; choose one of "
            f"{list(TIME_UNITS)} for SGD, 'gradient-flow' for GradientFlow"
        )
    if isinstance(algorithm, SGD) and not isinstance(algorithm.batch_size, int):
        raise BadParameter(
            f"batch_size = {algorithm.batch_size} grows with the dimension: pass dim=..., which "
            "gives the map of such steps"
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


def step_equations(
    model: Model, algorithm: SGD | GradientFlow, dim: int | sp.Expr, scaling: str | None
) -> Equations:
    """Map of the overlaps under steps of large batches."""
    if not isinstance(algorithm, SGD):
        raise BadParameter("a map in finite dimension is that of SGD; gradient flow has no steps")
    if scaling is not None:
        raise BadParameter(f"scaling = {scaling!r} belongs to an ode; with dim= leave it out")
    if algorithm.batch_size == 1:
        raise BadParameter(
            "batch_size = 1 is not of the order of the dimension: leave dim out for the ode in "
            "t = steps * gamma / (p d), or ask for fluctuations=True"
        )
    equations = Equations(
        kind="map",
        definitions=live(step_definitions(model, algorithm)),
        model=model,
        algorithm=algorithm,
        scaling="large batches",
        time_unit="t = steps; batch n_b of the order of d or larger, eta = gamma / d of order one",
        dim=as_dimension(dim),
    )
    _ = equations.parameters
    return equations


def as_dimension(dim: int | sp.Expr) -> sp.Expr:
    """Return an input dimension as SymPy: an integer, or a symbol that is given at run time."""
    if isinstance(dim, sp.Expr) and dim.free_symbols:
        return dim
    return sp.Integer(as_count(int(dim) if isinstance(dim, sp.Integer) else dim, "dim"))

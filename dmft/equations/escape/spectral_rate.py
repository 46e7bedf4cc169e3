"""`escape_rate`: growth of the first alignment at the uninformed state, with a spectrum."""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from dmft.equations.risk import population_risk
from dmft.errors import BadParameter, NotClosed
from dmft.model import Model, check_unflipped
from dmft.validation import checked

# Digits of P = sum_e c_e rho_e that are kept: where it is one, kernels close that do not elsewhere.
DIGITS = 12


@checked
def escape_rate(model: Model) -> sp.Expr:
    r"""Rate at which one unit leaves the uninformed state of gradient flow.

    Equation    dM/dt = Lambda M, Lambda = chi w*^T Sigma^2 w*/d = chi sum_e c_e^2 rho_e; there
                D^h = -2 dR/dQ = 0 fixes Q, and chi = -d^2R/dM^2, both at M = 0
    Scaling     t of the equations; learning_rate -> 0
    Valid for   one unit and one teacher with information exponent two, squared loss, no noise
                of the steps (with it, use `dmft.stability` at a point of `dmft.fixed_points`)
    Source      theory/structured_inputs (13)

    Parameters
    ----------
    model : Model
        With ``inputs=dmft.Spectrum(..., teacher=...)``, or without inputs (P stays a symbol).

    Returns
    -------
    sympy.Expr

    Raises
    ------
    BadParameter
    NotClosed
        Where the length at the uninformed state has no closed form.

    Notes
    -----
    With the noise of the steps, 1 = chi sum_e c_e^2 rho_e / (Lambda - c_e D^h). Q there and its
    limits are those without a spectrum at the rate gamma tr Sigma/d.

    Examples
    --------
    >>> import numpy as np, sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True) ** 2, width=1)
    >>> rho = np.array([0.5, 0.25])[:, None, None]
    >>> law = dmft.Spectrum([2.0, 0.5], [0.3, 0.7], teacher=rho)
    >>> dmft.escape_rate(dmft.Model(square, square, inputs=law))
    8.25000000000000
    >>> dmft.escape_rate(dmft.Model(square, square))
    4*P_11
    """
    units = (model.student, model.teacher)
    if model.reads_sequences or any(u.activation is None or u.width != 1 for u in units):
        raise BadParameter(
            "escape_rate is defined for one unit and one teacher unit: otherwise use "
            "dmft.stability(equations, dmft.fixed_points(equations, start)[0]).growth_rate"
        )
    check_unflipped(model, "escape rates are known")
    spectrum = model.spectrum
    if model.inputs is not None and spectrum is None:
        raise BadParameter("escape_rate takes inputs with a spectrum, or none; these are clusters")
    if spectrum is not None and spectrum.teacher is None:
        raise BadParameter(
            "the spectrum has no teacher: write dmft.Spectrum(eigenvalues, fractions, teacher=rho)"
        )
    risk = population_risk(replace(model, inputs=None)).explicit()
    Q, M, P = (risk.symbols[name] for name in ("Q_11", "M_11", "P_11"))
    value, along = risk.expr, P
    if spectrum is not None and spectrum.teacher is not None:
        c, rho = spectrum.eigenvalues, spectrum.teacher[:, 0, 0]
        value = value.subs(P, sp.nsimplify(round(float(c @ rho), DIGITS), rational=True))
        along = sp.Float(float(c**2 @ rho))
    drift = sp.diff(value, M).subs(M, 0)
    if sp.simplify(drift) != 0:
        raise BadParameter(
            "the information exponent is one: M grows from the start, and there is no "
            "uninformative state to escape from"
        )
    curved = sp.simplify(-sp.diff(value, M, 2).subs(M, 0))
    if curved == 0:
        raise BadParameter(
            "the information exponent is above two: M grows as a power of itself, without a rate"
        )
    chi = curved.subs(Q, _length(value.subs(M, 0), Q, P)) if curved.has(Q) else curved
    return sp.simplify(chi * along)


def _length(risk: sp.Expr, Q: sp.Symbol, P: sp.Symbol) -> sp.Expr:
    """Q at which the risk is least while nothing is learned."""
    try:
        roots = sp.solve(sp.diff(risk, Q), Q)
    except NotImplementedError:
        roots = []
    p = sp.Dummy("P", positive=True)
    found = [r for r in roots if r.subs(P, p).is_positive and not r.has(Q)]
    if len(found) != 1:
        raise NotClosed(
            f"the length of the uninformed student has {len(found)} closed forms: use "
            "dmft.fixed_points and dmft.stability"
        )
    return found[0]

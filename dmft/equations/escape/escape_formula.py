r"""`escape_formula`: how long a random start takes to learn anything, in closed form."""

from __future__ import annotations

import sympy as sp

from dmft.checks import checked
from dmft.equations.escape.facts import read_facts
from dmft.equations.escape.formula import EscapeFormula
from dmft.equations.escape.laws import law_of
from dmft.equations.escape.scope import as_committees
from dmft.errors import BadParameter
from dmft.model import SGD, GradientFlow, Model
from dmft.model.algorithm import as_parameter

# A rate this close to the maximal one, relatively, is at it.
ROUNDING = 1e-12


@checked
def escape_formula(
    model: Model, algorithm: SGD | GradientFlow, *, length: float | sp.Expr = 1
) -> EscapeFormula:
    r"""Derive the time of escape from a random start in closed form.

    Equation    dM/dt linearised (information exponent l = 2) or to its leading power (l >= 3,
                l = 1) around M = 0, Q = q I, integrated from u_0 to u_1
    Shapes      symbolic p, k, gamma, Delta are kept
    Scaling     t = steps * gamma / (p d), rates as gamma
    Valid for   weak recovery. l = 2: any width, students whose units start to learn one by one
                (E[sigma'] = 0, as even activations); any such activation on the sphere, quadratic
                ones with free lengths. l = 1 and l >= 3: one neuron on the sphere, any activation.
                `.validity` says more
    Source      theory/one_pass D.4, F; [arnaboldi_2023_mediocrity]; derivations/escape_formulas.py

    Parameters
    ----------
    model : Model
        Committees of equal readouts, or a target of one field; teachers orthonormal, P = I.
    algorithm : SGD or GradientFlow
    length : float or sympy.Expr
        q_0 = |w_j|^2 / d at the start, without constraint; 1 for random weights.

    Returns
    -------
    EscapeFormula
        ``.expr`` and ``.latex()`` of the time, ``.time(dim)`` as a number, rates and statistics.

    Raises
    ------
    BadParameter
        For models without such a formula (and what to do instead), and at a learning rate at or
        over the maximal one.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> g, D = sp.Symbol("gamma", positive=True), sp.Symbol("Delta", nonnegative=True)
    >>> p = sp.Symbol("p", integer=True, positive=True)
    >>> model = dmft.literature.phase_retrieval(p, label_noise=D)
    >>> formula = dmft.escape_formula(model, dmft.SGD(g, constraint="sphere"))
    >>> formula.optimal_learning_rate()
    p**3/(Delta*p**2 + 2*p**2 + 2*p + 8)
    """
    start = as_parameter(length, "length", positive=True)
    start = (
        sp.S.One if start.is_number and float(start) == 1.0 else start
    )  # 1.0 is another in SymPy
    if isinstance(algorithm, SGD | GradientFlow) and algorithm.on_sphere and start != 1:
        raise BadParameter(f"on the sphere the squared length is 1, got length = {length!r}")
    formula = EscapeFormula(law_of(read_facts(as_committees(model), algorithm), start), start)
    if isinstance(algorithm, SGD) and formula.exponent == 2:
        limit, rate = formula.maximal_learning_rate(), algorithm.learning_rate
        if limit.is_number and rate.is_number and not rate < (1 - ROUNDING) * limit:
            raise BadParameter(
                f"learning_rate = {float(rate):.6g} is at or over the maximal one, "
                f"{float(limit):.6g}: nothing is learned from a random start; the fastest is "
                f"{float(formula.optimal_learning_rate()):.6g}"
            )
    return formula

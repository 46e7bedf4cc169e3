"""Phase diagram of the two-token attention between positional and semantic learning."""

from __future__ import annotations

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter
from dmft.literature.two_tokens.curves import Boundaries, squared_boundaries
from dmft.literature.two_tokens.regions import positional_semantic_diagram
from dmft.literature.two_tokens.tables import TwoTokenRisk, alpha_of, check_omega
from dmft.literature.two_tokens.unsquared import UnsquaredRisk, unsquared_boundaries
from dmft.model import Attention, Encoding, Model, SequenceModel


def positional_semantic(a: float | sp.Expr, omega: float | sp.Expr) -> Model:
    r"""Attention over two tokens, between attending to content and to position.

    Equation    student T = softmax(h h^T) by rows, h_l = w.(x_l + p_l) / sqrt(d), p_1 = -p_2;
                target (1 - omega) T(h*) + omega softmax([[a^2, -a^2], [-a^2, a^2]])
    Scaling     t = steps * gamma / d; |w|^2 = |w*|^2 = d, |p| = 1, p orthogonal to w*
    Source      [arnaboldi_2025]

    Parameters
    ----------
    a : float or sympy.Symbol
        Strength of the positional target: alpha = 1 / (1 + exp(-2 a^2)) on its diagonal.
    omega : float in [0, 1] or sympy.Symbol
        Its weight.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> from dmft.literature import positional_semantic
    >>> model = positional_semantic(a=1.0, omega=0.5)
    >>> model.encoding.means, model.teacher.shape
    ((e, -e), (2, 2))
    """
    strength, weight = sp.sympify(a, strict=True), sp.sympify(omega, strict=True)
    if strength.is_number:
        alpha_of(float(strength))
    if weight.is_number:
        check_omega(float(weight))
    alpha = 1 / (1 + sp.exp(-2 * strength**2))
    student = Attention(2)
    target = student.mixture(weight, [[alpha, 1 - alpha], [1 - alpha, alpha]])
    return SequenceModel(student, target, encoding=Encoding([1, -1]))


def positional_semantic_risk(
    a: float, omega: float, loss: str = "squared"
) -> TwoTokenRisk | UnsquaredRisk:
    r"""Risk of the two-token attention as a function of the alignments, with its derivatives.

    Equation    R(e, m) = 1/2 E ||T - (1 - omega) T* - omega A||_F^2, T = softmax(h h^T) by rows,
                h = z + (e, -e), A = softmax([[a^2, -a^2], [-a^2, a^2]])
    Shapes      e and m of one shape; `.gradient` (..., 2), `.hessian` (..., 2, 2)
    Valid for   e^2 + m^2 <= 1; Hermite series to order 400, rounding below 1e-14
    Source      [arnaboldi_2025]; theory/sequence D.1

    Parameters
    ----------
    a : float
        Strength of the positional target.
    omega : float in [0, 1]
        Its weight.
    loss : {"squared", "frobenius"}
        With "frobenius" E ||T - (1 - omega) T* - omega A||_F, values only and to 1e-4, by sums over
        four fields (some 5 ms each).

    Examples
    --------
    >>> from dmft.literature import positional_semantic_risk
    >>> risk = positional_semantic_risk(a=1.0, omega=0.6)
    >>> float(risk(e=0.0, m=0.0).round(12)), risk.hessian(0.0, 0.0).round(9).tolist()
    (0.125786470158, [[-0.065592685, 0.0], [0.0, -0.088200935]])
    """
    record = UnsquaredRisk if _unsquared(loss) else TwoTokenRisk
    return record(float(a), float(omega))


def positional_semantic_regions(a: ArrayLike, omega: ArrayLike) -> NDArray[np.int64]:
    r"""Codes of the regions of the two-token attention.

    Equation    1 if the global minimum has e > 1/2, plus 2 if the steepest direction at e = m = 0
                is e, plus 4 if there is more than one minimum
    Shapes      a (na,) and omega (nw,) give (nw, na): rows run over omega
    Valid for   the loss 1/2 E ||T - T*||_F^2; exact minima on the circle, mixed ones included; at
                omega = 1 the limit from below
    Source      [arnaboldi_2025]; theory/sequence D.8

    Raises
    ------
    BadParameter
        For omega outside [0, 1] or a that is not finite.

    Examples
    --------
    >>> from dmft.literature import positional_semantic_regions
    >>> positional_semantic_regions(a=[0.7, 0.85, 1.0], omega=[0.5, 0.6, 0.7, 0.8, 0.9])
    array([[0, 0, 0],
           [0, 0, 4],
           [0, 0, 6],
           [0, 6, 7],
           [0, 7, 3]])
    """
    return positional_semantic_diagram(a, omega).codes


def positional_semantic_boundaries(a: ArrayLike, loss: str = "squared") -> Boundaries:
    r"""Boundary curves omega(a) of the phase diagram of the two-token attention.

    Equation    squared loss: omega = A / (B + C alpha), alpha = sigmoid(2 a^2), for stability,
                equality and direction; fold and coexistence parametric in e^2
    Shapes      a (na,); every curve (na,)
    Source      [arnaboldi_2025]; theory/sequence D.6, D.7

    Parameters
    ----------
    a : array
    loss : {"squared", "frobenius"}
        1/2 E ||T - T*||_F^2, or E ||T - T*||_F as the published code trains: its curves come from
        sums over four fields, to five digits, in seconds for each a. Fold, coexistence and
        `transition` are known for the squared loss only and nan for the other.

    Examples
    --------
    >>> from dmft.literature import positional_semantic_boundaries
    >>> curves = positional_semantic_boundaries(1.0)
    >>> [round(float(x), 9) for x in (curves.positional, curves.equal, curves.semantic)]
    [0.508214237, 0.737606829, 0.841605404]
    """
    return unsquared_boundaries(a) if _unsquared(loss) else squared_boundaries(a)


def _unsquared(loss: str) -> bool:
    if loss not in ("squared", "frobenius"):
        raise BadParameter(f"loss = {loss!r} is not known here: use 'squared' or 'frobenius'")
    return loss == "frobenius"

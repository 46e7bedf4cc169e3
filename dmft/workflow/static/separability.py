"""`separability`: up to which number of samples binary labels are linearly separable."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

from dmft.errors import BadParameter
from dmft.gaussian.channels.declared import Label, label_of
from dmft.model import Model
from dmft.record import Archived
from dmft.validation import checked
from dmft.workflow.static.replica import LabelNodes

# Points of panels: the two results give the error.
POINTS = (24, 36)
# Labels whose probability of disagreeing with the teacher's half space is less never do.
NEVER = 1e-15
# Largest root of the ratio of signal to noise.
FARTHEST = 1e3


@dataclass(frozen=True, eq=False)
class Separability(Archived):
    """Number of samples per dimension below which labels +1 and -1 are linearly separable.

    Attributes
    ----------
    value : float
        Samples per dimension; infinite for noiseless labels of a half space.
    error : float
    proof : "closed form" or "quadrature"
    ratio : float
        Component of the separating direction along the teacher, divided by its orthogonal
        component, at the threshold.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> coin = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.sign(z), [z]), label_flip=0.5)
    >>> round(float(dmft.separability(coin)), 9)
    2.0
    """

    value: float
    error: float
    proof: str
    ratio: float

    KIND = "dmft separability"

    def __float__(self) -> float:
        return self.value


@checked
def separability(model: Model) -> Separability:
    r"""Compute the number of samples per dimension below which the labels are linearly separable.

    Equation    1/alpha_sep = min_t E[(Z - t y h*)_+^2] = min_t E[(1 + u^2) Phi(u) + u phi(u)],
                u = -t y h*
    Valid for   labels +1 and -1 of one teacher field, drawn or flipped; d -> infinity. Below it
                maximum likelihood has no finite solution
    Source      theory/static_limits (16)

    Parameters
    ----------
    model : Model
        Model with labels +1 and -1, or with ``label_channel=``.

    Returns
    -------
    Separability
        `.value` (also by `float`) and `.error`.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z, f = sp.symbols("z f", real=True)
    >>> line, logit = dmft.Committee(z, 1), 1 / (1 + sp.exp(-2 * f))
    >>> model = dmft.Model(line, dmft.MultiIndex(z, [z]), label_channel=logit)
    >>> round(float(dmft.separability(model)), 6)
    2.899138
    """
    label = label_of(model, "separability")
    if label.width > 1:
        raise BadParameter(
            f"separability is derived for labels of one teacher field; {label.expr} has "
            f"{label.width}"
        )
    label.check_numbers()
    if not has_sign_labels(label):
        raise BadParameter(
            f"separability is defined for labels +1 and -1 without additive noise; the label is "
            f"{label.expr}, label_noise = {label.noise}"
        )
    return separability_of(label)


def has_sign_labels(label: Label) -> bool:
    """Whether labels are +1 or -1."""
    return label.drawn or (label.noise == 0 and LabelNodes.of(label, 4).signs)


def separability_of(label: Label) -> Separability:
    """The border of labels +1 and -1 of one field."""
    found = []
    for points in POINTS:
        nodes = LabelNodes.of(label, points)
        field = nodes.y * nodes.u
        share = float(np.sum(nodes.weight[field < 0.0]))
        if share < NEVER or 1.0 - share < NEVER:
            return Separability(math.inf, 0.0, "closed form", math.inf)
        if float(label.flip) == 0.5:
            return Separability(2.0, 0.0, "closed form", 0.0)

        # Convex in t, the least value has the sign of E[y h*].
        field = math.copysign(1.0, float(np.sum(nodes.weight * field))) * field
        best = minimize_scalar(_missed, args=(field, nodes.weight), bounds=(0.0, FARTHEST),
                               method="bounded", options={"xatol": 1e-10})  # fmt: skip
        found.append((float(1.0 / best.fun), float(best.x**2)))
    (last, ratio), error = found[-1], abs(found[-1][0] - found[-2][0])
    return Separability(last, error + 4e-15 * last, "quadrature", ratio)


def _missed(root: float, field: np.ndarray, weight: np.ndarray) -> float:
    """E[(Z - t y h*)_+^2] at t = root^2."""
    u = -(root**2) * field
    density = np.exp(-0.5 * u * u) / math.sqrt(2.0 * math.pi)
    return float(np.sum(weight * ((1.0 + u * u) * ndtr(u) + u * density)))

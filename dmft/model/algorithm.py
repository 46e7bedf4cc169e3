"""Declarations of training algorithms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import sympy as sp

from dmft.errors import BadParameter

Constraint = Literal["sphere"] | None


def as_parameter(value: float | sp.Expr, name: str, *, positive: bool = False) -> sp.Expr:
    """Return a number or an expression as SymPy, refusing what cannot be this parameter."""
    try:
        result = sp.sympify(value, strict=True)
    except sp.SympifyError as error:
        raise BadParameter(f"{name} must be a number or a SymPy symbol, got {value!r}") from error
    if not isinstance(result, sp.Expr):
        raise BadParameter(f"{name} must be a number or a SymPy symbol, got {value!r}")
    if result.is_negative:
        raise BadParameter(f"{name} must be non-negative, got {value!r}")
    if result.is_real is False:
        raise BadParameter(f"{name} must be real and finite, got {value!r}")
    if result.is_number:
        if not (result.is_real and result.is_finite):
            raise BadParameter(f"{name} must be real and finite, got {value!r}")
        if positive and float(result) == 0:
            raise BadParameter(f"{name} must be positive, got {value!r}")
    return result


def as_count(value: int, name: str) -> int:
    """Return an integer that is at least 1; NumPy's and whole floats (1e3) are welcome."""
    number = isinstance(value, int | float | np.integer | np.floating)
    if number and not isinstance(value, bool) and float(value).is_integer() and value >= 1:
        return int(value)
    raise BadParameter(f"{name} must be an integer >= 1, got {value!r}")


def _check_constraint(constraint: str | None) -> None:
    if constraint not in (None, "sphere"):
        raise BadParameter(f'constraint must be None or "sphere", got {constraint!r}')


@dataclass(frozen=True)
class SGD:
    r"""One-pass stochastic gradient descent on the squared loss.

    One step is w_j <- w_j + gamma/(p n_b) sum_mu psi_j^mu x^mu / sqrt(d), with
    psi_j = a_j sigma'(h_j) (y - f); time is t = steps * gamma / (p d).

    Parameters
    ----------
    learning_rate : float or sympy.Expr
        gamma > 0.
    batch_size : int
        n_b >= 1 fresh samples a step, of order one as d grows.
    loss : "squared"
        1/2 (y - f)^2.
    constraint : None or "sphere"
        "sphere" divides each w_j by its length after the step, |w_j|^2 = d.

    Examples
    --------
    >>> import dmft
    >>> dmft.SGD(learning_rate=0.5).batch_size
    1
    """

    learning_rate: sp.Expr
    batch_size: int = 1
    loss: Literal["squared"] = "squared"
    constraint: Constraint = None

    def __post_init__(self) -> None:
        rate = as_parameter(self.learning_rate, "learning_rate", positive=True)
        object.__setattr__(self, "learning_rate", rate)
        object.__setattr__(self, "batch_size", as_count(self.batch_size, "batch_size"))
        if self.loss != "squared":
            raise BadParameter(f'loss must be "squared", got {self.loss!r}')
        _check_constraint(self.constraint)


@dataclass(frozen=True)
class GradientFlow:
    """Gradient flow of the population risk: the limit gamma/p -> 0 of one-pass SGD.

    Examples
    --------
    >>> import dmft
    >>> dmft.GradientFlow(constraint="sphere").constraint
    'sphere'
    """

    constraint: Constraint = None

    def __post_init__(self) -> None:
        _check_constraint(self.constraint)

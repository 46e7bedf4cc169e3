"""Compiled activations and targets with the values of their parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sympy as sp
from numpy.typing import NDArray

Compiled = Callable[..., float]


@dataclass(frozen=True)
class Activation:
    """A compiled activation with the values of its parameters.

    A function g(z1, ..., zk) of several fields takes z1 as its field; its parameters begin with
    room for z2, ..., zk.
    """

    value: Compiled
    slope: Compiled
    parameters: NDArray[np.float64]
    # Degree in the field (of several: total), or None when the activation is not a polynomial.
    degree: int | None
    expr: sp.Expr
    # Fields of a multi-index target; 0 for the activation of a committee.
    fields: int = 0

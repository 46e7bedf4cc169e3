"""Activations with their derivatives and breaks, written out by hand for the judge.

Only `expression` is for the library; the judge uses `value`, `slope` and `kinks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import sympy as sp
from scipy.special import erf, expit, ndtr

z = sp.Symbol("z", real=True)
SQRT_2 = np.sqrt(2.0)


class Activation(NamedTuple):
    """A function of one field, as the judge knows it."""

    expression: sp.Expr
    value: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray] | None  # None: only a teacher may have jumps
    kinks: tuple[float, ...] = ()
    layers: tuple[float, ...] = ()  # where it changes within a distance of order one
    largest: float = 2.0**20  # variance up to which it is judged


def _safe_exp(x: np.ndarray) -> np.ndarray:
    """exp of what is negative; the other side is chosen elsewhere."""
    return np.exp(np.minimum(x, 0.0))


def _normal(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(z, lambda x: x, np.ones_like),
    "he2": Activation(z**2 - 1, lambda x: x * x - 1, lambda x: 2 * x),
    "he3": Activation(z**3 - 3 * z, lambda x: x**3 - 3 * x, lambda x: 3 * x * x - 3),
    "erf": Activation(
        sp.erf(z / sp.sqrt(2)), lambda x: erf(x / SQRT_2), lambda x: 2 * _normal(x), (), (0.0,)
    ),
    "relu": Activation(sp.Max(0, z), lambda x: np.maximum(x, 0), lambda x: 1.0 * (x > 0), (0.0,)),
    "abs": Activation(sp.Abs(z), np.abs, np.sign, (0.0,)),
    "leaky": Activation(
        sp.Piecewise((z / 10, z < 0), (z, True)),
        lambda x: np.where(x < 0, 0.1 * x, x),
        lambda x: np.where(x < 0, 0.1, 1.0),
        (0.0,),
    ),
    "hard_tanh": Activation(
        sp.Max(-1, sp.Min(1, z)),
        lambda x: np.maximum(-1, np.minimum(1, x)),
        lambda x: 1.0 * (np.abs(x) < 1),
        (-1.0, 1.0),
    ),
    "hat": Activation(
        sp.Max(0, 1 - sp.Abs(z)),
        lambda x: np.maximum(0, 1 - np.abs(x)),
        lambda x: -np.sign(x) * (np.abs(x) < 1),
        (-1.0, 0.0, 1.0),
    ),
    "biased_relu": Activation(
        sp.Max(0, z - sp.Rational(1, 2)),
        lambda x: np.maximum(0, x - 0.5),
        lambda x: 1.0 * (x > 0.5),
        (0.5,),
    ),
    "sign": Activation(sp.sign(z), np.sign, None, (0.0,)),
    "step": Activation(sp.Heaviside(z), lambda x: 1.0 * (x > 0), None, (0.0,)),
    "sin": Activation(sp.sin(z), np.sin, np.cos, largest=16.0),
    "cos": Activation(sp.cos(z), np.cos, lambda x: -np.sin(x), largest=16.0),
    "gaussian": Activation(
        sp.exp(-(z**2) / 2),
        lambda x: np.exp(-0.5 * x * x),
        lambda x: -x * np.exp(-0.5 * x * x),
        (),
        (0.0,),
    ),
    "gelu": Activation(
        z * (1 + sp.erf(z / sp.sqrt(2))) / 2,
        lambda x: x * ndtr(x),
        lambda x: ndtr(x) + x * _normal(x),
        (),
        (0.0,),
    ),
    "tanh": Activation(
        sp.tanh(z), np.tanh, lambda x: 1 - np.tanh(x) ** 2, (), (0.0,), largest=512.0
    ),
    "sigmoid": Activation(
        1 / (1 + sp.exp(-z)),
        expit,
        lambda x: expit(x) * expit(-x),
        (),
        (0.0,),
        largest=512.0,
    ),
    "softplus": Activation(
        sp.log(1 + sp.exp(z)), lambda x: np.logaddexp(0, x), expit, (), (0.0,), largest=512.0
    ),
    "silu": Activation(
        z / (1 + sp.exp(-z)),
        lambda x: x * expit(x),
        lambda x: expit(x) * (1 + x * expit(-x)),
        (),
        (0.0,),
        largest=512.0,
    ),
    "elu": Activation(
        sp.Piecewise((sp.exp(z) - 1, z < 0), (z, True)),
        lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x),
        lambda x: np.where(x < 0, _safe_exp(x), 1.0),
        (0.0,),
        (0.0,),
    ),
    "selu": Activation(
        sp.Float(SELU_SCALE) * sp.Piecewise((SELU_ALPHA * (sp.exp(z) - 1), z < 0), (z, True)),
        lambda x: SELU_SCALE * np.where(x < 0, SELU_ALPHA * np.expm1(np.minimum(x, 0)), x),
        lambda x: SELU_SCALE * np.where(x < 0, SELU_ALPHA * _safe_exp(x), 1.0),
        (0.0,),
        (0.0,),
    ),
    "ramp_decay": Activation(
        sp.Max(0, z) * sp.exp(-z),
        lambda x: np.maximum(x, 0) * _safe_exp(-x),
        lambda x: (x > 0) * (1 - x) * _safe_exp(-x),
        (0.0,),
        (0.0,),
    ),
    "saturating": Activation(
        sp.Piecewise((0, z < 0), (1 - sp.exp(-z), True)),
        lambda x: -np.expm1(-np.maximum(x, 0)),
        lambda x: (x > 0) * _safe_exp(-x),
        (0.0,),
        (0.0,),
    ),
    "step_decay": Activation(
        sp.Heaviside(z) * sp.exp(-z), lambda x: (x > 0) * _safe_exp(-x), None, (0.0,), (0.0,)
    ),
}


# Activations of the form z g(z), which no closed form takes apart.
GATED: dict[str, Activation] = {
    "silu": ACTIVATIONS["silu"],
    "gelu": ACTIVATIONS["gelu"],
    "z tanh": Activation(
        z * sp.tanh(z), lambda x: x * np.tanh(x), lambda x: np.tanh(x) + x * (1 - np.tanh(x) ** 2)
    ),
    "z exp": Activation(
        z * sp.exp(-(z**2)),
        lambda x: x * np.exp(-x * x),
        lambda x: (1 - 2 * x * x) * np.exp(-x * x),
    ),
    "z sin": Activation(
        z * sp.sin(z), lambda x: x * np.sin(x), lambda x: np.sin(x) + x * np.cos(x)
    ),
}

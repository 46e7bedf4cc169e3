"""Losses, labels, channels and schedules, for the library as text, for the judge in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import erf, expit

Array = np.ndarray


class Loss(NamedTuple):
    """A loss as the library takes it, l(f, y) and -dl/df."""

    text: str
    value: Callable[[Array, Array], Array]
    pull: Callable[[Array, Array], Array]


def _clip(r: Array) -> Array:
    return np.clip(r, -1, 1)


LOSSES = {
    "squared": Loss('"squared"', lambda f, y: (f - y) ** 2 / 2, lambda f, y: y - f),
    "correlation": Loss('"correlation"', lambda f, y: 1 - f * y, lambda f, y: y + 0 * f),
    "huber": Loss(
        '"huber"',
        lambda f, y: np.where(abs(f - y) < 1, (f - y) ** 2 / 2, abs(f - y) - 0.5),
        lambda f, y: _clip(y - f),
    ),
    "logistic": Loss(
        '"logistic"', lambda f, y: np.logaddexp(0, -f * y), lambda f, y: y * expit(-f * y)
    ),
    "hinge": Loss(
        '"hinge"', lambda f, y: np.maximum(0, 1 - f * y), lambda f, y: y * (f * y < 1)
    ),
    "cubic": Loss(
        "(f - y)**3/6 + (f - y)**2/2",
        lambda f, y: (f - y) ** 3 / 6 + (f - y) ** 2 / 2,
        lambda f, y: -((f - y) ** 2) / 2 - (f - y),
    ),
    "quartic": Loss("(f - y)**4/4", lambda f, y: (f - y) ** 4 / 4, lambda f, y: (y - f) ** 3),
    "log cosh": Loss(
        "log(cosh(f - y))",
        lambda f, y: np.logaddexp(f - y, y - f) - np.log(2),
        lambda f, y: np.tanh(y - f),
    ),
    "pseudo-Huber": Loss(
        "sqrt(1 + (f - y)**2)",
        lambda f, y: np.sqrt(1 + (f - y) ** 2),
        lambda f, y: (y - f) / np.sqrt(1 + (f - y) ** 2),
    ),
    "absolute": Loss("Abs(f - y)", lambda f, y: abs(f - y), lambda f, y: np.sign(y - f)),
    "margin": Loss(
        "(1 - f*y)**2/2", lambda f, y: (1 - f * y) ** 2 / 2, lambda f, y: y * (1 - f * y)
    ),
    "savage": Loss(
        "1/(1 + exp(f*y))**2",
        lambda f, y: expit(-f * y) ** 2,
        lambda f, y: 2 * y * expit(f * y) * expit(-f * y) ** 2,
    ),
    "exponential": Loss("exp(-f*y)", lambda f, y: np.exp(-f * y), lambda f, y: y * np.exp(-f * y)),
}  # fmt: skip


def _share(f: Array) -> Array:
    share = np.exp(f - f.max(axis=-1, keepdims=True))
    return share / share.sum(axis=-1, keepdims=True)


def _margins(f: Array, y: Array) -> Array:
    return (1 - y) * np.maximum(0, 1 + f - (f * y).sum(-1, keepdims=True))


def _pull_of_margins(f: Array, y: Array) -> Array:
    beyond = (1 - y) * (1 + f - (f * y).sum(-1, keepdims=True) > 0)
    return y * beyond.sum(-1, keepdims=True) - beyond


def _text_of_margins(count: int) -> str:
    numbers = range(1, count + 1)
    right = " - ".join(f"f{o}*y{o}" for o in numbers)
    return " + ".join(f"(1 - y{o})*Max(0, 1 + f{o} - {right})" for o in numbers)


def _text_of_binary(count: int) -> str:
    return " + ".join(f"log(1 + exp((1 - 2*y{o})*f{o}))" for o in range(1, count + 1))


# Of several outputs f (..., o), with labels y (..., o) that are one for the class and else zero.
LOSSES_OF_OUTPUTS = {
    "squared": Loss('"squared"', lambda f, y: ((f - y) ** 2).sum(-1) / 2, lambda f, y: y - f),
    "correlation": Loss(
        '"correlation"', lambda f, y: 1 - (f * y).sum(-1), lambda f, y: y + 0 * f
    ),
    "cross-entropy": Loss(
        '"cross-entropy"',
        lambda f, y: np.log(np.exp(f).sum(-1)) - (f * y).sum(-1),
        lambda f, y: y - _share(f),
    ),
    "margins": Loss("", lambda f, y: _margins(f, y).sum(-1), _pull_of_margins),
    "binary": Loss(
        "",
        lambda f, y: np.logaddexp(0, (1 - 2 * y) * f).sum(-1),
        lambda f, y: (2 * y - 1) * expit((1 - 2 * y) * f),
    ),
}  # fmt: skip
TEXTS_OF_OUTPUTS = {"margins": _text_of_margins, "binary": _text_of_binary}


class Label(NamedTuple):
    """A function of the teacher fields a and b, the last axis of the argument."""

    text: str
    value: Callable[[Array], Array]


TARGETS = (
    Label("a*b", lambda u: u[..., 0] * u[..., 1]),
    Label("a + a*b", lambda u: u[..., 0] * (1 + u[..., 1])),
    Label("a**3 - 3*a + b**2", lambda u: u[..., 0] ** 3 - 3 * u[..., 0] + u[..., 1] ** 2),
    Label("sin(a) + b**2", lambda u: np.sin(u[..., 0]) + u[..., 1] ** 2),
    Label("tanh(a)*b", lambda u: np.tanh(u[..., 0]) * u[..., 1]),
    Label("sign(a)*sign(b)", lambda u: np.sign(u[..., 0]) * np.sign(u[..., 1])),
    Label("Max(0, a)*b", lambda u: np.maximum(u[..., 0], 0) * u[..., 1]),
)
LABELS_OF_CLUSTERS = (
    Label("a", lambda u: u[..., 0]),
    Label("a**2", lambda u: u[..., 0] ** 2),
    Label("sin(a)", lambda u: np.sin(u[..., 0])),
    Label("sign(a)", lambda u: np.sign(u[..., 0])),
    Label("Max(a, 0)", lambda u: np.maximum(u[..., 0], 0)),
    Label("tanh(a)", lambda u: np.tanh(u[..., 0])),
    Label("0.5", lambda u: 0.5 + 0 * u[..., 0]),
    Label("-1", lambda u: -1 + 0 * u[..., 0]),
)
# P(y = 1) at the teacher's output; the last one for outputs in [-1, 1].
CHANNELS = (
    Label("1/(1 + exp(-2*f))", lambda g: expit(2 * g)),
    Label("(1 + erf(f/sqrt(2)))/2", lambda g: (1 + erf(g / np.sqrt(2))) / 2),
    Label("(1 + 4*f/5)/2", lambda g: (1 + 0.8 * g) / 2),
)
SCHEDULES = (
    Label("{}/(1 + t/2)", lambda t: 1 / (1 + t / 2)),
    Label("{}*exp(-t)", lambda t: np.exp(-t)),
    Label("{}*(1 + sin(3*t)/2)", lambda t: 1 + np.sin(3 * t) / 2),
)

"""The label of a declared model: its expression, fields, noise and flips, as numbers.

A label of one field and of the signs of others is a mixture of functions of that field.

Equation    y = g(z_U, s), s = signs of z_perp: P(y | z_U) = 2^-n sum_s P(y | g(z_U, s)), and
            E[z_i z_j | y, omega_U] = (2/pi) E[s_i s_j | y, omega_U] for i != j in perp
Source      theory/static_limits 3.4
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.channels.channel import Channel
from dmft.model.inputs.spectrum import Spectrum
from dmft.model.model import Model
from dmft.model.network import Committee, MultiIndex, teacher_fields

# E|z| of a normal variable.
SIZE = float(np.sqrt(2 / np.pi))
NODES = 40


@dataclass(frozen=True)
class Label:
    """y = g(h*) with flips and noise; `drawn` where g is the mean of labels +1 and -1."""

    expr: sp.Expr
    fields: tuple[sp.Symbol, ...]
    noise: sp.Expr
    flip: sp.Expr
    drawn: bool

    @property
    def width(self) -> int:
        """Number of teacher fields."""
        return len(self.fields)

    def channel(self, prior_variance: float = 1.0) -> Channel:
        """The channel of a label of one field."""
        if self.width > 1:
            raise BadParameter(
                f"{self.expr} is a function of {self.width} fields: this requires a label of one "
                "field"
            )
        self.check_numbers()
        noise, flip = float(self.noise), float(self.flip)
        return Channel(self.expr, self.fields[0], noise, flip, self.drawn, prior_variance)

    def of_mixed_fields(self, mixing: NDArray[np.float64]) -> Label:
        """The label in normal fields z where its own are mixing @ z."""
        own = sp.Matrix(mixing) * sp.Matrix(self.fields)
        images = dict(zip(self.fields, own, strict=True))
        return replace(self, expr=self.expr.xreplace(images))

    def check_numbers(self) -> None:
        """Refuse symbols beside the fields."""
        free = self.expr.free_symbols | self.noise.free_symbols | self.flip.free_symbols
        if missing := sorted(free - set(self.fields), key=str):
            raise BadParameter(
                f"{missing[0]} has no value: static limits are numbers, so write values into the "
                f"teacher, label_noise and label_flip (expr.subs({missing[0]}, ...))"
            )


def label_of(model: Model, what: str, spectrum: bool = False) -> Label:
    """The label that a model's teacher writes, for inputs x ~ N(0, I_d) or with a spectrum."""
    if not isinstance(model, Model):
        raise BadParameter(f"{what} takes a dmft.Model, got {model!r:.80}")
    if model.reads_sequences:
        raise BadParameter(f"{what} is defined for dmft.Model, not for sequence models")
    teacher = model.teacher
    known = model.inputs is None or (spectrum and isinstance(model.inputs, Spectrum))
    if not (isinstance(teacher, Committee | MultiIndex) and known):
        raise BadParameter(
            f"{what} is derived for inputs x ~ N(0, I_d); the model has {model.inputs!r:.80}: "
            "leave inputs out; dmft.population_risk, dmft.derive and dmft.simulate take them"
        )
    if isinstance(teacher, Committee) and teacher.outputs > 1:
        raise BadParameter(
            f"{what} is derived for teachers of one output; this one has {teacher.outputs}"
        )
    if not teacher.width.is_Integer:
        raise BadParameter(f"{what} needs a numeric teacher width, got {teacher.width}")
    fields = teacher_fields(int(teacher.width))
    expr = sp.sympify(teacher.outputs_at(fields)[0], strict=True)
    return Label(expr, fields, model.label_noise, model.label_flip, model.draws_labels)


@dataclass(frozen=True, eq=False)
class SignedLabel:
    """A label of field `number` of k and of the signs of the other fields."""

    expr: sp.Expr
    fields: tuple[sp.Symbol, ...]
    number: int
    noise: float
    flip: float

    @property
    def others(self) -> list[int]:
        """Fields of which the label sees the sign alone."""
        return [n for n in range(len(self.fields)) if n != self.number]

    @cached_property
    def patterns(self) -> list[tuple[int, ...]]:
        """Signs of these fields."""
        return list(product((1, -1), repeat=len(self.others)))

    @cached_property
    def channels(self) -> list[Channel]:
        """The channel for each pattern of signs."""
        return [self._channel([pattern]) for pattern in self.patterns]

    @cached_property
    def channel(self) -> Channel:
        """The channel of the one field, whatever the signs."""
        return self._channel(self.patterns)

    def _channel(self, patterns: list[tuple[int, ...]]) -> Channel:
        cases: dict[sp.Expr, float] = {}
        flips = ((1, 1.0 - self.flip), (-1, self.flip)) if self.flip else ((1, 1.0),)
        for pattern in patterns:
            signs = {
                self.fields[n]: sp.Integer(s) for n, s in zip(self.others, pattern, strict=True)
            }
            for sign, chance in flips:
                if chance == 0.0:
                    continue
                expr = sign * self.expr.xreplace(signs)
                cases[expr] = cases.get(expr, 0.0) + chance / len(patterns)
        mixture = tuple((p, expr) for expr, p in cases.items())
        return Channel(self.expr, self.fields[self.number], self.noise, mixture=mixture)

    def given(self, y: Array, omega: Array, variance: Array) -> tuple[Array, Array]:
        """E[z | y, omega] (k, ...) and E[z z^T - I | y, omega] (k, k, ...), standardised.

        The field itself is counted from omega, in units of sqrt(V).
        """
        found = [c.moments(y, omega, variance) for c in self.channels]
        logs = np.array([m.log_z for m in found])
        share = np.exp(logs - np.max(np.where(np.isfinite(logs), logs, -1e300), axis=0))
        share = share / share.sum(axis=0)
        k = len(self.fields)
        first, second = np.zeros((k, *share.shape[1:])), np.zeros((k, k, *share.shape[1:]))
        for part, pattern, moments in zip(share, self.patterns, found, strict=True):
            # Given its sign, each of the other fields has mean +-SIZE and is independent.
            mean = np.zeros((k, *part.shape))
            mean[self.others] = SIZE * np.reshape(pattern, (-1,) + (1,) * part.ndim)
            mean[self.number] = moments.first
            product = mean[:, None] * mean
            product[np.arange(k), np.arange(k)] = 0.0
            product[self.number, self.number] = moments.second - 1.0
            first, second = first + part * mean, second + part * product
        return first, second

    def around(self, overlap: float, variance: float | None = None) -> tuple[Array, Array]:
        """E[M M^T] (k, k) and E[G x G] (k^2, k^2) of these, omega ~ N(0, q)."""
        k = len(self.fields)
        left = np.array(1.0 - overlap if variance is None else variance)
        table = np.zeros((k + k * k,) * 2)
        for _, y, omega, weight in self.channel.nodes(overlap, left, None if overlap else NODES):
            first, second = self.given(y, omega, left)
            rows = np.concatenate([first.reshape(k, -1), second.reshape(k * k, -1)])
            weight = weight.ravel()
            rows = np.where(weight > 0, rows, 0.0)
            table += (weight * rows) @ rows.T
        second = table[k:, k:].reshape(k, k, k, k).swapaxes(1, 2).reshape(k * k, k * k)
        return table[:k, :k], second


def signed_label(
    expr: sp.Expr, fields: tuple[sp.Symbol, ...], noise: float, flip: float
) -> SignedLabel | None:
    """The label in this form; None where more than one field enters by its size."""
    sized = []
    for number, z in enumerate(fields):
        size = sp.Symbol("size", positive=True)
        if expr.xreplace({z: size * z}).has(size):
            sized.append(number)
    if len(sized) != 1 or len(fields) < 2:
        return None
    return SignedLabel(expr, fields, sized[0], noise, flip)

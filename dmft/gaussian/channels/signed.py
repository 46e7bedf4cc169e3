"""Labels of one field and of the signs of others: a mixture of functions of that field.

Equation    y = g(z_U, s), s = signs of z_perp: P(y | z_U) = 2^-n sum_s P(y | g(z_U, s)), and
            E[z_i z_j | y, omega_U] = (2/pi) E[s_i s_j | y, omega_U] for i != j in perp
Source      theory/static_limits 3.4
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import sympy as sp

from dmft.gaussian.channels.branches import Moments
from dmft.gaussian.channels.channel import Channel
from dmft.gaussian.nodes.line import Array

# E|z| of a normal variable.
SIZE = float(np.sqrt(2 / np.pi))
NODES = 40


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
                expr = sign * self.expr.xreplace(signs)
                cases[expr] = cases.get(expr, 0.0) + chance / len(patterns)
        mixture = tuple((p, expr) for expr, p in cases.items())
        return Channel(self.expr, self.fields[self.number], self.noise, mixture=mixture)

    def moments(self, y: Array, omega: Array, variance: Array) -> tuple[Array, list[Moments]]:
        """Probability of each pattern given y and omega, and moments of the field within it."""
        found = [c.moments(y, omega, variance) for c in self.channels]
        logs = np.array([m.log_z for m in found])
        share = np.exp(logs - np.max(np.where(np.isfinite(logs), logs, -1e300), axis=0))
        return share / share.sum(axis=0), found

    @cached_property
    def uninformed(self) -> tuple[Array, Array]:
        """E[M M^T] and E[G x G] at q = 0, as `Several.uninformed`."""
        y, weight = self.channel.rule(np.zeros(1), 1.0, NODES)
        share, found = self.moments(y[0], np.zeros(()), np.ones(()))
        k, u = len(self.fields), self.number
        m, g = np.zeros((k, y.shape[1])), np.zeros((k, k, y.shape[1]))
        for p, pattern, moments in zip(share, self.patterns, found, strict=True):
            signs = np.zeros(k)
            signs[self.others] = pattern
            m[u] += p * moments.first
            g[u, u] += p * (moments.second - 1.0)
            for i in self.others:
                m[i] += p * SIZE * signs[i]
                g[i, u] += p * SIZE * signs[i] * moments.first
                g[u, i] = g[i, u]
                for j in self.others:
                    g[i, j] += p * SIZE**2 * signs[i] * signs[j] * (i != j)
        return (
            np.einsum("b,ib,jb->ij", weight[0], m, m),
            np.einsum("b,ijb,klb->ikjl", weight[0], g, g).reshape(k * k, k * k),
        )

    def around(self, overlap: float, variance: float | None = None) -> tuple[Array, Array]:
        """E[M M^T] and E[G x G] of the signs' fields, given y and omega_U ~ N(0, q)."""
        n = len(self.others)
        signs = np.array(self.patterns, dtype=float)
        rows = [SIZE * signs[:, i] for i in range(n)]
        pairs = [SIZE**2 * signs[:, i] * signs[:, j] * (i != j) for i in range(n) for j in range(n)]
        return (
            self._products(rows, overlap, variance),
            self._products(pairs, overlap, variance)
            .reshape(n, n, n, n)
            .swapaxes(1, 2)
            .reshape(n * n, n * n),
        )

    def _products(self, rows: list[Array], overlap: float, variance: float | None) -> Array:
        """E[E[a | y] E[b | y]] of functions of the signs."""
        table = np.zeros((len(rows), len(rows)))
        for i, a in enumerate(rows):
            for j, b in enumerate(rows[: i + 1]):
                if not (a.any() and b.any()):
                    continue

                def both(_: Moments, v: Array, y: Array, omega: Array, a=a, b=b) -> Array:  # type: ignore[no-untyped-def]
                    share = self.moments(y, omega, v)[0]
                    return np.asarray(np.tensordot(a, share, 1) * np.tensordot(b, share, 1))

                table[i, j] = table[j, i] = self.channel.average(both, overlap, None, variance)
        return table


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

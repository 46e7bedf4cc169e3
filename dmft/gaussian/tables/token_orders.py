"""Orders D_k of the overlap of a target and a sequence student, with the tensors that make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import factorial

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.exponents.coefficients import (
    Index,
    factorials,
    indices,
    polynomial_coefficients,
)
from dmft.gaussian.tables.token_grid import (
    MOST_TOKENS,
    GridFunctions,
    field_coefficients,
    token_grid,
)
from dmft.gaussian.tables.tokens import field_series
from dmft.model import Attention, SequenceNetwork
from dmft.model.sequence import TokenFunction

Line = list[dict[Index, sp.Expr]]


@dataclass(frozen=True)
class Coefficients:
    """E[g He_n] of each output by multi-index, up to an order; all beyond vanish if `complete`."""

    outputs: Line
    exact: bool
    order: int
    complete: bool = False

    def norm(self, k: int) -> float:
        """Size of the tensors of order k: sqrt(sum_|n|=k c_n^2 / n!)."""
        total = sum(
            float(c) ** 2 / factorials(n) for y in self.outputs for n, c in y.items() if sum(n) == k
        )
        return float(np.sqrt(total))

    def tensor(self, k: int) -> Array:
        """Tensor C_k (outputs, L, ..., L) of order k."""
        length = len(next(iter(self.outputs[0]), ()))
        result = np.zeros((len(self.outputs), *[length] * k))
        for slots in product(range(length), repeat=k):
            n = tuple(slots.count(i) for i in range(length))
            for place, y in enumerate(self.outputs):
                result[(place, *slots)] = float(y.get(n, 0.0))
        return result


def overlap(target: Coefficients, student: Coefficients, k: int) -> sp.Expr:
    """D_k = sum over |n| = k and outputs of c*_n c_n / n!."""
    terms = [
        c * other[n] / factorials(n)
        for y, other in zip(target.outputs, student.outputs, strict=True)
        for n, c in y.items()
        if sum(n) == k and n in other
    ]
    return sp.Add(*terms)


def target_coefficients(target: TokenFunction, order: int) -> Coefficients:
    """Coefficients of a target up to an order, exact for polynomials."""
    return _coefficients(target, [0.0] * target.length, order)


def student_coefficients(
    student: TokenFunction, means: Sequence[float], order: int, wanted: Coefficients
) -> Coefficients:
    """Coefficients of a student at means of its fields, at least where those of the target are."""
    if isinstance(student, SequenceNetwork):
        return _of_network(student, means, order, wanted)
    return _coefficients(student, means, order)


def _coefficients(function: TokenFunction, means: Sequence[float], order: int) -> Coefficients:
    fields, length = function.fields, function.length
    if isinstance(function, Attention) and length > MOST_TOKENS:
        return _of_trace(function, means)
    symbols = sorted(function.parameters, key=str)
    if symbols:
        raise BadParameter(f"give numbers to {symbols}: an exponent may depend on them")
    if function.polynomial:
        moved = {z: z + sp.sympify(e, strict=True) for z, e in zip(fields, means, strict=True)}
        polynomials = [sp.expand(y.subs(moved, simultaneous=True)) for y in function.outputs]
        found = [polynomial_coefficients(y, fields) for y in polynomials]
        degree = max((sum(n) for y in found for n in y), default=0)
        return Coefficients(found, True, degree, True)
    outputs = [dict(_on_grid(y, length, tuple(means), order)) for y in function.outputs]
    return Coefficients(outputs, False, order)


@lru_cache(maxsize=64)
def _on_grid(
    function: sp.Expr, length: int, means: tuple[float, ...], order: int
) -> dict[Index, sp.Expr]:
    """Coefficients by sums over nodes; one student is asked about many targets."""
    grid = token_grid(length)
    (values,) = GridFunctions([function], length)(grid, means)
    table = grid.coefficients(values, order)
    return {
        n: sp.Float(float(table[n]) * np.sqrt(factorials(n)), 17)
        for k in range(order + 1)
        for n in indices(length, k)
    }


def _of_trace(function: Attention, means: Sequence[float]) -> Coefficients:
    """Orders up to two of the trace over many tokens."""
    length = function.length
    if function.reduction != "trace" or any(means):
        raise BadParameter(
            f"attention over L = {length} tokens: beyond L = {MOST_TOKENS} only its trace without "
            "positional vectors is known"
        )
    mean, own, other, cross, pair = trace_coefficients(length)
    root = np.sqrt(length)
    found = {(0,) * length: sp.Float(root * mean, 17)}
    for i in range(length):
        twice = tuple(2 * (n == i) for n in range(length))
        found[twice] = sp.Float((own + (length - 1) * other) / root, 17)
        for j in range(i):
            both = tuple(int(n in (i, j)) for n in range(length))
            found[both] = sp.Float((2 * cross + (length - 2) * pair) / root, 17)
    return Coefficients([found], False, 2)


def _of_network(
    student: SequenceNetwork, means: Sequence[float], order: int, wanted: Coefficients
) -> Coefficients:
    """c_n = L^(-|n|/2) c_|n|(sigma), at the multi-indices of the target."""
    length = student.length
    mean = sum(means) / np.sqrt(length)
    if mean == 0:
        series = field_series(student.activation, sp.S.Zero, order)
        assert series is not None
        line = list(series)
    else:
        values = field_coefficients(student.activation, mean, order)
        line = [sp.Float(c * np.sqrt(factorial(k)), 17) for k, c in enumerate(values)]
    root = sp.sqrt(length)
    found = {n: line[sum(n)] / root ** sum(n) for n in wanted.outputs[0] if sum(n) <= order}
    exact = all(c.is_number and not c.has(sp.Float) for c in line)
    return Coefficients([found], exact, order)


# Nodes in the field x of the first token, in another field z, and in log t: half width, distance.
FIELD_NODES, LOG_TIME = (8.6, 0.05), (-44.0, 4.0, 0.05)


# T_11 = 1 / (1 + sum_{j > 1} exp(z_1 z_j - z_1^2)) has independent terms given z_1; with
# 1/A = int_0^inf exp(-t A) dt they factorise, and each needs one integral over a field,
# phi_k(tau, x) = E[He_k(z) exp(-tau exp(x z))].


@lru_cache(maxsize=64)
def trace_coefficients(length: int) -> tuple[float, ...]:
    """E T_11, c_{2e_1}, c_{2e_j}, c_{e_1+e_j} and c_{e_i+e_j} of T_11, 1 < i < j, at e = 0.

    Equation    E[T_11 F(z_1)] = E_x F(x) int e^-t phi_0(t e^{-x^2}, x)^{L-1} dt,
                c_{2e_j} = E_x int e^-t phi_0^{L-2} phi_2,
                c_{e_1+e_j} = E_x x int e^-t phi_0^{L-2} phi_1,
                c_{e_i+e_j} = E_x int e^-t phi_0^{L-3} phi_1^2 (zero for L = 2)
    Source      theory/sequence A.6
    """
    x, weight, log_t = _nodes()
    density = np.exp(log_t - np.exp(log_t)) * LOG_TIME[2]  # e^-t dt in log t
    found = np.zeros(5)
    for field, w, phi in zip(x[x >= 0], weight[x >= 0], _other_tokens(), strict=True):
        rest = density * phi[0] ** (length - 2)
        pair = density * phi[0] ** (length - 3) if length > 2 else np.zeros_like(rest)
        parts = [rest @ phi[0], rest @ phi[0], rest @ phi[2], rest @ phi[1], pair @ phi[1] ** 2]
        both = 2.0 if field > FIELD_NODES[1] / 2 else 1.0  # x and -x contribute the same
        found += both * w * np.array([1.0, field**2 - 1, 1.0, field, 1.0]) * parts
    return tuple(float(y) for y in found)


def _nodes() -> tuple[Array, Array, Array]:
    """Nodes of a field, their weights, and nodes in log t."""
    half, step = FIELD_NODES
    x = np.arange(-half, half + step / 2, step)
    return x, np.exp(-(x**2) / 2) * step / np.sqrt(2 * np.pi), np.arange(*LOG_TIME)


@lru_cache(maxsize=1)
def _other_tokens() -> tuple[list[Array], ...]:
    """phi_0, phi_1 and phi_2 over times, at each field x >= 0 of the first token: 4 MB."""
    x, weight, log_t = _nodes()
    found = []
    for field in x[x >= 0]:
        exponent = log_t[:, None] - field**2 + field * x[None, :]
        with np.errstate(over="ignore"):
            damped = np.exp(-np.exp(exponent)) * weight
        found.append([damped @ h for h in (np.ones_like(x), x, x**2 - 1)])
    return tuple(found)

r"""Tables of E[sum_i F_i(h*) G_i(h)] in the alignments (e, m): powers of m, Chebyshev series in e.

With c_n[F] = E[F(z) He_n(z)] the average is sum_k m^k D_k(e),
D_k(e) = sum_{|n| = k} c_n[F] c_n[G(. + means)] / n! (theory/sequence A.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import factorial
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from dmft.arrays import Array
from dmft.emit.cache import load_array, store_array
from dmft.errors import BadParameter
from dmft.gaussian.nodes.grid import chebyshev
from dmft.gaussian.tables.token_grid import (
    RULES,
    TokenGrid,
    field_coefficients,
    grid_functions,
    token_grid,
)
from dmft.model import FIELD
from dmft.names import VERSION

Pair = tuple[sp.Expr, sp.Expr]

# Numbers of Chebyshev nodes in e that are tried (each costs seconds for four tokens, whose nodes
# are coarser), and what the last two coefficients may have of the largest or of
# sqrt(E F^2 E G^2), or of the error of the sums over nodes.
DEGREES, DEGREES_OF_FOUR = (32, 48, 72, 96), (12, 20, 32, 48, 72)
SETTLED, SHARE = 1e-14, 0.1
# Sums over nodes with a larger error than this part of sqrt(E F^2 E G^2) are refused.
LARGEST_ERROR = 1e-3
# Rows below this part of the largest entry are not kept, nor columns behind which all are below
# this multiple of the last ones: what is left there is rounding, which derivatives in e would
# multiply by the square of the degree.
KEPT_ROW, KEPT_COLUMN, LAST = 1e-16, 4.0, 4
# Functions that are held at the nodes at the same time.
AT_ONCE = 8
HEADER = 5


@dataclass(frozen=True, eq=False)
class TokenTable:
    """sum_r m^powers[r] sum_c coefficients[r, c] T_c(e / radius).

    `bound` is that of the terms left out, at |m| = 1 and any |e| <= radius (theory/sequence A.3);
    `error` that of the sums over nodes, seen on shifted nodes, and of the Chebyshev terms left out.
    """

    powers: Array
    coefficients: Array
    radius: float
    bound: float
    error: float

    def pack(self) -> Array:
        """One vector, as compiled code reads it."""
        head = [*self.coefficients.shape, self.radius, self.bound, self.error]
        return np.concatenate([head, self.powers, self.coefficients.ravel()])

    @classmethod
    def unpack(cls, vector: Array) -> TokenTable:
        """Inverse of `pack`."""
        rows, columns = int(vector[0]), int(vector[1])
        powers = vector[HEADER : HEADER + rows]
        body = vector[HEADER + rows :].reshape(rows, columns)
        return cls(powers, body, *(float(x) for x in vector[2:HEADER]))

    def derivative(self, order_e: int, order_m: int) -> TokenTable:
        """Table of a derivative; the bounds are those of the function itself."""
        powers, body = self.powers, self.coefficients
        for _ in range(order_m):
            rising = powers > 0
            body, powers = body[rising] * powers[rising, None], powers[rising] - 1.0
        if order_e:
            body = np.asarray(
                np.polynomial.chebyshev.chebder(body, order_e, scl=1 / self.radius, axis=1)
            )
        if not body.size:
            powers, body = np.zeros(1), np.zeros((1, 1))
        return TokenTable(powers, body, self.radius, self.bound, self.error)

    def __call__(self, e: ArrayLike, m: ArrayLike) -> Array:
        """Values at points of one shape."""
        e, m = np.broadcast_arrays(np.asarray(e, dtype=float), np.asarray(m, dtype=float))
        rows = np.polynomial.chebyshev.chebval(e.ravel() / self.radius, self.coefficients.T)
        values: Array = np.sum(rows * np.power(m.ravel(), self.powers[:, None]), axis=0)
        return values.reshape(e.shape)


@lru_cache(maxsize=256)
def token_table(pairs: tuple[Pair, ...], pattern: tuple[sp.Expr, ...], radius: float) -> TokenTable:
    """Table of E[sum F(h*) G(h)] at means pattern_l e, from the cache on disk or computed."""
    key = table_key(pairs, pattern, radius)
    try:
        return TokenTable.unpack(load_array(key))
    except FileNotFoundError:
        table = _compute(pairs, tuple(float(c) for c in pattern), radius)
        store_array(key, table.pack())
        return table


def stored_table(source: tuple[Any, ...], orders: tuple[int, int]) -> str:
    """Key under which a derivative of a table is on disk, for generated modules."""
    pairs, pattern, radius = source
    key = table_key(pairs, pattern, radius, orders)
    table = token_table(*source)
    if orders != (0, 0):
        store_array(key, table.derivative(*orders).pack())
    return key


def table_key(
    pairs: tuple[Pair, ...],
    pattern: tuple[sp.Expr, ...],
    radius: float,
    orders: tuple[int, int] = (0, 0),
) -> str:
    """Name of a table by its content."""
    rule = f"{VERSION} {RULES.get(len(pattern))} {_degrees(len(pattern))}"
    text = f"tokens {rule} {sp.srepr(pairs)} {sp.srepr(pattern)} {radius!r} {orders}"
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _degrees(length: int) -> tuple[int, ...]:
    return DEGREES if length < 4 else DEGREES_OF_FOUR


def _compute(pairs: Sequence[Pair], pattern: Sequence[float], radius: float) -> TokenTable:
    moves = any(pattern) and any(g.free_symbols for _, g in pairs)
    grid = token_grid(len(pattern))
    teacher = _Teacher(pairs, grid)
    means = [c * radius * moves for c in pattern]
    here, _, scale = _orders(pairs, teacher, grid, means)
    shifted = token_grid(len(pattern), shifted=True)
    again, *_ = _orders(pairs, _Teacher(pairs, shifted), shifted, means)
    error = float(np.abs(again - here).max())
    if not error <= LARGEST_ERROR * scale:
        raise BadParameter(
            f"{_shown(pairs)} varies too fast for the average over {len(pattern)} tokens, with "
            f"nodes {RULES[len(pattern)][2]} apart: its error is {error:.0e}; use less steep "
            "functions, polynomials or fewer tokens"
        )
    for count in _degrees(len(pattern)) if moves else (1,):
        nodes, matrix = chebyshev(count)
        samples = [_orders(pairs, teacher, grid, [c * radius * u for c in pattern]) for u in nodes]
        values = np.array([row for row, *_ in samples])
        body = matrix @ values
        largest, last = np.abs(body).max(), np.abs(body[-2:]).max() * (count > 1)
        if last <= max(SETTLED * largest, SETTLED * scale, SHARE * error):
            break
    else:
        raise BadParameter(
            f"{count} Chebyshev nodes do not resolve the average up to |e| = {radius:g}: use "
            "shorter positional vectors"
        )
    rows = np.flatnonzero(np.abs(body).max(axis=0) > KEPT_ROW * largest)
    rows = rows if rows.size else np.zeros(1, dtype=int)
    sizes = np.abs(body).max(axis=1)
    columns = np.flatnonzero(sizes > KEPT_COLUMN * sizes[-LAST:].max() * (count > 1))
    top = int(columns[-1]) + 1 if columns.size else 1
    return TokenTable(
        rows.astype(float),
        np.ascontiguousarray(body[:top, rows].T),
        radius,
        max(bound for _, bound, _ in samples),
        float(error + last + np.abs(body[top:, rows]).sum()),
    )


def _shown(pairs: Sequence[Pair]) -> str:
    """The functions of the first pair, for messages."""
    return " times ".join(str(f)[:60] for f in pairs[0] if f.free_symbols)


def _order(pair: Pair, grid: TokenGrid) -> int:
    """Highest order that a pair can have on a grid."""
    orders = [grid.order]
    for f in pair:
        fields = sorted(f.free_symbols, key=str)
        if not fields:
            return 0
        if f.is_polynomial(*fields):
            orders.append(int(sp.Poly(f, *fields).total_degree()))
    return min(orders)


class _Teacher:
    """Orthonormal coefficients of the distinct F of a list of pairs, and what they leave out."""

    def __init__(self, pairs: Sequence[Pair], grid: TokenGrid) -> None:
        wanted: dict[sp.Expr, int] = {}
        for pair in pairs:
            wanted[pair[0]] = max(wanted.get(pair[0], 0), _order(pair, grid))
        self.coefficients: dict[sp.Expr, Array] = {}
        self.rest: dict[sp.Expr, float] = {}
        functions = list(wanted)
        for first in range(0, len(functions), AT_ONCE):
            chunk = functions[first : first + AT_ONCE]
            values = grid_functions(tuple(chunk), grid.length)(grid, [0.0] * grid.length)
            for f, v in zip(chunk, values, strict=True):
                self.coefficients[f] = grid.coefficients(v, wanted[f])
                self.rest[f] = _rest(f, v, self.coefficients[f], grid)


def _rest(f: sp.Expr, values: Array, coefficients: Array, grid: TokenGrid) -> float:
    """E f^2 beyond the orders kept; zero for polynomials."""
    if f.is_polynomial(*f.free_symbols):
        return 0.0
    kept = total_degree(coefficients.shape) < coefficients.shape[0]
    return max(grid.mean(values**2) - float(np.sum(coefficients[kept] ** 2)), 0.0)


@lru_cache(maxsize=32)
def total_degree(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """|n| of every entry of an array of coefficients."""
    return np.indices(shape).sum(axis=0)


def _orders(
    pairs: Sequence[Pair], teacher: _Teacher, grid: TokenGrid, means: Sequence[float]
) -> tuple[Array, float, float]:
    """D_k at one set of means, a bound of the orders left out, and sqrt(E F^2 E G^2) of those kept.

    The last is the size of what cancels where an average vanishes.
    """
    result, bound, scale = np.zeros(grid.order + 1), 0.0, 0.0
    students = list(dict.fromkeys(g for _, g in pairs))
    single = [g for g in students if FIELD in g.free_symbols]
    several = [g for g in students if g not in single]
    for first in range(0, len(several), AT_ONCE):
        chunk = several[first : first + AT_ONCE]
        values = grid_functions(tuple(chunk), grid.length)(grid, means)
        for g, v in zip(chunk, values, strict=True):
            mine = [pair for pair in pairs if pair[1] == g]
            found = grid.coefficients(v, max(_order(pair, grid) for pair in mine))
            open_end = any(teacher.rest[f] for f, _ in mine)
            rest = _rest(g, v, found, grid) if open_end else 0.0
            for f, _ in mine:
                result += _product(teacher.coefficients[f], found, grid.order)
                bound += np.sqrt(teacher.rest[f] * rest)
                scale += float(np.linalg.norm(teacher.coefficients[f]) * np.linalg.norm(found))
    for g in single:
        mean = float(np.sum(means)) / np.sqrt(grid.length)
        line = field_coefficients(g, mean, grid.order)
        for f in (f for f, other in pairs if other == g):
            along = _along_diagonal(teacher.coefficients[f])
            result[: along.size] += along * line[: along.size]
            bound += np.sqrt(teacher.rest[f] * max(_square(g, mean) - float(line @ line), 0.0))
            scale += float(np.linalg.norm(teacher.coefficients[f]) * np.linalg.norm(line))
    return result, bound, scale


def _product(one: Array, two: Array, order: int) -> Array:
    """Sums over |n| = k of products of coefficients."""
    top = min(one.shape[0], two.shape[0])
    cut = (slice(0, top),) * one.ndim
    degrees = total_degree((top,) * one.ndim).ravel()
    sums = np.bincount(degrees, (one[cut] * two[cut]).ravel(), minlength=order + 1)
    sums[top:] = 0.0  # orders of which only a part is known
    return np.asarray(sums[: order + 1])


def _along_diagonal(coefficients: Array) -> Array:
    """E[f He_k(sum_l z_l / sqrt(L))] / sqrt(k!), by He_k of a sum as products of He_n."""
    order, length = coefficients.shape[0] - 1, coefficients.ndim
    logs = np.array([float(sp.log(factorial(k))) if k > 1 else 0.0 for k in range(order + 1)])
    weight = np.zeros(coefficients.shape)
    for axis in range(length):
        shape = [1] * length
        shape[axis] = -1
        weight = weight - logs.reshape(shape) / 2
    degrees = total_degree(coefficients.shape)
    kept = degrees <= order
    weight[kept] += logs[degrees[kept]] / 2 - degrees[kept] * np.log(length) / 2
    terms = np.where(kept, coefficients * np.exp(weight), 0.0)
    return np.bincount(degrees[kept], terms[kept], minlength=order + 1).astype(np.float64)


def _square(g: sp.Expr, mean: float) -> float:
    """E g^2 of a function of one field."""
    return float(field_coefficients(g**2, mean, 0)[0])

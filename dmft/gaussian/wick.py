"""Expectations of products of polynomials by the Wick diagram formula, in dictionaries.

Integers are kept while the coefficients are integers; SymPy objects are made once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import comb, factorial
from typing import Any

import sympy as sp

Powers = Sequence[tuple[int, sp.Expr]]
Monomials = dict[tuple[int, ...], Any]


def times(*parts: sp.Expr) -> sp.Expr:
    """Product that never distributes a number over a sum (code generation hoists by structure)."""
    product = sp.Mul(*[p for p in parts if not p.is_Add])
    sums = [p for p in parts if p.is_Add]
    if not sums:
        return product
    if len(sums) == 1 and product.is_Number and product not in (sp.S.One, sp.S.Zero):
        return sp.Mul(product, sums[0], evaluate=False)
    return sp.Mul(product, *sums)


def wick_monomials(polynomials: Sequence[Powers], centred: bool) -> Monomials:
    r"""Coefficients of E[prod_i p_i(x_i)] as a polynomial in means and covariances.

    Equation
        E prod_i p_i = sum_k prod_{i<j} C_ij^{k_ij} / k_ij!  prod_i E[p_i^{(r_i)}(x_i)],
        r_i = sum_j k_ij, over all nonnegative integer k_ij.
    Shapes
        Keys are exponents: s means, then s variances, then C_ij for i < j in row order,
        with s = len(polynomials).
    Source
        one_pass.md A.4; derivations/erf_integrals.py

    Examples
    --------
    >>> import sympy as sp
    >>> square = [(2, sp.Integer(1))]
    >>> wick_monomials([square, square], centred=True)
    {(0, 0, 1, 1, 0): 1, (0, 0, 0, 0, 2): 2}
    """
    size = len(polynomials)
    tables = [_derivative_moments(p, centred) for p in polynomials]
    pairs = [(i, j) for i in range(size) for j in range(i + 1, size)]
    result: Monomials = {}
    for links, degrees in _diagrams([len(t) - 1 for t in tables], pairs):
        moments = [tables[i][r] for i, r in enumerate(degrees)]
        if not all(moments):
            continue
        weight = 1
        for r in degrees:
            weight *= factorial(r)
        for k in links:
            weight //= factorial(k)
        for means, variances, value in _outer(moments):
            key = (*means, *variances, *links)
            result[key] = result.get(key, 0) + weight * value
    return {key: value for key, value in result.items() if value != 0}


def _derivative_moments(powers: Powers, centred: bool) -> list[dict[tuple[int, int], Any]]:
    """For each r, E[p^(r)(x)] / r! as {(power of the mean, power of the variance): value}."""
    degree = max(n for n, _ in powers)
    tables: list[dict[tuple[int, int], Any]] = []
    for r in range(degree + 1):
        table: dict[tuple[int, int], Any] = {}
        for n, coefficient in powers:
            s = n - r
            if s < 0 or (centred and s % 2):
                continue
            value = int(coefficient) if coefficient.is_Integer else coefficient
            for b in [s // 2] if centred else range(s // 2 + 1):
                # The number of ways to contract 2b of s fields among themselves.
                ways = comb(s, 2 * b) * (factorial(2 * b) // (2**b * factorial(b)))
                key = (s - 2 * b, b)
                table[key] = table.get(key, 0) + comb(n, r) * ways * value
        tables.append(table)
    return tables


def _diagrams(
    degrees: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All numbers of links k_ij with row sums at most `degrees`, with their row sums."""
    links = [0] * len(pairs)
    rows = [0] * len(degrees)

    def extend(position: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        if position == len(pairs):
            yield tuple(links), tuple(rows)
            return
        i, j = pairs[position]
        for k in range(min(degrees[i] - rows[i], degrees[j] - rows[j]) + 1):
            links[position] = k
            rows[i], rows[j] = rows[i] + k, rows[j] + k
            yield from extend(position + 1)
            rows[i], rows[j] = rows[i] - k, rows[j] - k
        links[position] = 0

    return extend(0)


def _outer(
    moments: Sequence[dict[tuple[int, int], Any]],
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], Any]]:
    """Product of the one-field moments: exponents of means, of variances, and the value."""
    if not moments:
        yield (), (), 1
        return
    for (mean, variance), value in moments[0].items():
        for means, variances, rest in _outer(moments[1:]):
            yield (mean, *means), (variance, *variances), value * rest


def wick_expression(
    polynomials: Sequence[Powers],
    means: Sequence[sp.Expr],
    variances: Sequence[sp.Expr],
    covariances: Sequence[sp.Expr],
) -> sp.Expr:
    """E[prod_i p_i(x_i)] as a flat sum of monomials; `covariances` holds C_ij, i < j, row order."""
    centred = all(m == 0 for m in means)
    generators = (*means, *variances, *covariances)
    terms = []
    for key, value in wick_monomials(polynomials, centred).items():
        parts = [sp.Pow(g, n) for g, n in zip(generators, key, strict=True) if n]
        terms.append(times(sp.sympify(value, strict=True), *parts))
    return sp.Add(*terms)

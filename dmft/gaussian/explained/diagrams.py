"""Hermite polynomials of fields of any variance, and their linked diagrams."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import sympy as sp

from dmft.explanation.average import FieldHermite
from dmft.explanation.diagrams import Diagram


def hermite_product(
    fields: Sequence[sp.Expr], cov: Any, mean: Sequence[sp.Expr], degrees: Sequence[int]
) -> sp.Expr:
    """Product of one Hermite polynomial of each field, each in its own variance."""
    return sp.Mul(
        *(
            FieldHermite.of(n, x - mean[i], cov[i, i])
            for i, (x, n) in enumerate(zip(fields, degrees, strict=True))
        )
    )


def links_product(cov: Any, links: Sequence[int]) -> sp.Expr:
    """Product of the covariances of the links of a diagram."""
    size = cov.shape[0]
    pairs = combinations(range(size), 2)
    return sp.Mul(*(cov[i, j] ** k for (i, j), k in zip(pairs, links, strict=True)))


def drawn(fields: Sequence[sp.Expr], links: Sequence[tuple[Any, int]]) -> tuple[Diagram, ...]:
    """The diagrams that survive, to be drawn."""
    return tuple(
        Diagram(tuple(fields), tuple(map(int, exponents)), sp.sympify(weight, strict=True))
        for exponents, weight in links
    )


def in_words(degrees: Sequence[int], links: Sequence[tuple[Any, int]]) -> str:
    """Why no diagram survives, where none does."""
    if links:
        return ""
    return "No diagram survives where " + (
        "the number of legs is odd."
        if sum(degrees) % 2
        else "the legs of one field are more than those of the others."
    )

"""Hermite polynomials of fields of any variance, and their linked diagrams in words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import sympy as sp

from dmft.explanation.average import FieldHermite

# Diagrams that are listed one by one.
MOST_LISTED = 12


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


def in_words(
    fields: Sequence[sp.Expr], degrees: Sequence[int], links: Sequence[tuple[Any, int]]
) -> str:
    """The diagrams that survive.

    Examples
    --------
    >>> import sympy as sp
    >>> in_words(sp.symbols("x y"), (3, 3), [((3,), 6)])
    'One diagram survives: x-y three times (weight 6).'
    """
    if not links:
        return "No diagram survives: " + (
            "the number of legs is odd."
            if sum(degrees) % 2
            else "the legs of one field are more than those of the others."
        )
    pairs = list(combinations(fields, 2))
    listed = []
    for exponents, weight in links[:MOST_LISTED]:
        parts = [
            f"{a}-{b}" + {1: "", 2: " twice", 3: " three times"}.get(k, f" {k} times")
            for (a, b), k in zip(pairs, exponents, strict=True)
            if k
        ]
        listed.append(f"{', '.join(parts)} (weight {weight})")
    more = f"; and {len(links) - MOST_LISTED} more" if len(links) > MOST_LISTED else ""
    head = "One diagram survives" if len(links) == 1 else f"{len(links)} diagrams survive"
    return f"{head}: {'; '.join(listed)}{more}."

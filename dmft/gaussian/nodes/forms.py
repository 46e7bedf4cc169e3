"""The linear combinations of fields that an expression depends on, and the law that they have.

All numbers are multiprecision: the variance of a difference of nearly parallel fields is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import mpmath
import sympy as sp

from dmft.errors import BadParameter
from dmft.gaussian.nodes.kinks import switches

# Digits of covariances and of everything that is made of them before the quadrature.
DIGITS = 50
# What is left of a variance below this share is rounding of those digits.
NOTHING = mpmath.mpf(10) ** (12 - DIGITS)

Vector = list[mpmath.mpf]


@contextmanager
def precise() -> Iterator[None]:
    """Work in the digits of this module."""
    with mpmath.workdps(DIGITS):
        yield


def number(value: sp.Expr) -> mpmath.mpf:
    """Real number of a SymPy number; a float stands for its exact value."""
    return mpmath.mpf(value._to_mpmath(mpmath.mp.prec))


@dataclass(frozen=True)
class Block:
    """An expression in symbols `forms` (n,) with values shift + rows u, u ~ N(0, I) of r numbers.

    Numbers are multiprecision; `weight` is in front of the expectation, `meaning` names the forms
    in the user's symbols, for messages.
    """

    expr: sp.Expr
    forms: tuple[sp.Symbol, ...]
    rows: tuple[Vector, ...]
    shift: Vector
    weight: mpmath.mpf
    meaning: tuple[sp.Expr, ...]

    @property
    def dimension(self) -> int:
        """Number of independent normal numbers."""
        return len(self.rows[0]) if self.rows else 0

    def shown(self) -> sp.Expr:
        """The expression in the user's symbols."""
        return self.expr.xreplace(dict(zip(self.forms, self.meaning, strict=True)))

    def keep(self, kept: Sequence[int], expr: sp.Expr) -> Block:
        """The same for another expression in some of the forms."""
        return replace(
            self,
            expr=expr,
            forms=tuple(self.forms[i] for i in kept),
            rows=tuple(self.rows[i] for i in kept),
            shift=[self.shift[i] for i in kept],
            meaning=tuple(self.meaning[i] for i in kept),
        )

    def covariance(self, i: int, j: int) -> mpmath.mpf:
        """Covariance of two forms."""
        return mpmath.fdot(self.rows[i], self.rows[j])


def to_forms(
    expr: sp.Expr, fields: Sequence[sp.Symbol], cov: Sequence[Vector], mean: Vector
) -> Block:
    """Block of an expression in fields: largest linear sub-expressions become forms."""
    table: dict[tuple[sp.Expr, ...], sp.Symbol] = {}
    written = _written(expr, tuple(fields), table)
    labels = [[number(a) for a in label] for label in table]
    forms = tuple(table.values())
    shift = [mpmath.fdot(label, mean) for label in labels]
    images = [[mpmath.fdot(row, label) for row in cov] for label in labels]
    matrix = [[mpmath.fdot(label, image) for image in images] for label in labels]
    meaning = tuple(sp.Add(*[a * x for a, x in zip(t, fields, strict=True)]) for t in table)
    block = Block(written, forms, (), shift, mpmath.mpf(1), meaning)
    return replace(block, rows=factor(matrix, first_forms(block)))


def _written(
    expr: sp.Expr, fields: tuple[sp.Symbol, ...], table: dict[tuple[sp.Expr, ...], sp.Symbol]
) -> sp.Expr:
    """The expression in forms; `table` takes their coefficients, the first nonzero one is 1."""
    if not expr.has_free(*fields):
        return expr
    if isinstance(expr, sp.Symbol | sp.Add | sp.Mul) and expr.is_polynomial(*fields):
        polynomial = sp.Poly(expr, *fields)
        if polynomial.total_degree() == 1:
            label = tuple(polynomial.coeff_monomial(x) for x in fields)
            lead = next(a for a in label if not a.is_zero)
            scaled = tuple(a / lead for a in label)
            form = table.setdefault(scaled, sp.Symbol(f"_l{len(table)}", real=True))
            return lead * form + polynomial.coeff_monomial(1)
    return expr.func(*[_written(a, fields, table) for a in expr.args])


def polynomial_forms(block: Block) -> list[int]:
    """Forms in which the expression is jointly polynomial."""
    alone = [i for i, x in enumerate(block.forms) if block.expr.is_polynomial(x)]
    while alone and not block.expr.is_polynomial(*[block.forms[i] for i in alone]):
        alone.pop()
    return alone


def first_forms(block: Block) -> list[list[int]]:
    """Forms by rank: the first make the outer axes of a nested quadrature.

    Forms that switch alone; those that are not polynomial; those that, with others, switch at a
    zero that never leaves to infinity (they make good inner axes); polynomial ones.
    """
    soft = set(polynomial_forms(block))
    alone: set[sp.Symbol] = set()
    mixed: set[sp.Symbol] = set()
    outer: set[sp.Symbol] = set()
    for s in switches(block.expr, block.forms):
        present = s.free_symbols & set(block.forms)
        for x in present:
            plain = s.is_polynomial(x) and sp.degree(s, x) == 1 and not sp.LC(s, x).free_symbols
            (alone if len(present) == 1 else mixed if plain else outer).add(x)
    inner = mixed - outer
    groups: list[list[int]] = [[], [], [], []]
    for i, x in enumerate(block.forms):
        rank = 3 if i in soft else 2 if x in inner else 0 if x in alone else 1
        groups[rank].append(i)
    return groups


def factor(matrix: Sequence[Vector], groups: Sequence[Sequence[int]]) -> tuple[Vector, ...]:
    """Pivoted Cholesky factor (n, rank), pivots taken group by group, largest share first."""
    n = len(matrix)
    rest = [list(row) for row in matrix]
    columns: list[Vector] = []
    for group in groups:
        left = [i for i in group if matrix[i][i] > 0]
        while left:
            p = max(left, key=lambda i: rest[i][i] / matrix[i][i])
            if rest[p][p] <= NOTHING * matrix[p][p]:
                break
            root = mpmath.sqrt(rest[p][p])
            column = [rest[i][p] / root for i in range(n)]
            column = [_cleaned(c, matrix[i][i]) for i, c in enumerate(column)]
            left.remove(p)
            for i in range(n):
                for j in range(n):
                    rest[i][j] -= column[i] * column[j]
            columns.append(column)
    return tuple([c[i] for c in columns] for i in range(n))


def _cleaned(entry: mpmath.mpf, variance: mpmath.mpf) -> mpmath.mpf:
    """Exact zero for what is rounding beside the deviation of its form."""
    return mpmath.mpf(0) if entry**2 <= NOTHING**2 * variance else entry


def values_of(
    fields: Sequence[sp.Symbol], expressions: Sequence[sp.Expr], values: dict[str, sp.Expr]
) -> list[sp.Expr]:
    """Expressions with numbers in the place of every symbol that is not a field."""
    result = []
    for expr in expressions:
        symbols = expr.free_symbols - set(fields)
        missing = sorted(str(s) for s in symbols if s.name not in values)
        if missing:
            raise BadParameter(
                f"{expr} contains {', '.join(missing)}: no field of this law and without a value; "
                f"pass values={{'{missing[0]}': ...}}"
            )
        result.append(expr.xreplace({s: values[s.name] for s in symbols}))
    return result

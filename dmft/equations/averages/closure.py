r"""Overlaps of a wide student: what stands for Omega when only M and the residual lengths are kept.

A row is w_j = (M P^+ W*)_j + its residual, Q_perp the squared length of the residual. Residuals
of random rows in dimension d meet at cosines z that are independent of everything that is learned:

    Q_jl = (M P^+ M^T)_jl + z sqrt(Q_perp_j Q_perp_l),   l != j,
    z ~ (1 - z^2)^((n - 3)/2),   n = d - k,   E[z^2] = 1/n,

and z = 0 at leading order in 1/d.

Sums over neurons of products are collected, so that each is computed once: a power of
(M P^+ M^T)_jl = sum_s N_js M_ls factorises into functions of j and of l at the price of one sum
over the teachers each, and a double sum over p neurons costs p k^m and not p^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Covariances, Expectation
from dmft.equations.averages.passes import value_of
from dmft.equations.definitions import Definition, define

# The cosine of two residuals, until it is averaged.
COSINE = sp.Symbol("z_cosine", real=True)
# Stands for the residual of student j among the positions of the fields.
RESIDUAL = sp.Symbol("residual", integer=True)
# Gauss-Jacobi nodes of the cosine: 12 are exact for polynomials up to degree 23.
COSINE_NODES = 12
# A second student with the overlaps of the first.
TWIN = sp.IndexedBase("h_twin")


def overlap(first: sp.Expr, second: sp.Expr) -> sp.Expr:
    """Covariance of two fields, given by their positions, under the wide closure."""
    students = [i for i in (first, second) if not i.has(x.p) and not bool(i.is_Integer)]
    if RESIDUAL in students:
        students.remove(RESIDUAL)
        if not students:
            return sp.S.Zero  # a residual is orthogonal to the teachers
        other = students[0]
        return x.Q_perp[x.j] if other == x.j else COSINE * _roots(x.j, other)
    if len(students) == 2:
        if first == second:
            return x.size[first]
        low, high = sorted(students, key=sp.default_sort_key)
        return x.parallel[low, high] + COSINE * _roots(low, high)
    teachers = [i - x.p for i in (first, second) if i not in students]
    if students:
        return x.M[students[0], teachers[0]]
    return x.P[tuple(sorted(teachers, key=sp.default_sort_key))]


def _roots(first: sp.Symbol, second: sp.Symbol) -> sp.Expr:
    return sp.sqrt(x.Q_perp[first]) * sp.sqrt(x.Q_perp[second])


def close(expr: sp.Expr) -> sp.Expr:
    """Write entries of Omega and averages by the closure; those that are polynomials, expanded."""
    entries = {e: overlap(*e.indices) for e in expr.atoms(sp.Indexed) if e.base == x.Omega}
    averages = {q: _closed(q) for q in expr.atoms(Expectation)}
    return expr.xreplace({**entries, **averages})


def _closed(average: Expectation) -> sp.Expr:
    atoms = sorted(
        set().union(*(f.atoms(sp.Indexed) for f in average.fields)), key=sp.default_sort_key
    )
    covariances = [
        sp.Tuple(u, v, overlap(x.position(u), x.position(v)))
        for u, v in combinations_with_replacement(atoms, 2)
    ]
    local = Expectation(*average.parts, Covariances(*covariances))
    value = value_of(local)
    return sp.expand(value) if is_polynomial(value) else local


def is_polynomial(expr: sp.Expr) -> bool:
    """Whether an expression, or what its sums run over, is a polynomial in the overlaps."""
    if expr.has(Expectation):
        return False
    plain = expr.replace(sp.Sum, lambda function, *_: function)
    entries = plain.atoms(sp.Indexed)
    names = {e: sp.Dummy() for e in (*entries, *map(sp.sqrt, entries))}
    return bool(plain.xreplace(names).is_polynomial(*names.values(), COSINE))


def averaged(expr: sp.Expr, finite: bool) -> sp.Expr:
    """Average over the cosine of two residuals: moments of a polynomial, else a sum over nodes."""
    if not expr.has(COSINE):
        return expr
    if not finite:
        return expr.xreplace({COSINE: sp.S.Zero})
    if not expr.has(Expectation):
        expanded = sp.expand(expr)
        orders = range(int(sp.degree(expanded, COSINE)) + 1)
        return sp.Add(*(expanded.coeff(COSINE, order) * moment(order) for order in orders))
    at_node = expr.xreplace({COSINE: x.cosine[x.angle]})
    roots = {
        sp.sqrt(e): x.root_perp[e.indices] for e in expr.atoms(sp.Indexed) if e.base == x.Q_perp
    }
    body = x.cosine_weight[x.angle] * at_node.xreplace(roots)
    return sp.Sum(body, (x.angle, 1, x.cosines))


def moment(order: int) -> sp.Expr:
    """E[z^order] of the cosine of two random directions in n = d - k dimensions."""
    if order % 2:
        return sp.S.Zero
    n = x.d - x.k
    return sp.Mul(*((2 * i + 1) / (n + 2 * i) for i in range(order // 2)))


def cosine_rule(residual_dim: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss-Jacobi nodes and weights (summing to one) of the density (1 - z^2)^((n - 3)/2)."""
    # Golub and Welsch: the recurrence of the Gegenbauer polynomials of index n/2 - 1 has
    # the off-diagonal m (m + n - 3) / ((2 m + n - 2) (2 m + n - 4)).
    m = np.arange(1, COSINE_NODES, dtype=np.float64)
    n = float(residual_dim)
    # The first entry is E[z^2] = 1/n, also where the general formula is 0/0 (n = 2).
    square = np.full(m.size, 1.0 / n)
    rest = m[1:]
    square[1:] = rest * (rest + n - 3) / ((2 * rest + n - 2) * (2 * rest + n - 4))
    values, vectors = np.linalg.eigh(np.diag(np.sqrt(square), 1) + np.diag(np.sqrt(square), -1))
    return values, vectors[0] ** 2


# Indices of the teachers that powers of one overlap run over.
POOL = (x.s, *x.powers)


class Collector:
    """Collects the sums over neurons of a system, each under one name."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.known: dict[sp.Expr, sp.IndexedBase] = {}
        self.definitions: list[Definition] = []

    def sum(self, body: sp.Expr, index: sp.Symbol) -> sp.Expr:
        """Sum of a polynomial in the overlaps over all values of a student index."""
        return sp.Add(*(self._term(term, index) for term in sp.Add.make_args(sp.expand(body))))

    def _term(self, term: sp.Expr, index: sp.Symbol) -> sp.Expr:
        sums = [f for f in sp.Mul.make_args(term) if isinstance(f, sp.Sum)]
        if sums:  # of a sum that is collected already: the neurons inside, its teachers outside
            inner = term.xreplace({sums[0]: sums[0].function})
            return sp.Sum(self._term(inner, index), *sums[0].limits)
        factors: list[sp.Expr] = []
        teachers: list[sp.Symbol] = []
        unused = [t for t in POOL if t not in term.free_symbols]
        for factor in sp.Mul.make_args(term):
            base, exponent = factor.as_base_exp()
            if not (isinstance(base, sp.Indexed) and base.base == x.parallel):
                factors.append(factor)
                continue
            other = next(i for i in base.indices if i != index)
            for _ in range(int(exponent)):
                teachers.append(unused.pop(0))
                factors += [x.along[other, teachers[-1]], x.M[index, teachers[-1]]]
        inside = [f for f in factors if index in f.free_symbols]
        outside = [f for f in factors if index not in f.free_symbols]
        product = sp.Mul(*outside) * self._collected(sp.Mul(*inside), index)
        return sp.Sum(product, *((t, 1, x.k) for t in teachers)) if teachers else product

    def _collected(self, body: sp.Expr, index: sp.Symbol) -> sp.Expr:
        """Entry of the array that holds the sum of `body`, which depends on teachers alone."""
        if body == 1:
            return x.p
        rows = [t for t in (x.r, *POOL) if t in body.free_symbols]
        # Equal sums are equal under any names of the teachers.
        own = (x.r, *POOL)[: len(rows)]
        swap = {**dict(zip(rows, own, strict=True)), index: x.l}
        key = body.xreplace(swap)
        if key not in self.known:
            base = sp.IndexedBase(f"collected_{len(self.known) + 1}")
            self.known[key] = base
            target = base[own] if own else base[1]
            total = sp.Sum(key, (x.l, 1, x.p))
            self.definitions.append(define(target, {"collected": total}, "intermediate"))
        base = self.known[key]
        return base[tuple(rows)] if rows else base[1]


def degree_in_parallel(body: sp.Expr) -> int:
    """Largest power of (M P^+ M^T)_jl in a polynomial: what a collected sum needs of teachers."""
    largest = 0
    for term in sp.Add.make_args(sp.expand(body)):
        for factor in sp.Mul.make_args(term):
            base, exponent = factor.as_base_exp()
            if isinstance(base, sp.Indexed) and base.base == x.parallel:
                largest = max(largest, int(exponent))
    return largest


def can_collect(bodies: Sequence[sp.Expr]) -> bool:
    """Whether there are indices enough for all of these."""
    return all(degree_in_parallel(body) <= len(POOL) for body in bodies)

"""Sums over neurons of products: what depends on the neuron is summed once, for all that need it.

A power of (M P^+ M^T)_jl = sum_s N_js M_ls factorises into functions of j and of l at the price of
one sum over the teachers each, so that a double sum over p neurons costs p k^m and not p^2.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, define

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

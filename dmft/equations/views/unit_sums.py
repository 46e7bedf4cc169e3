"""Polynomials with sums over neurons, for all widths: each sum once, over what depends on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import permutations

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import free_indices
from dmft.equations.definitions import base_name


def over_neurons(expr: sp.Expr) -> sp.Expr:
    """A polynomial with sums over neurons: each sum over what depends on its index, once."""
    groups: dict[tuple[sp.Expr, tuple[sp.Symbol, ...]], sp.Expr] = {}
    for number, body, indices in _summands(sp.expand(expr)):
        for term in sp.Add.make_args(sp.expand(body)):
            front, product, kept = _canonical(number * term, indices)
            key = (front, kept)
            groups[key] = groups.get(key, sp.S.Zero) + product
    by_rate: dict[sp.Expr, list[sp.Expr]] = {}
    for (front, kept), body in groups.items():
        limits = [(s, 1, x.AXES[s]) for s in kept]
        content, whole = body.primitive()
        if all(y.could_extract_minus_sign() for y in sp.Add.make_args(whole)):
            content, whole = -content, -whole
        widths, rate = front.as_independent(*(front.free_symbols - {x.p, x.k}), as_Add=False)
        inner = sp.Sum(whole, *limits) if kept else whole
        by_rate.setdefault(rate, []).append(content * widths * inner)
    return sp.Add(*(_with_front(rate, terms) for rate, terms in by_rate.items()))


def _with_front(rate: sp.Expr, terms: Sequence[sp.Expr]) -> sp.Expr:
    """Parameters times a sum over neurons, with what its terms have in common in front."""
    total = sp.Add(*terms)
    if rate == 1 or len(terms) == 1:
        return sp.Add(*(rate * y for y in terms))
    parts = [y.as_independent(sp.Sum, sp.Indexed, as_Add=False) for y in sp.Add.make_args(total)]
    number = reduce(sp.gcd, (f.as_coeff_Mul()[0] for f, _ in parts))
    powers = [f.as_powers_dict() for f, _ in parts]
    widths = sp.Mul(*(s ** max(p.get(s, sp.S.Zero) for p in powers) for s in (x.p, x.k)))
    inside = sp.Add(*(f / (number * widths) * y for f, y in parts))
    return sp.Mul(number * widths * rate, inside, evaluate=False)


def _summands(
    expr: sp.Expr,
) -> Iterable[tuple[sp.Expr, sp.Expr, tuple[sp.Symbol, ...]]]:
    """Terms as a factor, a summand and the indices that it is summed over."""
    for term in sp.Add.make_args(expr):
        sums = [f for f in sp.Mul.make_args(term) if isinstance(f, sp.Sum)]
        if not sums:
            yield sp.S.One, term, ()
            continue
        if len(sums) > 1:
            yield sp.S.One, term, ()
            continue
        (total,) = sums
        rest = sp.Mul(*(f for f in sp.Mul.make_args(term) if f is not total))
        for number, body, inner in _summands(sp.expand(total.function)):
            yield rest * number, body, (*(limit[0] for limit in total.limits), *inner)


def _canonical(
    term: sp.Expr, indices: tuple[sp.Symbol, ...]
) -> tuple[sp.Expr, sp.Expr, tuple[sp.Symbol, ...]]:
    """A summand without indices that it does not depend on, the others in one order."""
    term, indices = _without_deltas(term, indices)
    used = [s for s in indices if s in free_indices(term)]
    for index in set(indices) - set(used):
        term *= x.AXES[index]
    bound = {
        axis: [s for s in _letters(axis) if s not in free_indices(term) or s in used]
        for axis in (x.p, x.k)
    }
    choices = []
    for order in permutations(used):
        left = {axis: list(letters) for axis, letters in bound.items()}
        fresh = {s: left[x.AXES[s]].pop(0) for s in order}
        choices.append((_sorted_entries(term.xreplace(fresh)), tuple(fresh.values())))
    best, kept = min(choices, key=lambda y: str(y[0]))
    front, product = sp.S.One, sp.S.One
    for factor in sp.Mul.make_args(best):
        if factor.has(sp.Indexed) or factor.is_Rational:
            product *= factor
        else:
            front *= factor
    return front, product, tuple(sorted(kept, key=str))


def _letters(axis: sp.Symbol) -> tuple[sp.Symbol, ...]:
    return (x.u, x.v, x.l) if axis == x.p else (x.r, x.s, *x.powers)


def _without_deltas(
    term: sp.Expr, indices: tuple[sp.Symbol, ...]
) -> tuple[sp.Expr, tuple[sp.Symbol, ...]]:
    """A summand whose Kronecker deltas have used up an index each."""
    for delta in sorted(term.atoms(sp.KroneckerDelta), key=sp.default_sort_key):
        own = next((s for s in reversed(indices) if s in delta.args), None)
        if own is None:
            continue
        other = next(y for y in delta.args if y != own)
        return _without_deltas(
            term.xreplace({delta: sp.S.One}).xreplace({own: other}),
            tuple(s for s in indices if s != own),
        )
    return term, indices


def _sorted_entries(term: sp.Expr) -> sp.Expr:
    """Entries of symmetric arrays with their indices in order."""
    table = {}
    for entry in term.atoms(sp.Indexed):
        if base_name(entry) in x.SYMMETRIC:
            table[entry] = entry.base[tuple(sorted(entry.indices, key=str))]
            if base_name(entry) == "Q" and len(set(entry.indices)) == 1:
                table[entry] = entry
    return term.xreplace(table)

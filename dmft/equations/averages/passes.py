"""Lowering of averages: which function of the covariances, or which nodes, stand for each.

Passes in order: a closed form that code has, tables of the factors (of one and two fields), nodes.
They read the integrand and the law and know nothing of where an average came from. What none of
them takes is refused by the last one that was asked.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any, Literal

import numpy as np
import sympy as sp

from dmft.emit.cache import store_array
from dmft.equations import symbols as x
from dmft.equations.averages.expectation import Expectation
from dmft.equations.definitions import Definition
from dmft.errors import NotClosed
from dmft.gaussian import refuse
from dmft.gaussian.closed import pair
from dmft.gaussian.closed.bivariate import TwoSigns
from dmft.gaussian.closed.product import product_expectation
from dmft.gaussian.closed.switch import may_hold_branches
from dmft.gaussian.closed.wick import diagram_table
from dmft.gaussian.tables.tabled import table_averages, tabled_expectation
from dmft.model import FIELD

Covariance = Callable[[Any, Any], sp.Expr]
# Functions of covariances that the NumPy reference and generated code both have, by name; what
# holds another one (erfi, sin ...) is averaged by tables or on nodes, closed on paper or not.
CODED = frozenset(
    {"exp", "erf", "asin", "tanh", "BivariateNormalCDF", "TwoSigns", "Correlation", "RootRatio"}
    | {"CorrelationRoot", "CorrelationAngle", "FourSigns", "FourSignsMoment"}
    | {"CovarianceGiven", "SignsMoment", "PairOfSignsMoment"}
)


@dataclass(frozen=True)
class Lowered:
    """How an average is computed, and what that claims.

    `value` is a function of covariances; "nodes" are a sum over nodes; what nothing takes is
    "open", with the reason in `refusal`.
    """

    average: Expectation
    how: Literal["value", "nodes", "open"]
    value: sp.Expr | None = None
    refusal: str = ""

    @property
    def error(self) -> float:
        """Claimed error of its tables, relative to sqrt(E F^2 E G^2).

        Zero for closed forms, whose rounding is bounded beside the values
        (`dmft.equations.rounding.bounds`), and on nodes, whose error depends on the state. For
        tables, which are made now, the sum of what those of the factors claim, the largest of
        those in the average: below 1e-10. A factor with a kink that is so far away that E F^2 is
        hardly there is wrong by this share of 1e-4 of its size within ten deviations instead.
        Infinite where nothing takes the average, or where no table resolves a factor: the NumPy
        reference integrates it, without a claim.
        """
        if self.how != "value":
            return 0.0 if self.how == "nodes" else math.inf
        try:
            return max((t.error for t in table_averages(self.value)), default=0.0)
        except NotClosed:
            return math.inf


# Passes ---------------------------------------------------------------------------------------


def closed_form(q: Expectation, cov: Covariance) -> sp.Expr:
    """Closed form in functions that code has, finite where fields coincide."""
    if may_hold_branches(sp.Tuple(*q.factors)):
        from dmft.gaussian.branch_expectation import branch_expectation

        branched = branch_expectation(q.factors, q.fields, cov)
        if branched is not None:
            return branched
    functions = sp.Tuple(*q.factors)
    sines = functions.atoms(sp.sin, sp.cos)
    if any(f.has(sp.Indexed) for f in sines) or (sines and functions.has(sp.sinh, sp.cosh)):
        # Refused before it is computed, which takes minutes for four fields.
        raise refuse(_product(q), "its closed form contains sin and cos, which have no code")
    value = product_expectation(q.factors, q.fields, cov, whole=True)
    if functions.has(sp.DiracDelta):  # of units whose indices may be equal
        value = pair.with_conditional_covariances(pair.finite_for_parallel(value))
    # Units with one kink away from zero are 0/0 where their indices are equal.
    value = pair.with_root_ratios(value).replace(
        TwoSigns, lambda u, v, rho: TwoSigns(u, v, pair.as_correlation(rho))
    )
    if value.has(pair.RootRatio) and any(pair.is_inverse_root(e) for e in value.atoms(sp.Pow)):
        raise refuse(_product(q), "its closed form is 0/0 where two of its fields coincide")
    missing = ", ".join(without_code(value))
    if missing:
        raise refuse(_product(q), f"its closed form contains {missing}, which has no code")
    if functions.has(sp.DiracDelta) and functions.has(sp.sign) and not value.has(pair.RootRatio):
        value = pair.with_inverse_roots(value)
    return value


def in_diagrams(q: Expectation) -> tuple[str, list[sp.Expr]] | None:
    """Key of the table and covariances of an average that code sums diagram by diagram.

    A closed form all the same: of polynomials, with so many terms that a loop is shorter.
    """
    if not q.is_product or not all(f.is_polynomial(FIELD) for f in q.factors):
        return None
    merged: dict[sp.Expr, sp.Expr] = {}
    for factor, y in zip(q.factors, q.fields, strict=True):
        merged[y] = merged.get(y, sp.S.One) * factor
    fields = list(merged)
    polynomials = [sp.Poly(f, FIELD).terms() for f in merged.values()]
    numbers = diagram_table([sorted((n, c) for (n,), c in terms) for terms in polynomials])
    if numbers is None:
        return None
    table = np.array(numbers)
    key = hashlib.blake2b(table.tobytes(), digest_size=10).hexdigest()
    store_array(key, table)
    pairs = combinations_with_replacement(fields, 2)
    return key, [q.law.covariance(*pair) for pair in pairs]


def value_of(q: Expectation, cov: Covariance | None = None) -> sp.Expr:
    """Function of the covariances that stands for an average, in the entries that `cov` gives."""
    if cov is None:
        lowered = lower(q)
        if lowered.value is None:
            raise NotClosed(lowered.refusal or f"{q} has no closed form: it needs nodes")
        return lowered.value
    try:
        return closed_form(q, cov)
    except NotClosed:
        if len(set(q.fields)) > 2:
            raise
        return tabled_expectation(q.factors, q.fields, cov)


@lru_cache(maxsize=1024)
def lower(q: Expectation) -> Lowered:
    """Lower one average by the first pass that takes it."""
    refusal = ""
    if q.is_product and sp.Tuple(*q.factors).has(sp.zoo):
        reason = (
            "the slope of an activation is infinite at a point, where its derivative has no value"
        )
        return Lowered(q, "open", refusal=str(refuse(_product(q), reason)))
    if q.is_product:
        try:
            return Lowered(q, "value", value_of(q, q.law.covariance))
        except NotClosed as error:
            refusal = str(error)
    # A Dirac delta has no value at a node; what tables refuse says what they need.
    refused = q.is_product and (q.has(sp.DiracDelta) or _is_for_tables(q))
    if refused or not q.law.on_nodes:
        return Lowered(q, "open", refusal=refusal)
    return Lowered(q, "nodes", refusal=refusal)


def _is_for_tables(q: Expectation) -> bool:
    """Whether a product is one of one or two fields with numbers only."""
    return len(set(q.fields)) <= 2 and all(f.free_symbols <= {FIELD} for f in q.factors)


def is_open(q: Expectation) -> bool:
    """Whether a product of functions of single fields has neither a closed form nor a table."""
    if _is_for_tables(q) and not q.has(sp.DiracDelta):
        return False
    return lower(q).how != "value"


def needs_nodes(q: Expectation) -> bool:
    """Whether an average has neither a closed form nor a table, but nodes."""
    if not q.is_product:
        return True
    return q.law.on_nodes and is_open(q) and lower(q).how == "nodes"


# Systems --------------------------------------------------------------------------------------


def on_nodes(*exprs: sp.Expr) -> list[Expectation]:
    """Averages of expressions that need nodes, in order of appearance."""
    found: dict[Expectation, None] = {}
    for expr in exprs:
        for q in sorted(expr.atoms(Expectation), key=sp.default_sort_key):
            if needs_nodes(q):
                found.setdefault(q)
    return list(found)


def averages(definitions: Iterable[Definition]) -> list[Expectation]:
    """All averages of a system that need nodes, in order of appearance."""
    return on_nodes(*(d.expr for d in definitions))


def lowered(definitions: Iterable[Definition]) -> tuple[Lowered, ...]:
    """What stands for the averages of a system, in order of appearance.

    Of those with a value, and of those that nothing takes, one for all that differ by the names of
    their fields alone.
    """
    found: dict[tuple[sp.Expr, ...], Lowered] = {}
    for d in definitions:
        for q in sorted(d.expr.atoms(Expectation), key=sp.default_sort_key):
            key = q.args if needs_nodes(q) else q.factors
            if key not in found:
                found[key] = lower(q)
    return tuple(found.values())


def for_students(definitions: Iterable[Definition]) -> tuple[Definition, ...]:
    """The same, with values at the nodes for the students alone where no others are read."""
    kept = list(definitions)
    read = [d.expr.atoms(sp.Indexed) for d in kept]
    for n, d in reversed([*enumerate(kept)]):
        if not (d.name.startswith("value_") and x.i in d.indices) or d.expr.has(x.j):
            continue
        place = d.target.indices.index(x.i)
        rows = {e.indices[place] for some in read for e in some if e.base == d.target.base}
        if rows and all(x.AXES.get(row) == x.p for row in rows):
            terms = tuple((t, e.xreplace({x.i: x.j})) for t, e in d.terms)
            kept[n] = replace(d, target=d.target.xreplace({x.i: x.j}), terms=terms)
            read[n] = kept[n].expr.atoms(sp.Indexed)
    return tuple(kept)


def with_values(expr: sp.Expr, shape: Callable[[sp.Expr], sp.Expr] = lambda e: e) -> sp.Expr:
    """Replace what needs no nodes by its function of the covariances."""
    found = (q for q in expr.atoms(Expectation) if not needs_nodes(q))
    return expr.xreplace({q: shape(value_of(q)) for q in found})


def without_code(value: sp.Expr) -> list[str]:
    """Names of what a closed form holds of covariances that code does not have."""
    found = {
        type(f).__name__
        for f in value.atoms(sp.Function)
        if type(f).__name__ not in CODED and f.has(sp.Indexed)
    }
    powers = (e for e in value.atoms(sp.Pow) if e.base.has(sp.Indexed))
    return sorted(found | {str(e) for e in powers if not (2 * e.exp).is_Integer})


def _product(q: Expectation) -> sp.Expr:
    """The factors at their fields, for messages."""
    pairs = zip(q.factors, q.fields, strict=True)
    return sp.Mul(*(f.xreplace({FIELD: sp.Symbol(str(y))}) for f, y in pairs))

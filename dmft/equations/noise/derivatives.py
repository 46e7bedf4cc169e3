r"""Derivatives of the equations of motion, from the same symbols: linearised rates and adjoint.

A state (Q, M) + epsilon (Q', M') moves every definition by epsilon times its derivative; that
derivative is again a sum over neurons of functions of overlaps, for any width.

A costate y_X of the rates of X gives every array Y that they read the cotangent

    dual_Y[b] = sum_D sum_a dual_D[a] (dF_D[a] / dY[b])

over the definitions D = F_D in reverse order. Each definition is a sum of functions of entries: all
indices that it runs over, its own and those of its sums, are loops of a `Pullback`, which adds to
the cotangent of every entry that the function reads. Widths and blocks stay run-time values.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.passes import on_nodes, with_values
from dmft.equations.definitions import Definition, Together, Whole, base_name, define, used_bases
from dmft.equations.equations import Equations
from dmft.equations.noise.projection import projected
from dmft.equations.reference import evaluate
from dmft.errors import NotClosed
from dmft.gaussian.closed.pair import CorrelationRoot, InverseCorrelationRoot
from dmft.model import Overlaps

# What the arrays of the costate, and the cotangents of all others, are called behind their names.
COSTATE, DUAL = "_costate", "_dual"


@dataclass(frozen=True)
class Leaf:
    """One entry that an expression reads, the derivative by it, and the sums that it stands in."""

    entry: sp.Indexed
    slope: sp.Expr
    sums: tuple[sp.Symbol, ...] = ()


@dataclass(frozen=True)
class Pullback:
    """For all values of the indices, each entry's cotangent grows by its slope times the weight."""

    indices: tuple[sp.Symbol, ...]
    parts: tuple[tuple[sp.Indexed, sp.Expr], ...]


@dataclass(frozen=True)
class Adjoint:
    """How a costate is pulled back: what the slopes read is computed first (`forward`).

    `between` defines the arrays whose cotangents are added up on the way.
    """

    forward: tuple[Definition, ...]
    pullbacks: tuple[Pullback, ...]
    between: tuple[Definition, ...]


def adjoint(definitions: Sequence[Definition], observable: str = "") -> Adjoint:
    """Product of a costate with the Jacobian of the rates, or the gradient of an observable.

    Equation    out_Y[b] = sum_X sum_a y_X[a] (dF_X[a] / dY[b]), X and Y blocks of the state
    Shapes      costate and result as the state; both are called ``Q_costate``, ...
    Valid for   closed forms and tables with known derivatives, else `NotClosed`. Entries count as
                independent numbers, (j, l) and (l, j) of Q too
    """
    definitions = projected(definitions)
    state = {d.name for d in definitions if d.role == "rate"}
    forward = [d for d in definitions if d.role in ("block", "intermediate")]
    role = "observable" if observable else "rate"
    ends = [d for d in definitions if d.role == role and observable in ("", d.name)]
    moving = _moving([*forward, *ends], state)
    found: list[Pullback] = []
    for d in ends:
        weight = sp.S.One if observable else sp.IndexedBase(d.name + COSTATE)[d.target.indices]
        found += _pulled(d, weight, moving, state)
    between = []
    for d in reversed(forward):
        dual = sp.IndexedBase(d.name + DUAL)
        if any(target.base == dual for pullback in found for target, _ in pullback.parts):
            found += _pulled(d, dual[d.target.indices], moving, state)
            between.append(d)
    return Adjoint(_read(forward, found), tuple(found), tuple(between))


def _read(
    definitions: Sequence[Definition], pullbacks: Sequence[Pullback]
) -> tuple[Definition, ...]:
    """Definitions that the slopes read, and those of the covariance."""
    needed = {base_name(e) for y in pullbacks for _, v in y.parts for e in v.atoms(sp.Indexed)}
    kept: list[Definition] = []
    for d in reversed(definitions):
        if d.name in needed or d.role == "block":
            kept.append(d)
            needed |= {base_name(e) for e in d.expr.atoms(sp.Indexed)}
    return tuple(reversed(kept))


def _moving(definitions: Sequence[Definition], state: Collection[str]) -> frozenset[str]:
    """Names of the state and of all arrays that follow it."""
    moving = set(state)
    for d in definitions:
        if isinstance(d.expr, Whole) or on_nodes(d.expr):
            raise NotClosed(
                f"{d.target} contains an average without closed form, and its derivatives are "
                "not available: use an activation and a loss with closed averages"
            )
        read = {base_name(e) for e in with_values(d.expr).atoms(sp.Indexed)}
        if d.role in ("block", "intermediate") and read & moving:
            if not isinstance(d.target, sp.Indexed):
                raise NotClosed(f"{d.target} is a scalar variable: its adjoint is not derived")
            moving.add(d.name)
    return frozenset(moving)


def _pulled(
    d: Definition, weight: sp.Expr, moving: Collection[str], state: Collection[str]
) -> Iterator[Pullback]:
    """What a definition hands on to the entries that it reads, loop by loop."""
    loops: dict[tuple[sp.Symbol, ...], dict[sp.Indexed, sp.Expr]] = {}
    for _, term in d.terms:
        for leaf in leaves(with_values(term), moving):
            name = base_name(leaf.entry)
            base = sp.IndexedBase(name + (COSTATE if name in state else DUAL))
            parts = loops.setdefault((*d.indices, *leaf.sums), {})
            target = base[leaf.entry.indices]
            parts[target] = parts.get(target, sp.S.Zero) + weight * leaf.slope
    for indices, parts in loops.items():
        yield Pullback(indices, tuple(parts.items()))


def leaves(expr: sp.Expr, moving: Collection[str]) -> Iterator[Leaf]:
    """All entries of moving arrays in an expression, with the derivatives by them."""
    if not {base_name(e) for e in expr.atoms(sp.Indexed)} & set(moving):
        return
    if isinstance(expr, sp.Add):
        for part in expr.args:
            yield from leaves(part, moving)
    elif isinstance(expr, Together):
        yield from leaves(expr.total, moving)
    elif isinstance(expr, sp.Sum):
        bound = tuple(symbol for symbol, *_ in expr.limits)
        for leaf in leaves(expr.function, moving):
            yield Leaf(leaf.entry, leaf.slope, (*bound, *leaf.sums))
    elif not expr.has(sp.Sum, Together):
        yield from _of_a_function(expr, moving)
    elif isinstance(expr, sp.Mul):
        for n, factor in enumerate(expr.args):
            rest = sp.Mul(*expr.args[:n], *expr.args[n + 1 :])
            for leaf in leaves(factor, moving):
                yield Leaf(leaf.entry, rest * leaf.slope, leaf.sums)
    else:
        yield from _of_arguments(expr, moving)


def _of_a_function(expr: sp.Expr, moving: Collection[str]) -> Iterator[Leaf]:
    """Partial derivatives of an expression without sums, one for each entry."""
    entries = [e for e in expr.atoms(sp.Indexed) if base_name(e) in moving]
    for entry, slope in partial_derivatives(expr, tuple(sorted(entries, key=sp.default_sort_key))):
        yield Leaf(entry, slope)


@cache
def partial_derivatives(
    expr: sp.Expr, entries: tuple[sp.Indexed, ...]
) -> tuple[tuple[sp.Indexed, sp.Expr], ...]:
    """Derivatives by entries, which are those of different numbers whatever their indices are."""
    names = {e: sp.Dummy(positive=True) for e in expr.atoms(sp.Indexed)}
    back = {name: e for e, name in names.items()}
    plain, found = expr.xreplace(names), []
    for entry in entries:
        slope = _known(sp.diff(plain, names[entry]))
        found.append((entry, _of_parallel_fields(slope.xreplace(back))))
    return tuple((entry, slope) for entry, slope in found if slope != 0)


def _of_parallel_fields(slope: sp.Expr) -> sp.Expr:
    """Coinciding fields stay parallel when they move: what their vanishing root divides is zero."""
    roots = {r**-1: InverseCorrelationRoot(*r.args) for r in slope.atoms(CorrelationRoot)}
    return slope.xreplace(roots)


def _of_arguments(expr: sp.Expr, moving: Collection[str]) -> Iterator[Leaf]:
    """Chain rule for functions of sums."""
    for n, inner in enumerate(expr.args):
        if not inner.has(sp.Indexed):
            continue
        place = sp.Dummy(positive=True)
        outside = expr.func(*expr.args[:n], place, *expr.args[n + 1 :])
        slope = _known(sp.diff(outside, place)).xreplace({place: inner})
        for leaf in leaves(inner, moving):
            yield Leaf(leaf.entry, slope * leaf.slope, leaf.sums)


EPSILON = sp.Dummy("epsilon", real=True)


def moved(name: str) -> sp.IndexedBase:
    """Base of the displacement of an array."""
    return sp.IndexedBase(f"{name}_moved")


def tangent(definitions: Sequence[Definition], by: str = "") -> tuple[Definition, ...]:
    """Definitions of the rates of a displacement (Q', M') around a state (Q, M).

    Equation    dX'/dt = sum_Y (dF_X/dY) Y' over the entries Y of Q and M, or dF_X/dg of the
                parameter g whose name is `by`
    Valid for   closed forms and tables with known derivatives, else `NotClosed`. Displaced
                arrays are called ``Q_moved``, ...
    """
    definitions = projected(definitions)
    result: list[Definition] = []
    # What nothing defines and no rate moves is a constant: teachers, eigenvalues, readouts.
    resting = {name for d in definitions for name in used_bases(d.expr)}
    resting -= {d.name for d in definitions}
    moving: set[str] = {"Omega"}
    if by:
        moving = following(definitions, by)
        resting |= {d.name for d in definitions} - moving
    for d in definitions:
        if d.role == "observable":
            continue
        if d.role == "sample":
            raise NotClosed(
                "averages over all fields of a sample at once (repeated samples, several outputs, "
                "losses without closed averages) are not linearised; solve the equations from near "
                "the point instead"
            )
        if on_nodes(d.expr):
            raise NotClosed(
                f"{d.target} contains an average without closed form; the equations cannot be "
                "linearised in closed form. Drop the term with equations.without(...)"
            )
        if not by:  # the derivatives of long definitions take a minute
            _check_slopes(d.expr, resting)
    for d in definitions:
        if d.role == "observable":
            continue
        terms = tuple((name, _moved_expression(e, resting, by)) for name, e in d.terms)
        terms = tuple((name, e) for name, e in terms if e != 0)
        if d.role == "block" and terms:
            moving.add(d.name)
        elif d.role == "block" and d.name not in moving:
            resting.add(d.name)
        if d.role != "rate":
            result.append(d)
        if d.role == "rate" or d.name not in resting:
            zero = (("rest", sp.S.Zero),)
            result.append(_displaced(d, terms or zero))
    return tuple(result)


def following(definitions: Sequence[Definition], parameter: str) -> set[str]:
    """Names of what is defined, other than the state, that depends on a parameter."""
    found = {parameter}
    for d in definitions:
        if d.role != "rate" and used_bases(with_values(d.expr)) & found:
            found.add(d.name)
    return found


def _displaced(d: Definition, terms: tuple[tuple[str, sp.Expr], ...]) -> Definition:
    """Definition of the displacement of an array; rates keep their names."""
    if d.role == "rate":
        return Definition(d.target, terms, "rate")
    return Definition(moved(d.name)[d.target.indices], terms, d.role)


def _moved_expression(expr: sp.Expr, resting: Container[str], by: str = "") -> sp.Expr:
    """Derivative along the displacement of all arrays that move, or by a parameter."""
    closed = with_values(expr)
    entries = {e for e in closed.atoms(sp.Indexed) if base_name(e) not in resting}
    shifts = {e: e + EPSILON * moved(base_name(e))[e.indices] for e in entries}
    shifts |= {s: s + EPSILON for s in closed.free_symbols if by and s.name == by}
    derivative = _known(sp.diff(closed.xreplace(shifts), EPSILON))
    return _of_parallel_fields(derivative.xreplace({EPSILON: sp.S.Zero}))


def _check_slopes(expr: sp.Expr, resting: Container[str]) -> None:
    """Refuse functions of what moves whose derivatives are not known."""
    for function in with_values(expr).atoms(sp.Function):
        for n, argument in enumerate(function.args, start=1):
            if all(base_name(e) in resting for e in argument.atoms(sp.Indexed)):
                continue
            _known(function.fdiff(n))


def _known(slope: sp.Expr, *kinks: type) -> sp.Expr:
    """A slope; refused if it contains derivatives, or functions of these kinds."""
    if not slope.has(sp.Derivative, sp.Subs, *kinks):
        return slope
    parts = slope.atoms(sp.Derivative, sp.Subs)
    found = {f.func.__name__ for part in parts for f in part.atoms(sp.Function)}
    raise NotClosed(
        f"the derivatives of {', '.join(sorted(found)) or 'a closed form'} are not known, so that "
        "the equations cannot be differentiated: drop the term with equations.without(...)"
    )


def tangent_of_numbers(
    definitions: Sequence[Definition], state: Iterable[sp.Symbol]
) -> tuple[Definition, ...]:
    r"""The same for a state whose entries are symbols; displacements are ``Q_1_1_moved``, ..."""
    moving, result = set(state), list[Definition]()
    for d in definitions:
        if d.role == "observable":
            continue
        terms = {
            name: sp.Add(*(slope * moved_symbol(s) for s, slope in _slopes(d, expr, moving)))
            for name, expr in d.terms
        }
        if d.role == "rate":
            result.append(define(d.target, terms, "rate"))
            continue
        result.append(d)
        if any(terms.values()):
            moving.add(d.target)
            result.append(define(moved_symbol(d.target), terms, d.role))
    return tuple(result)


def adjoint_of_numbers(
    definitions: Sequence[Definition], state: Sequence[sp.Symbol], observable: str = ""
) -> tuple[Definition, ...]:
    """`adjoint` of a state whose entries are symbols, as definitions of ``Q_1_1_costate``, ..."""
    forward = [d for d in definitions if d.role in ("block", "intermediate")]
    role = "observable" if observable else "rate"
    ends = [d for d in definitions if d.role == role and observable in ("", d.name)]
    moving = {*state, *(d.target for d in forward)}
    cotangents: dict[sp.Symbol, list[sp.Expr]] = {}
    result: list[Definition] = []

    def pull(d: Definition, weight: sp.Expr) -> None:
        for s, slope in _slopes(d, d.expr, moving):
            cotangents.setdefault(s, []).append(weight * slope)

    for d in ends:
        pull(d, sp.S.One if observable else moved_symbol(d.target, COSTATE))
    for d in reversed(forward):
        if d.target in cotangents:
            dual = moved_symbol(d.target, DUAL)
            result.append(define(dual, {"dual": sp.Add(*cotangents[d.target])}, "intermediate"))
            pull(d, dual)
    for s in state:
        terms = {"costate": sp.Add(*cotangents.get(s, ()))}
        result.append(define(moved_symbol(s, COSTATE), terms, "rate"))
    return (*forward, *result)


def _slopes(
    d: Definition, expr: sp.Expr, moving: Collection[sp.Symbol]
) -> Iterator[tuple[sp.Symbol, sp.Expr]]:
    """Derivatives of a part of a definition by the numbers that move."""
    if expr.has(Expectation):
        raise NotClosed(f"{d.target} contains an average on nodes, which is not linearised")
    for s in sorted(expr.free_symbols & set(moving), key=str):
        yield s, _known(sp.diff(expr, s), sp.DiracDelta)


def moved_symbol(symbol: sp.Symbol, suffix: str = "_moved") -> sp.Symbol:
    """Displacement of a number, or its cotangent."""
    return sp.Symbol(f"{symbol}{suffix}", real=True)


def jacobian(
    equations: Equations, point: Overlaps, directions: NDArray[np.float64], **parameters: float
) -> NDArray[np.float64]:
    """Rates of change of displacements of the state, by the NumPy reference, in their shape.

    `directions` (n, p p + p k) are displacements of (Q, M), each in C order; those of Q are
    symmetric, and a trained readout follows: (n, p p + p k + p).
    """
    values = equations.values(point, dict(parameters))
    definitions = tangent(equations.definitions)
    blocks = {"Q": point.Q, "M": point.M}
    if equations.algorithm.trains_readout:
        blocks["readout"] = values.arrays["readout"]
    places = np.cumsum([block.size for block in blocks.values()])[:-1]
    rows = []
    for direction in directions:
        parts = np.split(np.asarray(direction), places)
        moves = {
            f"{name}_moved": part.reshape(block.shape)
            for (name, block), part in zip(blocks.items(), parts, strict=True)
        }
        rates = evaluate(definitions, {**blocks, **moves}, values, "rate")
        rows.append(np.concatenate([rates[name].ravel() for name in blocks]))
    return np.array(rows)

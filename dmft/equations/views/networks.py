"""Sums over all fields as sums over students and over teachers, as papers write them.

For print alone: averages that Stein's identity takes apart are put together again, and the mean
gradients are written into the rates that they are used in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation, free_indices, product_average
from dmft.equations.averages.passes import lower
from dmft.equations.definitions import Definition, base_name
from dmft.equations.views.text import flipped, in_one_form
from dmft.gaussian.derivative import derivative
from dmft.gaussian.tables.tabled import TableAverage
from dmft.model import FIELD, Committee, Model

# Indices of all fields, and those that sums over one network are written in.
ALL = (x.i, x.m, x.n)
STUDENTS, TEACHERS = (x.u, x.v, x.l), (x.r, x.s, *x.powers)
# Mean gradients along each field.
GRADIENTS = ("b_learning", "b_interaction")


def by_network(definitions: Sequence[Definition]) -> tuple[Definition, ...]:
    """Definitions with sums over students and over teachers, their coefficients put in."""
    coefficients = {d.terms[0][0]: d for d in definitions if d.name == "c"}
    if set(coefficients) != {"student", "teacher"}:
        return tuple(definitions)
    found = []
    for d in definitions:
        taken = set(d.indices)
        terms = tuple((name, _split(e, coefficients, taken)) for name, e in d.terms)
        found.append(replace(d, terms=terms))
    if any(e.has(x.c) for d in found for _, e in d.terms):
        return tuple(found)
    return tuple(d for d in found if d.name != "c")


def _split(expr: sp.Expr, coefficients: Mapping[str, Definition], taken: set[sp.Symbol]) -> sp.Expr:
    """An expression without sums over all fields."""
    if isinstance(expr, sp.Sum) and {limit[0] for limit in expr.limits} <= set(ALL):
        return _of_networks(expr, coefficients, taken)
    if not expr.args or not expr.has(sp.Sum):
        return expr
    return expr.func(*(_split(a, coefficients, taken) for a in expr.args))


def _of_networks(
    expr: sp.Sum, coefficients: Mapping[str, Definition], taken: set[sp.Symbol]
) -> sp.Expr:
    """One sum over all fields as sums over the two networks."""
    running = [limit[0] for limit in expr.limits]
    parts: list[sp.Expr] = []
    for kinds in product(("teacher", "student"), repeat=len(running)):
        free = {
            "student": [s for s in STUDENTS if s not in taken],
            "teacher": [s for s in TEACHERS if s not in taken],
        }
        body, limits = expr.function, []
        for index, kind in zip(running, kinds, strict=True):
            own = free[kind].pop(0)
            body = _at_unit(body, index, own, kind, coefficients[kind])
            limits.append((own, 1, x.AXES[own]))
        number, rest = body.as_independent(*(s for s, *_ in limits), as_Add=False)
        parts.append(number * sp.Sum(rest, *sorted(limits, key=str)))
    return sp.Add(*parts)


def _at_unit(
    body: sp.Expr, index: sp.Symbol, own: sp.Symbol, kind: str, coefficient: Definition
) -> sp.Expr:
    """The summand of all fields at a unit of one network."""
    old = next(iter(coefficient.indices), own)
    value = coefficient.expr.xreplace({old: own})
    place, field = (own, x.h[own]) if kind == "student" else (x.p + own, x.h_star[own])
    table: dict[sp.Expr, sp.Expr] = {x.c[index]: value, x.lam[index]: field}
    return ordered(body.xreplace(table).xreplace({index: place}))


def ordered(expr: sp.Expr) -> sp.Expr:
    """Averages with equal functions in the order of their fields."""
    table = {
        a: product_average(a.factors, a.fields, a.law)
        for a in expr.atoms(Expectation)
        if a.is_product
    }
    return expr.xreplace(table)


# Labels of one and minus one ------------------------------------------------------------------


def of_signs(definitions: Sequence[Definition], model: Model) -> tuple[Definition, ...]:
    """Definitions in which <E(f)> + <O(f) y>, y = sign(h*), is <F(y f)> with F = E + O.

    E is even and O is odd; derivations have them apart, since y takes two values.
    """
    teacher = model.teacher
    if not isinstance(teacher, Committee) or teacher.activation != sp.sign(FIELD):
        return tuple(definitions)
    ats = [y for d in definitions for y in d.expr.atoms(At)]
    label = next((y for y in ats if y.factor == sp.sign(FIELD) and y.field.has(x.h_star)), None)
    found = tuple(
        replace(d, terms=tuple((name, _of_signs(e, label)) for name, e in d.terms))
        for d in definitions
    )
    if label is None or found == tuple(definitions):
        return tuple(definitions)
    return (*found, Definition(x.label, (("label", label),), "sample"))


def _of_signs(expr: sp.Expr, label: At | None) -> sp.Expr:
    if label is None or not expr.args or not expr.has(label):
        return expr
    if not isinstance(expr, Expectation):
        expr = expr.func(*(_of_signs(a, label) for a in expr.args))
    parts = [y.as_independent(Expectation, as_Add=False) for y in sp.Add.make_args(expr)]
    averages = [(front, y) for front, y in parts if isinstance(y, Expectation) and y.is_product]
    for (front, odd), (other, even) in product(averages, repeat=2):
        ratio, own = sp.cancel(other / front), [y for y in odd.parts if y != label]
        if not (len(odd.parts) == 2 and len(own) == len(even.parts) == 1 and ratio.is_Rational):
            continue
        if even.fields[0] != own[0].field:
            continue
        one, minus = (in_one_form(ratio * even.factors[0] + y * own[0].factor) for y in (1, -1))
        if minus not in (flipped(one), sp.expand(-flipped(one))):
            continue
        whole = min(one, sp.factor(one), key=sp.count_ops)
        number, whole = whole.as_coeff_Mul()
        signs = [] if minus == flipped(one) else [label]
        average = Expectation(*signs, At(whole, x.label * own[0].field))
        return expr - front * odd - other * even + front * number * average
    return expr


# Mean gradients -------------------------------------------------------------------------------


def with_gradients(definitions: Sequence[Definition], model: Model) -> tuple[Definition, ...]:
    """Rates with the mean gradients in them, as averages of sigma'(h_j) lambda_i times outputs."""
    whole = {}
    for d in definitions:
        value = _whole_gradient(d, model) if d.name in GRADIENTS else None
        if value is not None:
            whole[d.name] = (d, value)
    read = [n for d in definitions for n in (base_name(e) for e in d.expr.atoms(sp.Indexed))]
    if not whole or any(name in read and name not in whole for name in GRADIENTS):
        return tuple(definitions)
    found = []
    for d in definitions:
        if d.name in whole:
            continue
        put = ((name, _put(e, whole, d)) for name, e in d.terms)
        terms = tuple((name, _with_sums(_with_overlaps(e, definitions))) for name, e in put)
        found.append(replace(d, terms=terms))
    return tuple(found)


def _with_overlaps(expr: sp.Expr, definitions: Sequence[Definition]) -> sp.Expr:
    """Entries of Omega as the overlaps that they are."""
    blocks = [d for d in definitions if d.name == "Omega"]
    table = {}
    for entry in (e for e in expr.atoms(sp.Indexed) if base_name(e) == "Omega"):
        kinds = [i.has(x.p) for i in entry.indices]
        for d in blocks:
            if [i.has(x.p) for i in d.target.indices] == kinds and d.expr.has(
                sp.Indexed, sp.KroneckerDelta
            ):
                old = [i - x.p if k else i for i, k in zip(d.target.indices, kinds, strict=True)]
                new = [i - x.p if k else i for i, k in zip(entry.indices, kinds, strict=True)]
                table[entry] = d.expr.xreplace(dict(zip(old, new, strict=True)))
    return expr.xreplace(table)


def _put(
    expr: sp.Expr, whole: Mapping[str, tuple[Definition, sp.Expr]], reader: Definition
) -> sp.Expr:
    """An expression with the values of mean gradients at its own indices."""
    table = {}
    for entry in expr.atoms(sp.Indexed):
        if base_name(entry) not in whole:
            continue
        definition, value = whole[base_name(entry)]
        bound = [limit[0] for s in value.atoms(sp.Sum) for limit in s.limits]
        used = {*reader.indices, *free_indices(entry)}
        fresh = {
            s: next(y for y in (s, *(STUDENTS if s in STUDENTS else TEACHERS)) if y not in used)
            for s in bound
        }
        moved = value.xreplace(fresh)
        moved = moved.xreplace(dict(zip(definition.target.indices, entry.indices, strict=True)))
        table[entry] = ordered(_placed(moved))
    return sp.expand(expr.xreplace(table), deep=False) if table else expr


def _placed(expr: sp.Expr) -> sp.Expr:
    """Fields of all as those of a student or of a teacher."""
    table = {}
    for field in expr.atoms(sp.Indexed):
        if field.base == x.lam:
            table[field] = placed_field(*field.indices)
    return expr.xreplace(table)


def placed_field(index: sp.Expr) -> sp.Expr:
    """The field at a position: of a student, of a teacher, or of any unit."""
    if index in ALL:
        return x.lam[index]
    return x.h_star[index - x.p] if index.has(x.p) else x.h[index]


def _whole_gradient(definition: Definition, model: Model) -> sp.Expr | None:
    """The mean gradient before Stein's identity; None where that is not its derivation."""
    slope = derivative(model.student.activation)
    for taken_apart, whole in _outputs(definition, model, slope):
        if sp.expand(definition.expr - taken_apart) == 0:
            return whole if all(map(_is_closed, whole.atoms(Expectation))) else definition.expr
    return None


def _is_closed(average: Expectation) -> bool:
    """Whether an average has a closed form; others stay as they are computed."""
    value = lower(average).value
    return value is not None and not value.has(TableAverage)


def _outputs(
    definition: Definition, model: Model, slope: sp.Expr
) -> Iterator[tuple[sp.Expr, sp.Expr]]:
    """Mean gradients along lambda_i of the outputs of units, by Stein's identity and as such."""
    if len(definition.target.indices) != 2:  # by block
        return
    j, i = definition.target.indices
    teacher = model.teacher
    expr = definition.expr
    sums = expr.atoms(sp.Sum)
    if len(sums) != 1:
        return
    (total,) = sums
    (index, *_), *others = total.limits
    if others or index not in (x.l, x.r):
        return
    student = index == x.l
    activation = model.student.activation if student else getattr(teacher, "activation", None)
    if activation is None or (not student and not isinstance(teacher, Committee)):
        return
    field = x.h[index] if student else x.h_star[index]
    place = index if student else x.p + index
    apart = x.Omega[i, j] * product_average((derivative(slope), activation), (x.h[j], field))
    apart += x.Omega[i, place] * product_average((slope, derivative(activation)), (x.h[j], field))
    whole = Expectation(At(slope, x.h[j]), At(FIELD, x.lam[i]), At(activation, field))
    readout = (x.a if student else x.a_star)[index]
    ratio = (-1 / x.p) if student else 1 / x.k
    for own, other in product((sp.S.One, x.a[j]), (sp.S.One, readout)):
        limits = (index, 1, x.AXES[index])
        front = ratio * own
        yield front * sp.Sum(apart * other, limits), front * sp.Sum(whole * other, limits)


def _with_sums(expr: sp.Expr) -> sp.Expr:
    """Sums over the same range with the same factor under one sign."""
    found: dict[tuple[sp.Expr, sp.Tuple], list[sp.Expr]] = {}
    rest = []
    for term in sp.Add.make_args(expr):
        number, factors = term.as_independent(sp.Sum, as_Add=False)
        if isinstance(factors, sp.Sum):
            found.setdefault((number, sp.Tuple(*factors.limits)), []).append(factors.function)
        else:
            rest.append(term)
    sums = [number * sp.Sum(sp.Add(*bodies), *limits) for (number, limits), bodies in found.items()]
    return sp.Add(*rest, *sums)

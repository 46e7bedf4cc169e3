"""Sums over all fields as sums over students and over teachers, as papers write them.

For print alone: averages that Stein's identity takes apart are put together again, and the mean
gradients are written into the rates that they are used in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At, Expectation, free_indices, product_average
from dmft.equations.averages.passes import lower
from dmft.equations.definitions import Definition, base_name, mapped, used_bases
from dmft.equations.views.collected import summed
from dmft.equations.views.text import flipped, in_one_form
from dmft.gaussian.derivative import derivative
from dmft.gaussian.tables.tabled import TableAverage
from dmft.model import FIELD, Committee, Model

# Indices of all fields, and those that sums over one network are written in.
ALL = (x.i, x.m, x.n)
STUDENTS, TEACHERS = (x.u, x.v, x.l), (x.r, x.s, *x.powers)
# Mean gradients along each field.
GRADIENTS = ("b_learning", "b_interaction", "b")


def by_network(definitions: Sequence[Definition]) -> tuple[Definition, ...]:
    """Definitions with sums over students and over teachers, their coefficients put in."""
    coefficients = {d.terms[0][0]: d for d in definitions if d.name == "c"}
    if set(coefficients) != {"student", "teacher"}:
        return tuple(definitions)
    split = (partial(_split, coefficients=coefficients, taken={*d.indices}) for d in definitions)
    found = [*map(mapped, definitions, split)]
    read = any(d.expr.has(x.c) for d in found)
    return tuple(d for d in found if read or d.name != "c")


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


def sentence_of_signs(output: str) -> str:
    """What `of_signs` has done, of an output f or h."""
    return (
        rf"Since $y = \pm 1$ is odd in the fields, $\langle F(y {output}) \rangle = "
        rf"\langle F({output}) \rangle + \langle F({output})\, y \rangle$ for any $F$."
    )


def of_signs(definitions: Sequence[Definition], model: Model) -> tuple[Definition, ...]:
    """Definitions in which <E(f)> + <O(f) y>, y = sign(h*), is <F(y f)> with F = E + O.

    E is even and O is odd; derivations have them apart, since y takes two values.
    """
    teacher = model.teacher
    if not isinstance(teacher, Committee) or teacher.activation != sp.sign(FIELD):
        return tuple(definitions)
    ats = [y for d in definitions for y in d.expr.atoms(At)]
    label = next((y for y in ats if y.factor == sp.sign(FIELD) and y.field.has(x.h_star)), None)
    found = tuple(mapped(d, lambda e: _of_signs(e, label)) for d in definitions)
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
    inner = {}
    whole, parts = _of_label(definitions, model)
    if parts:  # y in place of a product of functions of all directions
        definitions = [mapped(d, partial(_with_label, parts=parts)) for d in definitions]
        definitions.append(Definition(x.label, (("label", sp.Mul(*parts)),), "sample"))
    for d in definitions:
        value = _whole_gradient(d, model) if d.name in GRADIENTS else None
        value = whole if parts and d.name == "b_learning" else value
        value = d.expr if d.name == "b" and isinstance(d.expr, Expectation) else value
        if value is not None:
            inner[d.name] = replace(d, terms=(("whole", value),))
    read = {n for d in definitions for n in used_bases(d.expr)}
    if not inner or not read & {*GRADIENTS} <= {*inner}:
        return tuple(definitions)
    grams = grams_of(definitions)

    def written(d: Definition, expr: sp.Expr) -> sp.Expr:
        found = put_in(expr, inner, d.indices)
        if found != expr:
            found = sp.expand(ordered(placed(found)), deep=False)
        return _with_sums(in_overlaps(found, grams))

    return tuple(mapped(d, partial(written, d)) for d in definitions if d.name not in inner)


def _of_label(definitions: Sequence[Definition], model: Model) -> tuple[sp.Expr, tuple[At, ...]]:
    """The mean gradient along the label, before Stein's identity, and the factors of the label.

    These are functions of several directions; none where the gradient is another one.
    """
    found: tuple[sp.Expr, tuple[At, ...]] = (sp.S.Zero, ())
    for d in definitions:
        if d.name != "b_learning" or len(d.target.indices) != 2:
            continue
        slope = derivative(model.student.activation)
        j, i = d.target.indices
        expr = sp.expand(d.expr)
        front, average = expr.coeff(x.Omega[i, j]).as_independent(Expectation, as_Add=False)
        if not (isinstance(average, Expectation) and average.is_product):
            return found
        parts = tuple(y for y in average.parts if y.field != x.h[j])
        if len(parts) < 2 or all(y.factor.is_polynomial(FIELD) for y in parts):
            return found
        taken_apart = x.Omega[i, j] * average
        for part in parts:
            slopes = [derivative(y.factor) if y == part else y.factor for y in parts]
            fields = [x.h[j], *(y.field for y in parts)]
            place = x.Omega[i, x.p + part.field.indices[0]]
            taken_apart += place * product_average([slope, *slopes], fields)
        same = sp.expand(ordered(expr) - ordered(sp.expand(front * taken_apart))) == 0
        whole = front * Expectation(At(slope, x.h[j]), At(FIELD, x.lam[i]), x.label)
        found = (whole, parts) if same else found
    return found


def _with_label(expr: sp.Expr, parts: Sequence[At]) -> sp.Expr:
    """Averages of a product with the factors of a label in the label itself."""
    table = {
        a: Expectation(*(y for y in a.parts if y not in parts), x.label, a.law)
        for a in expr.atoms(Expectation)
        if a.is_product and {*parts} <= {*a.parts}
    }
    return expr.xreplace(table)


def put_in(
    expr: sp.Expr, inner: Mapping[str, Definition], taken: Collection[sp.Symbol] = ()
) -> sp.Expr:
    """An expression with definitions written out; their sums run over indices not taken."""
    table = {}
    for entry in expr.atoms(sp.Indexed):
        d = inner.get(base_name(entry))
        if d is None:
            continue
        used = {*taken, *free_indices(entry)}
        bound = {limit[0] for total in d.expr.atoms(sp.Sum) for limit in total.limits}
        fresh = dict[sp.Symbol, sp.Symbol]()
        for s in sorted(bound & used, key=str):
            letters = next(y for y in (STUDENTS, TEACHERS, ALL) if s in y)
            fresh[s] = next(y for y in letters if y not in {*used, *bound, *fresh.values()})
        own = dict(zip(d.target.indices, entry.indices, strict=True))
        table[entry] = d.expr.xreplace(fresh).xreplace(own)
    return put_in(expr.xreplace(table), inner, taken) if table else expr


def grams_of(definitions: Iterable[Definition]) -> list[tuple[sp.Indexed, sp.Expr]]:
    """Blocks of Gram matrices that are overlaps: their entries and the overlaps."""
    return [
        (d.target, d.expr)
        for d in definitions
        if d.role == "block"
        and isinstance(d.expr, sp.Indexed | sp.KroneckerDelta)
        and not x.is_mean(d.target.base)
    ]


def in_overlaps(expr: sp.Expr, grams: Sequence[tuple[sp.Indexed, sp.Expr]]) -> sp.Expr:
    """Entries of Gram matrices at given units as the overlaps that they are."""
    table: dict[sp.Expr, sp.Expr] = {}
    for entry in expr.atoms(sp.Indexed):
        places, kinds = _places(entry)
        if {*places[:2]} & {*ALL}:
            continue
        for target, value in grams:
            here, same = _places(target)
            if base_name(target) == base_name(entry) and same == kinds:
                table[entry] = value.xreplace(dict(zip(here, places, strict=True)))
    return expr.xreplace(table)


def _places(entry: sp.Indexed) -> tuple[list[sp.Expr], list[bool]]:
    """Indices of an entry, positions of teachers as their numbers, and which are teachers'."""
    kinds = [i.has(x.p) for i in entry.indices]
    return [i - x.p if k else i for i, k in zip(entry.indices, kinds, strict=True)], kinds


def placed(expr: sp.Expr) -> sp.Expr:
    """An expression with fields of all called as those of a student or of a teacher."""
    fields = (e for e in expr.atoms(sp.Indexed) if e.base == x.lam)
    return expr.xreplace({e: placed_field(*e.indices) for e in fields})


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
    parts = (y.as_independent(sp.Sum, as_Add=False) for y in sp.Add.make_args(expr))
    alone = (
        ((number, *y.limits), y.function) if isinstance(y, sp.Sum) else ((), number * y)
        for number, y in parts
    )
    found = summed(alone)
    rest = found.pop((), sp.S.Zero)
    return sp.Add(rest, *(n * sp.Sum(body, *limits) for (n, *limits), body in found.items()))

r"""Equations with the values that were declared: unit readouts, no noise, P = I, one unit.

For print alone. What is put in is told, and is exact at these values; runs read the equations as
they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, base_name, used_bases
from dmft.equations.symbols import ONLY
from dmft.equations.views.networks import by_network, placed_field, with_gradients
from dmft.equations.views.paper_units import Subject, in_sums, outputs_are_sums

STUDENTS, TEACHERS = (x.j, x.l, x.u, x.v, x.row), (x.r, x.s, *x.powers)
# Bases whose first index runs over all fields.
OVER_ALL = frozenset({"lambda", "c", "Omega", "Gram", "output_covariance", "residual_covariance"})
# Intermediates with an index over all fields, which are written into the rates of single units.
OVER_FIELDS = frozenset(
    {"b_learning", "b_interaction", "b", "output_covariance", "residual_covariance"}
)
# Indices of entries that number teachers.
OF_TEACHERS = {"h_star": {0}, "M": {1}, "P": {0, 1}}


def declared_definitions(
    subject: Subject, unit_teachers: bool = True
) -> tuple[tuple[Definition, ...], list[str]]:
    """Definitions at the declared values, and the names of these; P = I where `unit_teachers`."""
    definitions, model = subject.definitions, subject.model
    values, notes = _values(subject, unit_teachers)
    definitions = tuple(_put_into(d, values) for d in definitions)
    definitions = by_network(with_gradients(definitions, model))
    if outputs_are_sums(subject):
        definitions = in_sums(definitions, bool(model.student.width == model.teacher.width))
    single, directions = unit_widths(subject), getattr(model.teacher, "activation", None) is None
    if any(single) or (directions and model.clusters is None):
        definitions = _of_single_units(definitions, *single)
        notes = ["one P" if name == "P" and single[1] else name for name in notes]
    zero = {d.name: sp.S.Zero for d in definitions if d.role == "intermediate" and d.expr == 0}
    if zero:
        definitions = tuple(_put_into(d, zero) for d in definitions if d.name not in zero)
    return _read(definitions), notes


def at_declared(expr: sp.Expr, subject: Subject, unit_teachers: bool = True) -> sp.Expr:
    """An expression in fields, readouts and overlaps as `declared_definitions` writes it."""
    plain = _put(expr, _values(subject, unit_teachers)[0])
    single = unit_widths(subject)
    return _Single({}, [], *single).collapsed(plain) if any(single) else plain


def unit_widths(subject: Subject) -> tuple[bool, bool]:
    """Whether there is one student, and one teacher."""
    student, teacher = subject.model.student, subject.model.teacher
    known = getattr(teacher, "activation", None) is not None or subject.model.clusters is not None
    one_student = getattr(student, "width", None) == 1
    return one_student, getattr(teacher, "width", None) == 1 and known


def _values(subject: Subject, unit_teachers: bool) -> tuple[dict[Any, sp.Expr], list[str]]:
    """What is put for symbols and for bases of arrays, and the names that a sentence states."""
    model = subject.model
    trains = subject.algorithm is not None and subject.algorithm.trains_readout
    values: dict[Any, sp.Expr] = {}
    if _has_units(model.student) and not trains:
        values["readout"] = sp.S.One
    if _has_units(model.teacher):
        values["teacher_readout"] = sp.S.One
    noiseless = getattr(model, "label_noise", None) == 0
    used = {
        name
        for d in subject.definitions
        for _, e in d.terms
        if not noiseless or e.xreplace({x.Delta: sp.S.Zero}) != 0
        for name in _bases(e)
    }
    notes = []
    if noiseless:
        values[x.Delta] = sp.S.Zero
        if any(x.Delta in d.expr.free_symbols for d in subject.definitions):
            notes.append("label_noise")
    if getattr(model, "inputs", None) is None and "P" in used and unit_teachers:
        values["P"] = sp.S.One  # a Kronecker delta, made below
        notes.append("P")
    return values, notes


def _read(definitions: Sequence[Definition]) -> tuple[Definition, ...]:
    """Definitions without intermediates, and Gram matrices of kept rows, that nothing reads."""
    while True:
        used = {n for d in definitions for n in used_bases(d.expr) if n != d.name}
        kept = tuple(
            d
            for d in definitions
            if d.name in used or not (d.role == "intermediate" or d.name.startswith("Gram_"))
        )
        if len(kept) == len(definitions):
            return kept
        definitions = kept


def _has_units(network: Any) -> bool:
    return hasattr(network, "readout") and network.readout is None


def _bases(expr: sp.Expr) -> set[str]:
    return {base_name(e) for e in expr.atoms(sp.Indexed)}


def _put_into(definition: Definition, values: Mapping[Any, sp.Expr]) -> Definition:
    """A definition with values put in, without the terms that vanish."""
    terms = ((name, _put(e, values)) for name, e in definition.terms)
    return replace(definition, terms=tuple((n, e) for n, e in terms if e != 0))


def _put(expr: sp.Expr, values: Mapping[Any, sp.Expr]) -> sp.Expr:
    """An expression with values for symbols and for bases of arrays."""
    table: dict[sp.Expr, sp.Expr] = {s: v for s, v in values.items() if isinstance(s, sp.Symbol)}
    for entry in expr.atoms(sp.Indexed):
        name = base_name(entry)
        if name == "P" and name in values:
            table[entry] = sp.KroneckerDelta(*entry.indices)
        elif name in values:
            table[entry] = values[name]
    return expr.xreplace(table) if table else expr


# Single units ---------------------------------------------------------------------------------


def _of_single_units(
    definitions: Sequence[Definition], student: bool, teacher: bool
) -> tuple[Definition, ...]:
    """One student or one teacher: their indices and sums disappear, averages stand in the rates."""
    inner = {d.name: d for d in definitions if d.name in OVER_FIELDS}
    grams = [
        (d.target, d.expr)
        for d in definitions
        if d.role == "block"
        and isinstance(d.expr, sp.Indexed | sp.KroneckerDelta)
        and not x.is_mean(d.target.base)
    ]
    table = _Single(inner, grams, student, teacher)
    found = []
    for d in definitions:
        if d.name in OVER_FIELDS or (d.role == "block" and d.name == "Omega"):
            if d.role == "block":
                found.append(d)
            continue
        terms = ((name, table(e)) for name, e in d.terms)
        kept = tuple((name, e) for name, e in terms if e != 0)
        found.append(replace(d, target=table.target(d.target), terms=kept))
    return _read(found)


def _places(entry: sp.Indexed) -> tuple[list[sp.Expr], list[bool]]:
    """Indices of an entry, positions of teachers as their numbers, and which are teachers'."""
    kinds = [i.has(x.p) for i in entry.indices]
    return [i - x.p if k else i for i, k in zip(entry.indices, kinds, strict=True)], kinds


class _Single:
    """Rewrites expressions for one student, one teacher, or both."""

    def __init__(
        self,
        inner: Mapping[str, Definition],
        grams: Sequence[tuple[sp.Indexed, sp.Expr]],
        student: bool,
        teacher: bool,
    ) -> None:
        self.inner, self.grams = inner, grams
        self.sizes: dict[sp.Expr, sp.Expr] = {}
        self.index: dict[sp.Expr, sp.Expr] = {}
        if student:
            self.sizes[x.p] = sp.S.One
            self.index |= dict.fromkeys(STUDENTS, ONLY[0])
        if teacher:
            self.sizes[x.k] = sp.S.One
            self.index |= dict.fromkeys(TEACHERS, ONLY[1])

    def __call__(self, expr: sp.Expr) -> sp.Expr:
        return self.collapsed(self.blocks(self.inlined(expr)))

    def target(self, target: sp.Expr) -> sp.Expr:
        return self.collapsed(target)

    def inlined(self, expr: sp.Expr) -> sp.Expr:
        """Intermediates over all fields, written out."""
        table = {}
        for entry in expr.atoms(sp.Indexed):
            definition = self.inner.get(base_name(entry))
            if definition is None:
                continue
            body = definition.expr
            fresh = dict(zip((x.r, x.l), (x.s, x.u), strict=True))
            bound = {lim[0] for s in body.atoms(sp.Sum) for lim in s.limits}
            body = body.xreplace({s: fresh[s] for s in bound if s in fresh})
            old = definition.target.indices
            table[entry] = body.xreplace(dict(zip(old, entry.indices, strict=True)))
        return self.inlined(expr.xreplace(table)) if table else expr

    def blocks(self, expr: sp.Expr) -> sp.Expr:
        """Entries of Gram matrices as entries of the blocks that they are made of."""
        table: dict[sp.Expr, sp.Expr] = {}
        for entry in expr.atoms(sp.Indexed):
            places, kinds = _places(entry)
            free = [place for place in places[:2] if not place.is_number]  # of fields of a target
            if not set(free) <= {*STUDENTS, *TEACHERS}:
                continue
            for target, value in self.grams:
                here, same = _places(target)
                if base_name(target) == base_name(entry) and same == kinds:
                    table[entry] = value.xreplace(dict(zip(here, places, strict=True)))
        return expr.xreplace(table)

    def collapsed(self, expr: sp.Expr) -> sp.Expr:
        """Sums of one term without their sign, single indices as such, deltas used up."""
        if isinstance(expr, sp.Indexed):
            return self.entry(expr)
        if isinstance(expr, sp.Sum):
            return self.sum(expr)
        if isinstance(expr, sp.KroneckerDelta):
            inside = [self.index.get(i, i) for i in expr.args]
            inside = [sp.S.One if i in ONLY else i for i in inside]
            return sp.S.One if inside[0] == inside[1] else sp.KroneckerDelta(*inside)
        if not expr.args:
            return self.sizes.get(expr, self.index.get(expr, expr))
        return expr.func(*(self.collapsed(a) for a in expr.args))

    def entry(self, expr: sp.Indexed) -> sp.Expr:
        name = base_name(expr)
        if name == "lambda" and expr.indices[0] in (*STUDENTS, *(x.p + y for y in TEACHERS)):
            return self.entry(placed_field(*expr.indices))
        indices = []
        for place, i in enumerate(expr.indices):
            one = i.xreplace({**self.index, **self.sizes})
            if one == 1 and x.k in self.sizes and place in OF_TEACHERS.get(name, ()):
                one = ONLY[1]
            if name in OVER_ALL and one == ONLY[0]:
                one = sp.S.One
            elif one.has(*ONLY) and one not in ONLY:
                one = one.xreplace({ONLY[1]: sp.S.One})
            indices.append(one)
        return expr.func(expr.base, *indices)

    def sum(self, expr: sp.Sum) -> sp.Expr:
        limits = [(i, low, high) for i, low, high in expr.limits if i not in self.index]
        body = self.collapsed(expr.function)
        body, limits = _without_deltas(body, limits)
        if not limits:
            return body
        return sp.Sum(body, *((i, low, high.xreplace(self.sizes)) for i, low, high in limits))


def _without_deltas(
    body: sp.Expr, limits: list[tuple[sp.Expr, ...]]
) -> tuple[sp.Expr, list[tuple[sp.Expr, ...]]]:
    """A sum over one index of a product with a delta."""
    if len(limits) != 1:
        return body, limits
    index, low, high = limits[0]
    parts = []
    kept = []
    for term in sp.Add.make_args(sp.expand_mul(body)):
        deltas = [f for f in term.atoms(sp.KroneckerDelta) if index in f.args]
        if not deltas:
            kept.append(term)
            continue
        other = next(a for a in deltas[0].args if a != index)
        parts.append(term.xreplace({deltas[0]: sp.S.One}).xreplace({index: other}))
    if not parts:
        return body, limits
    rest = sp.Sum(sp.Add(*kept), (index, low, high)) if kept else sp.S.Zero
    return sp.Add(*parts) + rest, []

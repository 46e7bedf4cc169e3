"""What the steps of a rate are written in: equations as they are printed, or as derived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, base_name
from dmft.equations.views.closed import ClosedSystem
from dmft.equations.views.declared import at_declared, declared_definitions, unit_widths
from dmft.equations.views.latex import Page, closed_form, subject_of
from dmft.equations.views.paper_units import Subject

if TYPE_CHECKING:
    from dmft.equations.system import System


@dataclass(frozen=True)
class Printed:
    """A rate and what it reads, with declared values put in where `subject` is given.

    `unit_teachers` is true if P is the identity; `closed` are equations of single units without
    averages.
    """

    definition: Definition
    definitions: tuple[Definition, ...]
    subject: Subject | None = None
    unit_teachers: bool = False
    closed: ClosedSystem | None = None

    @classmethod
    def as_derived(cls, equations: System, definition: Definition) -> Printed:
        """Equations for all widths and readouts."""
        return cls(definition, equations.definitions)

    def __call__(self, expr: sp.Expr) -> sp.Expr:
        """An expression with the same values put in."""
        if self.subject is None:
            return expr
        return at_declared(expr, self.subject, self.unit_teachers)

    @property
    def single(self) -> tuple[bool, bool]:
        """Whether the only student, and the only teacher, have no index."""
        return (False, False) if self.subject is None else unit_widths(self.subject)

    @property
    def table(self) -> dict[str, Definition]:
        """Definitions that the rate is computed from."""
        return {base_name(d.target): d for d in self.definitions if d.role == "intermediate"}

    def law(self) -> dict[str, sp.Expr]:
        """Covariances of the two fields of single units."""
        sphere = self.closed is not None and bool(self.closed.values)
        length = sp.S.One if sphere else sp.Symbol("Q", positive=True)
        teacher = sp.S.One if self.unit_teachers else sp.Symbol("P", positive=True)
        return {"Q": length, "M": sp.Symbol("M", real=True), "P": teacher}


def printed_blocks(equations: System) -> list[str]:
    """Blocks that have an equation in print; rows of length one keep it."""
    rates = [d.name for d in equations.definitions if d.role == "rate"]
    closed = closed_form(subject_of(equations), Page())
    if closed is None or not closed.scalar:
        return rates
    kept = {base_name(target) for target, _, role in closed.rows if role == "rate"}
    return [name for name in rates if name in kept]


def as_printed(equations: System, definition: Definition) -> Printed:
    """A rate as `latex` prints it, where its terms are averages over the fields of one law."""
    model, block = equations.model, definition.name
    derived = Printed.as_derived(equations, definition)
    plain = equations.kind == "ode" and block in ("M", "Q", "readout") and model.inputs is None
    if not plain or any(d.role == "sample" for d in equations.definitions):
        return derived
    subject = subject_of(equations)
    closed = closed_form(subject, Page())
    if closed is not None and not closed.scalar:
        closed = None
    if closed is not None and not _has(closed, block):  # a constant on the sphere is not printed
        return derived
    one_teacher = getattr(model.teacher, "width", None) == 1
    unit_teachers = closed is None or bool(closed.values) or not one_teacher
    definitions, _ = declared_definitions(subject, unit_teachers)
    rate = next((d for d in definitions if d.role == "rate" and d.name == block), None)
    if rate is None or any(_is_open(d) for d in definitions):
        return derived
    return Printed(rate, definitions, subject, unit_teachers, closed)


def _has(closed: ClosedSystem, block: str) -> bool:
    """Whether a closed system has an equation of a block."""
    return any(base_name(target) == block for target, *_ in closed.rows)


def _is_open(definition: Definition) -> bool:
    """Whether a definition holds mean gradients or sums over all fields."""
    names = ("b_learning", "b_interaction", "b")
    return definition.name in names or definition.expr.has(x.lam, x.c)

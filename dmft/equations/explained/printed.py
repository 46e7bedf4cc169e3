"""Rates that are explained, as they are printed or as derived; their definitions put in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import At
from dmft.equations.definitions import Definition, base_name, live
from dmft.equations.explained.scene import check_blocks
from dmft.equations.views.closed import ClosedSystem
from dmft.equations.views.declared import at_declared, declared_definitions, unit_widths
from dmft.equations.views.latex import Page, closed_form, subject_of
from dmft.equations.views.networks import put_in
from dmft.equations.views.paper_units import Subject
from dmft.errors import BadParameter
from dmft.model.algorithm import refuse
from dmft.model.loss import name_of
from dmft.names import BLOCK, KEPT

if TYPE_CHECKING:
    from dmft.equations.system import System

# Scalings whose rates are averages of one update field.
EXPLAINED = ("high-dimensional", "gradient-flow", "large batches")
# Indices of the blocks whose rates are explained.
PLACES = {
    "M": (x.j, x.r), "Q": (x.j, x.l), "readout": (x.j,),
    "block_M": (x.block, x.j, x.r), "block_Q": (x.block, x.j, x.l),
}  # fmt: skip


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


# Definitions put in ---------------------------------------------------------------------------


def rate_of(equations: System, block: str) -> Definition:
    """The rate of a block, of equations that are derived from one update field."""
    refuse(equations.algorithm, "explain")
    check_blocks(equations.model)
    rates = {d.name: d for d in equations.definitions if d.role == "rate"}
    kept = [name for name in rates if name.removeprefix(BLOCK) in KEPT]
    if kept:
        raise BadParameter(
            f"rates with additional rows of the optimiser ({', '.join(kept)}) are not "
            "explained: use a number instead of dmft.Momentum, or explain the population risk"
        )
    by_block = f"{BLOCK}{block}"  # of inputs with a spectrum
    block = by_block if by_block in rates else block
    if block not in rates:
        known = ", ".join(rates)
        raise BadParameter(f"of = {block!r} must be a block of these equations: {known}")
    if block not in PLACES:
        raise BadParameter(
            f"of = {block!r}: rates are explained for {', '.join(PLACES)}; for a sequence model "
            "explain the population risk"
        )
    if equations.kind not in ("ode", "sde", "map") or equations.scaling not in EXPLAINED:
        raise BadParameter(
            f"rates are explained for one pass (scaling {', '.join(EXPLAINED)}); these are of the "
            f"kind {equations.kind!r}, {equations.scaling}, of {equations.algorithm}"
        )
    if equations.kind == "map" and equations.algorithm.on_sphere:
        raise BadParameter(
            "a step of a large batch on the sphere ends with a division by lengths, which is not a "
            "sum of averages: explain the map without the constraint"
        )
    shortens = getattr(equations.algorithm, "clip", None) is not None
    if shortens or getattr(equations.algorithm, "normalised", False):
        raise BadParameter(
            f"{equations.algorithm} clips or normalises steps: the length of a gradient is no sum "
            "of products, for which no steps are recorded. Explain the algorithm without it; "
            "equations.evaluate_error returns the error of the rates"
        )
    if equations.derived:
        raise BadParameter(
            "terms of these equations were changed by hand: explain the equations as derived"
        )
    rate = rates[block]
    others = (d for d in equations.definitions if d.role != "rate" or d is rate)
    read = live(others, lambda d: d is rate)
    if block.startswith(BLOCK):
        _check_block(equations, read)
    lines = {s for d in read for s in d.expr.free_symbols & set(x.LINES)}
    if lines:
        random = equations.model.draws_labels or equations.model.flips
        labels = "random labels" if random else "these labels"
        loss = equations.algorithm.loss
        raise BadParameter(
            f"a linear student with the loss {name_of(loss) or loss} of {labels} depends on one "
            f"combination of the fields, the {x.LINES[min(lines, key=str)]}. Its rates are closed "
            "forms and tables of that field, for which no steps are recorded. Explain a student "
            "that is not linear, or the squared loss; equations.evaluate_error returns the "
            "error of the rates"
        )
    return rates[block]


def _check_block(equations: System, read: Sequence[Definition]) -> None:
    """Refuse rates by block whose averages are no sums of products."""
    if any(d.name.startswith("pull") for d in read):
        raise BadParameter(
            f"rates by block are explained only for updates that are sums of products, unlike that "
            f"of {equations.algorithm}: explain the population risk, the squared loss, or the "
            "rates of the same model without inputs="
        )


def inlined_rate(equations: System, block: str) -> sp.Expr:
    """The rate of a block in averages of functions of local fields."""
    table = {base_name(d.target): d for d in equations.definitions if d.role == "intermediate"}
    return put_in(rate_of(equations, block).expr, table)


def in_powers(expr: sp.Expr, symbol: sp.Symbol) -> sp.Expr:
    """A polynomial in a symbol by its powers, sums kept whole."""
    kept = {e: sp.Dummy() for e in expr.atoms(sp.Sum, At)}
    plain = sp.expand(expr.xreplace(kept))
    terms = sp.collect(plain, symbol, evaluate=False)
    back = {d: e for e, d in kept.items()}
    return sp.Add(*(power * sp.factor(c).xreplace(back) for power, c in terms.items()))

"""psi of steps that use their sample repeatedly (theory/batch_reuse D.1), and of users' rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.update.program import Program, Writer, is_noisy, students_at
from dmft.equations.update.terms import in_products
from dmft.errors import BadParameter, NotClosed
from dmft.model import SGD, GaussianMixture, Lookahead, Repeat, SharpnessAware, UpdateField
from dmft.model.update import OUTPUT

# Passes over a sample that equations are written for.
MOST_PASSES = len(x.psi_pass)


def repeated(writer: Writer) -> Program:
    """Whole steps on one sample; its last error and fields."""
    repeat = cast("Repeat", writer.rule)
    if repeat.times > MOST_PASSES:
        raise BadParameter(
            f"equations are written for at most {MOST_PASSES} passes over a sample, got "
            f"{repeat}; dmft.simulate runs any number"
        )
    batch = cast("SGD", writer.algorithm).batch_size
    step = writer.square * x.gamma / (x.p * batch)
    fields, error = x.h, x.label
    for number in range(repeat.times):
        error = writer.gradient(fields, number, x.psi_pass[number])
        if number + 1 < repeat.times:
            writer.readout += writer.along(error, fields)
            moved = fields[x.j] + step * x.psi_pass[number][x.j]
            fields = x.h_pass[number + 1]
            writer.add(fields[x.j], moved=moved)
    total = sp.Add(*(x.psi_pass[number][x.j] for number in range(repeat.times)))
    writer.add(x.psi[x.j], update=total)
    return writer.whole(error, fields)


def displaced(writer: Writer) -> Program:
    """Gradients where a step on the same sample leads."""
    repeat = cast("Lookahead | SharpnessAware", writer.rule)
    writer.gradient(x.h, 0, x.psi_pass[0])
    scale = repeat.sign * writer.scalar("rho") * writer.square
    if repeat.normalised:
        square = sp.Sum(x.psi_pass[0][x.u] ** 2, (x.u, 1, x.p))
        # Where the gradient vanishes nothing is displaced, whatever stands below.
        length = sp.Piecewise((1, sp.Eq(x.psi_square, 0)), (sp.sqrt(x.psi_square), True))
        writer.add(x.psi_square, square=square)
        writer.add(x.psi_length, length=length)
        scale /= sp.sqrt(writer.square) * x.psi_length
    writer.add(x.h_pass[1][x.j], moved=x.h[x.j] + scale * x.psi_pass[0][x.j])
    return writer.whole(writer.gradient(x.h_pass[1], 1, x.psi), x.h_pass[1])


def rule(writer: Writer) -> Program:
    """The expression at the fields of the sample, and what it measures."""
    own = cast("UpdateField", writer.rule)
    h, *stars, y = own.fields
    width = writer.model.teacher.width
    if width != len(stars):
        raise BadParameter(
            f"fields = {own.fields} has {len(stars)} teacher fields between h and y, but the "
            f"model's teacher has {width}"
        )
    place = {h: x.h[x.j]} | {s: x.h_star[r] for r, s in enumerate(stars, start=1)}
    written = [own.written(e, writer.slope) for e in (own.psi, *(e for _, e in own.measures))]
    if any(e.has(sp.DiracDelta) for e in written):
        raise BadParameter(
            f"the student's activation {writer.sigma} jumps: it has no slope for {own.psi}"
        )
    if any(e.has(OUTPUT) for e in written):
        writer.add(x.output_pass[0], output=students_at(x.h, writer.sigma))
    rest = {y: x.label, OUTPUT: x.output_pass[0]}
    # Without noise the label is a function of the teacher fields, as those of the rule are.
    known = {y: _label_of(writer, stars)} if not is_noisy(writer.model) else {}

    def closed(e: sp.Expr) -> sp.Expr | None:
        for form in dict.fromkeys((e.xreplace(known), e)):
            try:
                return in_products(form, place, rest)
            except NotClosed:
                continue
        return None

    forms = [closed(e) for e in written]
    plain = [e.xreplace(place | rest) for e in written]
    body, *measured = (p if f is None else f for f, p in zip(forms, plain, strict=True))
    writer.add(x.psi[x.j], update=body)
    names = (name for name, _ in own.measures)
    return writer.program(
        closes=forms[0] is not None, measures=dict(zip(names, measured, strict=True))
    )


def _label_of(writer: Writer, stars: Sequence[sp.Symbol]) -> sp.Expr:
    """The label in other symbols of the teacher fields."""
    teacher = writer.model.teacher
    if isinstance(teacher, GaussianMixture):
        place = {x.h_star[r]: s for r, s in enumerate(stars, start=1)}
        return writer.label.xreplace(place)
    return teacher.outputs_at(stars)[0]

"""psi of steps that use their sample more than once (theory/batch_reuse D.1)."""

from __future__ import annotations

from typing import cast

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.update.program import Program, Writer
from dmft.errors import BadParameter
from dmft.model import SGD, Lookahead, Repeat, SharpnessAware

# Passes over a sample that equations are written for.
MOST_PASSES = len(x.psi_pass)


def repeated(writer: Writer) -> Program:
    """Whole steps on one sample; its last error and fields."""
    writer.check_differentiable()
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
    writer.check_differentiable()
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

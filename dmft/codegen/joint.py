"""Loops over nodes for averages that hold their own nodes: of sequence models and of rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from dmft.codegen.functions import FAST
from dmft.codegen.fuse import Loop, loop_over
from dmft.codegen.packing import ALL_NODES
from dmft.emit import emit_expression
from dmft.emit.expression import shared_lines
from dmft.equations.averages.expectation import Expectation


def node_loop(
    averages: Sequence[Expectation], known: Mapping[str, str], first: str
) -> tuple[list[str | Loop], dict[sp.Expr, str]]:
    """Lines that sum the integrands over the nodes, and the variable of each average.

    The averages have laws that are placed; `known` gives names of state and parameters, `first` the
    numbers of parameters in front of the nodes.
    """
    names = {s: known.get(s.name, s.name) for a in averages for s in a.free_symbols}
    sums = {average: f"sum_{n}" for n, average in enumerate(averages)}
    lines: list[str | Loop] = [f"{name} = 0.0" for name in sums.values()]
    body: list[str | Loop] = []
    for number, law in enumerate(dict.fromkeys(a.law for a in averages)):
        program = law.at_nodes(averages)
        inside = dict(names)
        for symbol, value in program.outside:
            inside[symbol] = f"{symbol.name}_{number}"
            lines.append(f"{inside[symbol]} = {emit_expression(value, inside, FAST)}")
        for n, symbol in enumerate(program.axes):
            inside[symbol] = f"axis_{n}"
            load = f"axis_{n} = par[{first} + {1 + n} * {ALL_NODES} + node]"
            body += [load] * (load not in body)
        for m, (symbol, value) in enumerate(program.inside):
            inside[symbol] = f"field_{number}_{m}"
            body.append(f"{inside[symbol]} = {emit_expression(value, inside, FAST)}")
        own = [a for a in averages if a.law == law]
        integrands = [a.integrand for a in own]
        stem = f"node_{number}_" if number else "node_"
        shared, values = shared_lines([*integrands, program.density], inside, stem, FAST)
        body += shared
        weight = f"weight_{number}"
        body.append(f"{weight} = par[{first} + node] * ({values[-1]})")
        for average, value in zip(own, values, strict=False):
            body.append(f"value = {value}")
            # Where student and target agree the direction of the gradient is 0/0 and has no weight.
            body.append(f"{sums[average]} += {weight} * value if math.isfinite(value) else 0.0")
    lines.append(loop_over(("node", ALL_NODES), body))
    return lines, dict(sums)

"""Loops over nodes for averages of sequence models that have no tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from dmft.codegen.functions import FAST
from dmft.emit import emit_expression
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.joint_average import Tokens
from dmft.solvers.problem import Block

# Constants behind the scalar parameters, and the widths that they need.
NODE_WIDTHS = ("fields", "nodes")
NODE_BLOCKS = (Block("weight", ("nodes",)), Block("normal", ("fields", "nodes")))


def node_loop(
    averages: Sequence[Expectation],
    names: Mapping[sp.Symbol, str],
    first: int,
    place: int,
) -> tuple[list[str], dict[sp.Expr, str]]:
    """Lines that sum the integrands over the nodes, and the variable of each average.

    Parameters
    ----------
    averages : sequence of Expectation
        All under the same law.
    names : mapping
        What symbols of state and parameters are called.
    first : int
        Number of scalar parameters in front of the nodes.
    place : int
        Position of the number of nodes among the widths.
    """
    law = averages[0].law
    assert isinstance(law, Tokens)
    length, m = law.length, emit_expression(law.overlap, names)
    sums = {average: f"sum_{n}" for n, average in enumerate(averages)}
    lines = [f"nodes = widths[{place}]", f"rest = math.sqrt(max(0.0, 1.0 - {m}*{m}))"]
    lines += [f"mean_{n} = {emit_expression(e, names, FAST)}" for n, e in enumerate(law.means)]
    lines += [f"{name} = 0.0" for name in sums.values()]
    inside = dict(names)
    body = []
    for n in range(length):
        h, star, free = (law.fields[n + block * length] for block in range(3))
        inside |= {h: f"h_{n}", star: f"star_{n}", free: f"free_{n}"}
        body.append(f"star_{n} = par[{first} + (1 + {n})*nodes + i]")
        body.append(f"free_{n} = par[{first} + (1 + {length + n})*nodes + i]")
        body.append(f"h_{n} = {m}*star_{n} + rest*free_{n} + mean_{n}")
    shared, values = sp.cse([y.integrand for y in averages], symbols=sp.numbered_symbols("_node"))
    for n, (symbol, value) in enumerate(shared):
        body.append(f"node_{n} = {emit_expression(value, inside, FAST)}")
        inside[symbol] = f"node_{n}"
    for name, value in zip(sums.values(), values, strict=True):
        body.append(f"value = {emit_expression(value, inside, FAST)}")
        # Where student and target agree the direction of the gradient is 0/0 and has no weight.
        body.append(f"{name} += par[{first} + i]*value if math.isfinite(value) else 0.0")
    lines.append("for i in range(nodes):")
    return [*lines, *(f"    {line}" for line in body)], dict(sums)

"""Loops over nodes for averages of sequence models that have no tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from dmft.codegen.functions import FAST
from dmft.codegen.fuse import Loop, loop_over
from dmft.codegen.packing import ALL_NODES
from dmft.emit import emit_expression
from dmft.emit.expression import shared_lines
from dmft.equations.averages.expectation import Expectation
from dmft.equations.averages.joint_average import Tokens


def node_loop(
    averages: Sequence[Expectation], known: Mapping[str, str], first: int
) -> tuple[list[str | Loop], dict[sp.Expr, str]]:
    """Lines that sum the integrands over the nodes, and the variable of each average.

    Parameters
    ----------
    averages : sequence of Expectation
        All under the same law.
    known : mapping
        What state and parameters are called.
    first : int
        Number of scalar parameters in front of the nodes.
    """
    law = averages[0].law
    assert isinstance(law, Tokens)
    names = {s: known[s.name] for a in averages for s in a.free_symbols}
    length, m = law.length, emit_expression(law.overlap, names)
    sums = {average: f"sum_{n}" for n, average in enumerate(averages)}
    lines: list[str | Loop] = [f"rest = math.sqrt(max(0.0, 1.0 - {m} * {m}))"]
    lines += [f"mean_{n} = {emit_expression(e, names, FAST)}" for n, e in enumerate(law.means)]
    lines += [f"{name} = 0.0" for name in sums.values()]
    inside = dict(names)
    body: list[str | Loop] = []
    for n in range(length):
        h, star, free = (law.fields[n + block * length] for block in range(3))
        inside |= {h: f"h_{n}", star: f"star_{n}", free: f"free_{n}"}
        body.append(f"star_{n} = par[{first} + {1 + n} * {ALL_NODES} + node]")
        body.append(f"free_{n} = par[{first} + {1 + length + n} * {ALL_NODES} + node]")
        body.append(f"h_{n} = {m} * star_{n} + rest * free_{n} + mean_{n}")
    shared, values = shared_lines([y.integrand for y in averages], inside, "node_", FAST)
    body += shared
    for name, value in zip(sums.values(), values, strict=True):
        body.append(f"value = {value}")
        # Where student and target agree the direction of the gradient is 0/0 and has no weight.
        body.append(f"{name} += par[{first} + node] * value if math.isfinite(value) else 0.0")
    lines.append(loop_over(("node", ALL_NODES), body))
    return lines, dict(sums)

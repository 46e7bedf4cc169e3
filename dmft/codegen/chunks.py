"""Averages on nodes in generated code: chunks of nodes that stay in the cache, innermost loops.

All definitions at nodes stand together. They are written into one loop over chunks, inside which
`nodes` is the number of nodes of the chunk; what sums over the nodes accumulates over the chunks.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp

from dmft.codegen.fuse import Loop, Scope, loop_header
from dmft.codegen.loops import LoopWriter
from dmft.codegen.lower import loop_index
from dmft.codegen.nodes import Node
from dmft.codegen.packing import ALL_NODES, CHUNK
from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, used_bases
from dmft.solvers.problem import Block

NODE = loop_index(x.node)
# Where the nodes of a chunk begin.
FIRST_NODE = "first_node"


def at_nodes(definition: Definition) -> bool:
    """Whether a definition has a value at each node, or sums over the nodes."""
    target = definition.target
    return (isinstance(target, sp.Indexed) and x.node in target.indices) or over_nodes(definition)


def over_nodes(definition: Definition) -> bool:
    """Whether a definition sums over the nodes."""
    expr = definition.expr
    return isinstance(expr, sp.Sum) and expr.limits[0][0] == x.node


def check_chunks(definitions: Sequence[Definition]) -> None:
    """Arrays at nodes hold one chunk: none may be read behind the loop that fills it."""
    filled, lost = set[str](), set[str]()
    for d in definitions:
        if not at_nodes(d):
            lost |= filled
            continue
        read = used_bases(d.expr) & lost
        assert not read, f"{d.name} reads {', '.join(sorted(read))} behind the loop over nodes"
        if not over_nodes(d):
            filled.add(d.name)


def open_chunk(
    definitions: Sequence[Definition], before: Sequence[Block], scalars: int, noise: bool = False
) -> Scope:
    """Body of the loop over chunks: where the nodes of the chunk begin, and how many they are."""
    check_chunks(definitions)
    start = " + ".join([str(scalars), *(" * ".join(block.axes) for block in before), FIRST_NODE])
    chunk = Scope(None, None)
    chunk.lines += [
        f"nodes = min({CHUNK}, {ALL_NODES} - {FIRST_NODE})",
        f"weight_at = {start}",
        f"normal_at = {start} + {ALL_NODES}",
    ]
    if noise:
        chunk.lines.append(f"noise_at_at = {start} + {ALL_NODES} + N * {ALL_NODES}")
    return chunk


def chunk_loop(chunk: Scope) -> Loop:
    """Loop over the chunks."""
    return Loop(f"for {FIRST_NODE} in range(0, {ALL_NODES}, {CHUNK}):", chunk.lines)


def accumulate(writer: LoopWriter, target: str, node: Node, scopes: list[Scope]) -> None:
    """Emit a sum at all nodes with the loop over the nodes innermost, so that it vectorises."""
    *outer, start = scopes
    start.lines.append(f"{target} = 0.0")
    outer[-1].block(loop_header(NODE), start)
    terms = Scope(node.data, outer[-1])
    inner = Scope(NODE, terms)
    inner.lines.append(f"{target} += {writer.value(node.args[0], inner)}")
    terms.block(loop_header(NODE), inner)
    outer[-1].block(loop_header(node.data), terms)
    for scope in reversed(outer[1:]):
        assert scope.parent is not None
        scope.parent.block(loop_header(scope.index), scope)

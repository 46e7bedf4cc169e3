"""Innermost loops: over blocks of vectors, with sums in a written order, and chunks of nodes.

A function in blocks serves one state and several side by side, with the same bits
(`dmft.compiled.vectors`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import sympy as sp

from dmft.codegen.graph import FIXED, NAME, Loop, Node, Scope, loop_header
from dmft.codegen.loops import LoopWriter
from dmft.codegen.lower import loop_index
from dmft.codegen.packing import ALL_NODES, CHUNK
from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, used_bases
from dmft.solvers.problem import Block

HEADER = re.compile(r"for (\w+) in range\((\w+)\):")
ENTRY = re.compile(r"([A-Za-z_]\w*)\[([^\[\]]*)\]")
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*(?:\[[^\[\]]*\])?) (=|\+=) (.*)")

# Functions that take vectors, and a condition on indices.
TAKE_VECTORS = frozenset(
    {
        "range",
        "asin",
        "abs",
        "math.sqrt",
        "select",
        "block_size",
        "below",
        "take",
        "put",
        "diagonal",
    }
)
# Polynomials of few fields lose nothing in the order that is written, which lanes share; the order
# of wide ones is the compiler's (docs/speed.md). It follows from the widths alone.
MOST_IN_ORDER = 4
GUARD = f"""\
if widths[0] + widths[1] > {MOST_IN_ORDER}:
    return rhs_wide(t, y, widths, par, out)"""
CALLED = re.compile(r"([A-Za-z_][A-Za-z_0-9.]*)\(")
SAME_INDEX = re.compile(r"1\.0 if [a-zA-Z0-9 +]* == [a-zA-Z0-9 +]* else 0\.0")


def in_blocks(items: list[str | Loop], arrays: Mapping[str, tuple[str, ...]]) -> list[str | Loop]:
    """Rewrite the loops that can take whole blocks; `arrays` are those whose rows are padded."""
    done: list[str | Loop] = []
    for item in items:
        if isinstance(item, Loop):
            item = _blocked(item, arrays) or Loop(item.header, in_blocks(item.body, arrays))
        done.append(item)
    return done


def _blocked(loop: Loop, arrays: Mapping[str, tuple[str, ...]]) -> Loop | None:
    """A loop in blocks, or None where an entry needs more than its own place in its rows."""
    header = HEADER.fullmatch(loop.header)
    if not header:
        return None
    index, end = header.groups()
    lines: list[str] = []
    written: dict[str, str] = {}
    for line in loop.body:
        made = _line(line, index, end, arrays, written) if isinstance(line, str) else None
        if made is None:
            return None
        lines.append(made)
    # What is written is read at the same place only.
    for name, place in ENTRY.findall("\n".join(map(str, loop.body))):
        if written.get(name, place) != place:
            return None
    return Loop(f"for {index} in range(0, {end}, block_size(y)):", list(lines))


def _line(
    line: str, index: str, end: str, arrays: Mapping[str, tuple[str, ...]], written: dict[str, str]
) -> str | None:
    """One assignment for a block of entries."""
    match = ASSIGNMENT.fullmatch(line)
    if not match or not _reads_rows(line, index, arrays):
        return None
    target, equals, value = match.groups()
    value = ENTRY.sub(lambda entry: _taken(entry, index), value)
    place = ENTRY.fullmatch(target)
    if not place:  # a number of this entry; a sum over entries is no block
        return f"{target} = {value}" if equals == "=" else None
    name, inside = place.groups()
    *rows, last = inside.split(", ")
    if last != index or any(index in NAME.findall(row) for row in rows):
        return None
    written[name] = inside
    old = ENTRY.sub(lambda entry: _taken(entry, index), target)
    new = f"{old} + {value}" if equals == "+=" else value
    if arrays[name][-1] != end:
        new = f"below({index}, {end}, {new}, {old})"
    return f"put({name}, {_tuple(inside)}, {new})"


def _taken(entry: re.Match[str], index: str) -> str:
    """Text of an entry for a block of indices."""
    name, inside = entry.groups()
    places = inside.split(", ")
    along = [place for place in places if index in NAME.findall(place)]
    if not along:
        return entry.group()
    return f"{'diagonal' if len(along) > 1 else 'take'}({name}, {_tuple(inside)})"


def _tuple(inside: str) -> str:
    return f"({inside})" if "," in inside else f"({inside},)"


def _reads_rows(line: str, index: str, arrays: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether the index stands last in entries of padded arrays (or twice: a diagonal) alone."""
    for name, inside in ENTRY.findall(line):
        places = inside.split(", ")
        along = [place for place in places if index in NAME.findall(place)]
        if not along:
            continue
        moved = all(re.fullmatch(rf"(\w+ \+ )?{index}", place) for place in along)
        diagonal = len(places) == 2 and places[0] == places[1]
        if name not in arrays or not moved or not (along == places[-1:] or diagonal):
            return False
    return index not in NAME.findall(ENTRY.sub("", line))


def takes_vectors(body: Iterable[str]) -> bool:
    """Whether all that the lines call and decide on can be a vector."""
    text = _code(body)
    return set(CALLED.findall(text)) <= TAKE_VECTORS and " if " not in text and "**" not in text


def is_polynomial(body: Iterable[str]) -> bool:
    """Whether lines add and multiply only: of wide models the compiler then finds a better order,
    with sums in registers, than the one that is written.
    """
    return not set(CALLED.findall(_code(body))) & {"asin", "math.sqrt"}


def _code(body: Iterable[str]) -> str:
    lines = [line for line in body if not line.lstrip().startswith("#")]
    return SAME_INDEX.sub("", "\n".join(lines))


def parts_of_work(arrays: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Lines that make the arrays, all in one allocation."""
    rows = sorted({axes[-1] for axes in arrays.values()} - {FIXED[1]})
    sizes: dict[str, int] = {}
    lines = []
    for name, axes in arrays.items():
        shape = ["1" if axis == FIXED[1] else axis for axis in axes]
        shape[-1] = f"{shape[-1]}_padded" if shape[-1] in rows else shape[-1]
        lines.append(f"{name} = part(work, {_total(sizes)}, ({', '.join(shape)},))")
        size = " * ".join(shape)
        sizes[size] = sizes.get(size, 0) + 1
    # Blocks are read up to their end also where they begin within a row, or run down a diagonal.
    room = f"{_total(sizes)} + 4 * N + 16" if arrays else "0"
    padding = [f"{axis}_padded = padded(y, {axis})" for axis in rows]
    return [*padding, f"work = work_area(y, {room})", *lines]


def _total(sizes: Mapping[str, int]) -> str:
    """Sum of products that occur so many times each."""
    return " + ".join(s if n == 1 else f"{n} * {s}" for s, n in sizes.items()) or "0"


def allocations(arrays: Mapping[str, tuple[str, ...]], zeros: Iterable[str]) -> list[str]:
    """Lines that make the arrays; those of one shape are one allocation.

    At small widths an allocation costs as much as what the array is filled with.
    """
    sizes = {"nodes": str(CHUNK), FIXED[1]: "1"}
    shapes: dict[str, list[str]] = {}
    lines = []
    for array, axes in arrays.items():
        shape = ", ".join(sizes.get(axis, axis) for axis in axes)
        if array in zeros:
            lines.append(f"{array} = np.zeros(({shape},))")
        else:
            shapes.setdefault(shape, []).append(array)
    for shape, names in shapes.items():
        if len(names) == 1:
            lines.append(f"{names[0]} = np.empty(({shape},))")
            continue
        whole = "arrays_" + shape.replace(", ", "_")
        lines.append(f"{whole} = np.empty(({len(names)}, {shape}))")
        lines += [f"{name} = {whole}[{n}]" for n, name in enumerate(names)]
    return lines


NODE = loop_index(x.node)
# Where the nodes of a chunk begin.
FIRST_NODE = "first_node"


# All definitions at nodes stand together. They are written into one loop over chunks of nodes that
# stay in the cache, inside which `nodes` is the number of nodes of the chunk; what sums over the
# nodes accumulates over the chunks.


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
        assert not read, f"{d.name} reads {', '.join(sorted(read))} after the loop over nodes"
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

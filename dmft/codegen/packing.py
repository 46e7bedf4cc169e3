"""Which arrays of a system are state and which constants, and where they live in the arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.averages.expectation import placed_on_nodes
from dmft.equations.definitions import Definition, FieldRoot, has_rows_of_readout, used_bases
from dmft.names import ACCUMULATED, BLOCK, BLOCKS, KEPT, QUANTITIES
from dmft.solvers.problem import Block

# Everything that a rate can move, in the order of the packed state.
MOVABLE: tuple[Block, ...] = (
    Block("Q", ("p", "p"), symmetric=True),
    Block("M", ("p", "k")),
    *(Block(n, ("p", "k" if n[-1] == "M" else "p"), QUANTITIES[n].symmetric) for n in KEPT),
    Block("Q_perp", ("p",)),
    Block("variance", ("k",)),
    Block("saturation", ("k",)),
    Block("coupling", ("k",)),
    Block("readout", ("p",)),
)
# The same by block of a spectrum.
MOVABLE += tuple(
    Block(f"{BLOCK}{b.name}", ("blocks", *b.axes)) for b in MOVABLE if b.name in ("Q", "M", *KEPT)
)
MOVABLE += tuple(Block(name, axes) for name, axes in ACCUMULATED.items())
MOVABLE += (Block(f"{BLOCK}second_moment", ("blocks", "p")),)
# What stands still where no rate moves it, in the order of the packed constants.
CONSTANTS = (
    Block("P", ("k", "k"), symmetric=True),
    Block("readout", ("p",)),
    Block("teacher_readout", ("k",)),
)
# Constants that only some systems read, behind the others.
OPTIONAL_CONSTANTS = (
    Block("P_inverse", ("k", "k"), symmetric=True),
    Block("cosine", ("cosines",)),
    Block("cosine_weight", ("cosines",)),
    Block("block_P", ("blocks", "k", "k")),
    Block("eigenvalue", ("blocks",)),
    Block("noise_factor", ("blocks",)),
    Block("inverse_count", ("blocks",)),
    Block("cluster_scale", ("clusters", "blocks")),
    Block("block_fraction", ("blocks",)),
    Block("mixture", ("terms",)),
)
# Nodes of averages.
NODE_CONSTANTS = (Block("weight", ("nodes",)), Block("normal", ("N", "nodes")))
NODE_WIDTHS = ("N", "nodes")
# Behind the others, where averages hold the noise of the label.
NOISE_CONSTANT = Block("noise_at", ("nodes",))
# Row length of the arrays at nodes that live in an argument.
ALL_NODES = "all_nodes"
# Arrays over the nodes of a chunk and all fields fit the cache of a core; 128 to 1024 are alike.
CHUNK = 256
WIDTHS = ("p", "k")
OPTIONAL_WIDTHS = ("cosines", "blocks", "clusters", "outputs", "terms")
MOVED = "_moved"


def flat_index(indices: Sequence[str], lengths: Sequence[str]) -> str:
    """Position of an entry in a packed array, in C order."""
    flat = indices[0]
    for length, index in zip(lengths, indices[1:], strict=False):
        front = flat if flat.isalnum() or flat.isidentifier() else f"({flat})"
        flat = f"{front} * {length} + {index}"
    return flat


@dataclass(frozen=True)
class Layout:
    """Widths, state and constants of one system; `moved` is a displacement behind the state.

    `entries` names the numbers of a state whose definitions are written in them one by one;
    `others` are more numbers, with where code finds them.
    """

    widths: tuple[str, ...]
    state: tuple[Block, ...]
    constants: tuple[Block, ...]
    moved: tuple[Block, ...] = ()
    entries: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def packed(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Arrays that live in an argument: their vector, and the lengths of all axes but one."""
        moving = (*self.state, *self.moved) if not self.entries else ()
        places = {b.name: ("y", b.axes[1:]) for b in moving}
        places |= {f"d{b.name}": ("out", b.axes[1:]) for b in moving}
        nodes = {b.name for b in (*NODE_CONSTANTS, NOISE_CONSTANT)}
        places |= {
            b.name: ("par", (ALL_NODES,) if b.name in nodes else b.axes[1:]) for b in self.constants
        }
        return places

    @property
    def places(self) -> dict[str, str]:
        """Where the numbers of the state stand."""
        if not self.entries:
            return {b.name: f"y[{b.name}_at]" for b in self.state if not b.axes}
        names = [*self.entries, *(f"{n}{MOVED}" for n in self.entries if self.moved)]
        return {name: f"y[{n}]" for n, name in enumerate(names)} | dict(self.others)

    @property
    def before_nodes(self) -> tuple[Block, ...]:
        """Constants in front of the nodes."""
        nodes = {b.name for b in (*NODE_CONSTANTS, NOISE_CONSTANT)}
        return tuple(b for b in self.constants if b.name not in nodes)

    def with_displacement(self, suffix: str = MOVED) -> Layout:
        """Layout of linearised rates, which read a displacement (or a costate) of the state."""
        return replace(self, moved=tuple(replace(b, name=b.name + suffix) for b in self.state))


def layout(definitions: Sequence[Definition]) -> Layout:
    """Layout of a system: what its rates move is state; nodes only where it averages on them."""
    moving = {d.name for d in definitions if d.role == "rate"}
    used = {name for d in definitions for name in used_bases(d.expr)}
    constants = [b for b in CONSTANTS if b.name not in moving and BLOCKS.get(b.name) not in used]
    constants += [b for b in OPTIONAL_CONSTANTS if b.name in used]
    state = [b for b in MOVABLE if b.name in moving]
    if has_rows_of_readout(definitions):
        state, constants = ([_with_rows(b) for b in group] for group in (state, constants))
    both = (*state, *constants)
    widths = [*WIDTHS, *(w for w in OPTIONAL_WIDTHS if any(w in b.axes for b in both))]
    if any(d.expr.has(FieldRoot) or placed_on_nodes(d.expr) for d in definitions):
        constants += NODE_CONSTANTS
        constants += [NOISE_CONSTANT] * (NOISE_CONSTANT.name in used)
        widths += NODE_WIDTHS
    return Layout(tuple(widths), tuple(state), tuple(constants))


def _with_rows(block: Block) -> Block:
    return replace(block, axes=("outputs", "p")) if block.name == str(x.a) else block


def layout_of_rule(
    definitions: Sequence[Definition],
    blocks: Mapping[str, Sequence[sp.Symbol]],
    axes: Mapping[str, tuple[str, ...]],
    others: Mapping[str, str],
) -> Layout:
    """Layout of overlaps and scalars that are numbers, with P of the fixed rows."""
    state = tuple(Block(name, axes[name], symmetric=name == "Q") for name in blocks)
    known = layout(definitions).widths
    by_block = "blocks" in {axis for block in state for axis in block.axes}
    own = next(
        b for b in (*CONSTANTS, *OPTIONAL_CONSTANTS) if b.name == ("block_P" if by_block else "P")
    )
    nodes = tuple(width for width in known if width in NODE_WIDTHS)
    constants = (own, *(NODE_CONSTANTS if nodes else ()))
    names = tuple(str(s) for symbols in blocks.values() for s in symbols)
    widths = (*WIDTHS, *(["blocks"] if by_block else []), *nodes)
    return Layout(widths, state, constants, (), names, others)


def layout_of_alignments(
    definitions: Sequence[Definition], blocks: Mapping[str, Sequence[sp.Symbol]]
) -> Layout:
    """Layout of e and m, whose components are numbers; without encodings e is one that rests."""
    axes = {"e": ("directions",), "m": ("tokens",)}
    state = tuple(Block(b, axes[b] if len(s) > 1 else ()) for b, s in blocks.items())
    names = [str(s) for symbols in blocks.values() for s in symbols or ("",)]
    nodes = layout(definitions).widths[2:]
    constants = NODE_CONSTANTS if nodes else ()
    return Layout((*WIDTHS, "tokens", "directions", *nodes), state, constants, (), tuple(names))

"""Code of the fluctuations of sequence models: what a step adds to the alignments, at nodes."""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp

from dmft.codegen.assemble import code_names
from dmft.codegen.functions import FAST
from dmft.codegen.packing import ALL_NODES, Layout
from dmft.emit.expression import shared_lines
from dmft.equations.sequence.fluctuations import SequenceNoise

TEMPLATE = '''
@njit(**OPTIONS)
def increments(y, widths, par, rows):
    """Increments of the alignments at all nodes; the slope 0/0 of a norm has no weight."""
    all_nodes = widths[{nodes}]
    rows[:] = 0.0
    for node in range(all_nodes):
{steps}


@njit(RHS, **OPTIONS)
def corrections(t, y, widths, par, out):
    """What a step adds to the rates at order 1/d."""
    all_nodes = widths[{nodes}]
    unit = {rate} / (widths[0] * {dim})
    out[:] = 0.0
    for node in range(all_nodes):
{excess}
'''


def step_functions(noise: SequenceNoise, parameters: Sequence[str], here: Layout) -> str:
    """Functions `increments` and `corrections`."""
    names = {name: f"par[{n}]" for n, name in enumerate(code_names(parameters))}
    places = {**names, **here.places}
    first, second = noise.at_nodes
    targets = [here.entries.index(str(s)) for s in noise.alignments]
    scalars = len(parameters)
    weight = f"par[{scalars} + node]"
    kept = " if not math.isnan(value) else 0.0" if noise.has_cone else ""
    steps = [f"rows[0, {n}, node] = value{kept}" for n in targets]
    excess = [f"out[{n}] += unit * {weight} * (value{kept})" for n in targets]
    return TEMPLATE.format(
        nodes=here.widths.index("nodes"),
        rate=places["learning_rate"],
        dim=places["dim"],
        steps=_at_a_node(noise, first, steps, places, scalars),
        excess=_at_a_node(noise, second, excess, places, scalars) if second else " " * 8 + "pass",
    )


def _at_a_node(
    noise: SequenceNoise,
    values: Sequence[sp.Expr],
    uses: Sequence[str],
    places: dict[str, str],
    scalars: int,
) -> str:
    """Lines that compute values at one node, each with the line that uses it."""
    names: dict[sp.Symbol, str] = {}
    lines = []
    for n, normal in enumerate(noise.normals):
        names[normal] = f"normal_{n}"
        lines.append(f"normal_{n} = par[{scalars} + {1 + n} * {ALL_NODES} + node]")
    free = {s for y in values for s in y.free_symbols} - set(names)
    names |= {s: places[s.name] for s in free}
    shared, results = shared_lines(values, names, "part_", FAST)
    lines += shared
    for value, use in zip(results, uses, strict=True):
        lines += [f"value = {value}", use]
    return "\n".join(" " * 8 + line for line in lines)

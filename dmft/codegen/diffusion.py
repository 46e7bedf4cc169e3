"""Code of the fluctuations: covariance of the increments, and the drift with its O(1/d) terms.

Those of sequence models are at nodes. Of overlaps there are two forms: for one student and one
teacher with polynomial activations the polynomials themselves, otherwise the increments at nodes,
whose covariance `dmft.special.matrices` takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import sympy as sp

from dmft.codegen import packing
from dmft.codegen.assemble import arrays_function, code_names, rates_function
from dmft.codegen.functions import FAST, PointFunctions
from dmft.emit.expression import shared_lines
from dmft.equations import symbols as x
from dmft.equations.averages.moments import closed_moments
from dmft.equations.noise.fluctuations import Noise
from dmft.equations.noise.record import Fluctuations, WrittenNoise
from dmft.model.update import TIME
from dmft.solvers.problem import Block

INDENT = "    "
SIGNATURE = """
# Fluctuations: {description}.
DIFFUSION = "void(float64, float64[::1], int64[::1], float64[::1], float64[:, ::1])"
INCREMENTS = "void(float64[::1], int64[::1], float64[::1], float64[::1])"
"""
# Label noise gives an increment parts of its own, which are not computed where there is none.
ON_NODES = '''
@njit(DIFFUSION, cache=True, nogil=True, error_model="numpy", direct=True)
def diffusion(t, y, widths, par, out):
    """Covariance Sigma of the increments of {state}."""
    p, k = widths[0], widths[1]{more_widths}
    nodes = widths[{nodes}]
    weight = par[{weight} : {weight} + nodes]
    parts = {parts}
    rows = np.empty((parts * ({size}) * nodes,))
    increments({time}y, widths, par, rows)
    packed_covariance(part(rows, 0, (parts, {size}, nodes)), weight, {square}, out)


@njit(RHS, cache=True, nogil=True, error_model="numpy", direct=True)
def drift(t, y, widths, par, out):
    """Rates of change, those at order 1/d included."""
    added = np.empty((out.size,))
    rhs(t, y, widths, par, out)
    corrections(t, y, widths, par, added)
    for i in range(out.size):
        out[i] += added[i]
'''

CLOSED = '''
@njit(DIFFUSION, cache=True, nogil=True, error_model="numpy", direct=True)
def diffusion(t, y, widths, par, out):
    """Covariance Sigma of the increments of (Q, M)."""
{diffusion}


@njit(RHS, cache=True, nogil=True, error_model="numpy", direct=True)
def drift(t, y, widths, par, out):
    """Rates of change, those at order 1/d included."""
    rhs(t, y, widths, par, out)
{drift}
'''


def noise_layout(noise: Fluctuations, here: packing.Layout) -> packing.Layout:
    """Layout with the nodes of the covariance, where it needs some."""
    if noise.closed:
        return here
    widths, constants = here.widths, here.constants
    if "nodes" not in widths:
        widths, constants = (*widths, *packing.NODE_WIDTHS), (*constants, *packing.NODE_CONSTANTS)
    if noise.noisy_nodes and packing.NOISE_CONSTANT not in constants:
        constants = (*constants, packing.NOISE_CONSTANT)
    return replace(here, widths=widths, constants=constants)


def noise_parts(
    noise: Fluctuations, parameters: Sequence[str], functions: PointFunctions, here: packing.Layout
) -> list[str]:
    """Functions `diffusion` and `drift` behind those of the equations."""
    if isinstance(noise, WrittenNoise):
        whole = ON_NODES.format(
            state=", ".join(here.entries), nodes=here.widths.index("nodes"),
            weight=len(parameters) + noise.before_nodes, parts="1", square="0",
            size=len(here.entries), more_widths="", time="t, ",
        )  # fmt: skip
        signature = SIGNATURE.format(description=noise.approximation)
        return [signature, step_functions(noise, parameters, here), whole]
    assert isinstance(noise, Noise)
    places = {name: f"par[{n}]" for n, name in enumerate(parameters)}
    body = _closed(noise, places) if noise.closed else _on_nodes(noise, parameters, here, places)
    parts = [SIGNATURE.format(description=noise.approximation)]
    if not noise.closed:
        views = _views(noise, here, places)
        summary = "Parts of the increments of Q and M at all nodes."
        parts.append(
            arrays_function(
                "increments", summary, noise.nodes.arrays, parameters, functions, here, views
            )
        )
        summary = "Contribution of one step to the rates at order 1/d."
        parts.append(
            rates_function(
                "corrections", summary, noise.rates_at_nodes, parameters, functions, here
            )
        )
    return [*parts, body]


def _views(noise: Noise, here: packing.Layout, places: Mapping[str, str]) -> dict[str, str]:
    """Where the parts of the increments of each block stand; anywhere where not computed."""
    views = {"parts": _count_of_parts(noise, places)}
    size = _sizes(here.state)
    for names in noise.nodes.names:
        start = "0"
        for name, block in zip(names, here.state, strict=True):
            shape = ", ".join((*block.axes, "all_nodes"))
            number = name.rpartition("_")[2]
            begin = f"(min({number}, parts - 1) * ({size}) + {start}) * all_nodes"
            views[name] = f"part(rows, {begin}, ({shape}))"
            start = f"{start} + {' * '.join(block.axes)}"
    return views


def _count_of_parts(noise: Noise, places: Mapping[str, str]) -> str:
    most, cases = noise.nodes.parts, len(noise.nodes.cases)
    return (
        f"{most} if {places['label_noise']} > 0.0 else {cases}"
        if noise.increments.noise_apart
        else str(most)
    )


def _sizes(state: Sequence[Block]) -> str:
    return " + ".join(" * ".join(block.axes) for block in state)


def _on_nodes(
    noise: Noise, parameters: Sequence[str], here: packing.Layout, places: Mapping[str, str]
) -> str:
    before = [str(len(parameters)), *(" * ".join(b.axes) for b in here.before_nodes)]
    more = [width for width in packing.OPTIONAL_WIDTHS if width in here.widths]
    return ON_NODES.format(
        more_widths="".join(f"\n    {w} = widths[{here.widths.index(w)}]" for w in more),
        state=f"({', '.join(block.name for block in here.state)})",
        nodes=here.widths.index("nodes"),
        weight=" + ".join(before),
        parts=_count_of_parts(noise, places),
        size=_sizes(here.state),
        square="p",
        time="",
    )


def _closed(noise: Noise, places: Mapping[str, str]) -> str:
    """Polynomials of one student and one teacher, at readouts and P that are run-time values."""
    free = {"readout": None, "teacher_readout": None, "P": None}
    moments = closed_moments(noise.model, noise.algorithm, {"p": 1, "k": 1}, free)
    q, m = moments.entries
    symbols_of = moments.unrolled.symbols
    scalars = len(places)
    entries = {
        "Q_11": "y[0]", "M_11": "y[1]", "P_11": f"par[{scalars}]",
        "readout_1": f"par[{scalars + 1}]", "teacher_readout_1": f"par[{scalars + 2}]",
    }  # fmt: skip
    sphere = noise.algorithm.constraint is not None
    pairs = (
        {"out[1, 1]": (m, m)}
        if sphere
        else {"out[0, 0]": (q, q), "out[1, 0]": (q, m), "out[1, 1]": (m, m)}
    )
    targets = {place: moments.covariance(*pair) for place, pair in pairs.items()}
    rates = moments.rates  # divided by the dimension in the code
    added = {
        f"out[{n}]": sp.expand(x.d * sp.Add(*(rates[entry].get(name, 0) for name in noise.terms)))
        for n, entry in enumerate((q, m))
    }
    symbols = {symbols_of[name]: text for name, text in entries.items() if name in symbols_of}
    for expr in [*targets.values(), *added.values()]:
        symbols |= {s: places[s.name] for s in expr.free_symbols if s.name in places}
    zero = ["out[0, 0] = 0.0", "out[1, 0] = 0.0"] if sphere else []
    lines = [*zero, *_assign(targets, symbols, "="), "out[0, 1] = out[1, 0]"]
    added = {place: value for place, value in added.items() if value != 0}
    more = _assign(added, symbols, "+=", f" / {places['dim']}") if added else ["pass"]
    return CLOSED.format(
        diffusion="\n".join(INDENT + line for line in lines),
        drift="\n".join(INDENT + line for line in more),
    )


def _assign(
    targets: Mapping[str, sp.Expr], symbols: Mapping[sp.Symbol, str], equals: str, after: str = ""
) -> list[str]:
    """Statements that evaluate polynomials with their shared parts named once."""
    nested = [_nested(e) for e in targets.values()]
    lines, texts = shared_lines(nested, symbols, "shared_", order="none")
    for place, text in zip(targets, texts, strict=True):
        lines.append(f"{place} {equals} ({text}){after}" if after else f"{place} {equals} {text}")
    return lines


def _nested(expr: sp.Expr) -> sp.Expr:
    """Horner form of a polynomial, the overlaps innermost: fewer multiplications."""
    found = [s for s in expr.free_symbols if expr.is_polynomial(s)]
    generators = sorted(found, key=lambda s: (s.name.startswith(("M", "Q")), s.name))
    return sp.horner(expr, *generators) if generators else expr


TEMPLATE = '''
@njit(RHS, **OPTIONS)
def increments(t, y, widths, par, rows):
    """Increments of the alignments at all nodes; the slope 0/0 of a norm has no weight."""
    all_nodes = widths[{nodes}]
    for i in range(rows.size):
        rows[i] = 0.0
    for node in range(all_nodes):
{steps}


@njit(RHS, **OPTIONS)
def corrections(t, y, widths, par, out):
    """Contribution of one step to the rates at order 1/d."""
    all_nodes = widths[{nodes}]
    unit = {rate} / (widths[0] * {dim})
    for i in range(out.size):
        out[i] = 0.0
    for node in range(all_nodes):
{excess}
'''


def step_functions(noise: WrittenNoise, parameters: Sequence[str], here: packing.Layout) -> str:
    """Functions `increments` and `corrections`."""
    names = {name: f"par[{n}]" for n, name in enumerate(code_names(parameters))}
    first = str(len(parameters))  # P of a rule stands behind the parameters
    others = {n: re.sub(r"(block_)?P_at", first, place) for n, place in here.places.items()}
    places = {**names, **others, TIME.name: "t"}
    increments, second = noise.at_nodes
    targets = [here.entries.index(str(s)) for s in noise.alignments]
    scalars = len(parameters) + noise.before_nodes
    weight = f"par[{scalars} + node]"
    kept = " if not math.isnan(value) else 0.0" if noise.has_cone else ""
    steps = [f"rows[{n} * all_nodes + node] = value{kept}" for n in targets]
    excess = [f"out[{n}] += unit * {weight} * (value{kept})" for n in targets]
    return TEMPLATE.format(
        nodes=here.widths.index("nodes"),
        rate=places["learning_rate"],
        dim=places["dim"],
        steps=_at_a_node(noise, increments, steps, places, scalars),
        excess=_at_a_node(noise, second, excess, places, scalars) if second else " " * 8 + "pass",
    )


def _at_a_node(
    noise: WrittenNoise,
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
        lines.append(f"normal_{n} = par[{scalars} + {1 + n} * {packing.ALL_NODES} + node]")
    free = {s for y in values for s in y.free_symbols} - set(names)
    names |= {s: places[s.name] for s in free}
    shared, results = shared_lines(values, names, "part_", FAST)
    lines += shared
    for value, use in zip(results, uses, strict=True):
        lines += [f"value = {value}", use]
    return "\n".join(" " * 8 + line for line in lines)

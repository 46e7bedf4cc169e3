"""Code of the fluctuations: covariance of the increments, and the drift with its O(1/d) terms.

Two forms. For one student and one teacher with polynomial activations: the polynomials themselves.
Otherwise slopes and errors at nodes, whose moments `dmft.special.increments` takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from dmft.codegen.assemble import OPTIONAL_IMPORTS
from dmft.codegen.chunks import NODE_CONSTANTS, NODE_WIDTHS
from dmft.codegen.functions import PointFunctions
from dmft.codegen.packing import Layout
from dmft.emit import emit_expression
from dmft.equations import symbols as x
from dmft.equations.fluctuations import Noise
from dmft.equations.increments import CURVATURE, FINITE_SIZE, closed_moments, sees_itself
from dmft.equations.target import target
from dmft.model import FIELD, Committee

INDENT = "    "
DIFFUSION = '"void(float64, float64[::1], int64[::1], float64[::1], float64[:, ::1])"'
HEADER = """

# Fluctuations: {description}.
DIFFUSION = {signature}
"""

IMPORTS = """
from dmft.special.cholesky import field_root
from dmft.special.increments import (
    add_curvature,
    add_finite_size,
    dilation,
    gradient_gram,
    increment_covariance,
    increment_rows,
)
"""

AT_NODES = '''
@njit(cache=True, nogil=True, error_model="numpy")
def at_nodes(y, widths, par):
    """Fields (N, nodes), slopes a sigma' (p, nodes), error (nodes,), weight, normal, active."""
    p = widths[0]
    k = widths[1]
    N = p + k
    nodes = widths[{nodes}]
{offsets}
    Omega = covariance(y, widths, par)
    root = np.empty((N, N))
    field_root(Omega, p, root)
    weight = par[weight_at : weight_at + nodes]
    normal = par[normal_at : normal_at + N * nodes].reshape((N, nodes))
    fields = np.zeros((N, nodes))
    active = np.zeros(N)
    for c in range(N):
        for i in range(N):
            factor = root[i, c]
            if factor != 0.0:
                active[c] = 1.0
                for q in range(nodes):
                    fields[i, q] += factor * normal[c, q]
    slope = np.empty((p, nodes))
    error = np.zeros(nodes)
{error}
    for j in range(p):
        a = par[readout_at + j]
        for q in range(nodes):
            h = fields[j, q]
            slope[j, q] = a * {slope}
{own}    return fields, slope, error, weight, normal, active
'''

ON_NODES = '''
@njit(DIFFUSION, cache=True, nogil=True, error_model="numpy")
def diffusion(t, y, widths, par, out):
    """Covariance Sigma of the increments of (Q, M)."""
    p = widths[0]
    k = widths[1]
    fields, slope, error, weight, normal, active = at_nodes(y, widths, par)
    rows = increment_rows(fields, slope, error, weight, {gain}, {noise})
    Q = y[: p * p].reshape((p, p))
    M = y[p * p : p * p + p * k].reshape((p, k))
    increment_covariance(rows, weight, Q, M, {sphere}, out)


@njit(RHS, cache=True, nogil=True, error_model="numpy")
def drift(t, y, widths, par, out):
    """Rates of change, those at order 1/d included."""
    rhs(t, y, widths, par, out)
    p = widths[0]
    k = widths[1]
    fields, slope, error, weight, normal, active = at_nodes(y, widths, par)
    Q = y[: p * p].reshape((p, p))
    M = y[p * p : p * p + p * k].reshape((p, k))
    dQ = np.zeros((p, p))
    dM = np.zeros((p, k))
    step = {step}
{terms}
    for j in range(p):
        for i in range(p):
            out[j * p + i] += dQ[j, i]
        for r in range(k):
            out[p * p + j * k + r] += dM[j, r]
'''
FINITE_SIZE_TEXT = """
    excess = {share} * dilation(slope, error, weight, normal, active, {noise})
    excess += {rest} * gradient_gram(slope, error, weight, normal, active)
    add_finite_size(step * excess, Q, M, {sphere}, dQ, dM)"""
CURVATURE_TEXT = """
    rows = increment_rows(fields, slope, error, weight, {gain}, {noise})
    add_curvature(rows, weight, Q, M, step, {share}, dQ, dM)"""

CLOSED = '''
@njit(DIFFUSION, cache=True, nogil=True, error_model="numpy")
def diffusion(t, y, widths, par, out):
    """Covariance Sigma of the increments of (Q, M)."""
{diffusion}


@njit(RHS, cache=True, nogil=True, error_model="numpy")
def drift(t, y, widths, par, out):
    """Rates of change, those at order 1/d included."""
    rhs(t, y, widths, par, out)
{drift}
'''


def noise_layout(noise: Noise, here: Layout) -> Layout:
    """Layout with the nodes of the covariance, where it needs some."""
    if noise.closed or "nodes" in here.widths:
        return here
    return Layout(
        (*here.widths, *NODE_WIDTHS), here.state, (*here.constants, *NODE_CONSTANTS), here.moved
    )


def noise_source(
    noise: Noise, here: Layout, parameters: Sequence[str], names: Mapping[str, str]
) -> str:
    """Text behind the module of the equations; `names` are those of the parameters in the code."""
    places = {name: f"par[{n}]" for n, name in enumerate(parameters)}
    header = HEADER.format(description=noise.approximation, signature=DIFFUSION)
    body = _closed(noise, places) if noise.closed else _on_nodes(noise, here, places, names)
    imports = "".join(line for call, line in OPTIONAL_IMPORTS.items() if call in body)
    return header + imports + body


def _offset(here: Layout, name: str, scalars: int) -> str:
    """Where a constant array begins in `par`."""
    parts = [str(scalars)]
    for block in here.constants:
        if block.name == name:
            break
        parts.append(" * ".join(block.axes))
    return " + ".join(parts)


def _on_nodes(
    noise: Noise, here: Layout, places: Mapping[str, str], names: Mapping[str, str]
) -> str:
    functions = PointFunctions(names)
    arrays = ["readout", "teacher_readout", "weight", "normal"]
    offsets = [f"{name}_at = {_offset(here, name, len(places))}" for name in arrays]
    sphere = str(noise.algorithm.constraint is not None)
    batch = noise.algorithm.batch_size
    values = {
        "gain": f"{places['learning_rate']} / (p * {float(batch)!r})",
        "noise": places["label_noise"],
        "step": f"{places['learning_rate']} / (p * {places['dim']})",
        "share": repr(1.0 / batch),
        "rest": repr(1.0 - 1.0 / batch),
        "sphere": sphere,
    }
    slope = _call(functions, noise.slope, "h", places)
    own = ""
    if sees_itself(noise.algorithm):
        sigma = _call(functions, noise.model.student.activation, "h", places)
        own = f"{INDENT * 3}error[q] -= a / p * {sigma}\n"
    at = AT_NODES.format(
        nodes=here.widths.index("nodes"),
        offsets="\n".join(INDENT + line for line in offsets),
        error=_teacher(noise, functions, places),
        slope=slope,
        own=own,
    )
    texts = {FINITE_SIZE: FINITE_SIZE_TEXT, CURVATURE: CURVATURE_TEXT}
    terms = "".join(texts[name].format(**values) for name in noise.terms)
    return IMPORTS + functions.source + at + ON_NODES.format(terms=terms, **values)


def _call(functions: PointFunctions, factor: sp.Expr, field: str, places: Mapping[str, str]) -> str:
    """Call of a function of one field."""
    name, arguments = functions(factor.xreplace({FIELD: x.h[x.j]}))
    given = [field if isinstance(a, sp.Indexed) else places[str(a)] for a in arguments]
    return f"{name}({', '.join(given)})"


def _teacher(noise: Noise, functions: PointFunctions, places: Mapping[str, str]) -> str:
    """Lines that add g to the error."""
    teacher = noise.model.teacher
    if isinstance(teacher, Committee):
        star = _call(functions, teacher.activation, "fields[p + r, q]", places)
        return (
            "    for r in range(k):\n        a = par[teacher_readout_at + r]\n"
            f"        for q in range(nodes):\n            error[q] += a / k * {star}"
        )
    name, arguments = functions(target(noise.model))
    given = [
        f"fields[p + {int(a.indices[0]) - 1}, q]" if isinstance(a, sp.Indexed) else places[str(a)]
        for a in arguments
    ]
    return f"    for q in range(nodes):\n        error[q] = {name}({', '.join(given)})"


def _closed(noise: Noise, places: Mapping[str, str]) -> str:
    """Polynomials of one student and one teacher, at readouts and P that are run-time values."""
    free = {"readout": None, "teacher_readout": None, "P": None}
    moments = closed_moments(noise.model, noise.algorithm, {"p": 1, "k": 1}, free)
    q, m = moments.entries
    scalars = len(places)
    entries = {
        "Q_11": "y[0]", "M_11": "y[1]", "P_11": f"par[{scalars}]",
        "readout_1": f"par[{scalars + 1}]", "teacher_readout_1": f"par[{scalars + 2}]",
    }  # fmt: skip
    sphere = noise.algorithm.constraint is not None
    pairs = {"out[1, 1]": (m, m)} if sphere else {
        "out[0, 0]": (q, q), "out[1, 0]": (q, m), "out[1, 1]": (m, m)
    }  # fmt: skip
    targets = {place: moments.covariance(*pair) for place, pair in pairs.items()}
    rates = moments.corrections(sp.S.One)  # divided by the dimension in the code
    added = {
        f"out[{n}]": sp.Add(*(rates[entry].get(name, 0) for name in noise.terms))
        for n, entry in enumerate((q, m))
    }
    symbols = {moments.unroller.symbols[name]: text for name, text in entries.items()
               if name in moments.unroller.symbols}  # fmt: skip
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
    shared, values = sp.cse(
        [_nested(e) for e in targets.values()], symbols=sp.numbered_symbols("shared_"), order="none"
    )
    names = dict(symbols)
    lines = []
    for symbol, value in shared:
        lines.append(f"{symbol} = {emit_expression(value, names)}")
        names[symbol] = str(symbol)
    for place, value in zip(targets, values, strict=True):
        text = emit_expression(value, names)
        lines.append(f"{place} {equals} ({text}){after}" if after else f"{place} {equals} {text}")
    return lines


def _nested(expr: sp.Expr) -> sp.Expr:
    """Horner form of a polynomial, the overlaps innermost: fewer multiplications."""
    generators = sorted(expr.free_symbols, key=lambda s: (s.name.startswith(("M", "Q")), s.name))
    return sp.horner(expr, *generators) if generators else expr

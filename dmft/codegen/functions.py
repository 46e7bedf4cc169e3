"""Small functions of generated code: of the fields at a node, and those that tell a domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from dmft.codegen.graph import Loop, loop_over
from dmft.codegen.packing import ALL_NODES
from dmft.emit import emit_expression
from dmft.emit.expression import shared_lines
from dmft.equations.averages.expectation import Expectation

# What the graph calls a function of this kind, followed by its name.
POINT = "point"
# Vectorisable functions of `dmft.special`, by name in the code.
FAST = {sp.tanh: "fast_tanh", sp.exp: "fast_exp", sp.erf: "fast_erf", sp.erfinv: "inverse_erf"}

TEMPLATE = """
@njit(inline="always", error_model="numpy")
def {name}({arguments}):
    # {comment}
    return {text}
"""


class PointFunctions:
    """Names each function once; the code of all of them is `source`."""

    def __init__(self, names: Mapping[str, str]) -> None:
        """Start empty; `names` are those of the parameters in the code."""
        self.names = names
        self.known: dict[sp.Expr, str] = {}
        self.blocks: list[str] = []

    def __call__(self, expr: sp.Expr) -> tuple[str, list[sp.Expr]]:
        """Name of the function of an expression, and its arguments: entries, then parameters."""
        entries = sorted(expr.atoms(sp.Indexed), key=sp.default_sort_key)
        inside = expr.xreplace({e: _argument(n) for n, e in enumerate(entries)})
        parameters = sorted(expr.free_symbols & _plain(expr), key=str)
        if inside not in self.known:
            self.known[inside] = f"function_{len(self.known) + 1}"
            arguments = [str(_argument(n)) for n in range(len(entries))]
            text = {_argument(n): a for n, a in enumerate(arguments)}
            text |= {s: self.names.get(s.name, s.name) for s in parameters}
            self.blocks.append(
                TEMPLATE.format(
                    name=self.known[inside],
                    arguments=", ".join(text.values()),
                    comment=" ".join(str(inside).split()),
                    text=emit_expression(inside, text, FAST),
                )
            )
        return self.known[inside], [*entries, *parameters]

    @property
    def source(self) -> str:
        """Code of the functions."""
        return "\n".join(self.blocks)


def _argument(number: int) -> sp.Symbol:
    return sp.Symbol(f"x{number}", real=True)


def _plain(expr: sp.Expr) -> set[sp.Symbol]:
    """Symbols that are parameters, not labels of arrays or indices."""
    # Not zeros: a condition such as 0 <= c**2 would be decided, and c with it.
    entries = {e: sp.Dummy(real=True) for e in expr.atoms(sp.Indexed)}
    symbols: set[sp.Symbol] = expr.xreplace(entries).free_symbols
    return symbols - set(entries.values())


# Functions of `dmft.special` that generated code calls, and the file of each.
SPECIAL = {
    name: file
    for file, names in (
        ("matrices", "mean_slopes field_root packed_covariance"),
        ("elementary", "fast_erf fast_exp fast_tanh inverse_erf erf_mixture_square"),
        ("branches", "branch_field branch_given branch_pair branch_slope branch_slopes"),
        ("branches", "covariance_given"),
        ("averages", "field_average pair_average kinked_pair_average"),
        ("elementary", "bivariate_normal_cdf two_signs"),
        ("tables", "token_value average_of_polynomials"),
        ("orthant", "root_ratio correlation"),
        ("orthant", "four_signs four_signs_moment four_signs_table inverse_correlation_root"),
        ("orthant", "half_tangent correlation_angle correlation_root four_signs_of"),
        ("signs", "split_moment_of_signs"),
    )
    for name in names.split()
}

# Compiled functions of `dmft.special` stay within their file, so this sum stands in the module.
MOMENT_OF_SIGNS = '''
@njit("float64(int64, int64[::1], float64[::1])", cache=True, nogil=True, error_model="numpy")
def moment_of_signs(signs, powers, entries):
    """E[prod x^power prod sign] from the upper triangle of the covariance of signs and fields."""
    value, weights, covariances = split_moment_of_signs(signs, powers, entries)
    for n in range(weights.size):
        value += weights[n] * four_signs_of(covariances[n])
    return value
'''


def imports(code: str) -> str:
    """Lines that import what code calls of `dmft.special`."""
    called = (name for name in SPECIAL if f"{name}(" in code)
    return "".join(f"from dmft.special.{SPECIAL[name]} import {name}\n" for name in called)


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


INDENT = "    "

DOMAIN_HEADER = '''"""Generated by dmft {version}; do not edit."""

import math

import numpy as np

from dmft.compiled import njit
from dmft.special.matrices import lowest_pivot
'''

# Domains do not depend on activations or algorithm. They are a separate module, after those of the
# rates and observables, so that they are compiled once for all models of a layout.
# The matrix is written where the caller has room for it; its number of rows is returned.
DOMAIN_TEMPLATE = '''
COVARIANCE = "float64(float64[::1], int64[::1], float64[::1], float64[:, ::1])"
DOMAIN = "float64(float64[::1], int64[::1], float64[::1], float64)"


@njit(COVARIANCE, cache=True, nogil=True, direct=True)
def covariance(y, widths, par, out):
    """{what}."""
    {matrix}
    size = Omega.shape[0]
    if out.shape[0] == size:
        for i in range(size):
            for j in range(size):
                out[i, j] = Omega[i, j]
    return np.float64(size)


@njit(DOMAIN, cache=True, nogil=True, direct=True)
def domain(y, widths, par, shift):
    """{test}."""
    {lowest}
'''
PIVOT = "Lowest pivot of the matrix + shift; not positive outside the domain"
LOWEST_PIVOT = """{matrix}
    return lowest_pivot(Omega, shift)"""
# Numbers that must not be negative, as a diagonal matrix: those from `start` on.
DIAGONAL = """start, size = {start}, {size}
    Omega = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            Omega[i, j] = y[start + i] if i == j else 0.0"""
SMALLEST = """start, size = {start}, {size}
    lowest = y[start]
    for j in range(size):
        lowest = min(lowest, y[start + j])
    return lowest + shift"""


def matrix_domain(what: str, lines: Sequence[str], version: str) -> str:
    """Text of the module for a matrix Omega that these lines fill."""
    matrix = f"\n{INDENT}".join(lines)
    lowest = LOWEST_PIVOT.format(matrix=matrix)
    text = DOMAIN_TEMPLATE.format(what=what, test=PIVOT, matrix=matrix, lowest=lowest)
    return DOMAIN_HEADER.format(version=version) + text


def diagonal_domain(what: str, start: str, size: str, version: str) -> str:
    """Text of the module for numbers of the state that must not be negative."""
    numbers = {"start": start, "size": size}
    text = DOMAIN_TEMPLATE.format(
        what=what,
        test="Smallest of these numbers, plus shift; negative outside the domain",
        matrix=DIAGONAL.format(**numbers),
        lowest=SMALLEST.format(**numbers),
    )
    return DOMAIN_HEADER.format(version=version) + text


def gram_domain(gram: sp.ImmutableDenseMatrix, places: Mapping[str, str], version: str) -> str:
    """Text of the module for a Gram matrix that is written out; `places` has its numbers."""
    names = {s: places[s.name] for s in gram.free_symbols}
    entries = ((i, j) for i in range(gram.rows) for j in range(gram.cols))
    rows = [f"Omega[{i}, {j}] = {emit_expression(gram[i, j], names)}" for i, j in entries]
    lines = [f"Omega = np.empty(({gram.rows}, {gram.rows}))", *rows]
    return matrix_domain(
        "Gram matrix of the student's weights, the target's and the positions", lines, version
    )

"""Functions of the fields at a node, as small compiled functions of the generated module."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from dmft.emit import emit_expression

# What the graph calls a function of this kind, followed by its name.
POINT = "point"
# Vectorisable functions of `dmft.special`, by name in the code.
FAST = {sp.tanh: "fast_tanh", sp.exp: "fast_exp", sp.erf: "fast_erf"}

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
        ("cholesky", "mean_slopes field_root"),
        ("gram", "packed_covariance"),
        ("arcsine", "erf_mixture_square"),
        ("hyperbolic", "fast_erf fast_exp fast_tanh"),
        ("branches", "branch_field branch_given branch_pair branch_slope branch_slopes"),
        ("branches", "covariance_given"),
        ("averages", "field_average pair_average kinked_pair_average"),
        ("bivariate", "bivariate_normal_cdf"),
        ("tokens", "token_value"),
        ("diagrams", "average_of_polynomials"),
        ("bivariate", "two_signs"),
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

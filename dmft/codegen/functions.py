"""Functions of the fields at a node, as small compiled functions of the generated module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def pointwise(
    rows: Sequence[sp.Expr],
    names: Mapping[sp.Expr, str],
    calls: Mapping[type, str] | None,
    stem: str,
) -> tuple[list[str], list[str]]:
    """Lines that compute what rows of values share, and the texts of the rows."""
    shared, rest = sp.cse(rows, symbols=sp.numbered_symbols(f"_{stem}"))
    known, lines = dict(names), []
    for n, (symbol, value) in enumerate(shared):
        lines.append(f"{stem}{n} = {emit_expression(value, known, calls)}")
        known[symbol] = f"{stem}{n}"
    return lines, [emit_expression(value, known, calls) for value in rest]


def _argument(number: int) -> sp.Symbol:
    return sp.Symbol(f"x{number}", real=True)


def _plain(expr: sp.Expr) -> set[sp.Symbol]:
    """Symbols that are parameters, not labels of arrays or indices."""
    # Not zeros: a condition such as 0 <= c**2 would be decided, and c with it.
    entries = {e: sp.Dummy(real=True) for e in expr.atoms(sp.Indexed)}
    symbols: set[sp.Symbol] = expr.xreplace(entries).free_symbols
    return symbols - set(entries.values())


# Imports that a module needs only when its code calls the function.
OPTIONAL_IMPORTS = {
    "mean_slopes(": "from dmft.special.cholesky import mean_slopes\n",
    "field_root(": "from dmft.special.cholesky import field_root\n",
    "packed_covariance(": "from dmft.special.gram import packed_covariance\n",
    "erf_mixture_square(": "from dmft.special.arcsine import erf_mixture_square\n",
    "fast_erf(": "from dmft.special.hyperbolic import fast_erf\n",
    "fast_exp(": "from dmft.special.hyperbolic import fast_exp\n",
    "fast_tanh(": "from dmft.special.hyperbolic import fast_tanh\n",
    "branch_field(": "from dmft.special.branches import branch_field\n",
    "branch_given(": "from dmft.special.branches import branch_given\n",
    "branch_pair(": "from dmft.special.branches import branch_pair\n",
    "branch_slope(": "from dmft.special.branch_slopes import branch_slope\n",
    "branch_slopes(": "from dmft.special.branch_slopes import branch_slopes\n",
    "covariance_given(": "from dmft.special.branches import covariance_given\n",
    "field_average(": "from dmft.special.averages import field_average\n",
    "pair_average(": "from dmft.special.averages import pair_average\n",
    "kinked_pair_average(": "from dmft.special.averages import kinked_pair_average\n",
    "bivariate_normal_cdf(": "from dmft.special.bivariate import bivariate_normal_cdf\n",
    "token_value(": "from dmft.special.tokens import token_value\n",
    "two_signs(": "from dmft.special.bivariate import two_signs\n",
    "root_ratio(": "from dmft.special.ratio import root_ratio\n",
    "correlation(": "from dmft.special.ratio import correlation\n",
}
SIGN_FUNCTIONS = (
    "four_signs",
    "four_signs_moment",
    "four_signs_table",
    "inverse_correlation_root",
    "half_tangent",
    "correlation_angle",
    "correlation_root",
)
SIGN_IMPORTS = {f"{name}(": f"from dmft.special.orthant import {name}\n" for name in SIGN_FUNCTIONS}
SIGN_IMPORTS["four_signs_of("] = "from dmft.special.orthant import four_signs_of\n"
SIGN_IMPORTS["moment_of_signs("] = "from dmft.special.signs import split_moment_of_signs\n"

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

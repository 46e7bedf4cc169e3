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

"""SymPy expressions as compiled functions of numbers, cached on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sympy as sp

from dmft.emit.cache import load_module
from dmft.emit.expression import shared_lines

MODULE = '''"""Written by dmft.emit.vector."""

import math

import numpy as np

from dmft.compiled import njit


@njit("{signature}", cache=True, nogil=True, error_model="numpy")
def evaluate({arguments}):
    # {legend}
    {body}
'''


def scalar_function(
    expr: sp.Expr, variable: sp.Symbol, parameters: Iterable[sp.Symbol] = ()
) -> Callable[..., float]:
    """Compile one expression to a Numba function ``float64(x, par)``, `par` a contiguous vector."""
    module: Any = load_module(emit_scalar_function(expr, variable, parameters), "scalar")
    function: Callable[..., float] = module.evaluate
    return function


def emit_scalar_function(
    expr: sp.Expr, variable: sp.Symbol, parameters: Iterable[sp.Symbol] = ()
) -> str:
    """Text of the module behind `scalar_function`."""
    names = {variable: "x"} | {s: f"par[{n}]" for n, s in enumerate(parameters)}
    lines, (result,) = shared_lines([sp.sympify(expr, strict=True)], names)
    arguments = {"x": "float64", "par": "float64[::1]"}
    return _module("float64", arguments, names, [*lines, f"return {result}"])


def vector_function(
    exprs: Sequence[sp.Expr], variables: Sequence[sp.Symbol], parameters: Iterable[sp.Symbol] = ()
) -> Callable[..., None]:
    """Compile expressions to a Numba function ``void(x, par, out)``, of contiguous vectors.

    There is one expression for each entry of `out`; what they share is computed once.
    """
    module: Any = load_module(emit_vector_function(exprs, variables, parameters), "vector")
    function: Callable[..., None] = module.evaluate
    return function


def emit_vector_function(
    exprs: Sequence[sp.Expr], variables: Sequence[sp.Symbol], parameters: Iterable[sp.Symbol] = ()
) -> str:
    """Text of the module behind `vector_function`."""
    names = {s: f"x[{n}]" for n, s in enumerate(variables)}
    names |= {s: f"par[{n}]" for n, s in enumerate(parameters)}
    lines, results = shared_lines([sp.sympify(e, strict=True) for e in exprs], names)
    lines += [f"out[{n}] = {text}" for n, text in enumerate(results)]
    return _module("void", dict.fromkeys(("x", "par", "out"), "float64[::1]"), names, lines)


def _module(
    result: str, arguments: dict[str, str], names: dict[sp.Symbol, str], lines: Sequence[str]
) -> str:
    """Text of a module; a symbol's name may hold line breaks."""
    return MODULE.format(
        signature=f"{result}({', '.join(arguments.values())})",
        arguments=", ".join(arguments),
        legend=" ".join(", ".join(f"{text} = {s}" for s, text in names.items()).split()),
        body="\n    ".join(lines),
    )

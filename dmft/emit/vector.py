"""Several SymPy expressions of one vector of variables as one compiled function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sympy as sp

from dmft.emit.cache import load_module
from dmft.emit.expression import emit_expression


def vector_function(
    exprs: Sequence[sp.Expr],
    variables: Sequence[sp.Symbol],
    parameters: Iterable[sp.Symbol] = (),
) -> Callable[..., None]:
    """Compile expressions to a Numba function ``void(x, par, out)``, cached on disk.

    Parameters
    ----------
    exprs : sequence of sympy.Expr
        One for each entry of `out`; what they have in common is computed once.
    variables, parameters : sequences of sympy.Symbol
        Order of the entries of `x` and `par`, contiguous float64 vectors.

    Examples
    --------
    >>> import numpy as np, sympy as sp
    >>> from dmft.emit.vector import vector_function
    >>> x, y, a = sp.symbols("x y a", real=True)
    >>> f, out = vector_function([a * x * y, x - y], [x, y], [a]), np.empty(2)
    >>> f(np.array([3.0, 2.0]), np.array([0.5]), out)
    >>> out.tolist()
    [3.0, 1.0]
    """
    module: Any = load_module(emit_vector_function(exprs, variables, parameters), "vector")
    function: Callable[..., None] = module.evaluate
    return function


def emit_vector_function(
    exprs: Sequence[sp.Expr],
    variables: Sequence[sp.Symbol],
    parameters: Iterable[sp.Symbol] = (),
) -> str:
    """Text of the module behind `vector_function`."""
    parameters = tuple(parameters)
    names = {s: f"x[{i}]" for i, s in enumerate(variables)}
    names |= {s: f"par[{i}]" for i, s in enumerate(parameters)}
    given = [sp.sympify(e, strict=True) for e in exprs]
    shared, results = sp.cse(given, symbols=sp.numbered_symbols("_shared"))
    lines = []
    for i, (symbol, value) in enumerate(shared):
        lines.append(f"    s{i} = {emit_expression(value, names)}")
        names[symbol] = f"s{i}"
    lines += [f"    out[{i}] = {emit_expression(e, names)}" for i, e in enumerate(results)]
    legend = [f"{text} = {symbol}" for symbol, text in names.items() if "[" in text]
    body = "\n".join(lines)
    return f'''"""Written by dmft.emit.vector."""

import math

import numpy as np

from dmft.compiled import njit


@njit(
    "void(float64[::1], float64[::1], float64[::1])", cache=True, nogil=True, error_model="numpy"
)
def evaluate(x, par, out):
    # {" ".join(", ".join(legend).split())}
{body}
'''

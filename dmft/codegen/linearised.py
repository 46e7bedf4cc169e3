"""Compiled linearised rates of equations of motion."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from dmft.codegen.assemble import tangent_source
from dmft.codegen.build import description
from dmft.emit import load_module
from dmft.equations.equations import Equations
from dmft.equations.noise.tangent import tangent
from dmft.names import VERSION


@lru_cache(maxsize=64)
def compiled_tangent(equations: Equations) -> Any:
    """Compiled ``tangent(t, y, widths, par, out)`` of the equations.

    y holds the state (Q, M), then its displacement (Q', M'), packed; out receives the rates of
    the displacement. widths and par are those of the `Problem` that `dmft.build` makes.

    Raises
    ------
    NotClosed
        When the equations hold averages on nodes, or closed forms without known derivative.
    """
    source = tangent_source(
        tangent(equations.definitions),
        list(equations.parameters),
        VERSION,
        f"linearised: {description(equations)}",
    )
    return load_module(source, "dmft_tangent").tangent

"""Compiled linearised rates of equations of motion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dmft.codegen.assemble import (
    array_axes,
    code_names,
    module_text,
    rates_function,
)
from dmft.codegen.build import description, layout_of
from dmft.codegen.functions import PointFunctions
from dmft.codegen.fuse import Loop, Scope
from dmft.codegen.loops import LoopWriter
from dmft.codegen.lower import Lowering, loop_index, place
from dmft.codegen.packing import layout
from dmft.emit import load_module
from dmft.equations.definitions import base_name, live
from dmft.equations.equations import Equations
from dmft.equations.noise.derivatives import (
    COSTATE,
    DUAL,
    Adjoint,
    adjoint,
    tangent,
    tangent_of_numbers,
)
from dmft.names import VERSION
from dmft.symbolic_lock import in_turn


@dataclass(frozen=True)
class PulledBack:
    """Loops that add up the cotangents of an adjoint."""

    adjoint: Adjoint

    @property
    def arrays(self) -> dict[str, tuple[str, ...]]:
        """Cotangents of the arrays on the way, with the axes of what they belong to."""
        return {d.name + DUAL: array_axes(d) for d in self.adjoint.between}

    def write(self, writer: LoopWriter, lowering: Lowering) -> None:
        """Emit one nest of loops for each pullback, which adds to all its entries."""
        for pullback in self.adjoint.pullbacks:
            nodes = [(target, lowering(value)) for target, value in pullback.parts]
            scopes = [writer.root]
            for index in map(loop_index, pullback.indices):
                scopes.append(Scope(index, scopes[-1]))
            for _, node in nodes:
                writer.note_uses(node)
            lines: list[str | Loop] = []
            for target, node in nodes:
                name = base_name(target)
                name = f"d{name}" if name.endswith(COSTATE) else name
                entry = writer.entry(name, [place(index) for index in target.indices])
                lines.append(f"{entry} += {writer.value(node, scopes[-1])}")
            scopes[-1].lines += lines
            writer.root.lines += ["", f"# into {', '.join(str(t) for t, _ in pullback.parts)}"]
            for inner, outer in zip(scopes[:0:-1], scopes[-2::-1], strict=True):
                outer.block(writer.header(inner.index), inner)  # type: ignore[arg-type]


@in_turn
@lru_cache(maxsize=64)
def compiled_tangent(equations: Equations) -> Any:
    """Compiled ``tangent(t, y, widths, par, out)`` of the equations.

    y holds the state (Q, M), then its displacement (Q', M'), packed; out receives the rates of the
    displacement. Raises `NotClosed` for averages on nodes or closed forms without derivative.
    """
    parameters = list(equations.parameters)
    functions = PointFunctions(code_names(parameters))
    if equations.family == "rule":
        state = [s for symbols in equations.space.blocks.values() for s in symbols]
        definitions = tangent_of_numbers(equations.definitions, state)
        here = layout_of(equations).with_displacement()
    else:
        definitions = tangent(equations.definitions)
        here = layout(definitions).with_displacement()
    names = ", ".join(b.name for b in here.moved)
    summary = f"Linearised rates of the displacement {names} behind the state."
    text = rates_function("tangent", summary, live(definitions), parameters, functions, here)
    source = module_text(functions, [text], VERSION, f"linearised: {description(equations)}")
    return load_module(source, "dmft_tangent").tangent


@in_turn
@lru_cache(maxsize=64)
def compiled_adjoint(equations: Equations) -> tuple[Any, Any]:
    """Compiled product of a costate with the Jacobian of the rates, and gradient of the risk.

    Both are ``(t, y, widths, par, out)``. y holds the state, then a costate, packed; `out` receives
    after the state's entries the product or the derivatives of the risk, which no costate enters.
    """
    parameters = list(equations.parameters)
    functions = PointFunctions(code_names(parameters))
    here = layout_of(equations).with_displacement(COSTATE)
    texts = []
    for name, observable in (("adjoint", ""), ("gradient", "risk")):
        found = adjoint(equations.definitions, observable)
        summary = f"Of the costate behind the state: the {name} of {observable or 'the rates'}."
        texts.append(
            rates_function(
                name, summary, found.forward, parameters, functions, here, PulledBack(found)
            )
        )
    source = module_text(functions, texts, VERSION, f"adjoint: {description(equations)}")
    module = load_module(source, "dmft_adjoint")
    return module.adjoint, module.gradient

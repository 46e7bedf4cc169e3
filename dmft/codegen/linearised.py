"""Compiled linearised rates of equations of motion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import sympy as sp

from dmft.codegen.assemble import array_axes, code_names, module_text, rates_function
from dmft.codegen.build import description, layout_of
from dmft.codegen.functions import PointFunctions
from dmft.codegen.graph import Loop, Scope
from dmft.codegen.loops import LoopWriter
from dmft.codegen.lower import Lowering, loop_index, place
from dmft.codegen.packing import layout
from dmft.emit import load_module
from dmft.equations.definitions import base_name, define, live
from dmft.equations.equations import Equations
from dmft.equations.noise.derivatives import (
    COSTATE,
    DUAL,
    Adjoint,
    adjoint,
    adjoint_of_numbers,
    moved_symbol,
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
def compiled_tangent(equations: Equations, by: str = "") -> Any:
    """Compiled ``tangent(t, y, widths, par, out)`` of the equations.

    y holds the state (Q, M), then its displacement (Q', M'), packed; out receives the rates of the
    displacement. With the name of a parameter y is a state, and out receives the derivatives of its
    rates by the parameter.
    """
    parameters = list(equations.parameters)
    functions = PointFunctions(code_names(parameters))
    here = layout_of(equations)
    if equations.family == "rule":
        state = [s for symbols in equations.space.blocks.values() for s in symbols]
        chosen = [s for s in equations.all_symbols if s.name == by] if by else state
        definitions = tangent_of_numbers(equations.definitions, chosen)
        unit = {moved_symbol(s): sp.S.One for s in chosen if by}
        definitions = tuple(
            define(d.target, {n: e.xreplace(unit) for n, e in d.terms}, d.role) for d in definitions
        )
    else:
        definitions = tangent(equations.definitions, by)
    summary = f"Derivatives of the rates by {by}."
    if not by:
        here = here if equations.family == "rule" else layout(definitions)
        here = here.with_displacement()
        names = ", ".join(b.name for b in here.moved)
        summary = f"Linearised rates of a displacement ({names}) that is stored after the state."
    text = rates_function("tangent", summary, live(definitions), parameters, functions, here)
    source = module_text(functions, [text], VERSION, f"linearised: {description(equations)}")
    return load_module(source, "dmft_tangent").tangent


@in_turn
@lru_cache(maxsize=64)
def compiled_adjoint(equations: Equations, observable: str = "risk") -> tuple[Any, Any]:
    """Compiled product of a costate with the Jacobian of the rates, and gradient of an observable.

    Both are ``(t, y, widths, par, out)``. y holds the state, then a costate, packed; `out` receives
    after the state's entries the product or the derivatives of the observable, which no costate
    enters.
    """
    parameters = list(equations.parameters)
    functions = PointFunctions(code_names(parameters))
    here = layout_of(equations).with_displacement(COSTATE)
    if here.entries:  # the state and its costate are numbers behind each other
        entries = (*here.entries, *(n + COSTATE for n in here.entries))
        here = replace(here, state=(*here.state, *here.moved), moved=(), entries=entries)
    texts = []
    for name, own in (("adjoint", ""), ("gradient", observable)):
        summary = f"The {name} of {own or 'the rates'}; y holds the state, then the costate."
        pulled = None
        if here.entries:
            state = [s for symbols in equations.space.blocks.values() for s in symbols]
            definitions = live(adjoint_of_numbers(equations.definitions, state, own))
        else:
            found = adjoint(equations.definitions, own)
            definitions, pulled = found.forward, PulledBack(found)
        texts.append(
            rates_function(name, summary, definitions, parameters, functions, here, pulled)
        )
    source = module_text(functions, texts, VERSION, f"adjoint: {description(equations)}")
    module = load_module(source, "dmft_adjoint")
    return module.adjoint, module.gradient

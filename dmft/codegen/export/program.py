"""The schedule of a system as statements of plain Python, which every printer reads.

`dmft.codegen.loops` schedules them, as for compiled code; here arrays have names of their own.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import sympy as sp

from dmft.codegen.assemble import array_axes, write_definition
from dmft.codegen.fuse import Loop, Scope, fuse, render
from dmft.codegen.loops import CALLS, LoopWriter
from dmft.codegen.lower import ARRAYS, COVARIANCE, ROWS, Lowering
from dmft.codegen.nodes import Graph, Index, Node
from dmft.equations import symbols as x
from dmft.equations.definitions import LEAST_VARIANCE, Definition, Whole, live
from dmft.equations.views.text import comment_text
from dmft.errors import NotClosed

TABLE = "TABLE_"
# Least cost of a value that is worth a table.
WORTH = 8
# Functions of the graph for averages of four signs, by the array that compiled code fills.
OF_FOUR = {array: function for function, array in ARRAYS.items()}


@dataclass(frozen=True)
class Program:
    """Statements that compute the arrays `outputs` from arrays, widths and numbers.

    Attributes
    ----------
    body : tuple of ast.stmt
        Loops over ``range(p)``, ``range(k)``, ``range(N)`` (N = p + k), assignments to entries.
    arrays : dict from name to axes
        Arrays that it fills on its way.
    outputs : dict from name to axes
        Arrays that it fills for its caller.
    comments : dict
        Equation that the statement of a number stands for, as lines of text.
    """

    body: tuple[ast.stmt, ...]
    arrays: dict[str, tuple[str, ...]]
    outputs: dict[str, tuple[str, ...]]
    comments: dict[int, tuple[str, ...]]

    @property
    def names(self) -> set[str]:
        """All names that its statements hold."""
        return {
            node.id
            for statement in self.body
            for node in ast.walk(statement)
            if isinstance(node, ast.Name)
        }

    @property
    def calls(self) -> set[str]:
        """Functions that its statements call, as they are written."""
        nodes = (node for statement in self.body for node in ast.walk(statement))
        return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}

    def lines(self, printed: Callable[[ast.stmt], Sequence[str]], mark: str) -> list[str]:
        """Lines of all statements, those of a definition below its equation as a comment."""
        lines: list[str] = []
        for n, statement in enumerate(self.body):
            if n in self.comments:
                lines += ["", *(f"{mark} {line}" for line in self.comments[n])]
            lines += printed(statement)
        return lines

    @property
    def needs_all_fields(self) -> bool:
        """Whether it reads N, the number of all fields."""
        return "N" in self.names or any("N" in axes for axes in self.arrays.values())


class NamedWriter(LoopWriter):
    """Writes loops over arrays by their names, from functions that exports have."""

    def value(self, node: Node, scope: Scope) -> str:
        """Text of a value; averages of four signs are functions of their ten covariances."""
        if node.kind == "ref" and node.data[0] in OF_FOUR:
            array, places = node.data
            pairs = [self.graph.ref(COVARIANCE, [places[i], places[j]]) for i, j in ROWS]
            node = self.graph.call(OF_FOUR[array], *pairs)
        return super().value(node, scope)

    def worth_table(self, node: Node, rest: list[Index]) -> bool:
        """Whether a value that skips a loop is worth an array: scalar code gains less by one."""
        return node.cost >= WORTH and super().worth_table(node, rest)

    def table(self, node: Node, scope: Scope, prefix: list[Index], rest: list[Index]) -> str:
        """Reference to a table of all indices of a node: JAX has no arrays inside of loops."""
        return super().table(node, scope, [], [i for i in scope.context if i in node.deps])

    def compute(self, node: Node, scope: Scope) -> str:
        """Text of a value that is computed at this place."""
        kind = node.data.split()[0] if node.kind == "call" else ""
        if kind and kind not in CALLS and not hasattr(math, kind):
            raise NotClosed(
                f"{kind} is not exported to any language: solve the equations with dmft.solve "
                "and save the run, run.save(path)"
            )
        return super().compute(node, scope)


def walk(
    definitions: Sequence[Definition],
    names: Mapping[str, str],
    entries: Mapping[str, str],
    role: str,
) -> Program:
    """Program of the rates or of the observables of a system.

    Parameters
    ----------
    definitions : sequence of Definition
    names : mapping
        Identifiers of the parameters.
    entries : mapping
        Where numbers of the state stand whose definitions are written in them one by one.
    role : "rate" or "observable"
    """
    other = {"rate": "observable", "observable": "rate"}[role]
    chosen = live([d for d in definitions if d.role != other])
    lowering = Lowering(Graph(x.SYMMETRIC), {**names, **entries})

    def number(d: Definition) -> str:
        if d.role == "rate":
            return f"d{entries[d.name]}"
        return f"{d.name}[0]" if d.role == "observable" else lowering.names.get(d.name, d.name)

    first = NamedWriter(lowering.graph, {})  # finds the tables, which the second pass shares
    _statements(first, lowering, chosen, number)
    writer = NamedWriter(lowering.graph, {}, first.worth_sharing)
    statements, comments = _statements(writer, lowering, chosen, number)
    arrays, outputs = dict[str, tuple[str, ...]](), dict[str, tuple[str, ...]]()
    for d in chosen:
        axes = isinstance(d.target, sp.Indexed) and tuple(y or "1" for y in array_axes(d))
        if d.role == "observable":
            outputs[d.name] = ("1",)
        elif d.role == "rate" and axes:
            outputs[f"d{d.name}"] = axes
        elif d.role == "rate":
            block = entries[d.name].partition("[")[0]
            outputs[f"d{block}"] = (str(sum(y.startswith(f"{block}[") for y in entries.values())),)
        elif axes:
            arrays[d.name] = axes
    return Program(tuple(statements), {**arrays, **writer.arrays}, outputs, comments)


def _statements(
    writer: LoopWriter,
    lowering: Lowering,
    definitions: Sequence[Definition],
    number: Callable[[Definition], str],
) -> tuple[list[ast.stmt], dict[int, tuple[str, ...]]]:
    """Statements of all definitions in order, and their texts by the number of the first one."""
    last = next((d for d in reversed(definitions) if d.holds_variances), None)
    statements: list[ast.stmt] = []
    comments: dict[int, tuple[str, ...]] = {}
    for definition in definitions:
        if isinstance(definition.expr, Whole):
            raise NotClosed(f"{definition.target}: {definition.expr} is not exported")
        writer.root.lines = []
        write_definition(writer, lowering, definition, number)
        if definition is last:
            writer.root.lines.append(_lift(definition.name))
        comments[len(statements)] = comment_text(definition)
        statements += ast.parse("\n".join(render(fuse(writer.root.lines)))).body
    return statements, comments


def _lift(covariance: str) -> Loop:
    """Make fields of variance zero ones of `LEAST_VARIANCE`: averages become their limits."""
    own = f"{covariance}[m, m]"
    line = f"{own} = {LEAST_VARIANCE!r} if {own} == 0.0 else {own}"
    return Loop("for m in range(N):", [line])

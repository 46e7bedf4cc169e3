"""From lowered nodes to loops of plain Python, which every printer reads."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dmft.codegen.assemble import array_axes, filled_arrays, write_definition
from dmft.codegen.fuse import Loop, fuse, render
from dmft.codegen.loops import LoopWriter
from dmft.codegen.lower import Lowering
from dmft.codegen.nodes import FUNCTIONS, Graph, count_uses
from dmft.equations import symbols as x
from dmft.equations.definitions import LEAST_VARIANCE, Definition, ErfSquare, FieldRoot, live
from dmft.equations.views.text import comment_text
from dmft.errors import NotClosed

OF_SIGNS = "an average of signs and powers of several fields (SignsMoment)"


@dataclass(frozen=True)
class Program:
    """Statements that compute the arrays `outputs` from arrays, widths and numbers.

    The body has loops over ``range(p)``, ``range(k)``, ``range(N)`` (N = p + k) and assignments to
    entries. `arrays` (intermediate ones) and `outputs` give axes by name, `comments` the equation
    of the statement of a number, as lines of text.
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


class Walker:
    """Walks the definitions of one system."""

    def __init__(
        self,
        names: Mapping[str, str],
        entries: Mapping[str, str],
        axes: Mapping[str, tuple[str, ...]],
    ) -> None:
        """`names` are those of parameters; `entries` says where numbers of the state stand."""
        self.lowering = Lowering(Graph(x.SYMMETRIC), {**names, **entries})
        self.entries, self.axes = entries, axes
        self.outputs: dict[str, tuple[str, ...]] = {}

    def program(self, definitions: Sequence[Definition]) -> Program:
        """Statements of all definitions, in order."""
        for definition in definitions:
            self.refuse(definition)
        shared = frozenset[str]()
        for _ in range(2):  # the first pass finds the tables, the second shares them
            writer = LoopWriter(self.lowering.graph, {}, shared, plain=True)
            written = self.written(writer, definitions)
            shared = writer.worth_sharing
        statements: list[ast.stmt] = []
        comments: dict[int, tuple[str, ...]] = {}
        for definition, lines in zip(definitions, written, strict=True):
            comments[len(statements)] = comment_text(definition)
            statements += ast.parse("\n".join(lines)).body
        filled = {
            name: tuple(axis or "1" for axis in axes)
            for name, axes in filled_arrays(definitions).items()
        }
        return Program(tuple(statements), {**filled, **writer.arrays}, self.outputs, comments)

    def refuse(self, definition: Definition) -> None:
        """Refuse what no language has, by name."""
        if isinstance(definition.expr, FieldRoot | ErfSquare):
            raise NotClosed(f"{definition.target}: {definition.expr} is not exported")
        node = self.lowering(definition.expr)
        uses = {node.key: 1}
        count_uses(node, uses)
        nodes = (self.lowering.graph.nodes[key] for key in uses)
        for kind in (n.data.split()[0] for n in nodes if n.kind == "call"):
            if kind not in FUNCTIONS:
                raise NotClosed(
                    f"{OF_SIGNS if kind == 'SignsMoment' else kind} is not exported to any "
                    "language: run dmft.solve(equations) and save the run, run.save(path)"
                )

    def written(self, writer: LoopWriter, definitions: Sequence[Definition]) -> list[list[str]]:
        """Lines of each definition."""
        last = next((d for d in reversed(definitions) if d.holds_variances), None)
        found = []
        for definition in definitions:
            writer.root.lines = []
            self.note_output(definition)
            write_definition(writer, self.lowering, definition, self.number)
            if definition is last:
                writer.root.lines.append(_lift(definition.name))
            found.append(render(fuse(writer.root.lines)))
        return found

    def note_output(self, definition: Definition) -> None:
        """Note the array that a rate or an observable fills."""
        name = definition.name
        if definition.role == "observable":
            self.outputs[name] = ("1",)
        elif definition.role == "rate" and name in self.entries:
            block = self.entries[name].partition("[")[0]
            self.outputs[f"d{block}"] = self.axes[block]
        elif definition.role == "rate":
            self.outputs[f"d{name}"] = tuple(axis or "1" for axis in array_axes(definition))

    def number(self, definition: Definition) -> str:
        """Where a definition without indices goes."""
        name = definition.name
        if definition.role == "rate":
            return f"d{self.entries.get(name, name)}"
        if definition.role == "observable":
            return f"{name}[0]"
        return self.lowering.names.get(name, name)


def walk(
    definitions: Sequence[Definition],
    names: Mapping[str, str],
    entries: Mapping[str, str],
    axes: Mapping[str, tuple[str, ...]],
    role: str,
) -> Program:
    """Program of the definitions of one role, "rate" or "observable".

    `names` are identifiers of the parameters; `entries` has the places of those numbers of the
    state whose definitions are written one by one.
    """
    other = {"rate": "observable", "observable": "rate"}[role]
    return Walker(names, entries, axes).program(live([d for d in definitions if d.role != other]))


def _lift(covariance: str) -> Loop:
    """Make fields of variance zero ones of `LEAST_VARIANCE`: averages become their limits."""
    own = f"{covariance}[m, m]"
    line = f"{own} = {LEAST_VARIANCE!r} if {own} == 0.0 else {own}"
    return Loop("for m in range(N):", [line])

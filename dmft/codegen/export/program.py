"""From lowered nodes to loops of plain Python, which every printer reads.

A value that skips a loop around it is a table, computed before; all else stands where it is used.
Compiled code regroups products by loops (`dmft.codegen.loops`). Here they keep their order, so that
covariances and variances of fields that coincide are rounded alike: otherwise angles of pairs lose
half of their digits.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import sympy as sp

from dmft.codegen.fuse import Loop, fuse, render
from dmft.codegen.loops import ATOM, CALLS
from dmft.codegen.lower import COVARIANCE, MOMENTS, Lowering, place
from dmft.codegen.nodes import FIXED, FOUR_FIELDS, SAME, Graph, Index, Node, count_uses
from dmft.equations import symbols as x
from dmft.equations.definitions import LEAST_VARIANCE, Definition, ErfSquare, FieldRoot, live
from dmft.equations.views.text import definition_text
from dmft.errors import NotClosed

# Least cost of a value that is worth a table; sums and calls always are.
WORTH = 8
# Least cost of a root or call of two indices that all who need it share.
SHARED = 12
# Powers that are written as products.
LONGEST_POWER = 8
TABLE = "TABLE_"
TIMES, PLUS = " * ", " + "


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


@dataclass
class _Scope:
    """One loop, or the function: what stands in it and the names of values known there."""

    context: tuple[Index, ...] = ()
    lines: list[str | Loop] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)


class Walker:
    """Walks the nodes of one system."""

    def __init__(self, names: Mapping[str, str], entries: Mapping[str, str]) -> None:
        """`names` are those of parameters; `entries` says where numbers of the state stand."""
        self.graph = Graph(x.SYMMETRIC)
        self.lowering = Lowering(self.graph, {**names, **entries})
        self.entries = entries
        self.root = _Scope()
        self.arrays: dict[str, tuple[str, ...]] = {}
        self.outputs: dict[str, tuple[str, ...]] = {}
        self.uses: dict[str, int] = {}
        self.count = 0
        self.filling = False  # whether a table is being filled

    def program(self, definitions: Sequence[Definition]) -> Program:
        """Statements of all definitions, in order."""
        last = next((d for d in reversed(definitions) if d.holds_variances), None)
        statements: list[ast.stmt] = []
        comments: dict[int, tuple[str, ...]] = {}
        for definition in definitions:
            self.root.lines = []
            self.define(definition)
            if definition is last:
                self.root.lines.append(_lift(definition.name))
            comments[len(statements)] = tuple(definition_text(definition))
            statements += ast.parse("\n".join(render(fuse(self.root.lines)))).body
        return Program(tuple(statements), self.arrays, self.outputs, comments)

    # Definitions ----------------------------------------------------------------------------

    def define(self, definition: Definition) -> None:
        """Statements of one definition."""
        if isinstance(definition.expr, FieldRoot | ErfSquare):
            raise NotClosed(f"{definition.target}: {definition.expr} is not exported")
        node = self.lowering(definition.expr)
        self.note_uses(node)
        target = self.target(definition)
        if not isinstance(definition.target, sp.Indexed):
            self.root.lines.append(f"{target} = {self.value(node, self.root)}")
            return
        places = [place(index) for index in definition.target.indices]
        running = tuple(index for index, _ in places if index != FIXED)
        scope = _Scope(running)
        text = self.value(node, scope)
        half = definition.name in x.SYMMETRIC and definition.role != "block"
        if half and len(running) == 2 and running[0][1] == running[1][1]:
            value = self.fresh("w")
            scope.lines += [
                f"{value} = {text}",
                f"{_entry(target, places)} = {value}",
                f"{_entry(target, places[::-1])} = {value}",
            ]
        else:
            half = False
            scope.lines.append(f"{_entry(target, places)} = {text}")
        self.close(scope, half)

    def target(self, definition: Definition) -> str:
        """Name of what a definition fills."""
        indexed = isinstance(definition.target, sp.Indexed)
        axes: tuple[str, ...] = ()
        if indexed:
            axes = tuple(place(i)[0][1] or "1" for i in definition.target.indices)
        if definition.role == "block":
            self.arrays[definition.name] = ("N",) * len(axes)
            return definition.name
        if definition.role == "rate":
            if definition.name in self.entries:
                entry = self.entries[definition.name]
                block = entry.partition("[")[0]
                size = sum(y.startswith(f"{block}[") for y in self.entries.values())
                self.outputs[f"d{block}"] = (str(size),)
                return f"d{entry}"
            self.outputs[f"d{definition.name}"] = axes
            return f"d{definition.name}"
        if definition.role == "observable":
            self.outputs[definition.name] = ("1",)
            return f"{definition.name}[0]"
        if indexed:
            self.arrays[definition.name] = axes
            return definition.name
        return self.lowering.names.get(definition.name, definition.name)

    def close(self, scope: _Scope, half: bool = False) -> None:
        """Put the loops of a scope around its lines, behind all that stands already."""
        lines = scope.lines
        for depth, (name, axis) in reversed(list(enumerate(scope.context))):
            end = f"{scope.context[0][0]} + 1" if half and depth == 1 else axis
            lines = [Loop(f"for {name} in range({end}):", lines)]
        self.root.lines += lines

    # Values ---------------------------------------------------------------------------------

    def note_uses(self, node: Node) -> None:
        """Count how often each node is used."""
        count_uses(node, self.uses)

    def value(self, node: Node, scope: _Scope) -> str:
        """Text of a value at a place."""
        if node.kind == "number":
            return f"({float(node.data)!r})"
        if node.kind == "scalar":
            return str(node.data)
        if node.kind == "ref" and node.data[0] not in FOUR_FIELDS:
            return self.entry(node)
        inside = [index for index in scope.context if index in node.deps]
        costly = node.kind in ("sum", "pair", "call", "text") or node.cost >= WORTH
        costly = costly or node.kind == "ref"
        shared = node.kind in ("call", "pow") and len(inside) in (1, 2) and node.cost >= SHARED
        if costly and (len(inside) < len(scope.context) or (shared and not self.filling)):
            return self.table(node, inside)
        if node.key in scope.known:
            return scope.known[node.key]
        text = self.compute(node, scope)
        if (costly and self.uses.get(node.key, 0) > 1) or node.kind in ("sum", "pair"):
            name = text if node.kind in ("sum", "pair") else self.fresh("w")
            if name != text:
                scope.lines.append(f"{name} = {text}")
            scope.known[node.key] = text = name
        return text

    def table(self, node: Node, inside: Sequence[Index]) -> str:
        """Entry of a table, which is filled here where nothing has filled it."""
        names = {index: (f"e{n}", index[1]) for n, index in enumerate(inside)}
        body = self.graph.rename(node, names)
        if body.key not in self.root.known:
            scope = _Scope(tuple(names.values())) if inside else self.root
            self.note_uses(body)
            outside, self.filling = self.filling, True
            text = self.compute(body, scope)
            self.filling = outside
            name = self.fresh("w")
            places = [(index, "") for index in names.values()]
            line = f"{_entry(name, places) if inside else name} = {text}"
            scope.lines.append(line)
            if inside:
                self.arrays[name] = tuple(index[1] for index in inside)
                self.close(scope)
            self.root.known[body.key] = name
        name = self.root.known[body.key]
        return _entry(name, [(index, "") for index in inside]) if inside else name

    def entry(self, node: Node) -> str:
        """Entry of an array, or whether two places are the same."""
        array, places = node.data
        if array == SAME:
            first, second = (_place(y) for y in places)
            return f"(1.0 if {first} == {second} else 0.0)"
        return _entry(array, places)

    def compute(self, node: Node, scope: _Scope) -> str:
        """Text of a value that is computed at this place."""
        if node.kind in ("add", "mul"):
            # Squares and products of equal entries are then rounded alike (as in the reference).
            args = node.args if node.kind == "add" else sorted(node.args, key=_last)
            parts = [self.value(a, scope) for a in args]
            return f"({(PLUS if node.kind == 'add' else TIMES).join(parts)})"
        if node.kind == "pow":
            return self.power(node, scope)
        if node.kind == "text":
            return f"({node.data})"
        if node.kind == "together":
            return f"({self.value(node.args[0], scope)})"
        if node.kind == "ref":
            return self.four(node, scope)
        if node.kind == "call":
            kind, *tables = node.data.split()
            if kind not in CALLS and not hasattr(math, kind):
                raise NotClosed(
                    f"{kind} is not exported to any language: solve the equations with dmft.solve "
                    "and save the run, run.save(path)"
                )
            arguments = [f"{TABLE}{key}" for key in tables]
            arguments += [self.value(a, scope) for a in node.args]
            return f"{CALLS.get(kind, f'math.{kind}')}({', '.join(arguments)})"
        return self.total(node, scope)

    def power(self, node: Node, scope: _Scope) -> str:
        """Integer powers by multiplication, roots by sqrt."""
        exponent: Fraction = node.data
        text = self.value(node.args[0], scope)
        whole, root = divmod(abs(exponent), 1)
        if whole + (root > 0) > 1 and not ATOM.fullmatch(text):
            name = self.fresh("w")
            scope.lines.append(f"{name} = {text}")
            text = name
        parts = [text] * int(whole) if whole <= LONGEST_POWER else [f"{text} ** {whole}"]
        parts += [f"math.sqrt({text})"] * (root > 0)
        product = TIMES.join(parts)
        return f"({product})" if exponent > 0 else f"(1.0 / ({product}))"

    def four(self, node: Node, scope: _Scope) -> str:
        """Average of four signs from the ten covariances."""
        array, places = node.data
        entries = [
            self.value(self.graph.ref(COVARIANCE, [places[i], places[j]]), scope)
            for i in range(4)
            for j in range(i, 4)
        ]
        return f"{'four_signs_moment' if MOMENTS[array] else 'four_signs'}({', '.join(entries)})"

    def total(self, node: Node, scope: _Scope) -> str:
        """Sum over one index, or over two of a symmetric body: half of the square, twice."""
        name = self.fresh("s")
        scope.lines.append(f"{name} = 0.0")
        if node.kind == "sum":
            index, axis = node.data
            inner = _Scope((*scope.context, node.data))
            inner.lines.append(f"{name} += {self.value(node.args[0], inner)}")
            scope.lines.append(Loop(f"for {index} in range({axis}):", inner.lines))
            return name
        first, second = node.data
        row = self.fresh("s")
        outer = _Scope((*scope.context, first), [f"{row} = 0.0"])
        inner = _Scope((*outer.context, second))
        inner.lines.append(f"{row} += {self.value(node.args[0], inner)}")
        outer.lines.append(Loop(f"for {second[0]} in range({first[0]}):", inner.lines))
        diagonal = self.graph.rename(node.args[0], {second: first})
        self.note_uses(diagonal)
        outer.lines.append(f"{name} += 2.0 * {row} + {self.value(diagonal, outer)}")
        scope.lines.append(Loop(f"for {first[0]} in range({first[1]}):", outer.lines))
        return name

    def fresh(self, stem: str) -> str:
        """A new name."""
        self.count += 1
        return f"{stem}{self.count}"


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
    return Walker(names, entries).program(live([d for d in definitions if d.role != other]))


def _lift(covariance: str) -> Loop:
    """Make fields of variance zero ones of `LEAST_VARIANCE`: averages become their limits."""
    own = f"{covariance}[m, m]"
    line = f"{own} = {LEAST_VARIANCE!r} if {own} == 0.0 else {own}"
    return Loop("for m in range(N):", [line])


def _last(factor: Node) -> int:
    """Numbers and inverses come after what they multiply."""
    return 2 if factor.kind == "number" else int(factor.kind == "pow" and factor.data < 0)


def _place(given: tuple[Index, str]) -> str:
    index, offset = given
    return PLUS.join(part for part in (offset, index[0]) if part)


def _entry(array: str, places: Sequence[tuple[Index, str]]) -> str:
    return f"{array}[{', '.join(map(_place, places))}]"

"""From lowered nodes to loops of plain Python, and what printers with braces share."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dmft.codegen.assemble import array_axes, filled_arrays, write_definition
from dmft.codegen.graph import FUNCTIONS, Graph, Loop, count_uses, fuse, render
from dmft.codegen.loops import LoopWriter
from dmft.codegen.lower import Lowering
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


INDENT = "    "
# Binding strength, weakest first.
CONDITIONAL, OR, AND, COMPARE, SUM, PRODUCT, UNARY, ATOM = range(8)
BINARY: dict[type, tuple[str, int]] = {
    ast.Add: ("+", SUM),
    ast.Sub: ("-", SUM),
    ast.Mult: ("*", PRODUCT),
    ast.Div: ("/", PRODUCT),
    ast.FloorDiv: ("/", PRODUCT),
    ast.Mod: ("%", PRODUCT),
}
COMPARISONS: dict[type, str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
Text = tuple[str, int]


class Printer:
    """Prints expressions and statements; what languages differ in are attributes and methods."""

    language = ""
    equal, different = "==", "!="
    functions: Mapping[str, str] = {}

    # Expressions ----------------------------------------------------------------------------

    def text(self, node: ast.expr, least: int = CONDITIONAL) -> str:
        """Text of an expression, in brackets if it binds less tightly than `least`."""
        text, strength = self.expression(node)
        return text if strength >= least else f"({text})"

    def expression(self, node: ast.expr) -> Text:
        """Text of an expression, and how tightly it binds."""
        name = type(node).__name__
        method: Callable[[ast.expr], Text] | None = getattr(self, f"_{name}", None)
        if method is None:
            raise NotClosed(f"{ast.unparse(node)} in {self.language}")
        return method(node)

    def _Name(self, node: ast.Name) -> Text:
        return node.id, ATOM

    def _Constant(self, node: ast.Constant) -> Text:
        return repr(node.value), ATOM

    def _BinOp(self, node: ast.BinOp) -> Text:
        if isinstance(node.op, ast.Pow):
            return self.power(node), ATOM
        sign, strength = BINARY[type(node.op)]
        left, right = self.text(node.left, strength), self.text(node.right, strength + 1)
        return f"{left} {sign} {right}", strength

    def power(self, node: ast.BinOp) -> str:
        """Squares as products, other powers by the language's function."""
        square = isinstance(node.right, ast.Constant) and node.right.value == 2
        if square and isinstance(node.left, ast.Name):
            return f"({node.left.id} * {node.left.id})"
        return f"{self.functions['pow']}({self.text(node.left)}, {self.text(node.right)})"

    def _UnaryOp(self, node: ast.UnaryOp) -> Text:
        if isinstance(node.op, ast.Not):
            return f"!{self.text(node.operand, UNARY)}", UNARY
        return f"-{self.text(node.operand, ATOM)}", UNARY

    def _BoolOp(self, node: ast.BoolOp) -> Text:
        both = isinstance(node.op, ast.And)
        parts = [self.text(v, (AND if both else OR) + 1) for v in node.values]
        return (" && " if both else " || ").join(parts), AND if both else OR

    def _Compare(self, node: ast.Compare) -> Text:
        values = [node.left, *node.comparators]
        signs = {"==": self.equal, "!=": self.different}
        parts = []
        for n, operator in enumerate(node.ops):
            sign = COMPARISONS[type(operator)]
            left, right = (self.text(v, COMPARE + 1) for v in values[n : n + 2])
            parts.append(f"{left} {signs.get(sign, sign)} {right}")
        return " && ".join(parts), COMPARE if len(parts) == 1 else AND

    def _IfExp(self, node: ast.IfExp) -> Text:
        parts = [self.text(y, OR) for y in (node.test, node.body, node.orelse)]
        return f"{parts[0]} ? {parts[1]} : {parts[2]}", CONDITIONAL

    def _Call(self, node: ast.Call) -> Text:
        name = ast.unparse(node.func)
        arguments = [self.text(a) for a in node.args]
        return self.call(name, arguments, node), ATOM

    def call(self, name: str, arguments: list[str], node: ast.Call) -> str:
        """A call of a function of the language, or of one of the file."""
        if name in ("min", "max"):
            value = arguments[0]
            for other in arguments[1:]:
                value = f"{self.functions[name]}({value}, {other})"
            return value
        if name in self.functions:
            return f"{self.functions[name]}({', '.join(arguments)})"
        if "." in name:
            raise NotClosed(f"{name} in {self.language}")
        return f"{name}({', '.join(arguments)})"

    def _Subscript(self, node: ast.Subscript) -> Text:
        index = node.slice
        inside = index.elts if isinstance(index, ast.Tuple) else [index]
        return self.entry(node.value, inside), ATOM

    def entry(self, array: ast.expr, inside: Sequence[ast.expr]) -> str:
        """Entry of an array."""
        return self.text(array, ATOM) + "".join(f"[{self.text(i)}]" for i in inside)

    # Statements -----------------------------------------------------------------------------

    def block(self, body: Sequence[ast.stmt], depth: int) -> list[str]:
        """Lines of statements."""
        lines: list[str] = []
        for statement in body:
            lines += [INDENT * depth + line if line else "" for line in self.statement(statement)]
        return lines

    def statement(self, node: ast.stmt) -> list[str]:
        """Lines of a statement."""
        if isinstance(node, ast.Assign):
            return self.assign(node)
        if isinstance(node, ast.AugAssign):
            sign = BINARY[type(node.op)][0]
            return [f"{self.text(node.target)} {sign}= {self.text(node.value)};"]
        if isinstance(node, ast.For):
            return [self.loop(node), *self.block(node.body, 1), "}"]
        if isinstance(node, ast.While):
            return [f"while ({self.text(node.test)}) {{", *self.block(node.body, 1), "}"]
        if isinstance(node, ast.If):
            lines = [f"if ({self.text(node.test)}) {{", *self.block(node.body, 1)]
            if node.orelse:
                lines += ["} else {", *self.block(node.orelse, 1)]
            return [*lines, "}"]
        if isinstance(node, ast.Return):
            return [f"return {self.text(node.value)};" if node.value else "return;"]
        if isinstance(node, ast.Continue):
            return ["continue;"]
        if isinstance(node, ast.Break):
            return ["break;"]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return self.comment(str(node.value.value))
        if isinstance(node, ast.Expr):
            return [f"{self.text(node.value)};"]
        raise NotClosed(f"{ast.unparse(node)} in {self.language}")

    def comment(self, text: str) -> list[str]:
        """Lines of a comment."""
        return [f"// {' '.join(text.split())}"]

    def loop(self, node: ast.For) -> str:
        """Header of a loop over a range."""
        assert isinstance(node.target, ast.Name)
        if not isinstance(node.iter, ast.Call):
            return self.each(node.target.id, node.iter)
        name, bounds = node.target.id, [self.text(a, SUM) for a in node.iter.args]
        start, end = (bounds[0], bounds[1]) if len(bounds) > 1 else ("0", bounds[0])
        down = len(bounds) == 3 and bounds[2].startswith("-")
        step = {"1": "++", "-1": "--"}.get(bounds[2] if len(bounds) == 3 else "1")
        change = f"{name}{step}" if step else f"{name} += {bounds[2]}"
        start = f"{self.counter}{name} = {start}"
        return f"for ({start}; {name} {'>' if down else '<'} {end}; {change}) {{"

    def each(self, name: str, values: ast.expr) -> str:
        """Header of a loop over the entries of a constant."""
        raise NotClosed(f"a loop over {ast.unparse(values)} in {self.language}")

    counter = ""

    def assign(self, node: ast.Assign) -> list[str]:
        """Lines of an assignment."""
        raise NotImplementedError

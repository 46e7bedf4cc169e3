"""Programs and special functions as C99."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dmft.codegen.export.library import Library
from dmft.codegen.export.program import INDENT, Printer, Program
from dmft.errors import NotClosed

MATH = {
    "math.sqrt": "sqrt", "math.exp": "exp", "math.log": "log", "math.erf": "erf",
    "math.erfc": "erfc", "math.sin": "sin", "math.cos": "cos", "math.tan": "tan",
    "math.asin": "asin", "math.acos": "acos", "math.atan": "atan", "math.atan2": "atan2",
    "math.sinh": "sinh", "math.cosh": "cosh", "math.tanh": "tanh", "math.asinh": "asinh",
    "math.copysign": "copysign", "math.isnan": "isnan", "math.isfinite": "isfinite",
    "math.ceil": "ceil", "asin": "asin", "abs": "fabs", "pow": "pow", "min": "fmin", "max": "fmax",
    "int": "(int)", "np.sign": "sign_of",
}  # fmt: skip
NUMBERS = {"math.pi": "3.14159265358979323846", "math.inf": "INFINITY", "math.nan": "NAN"}
TYPES = {"float": "double", "int": "int", "bool": "int"}


class CPrinter(Printer):
    """Prints C; `sizes` are those of constant arrays, `whole` names integer constants."""

    language = "C"
    functions = MATH
    counter = "int "

    def __init__(self, sizes: Mapping[str, int], whole: frozenset[str] = frozenset()) -> None:
        self.sizes, self.whole = sizes, whole
        self.declared: set[str] = set()
        self.integers: set[str] = set(whole)
        self.count = 0
        self.rows: dict[str, str] = {}

    def entry(self, array: ast.expr, inside: Sequence[ast.expr]) -> str:
        """Entry of an array, by the pointer to its rows."""
        name = ast.unparse(array)
        return super().entry(ast.Name(self.rows.get(name, name)), inside)

    def _Constant(self, node: ast.Constant) -> tuple[str, int]:
        value = node.value
        return (str(int(value)) if isinstance(value, bool) else repr(value)), 7

    def _Attribute(self, node: ast.Attribute) -> tuple[str, int]:
        name = ast.unparse(node)
        if name in NUMBERS:
            return NUMBERS[name], 7
        stem, _, last = name.rpartition(".")
        if last == "size" and stem in self.sizes:
            return str(self.sizes[stem]), 7
        raise NotClosed(f"{name} in C")

    def _BinOp(self, node: ast.BinOp) -> tuple[str, int]:
        if isinstance(node.op, ast.Div) and self.is_integer(node.left):
            text = f"(double) {self.text(node.left, 6)} / {self.text(node.right, 6)}"
            return text, 5
        return super()._BinOp(node)

    def is_integer(self, node: ast.expr) -> bool:
        """Whether an expression is an integer."""
        if isinstance(node, ast.Constant):
            return isinstance(node.value, int)
        if isinstance(node, ast.Name):
            return node.id in self.integers
        if isinstance(node, ast.BinOp):
            whole = self.is_integer(node.left) and self.is_integer(node.right)
            return whole and not isinstance(node.op, ast.Div)
        if isinstance(node, ast.UnaryOp):
            return self.is_integer(node.operand)
        return isinstance(node, ast.Call) and ast.unparse(node.func) == "int"

    def loop(self, node: ast.For) -> str:
        """Header of a loop; its counter is an integer."""
        assert isinstance(node.target, ast.Name)
        self.integers.add(node.target.id)
        return super().loop(node)

    def assign(self, node: ast.Assign) -> list[str]:
        """Assign, declaring what is new."""
        target, value = node.targets[0], node.value
        if len(node.targets) > 1:
            raise NotClosed(f"{ast.unparse(node)} in C")
        if isinstance(target, ast.Tuple):
            return self.together(target, value)
        if isinstance(target, ast.Name):
            return [f"{self.declaration(target.id, value)} = {self.text(value)};"]
        return [f"{self.text(target)} = {self.text(value)};"]

    def declaration(self, name: str, value: ast.expr) -> str:
        """A name, with its type where it is new."""
        if name in self.declared:
            return name
        self.declared.add(name)
        if self.is_integer(value):
            self.integers.add(name)
            return f"int {name}"
        return f"double {name}"

    def together(self, target: ast.Tuple, value: ast.expr) -> list[str]:
        """Several assignments at once."""
        if not isinstance(value, ast.Tuple) or not all(
            isinstance(t, ast.Name) for t in target.elts
        ):
            raise NotClosed(f"tuples of functions ({ast.unparse(value)}) in C")
        names = [t.id for t in target.elts if isinstance(t, ast.Name)]
        used = {y.id for y in ast.walk(value) if isinstance(y, ast.Name)}
        before, lines = [], []
        for name, part in zip(names, value.elts, strict=True):
            text = self.text(part)
            if used & set(names):
                self.count += 1
                before.append(f"const double next_{self.count} = {text};")
                text = f"next_{self.count}"
            lines.append(f"{self.declaration(name, part)} = {text};")
        return before + lines

    # Functions ------------------------------------------------------------------------------

    def function(self, node: ast.FunctionDef) -> list[str]:
        """Lines of a special function; its variables are declared at its start."""
        self.declared, self.integers = set(), set(self.whole)
        arguments = []
        for a in node.args.args:
            name = ast.unparse(a.annotation) if a.annotation else "float"
            kind = TYPES.get(name, "const double *")
            if kind == "int":
                self.integers.add(a.arg)
            arguments.append(f"{kind}{'' if kind.endswith('*') else ' '}{a.arg}")
            self.declared.add(a.arg)
        first, *body = node.body
        head = self.statement(first)  # the docstring, as a comment
        lines = [f"static double {node.name}({', '.join(arguments)})", "{"]
        return [*head, *lines, *self.variables(node), *self.block(body, 1), "}", ""]

    def variables(self, node: ast.FunctionDef) -> list[str]:
        """Declarations of the variables of a function, with the type of their first value."""
        found: dict[str, list[str]] = {"int": [], "double": []}
        loops = [s for s in ast.walk(node) if isinstance(s, ast.For)]
        self.integers |= {s.target.id for s in loops if isinstance(s.target, ast.Name)}
        for statement in ast.walk(node):
            if not isinstance(statement, ast.Assign):
                continue
            target, value = statement.targets[0], statement.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=True))
            for name, part in pairs:
                if isinstance(name, ast.Name) and name.id not in self.declared:
                    kind = self.declaration(name.id, part).partition(" ")[0]
                    found[kind].append(name.id)
        return [f"{INDENT}{kind} {', '.join(names)};" for kind, names in found.items() if names]


def array(name: str, values: Any) -> list[str]:
    """Definition of a constant."""
    if not isinstance(values, np.ndarray | tuple):
        kind = "int" if isinstance(values, int) else "double"
        return [f"static const {kind} {name} = {number(values)};"]
    flat = np.asarray(values, dtype=np.float64)
    if flat.ndim != 1:
        raise NotClosed(f"the constant {name} in C")
    rows = [", ".join(map(number, flat[n : n + 4])) for n in range(0, len(flat), 4)]
    inside = (",\n" + INDENT).join(rows)
    return [f"static const double {name}[{len(flat)}] = {{\n{INDENT}{inside}\n}};"]


def number(value: Any) -> str:
    """A constant, to the last digit."""
    return str(int(value)) if isinstance(value, bool | int) else repr(float(value))


def functions(found: Library) -> list[str]:
    """Lines of constants and special functions."""
    sizes = {n: len(v) for n, v in found.constants.items() if isinstance(v, np.ndarray | tuple)}
    whole = frozenset(n for n, v in found.constants.items() if type(v) is int)
    lines = [line for name, value in found.constants.items() for line in array(name, value)]
    lines += [""] * bool(lines)
    for node in found.functions.values():
        lines += CPrinter(sizes, whole).function(node)
    return lines


def body(program: Program, rows: Mapping[str, str]) -> list[str]:
    """Lines that run a program; `rows` are pointers to the rows of what was given flat."""
    printer = CPrinter({})
    printer.integers, printer.rows = {"p", "k", "N"}, dict(rows)
    lines, casts, place = [], [], "0"
    for name, axes in program.arrays.items():
        casts.append(view(name, axes, f"workspace + {place}", "double"))
        size = f"(size_t) {' * '.join(axes)}"
        place = size if place == "0" else f"{place} + {size}"
    if casts:
        lines += [f"double *workspace = malloc(sizeof(double) * ({place}));"]
        lines += ["if (workspace == NULL) return 1;", *casts]
    lines += program.lines(printer.statement, "//")
    return [*lines, "", *["free(workspace);"] * bool(casts), "return 0;"]


def view(name: str, axes: Sequence[str], start: str, kind: str) -> str:
    """A pointer to rows."""
    rows = "".join(f"[{axis}]" for axis in axes[1:])
    if not rows:
        return f"{kind} *{name} = {start};"
    return f"{kind} (*{name}){rows} = ({kind} (*){rows}) ({start});"

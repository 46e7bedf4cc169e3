"""Programs and special functions as JavaScript."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dmft.codegen.export.library import Library
from dmft.codegen.export.program import Program
from dmft.codegen.export.syntax import INDENT, Printer
from dmft.errors import NotClosed

NAMES = ("sqrt", "exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh")
MATH = {f"math.{name}": f"Math.{name}" for name in (*NAMES, "tanh", "asinh", "ceil")}
MATH |= {
    "math.erf": "erf", "math.erfc": "erfc", "math.copysign": "copysign", "asin": "Math.asin",
    "math.isnan": "Number.isNaN", "math.isfinite": "Number.isFinite", "abs": "Math.abs",
    "pow": "Math.pow", "min": "Math.min", "max": "Math.max", "int": "Math.trunc",
    "np.sign": "Math.sign",
}  # fmt: skip
NUMBERS = {"math.pi": "Math.PI", "math.inf": "Infinity", "math.nan": "NaN"}
HELPERS = {
    "copysign": "const copysign = (size, sign) =>\n"
    "    sign < 0 || Object.is(sign, -0) ? -Math.abs(size) : Math.abs(size);",
    "room": "const room = (first, ...rest) =>\n    rest.length === 0 ? new Float64Array(first)\n"
    "        : Array.from({ length: first }, () => room(...rest));",
}


class JavaScriptPrinter(Printer):
    """Prints JavaScript; arrays in `flat`, by name with their axes, are vectors row by row."""

    language = "JavaScript"
    functions = MATH
    equal, different = "===", "!=="
    counter = "let "

    def __init__(self, flat: Mapping[str, Sequence[str]]) -> None:
        self.flat = flat
        self.declared: set[str] = set()

    def _Constant(self, node: ast.Constant) -> tuple[str, int]:
        value = node.value
        return (str(value).lower() if isinstance(value, bool) else repr(value)), 7

    def _Attribute(self, node: ast.Attribute) -> tuple[str, int]:
        name = ast.unparse(node)
        if name in NUMBERS:
            return NUMBERS[name], 7
        if node.attr == "size":
            return f"{self.text(node.value, 7)}.length", 7
        raise NotClosed(f"{name} in JavaScript")

    def _Tuple(self, node: ast.Tuple) -> tuple[str, int]:
        return f"[{', '.join(map(self.text, node.elts))}]", 7

    def _Starred(self, node: ast.Starred) -> tuple[str, int]:
        return f"...{self.text(node.value)}", 7

    def _BinOp(self, node: ast.BinOp) -> tuple[str, int]:
        if isinstance(node.op, ast.FloorDiv):
            return f"Math.floor({self.text(node.left, 5)} / {self.text(node.right, 6)})", 7
        return super()._BinOp(node)

    def call(self, name: str, arguments: list[str], node: ast.Call) -> str:
        """Calls; arrays are made by `room`."""
        if name == "np.empty":
            sizes = arguments[0].removeprefix("[").removesuffix("]")
            return f"room({sizes})"
        return super().call(name, arguments, node)

    def entry(self, array: ast.expr, inside: Sequence[ast.expr]) -> str:
        """Entry, row or part of an array."""
        name = array.id if isinstance(array, ast.Name) else ""
        if isinstance(inside[0], ast.Slice):
            part = inside[0]
            assert part.lower is not None
            if part.upper is None:  # rows of a nested array, which both share
                return f"{name}.slice({self.text(part.lower)})"
            return f"{name}.subarray({self.text(part.lower)}, {self.text(part.upper)})"
        if isinstance(array, ast.Attribute) and array.attr == "shape":
            rows = "[0]" * inside[0].value if isinstance(inside[0], ast.Constant) else ""  # type: ignore[operator]
            return f"{self.text(array.value, 7)}{rows}.length"
        if name not in self.flat or len(inside) == 1:
            return super().entry(array, inside)
        place = self.text(inside[0])
        for axis, index in zip(self.flat[name][1:], inside[1:], strict=True):
            place = f"({place})" if " + " in place else place
            place = f"{place} * {axis} + {self.text(index, 4)}"
        return f"{name}[{place}]"

    def each(self, name: str, values: ast.expr) -> str:
        """Header of a loop over the entries of a constant."""
        return f"for (const {name} of {self.text(values)}) {{"

    def assign(self, node: ast.Assign) -> list[str]:
        """Assign; tuples are taken apart."""
        value = self.text(node.value)
        targets = []
        for target in node.targets:
            new = isinstance(target, ast.Name) and target.id not in self.declared
            targets.append(("let " if new else "") + self.text(target))
            if isinstance(target, ast.Name):
                self.declared.add(target.id)
        return [f"{' = '.join(targets)} = {value};"]

    def function(self, node: ast.FunctionDef) -> list[str]:
        """Lines of a special function."""
        arguments = [a.arg for a in node.args.args]
        stored = {
            y.id for y in ast.walk(node) if isinstance(y, ast.Name) and isinstance(y.ctx, ast.Store)
        }
        loops = {ast.unparse(s.target) for s in ast.walk(node) if isinstance(s, ast.For)}
        local = sorted(stored - set(arguments) - loops)
        self.declared = {*arguments, *stored}
        first, *body = node.body
        is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        head = self.statement(first) if is_text else []
        body = body if is_text else node.body
        lines = [*head, f"function {node.name}({', '.join(arguments)}) {{"]
        lines += [f"{INDENT}let {', '.join(local)};"] * bool(local)
        return [*lines, *self.block(body, 1), "}", ""]


def constant(name: str, value: Any) -> str:
    """Definition of a constant."""
    return f"const {name} = {literal(value)};"


def literal(value: Any) -> str:
    """A number, a vector or nested rows."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return f"new Float64Array([{', '.join(repr(float(v)) for v in value)}])"
    if isinstance(value, np.ndarray | tuple | list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int) else repr(float(value))


def functions(found: Library) -> list[str]:
    """Lines of constants and special functions."""
    lines = [constant(name, value) for name, value in found.constants.items()]
    for node in found.functions.values():
        lines += JavaScriptPrinter({}).function(node)
    text = "\n".join(lines)
    return [h for name, h in HELPERS.items() if f"{name}(" in text] + lines


def body(program: Program, given: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines that run a program; `given` are the axes of arrays that the function was given."""
    printer = JavaScriptPrinter({**program.arrays, **program.outputs, **given})
    return program.lines(printer.statement, "//")

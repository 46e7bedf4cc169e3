"""Instructions of LLVM for lines of generated Python: what `dmft.compiled.direct` compiles."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from llvmlite import ir

from dmft.compiled.known_functions import FLOAT, FUNCTIONS, HALF, INT, LANES, Array
from dmft.compiled.machine_code import Unknown

# Functions of one result that are written where they are called, by the file that defines them.
INLINED = {"asin": "special/arcsine.py"}

OPERATORS: dict[type, str] = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}
RELATIONS: dict[type, str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip


class Writer:
    """Instructions of lines of Python."""

    def __init__(
        self, builder: ir.IRBuilder, variables: ir.IRBuilder, flags: tuple[str, ...] = ()
    ) -> None:
        self.builder = builder
        # What may be done with the order of sums.
        self.flags = flags
        # Functions of the module by name, and memory that is given back at the end.
        self.others: Mapping[str, Any] = {}
        self.owned: list[Any] = []
        self.depth = 0
        # Where room for the variables is made: at the beginning.
        self.variables = variables
        # Arrays and values by name, and where the value of a variable is.
        self.names: dict[str, Any] = {}
        self.places: dict[str, Any] = {}
        self.in_lanes = False

    def argument(self, value: Any) -> Any:
        """A number, or an array by its parts."""
        if not isinstance(value.type, ir.LiteralStructType):
            return value
        lengths = self.builder.extract_value(value, 5)
        axes = range(value.type.elements[5].count)
        shape = tuple(self.builder.extract_value(lengths, n) for n in axes)
        return Array(self.builder.extract_value(value, 4), shape, value)

    # Lines ---------------------------------------------------------------------------------------

    def lines(self, lines: Sequence[ast.stmt]) -> None:
        """Write lines one after another."""
        for line in lines:
            getattr(self, f"_{type(line).__name__}")(line)

    def end(self) -> None:
        """Give back memory and return, once."""
        if not self.builder.block.is_terminated:
            for area in self.owned:
                FUNCTIONS["give_back"](self, area)
            self.builder.ret_void()

    def _Return(self, line: ast.Return) -> None:
        if line.value is None or self.value(line.value) is not None:
            raise Unknown("a returned value")
        self.end()

    def _Expr(self, line: ast.Expr) -> None:
        if not isinstance(line.value, ast.Constant):
            self.value(line.value)

    def _Assign(self, line: ast.Assign) -> None:
        (target,) = line.targets
        self.assign(target, self.value(line.value))

    def _AugAssign(self, line: ast.AugAssign) -> None:
        old, change = self.value(line.target), self.value(line.value)
        self.assign(line.target, self.operation(line.op, old, change))

    def _If(self, line: ast.If) -> None:
        test = self.value(line.test)
        if test.type != ir.IntType(1):
            raise Unknown("a branch that depends on a vector")
        self.depth += 1
        with self.builder.if_else(test) as (yes, no):
            with yes:
                self.lines(line.body)
            with no:
                self.lines(line.orelse)
        self.depth -= 1

    def _For(self, line: ast.For) -> None:
        target, counted = line.target, line.iter
        is_range = isinstance(counted, ast.Call) and ast.unparse(counted.func) == "range"
        if not (is_range and isinstance(target, ast.Name)) or line.orelse:
            raise Unknown("a loop over something else than a range")
        bounds = [self.value(bound) for bound in counted.args]  # type: ignore[attr-defined]
        begin = bounds[0] if len(bounds) > 1 else ir.Constant(INT, 0)
        end = bounds[min(1, len(bounds) - 1)]
        step = bounds[2] if len(bounds) > 2 else ir.Constant(INT, 1)
        builder = self.builder
        before, test, body, after = builder.block, *(builder.append_basic_block() for _ in "tba")
        builder.branch(test)
        builder.position_at_end(test)
        index = builder.phi(INT)
        index.add_incoming(begin, before)
        builder.cbranch(builder.icmp_signed("<", index, end), body, after)
        builder.position_at_end(body)
        self.places.pop(target.id, None)
        self.names[target.id] = index
        self.depth += 1
        self.lines(line.body)
        self.depth -= 1
        index.add_incoming(builder.add(index, step, flags=("nsw",)), builder.block)
        builder.branch(test)
        builder.position_at_end(after)

    def assign(self, target: ast.expr, value: Any) -> None:
        """Give a variable or an entry a value."""
        if isinstance(target, ast.Subscript):
            array, index = self.value(target.value), self.indices(target.slice)
            if array.entry != FLOAT:
                value = self.spread(value, array.entry)
            self.builder.store(self.float_of(value), self.place(array, index), align=8)
            return
        if not isinstance(target, ast.Name):
            raise Unknown(ast.unparse(target))
        if isinstance(value, Array):
            self.names[target.id] = value
            return
        if self.in_lanes and value.type == FLOAT:  # what begins as a number may become a vector
            value = self.spread(value, ir.VectorType(FLOAT, LANES))
        if target.id not in self.places:
            self.places[target.id] = self.variables.alloca(value.type)
        kind = self.places[target.id].type.pointee
        value = self.spread(value, kind) if kind != value.type else value
        self.builder.store(value, self.places[target.id])

    # Values --------------------------------------------------------------------------------------

    def value(self, node: ast.expr) -> Any:
        """Value of an expression."""
        return getattr(self, f"_{type(node).__name__}")(node)

    def _Constant(self, node: ast.Constant) -> Any:
        if type(node.value) not in (int, float):
            raise Unknown(f"the constant {node.value!r}")
        return ir.Constant(INT if type(node.value) is int else FLOAT, node.value)

    def _Name(self, node: ast.Name) -> Any:
        if node.id in self.places:
            return self.builder.load(self.places[node.id])
        return self.names[node.id]

    def _Tuple(self, node: ast.Tuple) -> list[Any]:
        return [self.value(item) for item in node.elts]

    def _Subscript(self, node: ast.Subscript) -> Any:
        array, index = self.value(node.value), self.indices(node.slice)
        if len(index) == 1 < len(array.shape):  # a row
            for length in array.shape[1:]:
                index = [self.builder.mul(index[0], length, flags=("nsw",))]
            return Array(self.builder.gep(array.data, index, inbounds=True), array.shape[1:])
        return self.builder.load(self.place(array, index), align=8)

    def _UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        if not isinstance(node.op, ast.USub):
            raise Unknown(ast.unparse(node))
        return (
            self.builder.neg(value)
            if value.type == INT
            else self.builder.fneg(value, flags=self.flags)
        )

    def _BinOp(self, node: ast.BinOp) -> Any:
        return self.operation(node.op, self.value(node.left), self.value(node.right))

    def operation(self, operator: ast.operator, left: Any, right: Any) -> Any:
        """Sum, difference, product or quotient, of numbers or vectors."""
        name = OPERATORS[type(operator)]
        if left.type == right.type == INT and name != "div":
            return getattr(self.builder, name)(left, right, flags=("nsw",))
        return getattr(self.builder, f"f{name}")(*self.alike(left, right), flags=self.flags)

    def _Compare(self, node: ast.Compare) -> Any:
        (relation,), (right,) = node.ops, node.comparators
        one, other = self.value(node.left), self.value(right)
        if one.type == other.type == INT:
            return self.builder.icmp_signed(RELATIONS[type(relation)], one, other)
        if isinstance(relation, ast.NotEq):
            raise Unknown("floats that differ")
        pair = self.alike(one, other)
        return self.builder.fcmp_ordered(RELATIONS[type(relation)], *pair, flags=self.flags)

    def _IfExp(self, node: ast.IfExp) -> Any:
        return self.select(self.value(node.test), self.value(node.body), self.value(node.orelse))

    def alike(self, *values: Any) -> list[Any]:
        """Values as floats, or all as vectors where one is a vector."""
        floats = [self.float_of(value) for value in values]
        vectors = [f.type for f in floats if isinstance(f.type, ir.VectorType)]
        return [self.spread(f, vectors[0]) for f in floats] if vectors else floats

    def float_of(self, value: Any) -> Any:
        """An integer as a float."""
        return self.builder.sitofp(value, FLOAT) if value.type == INT else value

    def spread(self, value: Any, kind: Any) -> Any:
        """A number in all places of a vector."""
        if value.type == kind:
            return value
        number = value if isinstance(kind, ir.VectorType) and kind.element == INT else None
        number = self.float_of(value) if number is None else number
        if not isinstance(kind, ir.VectorType) or number.type != kind.element:
            raise Unknown(f"{value.type} where {kind} is wanted")
        nothing = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(nothing, number, ir.Constant(HALF, 0))
        order = ir.Constant(ir.VectorType(HALF, kind.count), [0] * kind.count)
        return self.builder.shuffle_vector(first, nothing, order)

    def select(self, test: Any, yes: Any, no: Any) -> Any:
        """One of two values, or of each entry one."""
        yes, no = self.alike(yes, no)
        if isinstance(test.type, ir.VectorType):
            kind = ir.VectorType(FLOAT, test.type.count)
            yes, no = self.spread(yes, kind), self.spread(no, kind)
        return self.builder.select(test, yes, no)

    # Entries -------------------------------------------------------------------------------------

    def indices(self, node: ast.expr) -> list[Any]:
        """Indices of an entry."""
        found = self.value(node)
        return found if isinstance(found, list) else [found]

    def place(self, array: Array, index: Sequence[Any]) -> Any:
        """Address of an entry."""
        if len(index) != len(array.shape):
            raise Unknown("a part of an array")
        flat = index[0]
        for length, one in zip(array.shape[1:], index[1:], strict=True):
            flat = self.builder.mul(flat, length, flags=("nsw",))
            flat = self.builder.add(flat, one, flags=("nsw",))
        return self.builder.gep(array.data, [flat], inbounds=True)

    # Functions -----------------------------------------------------------------------------------

    def _Call(self, node: ast.Call) -> Any:
        name = ast.unparse(node.func)
        if node.keywords:
            raise Unknown(ast.unparse(node))
        values = [self.value(argument) for argument in node.args]
        if name in INLINED:
            return self.inline(name, values)
        if name in self.others:
            given = [v.given if isinstance(v, Array) else v for v in values]
            self.builder.call(self.others[name], given)
            return None
        return FUNCTIONS[name](self, *values)

    def inline(self, name: str, values: Sequence[Any]) -> Any:
        """Write the lines of a function here; its last one returns a value."""
        function, constants = _inlined(name)
        inner = Writer(self.builder, self.variables, self.flags)
        inner.in_lanes = self.in_lanes
        inner.names = {key: ir.Constant(FLOAT, number) for key, number in constants.items()}
        for argument, value in zip(function.args.args, values, strict=True):
            inner.names[argument.arg] = self.float_of(value)
        *lines, last = function.body
        inner.lines(lines)
        assert isinstance(last, ast.Return)
        assert last.value is not None
        return inner.value(last.value)

    def intrinsic(self, name: str, *values: Any) -> Any:
        """LLVM's function of this name, on numbers or vectors."""
        values = tuple(self.alike(*values))
        kind = values[0].type
        ending = f"v{kind.count}f64" if isinstance(kind, ir.VectorType) else "f64"
        shape = ir.FunctionType(kind, [kind] * len(values))
        return self.builder.call(
            self.outside(f"llvm.{name}.{ending}", shape), values, fastmath=self.flags
        )

    def outside(self, name: str, shape: ir.FunctionType) -> Any:
        """A function that is defined elsewhere."""
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, shape, name)


@cache
def _inlined(name: str) -> tuple[ast.FunctionDef, dict[str, float]]:
    """Lines of a function, and the numbers of its file."""
    tree = ast.parse((Path(__file__).parents[1] / INLINED[name]).read_text(encoding="utf-8"))
    numbers: dict[str, float] = {}
    for line in tree.body:
        if isinstance(line, ast.Assign):
            targets, values = _pairs(line)
            for target, value in zip(targets, values, strict=True):
                number = _number(value)
                if number is not None:
                    numbers[ast.unparse(target)] = number
    (function,) = (f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == name)
    function.body = [line for line in function.body if not _is_docstring(line)]
    return function, numbers


def _is_docstring(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def _pairs(line: ast.Assign) -> tuple[list[ast.expr], list[ast.expr]]:
    (target,) = line.targets
    if isinstance(target, ast.Tuple) and isinstance(line.value, ast.Tuple):
        return target.elts, line.value.elts
    return [target], [line.value]


def _number(node: ast.expr) -> float | None:
    """A literal number, or one times pi."""
    match node:
        case ast.Constant(value=float(number)):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=float(number))):
            return -number
        case ast.BinOp(left=ast.Constant(value=float(number)), op=ast.Mult(), right=right):
            return number * math.pi if ast.unparse(right) == "math.pi" else None
    return None

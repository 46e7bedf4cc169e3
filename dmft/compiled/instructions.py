"""Instructions of LLVM for lines of generated Python: what `dmft.compiled.direct` compiles."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
from llvmlite import ir

from dmft.compiled.known_functions import (
    CONSTANTS,
    FLOAT,
    FUNCTIONS,
    HALF,
    INLINED,
    INT,
    LANES,
    Array,
    Instructions,
    constant,
    inlined,
    is_whole,
)
from dmft.compiled.library import Library, held
from dmft.compiled.machine_code import Unknown

OPERATORS: dict[type, str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.LShift: "shl",
}  # fmt: skip
# Larger ones are left to Numba.
HIGHEST_POWER = 64
RELATIONS: dict[type, str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip


class Writer(Instructions):
    """Instructions of lines of Python."""

    def __init__(
        self, builder: ir.IRBuilder, variables: ir.IRBuilder, flags: tuple[str, ...] = ()
    ) -> None:
        super().__init__(builder, flags)
        # Functions of the module by name: those that are called, and those that are written where
        # they are called.
        self.others: Mapping[str, Any] = {}
        self.near: Mapping[str, ast.FunctionDef] = {}
        self.library = Library()
        # Where the loops around go on, and whether this is written within another function.
        self.again: list[Any] = []
        self.is_inside = False
        self.has_result = False
        # Where room for the variables is made: at the beginning.
        self.variables = variables
        # Arrays and values by name, and where the value of a variable is.
        self.names: dict[str, Any] = {}
        self.places: dict[str, Any] = {}

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

    def end(self, value: Any = None) -> None:
        """Give back memory and return, once."""
        if self.builder.block.is_terminated:
            return
        for area in self.owned:
            FUNCTIONS["give_back"](self, area)
        if self.has_result != (value is not None):
            raise Unknown("a returned value")
        if value is None:
            self.builder.ret_void()
        else:
            self.builder.ret(self.float_of(value))

    def _Return(self, line: ast.Return) -> None:
        if self.is_inside or line.value is None:
            raise Unknown("a returned value")
        self.end(self.value(line.value))

    def _Pass(self, line: ast.Pass) -> None:
        pass

    def _Continue(self, line: ast.Continue) -> None:
        self.builder.branch(self.again[-1])

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
            raise Unknown("a loop over something other than a range")
        bounds = [self.value(bound) for bound in counted.args]  # type: ignore[attr-defined]
        begin = bounds[0] if len(bounds) > 1 else ir.Constant(INT, 0)
        end = bounds[min(1, len(bounds) - 1)]
        step = bounds[2] if len(bounds) > 2 else ir.Constant(INT, 1)
        if not isinstance(step, ir.Constant):
            raise Unknown("a loop whose direction is not known")
        builder = self.builder
        before, (test, body, again, after) = (
            builder.block,
            (builder.append_basic_block() for _ in range(4)),
        )
        builder.branch(test)
        builder.position_at_end(test)
        index = builder.phi(INT)
        index.add_incoming(begin, before)
        relation = "<" if step.constant > 0 else ">"
        builder.cbranch(builder.icmp_signed(relation, index, end), body, after)
        builder.position_at_end(body)
        self.places.pop(target.id, None)
        self.names[target.id] = index
        self.depth += 1
        self.again.append(again)
        self.lines(line.body)
        self.again.pop()
        self.depth -= 1
        if not builder.block.is_terminated:
            builder.branch(again)
        builder.position_at_end(again)
        index.add_incoming(builder.add(index, step, flags=("nsw",)), again)
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
        if isinstance(target, ast.Tuple):
            for one, part in zip(target.elts, value, strict=True):
                self.assign(one, part)
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
        if node.id not in self.names and node.id in self.library.tables:
            self.names[node.id] = self.library.table(self, node.id)
        return self.names[node.id]

    def _Tuple(self, node: ast.Tuple) -> list[Any]:
        return [self.value(item) for item in node.elts]

    def _Attribute(self, node: ast.Attribute) -> Any:
        name = ast.unparse(node)
        if name in CONSTANTS:
            return ir.Constant(FLOAT, CONSTANTS[name])
        array = self.value(node.value)
        if not isinstance(array, Array) or node.attr not in ("shape", "size"):
            raise Unknown(name)
        if node.attr == "shape":
            return list(array.shape)
        size = array.shape[0]
        for length in array.shape[1:]:
            size = self.builder.mul(size, length, flags=("nsw",))
        return size

    def _Subscript(self, node: ast.Subscript) -> Any:
        array = self.value(node.value)
        if isinstance(array, list):  # lengths, or numbers of the module
            return array[self.value(node.slice).constant]
        if isinstance(node.slice, ast.Slice):
            return self.slice(array, node.slice)
        index = self.indices(node.slice)
        if len(index) == 1 < len(array.shape):  # a row
            for length in array.shape[1:]:
                index = [self.builder.mul(index[0], length, flags=("nsw",))]
            return Array(self.builder.gep(array.data, index, inbounds=True), array.shape[1:])
        if isinstance(index[0].type, ir.VectorType):
            return self.entries(array, index[0])
        return self.builder.load(self.place(array, index), align=8)

    def entries(self, array: Array, index: Any) -> Any:
        """Entries of a table at several places."""
        value = ir.Constant(ir.VectorType(FLOAT, index.type.count), ir.Undefined)
        for n in (ir.Constant(HALF, n) for n in range(index.type.count)):
            number = self.builder.load(self.place(array, [self.builder.extract_element(index, n)]))
            value = self.builder.insert_element(value, number, n)
        return value

    def slice(self, array: Any, part: ast.Slice) -> Array:
        """Neighbouring entries of an array of numbers with one axis."""
        if len(array.shape) != 1 or part.lower is None or part.upper is None or part.step:
            raise Unknown(f"the part {ast.unparse(part)}")
        begin, end = self.value(part.lower), self.value(part.upper)
        place = self.builder.gep(array.data, [begin], inbounds=True)
        return Array(place, (self.builder.sub(end, begin, flags=("nsw",)),))

    def _UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        if not isinstance(node.op, ast.USub):
            raise Unknown(ast.unparse(node))
        if isinstance(value, ir.Constant) and value.type == INT:
            return ir.Constant(INT, -value.constant)
        return (
            self.builder.neg(value)
            if value.type == INT
            else self.builder.fneg(value, flags=self.flags)
        )

    def _BinOp(self, node: ast.BinOp) -> Any:
        if isinstance(node.op, ast.Pow):
            return self.power(self.value(node.left), node.right)
        return self.operation(node.op, self.value(node.left), self.value(node.right))

    def power(self, base: Any, exponent: ast.expr) -> Any:
        """A whole power, by squares and products in Numba's order."""
        count = exponent.value if isinstance(exponent, ast.Constant) else None
        if not (isinstance(count, int) and 1 <= count <= HIGHEST_POWER):
            raise Unknown(f"the power {ast.unparse(exponent)}")
        result = None
        while count:
            if count % 2:
                result = base if result is None else self.operation(ast.Mult(), result, base)
            count //= 2
            base = self.operation(ast.Mult(), base, base) if count else base
        return result

    def operation(self, operator: ast.operator, left: Any, right: Any) -> Any:
        """Sum, difference, product or quotient, of numbers or vectors."""
        name = OPERATORS[type(operator)]
        if is_whole(left.type) and is_whole(right.type) and name != "div":
            kinds = [v.type for v in (left, right) if isinstance(v.type, ir.VectorType)]
            left, right = (self.spread(v, kinds[0]) if kinds else v for v in (left, right))
            return getattr(self.builder, name)(left, right, flags=("nsw",) * (name != "shl"))
        return getattr(self.builder, f"f{name}")(*self.alike(left, right), flags=self.flags)

    def _Compare(self, node: ast.Compare) -> Any:
        (relation,), (right,) = node.ops, node.comparators
        one, other = self.value(node.left), self.value(right)
        if one.type == other.type == INT:
            return self.builder.icmp_signed(RELATIONS[type(relation)], one, other)
        pair = self.alike(one, other)
        if isinstance(relation, ast.NotEq):  # NaN differs from everything
            return self.builder.fcmp_unordered("!=", *pair, flags=self.flags)
        return self.builder.fcmp_ordered(RELATIONS[type(relation)], *pair, flags=self.flags)

    def _BoolOp(self, node: ast.BoolOp) -> Any:
        if any(isinstance(n, ast.Subscript) for value in node.values[1:] for n in ast.walk(value)):
            raise Unknown("an entry that may not exist")
        join = self.builder.and_ if isinstance(node.op, ast.And) else self.builder.or_
        return reduce(join, map(self.value, node.values))

    def _IfExp(self, node: ast.IfExp) -> Any:
        return self.select(self.value(node.test), self.value(node.body), self.value(node.orelse))

    # Entries -------------------------------------------------------------------------------------

    def indices(self, node: ast.expr) -> list[Any]:
        """Indices of an entry."""
        found = self.value(node)
        places = found if isinstance(found, list) else [found]
        if any(isinstance(one, ir.Constant) and one.constant < 0 for one in places):
            raise Unknown(f"an entry counted from the end: {ast.unparse(node)}")
        return places

    # Functions -----------------------------------------------------------------------------------

    def _Call(self, node: ast.Call) -> Any:
        name = ast.unparse(node.func)
        if node.keywords:
            raise Unknown(ast.unparse(node))
        if isinstance(node.func, ast.Attribute) and node.func.attr == "view":
            return self.view(self.value(node.func.value), ast.unparse(node.args[0]))
        values = [self.value(argument) for argument in node.args]
        if name in INLINED or name in self.near:
            return self.inline(name, values)
        if name in self.others:
            given = [self.passed(v) if isinstance(v, Array) else v for v in values]
            made = self.builder.call(self.others[name], given)
            return made if made.type == FLOAT else None
        if name in self.library.modules and name not in FUNCTIONS:
            return self.library.call(self, name, values)
        return FUNCTIONS[name](self, *values)

    def inline(self, name: str, values: Sequence[Any]) -> Any:
        """Write the lines of a function here; the value that it returns, if any."""
        near = self.near.get(name)
        function, constants, flags = (near, {}, None) if near else inlined(name)
        inner = Writer(self.builder, self.variables, self.flags if flags is None else flags)
        inner.in_lanes, inner.near, inner.is_inside = self.in_lanes, self.near, True
        inner.library = self.library
        inner.depth = 1  # it makes no arrays
        inner.names = {
            key: held(self, key, y) if isinstance(y, np.ndarray) else constant(y)
            for key, y in constants.items()
        }
        for argument, value in zip(function.args.args, values, strict=True):
            whole = argument.annotation is not None and ast.unparse(argument.annotation) == "int"
            is_given = whole or isinstance(value, Array)
            inner.names[argument.arg] = value if is_given else self.float_of(value)
        return inner.result([line for line in function.body if not _is_docstring(line)])

    def result(self, lines: Sequence[ast.stmt]) -> Any:
        """Write lines of which the last may return a value, or the last two one of two."""
        for line, following in zip(lines, [*lines[1:], None], strict=True):
            match line, following:
                case ast.Return(value=ast.expr() as value), None:
                    return self.value(value)
                case ast.If(test=test, body=[ast.Return(value=yes)], orelse=[]), ast.Return(
                    value=no
                ):
                    assert yes is not None
                    assert no is not None
                    return self.select(self.value(test), self.value(yes), self.value(no))
                case _:
                    self.lines([line])
        return None

    def view(self, value: Any, name: str) -> Any:
        """The bits of a float as an integer, or those of an integer as a float."""
        kind = {"np.int64": INT, "np.float64": FLOAT}[name]
        if isinstance(value.type, ir.VectorType):
            kind = ir.VectorType(kind, value.type.count)
        return self.builder.bitcast(value, kind)


def _is_docstring(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)

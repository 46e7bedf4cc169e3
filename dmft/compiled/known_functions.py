"""Functions that `dmft.compiled.instructions` knows: those of `dmft.compiled.vectors`, of NumPy and
of `math`, and the texts of those of `dmft.special` that it writes where they are called.

`dmft.compiled.vectors` gives the same instructions to Numba.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir

from dmft.compiled.machine_code import Unknown

# States side by side: two registers of AVX2, one of AVX-512; four are slower everywhere and
# sixteen no faster than a tenth.
LANES = 8
# Neighbours in an array that are computed together where one state stands alone.
BLOCK = 4
FLOAT, INT, HALF = ir.DoubleType(), ir.IntType(64), ir.IntType(32)
BYTES = ir.IntType(8).as_pointer()


@dataclass(frozen=True)
class Array:
    """Contiguous array: address of its entries, and its lengths."""

    data: Any
    shape: tuple[Any, ...]
    # As it was passed to the function.
    given: Any = None

    @property
    def entry(self) -> Any:
        """Type of an entry: a number, or a vector of one number of each lane."""
        return self.data.type.pointee


class Instructions:
    """Instructions for numbers, vectors and entries of arrays, which functions are written with."""

    def __init__(self, builder: ir.IRBuilder, flags: tuple[str, ...] = ()) -> None:
        self.builder = builder
        # What may be done with the order of sums.
        self.flags = flags
        # Memory that is given back at the end.
        self.owned: list[Any] = []
        self.depth = 0
        self.in_lanes = False

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
        if not yes.type == no.type == INT:
            yes, no = self.alike(yes, no)
        if isinstance(test.type, ir.VectorType):
            kind = ir.VectorType(FLOAT, test.type.count)
            yes, no = self.spread(yes, kind), self.spread(no, kind)
        return self.builder.select(test, yes, no)

    def place(self, array: Array, index: Sequence[Any]) -> Any:
        """Address of an entry."""
        if len(index) != len(array.shape):
            raise Unknown("a part of an array")
        flat = index[0]
        for length, one in zip(array.shape[1:], index[1:], strict=True):
            flat = self.builder.mul(flat, length, flags=("nsw",))
            flat = self.builder.add(flat, one, flags=("nsw",))
        return self.builder.gep(array.data, [flat], inbounds=True)

    def passed(self, array: Array) -> Any:
        """An array of numbers as compiled code passes it."""
        if array.given is not None:
            return array.given
        if array.entry != FLOAT:
            raise Unknown("an array of several states that is passed on")
        builder, lengths = self.builder, ir.ArrayType(INT, len(array.shape))
        parts = [BYTES, BYTES, INT, INT, FLOAT.as_pointer(), lengths, lengths]
        whole, step = ir.Constant(ir.LiteralStructType(parts), None), ir.Constant(INT, 8)
        for n, length in reversed([*enumerate(array.shape)]):
            whole = builder.insert_value(whole, length, (5, n))
            whole = builder.insert_value(whole, step, (6, n))
            step = builder.mul(step, length, flags=("nsw",))
        size = builder.sdiv(step, ir.Constant(INT, 8))
        for place, value in ((2, size), (3, ir.Constant(INT, 8)), (4, array.data)):
            whole = builder.insert_value(whole, value, place)
        return whole

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


def _block(writer: Instructions, array: Array, index: Sequence[Any]) -> Any:
    """Address of a block of entries, or of the entry of all lanes."""
    place = writer.place(array, index)
    if array.entry != FLOAT:
        return place
    return writer.builder.bitcast(place, ir.VectorType(FLOAT, BLOCK).as_pointer())


def _by_lane(writer: Instructions, array: Array) -> Array:
    if len(array.shape) == 1:
        return array
    writer.in_lanes = True
    kind = ir.VectorType(FLOAT, LANES).as_pointer()
    return Array(writer.builder.bitcast(array.data, kind), array.shape[:-1])


def _work_area(writer: Instructions, like: Array, count: Any) -> Array:
    in_lanes = like.entry != FLOAT
    length = writer.builder.mul(count, ir.Constant(INT, 8 * (LANES if in_lanes else 1)))
    return Array(_memory(writer, length, like.entry, zeros=not in_lanes), (count,))


def _memory(writer: Instructions, length: Any, entry: Any, zeros: bool) -> Any:
    """Address of so many bytes, for these entries."""
    builder = writer.builder
    malloc = writer.outside("malloc", ir.FunctionType(BYTES, [INT]))
    malloc.return_value.add_attribute("noalias")
    data = builder.call(malloc, [length])
    if zeros:
        shape = ir.FunctionType(ir.VoidType(), [BYTES, ir.IntType(8), INT, ir.IntType(1)])
        fill = writer.outside("llvm.memset.p0.i64", shape)
        nothing = ir.Constant(ir.IntType(8), 0)
        builder.call(fill, [data, nothing, length, ir.Constant(ir.IntType(1), 0)])
    return builder.bitcast(data, entry.as_pointer())


def _array(writer: Instructions, shape: Any, zeros: bool = False) -> Array:
    """Write `np.empty` or `np.zeros`; what it gives lives to the end of the function."""
    shape = shape if isinstance(shape, list) else [shape]
    if writer.depth:
        raise Unknown("an array that is allocated repeatedly")
    length = ir.Constant(INT, 8)
    for one in shape:
        length = writer.builder.mul(length, one, flags=("nsw",))
    made = Array(_memory(writer, length, FLOAT, zeros), tuple(shape))
    writer.owned.append(made)
    return made


def _give_back(writer: Instructions, area: Array) -> None:
    free = writer.outside("free", ir.FunctionType(ir.VoidType(), [BYTES]))
    writer.builder.call(free, [writer.builder.bitcast(area.data, BYTES)])


def _part(writer: Instructions, area: Array, begin: Any, shape: Sequence[Any]) -> Array:
    return Array(writer.builder.gep(area.data, [begin], inbounds=True), tuple(shape))


def _padded(writer: Instructions, like: Array, length: Any) -> Any:
    if like.entry != FLOAT:
        return length
    up = writer.builder.add(length, ir.Constant(INT, BLOCK - 1))
    return writer.builder.and_(up, ir.Constant(INT, -BLOCK))


def _block_size(writer: Instructions, like: Array) -> Any:
    return ir.Constant(INT, 1 if like.entry != FLOAT else BLOCK)


def _below(writer: Instructions, first: Any, end: Any, new: Any, old: Any) -> Any:
    if writer.in_lanes:
        return new
    numbers = ir.VectorType(INT, BLOCK)
    left = writer.spread(writer.builder.sub(end, first), numbers)
    inside = writer.builder.icmp_signed("<", ir.Constant(numbers, list(range(BLOCK))), left)
    return writer.select(inside, new, old)


def _take(writer: Instructions, array: Array, index: Sequence[Any]) -> Any:
    return writer.builder.load(_block(writer, array, index), align=8)


def _put(writer: Instructions, array: Array, index: Sequence[Any], value: Any) -> None:
    place = _block(writer, array, index)
    writer.builder.store(writer.spread(value, place.type.pointee), place, align=8)


def _diagonal(writer: Instructions, array: Array, index: Sequence[Any]) -> Any:
    if array.entry != FLOAT:
        return _take(writer, array, index)
    builder, value = writer.builder, ir.Constant(ir.VectorType(FLOAT, BLOCK), ir.Undefined)
    for n in range(BLOCK):
        moved = [builder.add(one, ir.Constant(INT, n)) for one in index]
        number = builder.load(writer.place(array, moved))
        value = builder.insert_element(value, number, ir.Constant(HALF, n))
    return value


def _extreme(relation: str) -> Callable[..., Any]:
    """Python's `min` and `max` of numbers, as Numba writes them."""

    def written(writer: Instructions, first: Any, second: Any) -> Any:
        if first.type == second.type == INT:
            test = writer.builder.icmp_signed(relation, second, first)
            return writer.builder.select(test, second, first)
        first, second = writer.alike(first, second)
        test = writer.builder.fcmp_ordered(relation, second, first, flags=writer.flags)
        return writer.builder.select(test, second, first)

    return written


def _extreme_or_nan(relation: str) -> Callable[..., Any]:
    """NumPy's `minimum` and `maximum`: NaN where one is NaN."""

    def written(writer: Instructions, first: Any, second: Any) -> Any:
        builder = writer.builder
        first, second = writer.alike(first, second)
        number = builder.select(builder.fcmp_ordered(relation, first, second), first, second)
        nan = builder.select(builder.fcmp_unordered("uno", first, first), first, second)
        return builder.select(builder.fcmp_unordered("uno", first, second), nan, number)

    return written


def _is_nan(writer: Instructions, value: Any) -> Any:
    return writer.builder.fcmp_unordered("uno", value, value)


def is_whole(kind: Any) -> bool:
    """Whether a type is that of integers, one or several."""
    return (kind.element if isinstance(kind, ir.VectorType) else kind) == INT


def _whole(writer: Instructions, value: Any) -> Any:
    if not is_whole(value.type):
        raise Unknown("a float that is converted to an integer")
    return value


def _is_finite(writer: Instructions, value: Any) -> Any:
    size = writer.intrinsic("fabs", value)
    return writer.builder.fcmp_ordered("<", size, ir.Constant(size.type, math.inf))


def _sign(writer: Instructions, value: Any) -> Any:
    """Write `np.sign`; zeros and NaN stay."""
    (value,) = writer.alike(value)
    one = writer.spread(ir.Constant(FLOAT, 1.0), value.type)
    is_other = writer.builder.fcmp_unordered("ueq", value, ir.Constant(value.type, None))
    return writer.builder.select(is_other, value, writer.intrinsic("copysign", one, value))


def _of_a_number(name: str, is_llvms: bool) -> Callable[..., Any]:
    """A function of the C library, of one number, by LLVM's name for it or its own."""

    def written(writer: Instructions, value: Any) -> Any:
        number = writer.float_of(value)
        if number.type != FLOAT:
            raise Unknown(f"{name} of a vector")
        if is_llvms:
            return writer.intrinsic(name, number)
        function = writer.outside(name, ir.FunctionType(FLOAT, [FLOAT]))
        return writer.builder.call(function, [number], fastmath=writer.flags)

    return written


def _llvm(name: str) -> Callable[..., Any]:
    return lambda writer, *values: writer.intrinsic(name, *values)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "by_lane": _by_lane,
    "work_area": _work_area,
    "np.empty": _array,
    "np.zeros": lambda writer, shape: _array(writer, shape, zeros=True),
    "give_back": _give_back,
    "part": _part,
    "padded": _padded,
    "block_size": _block_size,
    "below": _below,
    "take": _take,
    "put": _put,
    "diagonal": _diagonal,
    "select": lambda writer, *values: writer.select(*values),
    "abs": _llvm("fabs"),
    "fma": _llvm("fma"),
    "math.sqrt": _llvm("sqrt"),
    "math.copysign": _llvm("copysign"),
    "math.isnan": _is_nan,
    "math.isfinite": _is_finite,
    "min": _extreme("<"),
    "max": _extreme(">"),
    "np.minimum": _extreme_or_nan("<="),
    "np.maximum": _extreme_or_nan(">="),
    "np.sign": _sign,
    "np.float64": lambda writer, value: writer.float_of(value),
    "np.int64": _whole,
    **{f"math.{name}": _of_a_number(name, True) for name in ("exp", "log", "sin", "cos")},
    **{f"math.{name}": _of_a_number(name, False) for name in ("erf", "asin", "tanh")},
}


# Functions that are written where they are called, by the file that defines them.
INLINED = {
    name: f"special/{file}.py"
    for file, names in {
        "elementary": "asin fast_exp fast_tanh fast_erf inverse_erf",
        "orthant": "_angle correlation_angle correlation_root half_tangent"
        " inverse_correlation_root correlation root_ratio",
        "matrices": "field_root mean_slopes",
    }.items()
    for name in names.split()
}
# Written with the options of who calls them, as Numba writes them.
ALWAYS = "inline='always'"
# For numbers that a file gives a name.
ARITHMETIC: Mapping[type, Any] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
ROOTS = {"math.sqrt": math.sqrt, "math.log": math.log}
CONSTANTS = {"math.pi": math.pi, "math.inf": math.inf, "math.nan": math.nan}


@cache
def inlined(name: str) -> tuple[ast.FunctionDef, dict[str, Any], tuple[str, ...] | None]:
    """Lines of a function, the numbers of its file, and its options (None: those of the caller)."""
    tree = ast.parse((Path(__file__).parents[1] / INLINED[name]).read_text(encoding="utf-8"))
    numbers: dict[str, Any] = {}
    for line in tree.body:
        if isinstance(line, ast.Assign):
            for target, value in _pairs(line):
                with contextlib.suppress(Unknown):
                    numbers[ast.unparse(target)] = _number(value, numbers)
    (function,) = (f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == name)
    module = importlib.import_module(f"dmft.{INLINED[name][:-3].replace('/', '.')}")
    read = {y.id for y in ast.walk(function) if isinstance(y, ast.Name)}
    tables = {y: getattr(module, y, None) for y in read - set(numbers)}
    numbers |= {y: table for y, table in tables.items() if isinstance(table, np.ndarray)}
    (decorator,) = function.decorator_list
    return function, numbers, None if ALWAYS in ast.unparse(decorator) else fastmath(decorator)


def fastmath(call: ast.expr) -> tuple[str, ...]:
    """What the options of a function let be done with its sums."""
    assert isinstance(call, ast.Call)
    given = [word.value for word in call.keywords if word.arg == "fastmath"]
    return tuple(sorted(ast.literal_eval(given[0]))) if given else ()


def _pairs(line: ast.Assign) -> Iterable[tuple[ast.expr, ast.expr]]:
    """Targets and values of an assignment."""
    (target,) = line.targets
    if isinstance(target, ast.Tuple) and isinstance(line.value, ast.Tuple):
        return zip(target.elts, line.value.elts, strict=True)
    return [(target, line.value)]


def constant(number: Any) -> Any:
    """A number of a module, or several."""
    if isinstance(number, tuple):
        return [constant(one) for one in number]
    return ir.Constant(INT if isinstance(number, int) else FLOAT, number)


def _number(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """A number that a file gives a name, or several: `known` are those before it."""
    match node:
        case ast.Constant(value=int() | float()):
            return node.value
        case ast.Tuple(elts=items):
            return tuple(_number(item, known) for item in items)
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand, known)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return ARITHMETIC[type(op)](_number(left, known), _number(right, known))
        case ast.Call(func=function, args=[argument]) if ast.unparse(function) in ROOTS:
            return ROOTS[ast.unparse(function)](_number(argument, known))
        case ast.Attribute() if ast.unparse(node) in CONSTANTS:
            return CONSTANTS[ast.unparse(node)]
    raise Unknown(f"the number {ast.unparse(node)}")

"""Vectors of floats in compiled code: one text serves one state and several states side by side.

An array of vectors is a matrix whose rows hold the same entry of `LANES` states, and its entries
add, multiply and compare as numbers do. So a function that takes its numbers through `by_lane` is
compiled for a state or for lanes by its signature alone. Nothing reorders its sums, and each
operation on a vector is that operation on its entries: a state has the same bits alone and in a
lane, whatever its neighbours are.

A branch cannot depend on a vector: `select` takes the place of ``if``, `fma` says where a product
is not rounded.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed, lower_builtin, lower_cast
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model
from numba.np import arrayobj

# States side by side: two registers of AVX2, one of AVX-512; four are slower everywhere and
# sixteen no faster than a tenth.
LANES = 8
# Neighbours in an array that are computed together where one state stands alone.
BLOCK = 4

_FLOAT, _INT, _WORD = ir.DoubleType(), ir.IntType(32), ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_NUMBERS = (types.Float, types.Integer)


class Vector(types.Type):
    """Numbers side by side: one of each lane, or neighbours in an array."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(f"Vector({width})")

    def can_convert_from(self, typingctx: Any, other: Any) -> Any:
        """Numbers are the same in all lanes."""
        return Conversion.safe if isinstance(other, _NUMBERS) else None

    def unify(self, typingctx: Any, other: Any) -> Any:
        """Type of a variable that was a number first."""
        return self if isinstance(other, _NUMBERS) else None


class Mask(types.Type):
    """Yes or no for each entry of a vector."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(f"Mask({width})")


_LANES, _NEIGHBOURS = Vector(LANES), Vector(BLOCK)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ir.VectorType(_FLOAT, kind.width))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.IntType(1), kind.width))


@lower_cast(types.Float, Vector)
@lower_cast(types.Integer, Vector)
@lower_cast(types.IntegerLiteral, Vector)
def _spread(context: Any, builder: Any, kind: Any, wanted: Any, value: Any) -> Any:
    return _spread_out(builder, context.cast(builder, value, kind, types.float64), wanted.width)


def _spread_out(builder: Any, number: Any, width: int) -> Any:
    nothing = ir.Constant(ir.VectorType(number.type, width), ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(_INT, 0))
    return builder.shuffle_vector(
        first, nothing, ir.Constant(ir.VectorType(_INT, width), [0] * width)
    )


def _kind(arguments: Any) -> Any:
    """Type of an operation: that of vectors where one takes part, None where it is none of ours."""
    vectors = [a for a in arguments if isinstance(a, Vector)]
    fit = vectors and all(a == vectors[0] or isinstance(a, _NUMBERS) for a in arguments)
    return vectors[0] if fit else None


def _operation(
    function: Any, count: int, emit: Callable[..., Any], result: Callable[[Any], Any] = lambda v: v
) -> None:
    """Teach Numba an operator or a function of `math` on vectors."""

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            kind = _kind(args) if len(args) == count else None
            return kind and signature(result(kind), *[kind] * count)

    infer_global(function)(Template)

    @lower_builtin(function, *[Vector] * count)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, *args)


def _llvm(name: str) -> Callable[..., Any]:
    """Emit LLVM's function of this name, on vectors or numbers."""

    def emit(builder: Any, *args: Any) -> Any:
        kind = args[0].type
        ending = f"v{kind.count}f64" if isinstance(kind, ir.VectorType) else "f64"
        shape = ir.FunctionType(kind, [kind] * len(args))
        function = cgutils.get_or_insert_function(builder.module, shape, f"llvm.{name}.{ending}")
        return builder.call(function, args)

    return emit


def _instruction(name: str, *first: str) -> Callable[..., Any]:
    return lambda builder, *args: getattr(builder, name)(*first, *args)


for _name, _emitted in (("add", "fadd"), ("sub", "fsub"), ("mul", "fmul"), ("truediv", "fdiv")):
    for _operator in (getattr(operator, _name), getattr(operator, f"i{_name}")):
        _operation(_operator, 2, _instruction(_emitted))
for _operator, _sign in (
    (operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">="),
    (operator.eq, "=="),
):  # fmt: skip
    _operation(_operator, 2, _instruction("fcmp_ordered", _sign), lambda v: Mask(v.width))
_operation(operator.neg, 1, _instruction("fneg"))
_operation(abs, 1, _llvm("fabs"))
_operation(math.sqrt, 1, _llvm("sqrt"))
_operation(math.copysign, 2, _llvm("copysign"))


class _Also(type(intrinsic(lambda typingctx: None))):  # type: ignore[misc]
    """Function of compiled code that Python can call too."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain(*args, **kwargs)


def _also(plain: Callable[..., Any]) -> Callable[[Any], Any]:
    """Define a function of compiled code, and what it does with one state in Python."""

    def define(function: Any) -> Any:
        made = intrinsic(function)
        made.__class__, made.plain = _Also, plain
        return made

    return define


@_also(lambda a, b, c: a * b + c)
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Evaluate a b + c, rounded once."""
    kind = _kind((a, b, c)) or types.float64

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _llvm("fma")(builder, *args)

    return signature(kind, kind, kind, kind), emit


@_also(lambda where, yes, no: yes if where else no)
def select(typingctx: Any, where: Any, yes: Any, no: Any) -> Any:
    """Take `yes` where a condition holds and `no` elsewhere; both are evaluated."""
    kind = _kind((yes, no)) or types.float64
    if isinstance(where, Mask):
        kind = Vector(where.width)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(*args)

    return signature(kind, where, kind, kind), emit


# Arrays ------------------------------------------------------------------------------------------


def _array(entry: Any, axes: int) -> Any:
    # Vectors stand where floats do, at no multiple of their own size.
    return types.Array(entry, axes, "C", aligned=entry != _LANES)


def _view(context: Any, builder: Any, kind: Any, data: Any, shape: Any) -> Any:
    """Contiguous array that owns nothing."""
    size = ir.Constant(_WORD, 8 * (LANES if kind.dtype == _LANES else 1))
    strides = [size]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    array = arrayobj.make_array(kind)(context, builder)
    entries = context.get_data_type(kind.dtype).as_pointer()
    arrayobj.populate_array(
        array, data=builder.bitcast(data, entries), shape=shape, strides=strides, itemsize=size,
        meminfo=None,
    )  # fmt: skip
    return array._getvalue()


def _content(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return arrayobj.make_array(kind)(context, builder, array)


@_also(lambda numbers: numbers)
def by_lane(typingctx: Any, numbers: Any) -> Any:
    """View of (n, LANES) or (m, n, LANES) floats as vectors; one state (n,) is what it is."""
    if numbers.ndim == 1:

        def same(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return impl_ret_borrowed(context, builder, sig.return_type, args[0])

        return signature(numbers, numbers), same
    kind = _array(_LANES, numbers.ndim - 1)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        given = _content(context, builder, numbers, args[0])
        shape = cgutils.unpack_tuple(builder, given.shape)[:-1]
        return _view(context, builder, kind, given.data, shape)

    return signature(kind, numbers), emit


@_also(lambda like, count: np.zeros(count))
def work_area(typingctx: Any, like: Any, count: Any) -> Any:
    """Room for `count` numbers or vectors, as the entries of `like` are, until `give_back`.

    Numbers begin as zeros: what is computed behind the ends of rows costs time if it underflows.
    """
    kind = _array(like.dtype, 1)
    size = 8 * (LANES if like.dtype == _LANES else 1)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        shape = ir.FunctionType(_BYTES, [_WORD])
        malloc = cgutils.get_or_insert_function(builder.module, shape, "malloc")
        length = builder.mul(args[1], ir.Constant(_WORD, size))
        data = builder.call(malloc, [length])
        if like.dtype != _LANES:
            cgutils.memset(builder, data, length, 0)
        return _view(context, builder, kind, data, [args[1]])

    return signature(kind, like, types.intp), emit


@_also(lambda area: None)
def give_back(typingctx: Any, area: Any) -> Any:
    """Free a work area, and with it its parts."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        shape = ir.FunctionType(ir.VoidType(), [_BYTES])
        free = cgutils.get_or_insert_function(builder.module, shape, "free")
        data = _content(context, builder, area, args[0]).data
        builder.call(free, [builder.bitcast(data, _BYTES)])

    return signature(types.void, area), emit


@_also(lambda area, begin, shape: area[begin : begin + math.prod(shape)].reshape(shape))
def part(typingctx: Any, area: Any, begin: Any, shape: Any) -> Any:
    """Array of this shape, a tuple, that begins at entry `begin` of a work area."""
    kind, lengths = _array(area.dtype, len(shape)), types.UniTuple(types.intp, len(shape))

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        given = _content(context, builder, area, args[0])
        data = builder.gep(given.data, [args[1]])
        return _view(context, builder, kind, data, cgutils.unpack_tuple(builder, args[2]))

    return signature(kind, area, types.intp, lengths), emit


# Blocks ------------------------------------------------------------------------------------------
#
# Where a state stands alone, a loop over neighbouring entries takes `BLOCK` of them at once: rows
# are `padded` to whole blocks, and what is computed behind their end is never read. In lanes the
# same loop takes one entry after the other.


@_also(lambda like, length: length)
def padded(typingctx: Any, like: Any, length: Any) -> Any:
    """Length of a row that holds whole blocks."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if like.dtype == _LANES:
            return args[1]
        up = builder.add(args[1], ir.Constant(_WORD, BLOCK - 1))
        return builder.and_(up, ir.Constant(_WORD, -BLOCK))

    return signature(types.intp, like, types.intp), emit


@_also(lambda like: 1)
def block_size(typingctx: Any, like: Any) -> Any:
    """Entries that a loop takes at once."""
    size = 1 if like.dtype == _LANES else BLOCK
    return signature(types.intp, like), lambda context, builder, sig, args: ir.Constant(_WORD, size)


@_also(lambda first, end, new, old: new)
def below(typingctx: Any, first: Any, end: Any, new: Any, old: Any) -> Any:
    """Take `new` where the index lies below `end`, `old` behind; in lanes it never lies behind."""
    kind = _kind((new, old))

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if kind == _LANES:
            return args[2]
        left = _spread_out(builder, builder.sub(args[1], args[0]), BLOCK)
        inside = builder.icmp_signed("<", ir.Constant(left.type, list(range(BLOCK))), left)
        return builder.select(inside, args[2], args[3])

    return signature(kind, types.intp, types.intp, kind, kind), emit


def _place(context: Any, builder: Any, sig: Any, args: Any, shift: int = 0) -> Any:
    """Address of an entry, or of one `shift` further on in all indices."""
    array, moved = _content(context, builder, sig.args[0], args[0]), ir.Constant(_WORD, shift)
    indices = [builder.add(i, moved) for i in cgutils.unpack_tuple(builder, args[1])]
    return cgutils.get_item_pointer(context, builder, sig.args[0], array, indices, wraparound=False)


def _indices(index: Any) -> Any:
    return types.UniTuple(types.intp, len(index))


@_also(lambda array, index: array[index])
def take(typingctx: Any, array: Any, index: Any) -> Any:
    """Entries of a block in the last index, or the entry of all lanes."""
    kind = _LANES if array.dtype == _LANES else _NEIGHBOURS

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        row = context.get_data_type(kind).as_pointer()
        place = builder.bitcast(_place(context, builder, sig, args), row)
        return builder.load(place, align=8)

    return signature(kind, array, _indices(index)), emit


@_also(operator.setitem)
def put(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write what `take` reads."""
    kind = _LANES if array.dtype == _LANES else _NEIGHBOURS

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        row = context.get_data_type(kind).as_pointer()
        place = builder.bitcast(_place(context, builder, sig, args), row)
        builder.store(args[2], place, align=8)

    return signature(types.void, array, _indices(index), kind), emit


@_also(lambda array, index: array[index])
def diagonal(typingctx: Any, array: Any, index: Any) -> Any:
    """Entries of a block on the diagonal of a matrix, or the entry of all lanes."""
    kind = _LANES if array.dtype == _LANES else _NEIGHBOURS

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if kind == _LANES:
            return builder.load(_place(context, builder, sig, args), align=8)
        value = ir.Constant(ir.VectorType(_FLOAT, BLOCK), ir.Undefined)
        for n in range(BLOCK):
            number = builder.load(_place(context, builder, sig, args, n))
            value = builder.insert_element(value, number, ir.Constant(_INT, n))
        return value

    return signature(kind, array, _indices(index)), emit

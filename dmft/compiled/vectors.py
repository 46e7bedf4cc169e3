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

import inspect
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

from dmft.compiled import njit
from dmft.compiled.instructions import Writer
from dmft.compiled.known_functions import BLOCK, FLOAT, FUNCTIONS, INT, LANES, Array

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
        super().__init__(manager, kind, ir.VectorType(FLOAT, kind.width))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.IntType(1), kind.width))


@lower_cast(types.Float, Vector)
@lower_cast(types.Integer, Vector)
@lower_cast(types.IntegerLiteral, Vector)
def _spread(context: Any, builder: Any, kind: Any, wanted: Any, value: Any) -> Any:
    number = context.cast(builder, value, kind, types.float64)
    return Writer(builder, builder).spread(number, ir.VectorType(FLOAT, wanted.width))


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


def _written(name: str) -> Callable[..., Any]:
    return lambda builder, *args: FUNCTIONS[name](Writer(builder, builder), *args)


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
_operation(abs, 1, _written("abs"))
_operation(math.sqrt, 1, _written("math.sqrt"))
_operation(math.copysign, 2, _written("math.copysign"))


class _Also(type(intrinsic(lambda typingctx: None))):  # type: ignore[misc]
    """Function of compiled code that Python can call too."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain(*args, **kwargs)


def _primitive(plain: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Define a function of compiled code by its types and what it does with one state in Python.

    Its instructions are those of `dmft.compiled.known_functions`.
    """

    def define(function: Callable[..., Any]) -> Any:
        name = function.__name__

        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            writer = Writer(builder, builder)
            writer.in_lanes = _LANES in sig.args
            pairs = zip(sig.args, args, strict=True)
            values = [_value(context, builder, kind, one) for kind, one in pairs]
            made = FUNCTIONS[name](writer, *values)
            if not isinstance(made, Array):
                return made
            if made is values[0]:
                return impl_ret_borrowed(context, builder, sig.return_type, args[0])
            return _view(context, builder, sig.return_type, made)

        def typed(typingctx: Any, *args: Any) -> Any:
            return function(*args), emit

        parameters = inspect.signature(typed).parameters["typingctx"], *_parameters(function)
        typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        typed.__name__, typed.__doc__ = name, function.__doc__
        made = intrinsic(typed)
        made.__class__, made.plain = _Also, plain
        return made

    return define


def _parameters(function: Callable[..., Any]) -> Any:
    return inspect.signature(function).parameters.values()


def _value(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """An argument as `Writer` has it."""
    if isinstance(kind, types.BaseTuple):
        return cgutils.unpack_tuple(builder, value)
    if not isinstance(kind, types.Array):
        return value
    array = arrayobj.make_array(kind)(context, builder, value)
    return Array(array.data, tuple(cgutils.unpack_tuple(builder, array.shape)))


def _view(context: Any, builder: Any, kind: Any, made: Array) -> Any:
    """Contiguous array that owns nothing, as Numba has it."""
    size = ir.Constant(INT, 8 * (LANES if kind.dtype == _LANES else 1))
    strides = [size]
    for length in made.shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    array = arrayobj.make_array(kind)(context, builder)
    arrayobj.populate_array(
        array, data=made.data, shape=made.shape, strides=strides, itemsize=size, meminfo=None
    )
    return array._getvalue()


def _array(entry: Any, axes: int) -> Any:
    # Vectors stand where floats do, at no multiple of their own size.
    return types.Array(entry, axes, "C", aligned=entry != _LANES)


def _block(array: Any) -> Any:
    """Type of a block of entries, or of the entry of all lanes."""
    return _LANES if array.dtype == _LANES else _NEIGHBOURS


def _indices(index: Any) -> Any:
    return types.UniTuple(types.intp, len(index))


@_primitive(lambda a, b, c: a * b + c)
def fma(a: Any, b: Any, c: Any) -> Any:
    """Evaluate a b + c, rounded once."""
    kind = _kind((a, b, c)) or types.float64
    return signature(kind, kind, kind, kind)


@_primitive(lambda where, yes, no: yes if where else no)
def select(where: Any, yes: Any, no: Any) -> Any:
    """Take `yes` where a condition holds and `no` elsewhere; both are evaluated."""
    kind = _kind((yes, no)) or types.float64
    if isinstance(where, Mask):
        kind = Vector(where.width)
    return signature(kind, where, kind, kind)


@_primitive(lambda numbers: numbers)
def by_lane(numbers: Any) -> Any:
    """View of (n, LANES) or (m, n, LANES) floats as vectors; one state (n,) is what it is."""
    return signature(numbers if numbers.ndim == 1 else _array(_LANES, numbers.ndim - 1), numbers)


@_primitive(lambda like, count: np.zeros(count))
def work_area(like: Any, count: Any) -> Any:
    """Room for `count` numbers or vectors, as the entries of `like` are, until `give_back`.

    Numbers begin as zeros: what is computed behind the ends of rows costs time if it underflows.
    """
    return signature(_array(like.dtype, 1), like, types.intp)


@_primitive(lambda area: None)
def give_back(area: Any) -> Any:
    """Free a work area, and with it its parts."""
    return signature(types.void, area)


@_primitive(lambda area, begin, shape: area[begin : begin + math.prod(shape)].reshape(shape))
def part(area: Any, begin: Any, shape: Any) -> Any:
    """Array of this shape, a tuple, that begins at entry `begin` of a work area."""
    return signature(_array(area.dtype, len(shape)), area, types.intp, _indices(shape))


# Where a state stands alone, a loop over neighbouring entries takes `BLOCK` of them at once: rows
# are `padded` to whole blocks, and what is computed behind their end is never read. In lanes the
# same loop takes one entry after the other.


@_primitive(lambda like, length: length)
def padded(like: Any, length: Any) -> Any:
    """Length of a row that holds whole blocks."""
    return signature(types.intp, like, types.intp)


@_primitive(lambda like: 1)
def block_size(like: Any) -> Any:
    """Entries that a loop takes at once."""
    return signature(types.intp, like)


@_primitive(lambda first, end, new, old: new)
def below(first: Any, end: Any, new: Any, old: Any) -> Any:
    """Take `new` where the index lies below `end`, `old` behind; in lanes it never lies behind."""
    kind = _kind((new, old))
    return signature(kind, types.intp, types.intp, kind, kind)


@_primitive(lambda array, index: array[index])
def take(array: Any, index: Any) -> Any:
    """Entries of a block in the last index, or the entry of all lanes."""
    return signature(_block(array), array, _indices(index))


@_primitive(operator.setitem)
def put(array: Any, index: Any, value: Any) -> Any:
    """Write what `take` reads."""
    return signature(types.void, array, _indices(index), _block(array))


@_primitive(lambda array, index: array[index])
def diagonal(array: Any, index: Any) -> Any:
    """Entries of a block on the diagonal of a matrix, or the entry of all lanes."""
    return signature(_block(array), array, _indices(index))


@njit(inner=True, nogil=True, error_model="numpy")
def copy_into(target, source):  # type: ignore[no-untyped-def]
    """Copy the elements of `source` in their order; `target` is as large or larger.

    For `target[:n] = source` Numba compiles a comparison of shapes and the text of its error:
    strings, numbers as strings, their lists, two seconds of each process that compiles such a line.
    """
    for index in np.ndindex(source.shape):
        target[index] = source[index]

"""NumPy reference: interprets the definitions as they stand, index by index.

Shares no pass with code generation: an Indexed is a broadcast view, a Sum reduces an axis, a
kernel is its closed form evaluated on arrays. Slow and plain on purpose.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.arrays import Array
from dmft.equations import symbols as x
from dmft.equations.array_functions import FUNCTIONS
from dmft.equations.averages.expectation import Expectation, is_placed
from dmft.equations.averages.passes import value_of
from dmft.equations.definitions import (
    LEAST_VARIANCE,
    Definition,
    Together,
    Whole,
    base_name,
    running_symbol,
)
from dmft.equations.parameter_values import Values
from dmft.errors import NotClosed
from dmft.gaussian.tables.tabled import TableAverage

COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    sp.StrictLessThan: np.less,
    sp.LessThan: np.less_equal,
    sp.StrictGreaterThan: np.greater,
    sp.GreaterThan: np.greater_equal,
    sp.Equality: np.equal,
    sp.Unequality: np.not_equal,
}


# What an average over samples, a sum, a choice ... is read by.
KINDS: tuple[tuple[Any, str], ...] = (
    (Expectation, "average"),
    (Together, "together"),
    (sp.KroneckerDelta, "same"),
    (sp.Sum, "sum"),
    (sp.Add, "add"),
    (sp.Mul, "multiply"),
    (TableAverage, "table"),
    (sp.Piecewise, "piecewise"),
)
# What is asked of the same expressions at each evaluation.
_SEEN = 4096


@lru_cache(maxsize=_SEEN)
def kind_of(expr: sp.Expr) -> str:
    """Method of a `Reader` that reads an expression."""
    if isinstance(expr, sp.Symbol):
        return "symbol"
    if isinstance(expr, sp.Indexed):
        return "entry"
    if expr.is_number:  # looks for symbols in all of it
        return "number"
    if is_placed(expr):
        return "placed"
    if isinstance(expr, sp.Pow) and expr.exp.is_number:
        return "power"
    found = next((name for kind, name in KINDS if isinstance(expr, kind)), None)
    if found is None and expr.func.__name__ in FUNCTIONS:
        found = "function"
    # Any function of the parameters alone.
    return found or ("unknown" if expr.has(sp.Indexed, Expectation, sp.Sum) else "of_parameters")


class Reader:
    """Reads expressions, with one broadcast axis for each index symbol.

    Numbers, entries of arrays and operations on them are those of `Interpreter`, or values with
    bounds (`dmft.equations.rounding.bounds`): a method for each kind of node (`kind_of`).
    """

    def __init__(self, arrays: Mapping[str, Array], scalars: Mapping[str, float]) -> None:
        self.scalars = scalars
        known = zip("pk", ("readout", "teacher_readout"), strict=True)
        self.numbers = _numbers({w: arrays[a].shape[-1] for w, a in known if a in arrays}, arrays)
        self.axes = list(x.AXES)
        self.memo: dict[sp.Expr, Any] = {}
        self.sizes: dict[sp.Symbol, int] = {}
        self.places: dict[sp.Expr, NDArray[np.int64]] = {}

    def size(self, index: sp.Symbol) -> int:
        """Number of values of an index symbol."""
        if index not in self.sizes:
            self.sizes[index] = _integer(x.AXES[index], self.numbers)
        return self.sizes[index]

    def values_of(self, index: sp.Expr) -> NDArray[np.int64]:
        """All values of an index expression (from 0), along the axis of its symbol."""
        if index not in self.places:
            self.places[index] = self._values_of(index)
        return self.places[index]

    def _values_of(self, index: sp.Expr) -> NDArray[np.int64]:
        symbol, rest = _split(index)
        shape = [1] * len(self.axes)
        if symbol is None:
            return np.full(shape, _integer(rest, self.numbers) - 1)
        shape[self.axes.index(symbol)] = self.size(symbol)
        offset = _integer(rest, self.numbers)
        return offset + np.arange(self.size(symbol)).reshape(shape)

    def __call__(self, expr: sp.Expr) -> Any:
        """Value of `expr`, broadcast over the axes of the indices that it holds."""
        if expr not in self.memo:
            self.memo[expr] = getattr(self, kind_of(expr))(expr)
        return self.memo[expr]

    def all(self, expressions: Iterable[sp.Expr]) -> list[Any]:
        """Values of several expressions."""
        return [self(e) for e in expressions]

    def same(self, expr: sp.KroneckerDelta) -> Any:
        """1 where both indices are the same, else 0."""
        first, second = map(self.values_of, expr.args)
        return (first == second).astype(np.float64)

    def average(self, expr: Expectation) -> Any:
        """Average, by the function of covariances that it is."""
        return self(value_of(expr))

    def together(self, expr: Together) -> Any:
        """Sum whose terms cancel."""
        return self(expr.total)


class Interpreter(Reader):
    """Evaluates expressions on arrays."""

    def __init__(self, arrays: dict[str, Array], scalars: Mapping[str, float]) -> None:
        super().__init__(arrays, scalars)
        self.arrays = arrays

    def number(self, expr: sp.Expr) -> Any:
        """Constant."""
        return float(expr)

    def symbol(self, symbol: sp.Symbol) -> Any:
        """Width, number of the state or of what was defined, or parameter."""
        if symbol in self.numbers:
            return self.numbers[symbol]
        # A parameter may have the letter of an array.
        if symbol.name in self.scalars:
            return self.scalars[symbol.name]
        return float(self.arrays[symbol.name])

    def entry(self, expr: sp.Indexed) -> Any:
        """Entries of an array."""
        return self.arrays[base_name(expr)][tuple(map(self.values_of, expr.indices))]

    def placed(self, expr: Any) -> Any:
        """Average that is a number where it stands."""
        return expr.number({s: self(s) for s in expr.free_symbols}, self.arrays)

    def sum(self, expr: sp.Sum) -> Any:
        """Sum over indices."""
        total = self(expr.function)
        for index, *_ in expr.limits:
            axis = self.axes.index(index)
            shape = list(np.shape(total) or [1] * len(self.axes))
            shape[axis] = self.size(index)
            total = np.broadcast_to(total, shape).sum(axis=axis, keepdims=True)
        return total

    def add(self, expr: sp.Add) -> Any:
        """Sum of terms."""
        return sum(self.all(expr.args))

    def multiply(self, expr: sp.Mul) -> Any:
        """Product of factors."""
        return reduce(operator.mul, self.all(_factors(expr)))

    def power(self, expr: sp.Pow) -> Any:
        """Power with a constant exponent."""
        return np.power(self(expr.base), float(expr.exp))

    def table(self, expr: TableAverage) -> Any:
        """Average of a table."""
        return expr.on_arrays(*self.all(expr.numbers))

    def function(self, expr: sp.Function) -> Any:
        """One of `FUNCTIONS`."""
        return FUNCTIONS[expr.func.__name__](*self.all(expr.args))

    def piecewise(self, expr: sp.Piecewise) -> Any:
        """Choice between expressions."""
        return piecewise(expr, self)

    def of_parameters(self, expr: sp.Expr) -> Any:
        """Any other function of the parameters alone."""
        return float(expr.subs({s: self(s) for s in expr.free_symbols}))

    def unknown(self, expr: sp.Expr) -> Any:
        """What cannot be read."""
        raise NotClosed(
            f"the function {expr.func.__name__} is not supported: write it with exp, log, erf, "
            "tanh, sin, cos, Abs, powers or pieces (Piecewise)"
        )

    def define(self, definition: Definition, out: Array) -> None:
        """Write one definition into its array."""
        if isinstance(definition.expr, Whole):
            out[...] = definition.expr.matrix(self.arrays, self.numbers[x.p])
            return
        value = np.asarray(self(definition.expr), dtype=np.float64)
        if not isinstance(definition.target, sp.Indexed):
            out[...] = value.reshape(())
            return
        grids = [self.values_of(index) for index in definition.target.indices]
        where = np.broadcast_arrays(*grids, value)
        out[tuple(where[:-1])] = where[-1]
        if definition.holds_variances:
            lift_zero_variances(out, np.ravel(grids[0]))


def lift_zero_variances(Omega: Array, fields: NDArray[np.int64]) -> None:
    """Make fields of variance zero ones of `LEAST_VARIANCE`: averages become their limits."""
    own = Omega[fields, fields]
    Omega[fields, fields] = np.where(own == 0.0, LEAST_VARIANCE, own)


@lru_cache(maxsize=_SEEN)
def _split(index: sp.Expr) -> tuple[sp.Symbol | None, sp.Expr]:
    """The running symbol of an index, and what is added to it."""
    symbol = running_symbol(index)
    return symbol, index if symbol is None else index - symbol


def _last(factor: sp.Expr) -> int:
    """Numbers and inverses come after the entries that they multiply.

    Products of two entries and the square of one are then rounded alike where the entries are
    equal: what tilting leaves of two fields that coincide agrees to the last digit.
    """
    return 2 if factor.is_number else int(factor.is_Pow and factor.exp.is_negative is True)


@lru_cache(maxsize=_SEEN)
def _factors(product: sp.Mul) -> tuple[sp.Expr, ...]:
    """Factors in the order in which they are multiplied."""
    return tuple(sorted(product.args, key=_last))


def evaluate(
    definitions: Sequence[Definition], state: Mapping[str, Array], values: Values, wanted: str
) -> dict[str, Array]:
    """Evaluate all definitions in order and return those whose role is `wanted`.

    What is not finite in double precision is reported by an `AccuracyWarning`.
    """
    # Compiled functions work on several lanes at once and drop the unused ones, 0/0 or not.
    with np.errstate(all="ignore"):
        results = _evaluated(definitions, state, values, wanted)
    lost = [name for name, value in results.items() if not np.all(np.isfinite(value))]
    if lost:
        from dmft.gaussian.nodes.quadrature import AccuracyWarning

        warnings.warn(
            f"{', '.join(lost)} at these overlaps is not finite in double precision: an average "
            "overflows, or a table does not reach variances that large",
            AccuracyWarning,
            stacklevel=4,
        )
    return results


def _evaluated(
    definitions: Sequence[Definition], state: Mapping[str, Array], values: Values, wanted: str
) -> dict[str, Array]:
    arrays = {**state, **values.arrays}
    size = _numbers(values.widths, arrays)
    results: dict[str, Array] = {}
    last: Interpreter | None = None
    for definition in definitions:
        if definition.role in ("rate", "observable"):
            if definition.role != wanted:
                continue
            out = results[definition.name] = np.empty(_shape(definition, size))
        else:
            out = arrays.setdefault(definition.name, np.empty(_full_shape(definition, size)))
        # Values change from one definition to the next, places of indices do not.
        here = Interpreter(arrays, values.scalars)
        if last is not None and last.numbers == here.numbers:
            here.places, here.sizes = last.places, last.sizes
        here.define(definition, out)
        last = here
    return results


def _numbers(widths: Mapping[str, int], arrays: Mapping[str, Array]) -> dict[sp.Symbol, int]:
    """Values of the width symbols; the number of nodes where there are nodes."""
    numbers = {axis: widths[axis.name] for axis in (x.p, x.k) if axis.name in widths}
    if "weight" in arrays:
        numbers[x.nodes] = arrays["weight"].size
    if "eigenvalue" in arrays:
        numbers[x.blocks] = arrays["eigenvalue"].size
    if "readout" in arrays and arrays["readout"].ndim > 1:
        numbers[x.outputs] = len(arrays["readout"])
    if "cosine" in arrays:
        numbers[x.cosines] = arrays["cosine"].size
    return numbers


def _integer(index: sp.Expr, numbers: Mapping[sp.Symbol, int]) -> int:
    """Value of an index without a running symbol, such as p or p + k."""
    symbols = _symbols_of(index)
    return _integer_at(index, symbols, tuple([numbers[s] for s in symbols]))


@lru_cache(maxsize=_SEEN)
def _symbols_of(index: sp.Expr) -> tuple[sp.Symbol, ...]:
    return tuple(index.free_symbols)


@lru_cache(maxsize=_SEEN)
def _integer_at(index: sp.Expr, symbols: tuple[sp.Symbol, ...], values: tuple[int, ...]) -> int:
    return int(index.xreplace(dict(zip(symbols, map(sp.Integer, values), strict=True))))


def _shape(definition: Definition, size: Mapping[sp.Symbol, int]) -> tuple[int, ...]:
    if not isinstance(definition.target, sp.Indexed):
        return ()
    symbols = map(running_symbol, definition.target.indices)
    return tuple(1 if s is None else _integer(x.AXES[s], size) for s in symbols)


def _full_shape(definition: Definition, size: Mapping[sp.Symbol, int]) -> tuple[int, ...]:
    if definition.role == "block":  # written piece by piece over all fields
        fields = size[x.p] + size[x.k]
        return tuple(size[x.blocks] if s == x.block else fields for s in definition.indices)
    return _shape(definition, size)


def piecewise(expr: sp.Piecewise, value: Callable[[sp.Expr], Any]) -> Any:
    """Value of a Piecewise; `value` evaluates its parts. NaN where no condition holds."""
    result: Any = np.nan
    for piece, condition in reversed(expr.args):
        with np.errstate(over="ignore"):  # a piece may overflow where it does not hold
            here = value(piece)
        result = np.where(truth(condition, value), here, result)
    return result


def truth(condition: Any, value: Callable[[sp.Expr], Any]) -> Any:
    """Truth of a condition on arrays."""
    if condition in (sp.true, sp.false):
        return bool(condition)
    if type(condition) in COMPARISONS:
        return COMPARISONS[type(condition)](*(value(a) for a in condition.args))
    parts = [truth(a, value) for a in condition.args]
    if isinstance(condition, sp.Not):
        return np.logical_not(parts[0])
    return reduce(np.logical_and if isinstance(condition, sp.And) else np.logical_or, parts)

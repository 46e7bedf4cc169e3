"""NumPy reference: interprets the definitions as they stand, index by index.

Shares no pass with code generation: an Indexed is a broadcast view, a Sum reduces an axis, a
kernel is its closed form evaluated on arrays. Slow and plain on purpose.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, reduce
from importlib import import_module
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations import symbols as x
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

Array = NDArray[np.float64]

# Relative excess of an overlap over Cauchy-Schwarz that counts as parallel fields.
ROUNDING = 1e-9


def _loaded(module: str, name: str, *, alone: bool = False) -> Callable[..., Any]:
    """A function on arrays whose module is loaded by its first call; `alone` takes numbers only."""

    def call(*arguments: Any) -> Any:
        function = getattr(import_module(module), name)
        return (np.vectorize(function) if alone else function)(*arguments)

    return call


def _bivariate_normal_cdf(h: Any, k: Any, rho: Any) -> Any:
    """P(U <= h, V <= k) of standard normal U, V with correlation rho."""
    from scipy.special import ndtr

    return 0.5 * (ndtr(h) + ndtr(k)) - _owen(h, k, rho)


def _two_signs(h: Any, k: Any, rho: Any) -> Any:
    """E[sign(h - U) sign(k - V)]."""
    return 1.0 - 4.0 * _owen(h, k, rho)


def _owen(h: Any, k: Any, rho: Any) -> Any:
    """Half the probability that U <= h or V <= k, but not both (Owen 1956)."""
    from scipy.special import owens_t

    h, k, rho = np.broadcast_arrays(h, k, rho)
    parallel = (np.abs(rho) > 1.0) & (np.abs(rho) <= 1.0 + ROUNDING)
    rho = np.where(parallel, np.sign(rho), rho)
    root = np.sqrt((1.0 - rho) * (1.0 + rho))
    opposite = (h * k < 0) | ((h * k == 0) & (h + k < 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = [(y - rho * x) / (x * root) for x, y in ((h, k), (k, h))]
    # Degenerate cases, 0/0 above: at the origin and on the line of perfect correlation.
    slopes = [
        np.where(np.isnan(s), np.where((h == 0) & (k == 0), _origin(rho), 0.0), s) for s in slopes
    ]
    tails = owens_t(h, slopes[0]) + owens_t(k, slopes[1])
    return tails + 0.5 * opposite


def _correlation_root(first: Any, second: Any, cross: Any) -> Any:
    """sqrt(first second - cross^2); parallel fields may exceed Cauchy-Schwarz by rounding."""
    size = np.sqrt(first * second)
    gap = (size - cross) * (size + cross)
    return np.sqrt(np.where((gap < 0) & (gap >= -ROUNDING * size**2), 0.0, gap))


def _inverse_correlation_root(first: Any, second: Any, cross: Any) -> Any:
    """1 / sqrt(first second - cross^2), and 0 for parallel fields."""
    root = np.asarray(_correlation_root(first, second, cross))
    return np.divide(1.0, root, out=np.zeros_like(root), where=root != 0)


def _root_ratio(y: Any, first: Any, second: Any, cross: Any, power: Any) -> Any:
    """Ratio of y to the power of the root; 0 for 0/0, up to rounding."""
    root = np.asarray(_correlation_root(first, second, cross))
    nothing = (ROUNDING * np.sqrt(first * second)) ** power
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((np.abs(y) <= nothing) & (root == 0), 0.0, y / root**power)


def _correlation_angle(first: Any, second: Any, cross: Any) -> Any:
    """Angle asin(cross / sqrt(first second)) of two vectors with these overlaps."""
    return np.arctan2(cross, _correlation_root(first, second, cross))


def _origin(rho: Any) -> Any:
    """Slope at h = k = 0, the limit along h = k."""
    with np.errstate(divide="ignore"):
        return np.sqrt((1.0 - rho) / (1.0 + rho))


def _heaviside(value: Any, at_zero: Any = 0.5) -> Any:
    return np.heaviside(value, at_zero)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "asin": np.arcsin,
    "exp": np.exp,
    "erf": _loaded("scipy.special", "erf"),
    "BivariateNormalCDF": _bivariate_normal_cdf,
    "TwoSigns": _two_signs,
    "CorrelationRoot": _correlation_root,
    "CorrelationAngle": _correlation_angle,
    "InverseCorrelationRoot": _inverse_correlation_root,
    "Correlation": lambda first, second, cross: cross / np.sqrt(first * second),
    "RootRatio": _root_ratio,
    "CovarianceGiven": _loaded("dmft.special.branches", "covariance_given", alone=True),
    "PairOfSignsMoment": _loaded("dmft.special.orthant", "pair_of_signs_moment", alone=True),
    "FourSigns": _loaded("dmft.special.orthant", "four_signs", alone=True),
    "FourSignsMoment": _loaded("dmft.special.orthant", "four_signs_moment", alone=True),
    "SignsMoment": _loaded("dmft.special.signs", "moment_of_signs_on_arrays"),
    "tanh": np.tanh,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "atan": np.arctan,
    "acos": np.arccos,
    "asinh": np.arcsinh,
    "log": np.log,
    "erfc": _loaded("scipy.special", "erfc"),
    "Abs": np.abs,
    "sign": np.sign,
    "Heaviside": _heaviside,
    "Max": lambda *values: reduce(np.maximum, values),
    "Min": lambda *values: reduce(np.minimum, values),
}
COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    sp.StrictLessThan: np.less,
    sp.LessThan: np.less_equal,
    sp.StrictGreaterThan: np.greater,
    sp.GreaterThan: np.greater_equal,
    sp.Equality: np.equal,
    sp.Unequality: np.not_equal,
}


class Interpreter:
    """Evaluates expressions on arrays with one broadcast axis for each index symbol."""

    def __init__(self, arrays: Mapping[str, Array], scalars: Mapping[str, float]) -> None:
        self.arrays = arrays
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

    def same(self, expr: sp.KroneckerDelta) -> NDArray[np.float64]:
        """1 where both indices are the same, else 0."""
        first, second = map(self.values_of, expr.args)
        return (first == second).astype(np.float64)

    def __call__(self, expr: sp.Expr) -> Any:
        """Value of `expr`, broadcast over the axes of the indices that it holds."""
        if expr not in self.memo:
            self.memo[expr] = self.evaluate(expr)
        return self.memo[expr]

    def evaluate(self, expr: sp.Expr) -> Any:
        """Evaluate one node."""
        if isinstance(expr, sp.Symbol):
            return self.number(expr)
        if isinstance(expr, sp.Indexed):
            return self.arrays[base_name(expr)][tuple(map(self.values_of, expr.indices))]
        if _is_number(expr):
            return float(expr)
        if is_placed(expr):
            return expr.number({s: self(s) for s in expr.free_symbols}, self.arrays)
        if isinstance(expr, Expectation):
            return self(value_of(expr))
        if isinstance(expr, Together):
            return self(expr.total)
        if isinstance(expr, sp.KroneckerDelta):
            return self.same(expr)
        if isinstance(expr, sp.Sum):
            total = self(expr.function)
            for index, *_ in expr.limits:
                axis = self.axes.index(index)
                full = np.broadcast_to(
                    total,
                    [
                        self.size(index) if a == axis else b
                        for a, b in enumerate(np.shape(total) or [1] * len(self.axes))
                    ],
                )
                total = full.sum(axis=axis, keepdims=True)
            return total
        if isinstance(expr, sp.Add):
            return sum(self(a) for a in expr.args)
        if isinstance(expr, sp.Mul):
            return _product([self(a) for a in _factors(expr)])
        if isinstance(expr, sp.Pow) and expr.exp.is_number:
            return np.power(self(expr.base), float(expr.exp))
        if isinstance(expr, TableAverage):
            return expr.on_arrays(*(self(a) for a in expr.numbers))
        if expr.func.__name__ in FUNCTIONS:
            return FUNCTIONS[expr.func.__name__](*(self(a) for a in expr.args))
        if isinstance(expr, sp.Piecewise):
            return piecewise(expr, self)
        if not expr.has(sp.Indexed, Expectation, sp.Sum):  # any function of the parameters alone
            return float(expr.subs({s: self(s) for s in expr.free_symbols}))
        raise NotClosed(f"{expr.func.__name__} in {expr} is not in the NumPy reference")

    def number(self, symbol: sp.Symbol) -> Any:
        """Width, number of the state or of what was defined, or parameter."""
        if symbol in self.numbers:
            return self.numbers[symbol]
        # A parameter may have the letter of an array.
        if symbol.name in self.scalars:
            return self.scalars[symbol.name]
        return float(self.arrays[symbol.name])

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


# What is asked of the same expressions at each evaluation.
_SEEN = 4096


@lru_cache(maxsize=_SEEN)
def _is_number(expr: sp.Expr) -> bool:
    """Whether an expression holds no symbols, which SymPy looks for in all of it each time."""
    return bool(expr.is_number)


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


def _product(values: list[Any]) -> Any:
    result = values[0]
    for value in values[1:]:
        result = result * value
    return result


def evaluate(
    definitions: Sequence[Definition],
    state: Mapping[str, Array],
    values: Values,
    wanted: str,
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
    definitions: Sequence[Definition],
    state: Mapping[str, Array],
    values: Values,
    wanted: str,
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

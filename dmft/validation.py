"""Arguments of public functions agree with their type hints; arrays, covariances.

Floor 0: classes are known by their names. Hints are read once for each function.
What a hint does not say (ranges, shapes, which names there are) is checked where it is used; a
hint with `Any` in it fits every value.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Rational
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter, InvalidCovariance, ShapeMismatch

# Types of SymPy that hints name.
SYMBOLIC = ("Expr", "Rational", "Symbol", "MatrixBase")
Target = TypeVar("Target", bound=Callable[..., Any])
Test = Callable[[Any], bool]
# Kinds of NumPy arrays that hold real numbers: whole, unsigned, float.
REAL = "iuf"
# Bits of a whole number in a formula: those of the largest float.
LARGEST_BITS = 1024
LARGEST_POWER = 10**4
# Whole numbers below are floats exactly, and fit those of arrays.
LARGEST_WHOLE = 2**53


def checked(target: Target) -> Target:
    """Check the arguments of a function, or of a class's constructor, against their hints.

    Raises `BadParameter` from the decorated function: with the argument, its value and what it must
    be.
    """
    return checked_or()(target)


def checked_or(**instead: str) -> Callable[[Target], Target]:
    """`checked`, where messages about some arguments also say what to do instead."""

    def decorate(target: Target) -> Target:
        if not isinstance(target, type):
            return _guarded(target, target.__name__, instead)
        plain = target.__init__  # type: ignore[misc]
        target.__init__ = _guarded(plain, target.__name__, instead)  # type: ignore[misc]
        return target

    return decorate


def _guarded(function: Any, name: str, instead: Mapping[str, str]) -> Any:
    """The function with its checks in front; hints are read at the first call."""
    parameters = inspect.signature(function).parameters
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    order = tuple(n for n, p in parameters.items() if p.kind in kinds)
    is_open = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    keywords = [n for n, p in parameters.items() if p.kind is not p.POSITIONAL_ONLY and n != "self"]
    known = functools.cache(lambda: _checks(function, parameters))

    def looked_at(argument: str, value: Any) -> Any:
        """The value as the function takes it."""
        found = known().get(argument)
        if found is None or value is found.default:
            return value
        if not found.fits(value):
            otherwise = f"; {instead[argument]}" if argument in instead else ""
            more = _more(value, found.words) or otherwise
            raise BadParameter(f"{name}: {argument} = {shown(value)} must be {found.words}{more}")
        return found.taken(value)

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not is_open:
            refuse_unknown(name, kwargs, keywords)
        given = map(looked_at, order, args)
        named = {argument: looked_at(argument, value) for argument, value in kwargs.items()}
        return function(*given, *args[len(order) :], **named)

    return guarded


def refuse_unknown(name: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse keywords that a function does not have (`TypeError`), and say who has them."""
    for keyword in given:
        if keyword not in known:
            from dmft.aliases import whose

            raise TypeError(f"{name} has no {keyword}= ({', '.join(known)}){whose(keyword, known)}")


def refuse_nodes(options: Iterable[str], of: str) -> None:
    """Refuse keywords of quadrature nodes where nothing is averaged on nodes."""
    names = ", ".join(f"{name}=" for name in options)
    raise BadParameter(
        f"{names}: no quadrature nodes are used, because every average in {of} has a closed form; "
        "leave these keywords out"
    )


def shown(value: Any) -> str:
    """A value in a message: short, whatever its repr does."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:60]}...{text[-20:]}"


def _more(value: Any, words: str) -> str:
    """What is known of common slips."""
    if isinstance(value, np.ma.MaskedArray):
        return "; masked arrays are not supported: fill or remove the missing values"
    if isinstance(value, type):
        return f"; this is the class itself: write {value.__name__}(...)"
    if isinstance(value, float) and math.isnan(value):
        return "; nan is not a number: pass a finite one"
    if "array" in words and isinstance(value, list | tuple) and not is_array(value):
        return "; do its rows have equal lengths?"
    if "number" in words and _is_too_large(value):
        return "; it is too large for a float"
    if _is_symbolic(value) and "expression" in words:
        return f" (its numbers must be finite floats, its powers at most {LARGEST_POWER})"
    return ""


@dataclass(frozen=True)
class _Check:
    """Test of an argument, what it must be in words, its default, which always fits."""

    fits: Test
    words: str
    default: Any
    taken: Callable[[Any], Any]


def _checks(function: Any, parameters: Mapping[str, inspect.Parameter]) -> dict[str, _Check]:
    """Checks of the arguments by name; those that take any value are left out."""
    hints = _hints(function)
    found = {name: _check(hints[name], parameters[name]) for name in parameters if name in hints}
    return {name: check for name, check in found.items() if check is not None}


def _hints(function: Any) -> dict[str, Any]:
    """Type hints that are written as text.

    What is imported for type checkers alone becomes classes of the same names.
    """
    texts = {n: y for n, y in function.__annotations__.items() if isinstance(y, str)}
    texts.pop("return", None)
    nodes = [node for text in texts.values() for node in ast.walk(ast.parse(text, mode="eval"))]
    there, inside = function.__globals__, dict[str, dict[str, Any]]()
    for node in nodes:
        if isinstance(node, ast.Name) and not (node.id in there or hasattr(builtins, node.id)):
            inside.setdefault(node.id, {})
    for node in nodes:
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in inside:
            module = ast.unparse(node.value)
            inside[module][node.attr] = type(node.attr, (), {"__module__": module})
    local = {name: type(name, (), held) for name, held in inside.items()}
    hints = types.SimpleNamespace(__annotations__=texts)
    return typing.get_type_hints(hints, there, {**local, "ArrayLike": _Array})


class _Array:
    """NumPy's `ArrayLike` in hints, where it is a union of which nothing could be told apart."""


def _check(hint: Any, parameter: inspect.Parameter) -> _Check | None:
    """The check of an argument; None where any value may fit."""
    if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
        return None
    found = _test(hint)
    default = _NOTHING if parameter.default is parameter.empty else parameter.default
    if found is None or (default is None and not found[0](None)):
        return None  # a field whose class converts its argument to the annotated type
    return _Check(*found, default, _taken(set(_kinds(hint))))


def _kinds(hint: Any) -> Iterator[Any]:
    """All types in a hint."""
    inside = hint if isinstance(hint, list) else typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal or not inside:
        yield hint if isinstance(hint, type) else None
        return
    for each in inside:
        yield from _kinds(each)


def _taken(kinds: set[Any]) -> Callable[[Any], Any]:
    """How a value that fits is passed on: as a number of Python's where the hint has such alone.

    A SymPy number would meet NumPy as an object later, and so would a whole number of more bits
    than an array's.
    """
    if not kinds & {int, float} or any(getattr(y, "__name__", "") in SYMBOLIC for y in kinds):
        return lambda value: value
    return functools.partial(as_python, kind=float if float in kinds else int)


def as_python(value: Any, kind: type[int] | type[float] | None = None) -> Any:
    """Numbers of other libraries as Python's, in tuples and lists too; the rest as it is.

    Without a kind: SymPy's as what they are, an Integer as an int.
    """
    if isinstance(value, tuple | list):
        each = (as_python(element, kind) for element in value)
        return tuple(each) if isinstance(value, tuple) else list(each)
    if kind is None:
        if not (_is_symbolic(value) and is_number(value)):
            return value
        kind = int if value.is_Integer else float
    if kind is int:
        return int(value) if is_whole(value) else value
    is_plain = isinstance(value, float) or (isinstance(value, int) and abs(value) < LARGEST_WHOLE)
    return value if is_plain or not is_number(value) else float(value)


def _test(hint: Any) -> tuple[Test, str] | None:
    """Test and words of a hint; None where any value may fit."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return _of_names(inside)
    if origin in (typing.Union, types.UnionType):
        return _either([_test(each) for each in inside])
    kind = origin or hint
    if kind in (Sequence, Iterable):
        return _of_many(_test(inside[0]) if inside else None)
    name = getattr(kind, "__name__", "")
    if name in _TESTS:
        return _TESTS[name]
    is_ours = isinstance(kind, type) and kind.__module__.startswith("dmft")
    return _of_class(name) if is_ours else None


def _either(atoms: Sequence[tuple[Test, str] | None]) -> tuple[Test, str] | None:
    """One of several tests."""
    if any(atom is None for atom in atoms):
        return None
    tests, words = zip(*(atom for atom in atoms if atom), strict=True)
    unique = " or ".join(dict.fromkeys(words))

    def fits(value: Any) -> bool:
        for test in tests:  # a generator takes longer than most tests  # noqa: SIM110
            if test(value):
                return True
        return False

    return tests[0] if len(tests) == 1 else fits, unique


_NOTHING = object()
_NO_SEQUENCE = (str, bytes, Mapping, set, frozenset, np.ma.MaskedArray, type)


def _of_class(name: str) -> tuple[Test, str]:
    def test(value: Any) -> bool:
        kind = type(value)
        return kind.__name__ == name or name in _names(kind)

    return test, f"a dmft.{name}"


def _of_names(names: Sequence[str]) -> tuple[Test, str]:
    words = " or ".join(f'"{name}"' for name in names)
    return (lambda value: isinstance(value, str) and value in names), words


def _of_many(element: tuple[Test, str] | None) -> tuple[Test, str]:
    """Test of a sequence; what it holds is looked at where it is used."""

    def test(value: Any) -> bool:
        is_scalar = isinstance(value, np.ndarray) and value.ndim == 0
        return isinstance(value, Iterable) and not is_scalar and not isinstance(value, _NO_SEQUENCE)

    numbers = element is not None and "number" in element[1]
    return test, "a sequence of numbers" if numbers else "a sequence"


def _names(kind: type) -> set[str]:
    return {base.__name__ for base in kind.__mro__}


def is_number(value: Any) -> bool:
    """Whether a value is one real number that a float holds; nan is none, a bool is none."""
    if type(value) is float:  # most are: each run asks for a dozen
        return value == value
    if isinstance(value, bool | np.bool_ | str | bytes | np.ma.MaskedArray):
        return False
    if isinstance(value, np.ndarray) and (value.ndim or value.dtype.kind not in REAL):
        return False
    known = Rational | float | np.number | np.ndarray
    if not isinstance(value, known) and not _is_symbolic(value):
        return False
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return not math.isnan(number) and not _is_too_large(value)


def _is_too_large(value: Any) -> bool:
    """Whether a value is a finite number that no float holds; SymPy makes infinity of it."""
    is_real = getattr(value, "is_number", isinstance(value, int)) and getattr(
        value, "is_real", True
    )
    return bool(is_real and abs(value) > sys.float_info.max)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, of any size that a float reaches."""
    if not is_number(value):
        return False
    is_exact = isinstance(value, int | np.integer) or getattr(value, "is_Integer", False)
    return is_exact or float(value).is_integer()


def as_count(value: Any, name: str, least: int = 1, most: int = LARGEST_WHOLE) -> int:
    """Return an integer within bounds; NumPy's and whole floats (1e3) are welcome."""
    if is_whole(value) and least <= value <= most:
        return int(value)
    is_bound = most < LARGEST_WHOLE or (is_number(value) and value > most)
    bound = f" and at most {most:.4g}" if is_bound else ""
    raise BadParameter(f"{name} = {shown(value)} must be an integer >= {least}{bound}")


def as_positive(value: Any, name: str) -> float:
    """Return a positive and finite number as a float."""
    if is_number(value) and 0.0 < float(value) < math.inf:
        return float(value)
    raise BadParameter(f"{name} = {shown(value)} must be positive and finite")


def is_array(value: Any) -> bool:
    """Whether a value may be an array of numbers; texts and shapes are looked at where it is used.

    Booleans are no numbers, what is masked is none either, and unequal rows are no array.
    """
    if isinstance(value, np.ma.MaskedArray | Mapping | set | frozenset | type) or callable(value):
        return False
    try:
        return np.asarray(value).dtype.kind not in "bmMV"
    except Exception:  # unequal rows, or an object that fails
        return False


def is_expression(value: Any) -> bool:
    """Whether a value is a formula or a number; what is not finite is neither."""
    if not _is_symbolic(value):
        return is_number(value) and math.isfinite(float(value))
    powers = value.atoms(sys.modules["sympy"].Pow)
    exponents = [power.exp for power in powers if power.exp.is_Integer]
    return all(map(_is_moderate, value.atoms())) and all(abs(n) <= LARGEST_POWER for n in exponents)


def _is_moderate(atom: Any) -> bool:
    """Whether a leaf of a formula is a symbol, a constant, or a number that a float holds."""
    name = type(atom).__name__
    if name in ("NaN", "Infinity", "NegativeInfinity", "ComplexInfinity"):
        return False
    if name == "Float":
        return math.isfinite(float(atom))
    if name in ("Integer", "Rational"):
        return max(int(atom.p).bit_length(), int(atom.q).bit_length()) <= LARGEST_BITS
    return True


def _is_symbolic(value: Any) -> bool:
    """Whether a value is a SymPy expression: no relation, matrix or undefined function."""
    return not isinstance(value, type) and "Expr" in _names(type(value)) and not _is_matrix(value)


def _is_matrix(value: Any) -> bool:
    return bool(getattr(value, "is_Matrix", False))


def _is_symbol(value: Any) -> bool:
    return "Symbol" in _names(type(value))


# Of types by their names: this file imports no SymPy.
_TESTS: dict[str, tuple[Test, str]] = {
    "NoneType": (lambda value: value is None, "None"),
    "bool": (lambda value: isinstance(value, bool | np.bool_), "True or False"),
    "str": (lambda value: isinstance(value, str), "a string"),
    "int": (is_whole, "an integer"),
    "float": (is_number, "a number"),
    "Expr": (is_expression, "a SymPy expression or a finite number"),
    "Rational": (is_expression, "a SymPy expression or a finite number"),
    "Symbol": (_is_symbol, "a SymPy symbol"),
    "MatrixBase": (_is_matrix, "a matrix"),
    "Path": (lambda value: isinstance(value, os.PathLike), "a path"),
    "_Array": (is_array, "an array of real numbers"),
    "Mapping": (lambda value: isinstance(value, Mapping), "a mapping"),
    "Callable": (lambda value: callable(value) and not isinstance(value, type), "a function"),
    "tuple": (lambda value: isinstance(value, tuple | list), "a tuple"),
}


# A rank-deficient covariance computed in float64 dips below zero by a few ulps of its trace.
PSD_TOLERANCE = 1e-10
SYMMETRY_TOLERANCE = 1e-10


def check_shape(value: ArrayLike, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return `value` as a float64 array of exactly this shape, or raise `ShapeMismatch`."""
    try:
        array = np.array(value)
        if np.iscomplexobj(array):
            raise TypeError("it is complex")
        array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ShapeMismatch(f"{name} is not an array of numbers: {error}") from error
    if array.shape != shape:
        raise ShapeMismatch(f"{name} has shape {array.shape}, expected {shape}")
    if not np.all(np.isfinite(array)):
        raise InvalidCovariance(
            f"{name} contains a value that is not finite: {shown(array.tolist())}"
        )
    return array


def check_pair(value: Any, name: str) -> tuple[float, float]:
    """Two numbers."""
    try:
        low, high = (float(y) for y in value)
    except (TypeError, ValueError):
        raise BadParameter(f"{name} = {shown(value)} must be two numbers") from None
    return low, high


def check_covariance(value: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return a symmetric positive semi-definite copy, or raise `InvalidCovariance`.

    Singular matrices are valid; the message names the asymmetric pair or the lowest eigenvalue.
    """
    try:
        shape = np.shape(value)
    except ValueError as error:
        raise ShapeMismatch(f"{name} is not an array of numbers: {error}") from error
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ShapeMismatch(f"{name} has shape {shape}, expected a square matrix")
    array = check_shape(value, name, shape)
    scale = max(float(np.max(np.abs(array), initial=0.0)), 1e-300)
    gap = np.abs(array - array.T)
    if float(gap.max(initial=0.0)) > SYMMETRY_TOLERANCE * scale:
        i, j = (int(x) for x in np.unravel_index(int(gap.argmax()), gap.shape))
        raise InvalidCovariance(
            f"{name} is not symmetric: {name}[{i},{j}] = {float(array[i, j])!r} but "
            f"{name}[{j},{i}] = {float(array[j, i])!r}; "
            f"pass ({name} + {name}.T) / 2 if this is intended"
        )
    array = 0.5 * (array + array.T)
    if array.size:
        lowest = float(np.linalg.eigvalsh(array)[0])
        if lowest < -PSD_TOLERANCE * max(float(np.trace(array)), scale):
            raise InvalidCovariance(
                f"{name} is not positive semi-definite: smallest eigenvalue {lowest:.6g}; "
                "no vectors have these overlaps"
            )
    return array

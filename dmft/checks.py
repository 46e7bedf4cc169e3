"""Arguments of public functions agree with their type hints: one check in place of many.

Floor 0: classes are known by their names. The hints are read as text, once for each function.
What a hint does not say (ranges, shapes, which names there are) is checked where it is used; a
hint with `Any` in it fits every value.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from dmft.errors import BadParameter

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

    Raises
    ------
    BadParameter
        From the decorated function: with the argument, its value and what it must be.
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
    """The function behind its checks."""
    parameters = inspect.signature(function).parameters
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    order = tuple(n for n, p in parameters.items() if p.kind in kinds)
    aliases = vars(sys.modules[function.__module__])
    is_open = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    keywords = [n for n, p in parameters.items() if p.kind is not p.POSITIONAL_ONLY and n != "self"]
    known = {n: found for n, p in parameters.items() if (found := _test(p, aliases)) is not None}

    def looked_at(argument: str, value: Any) -> Any:
        """The value as the function takes it."""
        found = known.get(argument)
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
    """Refuse keywords that a function does not have, and say who has them.

    Raises
    ------
    TypeError
        As Python does.
    """
    for keyword in given:
        if keyword not in known:
            from dmft.elsewhere import whose

            raise TypeError(f"{name} has no {keyword}= ({', '.join(known)}){whose(keyword, known)}")


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
        return "; a masked one is not read: fill or leave out what is missing"
    if isinstance(value, type):
        return f"; this is the class itself: write {value.__name__}(...)"
    if isinstance(value, float) and math.isnan(value):
        return "; nan is not: take a finite one"
    if "array" in words and isinstance(value, list | tuple) and not is_array(value):
        return "; are its rows of equal lengths?"
    if "number" in words and _is_too_large(value):
        return "; no float is that large"
    if _is_symbolic(value) and "expression" in words:
        return f" (numbers in it are finite floats, its powers at most {LARGEST_POWER})"
    return ""


@dataclass(frozen=True)
class _Check:
    """Test of an argument, what it must be in words, its default, which always fits."""

    fits: Test
    words: str
    default: Any
    taken: Callable[[Any], Any]


def _test(parameter: inspect.Parameter, aliases: Mapping[str, Any]) -> _Check | None:
    """The check of an argument; None where any value may fit."""
    if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
        return None
    hint = parameter.annotation
    if not isinstance(hint, str):
        return None
    found = _union(hint, aliases)
    default = _NOTHING if parameter.default is parameter.empty else parameter.default
    if found is None or (default is None and not found[0](None)):
        return None  # a field whose class makes of the argument what the hint says
    return _Check(*found, default, _taken(str(aliases.get(hint, hint))))


def _taken(hint: str) -> Callable[[Any], Any]:
    """How a value that fits is passed on: as a number of Python's where the hint has such alone.

    A SymPy number would meet NumPy as an object later, and so would a whole number of more bits
    than an array's.
    """
    if "sp." in hint or not (kinds := set(re.findall(r"\b(?:int|float)\b", hint))):
        return lambda value: value
    return functools.partial(as_python, kind=float if "float" in kinds else int)


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


def _union(text: str, aliases: Mapping[str, Any]) -> tuple[Test, str] | None:
    """Test and words of a hint; None where any value may fit."""
    return _either([_atom(piece, aliases) for piece in _split(text)])


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


def _split(text: str) -> list[str]:
    """Parts of a union; bars inside brackets belong to one part."""
    parts, depth, part = [], 0, ""
    for letter in text.strip("\"'") if "Literal" not in text else text:
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += letter
    return [*parts, part.strip()]


def _atom(text: str, aliases: Mapping[str, Any]) -> tuple[Test, str] | None:
    """Test and words of one part of a hint; None where any value may fit."""
    if text in _ATOMS:
        return _ATOMS[text]
    head, _, inside = text.partition("[")
    if head == "Literal":
        return _of_names(re.findall(r"[\"']([^\"']*)[\"']", inside))
    if head in ("Sequence", "Iterable"):
        return _of_many(_union(inside[:-1], aliases))
    if head in _CONTAINERS:
        return _CONTAINERS[head]
    known = aliases.get(head)
    if known is not None and not isinstance(known, type):
        return _of_alias(known)
    if re.fullmatch(r"[A-Z][A-Za-z]+", head) and head != "Any":
        return _of_class(head)
    return None


def _of_alias(hint: Any) -> tuple[Test, str] | None:
    """Test and words of a hint that is no text."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return _of_names(inside)
    if origin in (typing.Union, types.UnionType):
        return _either([_of_alias(each) for each in inside])
    kind = origin or hint
    if kind is types.NoneType:
        return _ATOMS["None"]
    name = getattr(kind, "__name__", "Any")
    if name in _ATOMS or name in _CONTAINERS:
        return _ATOMS.get(name) or _CONTAINERS[name]
    is_ours = isinstance(kind, type) and kind.__module__.startswith("dmft")
    return _of_class(name) if is_ours else None


def _of_class(name: str) -> tuple[Test, str]:
    def test(value: Any) -> bool:
        kind = type(value)
        return kind.__name__ == name or name in _names(kind)

    return test, _article(name)


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


def _article(name: str) -> str:
    return f"a dmft.{name}"


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
    if not isinstance(value, int | float | np.number | np.ndarray) and not _is_symbolic(value):
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


_ATOMS: dict[str, tuple[Test, str]] = {
    "None": (lambda value: value is None, "None"),
    "bool": (lambda value: isinstance(value, bool | np.bool_), "True or False"),
    "str": (lambda value: isinstance(value, str), "a text"),
    "int": (is_whole, "a whole number"),
    "float": (is_number, "a number"),
    "sp.Expr": (is_expression, "a SymPy expression or a finite number"),
    "sp.Rational": (is_expression, "a SymPy expression or a finite number"),
    "sp.Symbol": (_is_symbol, "a SymPy symbol"),
    "sp.MatrixBase": (_is_matrix, "a matrix"),
    "Path": (lambda value: isinstance(value, os.PathLike), "a path"),
    "ArrayLike": (is_array, "an array of real numbers"),
}
_CONTAINERS: dict[str, tuple[Test, str]] = {
    "Mapping": (lambda value: isinstance(value, Mapping), "a mapping"),
    "Callable": (lambda value: callable(value) and not isinstance(value, type), "a function"),
    "tuple": (lambda value: isinstance(value, tuple | list), "a tuple"),
}

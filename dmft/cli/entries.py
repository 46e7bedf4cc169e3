"""Checks of single values of a declaration file, by the kinds that the schema names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import sympy as sp

from dmft import laws
from dmft.cli.file import printable
from dmft.cli.schema import EVENT, Key
from dmft.emit.formula import check_name, parse_expression
from dmft.emit.quantities import KNOWN
from dmft.errors import BadParameter, ExpressionRefused
from dmft.model import FIELD, Lookahead, Momentum, Repeat, SharpnessAware, UpdateRule
from dmft.model.loss import CROSS_ENTROPY, NAMED, NUMBERED
from dmft.model.schedule import TABLES, Schedule
from dmft.solvers.events import Event

# A width, a number of seeds or a dimension beyond this is a slip of the keyboard.
MAX_COUNT = 10**12
# Saved times, and points along one axis of a diagram: what fits in memory.
MAX_POINTS = 10**6
# Losses by name; others are formulas.
LOSSES = tuple(NAMED)
LOSS_WORDS = {"f": "output", "y": "label"}
# Values of `repeat` by their `kind`.
REPETITIONS: Mapping[str, Any] = {
    "lookahead": Lookahead,
    "sharpness-aware": SharpnessAware,
    "passes": Repeat,
}
# Other words for choices.
WRITTEN = {
    "gd": "gradientdescent", "flow": "gradientflow", "ode": "gradientflow", "onlinesgd": "sgd",
    "sam": "sharpnessaware", "transformer": "attention",
}  # fmt: skip
# Characters of a value that are shown.
SHOWN = 60
# Beyond this a float is on its way to infinity.
MAX_NUMBER = 1e300


def shown(value: Any) -> str:
    """Return a value as short printable text, whatever a file holds."""
    try:
        text = ascii(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        return "a huge number"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _alike(value: Any, choices: Sequence[str]) -> str:
    """The choice that was meant, as the end of a message."""
    if not isinstance(value, str):
        return ""
    plain = {"".join(filter(str.isalnum, c)).lower(): c for c in choices}
    given = "".join(filter(str.isalnum, value)).lower()
    close = difflib.get_close_matches(WRITTEN.get(given, given), plain, n=1)
    return f'; did you mean "{plain[close[0]]}"?' if close else ""


class Values:
    """Turns raw TOML values into Python and SymPy values, or refuses them where they stand."""

    def __init__(
        self,
        file: Path,
        symbols: Mapping[str, sp.Symbol],
        fields: Mapping[str, sp.Symbol] | None = None,
    ) -> None:
        self.file = file
        self.symbols = dict(symbols)
        self.fields = dict(fields or {})
        self._readers: dict[str, Callable[[Any, str], Any]] = {
            "formula": self.formula,
            "target": self.target,
            "names": self.names,
            "loss": self.loss,
            "channel": self.channel,
            "repeat": self.repeat,
            "memory": self.memory,
            "width": self.width,
            "scalar": self.scalar,
            "scalars": self.scalars,
            "number": self.number,
            "positive": self.positive,
            "fraction": self.fraction,
            "count": lambda v, w: self.integer(v, w, 1, MAX_COUNT),
            "points": lambda v, w: self.integer(v, w, 1, MAX_POINTS),
            "seed": lambda v, w: self.integer(v, w, 0, MAX_COUNT),
            "matrix": self.matrix,
            "matrices": self.matrices,
            "blocks": self.blocks,
            "vector": self.vector,
            "rows": self.rows,
            "labels": self.labels,
            "numbers": self.numbers,
            "encoding": self.encoding,
            "schedule": self.schedule,
            "events": self.events,
            "flag": lambda v, w: self.typed(v, w, bool, "true or false"),
            "text": lambda v, w: self.typed(v, w, str, "text in quotes"),
            "name": self.name,
            "values": self.named_numbers,
        }

    def named_numbers(self, value: Any, where: str) -> dict[str, float]:
        """Return numbers by name."""
        if not isinstance(value, dict):
            raise self.refusal(where, f"must be a table like {{b = 0.5}}, got {shown(value)}")
        return {name: self.number(x, f"{where} {name}") for name, x in value.items()}

    def argument(self, value: Any, where: str, is_text: bool) -> Any:
        """Return an argument of a rule: text, a flag, a law, numbers, or formulas in letters."""
        if isinstance(value, dict):
            given = dict(value)
            kind = getattr(laws, str(given.pop("kind", "")).capitalize(), None)
            if kind is None or not issubclass(kind, laws.Law):
                reason = 'must be a law like {kind = "laplace", scale = 0.7}, got'
                raise self.refusal(where, f"{reason} {shown(value)}")
            read = {n: self.argument(y, f"{where} {n}", False) for n, y in given.items()}
            return kind(**read)
        if isinstance(value, list):
            return [self.argument(y, where, is_text) for y in value]
        if isinstance(value, bool) or (is_text and isinstance(value, str)):
            return value
        found = self.scalar(value, where)
        whole = isinstance(value, int) and isinstance(found, float)
        return int(found) if whole else found

    def memory(self, value: Any, where: str) -> float | sp.Expr | Momentum:
        """Return beta of the heavy ball, or a memory that lasts, {rate = ..., direct = ...}."""
        if not isinstance(value, dict):
            return self.scalar(value, where)
        known = [field.name for field in fields(Momentum)]
        for name in value:
            if name not in known:
                raise self.refusal(
                    where, (f"the keys of this table are {', '.join(known)}, not {name}")
                )
        if "rate" not in value:
            raise self.refusal(where, "the table needs rate")
        read = {name: self.scalar(given, f"{where} {name}") for name, given in value.items()}
        try:
            return Momentum(**read)
        except BadParameter as error:
            raise self.refusal(where, str(error)) from error

    def repeat(self, value: Any, where: str) -> UpdateRule:
        """Return what a step does with its sample beyond one gradient, {kind = ..., numbers}."""
        keys = dict(value) if isinstance(value, dict) else {}
        kind = keys.pop("kind", None)
        if kind not in REPETITIONS:
            kinds = ", ".join(f'"{k}"' for k in REPETITIONS)
            raise self.refusal(
                where,
                f"must be a table {{kind = ..., ...}} with a kind of {kinds}, got "
                f"{shown(value)}{_alike(kind, tuple(REPETITIONS))}",
            )
        declared, read = REPETITIONS[kind], {}
        known = {field.name: field for field in fields(declared)}
        for name, given in keys.items():
            if name not in known:
                reason = f"the keys of the kind {kind} are {', '.join(known)}, not {name}"
                raise self.refusal(where, reason)
            plain = isinstance(given, bool | int) and name != "rho"
            read[name] = given if plain else self.scalar(given, f"{where} {name}")
        missing = [n for n, f in known.items() if f.default is MISSING and n not in read]
        if missing:
            raise self.refusal(where, f"the kind {kind} needs {missing[0]}")
        try:
            return declared(**read)
        except BadParameter as error:
            raise self.refusal(where, str(error)) from error

    def refusal(self, where: str, reason: str) -> ExpressionRefused:
        """Return the error to raise: file, table and key first."""
        return ExpressionRefused(printable(f"{self.file}, {where}: {reason}"))

    def read(self, value: Any, key: Key, where: str) -> Any:
        """Check one value against its key."""
        if key.kind == "choice":
            if value not in key.choices:
                choices = ", ".join(f'"{c}"' for c in key.choices)
                hint = _alike(value, key.choices)
                raise self.refusal(where, f"must be one of {choices}, got {shown(value)}{hint}")
            return value
        return self._readers[key.kind](value, where)

    def typed(self, value: Any, where: str, kind: type, what: str) -> Any:
        """Return a value of this Python type."""
        if not isinstance(value, kind):
            raise self.refusal(where, f"must be {what}, got {shown(value)}")
        return value

    def number(self, value: Any, where: str) -> float:
        """Return a finite number (true and false are none)."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refusal(where, f"must be a number, got {shown(value)}")
        if not abs(value) < MAX_NUMBER:
            raise self.refusal(where, "must be a finite number")
        return float(value)

    def positive(self, value: Any, where: str) -> float:
        """Return a number above zero."""
        number = self.number(value, where)
        if not number > 0:
            raise self.refusal(where, f"must be positive, got {shown(value)}")
        return number

    def fraction(self, value: Any, where: str) -> float:
        """Return a number strictly between 0 and 1."""
        number = self.number(value, where)
        if not 0 < number < 1:
            raise self.refusal(where, f"must lie between 0 and 1, got {shown(value)}")
        return number

    def integer(self, value: Any, where: str, lowest: int, highest: int) -> int:
        """Return a whole number within bounds."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refusal(where, f"must be a whole number, got {shown(value)}")
        if not lowest <= value <= highest:
            raise self.refusal(where, f"must lie between {lowest} and {highest}")
        return value

    def matrix(self, value: Any, where: str) -> list[list[float]]:
        """Return rows of numbers; shapes are checked against the model later."""
        if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
            raise self.refusal(where, "must be rows of numbers like [[1.0, 0.0], [0.0, 1.0]]")
        return [[self.number(x, where) for x in row] for row in value]

    def matrices(self, value: Any, where: str) -> list[list[list[float]]]:
        """Return a list of matrices."""
        if not isinstance(value, list):
            raise self.refusal(where, "must be a list of matrices like [[[1.0]], [[0.5]]]")
        return [self.matrix(y, where) for y in value]

    def blocks(self, value: Any, where: str) -> list[Any]:
        """Return a matrix, or one matrix for each block of the inputs."""
        rows = [row for row in value if isinstance(row, list)] if isinstance(value, list) else []
        nested = any(isinstance(x, list) for row in rows for x in row)
        return self.matrices(value, where) if nested else self.matrix(value, where)

    def vector(self, value: Any, where: str) -> list[float]:
        """Return a row of numbers."""
        if not isinstance(value, list):
            raise self.refusal(where, "must be a row of numbers like [0.3, 0.7]")
        return [self.number(x, where) for x in value]

    def rows(self, value: Any, where: str) -> list[float] | list[list[float]]:
        """Return a row of numbers, or rows of them."""
        nested = isinstance(value, list) and any(isinstance(row, list) for row in value)
        return self.matrix(value, where) if nested else self.vector(value, where)

    def numbers(self, value: Any, where: str) -> float | list[float]:
        """Return a number or a row of them."""
        return self.vector(value, where) if isinstance(value, list) else self.number(value, where)

    def encoding(self, value: Any, where: str) -> Any:
        """Return a radius, a pattern or a Gram matrix."""
        is_matrix = isinstance(value, list) and any(isinstance(row, list) for row in value)
        return self.matrix(value, where) if is_matrix else self.numbers(value, where)

    def labels(self, value: Any, where: str) -> list[float | sp.Expr]:
        """Return a label for each cluster, numbers or formulas in the fields of the table."""
        if not isinstance(value, list):
            raise self.refusal(where, f"must be a list like [1, -1], got {shown(value)}")
        return [
            self._parse(x, where, self.fields) if isinstance(x, str) else self._label(x, where)
            for x in value
        ]

    def _label(self, value: Any, where: str) -> float | sp.Expr:
        number = self.number(value, where)
        return sp.Integer(int(number)) if number.is_integer() else number

    def schedule(self, value: Any, where: str) -> Any:
        """Return a number, a formula of the time t and the risk, or the schedule of a table."""
        if not isinstance(value, str):
            return self.positive(value, where)
        if value.endswith(TABLES):
            try:
                return Schedule.load(value, where.rpartition(" ")[2])
            except (OSError, ValueError) as error:
                raise self.refusal(where, f"error in the table of tau and gamma: {error}") from None
        return self._parse(value, where, KNOWN)

    def events(self, value: Any, where: str) -> list[Event]:
        """Return the events of a list of tables."""
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            example = '[{quantity = "M[0,0]/sqrt(Q[0,0])", threshold = 0.9}]'
            raise self.refusal(where, f"must be a list like {example}, got {shown(value)}")
        return [self._event(each, f"{where}[{n}]") for n, each in enumerate(value)]

    def _event(self, given: Mapping[str, Any], where: str) -> Event:
        for name in given:
            if name not in EVENT:
                raise self.refusal(where, f"unknown key {name!r} (known: {', '.join(EVENT)})")
        for name, key in EVENT.items():
            if key.required and name not in given:
                raise self.refusal(where, f"the key {name!r} is missing: {key.text}")
        read = {n: self.read(v, EVENT[n], f"{where} {n}") for n, v in given.items()}
        read["direction"] = {"falls": -1, "rises": 1}.get(read.get("direction", ""), 0)
        return Event(**read)

    def name(self, value: Any, where: str) -> str:
        """Return the name of a letter."""
        text = self.typed(value, where, str, "a name in quotes")
        try:
            check_name(text)
        except ExpressionRefused as error:
            raise self.refusal(where, str(error)) from None
        return str(text)

    def formula(self, value: Any, where: str) -> sp.Expr:
        """Return an activation, an expression in the field z."""
        expr = self._parse(value, where, {"z": FIELD})
        if FIELD not in expr.free_symbols:
            raise self.refusal(where, f"{shown(value)} does not depend on the field z")
        return expr

    def target(self, value: Any, where: str) -> sp.Expr:
        """Return a multi-index target, an expression in its fields."""
        expr = self._parse(value, where, self.fields)
        if not expr.free_symbols & set(self.fields.values()):
            names = ", ".join(self.fields) or "fields = [...] is missing"
            raise self.refusal(where, f"{shown(value)} depends on none of its fields ({names})")
        return expr

    def loss(self, value: Any, where: str) -> str | sp.Expr:
        """Return the name of a loss, or a formula in the output f and the label y.

        Of several outputs in f1, f2, ... and y1, y2, ...
        """
        if value in (*LOSSES, "frobenius", CROSS_ENTROPY):
            return str(value)
        several = sorted(set(re.findall(rf"\b{NUMBERED.pattern}\b", str(value))))
        if isinstance(value, str) and value.isidentifier() and value not in ("f", "y", *several):
            names = (*LOSSES, "frobenius", CROSS_ENTROPY)
            if meant := _alike(value, names):
                raise self.refusal(where, f"no loss is called {value!r}{meant}")
        return self._in_slots(value, where, ("f", "y", *several))

    def channel(self, value: Any, where: str) -> sp.Expr:
        """Return P(y = 1), a formula in the teacher's output f."""
        return self._in_slots(value, where, ("f",))

    def _in_slots(self, value: Any, where: str, names: Sequence[str]) -> sp.Expr:
        slots = {name: sp.Symbol(name, real=True) for name in names}
        clash = sorted(set(slots) & set(self.symbols))
        if clash:
            word = LOSS_WORDS[clash[0][0]]
            raise self.refusal(where, f"{clash[0]!r} is the {word}: rename the symbol")
        return self._parse(value, where, slots)

    def names(self, value: Any, where: str) -> list[str]:
        """Return names, each once, that are no letters."""
        if not isinstance(value, list) or not value:
            raise self.refusal(where, f'must be a list like ["z1", "z2"], got {shown(value)}')
        names = [self.name(x, where) for x in value]
        for name in names:
            if names.count(name) > 1:
                raise self.refusal(where, f"{name!r} occurs twice")
            if name in self.symbols:
                raise self.refusal(
                    where, f"{name!r} is already a symbol of [parameters]: rename the field"
                )
        return names

    def scalar(self, value: Any, where: str) -> float | sp.Expr:
        """Return a number, or an expression in the letters of [parameters]."""
        if isinstance(value, str):
            return self._parse(value, where, {})
        return self.number(value, where)

    def scalars(self, value: Any, where: str) -> list[Any]:
        """Return a list of scalars, or of lists of scalars."""
        if not isinstance(value, list):
            raise self.refusal(where, f"must be a list like [1.0, 1.0], got {shown(value)}")
        rows = all(isinstance(x, list) for x in value)
        return [self.scalars(x, where) if rows else self.scalar(x, where) for x in value]

    def width(self, value: Any, where: str) -> int | sp.Symbol:
        """Return a width: a number, or a letter of its own."""
        if not isinstance(value, str):
            return self.integer(value, where, 1, MAX_COUNT)
        name = self.name(value, where)
        if name in self.symbols:
            raise self.refusal(where, f"{name!r} has a value in [parameters]: write that number")
        return sp.Symbol(name, integer=True, positive=True)

    def _parse(self, text: Any, where: str, extra: Mapping[str, sp.Symbol]) -> sp.Expr:
        try:
            return parse_expression(text, {**extra, **self.symbols})
        except ExpressionRefused as error:
            hint = (
                "; symbols take their values in [parameters]"
                if "unknown name" in str(error)
                else ""
            )
            first, *rest = str(error).split("\n")
            raise self.refusal(where, "\n".join([first + hint, *rest])) from None

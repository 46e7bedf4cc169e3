"""Reader of declaration files: TOML -> frozen declarations of the floor below, or a refusal.

Every refusal names the file, the table, the key and, for a misspelt one, the closest known name.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sympy as sp

from dmft.aliases import KEYWORDS
from dmft.cli import declared
from dmft.cli.entries import Values
from dmft.cli.file import load, printable
from dmft.cli.schema import AXIS, REQUIRED_TABLES, SCHEMA, Key
from dmft.errors import BadParameter, DmftError, ExpressionRefused
from dmft.model import SGD, Alignment, GradientDescent, GradientFlow, Model, Overlaps
from dmft.model.algorithm import numbers_of
from dmft.model.hyperparameters import OPTIMISER

# Numbers that models and algorithms declare: an axis may use them without a value.
BUILT_IN = ("label_noise", "label_flip", "learning_rate", "readout_rate", "batch_size", *OPTIMISER)
# Tables that a rule replaces.
OF_MODELS = ("student", "teacher", "inputs", "model", "algorithm", "limits")
# Keys of [solve] that are parameters of the equations, constant or schedules.
SCHEDULED = ("learning_rate", "batch_size", "weight_decay")


@dataclass(frozen=True)
class Axis:
    """One axis of a phase diagram: its values run from `start` to `stop`, both included."""

    name: str
    start: float
    stop: float
    points: int
    scale: str = "linear"

    def values(self) -> list[float]:
        """Return the grid values."""
        if self.points == 1:
            return [self.start]
        steps = [i / (self.points - 1) for i in range(self.points)]
        if self.scale == "log":
            ratio = math.log(self.stop / self.start)
            return [*(self.start * math.exp(ratio * s) for s in steps[:-1]), self.stop]
        return [*(self.start + (self.stop - self.start) * s for s in steps[:-1]), self.stop]


@dataclass(frozen=True)
class Declaration:
    """A declaration file that was read: model, algorithm, and the options of each command."""

    path: Path
    model: Model
    algorithm: SGD | GradientFlow | GradientDescent
    parameters: Mapping[str, float]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # Of [phase], [boundary] and [sweep], by table.
    axes: Mapping[str, tuple[Axis, ...]] = field(default_factory=dict)
    dim: int | None = None
    """Input dimension of the map of one step, where [algorithm] says it."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The file as TOML reads it."""

    @property
    def is_rule(self) -> bool:
        """Whether the file declares a rule, which is its own model and algorithm."""
        return "rule" in self.raw

    def refuse_rule(self, verb: str) -> None:
        """Refuse a command that rules do not have."""
        if self.is_rule:
            raise BadParameter(
                f"{self.path}: dmft {verb} takes a model and its algorithm, not the table [rule]"
            )

    def table(self, name: str) -> Mapping[str, Any]:
        """Return the checked keys of one table, or refuse when a command needs it in vain."""
        if name not in self.options:
            raise ExpressionRefused(f"{self.path}: this command needs the table [{name}]")
        return self.options[name]

    def start(self) -> Overlaps | Alignment:
        """Return the start that [start] declares."""
        keys = self.table("start")
        try:
            return declared.start_of(self.model, keys)
        except DmftError as error:
            raise type(error)(f"{self.path}, [start]: {error}") from error

    def numbers(self, verb: str) -> dict[str, float]:
        """Numbers that a run takes: letters, and those that [solve] gives again."""
        again = {n: v for n, v in self.options.get("solve", {}).items() if n in SCHEDULED}
        for name, value in again.items():
            if not isinstance(value, float):
                raise BadParameter(
                    f"{self.path}, [solve] {name}: dmft {verb} accepts constant parameters, not "
                    "schedules; leave it out, or use dmft solve"
                )
        return {**self.parameters, **again}


def read_declaration(path: str | Path) -> Declaration:
    """Read and check a TOML file with the tables that `dmft --help` lists."""
    return declaration_of(Path(path), load(Path(path)))


def declaration_of(file: Path, raw: dict[str, Any]) -> Declaration:
    """Check what TOML has read of a file."""
    return _Reader(file, raw).declaration()


def _closest(name: str, known: list[str]) -> str:
    words = KEYWORDS.get(name.lower(), "")
    meant = [key for key in known if re.search(rf"\b{key}(=|$)", words)]
    close = meant or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    start = f"did you mean {close[0]!r}? " if close else ""
    return f"{start}(known: {', '.join(known)})"


class _Reader:
    """Checks the tables against the schema and builds the declarations."""

    def __init__(self, file: Path, raw: dict[str, Any]) -> None:
        self.file = file
        self.raw = raw
        self.values = Values(file, {})

    def declaration(self) -> Declaration:
        self._check_tables()
        parameters = self._parameters()
        axes = self._axes()
        spanned = [a.name for table in axes.values() for a in table if a.name not in BUILT_IN]
        letters = list(dict.fromkeys([*parameters, *spanned]))
        symbols = {name: sp.Symbol(name, real=True) for name in letters}
        self.values = Values(self.file, symbols)
        self.values = Values(self.file, symbols, self._fields())
        others = ("parameters", "title", "rule")
        options = {n: self._keys(n) for n in self.raw if n not in others}
        if "rule" in self.raw:
            made = self._build("rule", lambda: declared.rule_of(self.raw["rule"], self.values))
            rule: Any = made  # a declaration is its own model
            result = Declaration(self.file, rule, rule, parameters, options, axes, None, self.raw)
            self._check_letters(result, set(symbols.values()))
            return result
        refuse, fields = self.values.refusal, self.values.fields
        reads = options["student"].get("kind") in declared.SEQUENCES

        def network(table: str, keys: Mapping[str, Any]) -> Any:
            made = lambda: declared.network_of(table, keys, fields, refuse, reads_sequences=reads)  # noqa: E731
            return self._build(table, made)

        student, given = network("student", options.pop("student")), options.pop("teacher", None)
        teacher = None if given is None else network("teacher", given)
        clusters = options.pop("inputs", None)
        inputs = self._build("inputs", lambda: declared.inputs_of(clusters, fields))
        if teacher is None and getattr(inputs, "labels", None) is None:
            raise ExpressionRefused(
                f"{self.file}: the table [teacher] is missing; without it [inputs] needs labels"
            )
        said = options.pop("model", {})
        model = self._build(
            "model", lambda: declared.model_of(student, teacher, said, inputs, refuse)
        )
        keys = dict(options.pop("algorithm"))
        dim = keys.pop("dim", None)
        algorithm = self._build("algorithm", lambda: declared.algorithm_of(keys))
        result = Declaration(self.file, model, algorithm, parameters, options, axes, dim, self.raw)
        self._check_letters(result, set(symbols.values()))
        return result

    def _fields(self) -> dict[str, sp.Symbol]:
        """Fields of a target, or of labels of clusters; none for a network."""
        raw, text = self.raw.get("teacher", {}), SCHEMA["teacher"].keys["fields"].text
        if "expression" in raw and "fields" not in raw:
            reason = f"the key 'fields' is missing; it is required with 'expression': {text}"
            raise self.values.refusal("[teacher]", reason)
        table = "teacher" if "fields" in raw else "inputs"
        given = self.raw.get(table, {}).get("fields")
        names = [] if given is None else self.values.names(given, f"[{table}] fields")
        return {name: sp.Symbol(name, real=True) for name in names}

    def _build(self, table: str, make: Callable[[], Any]) -> Any:
        """Say in which table a declaration of the floor below was refused."""
        try:
            return make()
        except DmftError as error:
            place = printable(f"{self.file}, [")
            if str(error).startswith(place):
                raise
            raise type(error)(f"{self.file}, [{table}]: {error}") from error

    def _check_tables(self) -> None:
        known = list(SCHEMA)
        for name, value in self.raw.items():
            if name == "title" and isinstance(value, str):
                continue
            if name not in SCHEMA:
                reason = f"unknown table or key; {_closest(name, known)}"
                raise self.values.refusal(f"[{name}]", reason)
            if not isinstance(value, dict):
                reason = f"must be a table: write [{name}] on a separate line"
                raise self.values.refusal(f"[{name}]", reason)
        rule = "rule" in self.raw
        for name in OF_MODELS:
            if rule and name in self.raw:
                reason = "a rule is its own model and algorithm: leave out this table or [rule]"
                raise self.values.refusal(f"[{name}]", reason)
            if not rule and name in REQUIRED_TABLES and name not in self.raw:
                raise ExpressionRefused(f"{self.file}: the table [{name}] is missing")

    def _check_letters(self, read: Declaration, declared: set[sp.Symbol]) -> None:
        """A letter that nothing uses is a slip; a built-in name may not be one."""
        used = read.model.parameters | read.model.label_noise.free_symbols
        used |= read.model.label_flip.free_symbols
        used |= {s for v in numbers_of(read.algorithm).values() for s in v.free_symbols}
        if isinstance(read.algorithm, SGD):
            used |= read.algorithm.learning_rate.free_symbols
            used |= read.algorithm.readout_rate.free_symbols
            used |= {s for v in read.algorithm.rule.scalars.values() for s in v.free_symbols}
        elif isinstance(read.algorithm, GradientDescent):
            scalars = ("learning_rate", "samples_per_dim", "ridge", "momentum", "readout_rate")
            for name in (*scalars, "temperature"):
                used |= getattr(read.algorithm, name).free_symbols
        else:
            for table, axes in read.axes.items():
                if any(a.name == "learning_rate" for a in axes):
                    reason = "gradient flow has no learning_rate to vary"
                    raise self.values.refusal(f"[{table}]", reason)
        for symbol in sorted(declared - used, key=str):
            spanning = [t for t, axes in read.axes.items() if symbol.name in {a.name for a in axes}]
            table = "[parameters]" if symbol.name in read.parameters else f"[{spanning[0]}]"
            reason = "no formula or number of the model and of the algorithm contains this symbol"
            raise self.values.refusal(f"{table} {symbol.name}", reason)

    def _parameters(self) -> dict[str, float]:
        values = {}
        for name, value in self.raw.get("parameters", {}).items():
            where = f"[parameters] {name}"
            if name in BUILT_IN and name not in OPTIMISER:
                table = "[model]" if name in SCHEMA["model"].keys else "[algorithm]"
                raise self.values.refusal(where, f"is a key of {table}, not a symbol")
            values[self.values.name(name, where)] = self.values.number(value, where)
        return values

    def _axes(self) -> dict[str, tuple[Axis, ...]]:
        found: dict[str, tuple[Axis, ...]] = {}
        for name in ("phase", "boundary", "sweep"):
            table = self.raw.get(name, {})
            given = {n: table[n] for n in ("x", "y") if n in table}
            if name == "sweep" and "axes" in table:
                listed = table["axes"]
                if not isinstance(listed, list) or not listed:
                    reason = "must be a list of {name, from, to, points}"
                    raise self.values.refusal("[sweep] axes", reason)
                given = {f"axes[{n}]": value for n, value in enumerate(listed)}
            axes = tuple(self._axis(value, f"[{name}] {n}") for n, value in given.items())
            names = [a.name for a in axes]
            for n in names:
                if names.count(n) > 1:
                    which = "both axes are" if len(names) == 2 else "several axes are"
                    raise self.values.refusal(f"[{name}]", f"{which} {n!r}")
            if axes:
                found[name] = axes
        return found

    def _axis(self, value: Any, where: str) -> Axis:
        if not isinstance(value, dict):
            reason = 'must look like {name = "learning_rate", from = 0.1, to = 1.0, points = 20}'
            raise self.values.refusal(where, reason)
        keys = self._entries(value, AXIS, where)
        scale = keys.get("scale", "linear")
        if scale == "log" and not (keys["from"] > 0 and keys["to"] > 0):
            raise self.values.refusal(where, "a log scale needs positive ends")
        return Axis(keys["name"], keys["from"], keys["to"], keys["points"], scale)

    def _keys(self, table: str) -> dict[str, Any]:
        known = SCHEMA[table].keys
        keys = self._entries(self.raw[table], known, f"[{table}]")
        kind = keys.get("kind")
        for name in keys:
            only = known[name].only
            if only and kind not in only:
                wanted = " or ".join(f'"{k}"' for k in only)
                reason = f'requires kind = {wanted}, not kind = "{kind}"'
                raise self.values.refusal(f"[{table}] {name}", reason)
        for name, key in known.items():
            if key.needed and kind in key.only and name not in keys:
                raise self.values.refusal(f"[{table}]", f"the key {name!r} is missing: {key.text}")
        return keys

    def _entries(self, raw: dict[str, Any], known: dict[str, Key], where: str) -> dict[str, Any]:
        for name in raw:
            if name not in known:
                reason = f"unknown key; {_closest(name, list(known))}"
                raise self.values.refusal(f"{where} {name}", reason)
        for name, key in known.items():
            if key.required and name not in raw:
                raise self.values.refusal(where, f"the key {name!r} is missing: {key.text}")
        return {
            n: self.values.read(v, known[n], f"{where} {n}")
            for n, v in raw.items()
            if known[n].kind
            not in ("axis", "axes")  # read by _axes, before the formulas that use its name
        }

"""The declaration as a file of `dmft`, with places where the page writes the values of its sliders.

Places are those of `dmft.explorer.python_text`; a file that was read keeps its other tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import sympy as sp

from dmft.model import SGD, Committee, GradientFlow, MultiIndex

if TYPE_CHECKING:
    from dmft.explorer.session import Session


# Keys of [algorithm] whose parameter has another name.
WRITTEN = {"momentum_rate": "rate", "momentum_direct": "direct", "average_rate": "average"}


class Place(str):
    """Text that is written as it is, without quotes."""

    __slots__ = ()


def toml_text(session: Session) -> str | None:
    """A file that says what the page shows; None where a file cannot."""
    tables = session.tables if session.tables is not None else _tables(session)
    if tables is None:
        return None
    written = {
        name: dict(keys) if isinstance(keys, Mapping) else keys for name, keys in tables.items()
    }
    for part in session.activations:
        written[part]["activation"] = Place(f"{{{{formula:{part}}}}}")
    places = {
        "width": "student", "batch_size": "algorithm", "learning_rate": "algorithm",
        "label_noise": "model", "label_flip": "model",
    }  # fmt: skip
    again = written.get("solve", {})  # its numbers come before those of other tables
    for name, control in session.controls.items():
        if name in again:
            again[name] = Place("{{" + name + "}}")
        elif name in places:
            written.setdefault(places[name], {})[name] = Place("{{" + name + "}}")
        elif control.group == "parameters" and name in session.letters:
            written.setdefault("parameters", {})[name] = Place("{{" + name + "}}")
        elif control.group == "parameters":
            _put(written["algorithm"], WRITTEN.get(name, name), Place("{{" + name + "}}"))
    written["start"] = Place("{{start}}")
    written["solve"] = {"points": 200, "spacing": "log", **again}
    written["solve"]["t_max"] = Place("{{t_max}}")
    return "{{remark}}" + "\n".join(_table(name, keys) for name, keys in written.items())


def _put(table: dict[str, Any], name: str, place: Place) -> None:
    """Write a place where a key of a table, or of a table inside it, has a number."""
    for key, value in table.items():
        if key == name:
            table[key] = place
        elif isinstance(value, Mapping) and name in value:
            table[key] = {**value, name: place}


def _table(name: str, keys: Any) -> str:
    if isinstance(keys, Place):
        return f"[{name}]\n{keys}\n"
    if not isinstance(keys, Mapping):
        return f"{name} = {value_text(keys)}\n"
    return f"[{name}]\n" + "".join(f"{key} = {value_text(v)}\n" for key, v in keys.items())


def value_text(value: Any) -> str:
    """One value of TOML.

    Examples
    --------
    >>> value_text({"name": "gamma", "from": 0.1, "points": [1, 2], "log": True})
    '{name = "gamma", from = 0.1, points = [1, 2], log = true}'
    """
    if isinstance(value, Place):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(value_text, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {value_text(v)}" for k, v in value.items()) + "}"
    return repr(value)


def _tables(session: Session) -> dict[str, Any] | None:
    """Tables of declarations that were made in Python: committees, targets, SGD, gradient flow."""
    model, algorithm = session.declared.model, session.declared.algorithm
    if hasattr(model, "encoding") or getattr(model, "inputs", None) is not None:
        return None
    tables: dict[str, Any] = {}
    for part in ("student", "teacher"):
        network = getattr(model, part)
        if isinstance(network, Committee) and part in session.activations:
            tables[part] = {"activation": "", "width": int(network.width)}
            if network.readout is not None:
                tables[part]["readout"] = [_scalar(a) for a in network.readout]
        elif isinstance(network, MultiIndex):
            names = sorted(str(s) for s in network.expr.free_symbols)
            tables[part] = {"fields": names, "expression": str(network.expr)}
        else:
            return None
    tables["model"] = {"label_noise": _scalar(model.label_noise)}
    if model.label_flip != 0:
        tables["model"]["label_flip"] = _scalar(model.label_flip)
    if model.label_channel is not None:
        tables["model"]["label_channel"] = str(model.label_channel)
    kinds = {SGD: "sgd", GradientFlow: "gradient-flow"}
    if type(algorithm) not in kinds:
        return None
    tables["algorithm"] = {"kind": kinds[type(algorithm)]}
    for field in fields(algorithm):
        value = getattr(algorithm, field.name)
        if field.name == "batch_size" or value == field.default:
            continue
        if not isinstance(value, str | bool | int | float | sp.Expr):
            return None
        tables["algorithm"][field.name] = value if isinstance(value, str | bool) else _scalar(value)
    if session.declared.dim is not None:
        tables["algorithm"]["dim"] = session.declared.dim
        tables["algorithm"]["batch_size"] = _scalar(algorithm.batch_size)
    return tables


def _scalar(value: Any) -> float | int | str:
    """A number, or a formula of letters."""
    expression = sp.sympify(value, strict=True)
    if expression.free_symbols:
        return str(expression)
    return int(expression) if expression.is_Integer else float(expression)

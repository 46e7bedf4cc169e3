"""The declaration as a script and as a file, with places for the values of sliders.

A place is ``{{name}}``; ``{{start}}``, ``{{without}}``, ``{{formula:student}}`` and ``{{given}}``
(the letters) are written by the page in the same way in every form of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol

import sympy as sp

from dmft.errors import DmftError
from dmft.explorer.controls import Control
from dmft.explorer.systems import System
from dmft.model import SGD, Attention, Committee, GradientFlow, MultiIndex, SequenceTarget
from dmft.names import QUANTITIES

TEXT = """\
import numpy as np
import sympy as sp

import dmft

{symbols}
model = {model}
algorithm = {algorithm}
equations = dmft.derive(model, algorithm{dim}){{{{without}}}}
start = {{{{start}}}}
t_max = {{{{t_max}}}}
times = np.concatenate([[0.0], np.geomspace(1e-4 * t_max, t_max, 200)])
run = dmft.solve(equations, start, t_max, save_at={times}{{{{given}}}})
print(run.status, run.risk[-1])
# dmft.plot(run, path="run.png")
"""


class Explored(Protocol):
    """What is written of a session: its declaration and its controls."""

    declared: System
    is_map: bool
    letters: set[str]
    controls: dict[str, Control]
    activations: dict[str, str]
    tables: Mapping[str, Any] | None


# Letters of every page, and those of the overlaps of committees and of sequence models.
LETTERS = (("t", "time of the equations"), (r"\mathcal{R}", "population risk"))
COMMITTEE = ("M", "Q", "P")
ALIGNMENTS = (("e", "positional alignment w.p/sqrt(d)"), ("m", "semantic alignment w.w*/d"))
SIZES = (
    ("p, k", "number of student and of teacher units"),
    ("h, h^*", "fields of student and teacher, h = w.x/sqrt(d)"),
    ("d", "input dimension"),
)


def title_of(model: Any, algorithm: Any) -> str:
    """What learns what, and how."""
    kinds = {SGD: "SGD", GradientFlow: "gradient flow"}
    rule = kinds.get(type(algorithm), type(algorithm).__name__)
    student, teacher = (_network_words(getattr(model, n, None)) for n in ("student", "teacher"))
    text = f"{student or 'a student'} learning {teacher or 'clusters'} by {rule}"
    return text[0].upper() + text[1:]


def _network_words(network: Any) -> str:
    if isinstance(network, Committee):
        unit = "unit" if network.width == 1 else "units"
        return f"{network.width} {_activation_words(network.activation)}{unit}"
    if isinstance(network, MultiIndex):
        return (
            f"a function of {network.width} directions"
            if network.width > 1
            else "a function of one direction"
        )
    if isinstance(network, SequenceTarget):
        return "a function of tokens"
    return "" if network is None else "attention" if hasattr(network, "length") else "a target"


def _activation_words(expression: sp.Expr) -> str:
    """Name of an activation, with a blank; empty where it has none."""
    found = {type(f).__name__ for f in expression.atoms(sp.Function)}
    if expression.has(sp.Max):
        return "ReLU "
    if expression.is_Symbol:
        return "linear "
    if expression.is_Pow and expression.exp == 2:
        return "square "
    return f"{found.pop()} " if len(found) == 1 else ""


def symbols_of(session: Explored) -> list[dict[str, str]]:
    """Every letter of the page in words: name of its block or control, LaTeX, words."""
    overlaps = [(n, QUANTITIES[n].latex, QUANTITIES[n].meaning) for n in COMMITTEE]
    if session.declared.model.reads_sequences:
        overlaps = [(n, n, words) for n, words in ALIGNMENTS]
    rows = overlaps + [(letter, letter, words) for letter, words in LETTERS]
    rows += [(c.name, c.latex, c.words) for c in session.controls.values()
             if c.latex and c.group == "parameters"]  # fmt: skip
    if not session.declared.model.reads_sequences:
        rows += [(letter, letter, words) for letter, words in SIZES]
    return [{"name": name, "latex": latex, "words": words} for name, latex, words in rows]


def python_formula(expression: Any) -> str:
    """An expression as Python, names of SymPy behind ``sp.``."""
    text = sp.sstr(sp.sympify(expression, strict=True), full_prec=False)
    # Alone or as an exponent a quotient would be a float.
    text = re.sub(r"(?<![\w.*/)])(\d+)/(\d+)(?![\w.])", r"Rational(\1, \2)", text)
    text = re.sub(r"\b(?=[A-Za-z_]\w*\()", "sp.", text)
    return re.sub(r"(?<![\w.])(pi|E|I)(?!\w)", r"sp.\1", text)


def python_text(session: Explored) -> str | None:
    """A script that repeats what the page shows; None where the declaration is not written."""
    model, algorithm = session.declared.model, session.declared.algorithm
    written = _model(session, model), _algorithm(session, algorithm)
    if None in written:
        return None
    formulas = (getattr(algorithm, "loss", None), getattr(model, "label_channel", None))
    slots = {s.name for f in formulas if isinstance(f, sp.Expr) for s in f.free_symbols}
    symbols = 'z = sp.Symbol("z", real=True)'
    for name in dict.fromkeys([*sorted(session.letters | slots), *_fields(model)]):
        symbols += f'\n{name} = sp.Symbol("{name}", real=True)'
    dim = "" if session.declared.dim is None else f", dim={session.declared.dim}"
    times = "np.unique(np.round(times))" if session.is_map else "times"
    return TEXT.format(
        symbols=symbols, model=written[0], algorithm=written[1], dim=dim, times=times
    )


def _fields(model: Any) -> list[str]:
    teacher = model.teacher
    if isinstance(teacher, MultiIndex | SequenceTarget):
        expression = teacher.expr if isinstance(teacher, MultiIndex) else teacher.outputs
        return sorted(
            {str(s) for s in expression.free_symbols} - {str(s) for s in model.parameters}
        )
    return []


def _model(session: Explored, model: Any) -> str | None:
    parts = [_network(session, part, getattr(model, part)) for part in ("student", "teacher")]
    if None in parts or getattr(model, "inputs", None) is not None:
        return None
    for name in ("label_noise", "label_flip"):
        if name in session.controls:
            parts.append(f"{name}={{{{{name}}}}}")
        elif getattr(model, name, 0) != 0:
            parts.append(f"{name}={python_formula(getattr(model, name))}")
    if getattr(model, "label_channel", None) is not None:
        parts.append(f"label_channel={python_formula(model.label_channel)}")
    if hasattr(model, "encoding"):
        encoding = _encoding(model)
        if encoding is None:
            return None
        parts.append(f"encoding={encoding}")
    inside = "".join(f"    {part},\n" for part in parts)
    return f"dmft.Model(\n{inside})"


def _encoding(model: Any) -> str | None:
    """Positions as they are declared: none, or a radius of the opposite pair."""
    for words, given in (("None", None), ("1", 1)):
        try:
            made = type(model)(model.student, model.teacher, encoding=given).encoding
        except DmftError:  # more tokens than a pair has
            continue
        if str(made) == str(model.encoding):
            return words
    return None


def _network(session: Explored, part: str, network: Any) -> str | None:
    if isinstance(network, Committee):
        activation = (
            f"{{{{formula:{part}}}}}"
            if part in session.activations
            else python_formula(network.activation)
        )
        width = "{{width}}" if part == "student" and "width" in session.controls else network.width
        readout = network.readout
        words = "" if readout is None else f", readout=[{', '.join(map(python_formula, readout))}]"
        return f"dmft.Committee({activation}, width={width}{words})"
    if isinstance(network, MultiIndex):
        return f"dmft.MultiIndex({python_formula(network.expr)}, [{_listed(network.expr)}])"
    if isinstance(network, Attention) and network.reduction is None:
        return f"dmft.Attention({network.length})"
    if isinstance(network, SequenceTarget):
        rows = ",\n            ".join(
            "[" + ", ".join(map(python_formula, row)) + "]" for row in network.outputs.tolist()
        )
        fields = ", ".join(f"z{n + 1}" for n in range(network.length))
        matrix = f"sp.Matrix([\n            {rows},\n        ])"
        return f"dmft.SequenceTarget(\n        {matrix},\n        [{fields}],\n    )"
    return None


def _listed(expression: Any) -> str:
    return ", ".join(sorted(str(s) for s in expression.free_symbols))


def _algorithm(session: Explored, algorithm: Any) -> str | None:
    words = []
    for field in fields(algorithm):
        name, value = field.name, getattr(algorithm, field.name)
        if name in ("learning_rate", "batch_size") and name in session.controls:
            words.append(f"{name}={{{{{name}}}}}")
        elif value == field.default:
            continue
        elif isinstance(value, str | bool):
            words.append(f"{name}={value!r}")
        elif isinstance(value, int | float | sp.Expr):
            words.append(f"{name}={python_formula(value)}")
        else:
            words.append(f"{name}=dmft.{value!r}")
    return f"dmft.{type(algorithm).__name__}({', '.join(words)})"


# Keys of [algorithm] whose parameter has another name.
WRITTEN = {"momentum_rate": "rate", "momentum_direct": "direct", "average_rate": "average"}


class Place(str):
    """Text that is written as it is, without quotes."""

    __slots__ = ()


def toml_text(session: Explored) -> str | None:
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
    """One value of TOML."""
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


def _tables(session: Explored) -> dict[str, Any] | None:
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

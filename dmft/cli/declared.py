"""From checked tables of a file to the declarations of the floor below."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import sympy as sp

from dmft import model
from dmft.cli import schema
from dmft.cli.entries import Values
from dmft.errors import BadParameter, ExpressionRefused
from dmft.literature import rules
from dmft.model import (
    FIELD,
    SGD,
    Alignment,
    Attention,
    Committee,
    GaussianMixture,
    GradientDescent,
    GradientFlow,
    Model,
    MultiIndex,
    Overlaps,
    SequenceNetwork,
    SequenceTarget,
    Spectrum,
    random_overlaps,
)
from dmft.model.update import VectorRule

# Algorithms by their `kind`.
ALGORITHMS: Mapping[str, Callable[..., SGD | GradientFlow | GradientDescent]] = {
    kind: getattr(model, name) for kind, (name, _) in schema.ALGORITHMS.items()
}
# Students that read sequences.
SEQUENCES = ("sequence", "attention")
NEEDED = {
    "committee": ("activation", "width"),
    "sequence": ("activation", "length"),
    "attention": ("length",),
    "target": ("fields", "expression"),
}

Refuse = Callable[[str, str], ExpressionRefused]
Declared = Any


def network_of(
    table: str, keys: Mapping[str, Any], fields: Mapping[str, sp.Symbol], refuse: Refuse,
    *, reads_sequences: bool = False,
) -> Declared:  # fmt: skip
    """A network or a target, from its checked keys."""
    target = "fields" in keys or "expression" in keys
    kind = "target" if target else keys.get("kind", "committee")
    needed = NEEDED[kind]
    for name in needed:
        if name not in keys:
            raise refuse(
                f"[{table}]", f"the key {name!r} is missing; it is required with {_given(keys)}"
            )
    if target:
        for name in keys:
            if name not in needed:
                reason = "belongs to a network; this teacher has fields and an expression"
                raise refuse(f"[{table}] {name}", reason)
        symbols = [fields[n] for n in keys["fields"]]
        made = SequenceTarget if reads_sequences else MultiIndex
        return made(keys["expression"], symbols)
    if kind == "attention":
        return Attention(keys["length"], keys.get("reduction"))
    if kind == "sequence":
        tied = keys.get("tied", True)
        return SequenceNetwork(keys["activation"], keys["length"], tied, field=FIELD)
    return Committee(keys["activation"], keys["width"], keys.get("readout"), field=FIELD)


def _given(keys: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, keys)) or "nothing"


def rule_of(keys: Mapping[str, Any], values: Values) -> VectorRule:
    """A rule of `dmft.literature`, from the keys of its table."""
    given = dict(keys)
    name = str(given.pop("name", ""))
    make = getattr(rules, name, None)
    known = [n for n, f in vars(rules).items() if getattr(f, "__annotations__", {}).get("return")
             == "UpdateField"]  # fmt: skip
    if name not in known:
        raise values.refusal("[rule] name", f"must be one of {', '.join(known)}, got {name!r}")
    assert make is not None
    parameters = inspect.signature(make).parameters
    for n in given:
        if n not in parameters:
            raise values.refusal(f"[rule] {n}", f"{name} takes {', '.join(parameters)}")
    for n, parameter in parameters.items():
        if parameter.default is parameter.empty and n not in given:
            raise values.refusal("[rule]", f"the key {n!r} of {name} is missing")
    read = {
        n: values.argument(value, f"[rule] {n}", "str" in str(parameters[n].annotation))
        for n, value in given.items()
    }
    rule: VectorRule = make(**read)
    for s in rule.learned:
        if s.name in values.symbols:
            raise values.refusal(
                f"[parameters] {s.name}", f"this name belongs to a scalar that {name} learns"
            )
    return rule


# The keys of each kind of spectrum, and what makes it of them.
SPECTRA = (
    (("eigenvalues", "fractions", "noise", "teacher", "dim", "scaled"), Spectrum),
    (("capacity", "source", "dim"), Spectrum.power_law),
    (("ratio", "nodes"), Spectrum.marchenko_pastur),
)


def inputs_of(
    keys: Mapping[str, Any] | None, fields: Mapping[str, sp.Symbol]
) -> GaussianMixture | Spectrum | None:
    """Clusters of the inputs, with labels of their own where the table has them, or a spectrum."""
    if keys is None:
        return None
    given = dict(keys)
    for names, make in SPECTRA:
        if names[0] in given:
            return make(**_alone(given, names))
    if "means" not in given:
        first = ", ".join(names[0] for names, _ in SPECTRA)
        raise BadParameter(f"a table of inputs has means (of clusters), or one of {first}")
    _alone(given, ("means", "weights", "scales", "fractions", "labels", "fields"))
    if "fields" in given:
        given["fields"] = [fields[n] for n in given["fields"]]
    return GaussianMixture(**given)


def _alone(given: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Keys that are all among these, and all of these but those that have a default."""
    others = [name for name in given if name not in names]
    if others:
        raise BadParameter(f"{', '.join(others)} cannot be combined with {names[0]}")
    wanted = {"eigenvalues": ("fractions",), "capacity": ("source", "dim")}.get(names[0], ())
    missing = [name for name in wanted if name not in given]
    if missing:
        raise BadParameter(f"{', '.join(missing)} are missing; they are required with {names[0]}")
    return given


def model_of(
    student: Declared, teacher: Declared, keys: Mapping[str, Any], inputs: Any, refuse: Refuse
) -> Model:
    """The model; without a teacher its labels are those of the clusters."""
    noise, flip = keys.get("label_noise", 0), keys.get("label_flip", 0)
    channel = keys.get("label_channel")
    if "encoding" in keys and isinstance(student, Committee):
        raise refuse("[model] encoding", ('requires [student] kind = "sequence" or "attention"'))
    if not isinstance(student, Committee):
        sequences: Any = Model
        given = {"inputs": inputs, "label_flip": flip, "label_channel": channel}  # are refused
        others = {name: value for name, value in given.items() if value}
        if "encoding" in keys:
            others["encoding"] = keys["encoding"]
        made: Model = sequences(student, teacher, noise, **others)
        return made
    if teacher is not None and getattr(inputs, "labels", None) is not None:
        reason = "the teacher also defines labels: leave out this key, or the table [teacher]"
        raise refuse("[inputs] labels", reason)
    if teacher is None:
        return Model(student, inputs, noise, label_flip=flip, label_channel=channel)
    return Model(student, teacher, noise, inputs, flip, channel)


def algorithm_of(keys: Mapping[str, Any]) -> SGD | GradientFlow | GradientDescent:
    """The algorithm, from its checked keys."""
    options = {name: value for name, value in keys.items() if name != "kind"}
    return ALGORITHMS[keys["kind"]](**options)


def start_of(model: Model, keys: Mapping[str, Any]) -> Overlaps | Alignment:
    """The start, from its checked keys."""
    given = dict(keys)
    kind = given.pop("kind")
    if kind == "alignment":
        return Alignment(**given)
    if kind == "random" and isinstance(model, VectorRule):
        raise BadParameter('a rule starts from its overlaps: kind = "overlaps" with Q, M and P')
    return Overlaps(**given) if kind == "overlaps" else random_overlaps(model, **given)

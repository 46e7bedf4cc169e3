"""From checked tables of a file to the declarations of the floor below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sympy as sp

from dmft.errors import ExpressionRefused
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
    random_overlaps,
)

# Algorithms by their `kind`.
ALGORITHMS: Mapping[str, Callable[..., SGD | GradientFlow | GradientDescent]] = {
    "sgd": SGD, "gradient-flow": GradientFlow, "gradient-descent": GradientDescent,
}  # fmt: skip
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
    """A network or a target, from its checked keys.

    Raises
    ------
    ExpressionRefused
        For keys that are missing, or that belong to another kind.
    """
    target = "fields" in keys or "expression" in keys
    kind = "target" if target else keys.get("kind", "committee")
    needed = NEEDED[kind]
    for name in needed:
        if name not in keys:
            raise refuse(f"[{table}]", f"the key {name!r} is missing beside {_given(keys)}")
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


def inputs_of(
    keys: Mapping[str, Any] | None, fields: Mapping[str, sp.Symbol]
) -> GaussianMixture | None:
    """Clusters of the inputs, with labels of their own where the table has them."""
    if keys is None:
        return None
    given = dict(keys)
    if "fields" in given:
        given["fields"] = [fields[n] for n in given["fields"]]
    return GaussianMixture(**given)


def model_of(
    student: Declared, teacher: Declared, keys: Mapping[str, Any], inputs: Any, refuse: Refuse
) -> Model:
    """The model; without a teacher its labels are those of the clusters."""
    noise = keys.get("label_noise", 0)
    if "encoding" in keys and isinstance(student, Committee):
        raise refuse("[model] encoding", 'goes with [student] kind = "sequence" or "attention"')
    if "encoding" in keys:
        sequences: Any = Model  # of a student of sequences, which alone has positions
        made: Model = sequences(student, teacher, noise, encoding=keys["encoding"])
        return made
    if teacher is not None and inputs is not None and inputs.labels is not None:
        reason = "the teacher writes labels, too: leave out this key, or the table [teacher]"
        raise refuse("[inputs] labels", reason)
    if teacher is None:
        return Model(student, inputs, noise)
    return Model(student, teacher, noise, inputs)


def algorithm_of(keys: Mapping[str, Any], refuse: Refuse) -> SGD | GradientFlow | GradientDescent:
    """The algorithm, from its checked keys."""
    options = {name: value for name, value in keys.items() if name != "kind"}
    return ALGORITHMS[keys["kind"]](**options)


def start_of(model: Model, keys: Mapping[str, Any]) -> Overlaps | Alignment:
    """The start, from its checked keys."""
    given = dict(keys)
    kind = given.pop("kind")
    if kind == "alignment":
        return Alignment(**given)
    return Overlaps(**given) if kind == "overlaps" else random_overlaps(model, **given)

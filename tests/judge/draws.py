"""The draw of a `Case`: two or three features at once, and all its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from activations import GATED
from features import BASIC, SCALED, Case
from losses import (
    CHANNELS,
    LABELS_OF_CLUSTERS,
    LOSSES,
    LOSSES_OF_OUTPUTS,
    SCHEDULES,
    TARGETS,
    Array,
    Label,
)

SMOOTH = ("softplus", "tanh", "sin", "leaky", "he3", "gelu")
MOST = 3  # outputs
BOUNDED = ("erf", "sign", "tanh", "sin")
# Without the one whose closed forms take a minute to find.
SLIGHT = ("silu", "gelu", "z tanh", "z sin")
OPTIMISERS = (
    "GradientFlow", "GradientFlow", "beta", "Momentum", "sphere", "sphere-gradient", *SCALED
)  # fmt: skip
FIELDS = ("clip", "normalised", "ahead", "back", "unit back", "twice")
LABELS = (
    "noise", "flip", "channel", "cluster labels", "cluster functions", "index", "signs",
    "classes", "class clusters",
)  # fmt: skip
INPUTS = ("spectrum", "clusters", "clusters by block")
# How often a pair or triple holds each of them.
WEIGHTS = {
    "student": 1.4, "labels": 1.8, "inputs": 1.4, "loss": 1.4, "optimiser": 1.8, "field": 0.7,
    "batch": 0.6, "schedule": 0.5, "readouts": 0.6, "decay": 0.5, "average": 0.4,
}  # fmt: skip


def draw(number: int, seed: int) -> Case:
    """The case of this number: pairs and triples of features in turn, at random."""
    rng = np.random.default_rng([seed, number])
    names = list(WEIGHTS)
    share = np.array(list(WEIGHTS.values())) / sum(WEIGHTS.values())
    while True:
        chosen = rng.choice(names, 2 + number % 2, replace=False, p=share)
        features = {str(name): _value(rng, str(name)) for name in chosen}
        case = _filled(rng, number, features)
        if case is not None:
            return case


def _value(rng: np.random.Generator, name: str) -> str:
    values = {
        "student": (*GATED, *SLIGHT, *SMOOTH), "labels": LABELS, "inputs": INPUTS,
        "loss": tuple(LOSSES)[1:], "optimiser": OPTIMISERS, "field": FIELDS,
        "batch": ("2", "3", "4"), "schedule": ("rate",), "readouts": ("trained",),
        "decay": ("weights",), "average": ("weights",),
    }[name]  # fmt: skip
    return str(rng.choice(values))


def _clash(features: dict[str, str]) -> bool:
    """Combinations whose declaration has no words: an option that the algorithm does not have."""
    o, has = features.get("optimiser", "SGD"), features.keys()
    if o in SCALED and has & {"field", "readouts"}:
        return True
    if o == "GradientFlow" and has & {"field", "readouts", "batch", "schedule", "average", "loss"}:
        return True
    if o in ("sphere", "sphere-gradient") and has & {"average", "decay"}:
        return True
    return o == "Momentum" and "average" in has and "readouts" in has


def _filled(rng: np.random.Generator, number: int, features: dict[str, str]) -> Case | None:
    """All numbers of a case; None where its features do not go together."""
    if _clash(features):
        return None
    labels, loss = features.get("labels", "committee"), features.get("loss", "squared")
    outputs = int(rng.integers(2, MOST + 1)) if labels.startswith("class") else 1
    by_cluster = labels in ("cluster labels", "cluster functions", "class clusters")
    if by_cluster and features.setdefault("inputs", str(rng.choice(INPUTS[1:]))) == "spectrum":
        return None
    law = features.get("inputs", "isotropic")
    if outputs > 1 and features.get("optimiser") != "GradientFlow":
        loss = str(rng.choice(list(LOSSES_OF_OUTPUTS)))
        features["loss"] = loss
    student = features.get("student", str(rng.choice(list(BASIC))))
    if features.get("field") in FIELDS[2:] and student in ("square", "he3"):
        if "student" in features:
            return None
        student = "erf"  # displaced polynomials are of degree nine: rare samples would decide
    teacher = str(rng.choice([*BASIC, "sign"]))
    if labels == "classes":
        teacher = str(rng.choice(["linear", "erf", "square"]))
    if labels == "signs" or (loss in ("logistic", "hinge", "savage") and rng.random() < 0.6):
        teacher = "sign"
    if loss == "exponential" and rng.random() < 0.5:
        student = teacher = "linear"
        features.pop("student", None)
    p = int(rng.integers(1, 3 if outputs == 1 else 4))
    k = 2 if labels == "index" else int(rng.integers(1, 3))
    if labels == "classes" or (labels == "signs" and loss != "squared"):
        k = {"classes": 2, "signs": 1}[labels]
    B = int(rng.integers(1, 4)) if law in ("spectrum", "clusters by block") else 1
    C = int(rng.integers(2, 4)) if law.startswith("clusters") else 1
    if labels == "class clusters":  # the class of a sample is the number of its cluster
        C = outputs
    rows = 1 + (features.get("optimiser") == "Momentum") + ("average" in features)
    fractions = np.diff([0, *sorted(rng.choice(np.arange(3, 8), B - 1, replace=False)), 10]) / 10
    scales = _short(rng.uniform(0.4, 1.8, (C, B))) if law != "isotropic" else np.ones((1, 1))
    case = Case(
        number, features, student, teacher, p, k,
        _signed(rng, outputs, p),
        np.ones((1, k)) if outputs == 1 else _signed(rng, outputs, k),
        _one(rng, TARGETS) if labels == "index" else None,
        _cluster_labels(rng, labels, C),
        _channel(rng, labels, teacher), loss,
        0.2 if labels == "noise" else 0.0, 0.15 if labels == "flip" else 0.0,
        scales, fractions, _weights(rng, C),
        _short(rng.normal(0, 0.7, (C, k))) * law.startswith("clusters"),
        _grams(rng, B, rows * p, k),
        _short(rng.uniform(0.3, 1.0)), _short(rng.uniform(0.3, 0.9)), _short(rng.uniform(0.5, 2)),
        _short(rng.uniform(0.4, 1.0, (B, p))), float(rng.choice([0.0, 0.2])),
        int(features.get("batch", 1)),
        _one(rng, SCHEDULES) if "schedule" in features else None,
    )  # fmt: skip
    if features.get("optimiser") == "GradientFlow" and loss != "squared":
        return None
    if features.get("optimiser", "").startswith("sphere"):
        case = _on_sphere(case)
    if loss == "exponential" and not (_is_bounded(case) or case.infinite):
        return None
    return case


def _is_bounded(case: Case) -> bool:
    """Whether exp(-f y) has all averages: outputs are bounded, and labels but for normal noise."""
    bounded = case.labels in ("channel", "cluster labels") or (
        case.labels in ("committee", "noise", "flip", "signs") and case.teacher in BOUNDED
    )
    return case.student in BOUNDED and bounded


def _one(rng: np.random.Generator, values: tuple[Label, ...]) -> Label:
    return values[int(rng.integers(len(values)))]


def _short(values: Any) -> Any:
    """Numbers of two digits, which print short."""
    found = np.round(values, 2)
    return float(found) if np.ndim(found) == 0 else found


def _signed(rng: np.random.Generator, *shape: int) -> Array:
    return _short(rng.choice([-1, 1], shape) * rng.uniform(0.5, 1.5, shape))


def _weights(rng: np.random.Generator, count: int) -> Array:
    parts = rng.multinomial(20 - 3 * count, np.full(count, 1 / count)) + 3
    return parts / 20 if count > 1 else np.ones(1)


def _cluster_labels(rng: np.random.Generator, labels: str, count: int) -> tuple[Label, ...]:
    if labels == "cluster functions":
        return tuple(_one(rng, LABELS_OF_CLUSTERS) for _ in range(count))
    if labels != "cluster labels":
        return ()
    signs = rng.random() < 0.6
    values = [(-1.0) ** c if signs else _short(rng.uniform(-1.5, 1.5)) for c in range(count)]
    return tuple(Label(str(v), lambda u, v=v: v + 0 * u[..., 0]) for v in values)


def _channel(rng: np.random.Generator, labels: str, teacher: str) -> Label | None:
    if labels != "channel":
        return None
    return _one(rng, CHANNELS if teacher in ("sign", "erf") else CHANNELS[:2])


def _grams(rng: np.random.Generator, blocks: int, moving: int, k: int) -> Array:
    """Gram matrices of all rows by block, of few digits and away from singular ones."""
    found, R = [], moving + k
    for _ in range(blocks):
        x = rng.standard_normal((R, R + 5)) * rng.uniform(0.7, 1.1, (R, 1))
        found.append(np.round(x @ x.T / (R + 5) / blocks, 3))
    return np.array(found)


def _on_sphere(case: Case) -> Case:
    """Students of length one, in the mean over blocks."""
    length = np.sqrt(np.diagonal(case.gram.sum(0))[: case.p])
    size = np.concatenate([length, np.ones(case.gram.shape[-1] - case.p)])
    gram = np.round(case.gram / np.outer(size, size), 3)
    for j in range(case.p):
        gram[0, j, j] += 1.0 - gram[:, j, j].sum()
    case.gram = np.round(gram, 3)
    return case

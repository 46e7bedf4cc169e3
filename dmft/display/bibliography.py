"""BibTeX of the papers that docstrings cite as [key]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sympy as sp

from dmft.equations.views.explicit import ExplicitEquations
from dmft.errors import BadParameter
from dmft.model import FIELD, Committee, GradientDescent, Model, SequenceModel
from dmft.names import BLOCK, KEPT


def _entries() -> dict[str, str]:
    """Entries of the file by their keys."""
    text = Path(__file__).with_name("papers.bib").read_text(encoding="utf-8")
    every = text.strip().split("\n\n")
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in every}


ENTRIES = _entries()


def bibtex(*keys: str) -> str:
    """Return the BibTeX entries of these keys; of all when none is given."""
    unknown = [key for key in keys if key not in ENTRIES]
    if unknown:
        raise BadParameter(f"no entry {unknown[0]!r}; available: {', '.join(ENTRIES)}")
    return "\n\n".join(ENTRIES[key] for key in keys or ENTRIES)


OVERLAPS = "Equations of motion for overlaps of two-layer networks"
MIXTURES = "Equations of motion for two-layer networks on Gaussian mixtures"
ATTENTION = "Equations of motion of single-layer attention"
DESCENT = "Mean-field equations of gradient descent on repeated data"
NETWORKS = "Dynamical mean-field equations of random networks"
RESULTS = "These results"
LIMITS = "State evolution and the free entropy of Bayes-optimal estimation"


def subject(record: Any) -> str:
    """What the papers of `sources` derive."""
    if isinstance(getattr(record, "model", None), SequenceModel):
        return ATTENTION
    if isinstance(getattr(record, "algorithm", None), GradientDescent):
        return DESCENT
    if (source := getattr(record, "source", None)) is not None:
        return RESULTS if source in ENTRIES else ""
    if getattr(getattr(record, "model", None), "family", "") == "rule":
        return ""
    kinds = {"two-time": NETWORKS, "static limit": LIMITS, "erm": ""}
    if getattr(record, "kind", "") in kinds:
        return kinds[record.kind]
    model = getattr(record, "model", None)
    of_overlaps = model is not None or isinstance(record, ExplicitEquations)
    if not of_overlaps and getattr(record, "algorithm", None) is None:
        return ""
    if getattr(model, "clusters", None) is not None:
        return MIXTURES
    kept = {name.removeprefix(BLOCK) for name in getattr(record, "terms", ())} & {*KEPT}
    plain = " trained by plain SGD" * bool(kept)
    return f"{OVERLAPS}{plain}" + " with isotropic inputs" * bool(getattr(model, "spectrum", None))


def sources(record: Any) -> list[str]:
    """Bibliography keys of the papers that have equations of this kind."""
    model, algorithm = getattr(record, "model", None), getattr(record, "algorithm", None)
    known = {
        ATTENTION: ["arnaboldi_2025"],
        MIXTURES: ["refinetti_2021b"],
        DESCENT: ["dandi_2024_reusing"],
        LIMITS: ["barbier_2019", "aubin_2018"],
        "": [],
    }
    what = subject(record)
    if what == RESULTS:
        return [record.source]
    if what in known:
        return known[what]
    if what == NETWORKS:
        species = ["bunin_2017", "roy_2019"] if getattr(model, "positive", False) else []
        return ["sompolinsky_1988", "eissfeller_opper_1992", *species]
    found = ["goldt_2019", "arnaboldi_2023_odes"]
    if isinstance(model, Model) and isinstance(model.teacher, Committee) and model.matched:
        sigma = model.student.activation
        found = ["saad_solla_1995", "goldt_2019"] if sigma.has(sp.erf) else found
        found = ["arnaboldi_2023_mediocrity"] if sigma == FIELD**2 else found
    if getattr(record, "kind", "") == "map":
        found.append("arnaboldi_2024")
    if getattr(algorithm, "repeat", None) is not None:
        found.append("arnaboldi_2024_repetita")
    if getattr(algorithm, "constraint", None):
        found.append("ben_arous_2021")
    return found

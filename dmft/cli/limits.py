"""`dmft limits`: static limits of the label that a file declares."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from dmft.cli.report import keep, print_json
from dmft.cli.toml import Declaration
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.workflow.static.bayes import bayes_optimal, state_evolution
from dmft.workflow.static.erm import erm, optimal_ridge
from dmft.workflow.static.separability import separability
from dmft.workflow.static.spectral import spectral
from dmft.workflow.static.thresholds import recovery_phase, sample_complexity, thresholds

VERBS: dict[str, Callable[..., Any]] = {
    "thresholds": thresholds, "bayes_optimal": bayes_optimal, "state_evolution": state_evolution,
    "recovery_phase": recovery_phase, "sample_complexity": sample_complexity, "erm": erm,
    "optimal_ridge": optimal_ridge, "separability": separability, "spectral": spectral,
}  # fmt: skip


def limits_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Compute the static limits that [limits] names, of the declared label."""
    keys = dict(declared.table("limits"))
    verb = keys.pop("verb")
    function = VERBS[verb]
    taken = dict(list(inspect.signature(function).parameters.items())[1:])
    for name in keys:
        if name not in taken:
            raise BadParameter(f"{declared.path}, [limits]: {verb} takes {', '.join(taken)}")
    for name, one in taken.items():
        if one.default is one.empty and name not in keys:
            raise BadParameter(f"{declared.path}, [limits]: {verb} needs {name}")
    found = function(declared.model, **keys)
    facts = {f.name: getattr(found, f.name) for f in fields(found)} if is_dataclass(found) else {
        "phase": str(found), "message": found.message}  # fmt: skip
    if arguments.json:
        print_json(facts)
    else:
        print(found if is_dataclass(found) else f"{found}: {found.message}")
    keep(arguments, found, found)
    return Status(facts.get("status", "ok"))

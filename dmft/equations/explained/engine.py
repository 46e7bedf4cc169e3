"""What the engine itself computes in a scene, and what it claims of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from dmft.equations.averages.nodes import discretise, rule_of_averages
from dmft.equations.averages.passes import Lowered, averages, lowered
from dmft.equations.definitions import Definition
from dmft.equations.explained.scene import Array, Scene
from dmft.equations.reference import evaluate
from dmft.equations.values import Values, with_nodes
from dmft.gaussian.nodes.rules import NodeRule

# Averages on nodes are believed to this relative error at most, whatever their rule claims.
NODE_CLAIM = 2e-3
# Standard errors that scattered nodes may be off by.
DEVIATIONS = 7.0


def engine_values(
    definitions: Sequence[Definition], scene: Scene, role: Literal["rate", "observable"]
) -> dict[str, Array]:
    """Blocks that the NumPy reference gives, closed forms and tables included."""
    found = averages(definitions)
    return _on(
        rule_of_averages(found, scene.start, {}) if found else None, definitions, scene, role
    )


def engine_errors(
    definitions: Sequence[Definition], scene: Scene, role: Literal["rate", "observable"]
) -> dict[str, Array]:
    """What the nodes of these blocks claim to be off by in this scene, as runs do.

    Replicas of scattered nodes tell a standard error, coarser rules a difference.
    """
    found = averages(definitions)
    rule = rule_of_averages(found, scene.start, {})
    groups = [_on(group, definitions, scene, role) for group in rule.groups]
    errors = {}
    for name, value in _on(rule, definitions, scene, role).items():
        others = np.array([group[name] for group in groups])
        if rule.kind == "sobol":
            errors[name] = DEVIATIONS * others.std(axis=0, ddof=1) / math.sqrt(len(others))
        else:
            errors[name] = np.abs(others - value).max(axis=0, initial=0.0)
    return errors


def _on(
    rule: NodeRule | None,
    definitions: Sequence[Definition],
    scene: Scene,
    role: Literal["rate", "observable"],
) -> dict[str, Array]:
    """Blocks of the reference with averages on these nodes."""
    by_block = any(d.name == "Gram" for d in definitions)
    names = ("block_Q", "block_M") if by_block else ("Q", "M")
    known = {**scene.by_block, "Q": scene.start.Q, "M": scene.start.M, "P": scene.start.P}
    known |= scene.readouts
    # What equations define, of either kind, is theirs.
    arrays = {n: y for n, y in known.items() if n not in (*names, "Q", "M", "Gram")}
    widths = {"p": scene.p, "k": scene.k, "blocks": len(scene.variances)}
    values = Values(widths, dict(scene.scalars), arrays)
    if rule is not None:
        values, definitions = with_nodes(values, rule), discretise(definitions)
    state = {name: known[name] for name in names}
    return {name: np.asarray(v) for name, v in evaluate(definitions, state, values, role).items()}


def claim_of(definitions: Sequence[Definition]) -> tuple[float, str]:
    """Relative error of what stands for the averages, and that in words."""
    found = lowered(definitions)
    if any(a.how == "nodes" for a in found):
        return NODE_CLAIM, "averages on nodes, their error estimated in each run"
    tables = max((table_error(a) for a in found), default=0.0)
    return tables, f"averages by tables (relative error {tables:.0e})" if tables else "exact"


def table_error(found: Lowered) -> float:
    """What the tables of an average claim; 0 where it is closed or open."""
    return found.error if found.how == "value" else 0.0

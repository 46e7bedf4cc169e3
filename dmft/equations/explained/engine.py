"""What the engine itself computes in a scene, and what it claims of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from dmft.equations.averages.nodes import discretise, rule_of_averages
from dmft.equations.averages.passes import Lowered, averages, lowered
from dmft.equations.definitions import Definition
from dmft.equations.explained.scene import Array, Scene
from dmft.equations.reference import evaluate
from dmft.equations.values import Values, with_nodes

# Averages on nodes are asked for this many, and believed to this relative error.
NODE_CLAIM = 2e-3


def engine_values(
    definitions: Sequence[Definition], scene: Scene, role: Literal["rate", "observable"]
) -> dict[str, Array]:
    """Blocks that the NumPy reference gives, closed forms and tables included."""
    arrays = {"P": scene.start.P, **scene.readouts}
    values = Values({"p": scene.p, "k": scene.k}, dict(scene.scalars), arrays)
    found = averages(definitions)
    if found:
        values = with_nodes(values, rule_of_averages(found, scene.start, {}))
        definitions = discretise(definitions)
    state = {"Q": scene.start.Q, "M": scene.start.M}
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

"""Keys of descents on repeated data in declaration files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmft.cli.toml import Declaration
from dmft.errors import BadParameter
from dmft.model import GradientDescent

# Keys of [solve] that a descent knows, and those that it alone knows.
KEYS = ("t_max", "samples", "scrambles", "seed")
OWN = KEYS[1:]


def refuse(declared: Declaration, command: str) -> None:
    """Refuse a command that is about differential equations."""
    if isinstance(declared.algorithm, GradientDescent):
        raise BadParameter(
            f'{declared.path}: the command {command} is not for kind = "gradient-descent"; use '
            'solve, simulate, or phase with measure = "overlap" or "learned_directions"'
        )


def refuse_options(declared: Declaration, table: Mapping[str, Any]) -> None:
    """Refuse keys of [solve] that only a descent knows."""
    for name in OWN:
        if name in table:
            raise BadParameter(
                f'{declared.path}, [solve] {name}: requires kind = "gradient-descent"'
            )


def solver_keys(declared: Declaration, table: Mapping[str, Any]) -> dict[str, Any]:
    """Checked keys of [solve]."""
    for name in table:
        if name not in KEYS:
            raise BadParameter(
                f"{declared.path}, [solve] {name}: gradient-descent saves all steps; the keys "
                f"are {', '.join(KEYS)}"
            )
    return dict(table)

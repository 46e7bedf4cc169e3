"""Phase diagrams as heat maps."""

from __future__ import annotations

from typing import Any


def is_diagram(record: Any) -> bool:
    """Whether a record is a phase diagram."""
    return hasattr(record, "x") and hasattr(record, "values")


def plot_diagram(record: Any, ax: Any, *, shown: bool, title: str | None) -> Any:
    """Draw it."""
    raise NotImplementedError

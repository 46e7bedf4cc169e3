"""Results as text for people and as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

# Rows of the table that `dmft solve` prints; the whole run is in --json, --save and --plot.
TABLE_ROWS = 12
# Larger matrices than this are summarised, not printed.
PRINTED_WIDTH = 8


def plain(value: Any) -> Any:
    """Return the value as JSON can hold it; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, (np.floating, float)):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return str(value)


def print_json(result: Mapping[str, Any]) -> None:
    """Print one JSON object to standard output."""
    print(json.dumps(plain(result), allow_nan=False))


def table(columns: Mapping[str, Any], rows: int = TABLE_ROWS) -> str:
    """Return equally long columns as text, thinned to about this many rows, ends included."""
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    length = len(next(iter(arrays.values())))
    if length == 0:
        return "(no points)"
    picked = np.unique(np.linspace(0, length - 1, min(length, rows)).round().astype(int))
    lines = ["  ".join(f"{name:>14}" for name in arrays)]
    lines += ["  ".join(f"{values[i]:>14.7g}" for values in arrays.values()) for i in picked]
    return "\n".join(lines)


def matrix(name: str, values: np.ndarray) -> str:
    """Return a small matrix as text, or the range of a large one."""
    values = np.atleast_2d(values)
    if max(values.shape) > PRINTED_WIDTH:
        low, high = float(values.min()), float(values.max())
        return f"{name}: {values.shape[0]} x {values.shape[1]}, from {low:.6g} to {high:.6g}"
    head = f"{name} = "
    rows = ["  ".join(f"{x:>10.6f}" for x in row) for row in values]
    return "\n".join((head if i == 0 else " " * len(head)) + row for i, row in enumerate(rows))


def written(what: str, path: str | Path) -> str:
    """Return the line that says where a file went."""
    return f"{what} written to {path}"

"""Machine code of single functions as records on disk."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from dmft.compiled import records
from dmft.compiled.machine_code import Code


def parts(code: Code) -> tuple[dict[str, Any], records.Arrays]:
    """Values and arrays of the record of a function."""
    values = asdict(code)
    arrays = {"content": np.frombuffer(values.pop("content"), dtype=np.uint8)}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}, arrays


def read(file: str) -> Code | None:
    """The function that a record holds; None where there is none, or a damaged one."""
    found = records.load(file)
    if found is None:
        return None
    values, arrays = found
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    return Code(arrays["content"].tobytes(), **fields)


def keep(file: str, code: Code) -> bool:
    """Write the record of a function; whether it was written."""
    return records.store(file, *parts(code))

"""What the files of all solved records hold: how a run ended, with what, and whose it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmft.names import Status

MAPPINGS = ("statistics", "parameters", "provenance")


def outcome_of(run: Any) -> dict[str, Any]:
    """Status, message, statistics, parameters and provenance of a record as plain values."""
    mappings = {name: dict(getattr(run, name)) for name in MAPPINGS}
    return {"status": str(run.status), "message": run.message, **mappings}


def outcome_from(record: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the record's class, from what `outcome_of` wrote."""
    rest = {name: record[name] for name in ("message", *MAPPINGS)}
    return {"status": Status(record["status"]), **rest}

"""Base of the results of static limits: a few numbers and arrays in one file."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, Self

import numpy as np

from dmft import netcdf
from dmft.names import Status
from dmft.record import Archived


class StaticLimit(Archived):
    """Base of frozen dataclasses whose fields are numbers, texts, mappings of these and arrays.

    `AXES` names the axes of the fields that are arrays.
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]] = {}

    def _record(self) -> dict[str, Any]:
        kept = (f.name for f in fields(self) if f.name not in self.AXES)  # type: ignore[arg-type]
        found = {name: getattr(self, name) for name in kept}
        return {n: str(y) if isinstance(y, Status) else y for n, y in found.items()}

    def _variables(self) -> list[netcdf.Variable]:
        return [(name, axes, np.asarray(getattr(self, name))) for name, axes in self.AXES.items()]

    @classmethod
    def restore(cls, record: dict[str, Any], arrays: netcdf.Arrays) -> Self:
        """Restore the result from the contents of its file."""
        plain: dict[str, Any] = {
            n: tuple(y) if isinstance(y, list) else y for n, y in record.items()
        }
        if "status" in plain:
            plain["status"] = Status(plain["status"])
        return cls(**plain, **{name: arrays[name] for name in cls.AXES})

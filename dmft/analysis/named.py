"""Measures that return names: numbers for the grid, in the order of the alphabet at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dmft.analysis.phase_diagram import PhaseDiagram
from dmft.errors import BadParameter


class Named:
    """A measure whose names become numbers, in the order in which they come."""

    def __init__(self, measure: Callable[..., Any]) -> None:
        self.measure = measure
        self.names: dict[str, int] = {}
        self.has_numbers = False
        self.lock = threading.Lock()
        if hasattr(measure, "many"):
            self.many = self._many

    def __call__(self, **point: float) -> Any:
        """Result at a point."""
        return self.number(self.measure(**point))

    def _many(self, points: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        """Results at many points, where the measure has them together."""
        yield from map(self.number, self.measure.many(points))  # type: ignore[attr-defined]

    def number(self, result: Any) -> Any:
        """A name as a number, anything else as it is."""
        if not isinstance(result, str):
            number = result[0] if isinstance(result, tuple) and result else result
            failed = isinstance(number, float) and np.isnan(number)
            if not (failed or isinstance(number, str | Exception)):
                self.has_numbers = True
            return self.checked(result)
        with self.lock:
            number = self.names.setdefault(str(result), len(self.names))
        return self.checked(number)

    def checked(self, result: Any) -> Any:
        """Refuse names beside numbers."""
        if self.has_numbers and self.names:
            raise BadParameter(
                f"the measure returned the name {next(iter(self.names))!r} at one point and a "
                "number at another: return one kind, or nan where there is no name"
            )
        return result

    def in_order(self, diagram: PhaseDiagram) -> PhaseDiagram:
        """The diagram with its names in the order of the alphabet, whichever came first."""
        if not self.names:
            return diagram
        names = sorted(self.names)
        place = np.empty(len(names))
        place[[self.names[name] for name in names]] = np.arange(len(names))
        known = np.isfinite(diagram.values)
        values = diagram.values.copy()
        values[known] = place[values[known].astype(int)]
        return replace(diagram, values=values, provenance={**diagram.provenance, "labels": names})

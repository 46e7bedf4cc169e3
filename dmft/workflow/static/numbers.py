"""Numbers of static limits with their error and proof, and records that hold them in files."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Self

import numpy as np

from dmft import netcdf
from dmft.workflow.static.record import StaticLimit

CLOSED, QUADRATURE, QMC = "closed form", "quadrature", "QMC"


class Threshold(float):
    """A number, possibly 0 or inf, with `error`, `proof` and, where it is known, a `formula`.

    Attributes
    ----------
    error : float
        Half-width of an interval that holds the value; 0 for exact ones.
    proof : "closed form", "quadrature" or "QMC"
    formula : str
        Empty where there is none.
    """

    error: float
    proof: str
    formula: str

    def __new__(
        cls, value: float, error: float = 0.0, proof: str = CLOSED, formula: str = ""
    ) -> Self:
        """Keep the error and the proof with the value."""
        made = super().__new__(cls, value)
        made.error, made.proof, made.formula = float(error), proof, formula
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return float(self), self.error, self.proof, self.formula

    def __repr__(self) -> str:
        if self.formula:
            return f"{self.formula} = {float(self):.7g}"
        return f"{float(self):.8g}" + (f" +- {self.error:.1g}" if self.error else "")


class Encoded(StaticLimit):
    """Base of results with thresholds, small arrays and records of parts (`PARTS`)."""

    PARTS: ClassVar[tuple[type, ...]] = ()

    def _record(self) -> dict[str, Any]:
        return {name: _encoded(value) for name, value in super()._record().items()}

    @classmethod
    def restore(cls, record: dict[str, Any], arrays: netcdf.Arrays) -> Self:
        """Restore the result from the contents of its file."""
        return super().restore({n: _decoded(v, cls.PARTS) for n, v in record.items()}, arrays)


def _encoded(value: Any) -> Any:
    if isinstance(value, Threshold):
        return {"threshold": list(value.__getnewargs__())}
    if isinstance(value, np.ndarray):
        return {"array": value.ravel().tolist(), "shape": list(value.shape)}
    if isinstance(value, tuple):
        return {"tuple": [_encoded(v) for v in value]}
    if is_dataclass(value):
        held = {f.name: _encoded(getattr(value, f.name)) for f in fields(value)}
        return {"part": type(value).__name__, "fields": held}
    return value


def _decoded(value: Any, parts: tuple[type, ...]) -> Any:
    if not isinstance(value, dict):
        return value
    if "threshold" in value:
        return Threshold(*value["threshold"])
    if "array" in value:
        return np.array(value["array"], dtype=float).reshape(value["shape"])
    if "tuple" in value:
        return tuple(_decoded(v, parts) for v in value["tuple"])
    if "part" in value:
        made = next(p for p in parts if p.__name__ == value["part"])
        return made(**{n: _decoded(v, parts) for n, v in value["fields"].items()})
    return value

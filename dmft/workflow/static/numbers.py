"""Numbers of static limits with their error and proof, and records that hold them in files."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Self

import numpy as np

from dmft import netcdf
from dmft.errors import BadParameter
from dmft.gaussian.channels.priors import GAUSSIAN, Prior
from dmft.names import Status
from dmft.record import Archived
from dmft.validation import is_number, shown

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


class StaticLimit(Archived):
    """Base of frozen dataclasses of numbers, texts, thresholds, arrays and records of parts.

    `AXES` names the axes of the fields that are arrays of the file, `PARTS` the classes of parts.
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]] = {}
    PARTS: ClassVar[tuple[type, ...]] = ()

    def _record(self) -> dict[str, Any]:
        kept = (f.name for f in fields(self) if f.name not in self.AXES)  # type: ignore[arg-type]
        return {name: _encoded(getattr(self, name)) for name in kept}

    def _variables(self) -> list[netcdf.Variable]:
        held = {name: np.asarray(getattr(self, name)) for name in self.AXES}
        return [(name, self.AXES[name][: value.ndim], value) for name, value in held.items()]

    @classmethod
    def restore(cls, record: dict[str, Any], arrays: netcdf.Arrays) -> Self:
        """Restore the result from the contents of its file."""
        plain = {name: _decoded(value, cls.PARTS) for name, value in record.items()}
        if "status" in plain:  # files keep it as text
            plain["status"] = Status(plain["status"])
        return cls(**plain, **{name: arrays[name] for name in cls.AXES})


def _encoded(value: Any) -> Any:
    if isinstance(value, Threshold):
        return {"threshold": list(value.__getnewargs__())}
    if isinstance(value, Status):
        return str(value)
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


def samples_of(given: Any) -> float:
    """Samples over dimension as a positive number."""
    if not (is_number(given) and 0.0 < float(given) < np.inf):
        raise BadParameter(f"samples_per_dim must be positive and finite, got {shown(given)}")
    return float(given)


def check_gaussian(prior: Prior, what: str) -> None:
    """Refuse other priors where several fields need the Gaussian one."""
    if prior != GAUSSIAN:
        raise BadParameter(
            f'{what} of labels of several fields is derived for prior="gaussian"; other priors '
            "are for labels of one field"
        )

"""Floor 3: derivations and the `Equations` that they return."""

from dmft.equations.derive import derive
from dmft.equations.equations import Equations
from dmft.equations.kernels import kernel_error
from dmft.equations.regimes import Regimes, regimes
from dmft.equations.risk import PopulationRisk, population_risk

__all__ = [
    "Equations",
    "PopulationRisk",
    "Regimes",
    "derive",
    "kernel_error",
    "population_risk",
    "regimes",
]

"""The two-token attention with positional encoding: its loss, boundaries and regions in numbers."""

from dmft.literature.two_tokens.curves import Boundaries, special_points, squared_boundaries
from dmft.literature.two_tokens.loss import TwoTokenRisk
from dmft.literature.two_tokens.regions import PositionalDiagram, region_diagram
from dmft.literature.two_tokens.unsquared import UnsquaredRisk, unsquared_boundaries

__all__ = [
    "Boundaries",
    "PositionalDiagram",
    "TwoTokenRisk",
    "UnsquaredRisk",
    "region_diagram",
    "special_points",
    "squared_boundaries",
    "unsquared_boundaries",
]

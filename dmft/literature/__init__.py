"""Floor 5: named models of the literature, ready to use; BibTeX in `dmft.display.bibliography`.

Examples
--------
>>> import dmft
>>> dmft.literature.saad_solla(width=3).student.width
3
"""

from dmft.literature.attention_phases import (
    positional_semantic,
    positional_semantic_boundaries,
    positional_semantic_regions,
    positional_semantic_risk,
)
from dmft.literature.models import (
    CONVENTIONS,
    Convention,
    convention,
    hermite_committee,
    phase_retrieval,
    reusing_batches,
    saad_solla,
)
from dmft.literature.random_network import (
    SignalPropagation,
    driven_network,
    lotka_volterra,
    low_rank_network,
    replicator,
    signal_propagation,
)
from dmft.literature.two_time import random_network, ridge_flow, spherical_p_spin
from dmft.literature.two_tokens.curves import positional_semantic_points
from dmft.literature.two_tokens.regions import positional_semantic_diagram

__all__ = [
    "CONVENTIONS",
    "Convention",
    "SignalPropagation",
    "convention",
    "driven_network",
    "hermite_committee",
    "lotka_volterra",
    "low_rank_network",
    "phase_retrieval",
    "positional_semantic",
    "positional_semantic_boundaries",
    "positional_semantic_diagram",
    "positional_semantic_points",
    "positional_semantic_regions",
    "positional_semantic_risk",
    "random_network",
    "replicator",
    "reusing_batches",
    "ridge_flow",
    "saad_solla",
    "signal_propagation",
    "spherical_p_spin",
]
